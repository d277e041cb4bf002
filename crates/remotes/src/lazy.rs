//! Reading an image that is elsewhere: content is fetched when it is read.

use std::sync::Arc;

use async_trait::async_trait;
use wharf_content::{BlobReader, Catalogue, Descriptor, Error, ErrorKind, Provider, Result, Store};
use wharf_images::{
    media_types::is_schema1,
    progress::{Silent, Sink},
    transport::Fetcher,
};

use crate::fetch::fetch_into;

/// A provider that gives what a store has, and fetches into it, verified, what it does not have.
///
/// Over a store in memory it looks into an image without pulling it.
#[derive(Debug)]
pub struct LazyProvider {
    store: Arc<dyn Store>,
    fetcher: Arc<dyn Fetcher>,
    sink: Arc<dyn Sink>,
    catalogue: Catalogue,
}

impl LazyProvider {
    /// Reads from `store`, and what it lacks from `fetcher`.
    pub fn new(store: Arc<dyn Store>, fetcher: Arc<dyn Fetcher>, catalogue: Catalogue) -> Self {
        Self { store, fetcher, sink: Arc::new(Silent), catalogue }
    }

    /// Tells of what is fetched.
    #[must_use]
    pub fn with_sink(mut self, sink: Arc<dyn Sink>) -> Self {
        self.sink = sink;
        self
    }
}

#[async_trait]
impl Provider for LazyProvider {
    async fn reader(&self, descriptor: &Descriptor) -> Result<Arc<dyn BlobReader>> {
        match self.store.reader(descriptor).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            found => return found,
        }
        if is_schema1(&descriptor.media_type) {
            // What is sent has a signature in it that its digest leaves out, so that no fetch of it can be right.
            return Err(Error::not_implemented(format!(
                "{} is a Docker schema 1 manifest, which is not looked into where it is: `pull` converts it",
                descriptor.digest
            )));
        }
        let (fetcher, sink) = (self.fetcher.as_ref(), self.sink.as_ref());
        fetch_into(self.store.as_ref(), fetcher, descriptor, sink, &self.catalogue).await?;
        self.store.reader(descriptor).await
    }
}
