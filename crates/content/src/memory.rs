//! A content store in memory, for tests and for programs that keep nothing.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Debug,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};

use crate::{
    descriptor::Descriptor,
    digest::{Algorithm, Digest},
    error::{Error, Result},
    filter::FilterSet,
    labels::{self, Labels},
    store::{
        BlobReader, CommitOptions, Info, IngestManager, IngestOptions, Ingester, Manager, Provider, Status,
        Store, Visit, Writer,
    },
};

/// The store. Clones share their content.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    blobs: HashMap<Digest, (Info, Bytes)>,
    ingests: BTreeMap<String, Ingest>,
}

#[derive(Debug)]
struct Ingest {
    status: Status,
    /// Taken out while a writer has the ingest.
    data: Option<BytesMut>,
}

impl MemoryStore {
    /// Makes an empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held; were it so, each single change is complete in itself.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn absent(digest: &Digest) -> Error {
    Error::not_found(format!("content {digest} is not in the store"))
}

fn present(digest: &Digest) -> Error {
    Error::already_exists(format!("content {digest} is already in the store"))
}

#[async_trait]
impl BlobReader for Bytes {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.len());
        let end = start.saturating_add(len).min(self.len());
        Ok(self.slice(start..end))
    }
}

#[async_trait]
impl Provider for MemoryStore {
    async fn reader(&self, descriptor: &Descriptor) -> Result<Arc<dyn BlobReader>> {
        let state = self.lock();
        let (_, bytes) = state.blobs.get(&descriptor.digest).ok_or_else(|| absent(&descriptor.digest))?;
        Ok(Arc::new(bytes.clone()))
    }
}

#[async_trait]
impl Ingester for MemoryStore {
    async fn writer(&self, options: IngestOptions) -> Result<Box<dyn Writer>> {
        let IngestOptions { reference, digest, algorithm, total, .. } = options;
        if reference.is_empty() {
            return Err(Error::invalid_argument("an ingest needs a reference"));
        }
        let mut state = self.lock();
        if let Some(digest) = digest.as_ref().filter(|digest| state.blobs.contains_key(*digest)) {
            return Err(present(digest));
        }
        let now = SystemTime::now();
        let ingest = state
            .ingests
            .entry(reference.clone())
            .or_insert_with(|| Ingest { status: Status::new(&*reference, now), data: Some(BytesMut::new()) });
        let Some(mut data) = ingest.data.take() else {
            return Err(Error::unavailable(format!(
                "ingest {reference:?} is locked: another writer is at work on it"
            )));
        };
        if let (Some(before), Some(total)) = (ingest.status.total, total)
            && before != total
        {
            data.clear();
            ingest.status.started_at = now;
        }
        ingest.status.offset = data.len() as u64;
        ingest.status.total = total.or(ingest.status.total);
        ingest.status.updated_at = now;
        let mut status = ingest.status.clone();
        status.offset = data.len() as u64;
        status.expected = digest;
        Ok(Box::new(MemoryWriter { store: self.clone(), status, algorithm, data: Some(data) }))
    }
}

#[derive(Debug)]
struct MemoryWriter {
    store: MemoryStore,
    status: Status,
    /// That of a digest that nobody has named.
    algorithm: Algorithm,
    data: Option<BytesMut>,
}

impl MemoryWriter {
    fn data(&mut self) -> Result<&mut BytesMut> {
        let reference = &self.status.reference;
        self.data.as_mut().ok_or_else(|| {
            Error::failed_precondition(format!("the writer of ingest {reference:?} is closed"))
        })
    }

    fn give_back(&mut self) {
        if let Some(data) = self.data.take()
            && let Some(ingest) = self.store.lock().ingests.get_mut(&self.status.reference)
        {
            ingest.status.offset = data.len() as u64;
            ingest.status.updated_at = SystemTime::now();
            ingest.data = Some(data);
        }
    }
}

impl Drop for MemoryWriter {
    fn drop(&mut self) {
        self.give_back();
    }
}

#[async_trait]
impl Writer for MemoryWriter {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.data()?.extend_from_slice(&bytes);
        self.status.offset += bytes.len() as u64;
        if let Some(ingest) = self.store.lock().ingests.get_mut(&self.status.reference) {
            ingest.status.offset = self.status.offset;
        }
        Ok(())
    }

    fn status(&self) -> Status {
        self.status.clone()
    }

    async fn digest(&mut self) -> Result<Digest> {
        let algorithm = self.status.expected.as_ref().map_or(self.algorithm, Digest::algorithm);
        Ok(algorithm.digest(self.data()?))
    }

    async fn truncate(&mut self, size: u64) -> Result<()> {
        if size != 0 {
            return Err(Error::invalid_argument(format!(
                "an ingest can be truncated to 0 only, not to {size}"
            )));
        }
        self.data()?.clear();
        self.status.offset = 0;
        if let Some(ingest) = self.store.lock().ingests.get_mut(&self.status.reference) {
            ingest.status.offset = 0;
        }
        Ok(())
    }

    async fn commit(
        &mut self,
        size: Option<u64>,
        expected: Option<&Digest>,
        options: CommitOptions,
    ) -> Result<Digest> {
        let expected = expected.or(self.status.expected.as_ref()).cloned();
        let algorithm = expected.as_ref().map_or(self.algorithm, Digest::algorithm);
        let data = self.data()?;
        labels::validate(&options.labels)?;
        let found = data.len() as u64;
        if let Some(size) = size.filter(|size| *size != found) {
            return Err(Error::failed_precondition(format!(
                "size mismatch: expected {size} bytes, found {found}"
            )));
        }
        let digest = algorithm.digest(data);
        if let Some(expected) = expected.filter(|expected| *expected != digest) {
            return Err(Error::failed_precondition(format!(
                "digest mismatch: expected {expected}, found {digest}"
            )));
        }
        let bytes = mem::take(data).freeze();
        self.data = None;
        let mut state = self.store.lock();
        state.ingests.remove(&self.status.reference);
        if state.blobs.contains_key(&digest) {
            return Err(present(&digest));
        }
        let mut info = Info::new(digest.clone(), found, SystemTime::now());
        info.labels = options.labels;
        state.blobs.insert(digest.clone(), (info, bytes));
        Ok(digest)
    }

    async fn sync(&mut self) -> Result<bool> {
        self.data()?;
        Ok(true)
    }

    async fn close(&mut self) -> Result<()> {
        self.give_back();
        Ok(())
    }
}

#[async_trait]
impl Manager for MemoryStore {
    async fn info(&self, digest: &Digest) -> Result<Info> {
        self.lock().blobs.get(digest).map(|(info, _)| info.clone()).ok_or_else(|| absent(digest))
    }

    async fn update(&self, digest: &Digest, wanted: &Labels, fieldpaths: &[&str]) -> Result<Info> {
        let mut state = self.lock();
        let (info, _) = state.blobs.get_mut(digest).ok_or_else(|| absent(digest))?;
        let mut changed = info.labels.clone();
        labels::apply(&mut changed, wanted, fieldpaths)?;
        info.labels = changed;
        info.updated_at = SystemTime::now();
        Ok(info.clone())
    }

    async fn walk(&self, filters: &FilterSet, visit: &mut Visit<'_>) -> Result<()> {
        let infos: Vec<Info> = self.lock().blobs.values().map(|(info, _)| info.clone()).collect();
        infos.into_iter().filter(|info| filters.matches(info)).try_for_each(visit)
    }

    async fn delete(&self, digest: &Digest) -> Result<()> {
        self.lock().blobs.remove(digest).map(drop).ok_or_else(|| absent(digest))
    }
}

#[async_trait]
impl IngestManager for MemoryStore {
    async fn status(&self, reference: &str) -> Result<Status> {
        let state = self.lock();
        let ingest = state.ingests.get(reference);
        ingest.map(|ingest| ingest.status.clone()).ok_or_else(|| absent_ingest(reference))
    }

    async fn list_statuses(&self, filters: &FilterSet) -> Result<Vec<Status>> {
        let state = self.lock();
        let statuses = state.ingests.values().map(|ingest| ingest.status.clone());
        Ok(statuses.filter(|status| filters.matches(status)).collect())
    }

    async fn abort(&self, reference: &str) -> Result<()> {
        let mut state = self.lock();
        let ingest = state.ingests.get(reference).ok_or_else(|| absent_ingest(reference))?;
        if ingest.data.is_none() {
            return Err(Error::unavailable(format!(
                "ingest {reference:?} is locked: another writer is at work on it"
            )));
        }
        state.ingests.remove(reference);
        Ok(())
    }
}

fn absent_ingest(reference: &str) -> Error {
    Error::not_found(format!("there is no ingest {reference:?}"))
}

impl Store for MemoryStore {}
