//! Docker's schema 1 to schema 2: the layers are fetched and decoded for their diff ids, and a config and a manifest are written
//! (containerd: `core/remotes/docker/schema1/converter.go`).
//!
//! What the manifest says is read by [`wharf_images::schema1`]. Unlike containerd's, the config keeps all that the newest layer tells of
//! the image, as Docker does, and a layer that two entries name is not taken for empty because one of them is.

use std::{collections::BTreeMap, io::Read};

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, TryStreamExt, future::BoxFuture, stream};
use serde::Serialize;
use wharf_content::{
    ByteStream, Catalogue, Descriptor, Digest, Error, Provider, Result, ResultExt, blocking, read_blob,
};
use wharf_images::{
    decode::MAX_MANIFEST_LEN,
    diff_id::diff_id,
    image::platform_of_config,
    layer::{self, LayerOptions},
    media_types as types,
    schema1::{Manifest, is_digest_of, payload},
};

use super::{Conversion, Converted, present};
use crate::fetch::fetch_into;

/// The most bytes of a layer as it is stored: 64 GiB, as of one without its compression. Only the registry tells how many it has.
const MAX_LAYER_LEN: u64 = LayerOptions::DEFAULT_MAX_LEN;

const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// What was written in place of the old manifest.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Schema2<'a> {
    schema_version: u32,
    media_type: &'a str,
    config: &'a Descriptor,
    layers: Vec<&'a Descriptor>,
}

/// A layer that is in the store.
struct Layer {
    descriptor: Descriptor,
    /// `None` for one that changes no file.
    diff_id: Option<Digest>,
}

impl Conversion<'_> {
    /// Converts a manifest of schema 1.
    pub(super) async fn schema1(&self, root: &Descriptor) -> Result<Converted> {
        let document = self.document(root).await?;
        let manifest = Manifest::parse(root, &payload(&document)?)?;
        self.refuse_other_platform(root, &manifest)?;
        let mut blobs: Vec<&Digest> =
            manifest.entries().iter().filter(|entry| !entry.is_empty).map(|entry| &entry.blob).collect();
        blobs.sort();
        blobs.dedup();
        let layers: Vec<BoxFuture<'_, Result<Layer>>> =
            blobs.into_iter().map(|blob| self.layer(blob).boxed()).collect();
        let layers: Vec<Layer> =
            stream::iter(layers).buffer_unordered(self.concurrency.get()).try_collect().await?;
        let layers: BTreeMap<&Digest, &Layer> =
            layers.iter().map(|layer| (&layer.descriptor.digest, layer)).collect();

        let kept = manifest.entries().iter().map(|entry| {
            let layer = layers.get(&entry.blob).filter(|_| !entry.is_empty)?;
            Some((&layer.descriptor, layer.diff_id.as_ref()?))
        });
        let kept: Vec<Option<(&Descriptor, &Digest)>> = kept.collect();
        let diff_ids: Vec<Option<Digest>> =
            kept.iter().map(|kept| kept.map(|(_, diff_id)| diff_id.clone())).collect();
        let bytes = manifest.config(&diff_ids)?;
        let config = Descriptor::of(types::DOCKER_CONFIG, &bytes);
        self.write(&config, bytes.into()).await?;
        let written = Schema2 {
            schema_version: 2,
            media_type: types::DOCKER_MANIFEST,
            config: &config,
            layers: kept.iter().flatten().map(|(descriptor, _)| *descriptor).collect(),
        };
        let bytes = serde_json::to_vec_pretty(&written)
            .map_err(|error| Error::internal("cannot write a manifest").with_source(error))?;
        let target = Descriptor::of(types::DOCKER_MANIFEST, &bytes);
        self.write(&target, bytes.into()).await?;
        self.remember(&root.digest, &target.digest).await?;
        Ok(Converted { made: vec![target.digest.clone(), config.digest], target })
    }

    /// The manifest as it was signed, from the store or else from the registry, and then in the store.
    ///
    /// Its digest is of what was signed while its size is of what is sent, so that this is no ordinary fetch.
    async fn document(&self, root: &Descriptor) -> Result<Bytes> {
        if let Some(info) = present(self.store.info(&root.digest).await)? {
            let stored = Descriptor::new(&*root.media_type, root.digest.clone(), info.size);
            if self.is_held(&stored).await? {
                return read_blob(self.provider(), &stored, MAX_MANIFEST_LEN).await;
            }
        }
        let sent = read(self.fetcher.fetch(root, 0).await?, root)
            .await
            .context(|| format!("cannot fetch {} ({})", root.digest, root.media_type))?;
        if !is_digest_of(&root.digest, &sent) {
            return Err(Error::failed_precondition(format!(
                "digest mismatch: {} was asked for, and neither the schema 1 manifest that came nor what is signed of it has it",
                root.digest
            )));
        }
        let is_whole = root.digest.algorithm().digest(&sent) == root.digest;
        let kept = if is_whole { sent } else { payload(&sent)?.into_owned().into() };
        let descriptor = Descriptor::new(&*root.media_type, root.digest.clone(), kept.len() as u64);
        self.write(&descriptor, kept.clone()).await?;
        Ok(kept)
    }

    /// That an image is for other machines is found out before its layers are fetched.
    fn refuse_other_platform(&self, root: &Descriptor, manifest: &Manifest) -> Result<()> {
        let config = manifest.config(&vec![None; manifest.entries().len()])?;
        match platform_of_config(&config) {
            Some(platform) if self.selection.is_explicit() && !self.selection.matches(&platform) => {
                Err(Error::not_found(format!(
                    "no match for platform {} in {}; the image has {}",
                    self.selection.names(),
                    root.digest,
                    wharf_platforms::format_all(&platform)
                )))
            }
            _ => Ok(()),
        }
    }

    async fn layer(&self, blob: &Digest) -> Result<Layer> {
        let size = match present(self.store.info(blob).await)? {
            Some(info) => info.size,
            None => self.fetcher.size(blob, types::DOCKER_LAYER).await?,
        };
        if size > MAX_LAYER_LEN {
            return Err(Error::resource_exhausted(format!(
                "layer {blob} has {size} bytes, more than the {MAX_LAYER_LEN} that are fetched of one"
            )));
        }
        // Of this type only the bytes tell how they are compressed.
        let mut descriptor = Descriptor::new(types::DOCKER_LAYER, blob.clone(), size);
        fetch_into(
            self.store.as_ref(),
            self.fetcher.as_ref(),
            &descriptor,
            self.sink.as_ref(),
            self.catalogue,
        )
        .await
        .context(|| format!("cannot fetch layer {blob}"))?;
        let options = LayerOptions::default();
        let found = diff_id(self.store.as_ref(), &descriptor, self.catalogue, &options).await?;
        let is_blank = is_blank(self.provider(), &descriptor, self.catalogue, &options).await?;
        let start = self.provider().reader(&descriptor).await?.read_at(0, ZSTD.len()).await?;
        if found == *blob {
            descriptor.media_type = types::DOCKER_LAYER.into();
        } else if start.starts_with(&GZIP) {
            descriptor.media_type = types::DOCKER_LAYER_GZIP.into();
        } else if start.starts_with(&ZSTD) {
            descriptor.media_type = types::DOCKER_LAYER_ZSTD.into();
        }
        Ok(Layer { descriptor, diff_id: (!is_blank).then_some(found) })
    }
}

/// Reads a stream of as many bytes as `descriptor` says.
async fn read(mut stream: ByteStream, descriptor: &Descriptor) -> Result<Bytes> {
    if descriptor.size > MAX_MANIFEST_LEN {
        return Err(Error::resource_exhausted(format!(
            "it claims {} bytes, more than the {MAX_MANIFEST_LEN} that are read of a manifest",
            descriptor.size
        )));
    }
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.next().await {
        bytes.extend_from_slice(&chunk?);
        if bytes.len() as u64 > descriptor.size {
            return Err(Error::failed_precondition(format!(
                "size mismatch: expected {} bytes, and there are more",
                descriptor.size
            )));
        }
    }
    Ok(bytes.into())
}

/// Whether a layer is nothing but the zeros with which a tar stream ends.
async fn is_blank(
    provider: &dyn Provider,
    descriptor: &Descriptor,
    catalogue: &Catalogue,
    options: &LayerOptions,
) -> Result<bool> {
    let mut stream = layer::open(provider, descriptor, catalogue, options).await?.stream;
    let digest = descriptor.digest.clone();
    blocking::run(move || {
        let mut buffer = vec![0; 64 << 10];
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => return Ok(true),
                Ok(count) if buffer[..count].iter().any(|byte| *byte != 0) => return Ok(false),
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(layer::read_error(format!("cannot read layer {digest}"), error)),
            }
        }
    })
    .await
}
