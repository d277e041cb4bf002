//! A content store in a directory, safe for many processes at once and without a daemon.
//!
//! ```text
//! oci-layout  index.json                 the root is a valid OCI image layout
//! blobs/<alg>/<hex>                      complete, verified, synced, read-only
//! ingest/<sha256(ref)>/ref               the ingest's name
//! ingest/<sha256(ref)>/data              the bytes so far
//! ingest/<sha256(ref)>/startedat         RFC 3339
//! ingest/<sha256(ref)>/updatedat         RFC 3339
//! ingest/<sha256(ref)>/total             the expected size, if it is known
//! leases/<sha256(id)>                    locked by the process that holds the lease
//! quarantine/<alg>-<hex>-<time>          a damaged blob that was moved out of the way
//! quarantine/ingest-<name>-<time>        what stood where ingests stand and is none
//! gc.lock                                shared by who adds something, exclusive to a collection
//! metadata.db                            labels and leases here; the layers above keep tables of their own in it
//! ```
//!
//! A commit syncs the file, renames it, syncs the directory, and only then touches the database: a name under `blobs/` holds complete,
//! verified bytes or does not exist. What comes after the sync of the file, writers that commit at the same time do together. Writers hold an advisory lock on the ingest's directory; the system frees it when a process dies.

pub mod atomic;

mod blob;
mod follow;
mod hashing;
mod ingest;
mod layout;
mod leases;
mod marker;
mod publish;
mod quarantine;
mod reserve;
pub mod sharing;
mod writeback;
mod writer;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use async_trait::async_trait;

use crate::{
    blocking,
    descriptor::Descriptor,
    digest::Digest,
    error::Result,
    filter::FilterSet,
    labels::Labels,
    lease::{Hold, LeaseManager},
    metadata::{Gate, Metadata},
    store::{
        BlobReader, Exclusive, Info, IngestManager, IngestOptions, Ingester, Manager, Provider, Status,
        Store, Visit, Writer,
    },
    verify::Custodian,
};

pub use crate::durability::Durability;

type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// How a local store is opened.
#[derive(Clone)]
#[non_exhaustive]
pub struct LocalOptions {
    clock: Clock,
    durability: Durability,
}

impl LocalOptions {
    /// Takes the time from `clock`, for tests.
    #[must_use]
    pub fn with_clock(mut self, clock: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Chooses what survives a power cut; all that was committed, unless this says otherwise.
    #[must_use]
    pub fn with_durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }
}

impl Default for LocalOptions {
    fn default() -> Self {
        Self { clock: Arc::new(SystemTime::now), durability: Durability::default() }
    }
}

impl fmt::Debug for LocalOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalOptions").field("durability", &self.durability).finish_non_exhaustive()
    }
}

/// The store; see the [module](self). Cheap to clone.
#[derive(Clone)]
pub struct LocalStore {
    inner: Arc<Inner>,
}

#[derive(Clone)]
struct Inner {
    root: PathBuf,
    metadata: Metadata,
    clock: Clock,
    durability: Durability,
    publishing: Arc<publish::Queue>,
}

impl Inner {
    fn now(&self) -> SystemTime {
        (self.clock)()
    }
}

impl fmt::Debug for LocalStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalStore").field("root", &self.inner.root).finish_non_exhaustive()
    }
}

impl LocalStore {
    /// Opens the store at `root`, or makes one where there is nothing yet.
    ///
    /// # Errors
    /// `FailedPrecondition` when the directory holds something that is not a wharf store; `PermissionDenied` when it cannot be
    /// written; `DataLoss` when its database is damaged.
    pub async fn open(root: impl Into<PathBuf>) -> Result<Self> {
        Self::open_with(root, LocalOptions::default()).await
    }

    /// Opens the store at `root` with options.
    ///
    /// # Errors
    /// As [`LocalStore::open`].
    pub async fn open_with(root: impl Into<PathBuf>, options: LocalOptions) -> Result<Self> {
        let root = root.into();
        blocking::run(move || {
            let LocalOptions { clock, durability } = options;
            let metadata = layout::open(&root, durability)?;
            Ok(Self {
                inner: Arc::new(Inner { root, metadata, clock, durability, publishing: Arc::default() }),
            })
        })
        .await
    }

    /// The directory of the store.
    pub fn root(&self) -> &Path {
        &self.inner.root
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let inner = Arc::clone(&self.inner);
        blocking::run(move || work(&inner)).await
    }

    /// As [`LocalStore::blocking`], for what waits for a collection to end.
    async fn changing<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let inner = Arc::clone(&self.inner);
        self.inner.metadata.change(move || work(&inner)).await
    }
}

#[async_trait]
impl Provider for LocalStore {
    async fn reader(&self, descriptor: &Descriptor) -> Result<Arc<dyn BlobReader>> {
        let digest = descriptor.digest.clone();
        self.blocking(move |inner| Ok(Arc::new(blob::open(inner, &digest)?) as Arc<dyn BlobReader>)).await
    }
}

#[async_trait]
impl Ingester for LocalStore {
    async fn writer(&self, options: IngestOptions) -> Result<Box<dyn Writer>> {
        let inner = Arc::clone(&self.inner);
        let open = move || Ok(Box::new(writer::open(inner, options)?) as Box<dyn Writer>);
        self.inner.metadata.change(open).await
    }
}

#[async_trait]
impl Manager for LocalStore {
    async fn info(&self, digest: &Digest) -> Result<Info> {
        let digest = digest.clone();
        self.blocking(move |inner| blob::info(inner, &digest)).await
    }

    async fn update(&self, digest: &Digest, labels: &Labels, fieldpaths: &[&str]) -> Result<Info> {
        let (digest, labels) = (digest.clone(), labels.clone());
        let paths: Vec<String> = fieldpaths.iter().map(|path| (*path).to_owned()).collect();
        self.changing(move |inner| {
            let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
            blob::update(inner, &digest, &labels, &paths)
        })
        .await
    }

    async fn walk(&self, filters: &FilterSet, visit: &mut Visit<'_>) -> Result<()> {
        let digests = match filters.texts_in_labels() {
            Some(texts) => self.blocking(move |inner| blob::labelled(inner, &texts)).await?,
            None => self.blocking(blob::list).await?,
        };
        let mut digests = digests.into_iter().peekable();
        while digests.peek().is_some() {
            let batch: Vec<Digest> = digests.by_ref().take(WALK_BATCH).collect();
            for info in self.blocking(move |inner| blob::infos(inner, &batch)).await? {
                if filters.matches(&info) {
                    visit(info)?;
                }
            }
        }
        Ok(())
    }

    async fn delete(&self, digest: &Digest) -> Result<()> {
        let digest = digest.clone();
        self.changing(move |inner| blob::delete(inner, &digest)).await
    }
}

/// How many blobs a walk looks at before it calls its visitor.
const WALK_BATCH: usize = 1024;

#[async_trait]
impl IngestManager for LocalStore {
    async fn status(&self, reference: &str) -> Result<Status> {
        let reference = reference.to_owned();
        self.blocking(move |inner| ingest::status(inner, &reference)).await
    }

    async fn list_statuses(&self, filters: &FilterSet) -> Result<Vec<Status>> {
        let mut statuses = self.blocking(ingest::list).await?;
        statuses.retain(|status| filters.matches(status));
        Ok(statuses)
    }

    async fn abort(&self, reference: &str) -> Result<()> {
        let reference = reference.to_owned();
        self.changing(move |inner| ingest::abort(inner, &reference)).await
    }
}

impl Hold for Gate {}

#[async_trait]
impl Store for LocalStore {
    fn metadata(&self) -> Option<&Metadata> {
        Some(&self.inner.metadata)
    }

    fn leases(&self) -> Option<&dyn LeaseManager> {
        Some(self)
    }

    fn custodian(&self) -> Option<&dyn Custodian> {
        Some(self)
    }

    async fn exclusive(&self) -> Result<Option<Exclusive>> {
        self.blocking(|inner| {
            let (metadata, gate) = inner.metadata.exclude()?;
            // Nobody may wait in one queue for a thread that waits at this gate.
            let inner = Inner { metadata, publishing: Arc::default(), ..inner.clone() };
            layout::sweep(&inner)?;
            let store = Arc::new(Self { inner: Arc::new(inner) });
            Ok(Some(Exclusive::new(store, Box::new(gate))))
        })
        .await
    }
}
