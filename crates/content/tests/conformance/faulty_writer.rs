//! The faults of writers.

use std::{mem, sync::atomic::Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::FutureExt;
use tokio::task::yield_now;
use wharf_content::{
    CommitOptions, Digest, Error, ErrorKind, IngestManager, IngestOptions, Ingester, Manager, Result, Status,
    Writer,
};

use super::faulty::{Fault, Faulty};

/// A writer that is never given back unless it is done.
pub(super) struct LockedForEver(Option<Box<dyn Writer>>);

impl LockedForEver {
    pub(super) fn new(writer: Box<dyn Writer>) -> Self {
        Self(Some(writer))
    }

    pub(super) fn done(mut self) -> Box<dyn Writer> {
        self.0.take().expect("taken once")
    }
}

impl Drop for LockedForEver {
    fn drop(&mut self) {
        mem::forget(self.0.take());
    }
}

/// The writer of a [`Faulty`] store.
#[derive(Debug)]
pub(super) struct FaultyWriter {
    inner: Option<Box<dyn Writer>>,
    store: Faulty,
    options: IngestOptions,
    content: Vec<u8>,
    last: Bytes,
    writes: u32,
    opened_at: u64,
    status: Status,
    is_closed: bool,
    has_failed: bool,
}

impl FaultyWriter {
    pub(super) fn new(inner: Box<dyn Writer>, store: Faulty, options: IngestOptions) -> Self {
        store.open.fetch_add(1, Ordering::Relaxed);
        Self {
            opened_at: inner.status().offset,
            status: inner.status(),
            inner: Some(inner),
            store,
            options,
            content: Vec::new(),
            last: Bytes::new(),
            writes: 0,
            is_closed: false,
            has_failed: false,
        }
    }

    fn has(&self, fault: Fault) -> bool {
        self.store.fault == fault
    }

    fn inner(&mut self) -> Result<&mut Box<dyn Writer>> {
        self.inner.as_mut().ok_or_else(|| Error::failed_precondition("closed"))
    }

    async fn verify(
        &mut self,
        size: Option<u64>,
        expected: Option<&Digest>,
        options: CommitOptions,
    ) -> Result<Digest> {
        let mut expected = expected.cloned();
        let mut size = size;
        let reference = self.options.reference.clone();
        match self.store.fault {
            Fault::NeedsDigest if expected.is_none() && self.options.digest.is_none() => {
                return Err(Error::not_implemented("what is not expected cannot be committed"));
            }
            Fault::ForgetsExpectation if expected.is_none() => {
                let digest = self.inner()?.digest().await?;
                expected = Some(digest);
            }
            Fault::SmallerIsFine if size.is_some_and(|size| size < self.content.len() as u64) => size = None,
            Fault::NoEmptyBlobs if size == Some(0) && self.writes == 0 => {
                return Err(Error::failed_precondition("nothing was written"));
            }
            Fault::OneAlgorithm => {
                let algorithm = self.inner()?.digest().await?.algorithm();
                let found = expected.as_ref().map_or(algorithm, Digest::algorithm);
                if algorithm != found {
                    return Err(Error::failed_precondition("another algorithm"));
                }
            }
            Fault::CancelledCommitLoses if self.opened_at == 0 => {
                let content = Bytes::from(self.content.clone());
                self.inner()?.truncate(0).await?;
                yield_now().await;
                self.inner()?.write(content).await?;
            }
            _ => {}
        }
        let result = self.inner()?.commit(size, expected.as_ref(), options).await;
        if matches!(&result, Err(error) if error.kind() == ErrorKind::AlreadyExists)
            && self.has(Fault::KeepsIngestOfExisting)
        {
            self.store.inner.writer(IngestOptions::new(reference)).await?.close().await?;
        }
        result
    }
}

impl Drop for FaultyWriter {
    fn drop(&mut self) {
        self.store.open.fetch_sub(1, Ordering::Relaxed);
        self.inner = None;
        if self.has(Fault::DropLoses) && self.writes == 3 && !self.is_closed {
            drop(self.store.inner.abort(&self.options.reference).now_or_never());
        }
    }
}

#[async_trait]
impl Writer for FaultyWriter {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        if self.is_closed && self.has(Fault::WritesAfterClose) {
            return Ok(());
        }
        self.status = self.inner()?.status();
        if self.has(Fault::CancelledWriteLies) {
            let half = bytes.len() / 2;
            self.inner()?.write(bytes.slice(..half)).await?;
            yield_now().await;
            self.inner()?.write(bytes.slice(half..)).await?;
        } else {
            self.inner()?.write(bytes.clone()).await?;
        }
        let reference = self.options.reference.clone();
        self.store.state().written.insert(reference);
        self.content.extend_from_slice(&bytes);
        self.last = bytes;
        self.writes += 1;
        if !(self.has(Fault::StatusLags) && self.writes == 4 && self.last.len() < 500_000) {
            self.status = self.inner()?.status();
        }
        if self.has(Fault::ProgressReadable)
            && let Some(digest) = self.options.digest.clone()
        {
            let content = Bytes::from(self.content.clone());
            if digest.algorithm().digest(&content) == digest {
                self.store.state().pending.insert(digest, content);
            }
        }
        Ok(())
    }

    fn status(&self) -> Status {
        self.status.clone()
    }

    async fn digest(&mut self) -> Result<Digest> {
        let digest = self.inner()?.digest().await?;
        if self.has(Fault::DigestOfLastWrite) && !self.content.is_empty() {
            return Ok(digest.algorithm().digest(&self.last));
        }
        Ok(digest)
    }

    async fn truncate(&mut self, size: u64) -> Result<()> {
        if self.has_failed && self.has(Fault::FailedCommitIsFinal) {
            return Err(Error::failed_precondition("the commit has failed"));
        }
        if size != 0 && self.has(Fault::TruncatesAnywhere) {
            return Ok(());
        }
        if size == 0 && self.has(Fault::CancelledTruncateHalf) {
            let half = Bytes::from(self.content[..self.content.len() / 2].to_vec());
            self.inner()?.truncate(0).await?;
            self.inner()?.write(half).await?;
            yield_now().await;
        }
        self.inner()?.truncate(size).await?;
        self.content.clear();
        if !self.has(Fault::OffsetAfterTruncate) {
            self.status = self.inner()?.status();
        }
        Ok(())
    }

    async fn commit(
        &mut self,
        size: Option<u64>,
        expected: Option<&Digest>,
        mut options: CommitOptions,
    ) -> Result<Digest> {
        let wanted = options.labels.clone();
        if self.has(Fault::DropsLabels) && wanted.len() == 3 {
            options.labels.clear();
        }
        let result = self.verify(size, expected, options).await;
        match &result {
            Ok(digest) => {
                self.is_closed = true;
                let grave = self.store.state().graves.remove(digest);
                if let Some(labels) = grave {
                    self.store.inner.update(digest, &labels, &[]).await?;
                }
                let mut state = self.store.state();
                state.pending.remove(digest);
                state.committed.insert(self.options.reference.clone());
            }
            Err(error) if error.kind() == ErrorKind::FailedPrecondition => {
                self.has_failed = true;
                if self.has(Fault::FailedCommitLoses) && self.inner.is_some() {
                    drop(self.inner()?.truncate(0).await);
                }
                if self.has(Fault::FailedCommitUnlocks) && self.options.digest.is_none() {
                    self.inner()?.close().await?;
                }
            }
            Err(_) => {}
        }
        result
    }

    async fn sync(&mut self) -> Result<bool> {
        if self.has(Fault::SyncUnlocks) {
            self.inner()?.close().await?;
            return Ok(true);
        }
        self.inner()?.sync().await
    }

    async fn close(&mut self) -> Result<()> {
        if self.is_closed && self.has(Fault::SecondCloseFails) && self.options.reference == "close" {
            return Err(Error::failed_precondition("closed"));
        }
        self.is_closed = true;
        if self.has(Fault::CancelledCloseLocks) {
            let Some(inner) = self.inner.take() else { return Ok(()) };
            let guard = LockedForEver::new(inner);
            yield_now().await;
            self.inner = Some(guard.done());
        }
        match &mut self.inner {
            Some(inner) => inner.close().await,
            None => Ok(()),
        }
    }
}
