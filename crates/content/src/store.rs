//! The traits of a content store, one group of verbs each; [`Store`] is all of them.
//!
//! Data in progress is invisible to [`Provider`] and [`Manager`]; committed data is invisible to [`Ingester`] and
//! [`IngestManager`]. The store verifies on commit, whoever writes (containerd: `core/content/content.go`).

use std::{fmt::Debug, fs::File, sync::Arc, time::SystemTime};

use async_trait::async_trait;
use bytes::Bytes;

use crate::{
    descriptor::Descriptor,
    digest::{Algorithm, Digest},
    error::Result,
    filter::FilterSet,
    labels::Labels,
    lease::{Hold, LeaseManager},
    metadata::Metadata,
    verify::Custodian,
};

/// What a store knows of one committed blob. Only the labels can be changed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Info {
    /// The digest, which is the blob's name.
    pub digest: Digest,
    /// The size in bytes.
    pub size: u64,
    /// When the bytes were written.
    pub created_at: SystemTime,
    /// When the labels last changed; `created_at` where they never did.
    pub updated_at: SystemTime,
    /// The labels.
    pub labels: Labels,
}

impl Info {
    /// Describes a blob without labels.
    pub fn new(digest: Digest, size: u64, created_at: SystemTime) -> Self {
        Self { digest, size, created_at, updated_at: created_at, labels: Labels::new() }
    }
}

/// The state of one ingest: bytes that were written and not yet committed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// The name under which the ingest can be resumed.
    pub reference: String,
    /// How many bytes are there.
    pub offset: u64,
    /// How many there will be, where that is known.
    pub total: Option<u64>,
    /// The digest that is expected, where one was given to this writer.
    pub expected: Option<Digest>,
    /// When the ingest was begun.
    pub started_at: SystemTime,
    /// When it was last opened or closed.
    pub updated_at: SystemTime,
}

impl Status {
    /// Describes an ingest that has just begun.
    pub fn new(reference: impl Into<String>, now: SystemTime) -> Self {
        Self {
            reference: reference.into(),
            offset: 0,
            total: None,
            expected: None,
            started_at: now,
            updated_at: now,
        }
    }
}

/// Reads one blob at any offset.
#[async_trait]
pub trait BlobReader: Debug + Send + Sync + 'static {
    /// The size of the blob in bytes.
    fn size(&self) -> u64;

    /// Reads up to `len` bytes at `offset`; fewer only at the end, none past it.
    ///
    /// # Errors
    /// Those of the storage below.
    ///
    /// # Cancellation
    /// Nothing remains; a reader has no position.
    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes>;

    /// The file that holds exactly the blob, for copies inside the kernel; `None` where there is none.
    fn file(&self) -> Option<&File> {
        None
    }
}

/// Gives access to committed blobs.
#[async_trait]
pub trait Provider: Debug + Send + Sync + 'static {
    /// Opens a blob. Only the digest of the descriptor is looked at.
    ///
    /// # Errors
    /// `NotFound` when the blob is not there.
    async fn reader(&self, descriptor: &Descriptor) -> Result<Arc<dyn BlobReader>>;
}

/// What a new writer is told.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct IngestOptions {
    /// The name of the ingest; a later writer of this name resumes it.
    pub reference: String,
    /// The expected digest; it chooses the hash algorithm, and a blob that is there already is not written again.
    pub digest: Option<Digest>,
    /// The hash algorithm where no digest is expected. A commit that expects a digest of another one reads all the bytes again.
    pub algorithm: Algorithm,
    /// The expected size in bytes.
    pub total: Option<u64>,
    /// The lease that holds the blob from its commit on, or from now on where it is there already.
    pub lease: Option<String>,
}

impl IngestOptions {
    /// Names an ingest of which nothing else is known.
    pub fn new(reference: impl Into<String>) -> Self {
        Self { reference: reference.into(), ..Self::default() }
    }

    /// Expects what `descriptor` says.
    #[must_use]
    pub fn with_descriptor(mut self, descriptor: &Descriptor) -> Self {
        self.digest = Some(descriptor.digest.clone());
        self.total = Some(descriptor.size);
        self
    }
}

/// Takes in new blobs.
#[async_trait]
pub trait Ingester: Debug + Send + Sync + 'static {
    /// Opens a writer, which resumes the ingest of that name if there is one.
    ///
    /// # Errors
    /// `InvalidArgument` for an empty reference; `AlreadyExists` when the expected blob is committed;
    /// `Unavailable` while another writer has the ingest, in this or another process; `NotFound` for a lease that does not exist.
    async fn writer(&self, options: IngestOptions) -> Result<Box<dyn Writer>>;
}

/// What a commit adds to the blob.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct CommitOptions {
    /// Labels of the new blob.
    pub labels: Labels,
}

impl CommitOptions {
    /// Sets the labels of the new blob.
    #[must_use]
    pub fn with_labels(mut self, labels: Labels) -> Self {
        self.labels = labels;
        self
    }
}

/// Writes one blob from its start to its commit. Dropping a writer keeps its progress and frees the ingest,
/// as soon as what it has taken is written.
#[async_trait]
pub trait Writer: Debug + Send + 'static {
    /// Appends bytes.
    ///
    /// # Errors
    /// `FailedPrecondition` after close or commit; those of the storage below, after which the writer is of no more use
    /// and the ingest can be resumed.
    ///
    /// # Cancellation
    /// A prefix of the bytes may have been taken; the writer's status tells how many.
    async fn write(&mut self, bytes: Bytes) -> Result<()>;

    /// Takes over all that `file` holds in one step, where the storage can have files share their blocks, and tells whether it did. What it
    /// took over is read for its digest, so that nothing is trusted. Only an ingest without bytes takes anything over; by default
    /// none does.
    ///
    /// # Errors
    /// `FailedPrecondition` after close or commit; those of the storage below.
    ///
    /// # Cancellation
    /// All the bytes are there or none, and the writer may be closed.
    async fn share(&mut self, _file: &File) -> Result<bool> {
        Ok(false)
    }

    /// The state of the ingest.
    fn status(&self) -> Status;

    /// Reads the bytes while they are written, up to the expected size; `None` where the store cannot do that, or the size is not known.
    ///
    /// The reader waits for what is not written yet, and goes on after the commit. It fails with `Aborted` where the bytes are thrown away,
    /// or the writer is closed or dropped before a commit has verified them. Until then nothing that it gives is verified.
    fn follow(&self) -> Option<Arc<dyn BlobReader>> {
        None
    }

    /// The digest of the bytes so far.
    async fn digest(&mut self) -> Result<Digest>;

    /// Throws the bytes away; only `size` 0 is possible.
    ///
    /// # Errors
    /// `InvalidArgument` for any other size; `FailedPrecondition` after close or commit.
    ///
    /// # Cancellation
    /// All the bytes are there or none, and the writer may be closed.
    async fn truncate(&mut self, size: u64) -> Result<()>;

    /// Verifies and publishes the blob. Afterwards the writer is closed.
    ///
    /// # Errors
    /// `FailedPrecondition` for a wrong size or digest, with the data kept for a truncate and another try, or when the
    /// writer is closed; `AlreadyExists` when the blob is there, with the ingest removed.
    ///
    /// # Cancellation
    /// The commit goes on in the background and either happens wholly or not at all.
    async fn commit(
        &mut self,
        size: Option<u64>,
        expected: Option<&Digest>,
        options: CommitOptions,
    ) -> Result<Digest>;

    /// Makes the progress durable, as closing does, and keeps the ingest, so that nothing need be read again to go on; tells whether it did.
    /// By default nothing is done, and only closing makes anything durable.
    ///
    /// # Errors
    /// `FailedPrecondition` after close or commit; those of the storage below.
    ///
    /// # Cancellation
    /// All the bytes are there, and the writer may be closed.
    async fn sync(&mut self) -> Result<bool> {
        Ok(false)
    }

    /// Makes the progress durable and frees the ingest. Closing again does nothing.
    async fn close(&mut self) -> Result<()>;
}

/// Called for each blob of a walk.
pub type Visit<'a> = dyn FnMut(Info) -> Result<()> + Send + 'a;

/// Looks after committed blobs.
#[async_trait]
pub trait Manager: Debug + Send + Sync + 'static {
    /// Describes a blob.
    ///
    /// # Errors
    /// `NotFound` when it is not there.
    async fn info(&self, digest: &Digest) -> Result<Info>;

    /// Changes labels by field paths, as [`labels::apply`](crate::labels::apply) says, and gives the new state.
    ///
    /// # Errors
    /// `NotFound` when the blob is not there; `InvalidArgument` for a field that cannot be changed.
    async fn update(&self, digest: &Digest, labels: &Labels, fieldpaths: &[&str]) -> Result<Info>;

    /// Visits every blob that the filters match, in no particular order. An error of the visitor ends the walk.
    async fn walk(&self, filters: &FilterSet, visit: &mut Visit<'_>) -> Result<()>;

    /// Removes a blob and its labels.
    ///
    /// # Errors
    /// `NotFound` when it is not there.
    async fn delete(&self, digest: &Digest) -> Result<()>;
}

/// Looks after ingests.
#[async_trait]
pub trait IngestManager: Debug + Send + Sync + 'static {
    /// Describes an ingest.
    ///
    /// # Errors
    /// `NotFound` when there is none of that name.
    async fn status(&self, reference: &str) -> Result<Status>;

    /// Describes every ingest whose `ref` the filters match, sorted by name.
    async fn list_statuses(&self, filters: &FilterSet) -> Result<Vec<Status>>;

    /// Removes an ingest and its data.
    ///
    /// # Errors
    /// `NotFound` when there is none of that name; `Unavailable` while a writer has it.
    async fn abort(&self, reference: &str) -> Result<()>;
}

/// A store that nobody else changes, for as long as this is there.
#[derive(Debug)]
pub struct Exclusive {
    store: Arc<dyn Store>,
    _guard: Box<dyn Hold>,
}

impl Exclusive {
    /// Pairs a handle that may write with what keeps others from it.
    pub fn new(store: Arc<dyn Store>, guard: Box<dyn Hold>) -> Self {
        Self { store, _guard: guard }
    }

    /// The only handle that may write meanwhile.
    pub fn store(&self) -> &dyn Store {
        self.store.as_ref()
    }
}

/// A whole content store.
#[async_trait]
pub trait Store: Provider + Ingester + Manager + IngestManager {
    /// The database beside the blobs, where upper layers keep records of their own; `None` for a store without one.
    fn metadata(&self) -> Option<&Metadata> {
        None
    }

    /// The store's leases; `None` for a store that is never collected.
    fn leases(&self) -> Option<&dyn LeaseManager> {
        None
    }

    /// What is done about damage; `None` for a store that has no files that could be damaged.
    fn custodian(&self) -> Option<&dyn Custodian> {
        None
    }

    /// Waits until nobody adds anything, in this or another process, and keeps everybody from it; `None` for a store that is never
    /// collected.
    ///
    /// # Errors
    /// Those of the storage below.
    async fn exclusive(&self) -> Result<Option<Exclusive>> {
        Ok(None)
    }
}
