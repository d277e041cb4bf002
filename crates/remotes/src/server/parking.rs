//! Uploads between two requests: their writers stay open for a while.
//!
//! A writer that is opened on what is there reads and hashes all of it again; one that was kept just goes on, so that every byte is hashed
//! once, however many requests bring it. What is kept is durable already, and letting go of it is dropping it: nothing is lost but the
//! work. Until then the ingest is locked, to other processes as well, as if a request were at work on it.

use std::{
    collections::HashMap,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use async_trait::async_trait;
use tokio::{task::AbortHandle, time::Instant};
use wharf_content::{ErrorKind, IngestOptions, Ingester, Result, Store, Writer};

use super::keep::Kept;

/// The most writers that are kept, each with two file descriptors; one more and the one that waits the longest is let go.
const PLACES: usize = 64;

/// Opens writers for uploads, the kept ones first.
#[derive(Debug)]
pub(super) struct Parking {
    store: Arc<dyn Store>,
    idle: Duration,
    /// By the name of the ingest.
    parked: Arc<Mutex<HashMap<String, Parked>>>,
}

#[derive(Debug)]
struct Parked {
    writer: Box<dyn Writer>,
    /// The lease under which it was opened.
    lease: Option<Kept>,
    since: Instant,
    _timer: Timer,
}

/// A task that ends when it is of no more use.
#[derive(Debug)]
struct Timer(AbortHandle);

impl Drop for Timer {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Parking {
    /// Keeps writers for `idle`; none where that is nothing.
    pub(super) fn new(store: Arc<dyn Store>, idle: Duration) -> Self {
        Self { store, idle, parked: Arc::default() }
    }

    /// Makes the progress durable, and keeps the writer, which was opened under `lease`, for the next request. One that cannot be kept is closed.
    pub(super) async fn park(&self, mut writer: Box<dyn Writer>, lease: Option<Kept>) -> Result<()> {
        let is_kept = !self.idle.is_zero()
            && match writer.sync().await {
                // It was closed by what failed before this.
                Err(error) if error.kind() == ErrorKind::FailedPrecondition => false,
                synced => synced?,
            };
        if !is_kept {
            return writer.close().await;
        }
        let reference = writer.status().reference;
        let since = Instant::now();
        let timer = self.release_later(reference.clone(), since);
        let parked = Parked { writer, lease, since, _timer: timer };
        let mut places = self.places();
        if places.len() >= PLACES
            && let Some(longest) =
                places.iter().min_by_key(|(_, parked)| parked.since).map(|(reference, _)| reference.clone())
        {
            places.remove(&longest);
        }
        places.insert(reference, parked);
        Ok(())
    }

    /// Lets go of an upload, so that its ingest is free unless a request has it.
    pub(super) fn release(&self, reference: &str) {
        let released = self.places().remove(reference);
        drop(released);
    }

    /// Lets go of everything.
    pub(super) fn release_all(&self) {
        let released = mem::take(&mut *self.places());
        drop(released);
    }

    fn release_later(&self, reference: String, since: Instant) -> Timer {
        let (idle, parked) = (self.idle, Arc::downgrade(&self.parked));
        let task = tokio::spawn(async move {
            tokio::time::sleep(idle).await;
            let Some(parked) = Weak::upgrade(&parked) else { return };
            let mut places = lock(&parked);
            // What was taken and parked again since has a timer of its own.
            if places.get(&reference).is_some_and(|parked| parked.since <= since) {
                places.remove(&reference);
            }
        });
        Timer(task.abort_handle())
    }

    fn places(&self) -> MutexGuard<'_, HashMap<String, Parked>> {
        lock(&self.parked)
    }
}

fn lock(parked: &Mutex<HashMap<String, Parked>>) -> MutexGuard<'_, HashMap<String, Parked>> {
    parked.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl Ingester for Parking {
    async fn writer(&self, options: IngestOptions) -> Result<Box<dyn Writer>> {
        let parked = self.places().remove(&options.reference);
        match parked {
            Some(parked) if parked.lease.as_ref().map(Kept::id) == options.lease.as_deref() => {
                Ok(parked.writer)
            }
            // Its lease has been followed by another one, or somebody has removed it: what is committed would not be held.
            other => {
                drop(other);
                self.store.writer(options).await
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use wharf_content::{CommitOptions, Digest, IngestManager, MemoryStore};

    use super::*;

    const IDLE: Duration = Duration::from_secs(10);

    fn parking() -> (Arc<MemoryStore>, Parking) {
        let store = Arc::new(MemoryStore::new());
        (Arc::clone(&store), Parking::new(store, IDLE))
    }

    async fn park(parking: &Parking, reference: &str) {
        let writer = parking.writer(IngestOptions::new(reference)).await.expect("opens");
        parking.park(writer, None).await.expect("parks");
    }

    async fn is_free(store: &MemoryStore, reference: &str) -> bool {
        store.writer(IngestOptions::new(reference)).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn a_writer_is_kept_until_it_was_idle_for_long() {
        let (store, parking) = parking();
        park(&parking, "a").await;
        for _ in 0..3 {
            tokio::time::sleep(IDLE * 9 / 10).await;
            assert!(!is_free(&store, "a").await, "somebody else has to wait");
            // Each use begins the time anew.
            park(&parking, "a").await;
        }
        tokio::time::sleep(IDLE + Duration::from_secs(1)).await;
        assert!(is_free(&store, "a").await);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_in_use_is_not_let_go() {
        let (store, parking) = parking();
        park(&parking, "a").await;
        let mut writer = parking.writer(IngestOptions::new("a")).await.expect("takes");
        tokio::time::sleep(IDLE * 2).await;
        parking.release("a");
        parking.release_all();
        writer.write(Bytes::from_static(b"x")).await.expect("writes");
        assert!(!is_free(&store, "a").await);
        let digest = Digest::sha256(b"x");
        writer.commit(None, Some(&digest), CommitOptions::default()).await.expect("commits");
        parking.park(writer, None).await.expect("there is nothing to be kept");
        assert!(store.status("a").await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn places_are_few_and_go_to_the_latest() {
        let (store, parking) = parking();
        for number in 0..=PLACES {
            park(&parking, &number.to_string()).await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(is_free(&store, "0").await);
        for number in 1..=PLACES {
            assert!(!is_free(&store, &number.to_string()).await, "{number}");
        }
        parking.release("1");
        assert!(is_free(&store, "1").await);
        assert!(!is_free(&store, "2").await);
        parking.release_all();
        assert!(is_free(&store, "2").await);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_kept_for_no_time_or_by_nobody() {
        let (store, parking) = parking();
        park(&parking, "a").await;
        drop(parking);
        assert!(is_free(&store, "a").await);
        let parking = Parking::new(Arc::clone(&store) as _, Duration::ZERO);
        park(&parking, "b").await;
        assert!(is_free(&store, "b").await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_writer_under_another_lease_is_opened_anew() {
        let (store, parking) = parking();
        park(&parking, "a").await;
        let mut options = IngestOptions::new("a");
        options.lease = Some("new".to_owned());
        // By this the old one and a new one can be told apart.
        options.total = Some(3);
        let opened = parking.writer(options).await.expect("the old one has gone");
        assert_eq!(opened.status().total, Some(3));
        drop(opened);
        assert!(is_free(&store, "a").await);
    }
}
