//! Content out of a store.

use std::sync::Arc;

use async_trait::async_trait;
use wharf_content::{
    BlobReader, ByteStream, Descriptor, Digest, Error, ErrorKind, Labels, Provider, Result, stream_blob,
};
use wharf_images::transport::Fetcher;

use super::holding::Holding;
use crate::{push::cargo::damaged, source::neighbours};

/// Fetches what a name means and whatever else is there.
#[derive(Debug)]
pub(super) struct StoreFetcher(Arc<Held>);

impl StoreFetcher {
    pub(super) fn new(holding: Holding, root: Option<Digest>) -> Self {
        Self(Arc::new(Held { holding, root }))
    }
}

/// The store, read under a lease.
#[derive(Debug)]
struct Held {
    holding: Holding,
    /// The root of the image, which is held while it is fetched: somebody may remove it and collect.
    root: Option<Digest>,
}

#[async_trait]
impl Provider for Held {
    async fn reader(&self, descriptor: &Descriptor) -> Result<Arc<dyn BlobReader>> {
        let leased = self.holding.leased().await?;
        if self.root.as_ref() == Some(&descriptor.digest) {
            leased.add(&descriptor.digest).await?;
        }
        leased.reader(descriptor).await
    }
}

#[async_trait]
impl Fetcher for StoreFetcher {
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

    async fn size(&self, digest: &Digest, _: &str) -> Result<u64> {
        Ok(self.0.holding.store().info(digest).await?.size)
    }

    async fn origins(&self, descriptor: &Descriptor, destination: Option<&str>) -> Result<Vec<String>> {
        let Some(destination) = destination else { return Ok(Vec::new()) };
        let labels = match self.0.holding.store().info(&descriptor.digest).await {
            Err(error) if error.kind() == ErrorKind::NotFound => Labels::new(),
            info => info?.labels,
        };
        Ok(neighbours(&labels, destination))
    }

    fn local(&self) -> Option<Arc<dyn Provider>> {
        Some(Arc::clone(&self.0) as Arc<dyn Provider>)
    }

    fn damage(&self, descriptor: &Descriptor, found: &Digest) -> Option<Error> {
        Some(damaged(descriptor, found))
    }

    async fn finish(&self) -> Result<()> {
        self.0.holding.release().await
    }
}
