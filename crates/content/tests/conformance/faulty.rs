//! A memory store with one fault, for each promise of a store at least one that breaks it and no other.
//!
//! The faults of writers are in a file of their own.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::{Seek, Write},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::SystemTime,
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::task::yield_now;
use wharf_content::{
    Algorithm, BlobReader, Descriptor, Digest, Error, ErrorKind, Info, IngestManager, IngestOptions,
    Ingester, Labels, Manager, MemoryStore, Provider, Result, Status, Store, Writer, filter::FilterSet,
    labels, store::Visit,
};

use super::faulty_writer::{FaultyWriter, LockedForEver};

macro_rules! faults {
    ($($fault:ident => $promise:literal,)*) => {
        /// What is wrong with a store.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Fault { $($fault,)* }

        /// Every fault with the promise that it breaks.
        pub(crate) const FAULTS: &[(Fault, &str)] = &[$((Fault::$fault, $promise),)*];
    };
}

faults! {
    FewWriters => "writers-side-by-side",
    StatusLags => "status-after-write",
    NamelessIngests => "empty-reference-refused",
    DigestOfLastWrite => "digest-so-far",
    ProgressReadable => "progress-invisible",
    WritesAfterClose => "closed-writers-refuse",
    SecondCloseFails => "close-again",
    SyncUnlocks => "sync-keeps-writer",
    OffsetAfterTruncate => "truncate-and-rewrite",
    TruncatesAnywhere => "truncate-to-zero-only",
    NeedsDigest => "commit-publishes",
    ForgetsExpectation => "wrong-digest-refused",
    SmallerIsFine => "wrong-size-refused",
    FailedCommitLoses => "failed-commit-keeps-ingest",
    FailedCommitUnlocks => "failed-commit-keeps-ingest",
    FailedCommitIsFinal => "failed-commit-put-right",
    OpensExisting => "existing-on-open",
    KeepsIngestOfExisting => "existing-on-commit",
    NoEmptyBlobs => "empty-blob",
    StatusOfCommitted => "committed-is-no-ingest",
    DropsLabels => "labels-at-commit",
    DeletesOtherAlgorithms => "algorithms-side-by-side",
    OneAlgorithm => "algorithm-at-commit",
    ResumesAtZero => "resume",
    KeepsOtherTotal => "resume-other-total",
    DropLoses => "drop-keeps-progress",
    ListsBackwards => "statuses",
    AbortDoesNothing => "abort",
    AbortsAnything => "absent-ingests",
    LocksLate => "one-writer-per-reference",
    LetsWaitersIn => "waiters-find-the-blob",
    AbortsOpenIngests => "abort-spares-writers",
    MergesLabels => "labels-replaced",
    StoresEmptyLabels => "labels-by-fieldpath",
    CutsLongLabels => "labels-bounded",
    IgnoresOtherFields => "labels-only",
    UpdatesUndated => "labels-dated",
    ShortReads => "read-at-offsets",
    RefusesPastTheEnd => "read-past-the-end",
    BelievesSizes => "only-the-digest-counts",
    WritableFiles => "blobs-read-only",
    DeletesAnything => "absent-blobs",
    LabelsSurvive => "delete",
    WrongInfo => "info",
    VisitsTwice => "walk-visits-all",
    IgnoresFilters => "walk-filters",
    WalksOn => "walk-stops",
    CancelledOpenLocks => "cancelled-open",
    CancelledWriteLies => "cancelled-write",
    CancelledCommitLoses => "cancelled-commit",
    CancelledTruncateHalf => "cancelled-truncate",
    CancelledCloseLocks => "cancelled-close",
    CancelledUpdateHalf => "cancelled-update",
    CancelledDeleteHalf => "cancelled-delete",
    CancelledAbortLocks => "cancelled-abort",
    CancelledReadShifts => "cancelled-reads",
}

/// The store.
#[derive(Clone, Debug)]
pub(crate) struct Faulty {
    pub(super) inner: MemoryStore,
    pub(super) fault: Fault,
    state: Arc<Mutex<State>>,
    pub(super) open: Arc<AtomicUsize>,
}

/// What the faults remember.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) pending: HashMap<Digest, Bytes>,
    pub(super) committed: HashSet<String>,
    pub(super) written: HashSet<String>,
    pub(super) graves: HashMap<Digest, Labels>,
    refused: HashSet<String>,
}

impl Faulty {
    pub(crate) fn new(fault: Fault) -> Self {
        Self { inner: MemoryStore::new(), fault, state: Arc::default(), open: Arc::default() }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic")
    }
}

impl Store for Faulty {}

#[derive(Debug)]
struct FaultyReader {
    inner: Arc<dyn BlobReader>,
    fault: Fault,
    file: Option<File>,
    shifted: AtomicBool,
}

#[async_trait]
impl BlobReader for FaultyReader {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    async fn read_at(&self, mut offset: u64, mut len: usize) -> Result<Bytes> {
        match self.fault {
            Fault::ShortReads => len = len.min(1 << 20),
            Fault::RefusesPastTheEnd if offset.saturating_add(len as u64) > self.size() => {
                return Err(Error::new(ErrorKind::OutOfRange, "past the end"));
            }
            Fault::CancelledReadShifts => {
                offset += u64::from(self.shifted.swap(true, Ordering::Relaxed));
                yield_now().await;
                self.shifted.store(false, Ordering::Relaxed);
            }
            _ => {}
        }
        self.inner.read_at(offset, len).await
    }

    fn file(&self) -> Option<&File> {
        self.file.as_ref()
    }
}

#[async_trait]
impl Provider for Faulty {
    async fn reader(&self, descriptor: &Descriptor) -> Result<Arc<dyn BlobReader>> {
        if let Some(bytes) = self.state().pending.get(&descriptor.digest) {
            return Ok(Arc::new(bytes.clone()));
        }
        let inner = self.inner.reader(descriptor).await?;
        let mut file = None;
        if self.fault == Fault::BelievesSizes && inner.size() != descriptor.size {
            return Err(Error::data_loss("the size is wrong"));
        }
        if self.fault == Fault::WritableFiles {
            let mut writable = tempfile::tempfile().expect("temporary file");
            let size = usize::try_from(inner.size()).expect("small");
            writable.write_all(&inner.read_at(0, size).await?).expect("writes");
            writable.rewind().expect("rewinds");
            file = Some(writable);
        }
        Ok(Arc::new(FaultyReader { inner, fault: self.fault, file, shifted: AtomicBool::new(false) }))
    }
}

#[async_trait]
impl Ingester for Faulty {
    async fn writer(&self, mut options: IngestOptions) -> Result<Box<dyn Writer>> {
        let reference = options.reference.clone();
        match self.fault {
            Fault::NamelessIngests if reference.is_empty() => options.reference = "nameless".into(),
            Fault::FewWriters if self.open.load(Ordering::Relaxed) >= 5 => {
                return Err(Error::resource_exhausted("too many writers"));
            }
            Fault::OpensExisting if options.total.is_none() => {
                if let Some(digest) = &options.digest
                    && self.inner.info(digest).await.is_ok()
                {
                    options.digest = None;
                }
            }
            Fault::KeepsOtherTotal if self.inner.status(&reference).await.is_ok() => options.total = None,
            Fault::LetsWaitersIn if self.state().refused.contains(&reference) => options.digest = None,
            Fault::ResumesAtZero => {
                let status = self.inner.status(&reference).await.ok();
                if status.is_some_and(|status| status.offset > 0 && Some(status.offset * 2) == status.total) {
                    self.inner.abort(&reference).await?;
                }
            }
            _ => {}
        }
        let mut opened = self.inner.writer(options.clone()).await;
        if matches!(&opened, Err(error) if error.kind() == ErrorKind::Unavailable) {
            self.state().refused.insert(reference.clone());
            if self.fault == Fault::LocksLate && !self.state().written.contains(&reference) {
                options.reference.push_str(".second");
                opened = self.inner.writer(options.clone()).await;
            }
        }
        let mut writer = opened?;
        if self.fault == Fault::CancelledOpenLocks {
            let guard = LockedForEver::new(writer);
            yield_now().await;
            writer = guard.done();
        }
        Ok(Box::new(FaultyWriter::new(writer, self.clone(), options)))
    }
}

#[async_trait]
impl Manager for Faulty {
    async fn info(&self, digest: &Digest) -> Result<Info> {
        let mut info = self.inner.info(digest).await?;
        if self.fault == Fault::WrongInfo && info.size == 2_000_000 {
            info.size += 1;
        }
        if self.fault == Fault::UpdatesUndated && info.labels.contains_key("a") {
            info.updated_at = info.created_at;
        }
        Ok(info)
    }

    async fn update(&self, digest: &Digest, wanted: &Labels, fieldpaths: &[&str]) -> Result<Info> {
        let mut wanted = wanted.clone();
        let mut paths = fieldpaths.to_vec();
        let before = self.inner.info(digest).await?.labels;
        let are_single = !fieldpaths.is_empty() && fieldpaths.iter().all(|path| path.starts_with("labels."));
        match self.fault {
            Fault::MergesLabels if fieldpaths == ["labels"] => {
                wanted = before.into_iter().chain(wanted).collect();
            }
            Fault::StoresEmptyLabels if are_single => {
                let mut merged = before;
                merged.extend(
                    wanted.into_iter().filter(|(key, _)| fieldpaths.contains(&&*format!("labels.{key}"))),
                );
                (wanted, paths) = (merged, vec![]);
            }
            Fault::CutsLongLabels => {
                for (key, value) in &mut wanted {
                    value.truncate(labels::MAX_LABEL_LEN - key.len());
                }
            }
            Fault::IgnoresOtherFields => {
                paths.retain(|path| *path == "labels" || path.starts_with("labels."));
                if paths.is_empty() && !fieldpaths.is_empty() {
                    return self.info(digest).await;
                }
            }
            Fault::CancelledUpdateHalf if before.len() == 2 => {
                self.inner.update(digest, &Labels::new(), &[]).await?;
                yield_now().await;
                self.inner.update(digest, &before, &[]).await?;
            }
            _ => {}
        }
        self.inner.update(digest, &wanted, &paths).await?;
        self.info(digest).await
    }

    async fn walk(&self, filters: &FilterSet, visit: &mut Visit<'_>) -> Result<()> {
        match self.fault {
            Fault::IgnoresFilters => self.inner.walk(&FilterSet::all(), visit).await,
            Fault::WalksOn => {
                let mut on = |info| {
                    drop(visit(info));
                    Ok(())
                };
                self.inner.walk(filters, &mut on).await
            }
            Fault::VisitsTwice => {
                let mut seen = 0;
                let mut twice = |info: Info| {
                    seen += 1;
                    if seen == 5 {
                        visit(info.clone())?;
                    }
                    visit(info)
                };
                self.inner.walk(filters, &mut twice).await
            }
            _ => self.inner.walk(filters, visit).await,
        }
    }

    async fn delete(&self, digest: &Digest) -> Result<()> {
        match self.fault {
            Fault::DeletesAnything => match self.inner.delete(digest).await {
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
                result => return result,
            },
            Fault::DeletesOtherAlgorithms => {
                let reader = self.inner.reader(&Descriptor::new("", digest.clone(), 0)).await?;
                let content = reader.read_at(0, usize::MAX).await?;
                for other in Algorithm::ALL.map(|algorithm| algorithm.digest(&content)) {
                    if other != *digest {
                        drop(self.inner.delete(&other).await);
                    }
                }
            }
            Fault::LabelsSurvive => {
                let labels = self.inner.info(digest).await?.labels;
                self.state().graves.insert(digest.clone(), labels);
            }
            Fault::CancelledDeleteHalf => {
                self.inner.update(digest, &Labels::new(), &[]).await?;
                yield_now().await;
            }
            _ => {}
        }
        self.inner.delete(digest).await
    }
}

#[async_trait]
impl IngestManager for Faulty {
    async fn status(&self, reference: &str) -> Result<Status> {
        if self.fault == Fault::StatusOfCommitted && self.state().committed.contains(reference) {
            return Ok(Status::new(reference, SystemTime::now()));
        }
        self.inner.status(reference).await
    }

    async fn list_statuses(&self, filters: &FilterSet) -> Result<Vec<Status>> {
        let mut statuses = self.inner.list_statuses(filters).await?;
        if self.fault == Fault::ListsBackwards {
            statuses.reverse();
        }
        Ok(statuses)
    }

    async fn abort(&self, reference: &str) -> Result<()> {
        match self.fault {
            Fault::AbortDoesNothing if self.inner.status(reference).await?.offset == 70 => return Ok(()),
            Fault::AbortsAnything if self.inner.status(reference).await.is_err() => return Ok(()),
            Fault::AbortsOpenIngests => match self.inner.abort(reference).await {
                Err(error) if error.kind() == ErrorKind::Unavailable => return Ok(()),
                result => return result,
            },
            Fault::CancelledAbortLocks => {
                self.inner.status(reference).await?;
                let guard = LockedForEver::new(self.inner.writer(IngestOptions::new(reference)).await?);
                yield_now().await;
                drop(guard.done());
            }
            _ => {}
        }
        self.inner.abort(reference).await
    }
}
