//! A proxy whose store has no room for what arrives.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use bytes::Bytes;
use tempfile::TempDir;
use wharf_content::{
    BlobReader, CommitOptions, Descriptor, Digest, Error, Info, IngestManager, IngestOptions, Ingester,
    Labels, LeaseManager, LocalStore, Manager, Provider, Result, Status, Store, Writer, filter::FilterSet,
    metadata::Metadata, store::Visit,
};

use crate::{
    bytes,
    proxy::{cache, proxy_of},
    site::Site,
};

/// A store whose disk has room for so many bytes more, and what is thrown away gives none back.
#[derive(Debug)]
struct Full {
    store: LocalStore,
    room: Arc<AtomicU64>,
}

#[derive(Debug)]
struct FullWriter {
    writer: Box<dyn Writer>,
    room: Arc<AtomicU64>,
}

#[async_trait]
impl Writer for FullWriter {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        let len = bytes.len() as u64;
        let taken =
            self.room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |room| room.checked_sub(len));
        if taken.is_err() {
            return Err(Error::io("cannot write", std::io::ErrorKind::StorageFull.into()));
        }
        self.writer.write(bytes).await
    }

    fn status(&self) -> Status {
        self.writer.status()
    }

    async fn digest(&mut self) -> Result<Digest> {
        self.writer.digest().await
    }

    async fn truncate(&mut self, size: u64) -> Result<()> {
        self.writer.truncate(size).await
    }

    async fn commit(
        &mut self,
        size: Option<u64>,
        expected: Option<&Digest>,
        options: CommitOptions,
    ) -> Result<Digest> {
        self.writer.commit(size, expected, options).await
    }

    async fn close(&mut self) -> Result<()> {
        self.writer.close().await
    }
}

#[async_trait]
impl Ingester for Full {
    async fn writer(&self, options: IngestOptions) -> Result<Box<dyn Writer>> {
        let writer = self.store.writer(options).await?;
        Ok(Box::new(FullWriter { writer, room: Arc::clone(&self.room) }))
    }
}

#[async_trait]
impl Provider for Full {
    async fn reader(&self, descriptor: &Descriptor) -> Result<Arc<dyn BlobReader>> {
        self.store.reader(descriptor).await
    }
}

#[async_trait]
impl Manager for Full {
    async fn info(&self, digest: &Digest) -> Result<Info> {
        self.store.info(digest).await
    }

    async fn update(&self, digest: &Digest, labels: &Labels, fieldpaths: &[&str]) -> Result<Info> {
        self.store.update(digest, labels, fieldpaths).await
    }

    async fn walk(&self, filters: &FilterSet, visit: &mut Visit<'_>) -> Result<()> {
        self.store.walk(filters, visit).await
    }

    async fn delete(&self, digest: &Digest) -> Result<()> {
        self.store.delete(digest).await
    }
}

#[async_trait]
impl IngestManager for Full {
    async fn status(&self, reference: &str) -> Result<Status> {
        self.store.status(reference).await
    }

    async fn list_statuses(&self, filters: &FilterSet) -> Result<Vec<Status>> {
        self.store.list_statuses(filters).await
    }

    async fn abort(&self, reference: &str) -> Result<()> {
        self.store.abort(reference).await
    }
}

impl Store for Full {
    fn metadata(&self) -> Option<&Metadata> {
        self.store.metadata()
    }

    fn leases(&self) -> Option<&dyn LeaseManager> {
        self.store.leases()
    }
}

#[tokio::test]
async fn a_proxy_leaves_nothing_of_a_blob_that_there_is_no_room_for() {
    let upper = Site::memory(wharf_remotes::server::RegistryOptions::default()).await;
    let layer = bytes(4 << 20);
    let path = format!("/v2/a/blobs/{}", upper.push_blob("a", &layer).await);
    let root = TempDir::new().expect("a directory");
    let room = Arc::new(AtomicU64::new(3 << 20));
    let store = LocalStore::open(root.path().join("store")).await.expect("a store");
    let site = cache(Arc::new(Full { store, room: Arc::clone(&room) }), proxy_of(upper.address)).await;
    site.get(&path).await.refuses(507, "UNAVAILABLE");
    let left = site.store.list_statuses(&FilterSet::all()).await.expect("lists");
    assert!(left.is_empty(), "{left:?}");
    room.store(u64::MAX, Ordering::Relaxed);
    assert!(site.get(&path).await.body == layer);
}
