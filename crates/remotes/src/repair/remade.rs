//! What no registry has, since it was made here: the manifests and configs of images that were converted as they were pulled.
//!
//! A conversion gives the same bytes each time, so that what it was made of makes it again: the document of the store whose label names
//! it, or what the name of an image that needs it means at the registry.

use std::sync::Arc;

use wharf_content::{Descriptor, Digest, Info, Result, Store, filter::FilterSet, read_blob};
use wharf_images::{Role, Selection, decode, decode::MAX_MANIFEST_LEN, media_types, sniff};

use super::Repair;
use crate::{
    convert::{self, Conversion, Schema1},
    lazy::LazyProvider,
};

impl Repair<'_> {
    /// Makes a document again by converting what it was made of, which `place` completes where something of that is missing. False where
    /// the store has nothing that it was made of.
    pub(super) async fn remake(&self, digest: &Digest, place: &str) -> Result<bool> {
        for source in self.origins_of(digest).await? {
            if self.convert(&source, digest, place).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// As [`Repair::remake`], of what images that need the document are called at `place`.
    pub(super) async fn remake_by_name(
        &self,
        wanted: &Descriptor,
        names: &[&str],
        place: &str,
    ) -> Result<bool> {
        let is_made =
            media_types::is_manifest(&wanted.media_type) || media_types::is_config(&wanted.media_type);
        let is_there =
            |name: &&&str| name.strip_prefix(place).is_some_and(|rest| rest.starts_with([':', '@']));
        for name in names.iter().filter(|_| is_made).filter(is_there) {
            let found = self.resolver.resolve(name).await?;
            if self.convert(&found.descriptor, &wanted.digest, place).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Converts a document, and whether that made what is wanted.
    pub(super) async fn convert(&self, source: &Descriptor, wanted: &Digest, place: &str) -> Result<bool> {
        let fetcher = self.resolver.fetcher(place).await?;
        let catalogue = &self.options.catalogue;
        let ahead = LazyProvider::new(Arc::clone(&self.store), Arc::clone(&fetcher), catalogue.clone());
        let conversion = Conversion {
            store: &self.store,
            fetcher: &fetcher,
            ahead: &ahead,
            sink: &self.options.sink,
            catalogue,
            selection: &Selection::all(),
            concurrency: self.options.concurrency,
            schema1: Schema1::Converted,
        };
        let Some(converted) = conversion.convert(place, source).await? else { return Ok(false) };
        self.hold_children(&converted.target).await?;
        Ok(converted.made.contains(wanted) || source.digest == *wanted)
    }

    /// The documents of the store that were converted to this one, or to one that has it for its config.
    async fn origins_of(&self, digest: &Digest) -> Result<Vec<Descriptor>> {
        let (label, mut labelled) = (convert::label(), Vec::new());
        let mut visit = |info: Info| {
            let to = info.labels.get(&label).and_then(|to| to.parse::<Digest>().ok());
            labelled.extend(to.map(|to| (info.digest, info.size, to)));
            Ok(())
        };
        self.store.walk(&FilterSet::all(), &mut visit).await?;
        let mut origins = Vec::new();
        for (from, size, to) in labelled {
            let mut origin = Descriptor::new("", from, size);
            // What cannot be read, or is damaged itself, makes nothing.
            let Ok(bytes) = read_blob(self.store.as_ref(), &origin, MAX_MANIFEST_LEN).await else { continue };
            let Some(media_type) = sniff::document(&bytes) else { continue };
            origin.media_type = media_type;
            if to == *digest || self.has_config(&to, digest).await {
                origins.push(origin);
            }
        }
        Ok(origins)
    }

    /// Whether a manifest of the store has this config.
    async fn has_config(&self, manifest: &Digest, config: &Digest) -> bool {
        let store: &dyn Store = self.store.as_ref();
        let Ok(info) = store.info(manifest).await else { return false };
        let manifest = Descriptor::new(media_types::DOCKER_MANIFEST, info.digest, info.size);
        let decoded = decode(store, &manifest, &self.options.catalogue).await;
        let decoded = decoded.ok().flatten();
        decoded.is_some_and(|found| found.child(Role::Config).is_some_and(|found| found.digest == *config))
    }
}
