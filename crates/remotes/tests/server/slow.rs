//! A store that takes its time, as one on disk does while a collection or a slow disk holds everybody up.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use wharf_content::{
    BlobReader, Descriptor, Digest, Info, IngestManager, IngestOptions, Ingester, Labels, Manager,
    MemoryStore, Provider, Result, Status, Store, Writer, filter::FilterSet, store::Visit,
};
use wharf_images::MemoryImages;
use wharf_remotes::server::RegistryOptions;

use crate::site::Site;

/// Opens no writer sooner than this.
const DELAY: Duration = Duration::from_millis(2500);

#[derive(Debug)]
struct Slow(MemoryStore);

impl Store for Slow {}

#[async_trait]
impl Ingester for Slow {
    async fn writer(&self, options: IngestOptions) -> Result<Box<dyn Writer>> {
        tokio::time::sleep(DELAY).await;
        self.0.writer(options).await
    }
}

#[async_trait]
impl Provider for Slow {
    async fn reader(&self, descriptor: &Descriptor) -> Result<Arc<dyn BlobReader>> {
        self.0.reader(descriptor).await
    }
}

#[async_trait]
impl Manager for Slow {
    async fn info(&self, digest: &Digest) -> Result<Info> {
        self.0.info(digest).await
    }

    async fn update(&self, digest: &Digest, labels: &Labels, fieldpaths: &[&str]) -> Result<Info> {
        self.0.update(digest, labels, fieldpaths).await
    }

    async fn walk(&self, filters: &FilterSet, visit: &mut Visit<'_>) -> Result<()> {
        self.0.walk(filters, visit).await
    }

    async fn delete(&self, digest: &Digest) -> Result<()> {
        self.0.delete(digest).await
    }
}

#[async_trait]
impl IngestManager for Slow {
    async fn status(&self, reference: &str) -> Result<Status> {
        self.0.status(reference).await
    }

    async fn list_statuses(&self, filters: &FilterSet) -> Result<Vec<Status>> {
        self.0.list_statuses(filters).await
    }

    async fn abort(&self, reference: &str) -> Result<()> {
        self.0.abort(reference).await
    }
}

#[tokio::test]
async fn a_store_that_is_slow_is_not_taken_for_an_upload_that_is_busy() {
    let store = Arc::new(Slow(MemoryStore::new()));
    let site = Site::start_with(store, Arc::new(MemoryImages::new()), RegistryOptions::default()).await;
    let location = site.begin("a").await;
    let digest = Digest::sha256(b"hello");
    let patch = site.send("PATCH", &location, &[], b"hello").await;
    assert_eq!(patch.status, 202, "{patch:?}");
    let put = site.send("PUT", &format!("{location}?digest={digest}"), &[], b"").await;
    assert_eq!(put.status, 201, "{put:?}");
    site.stop().await;
}
