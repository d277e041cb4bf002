//! Looking into an image at a remote place without pulling it: content is fetched when it is read.

use std::sync::Arc;

use async_trait::async_trait;
use wharf_content::{BlobReader, Catalogue, Descriptor, ErrorKind, MemoryStore, Provider, Result};
use wharf_images::{progress::Silent, transport::Fetcher};

use crate::fetch::fetch_into;

/// A provider that has what it is asked for in memory, or fetches it there, verified.
///
/// Meant for manifests and configs; a layer that is read is held in memory whole.
#[derive(Debug)]
pub struct LazyProvider {
    fetched: MemoryStore,
    fetcher: Arc<dyn Fetcher>,
    catalogue: Catalogue,
}

impl LazyProvider {
    /// Reads what `fetcher` has.
    pub fn new(fetcher: Arc<dyn Fetcher>, catalogue: Catalogue) -> Self {
        Self { fetched: MemoryStore::new(), fetcher, catalogue }
    }
}

#[async_trait]
impl Provider for LazyProvider {
    async fn reader(&self, descriptor: &Descriptor) -> Result<Arc<dyn BlobReader>> {
        match self.fetched.reader(descriptor).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            found => return found,
        }
        fetch_into(&self.fetched, self.fetcher.as_ref(), descriptor, &Silent, &self.catalogue).await?;
        self.fetched.reader(descriptor).await
    }
}
