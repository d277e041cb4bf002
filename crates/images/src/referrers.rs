//! Referrers: manifests that are about another one, its subject, such as signatures and bills of materials.
//!
//! A subject does not know its referrers, so they are found by a [`ReferrersProvider`]: here the content of a store, elsewhere a registry.
//! [`SetReferrers`] adds them to the children of their subject, so that a graph includes them and labels hold them
//! (OCI distribution specification, "Listing Referrers"; containerd: `core/images/handlers.go`, `SetReferrers`).

use std::{collections::BTreeMap, fmt::Debug, sync::Arc};

use async_trait::async_trait;
use wharf_content::{
    Catalogue, Descriptor, Digest, ErrorKind, Info, Result, Store, filter::FilterSet, read_blob,
};

use crate::{
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
}

#[async_trait]
impl<P: ReferrersProvider + ?Sized> ReferrersProvider for Arc<P> {
    async fn referrers(&self, subject: &Descriptor) -> Result<Vec<Descriptor>> {
        (**self).referrers(subject).await
    }
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
    /// Those of the store. A blob that is damaged, or goes meanwhile, is passed over.
    ///
    /// # Cancellation
    /// Nothing remains.
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
    let Ok(decoded) = decoder.decode(&blob, &bytes) else { return Ok(None) };
    let Some(subject) = decoded.subject.as_ref().map(|subject| subject.digest.clone()) else {
        return Ok(None);
    };
    blob.artifact_type = artifact_type(&decoded);
    Ok(Some((subject, blob)))
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
