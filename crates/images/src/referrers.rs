//! Referrers: manifests that are about another one, its subject, such as signatures and bills of materials.
//!
//! A subject does not know its referrers, so they are found by a [`ReferrersProvider`]: here the content of a store, elsewhere a registry.
//! [`SetReferrers`] adds them to the children of their subject, so that a graph includes them and labels hold them
//! (OCI distribution specification, "Listing Referrers"; containerd: `core/images/handlers.go`, `SetReferrers`).

use std::{collections::BTreeMap, fmt::Debug, sync::Arc};

use async_trait::async_trait;
use serde::Deserialize;
use wharf_content::{
    Algorithm, Catalogue, Descriptor, Digest, ErrorKind, Info, Result, Store, filter::FilterSet, read_blob,
};

use crate::{
    children::decode_bytes,
    decode::{Decoded, Kind, MAX_MANIFEST_LEN, ManifestDecoders, Role, kind},
    handler::{Flow, Handler},
    labels::ANNOTATION_SUBJECT,
    media_types, sniff,
};

/// How many bytes of a blob tell that it is no document: a manifest does not begin with more white space.
const START_LEN: usize = 64;

/// Finds what refers to a manifest.
#[async_trait]
pub trait ReferrersProvider: Debug + Send + Sync + 'static {
    /// Describes the referrers of a manifest or index; none is no error.
    ///
    /// # Errors
    /// Those of wherever they are looked for.
    async fn referrers(&self, subject: &Descriptor) -> Result<Vec<Descriptor>>;

    /// Describes those of one artifact type. A place that can choose by itself has less to send.
    ///
    /// # Errors
    /// As [`ReferrersProvider::referrers`].
    async fn referrers_of_type(&self, subject: &Descriptor, artifact_type: &str) -> Result<Vec<Descriptor>> {
        let mut referrers = self.referrers(subject).await?;
        referrers.retain(|referrer| referrer.artifact_type.as_deref() == Some(artifact_type));
        Ok(referrers)
    }
}

#[async_trait]
impl<P: ReferrersProvider + ?Sized> ReferrersProvider for Arc<P> {
    async fn referrers(&self, subject: &Descriptor) -> Result<Vec<Descriptor>> {
        (**self).referrers(subject).await
    }

    async fn referrers_of_type(&self, subject: &Descriptor, artifact_type: &str) -> Result<Vec<Descriptor>> {
        (**self).referrers_of_type(subject, artifact_type).await
    }
}

/// The tag under which the referrers of a manifest are listed at registries that do not list them themselves: the algorithm, cut to 32
/// characters, and the digest, cut to 64 (OCI distribution specification, "Referrers Tag Schema").
pub fn fallback_tag(subject: &Digest) -> String {
    format!("{:.32}-{:.64}", subject.algorithm().to_string(), subject.hex())
}

/// The tags under which cosign puts the signatures, attestations and bills of materials of a manifest, of before there were referrers
/// (sigstore/cosign: `specs/SIGNATURE_SPEC.md`). None for other digests than of SHA-256, since no tag may be as long as those.
pub fn attachment_tags(subject: &Digest) -> Vec<String> {
    if subject.algorithm() != Algorithm::Sha256 {
        return Vec::new();
    }
    ["sig", "att", "sbom"].map(|suffix| format!("sha256-{}.{suffix}", subject.hex())).into()
}

/// Whether a tag is made of a digest and so is for tools and not for people: a [`fallback_tag`], or one with a suffix after a dot, under
/// which signatures were pushed before there were referrers (`sha256-<hex>.sig`).
pub fn is_digest_tag(tag: &str) -> bool {
    let Some((algorithm, rest)) = tag.split_once('-') else { return false };
    let hex = rest.split('.').next().unwrap_or_default();
    matches!(algorithm, "sha256" | "sha384" | "sha512")
        && hex.len() == 64
        && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// The referrers that were in a store when it was looked through. What comes in later is not among them.
#[derive(Clone, Debug, Default)]
pub struct StoredReferrers {
    by_subject: BTreeMap<Digest, Vec<Descriptor>>,
}

impl StoredReferrers {
    /// Looks through a store: whatever could be a manifest is read. What no decoder of the catalogue can read is passed over, for it
    /// refers to nothing.
    ///
    /// A store does not keep media types, so that a document is taken for what it calls itself, else for its shape.
    ///
    /// # Errors
    /// Those of the store. A blob that is damaged, or goes meanwhile, is passed over. Those of a decoder other than `InvalidArgument` and
    /// `NotImplemented`, with which it says that the blob is nothing that it reads.
    ///
    /// # Cancellation
    /// A decoder that [blocks](crate::ManifestDecoder::blocks) goes on to its end in the background.
    pub async fn gather(store: &dyn Store, catalogue: &Catalogue) -> Result<Self> {
        let mut candidates = Vec::new();
        let mut visit = |info: Info| {
            if info.size <= MAX_MANIFEST_LEN {
                candidates.push(Descriptor::new("", info.digest, info.size));
            }
            Ok(())
        };
        store.walk(&FilterSet::all(), &mut visit).await?;
        let mut by_subject: BTreeMap<Digest, Vec<Descriptor>> = BTreeMap::new();
        for candidate in candidates {
            if let Some((subject, referrer)) = look(store, candidate, catalogue).await? {
                by_subject.entry(subject).or_default().push(referrer);
            }
        }
        for referrers in by_subject.values_mut() {
            referrers.sort_by(|a, b| a.digest.cmp(&b.digest));
        }
        Ok(Self { by_subject })
    }
}

#[async_trait]
impl ReferrersProvider for StoredReferrers {
    async fn referrers(&self, subject: &Descriptor) -> Result<Vec<Descriptor>> {
        Ok(self.by_subject.get(&subject.digest).cloned().unwrap_or_default())
    }
}

/// What a referrer's descriptor takes from its manifest as it stands there.
#[derive(Deserialize)]
struct Annotated {
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// Reads a blob, and gives the subject and the descriptor of a referrer.
async fn look(
    store: &dyn Store,
    mut blob: Descriptor,
    catalogue: &Catalogue,
) -> Result<Option<(Digest, Descriptor)>> {
    let read = async {
        // Most blobs are layers, which are not worth being read.
        let start = store.reader(&blob).await?.read_at(0, START_LEN).await?;
        if !start.trim_ascii_start().starts_with(b"{") {
            return Ok(None);
        }
        read_blob(store, &blob, MAX_MANIFEST_LEN).await.map(Some)
    };
    let bytes = match read.await {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Ok(None),
        Err(error) => {
            return match error.kind() {
                ErrorKind::NotFound | ErrorKind::DataLoss | ErrorKind::FailedPrecondition => Ok(None),
                _ => Err(error),
            };
        }
    };
    let Some(media_type) = sniff::document(&bytes) else { return Ok(None) };
    let Some(decoder) = catalogue.find::<ManifestDecoders>(&media_type)? else { return Ok(None) };
    if !decoder.kind().is_manifest() {
        return Ok(None);
    }
    blob.media_type = media_type;
    let decoded = match decode_bytes(decoder, &blob, bytes.clone(), catalogue).await {
        Ok(decoded) => decoded,
        // It only looks like one.
        Err(error) if matches!(error.kind(), ErrorKind::InvalidArgument | ErrorKind::NotImplemented) => {
            return Ok(None);
        }
        Err(error) => return Err(error.context(format!("cannot tell whether {} is a referrer", blob.digest))),
    };
    Ok(referrer(blob, &bytes, &decoded))
}

/// The subject of a manifest and how the manifest is described as its referrer; `None` where it has no subject.
pub fn referrer(mut manifest: Descriptor, bytes: &[u8], decoded: &Decoded) -> Option<(Digest, Descriptor)> {
    let subject = decoded.subject.as_ref()?.digest.clone();
    manifest.artifact_type = artifact_type(decoded);
    manifest.annotations =
        serde_json::from_slice(bytes).map(|Annotated { annotations }| annotations).unwrap_or_default();
    // Whom it is about tells its subject, whatever it says beside it.
    manifest.annotations.remove(ANNOTATION_SUBJECT);
    Some((subject, manifest))
}

/// The type of an artifact: what the manifest says, else the media type of its config where that is not an image's
/// (OCI distribution specification, "Listing Referrers").
fn artifact_type(decoded: &Decoded) -> Option<String> {
    let own = decoded.artifact_type.clone().filter(|own| !own.is_empty());
    own.or_else(|| {
        let config = decoded.child(Role::Config)?;
        (!media_types::is_config(&config.media_type)).then(|| config.media_type.clone())
    })
}

/// Adds the referrers of a manifest or index to its children. Their descriptors carry the annotation [`ANNOTATION_SUBJECT`], by which
/// [labels](crate::labels::child_key) tell them from other children.
///
/// Wrapped around the handler that gives the children, and inside the one that labels them.
#[derive(Debug)]
pub struct SetReferrers<H> {
    inner: H,
    referrers: Arc<dyn ReferrersProvider>,
    catalogue: Catalogue,
}

impl<H: Handler> SetReferrers<H> {
    /// Adds to what `inner` gives.
    pub fn new(inner: H, referrers: Arc<dyn ReferrersProvider>) -> Self {
        Self { inner, referrers, catalogue: Catalogue::linked().clone() }
    }

    /// What can have referrers is told by the decoders of this catalogue.
    #[must_use]
    pub fn with_catalogue(mut self, catalogue: Catalogue) -> Self {
        self.catalogue = catalogue;
        self
    }
}

#[async_trait]
impl<H: Handler> Handler for SetReferrers<H> {
    async fn handle(&self, descriptor: &Descriptor) -> Result<Flow> {
        let mut flow = self.inner.handle(descriptor).await?;
        let has_referrers = kind(&descriptor.media_type, &self.catalogue)?.is_some_and(Kind::is_manifest);
        if let Flow::Children(children) = &mut flow
            && has_referrers
        {
            let referrers = self.referrers.referrers(descriptor).await?;
            children.extend(referrers.into_iter().map(|referrer| {
                // Whatever it says itself of whom it is about.
                referrer.with_annotation(ANNOTATION_SUBJECT, descriptor.digest.as_str())
            }));
        }
        Ok(flow)
    }
}

#[cfg(test)]
mod tests {
    use wharf_content::Algorithm;

    use super::*;

    #[test]
    fn digests_become_tags_that_are_told_from_others() {
        let (short, long) = (Digest::sha256(b"x"), Algorithm::Sha512.digest(b"x"));
        assert_eq!(fallback_tag(&short), format!("sha256-{}", short.hex()));
        assert_eq!(fallback_tag(&long), format!("sha512-{}", &long.hex()[..64]));
        for digest in [short, long] {
            let tag = fallback_tag(&digest);
            for tag in [tag.clone(), format!("{tag}.sig"), format!("{tag}.att.1")] {
                assert!(is_digest_tag(&tag), "{tag}");
            }
            for tag in [format!("{tag}0"), format!("{tag}-sig"), format!("v{tag}"), tag.to_uppercase()] {
                assert!(!is_digest_tag(&tag), "{tag}");
            }
        }
        for tag in ["latest", "sha256-", "sha256-abc", "md5-0", &format!("crc-{}", "0".repeat(64))] {
            assert!(!is_digest_tag(tag), "{tag}");
        }
    }
}
