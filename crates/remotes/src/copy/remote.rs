//! An image that is elsewhere as what is pushed: its bytes flow from where it is.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use wharf_content::{BlobReader, ByteStream, Descriptor, Digest, Error, Provider, Result, copying::Source};
use wharf_images::transport::Fetcher;

use super::documents::Documents;
use crate::push::cargo::Cargo;

/// What a fetcher can fetch.
#[derive(Debug)]
pub(super) struct Remote {
    fetcher: Arc<dyn Fetcher>,
    documents: Arc<Documents>,
}

impl Remote {
    pub(super) fn new(fetcher: Arc<dyn Fetcher>) -> Self {
        let documents = Arc::new(Documents::new(Arc::clone(&fetcher)));
        Self { fetcher, documents }
    }
}

#[async_trait]
impl Cargo for Remote {
    fn documents(&self) -> Arc<dyn Provider> {
        Arc::clone(&self.documents) as Arc<dyn Provider>
    }

    /// Whether it is there tells the fetch: to ask before would be a request for each part.
    async fn has(&self, _: &Descriptor) -> Result<bool> {
        Ok(true)
    }

    async fn source(&self, descriptor: &Descriptor) -> Result<Arc<dyn Source>> {
        if let Some(bytes) =
            descriptor.embedded().map(Bytes::from).or_else(|| self.documents.kept(descriptor))
        {
            return Ok(Arc::new(bytes));
        }
        Ok(Arc::new(Fetched { fetcher: Arc::clone(&self.fetcher), descriptor: descriptor.clone() }))
    }

    async fn origins(&self, descriptor: &Descriptor, destination: Option<&str>) -> Result<Vec<String>> {
        self.fetcher.origins(descriptor, destination).await
    }

    fn refused(&self, descriptor: &Descriptor) -> bool {
        self.fetcher.refused(descriptor)
    }

    fn damage(&self, descriptor: &Descriptor, found: &Digest) -> Error {
        self.fetcher.damage(descriptor, found).unwrap_or_else(|| {
            Error::failed_precondition(format!(
                "digest mismatch: the source gave for {} ({:?}) bytes of the digest {found}",
                descriptor.digest, descriptor.media_type
            ))
        })
    }
}

/// Content that is fetched whenever somebody reads it.
#[derive(Debug)]
struct Fetched {
    fetcher: Arc<dyn Fetcher>,
    descriptor: Descriptor,
}

#[async_trait]
impl Source for Fetched {
    async fn open(&self, offset: u64) -> Result<ByteStream> {
        self.fetcher.fetch(&self.descriptor, offset).await
    }

    async fn local(&self) -> Option<Arc<dyn BlobReader>> {
        self.fetcher.local()?.reader(&self.descriptor).await.ok()
    }
}
