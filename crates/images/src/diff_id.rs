//! Diff ids and chain ids: what a layer is without its compression, and what a stack of layers is.
//!
//! A **diff id** is the digest of a layer's plain tar stream. Manifests name layers by the digest of what is stored, configs by the diff id;
//! both are compared when a layer is applied. A **chain id** names a layer together with all below it (OCI image specification,
//! config.md, "Layer DiffID" and "Layer ChainID"; containerd: `core/images/diffid.go`).

use std::{
    io::Read,
    sync::{Arc, Weak},
};

use tokio::runtime::Handle;
use wharf_content::{
    Algorithm, Catalogue, Descriptor, Digest, Error, Hasher, Labels, Provider, Result, Store, blocking,
};

use crate::{
    layer::{self, BlobStream, LayerOptions},
    media_types::{self, Compression},
};

/// Label on a layer with the digest of its plain tar stream (containerd: `pkg/labels/labels.go`).
pub const LABEL_UNCOMPRESSED: &str = "containerd.io/uncompressed";

/// How many bytes are hashed at a time.
const BUFFER_LEN: usize = 128 * 1024;

/// Finds the diff id of a layer in a store.
///
/// A plain tar is its own. Else the label [`LABEL_UNCOMPRESSED`] tells; where there is none, or it holds no digest, the layer is
/// unwrapped and hashed, and the label is written.
///
/// # Errors
/// `NotFound` when the layer is not in the store; `NotImplemented` for a layer whose wrappings nobody decodes; those of
/// [`layer::unwrap`].
///
/// # Cancellation
/// Nothing is written; the hashing ends soon after.
pub async fn diff_id(
    store: &dyn Store,
    layer: &Descriptor,
    catalogue: &Catalogue,
    options: &LayerOptions,
) -> Result<Digest> {
    if media_types::compression(&layer.media_type).is_ok_and(|found| found == Compression::None) {
        return Ok(layer.digest.clone());
    }
    let info = store.info(&layer.digest).await?;
    if let Some(digest) = info.labels.get(LABEL_UNCOMPRESSED).and_then(|label| label.parse().ok()) {
        return Ok(digest);
    }
    let digest = computed(store, layer, catalogue, options).await?;
    let labels = Labels::from([(LABEL_UNCOMPRESSED.to_owned(), digest.to_string())]);
    let path = format!("labels.{LABEL_UNCOMPRESSED}");
    if let Err(error) = store.update(&layer.digest, &labels, &[&path]).await {
        // It only saves time.
        tracing::debug!(layer = %layer.digest, error = error.report(), "cannot keep a diff id");
    }
    Ok(digest)
}

/// Unwraps a layer and hashes what comes out, whatever labels say.
///
/// # Errors
/// As [`diff_id`].
///
/// # Cancellation
/// The hashing ends soon after.
pub async fn computed(
    provider: &dyn Provider,
    layer: &Descriptor,
    catalogue: &Catalogue,
    options: &LayerOptions,
) -> Result<Digest> {
    let stream = BlobStream::new(provider.reader(layer).await?, Handle::current());
    let (layer, catalogue, options) = (layer.clone(), catalogue.clone(), *options);
    let awaited = Arc::new(());
    let waiting = Arc::downgrade(&awaited);
    let digest = blocking::run(move || {
        let context = format!("cannot read layer {} ({})", layer.digest, layer.media_type);
        let unwrapped = layer::unwrap(&layer, stream, &catalogue, &options)?;
        hash(unwrapped.stream, Algorithm::default(), &context, &waiting)
    })
    .await;
    drop(awaited);
    digest
}

/// Hashes a blob as it is stored.
pub(crate) async fn stored(provider: &dyn Provider, blob: &Descriptor) -> Result<Digest> {
    let stream = BlobStream::new(provider.reader(blob).await?, Handle::current());
    let algorithm = blob.digest.algorithm();
    let context = format!("cannot read {} ({})", blob.digest, blob.media_type);
    let awaited = Arc::new(());
    let waiting = Arc::downgrade(&awaited);
    let digest = blocking::run(move || hash(stream, algorithm, &context, &waiting)).await;
    drop(awaited);
    digest
}

/// Hashes a stream for as long as somebody waits for it.
fn hash(mut stream: impl Read, algorithm: Algorithm, context: &str, waiting: &Weak<()>) -> Result<Digest> {
    let mut hasher = Hasher::new(algorithm);
    let mut buffer = vec![0; BUFFER_LEN];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(count) => hasher.update(&buffer[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(layer::read_error(context, error)),
        }
        if waiting.strong_count() == 0 {
            return Err(Error::new(wharf_content::ErrorKind::Aborted, context));
        }
    }
}

/// The chain id of each layer, lowest first.
pub fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chain: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        let next = match chain.last() {
            None => diff_id.clone(),
            Some(below) => Digest::sha256(format!("{below} {diff_id}").as_bytes()),
        };
        chain.push(next);
    }
    chain
}

/// The chain id of a whole stack, which names the file system that it makes; `None` where there is no layer.
pub fn chain_id(diff_ids: &[Digest]) -> Option<Digest> {
    chain_ids(diff_ids).pop()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_are_those_of_the_specification() {
        assert_eq!(chain_id(&[]), None);
        let layers = ["a", "b", "c"].map(|text| Digest::sha256(text.as_bytes()));
        // printf 'sha256:… sha256:…' | sha256sum, by coreutils.
        let expected = [
            "sha256:ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb",
            "sha256:51c0c8ace48498d6f5fee6b0592cc06f2da0f3cbe09c5a34a97dce85c3889676",
            "sha256:2fce7f8ce91bcf0a1428b36e1024639fdbd9469eea762dba98aa749631885106",
        ];
        let found = chain_ids(&layers);
        assert_eq!(found.iter().map(Digest::as_str).collect::<Vec<_>>(), expected);
        assert_eq!(chain_id(&layers).as_ref(), found.last());
        assert_eq!(chain_id(&layers[..1]), Some(layers[0].clone()));
    }
}
