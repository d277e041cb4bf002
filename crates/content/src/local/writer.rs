//! The writer of a local ingest.
//!
//! Chunks are gathered without copying and handed in batches to blocking threads, one that writes and one that hashes, while the next
//! batch is being gathered: at most two batches are in memory. Between batches no thread is held, so any number of writers can be open.
//! The system is told to begin with its part while more is coming, so that the sync at the end is short.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, IoSlice, Seek, SeekFrom, Write},
    mem,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    sync::Arc,
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::{
    runtime::Handle,
    task::{self, JoinHandle},
};

use crate::{
    blocking,
    digest::{Digest, Hasher},
    durability::Durability,
    error::{Error, ErrorKind, Result, ResultExt},
    labels,
    lease::Resource,
    store::{BlobReader, CommitOptions, IngestOptions, Status, Writer},
};

use super::{
    Inner, blob,
    follow::{Following, Mark},
    hashing::{Hashing, rehash},
    ingest::{self, Begun, Locked},
    leases, publish,
    reserve::{self, Reserve},
    sharing,
    writeback::{self, Writeback},
};

/// A batch is handed over when it has this many bytes.
const BATCH_LEN: usize = 1024 * 1024;

#[derive(Debug)]
pub(super) struct LocalWriter {
    status: Status,
    phase: Phase,
    following: Following,
    batch: Vec<Bytes>,
    batch_len: usize,
}

/// What a batch needs. It travels to the blocking thread and back.
struct Core {
    inner: Arc<Inner>,
    locked: Locked,
    file: Arc<File>,
    hashing: Hashing,
    reserve: Reserve,
    writeback: Writeback,
    mark: Mark,
    reference: String,
    lease: Option<String>,
    /// The facts that are still to be written, before the first data.
    facts: Option<Status>,
}

#[derive(Debug)]
enum Phase {
    Idle(Box<Core>),
    Writing(JoinHandle<Result<Box<Core>>>),
    /// Closed, committed, or failed.
    Closed,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core").field("locked", &self.locked).finish_non_exhaustive()
    }
}

/// Opens a writer: new, or resumed with all that is there hashed again.
pub(super) fn open(inner: Arc<Inner>, options: IngestOptions) -> Result<LocalWriter> {
    let IngestOptions { reference, digest, algorithm, total, lease } = options;
    if reference.is_empty() {
        return Err(Error::invalid_argument("an ingest needs a reference"));
    }
    // Who is told that the content is there relies on it: the lease holds it before a collection can begin.
    let refuse_present = || {
        let _gate = inner.metadata.share()?;
        match (&digest, &lease) {
            (Some(digest), _) if blob::exists(&inner, digest)? => {
                hold(&inner, lease.as_deref(), digest)?;
                Err(Error::already_exists(format!("content {digest} is already in the store")))
            }
            (_, Some(lease)) => inner.metadata.read_blocking(|connection| leases::require(connection, lease)),
            _ => Ok(()),
        }
    };
    refuse_present()?;
    let locked = ingest::lock(&inner, &reference, true)?;
    // Whoever had the lock before may have committed it.
    if let Err(error) = refuse_present() {
        locked.remove().context(|| format!("cannot remove ingest {reference:?}"))?;
        return Err(error);
    }
    let cannot = || format!("cannot open ingest {reference:?}");
    let Begun { mut status, is_new } = locked.begin(&reference, total, inner.now())?;
    let facts = is_new.then(|| status.clone());
    let algorithm = digest.as_ref().map_or(algorithm, Digest::algorithm);
    let path = locked.dir.join(ingest::DATA);
    // A commit that was cut short may have taken the write bits away already.
    if !is_new {
        match fs::set_permissions(&path, fs::Permissions::from_mode(0o600)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            changed => changed.context(cannot)?,
        }
    }
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(is_new)
        .mode(0o600)
        .open(path)
        .context(cannot)?;
    let hasher = if is_new { Hasher::new(algorithm) } else { rehash(&file, algorithm).context(cannot)? };
    status.offset = if is_new { 0 } else { (&file).stream_position().context(cannot)? };
    status.expected = digest;
    let (file, hashing) = (Arc::new(file), Hashing::new(hasher));
    let reserve = Reserve::starting_at(status.offset, status.total);
    let writeback = Writeback::starting_at(status.offset);
    let mark = Mark::starting_at(status.offset);
    let following = mark.following(&file);
    let core = Core { inner, locked, file, hashing, reserve, writeback, mark, reference, lease, facts };
    Ok(LocalWriter { status, phase: Phase::Idle(Box::new(core)), following, batch: Vec::new(), batch_len: 0 })
}

impl Core {
    /// Writes a batch, and hashes it meanwhile on another thread if there is one to be had.
    fn append(&mut self, batch: &[Bytes], len: usize) -> Result<()> {
        let cannot = || format!("cannot write ingest {:?}", self.reference);
        if len >= BATCH_LEN
            && let Some(facts) = self.facts.take()
        {
            self.locked.note(&facts).context(cannot)?;
        }
        self.hashing.put(batch.to_vec());
        if len >= BATCH_LEN {
            let hashing = self.hashing.clone();
            task::spawn_blocking(move || hashing.catch_up());
        }
        if let Some(range) = self.reserve.before(self.writeback.end() + len as u64) {
            reserve::take(&self.file, &range);
        }
        write_all(&self.file, batch).context(cannot)?;
        if let Some(range) = self.writeback.wrote(len as u64)
            && self.inner.durability == Durability::Full
        {
            let file = Arc::clone(&self.file);
            task::spawn_blocking(move || writeback::begin(&file, range));
        }
        self.mark.written(self.writeback.end());
        // Waits for the other thread, or does what it has not begun.
        self.hashing.catch_up();
        Ok(())
    }

    /// Shares the blocks of a file, hashes what is there then, and tells how much that is; `None` where nothing can be shared.
    fn share(&mut self, source: &File) -> Result<Option<u64>> {
        let cannot = || format!("cannot write ingest {:?}", self.reference);
        if !sharing::share(source, &self.file) {
            return Ok(None);
        }
        if let Some(facts) = self.facts.take() {
            self.locked.note(&facts).context(cannot)?;
        }
        let hasher = rehash(&self.file, self.hashing.hasher().algorithm()).context(cannot)?;
        let len = (&*self.file).stream_position().context(cannot)?;
        (self.hashing, self.writeback) = (Hashing::new(hasher), Writeback::starting_at(len));
        Ok(Some(len))
    }

    /// Appends what a dropped writer had gathered. What fails costs a resume some bytes and no more.
    fn keep(self, batch: &[Bytes]) {
        let noted = self.facts.as_ref().map_or(Ok(()), |facts| self.locked.note(facts));
        if let Err(error) = noted.and_then(|()| write_all(&self.file, batch)) {
            tracing::debug!(reference = self.reference, %error, "keeping the progress of a dropped writer");
        }
    }

    fn truncate(&mut self) -> Result<()> {
        let cannot = || format!("cannot truncate ingest {:?}", self.reference);
        // Who follows what is gone with this has to begin anew, and to know before anything else is there.
        self.mark = Mark::starting_at(0);
        self.file.set_len(0).context(cannot)?;
        (&*self.file).seek(SeekFrom::Start(0)).context(cannot)?;
        self.hashing = Hashing::new(Hasher::new(self.hashing.hasher().algorithm()));
        self.reserve.restart();
        self.writeback = Writeback::starting_at(0);
        Ok(())
    }

    fn sync(&mut self) -> Result<()> {
        let cannot = || format!("cannot make the progress of ingest {:?} durable", self.reference);
        if let Some(facts) = self.facts.take() {
            self.locked.note(&facts).context(cannot)?;
        }
        self.inner.durability.sync(&self.file).context(cannot)?;
        self.locked.touch(self.inner.now()).context(cannot)
    }

    /// Verifies what was written; an error leaves the ingest as it is.
    fn verify(&mut self, size: Option<u64>, expected: Option<&Digest>) -> Result<Digest> {
        let found =
            self.file.metadata().context(|| format!("cannot read ingest {:?}", self.reference))?.len();
        if let Some(size) = size.filter(|size| *size != found) {
            return Err(Error::failed_precondition(format!(
                "size mismatch for {}: expected {size} bytes, found {found}",
                expected.map_or(self.reference.as_str(), Digest::as_str)
            )));
        }
        let mut hasher = self.hashing.hasher();
        if let Some(expected) = expected
            && expected.algorithm() != hasher.algorithm()
        {
            hasher = rehash(&self.file, expected.algorithm())
                .context(|| format!("cannot read ingest {:?}", self.reference))?;
            self.hashing = Hashing::new(hasher.clone());
        }
        let digest = hasher.finish();
        match expected {
            Some(expected) if *expected != digest => Err(Error::failed_precondition(format!(
                "digest mismatch: expected {expected}, found {digest}"
            ))),
            _ => Ok(digest),
        }
    }

    /// Sync, rename, sync the directory, database: in this order (see the module `local`).
    fn publish(&self, digest: &Digest, options: &CommitOptions) -> Result<()> {
        let cannot = || format!("cannot commit {digest}");
        let gate = self.inner.metadata.share()?;
        if blob::exists(&self.inner, digest)? {
            return self.give_way(digest);
        }
        // Syncing takes long, and needs nothing of the store to stand still.
        drop(gate);
        if self.reserve.is_beyond(self.writeback.end()) {
            self.file.set_len(self.writeback.end()).context(cannot)?;
        }
        self.file.set_permissions(fs::Permissions::from_mode(0o444)).context(cannot)?;
        self.inner.durability.sync(&self.file).context(cannot)?;
        let job = publish::Job {
            data: self.locked.dir.join(ingest::DATA),
            digest: digest.clone(),
            labels: options.labels.clone(),
            lease: self.lease.clone(),
        };
        if !publish::publish(&self.inner, job)? {
            let _gate = self.inner.metadata.share()?;
            return self.give_way(digest);
        }
        self.locked.remove().context(cannot)
    }

    /// Ends an ingest whose content somebody else has committed. Called with the gate shared.
    fn give_way(&self, digest: &Digest) -> Result<()> {
        // What stands there may be no blob.
        blob::exists(&self.inner, digest)?;
        hold(&self.inner, self.lease.as_deref(), digest)?;
        self.locked.remove().context(|| format!("cannot commit {digest}"))?;
        Err(Error::already_exists(format!("content {digest} is already in the store")))
    }
}

/// Attaches a blob to the lease under which it is written.
fn hold(inner: &Inner, lease: Option<&str>, digest: &Digest) -> Result<()> {
    let Some(lease) = lease else { return Ok(()) };
    let resource = Resource::Content(digest.clone());
    inner.metadata.write_blocking(|connection| leases::add(connection, lease, &[resource]))
}

/// Writes all chunks in as few calls as the system allows.
fn write_all(mut file: &File, batch: &[Bytes]) -> io::Result<()> {
    let mut slices: Vec<IoSlice<'_>> = batch.iter().map(|bytes| IoSlice::new(bytes)).collect();
    let mut rest = &mut slices[..];
    IoSlice::advance_slices(&mut rest, 0);
    while !rest.is_empty() {
        let most = rest.len().min(1024);
        match file.write_vectored(&rest[..most]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut rest, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

impl LocalWriter {
    fn closed(&self) -> Error {
        Error::failed_precondition(format!("the writer of ingest {:?} is closed", self.status.reference))
    }

    /// Waits for the batch that is being written. Safe to drop: the batch goes on and can be waited for again.
    async fn settle(&mut self) -> Result<()> {
        if let Phase::Writing(job) = &mut self.phase {
            let finished = job.await;
            self.phase = Phase::Closed;
            let core = finished
                .map_err(|error| Error::internal("a writing thread ended early").with_source(error))?;
            self.phase = Phase::Idle(core?);
        }
        Ok(())
    }

    /// Hands the gathered chunks to a blocking thread, after the batch before them.
    async fn flush(&mut self) -> Result<()> {
        self.settle().await?;
        if self.batch.is_empty() {
            return Ok(());
        }
        let Phase::Idle(mut core) = mem::replace(&mut self.phase, Phase::Closed) else {
            return Err(self.closed());
        };
        let (batch, len) = (mem::take(&mut self.batch), mem::take(&mut self.batch_len));
        self.phase = Phase::Writing(task::spawn_blocking(move || {
            core.append(&batch, len)?;
            Ok(core)
        }));
        Ok(())
    }

    /// Waits until everything is written, and gives the core out.
    async fn take_core(&mut self) -> Result<Box<Core>> {
        self.flush().await?;
        self.settle().await?;
        match mem::replace(&mut self.phase, Phase::Closed) {
            Phase::Idle(core) => Ok(core),
            _ => Err(self.closed()),
        }
    }
}

impl Drop for LocalWriter {
    /// Writes what was gathered, which is part of the progress. While the batch before it is being written this goes on in the
    /// background, with the ingest locked.
    fn drop(&mut self) {
        let batch = mem::take(&mut self.batch);
        if batch.is_empty() {
            return;
        }
        match mem::replace(&mut self.phase, Phase::Closed) {
            // A batch at most, into memory of the system: over sooner than a thread has begun.
            Phase::Idle(core) => core.keep(&batch),
            Phase::Writing(job) => {
                if let Ok(runtime) = Handle::try_current() {
                    runtime.spawn(async move {
                        if let Ok(Ok(core)) = job.await {
                            drop(task::spawn_blocking(move || core.keep(&batch)).await);
                        }
                    });
                }
            }
            Phase::Closed => {}
        }
    }
}

#[async_trait]
impl Writer for LocalWriter {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        if matches!(self.phase, Phase::Closed) {
            return Err(self.closed());
        }
        if self.batch_len >= BATCH_LEN {
            self.flush().await?;
        }
        self.status.offset += bytes.len() as u64;
        self.batch_len += bytes.len();
        self.batch.push(bytes);
        Ok(())
    }

    async fn share(&mut self, file: &File) -> Result<bool> {
        if matches!(self.phase, Phase::Closed) {
            return Err(self.closed());
        }
        let Some(source) = file.try_clone().ok().filter(|_| self.status.offset == 0) else {
            return Ok(false);
        };
        let mut core = self.take_core().await?;
        let (core, shared) = blocking::run(move || {
            let shared = core.share(&source)?;
            Ok((core, shared))
        })
        .await?;
        self.phase = Phase::Idle(core);
        self.status.offset = shared.unwrap_or(0);
        Ok(shared.is_some())
    }

    fn status(&self) -> Status {
        self.status.clone()
    }

    fn follow(&self) -> Option<Arc<dyn BlobReader>> {
        Some(Arc::new(self.following.reader(self.status.total?, &self.status.reference)))
    }

    async fn digest(&mut self) -> Result<Digest> {
        let core = self.take_core().await?;
        let digest = core.hashing.hasher().finish();
        self.phase = Phase::Idle(core);
        Ok(digest)
    }

    async fn truncate(&mut self, size: u64) -> Result<()> {
        if size != 0 {
            return Err(Error::invalid_argument(format!(
                "an ingest can be truncated to 0 only, not to {size}"
            )));
        }
        // Nothing is thrown away before all of it can be: until then the status holds.
        self.settle().await?;
        let Phase::Idle(mut core) = mem::replace(&mut self.phase, Phase::Closed) else {
            return Err(self.closed());
        };
        self.batch.clear();
        self.batch_len = 0;
        let core = blocking::run(move || {
            core.truncate()?;
            Ok(core)
        })
        .await?;
        self.following = core.mark.following(&core.file);
        self.phase = Phase::Idle(core);
        self.status.offset = 0;
        Ok(())
    }

    async fn commit(
        &mut self,
        size: Option<u64>,
        expected: Option<&Digest>,
        options: CommitOptions,
    ) -> Result<Digest> {
        let mut core = self.take_core().await?;
        if let Err(error) = labels::validate(&options.labels) {
            self.phase = Phase::Idle(core);
            return Err(error);
        }
        let expected = expected.or(self.status.expected.as_ref()).cloned();
        let inner = Arc::clone(&core.inner);
        let publish = move || {
            let verified = core.verify(size, expected.as_ref());
            match verified {
                Ok(digest) => {
                    core.mark.verified();
                    Ok((None, core.publish(&digest, &options).map(|()| digest)))
                }
                Err(error) => Ok((Some(core), Err(error))),
            }
        };
        let (kept, result) = inner.metadata.change(publish).await?;
        // What failed verification stays open for a truncate and another try.
        if let Some(core) = kept {
            self.phase = Phase::Idle(core);
        }
        result
    }

    async fn sync(&mut self) -> Result<bool> {
        let mut core = self.take_core().await?;
        let core = blocking::run(move || {
            core.sync()?;
            Ok(core)
        })
        .await?;
        self.phase = Phase::Idle(core);
        Ok(true)
    }

    async fn close(&mut self) -> Result<()> {
        let mut core = match self.take_core().await {
            Ok(core) => core,
            Err(error) if error.kind() == ErrorKind::FailedPrecondition => return Ok(()),
            Err(error) => return Err(error),
        };
        blocking::run(move || core.sync()).await
    }
}
