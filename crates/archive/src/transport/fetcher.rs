//! Content of a local place, read where it is.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use wharf_content::{
    ByteStream, Catalogue, Descriptor, Digest, Error, Provider, Result, read_blob, stream_blob,
};
use wharf_images::{
    children::decode_bytes,
    decode::{Kind, MAX_MANIFEST_LEN, ManifestDecoders, kind},
    referrers::{ReferrersProvider, referrer},
    transport::Fetcher,
};

/// Fetches from a provider.
#[derive(Debug)]
pub(super) struct LocalFetcher(pub(super) Arc<dyn Provider>);

#[async_trait]
impl Fetcher for LocalFetcher {
    async fn fetch(&self, descriptor: &Descriptor, offset: u64) -> Result<ByteStream> {
        let reader = self.0.reader(descriptor).await?;
        if offset > reader.size() {
            return Err(Error::out_of_range(format!(
                "offset {offset} is outside {}, which has {} bytes",
                descriptor.digest,
                reader.size()
            )));
        }
        Ok(stream_blob(reader, offset))
    }

    async fn size(&self, digest: &Digest, media_type: &str) -> Result<u64> {
        Ok(self.0.reader(&Descriptor::new(media_type, digest.clone(), 0)).await?.size())
    }

    fn local(&self) -> Option<Arc<dyn Provider>> {
        Some(Arc::clone(&self.0))
    }
}

/// The referrers among what an `index.json` lists, where tools put them (OCI image specification, `image-layout.md`).
#[derive(Clone, Debug, Default)]
pub(crate) struct ListedReferrers {
    by_subject: BTreeMap<Digest, Vec<Descriptor>>,
}

impl ListedReferrers {
    /// Looks at each entry once.
    ///
    /// # Errors
    /// `Conflict` where several decoders claim a media type. What cannot be read refers to nothing.
    pub(crate) async fn gather(
        provider: &dyn Provider,
        entries: &[Descriptor],
        catalogue: &Catalogue,
    ) -> Result<Self> {
        let mut by_subject: BTreeMap<Digest, Vec<Descriptor>> = BTreeMap::new();
        for entry in entries {
            let entry = super::entries::plain(entry);
            if let Some((subject, referrer)) = described(provider, entry, catalogue).await? {
                by_subject.entry(subject).or_default().push(referrer);
            }
        }
        for referrers in by_subject.values_mut() {
            referrers.sort_by(|a, b| a.digest.cmp(&b.digest));
            referrers.dedup();
        }
        Ok(Self { by_subject })
    }

    /// All that refers to something.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Descriptor> {
        self.by_subject.values().flatten()
    }

    /// All that is referred to.
    pub(crate) fn subjects(&self) -> Vec<Digest> {
        self.by_subject.keys().cloned().collect()
    }

    /// Leaves out what refers to `subject`.
    pub(crate) fn forget(&mut self, subject: &Digest) {
        self.by_subject.remove(subject);
    }
}

#[async_trait]
impl ReferrersProvider for ListedReferrers {
    async fn referrers(&self, subject: &Descriptor) -> Result<Vec<Descriptor>> {
        Ok(self.by_subject.get(&subject.digest).cloned().unwrap_or_default())
    }
}

/// The subject of a manifest, and the manifest as its referrer; `None` where it has none or is not there.
async fn described(
    provider: &dyn Provider,
    manifest: Descriptor,
    catalogue: &Catalogue,
) -> Result<Option<(Digest, Descriptor)>> {
    if !kind(&manifest.media_type, catalogue)?.is_some_and(Kind::is_manifest) {
        return Ok(None);
    }
    let Some(decoder) = catalogue.find::<ManifestDecoders>(&manifest.media_type)? else { return Ok(None) };
    // What cannot be read refers to nothing.
    let Ok(bytes) = read_blob(provider, &manifest, MAX_MANIFEST_LEN).await else { return Ok(None) };
    let Ok(decoded) = decode_bytes(decoder, &manifest, bytes.clone(), catalogue).await else {
        return Ok(None);
    };
    Ok(referrer(manifest, &bytes, &decoded))
}
