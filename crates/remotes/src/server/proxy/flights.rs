//! Blobs on their way from the upstream: each fetched by one task, and read by all who want it while it arrives.
//!
//! ```text
//! upstream ──> one task ──> ingest ──> commit ──> store
//!                             │
//!                             └── read along by every client, which waits at its growing end, and before the last piece for the commit
//! ```

use std::{
    collections::HashMap,
    fmt,
    num::NonZeroUsize,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
};
use wharf_content::{
    BlobReader, Descriptor, Digest, Error, ErrorKind, Result, follow::Follower, reading::CHUNK_LEN,
};
use wharf_images::progress::{Event, Sink};

use super::{calls::Outcome, fetch::Counted};
use crate::server::names::Repository;

/// The most that are waited for, those that arrive among them.
const MAX_KNOWN: usize = 1024;

/// How far a blob is.
#[derive(Clone, Debug, Default)]
pub(super) enum State {
    /// Nothing came yet.
    #[default]
    Asked,
    /// Its first bytes are here.
    Arriving(Arc<dyn BlobReader>),
    /// It is in the store, or will not be.
    Ended(Outcome<()>),
}

/// What who waits for a blob gets.
pub(super) enum Landing {
    /// It is in the store.
    Stored,
    /// It can be read while it arrives.
    Arriving(Arc<dyn BlobReader>),
}

/// A blob, and its size as the repository tells it that it is asked for in: who was told another one reads nothing along. The repository
/// itself is none of it, as a blob is the same in all of them.
type Key = (Digest, u64);

struct Known {
    /// Whose it is asked for as.
    owner: Repository,
    state: watch::Receiver<State>,
}

/// The blobs that are on their way. Dropped, they all end.
pub(super) struct Flights {
    known: Arc<Mutex<HashMap<Key, Known>>>,
    tasks: Mutex<JoinSet<()>>,
    slots: Arc<Semaphore>,
}

impl Flights {
    /// Lets so many blobs arrive at once. Each has two batches of its writer in memory.
    pub(super) fn new(most: NonZeroUsize) -> Self {
        let slots = Arc::new(Semaphore::new(most.get().min(Semaphore::MAX_PERMITS)));
        Self { known: Arc::default(), tasks: Mutex::default(), slots }
    }

    /// Joins the flight of a blob, for which `fly` is called where there is none; `None` where there are too many.
    pub(super) fn join<F>(
        &self,
        key: &Key,
        repository: &Repository,
        fly: impl FnOnce(watch::Sender<State>) -> F,
    ) -> Option<Flight>
    where
        F: Future<Output = Outcome<()>> + Send + 'static,
    {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        // A task that panicked has left its entry.
        known.retain(|_, known| known.state.has_changed().is_ok());
        if let Some(Known { owner, state }) = known.get(key) {
            return Some(Flight { owner: owner.clone(), state: state.clone() });
        }
        if known.len() >= MAX_KNOWN {
            return None;
        }
        let (sender, state) = watch::channel(State::default());
        known.insert(key.clone(), Known { owner: repository.clone(), state: state.clone() });
        drop(known);
        let (known, slots, key) = (Arc::clone(&self.known), Arc::clone(&self.slots), key.clone());
        let flown = fly(sender.clone());
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(async move {
            // The semaphore is never closed.
            let _slot = slots.acquire_owned().await.ok();
            let outcome = flown.await;
            // Who comes now finds it in the store, or asks anew.
            known.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
            sender.send_replace(State::Ended(outcome));
        });
        Some(Flight { owner: repository.clone(), state })
    }

    /// The size of a blob that arrives for a repository.
    pub(super) fn size(&self, digest: &Digest, repository: &Repository) -> Option<u64> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let arrives =
            |known: &Known| known.owner == *repository && matches!(*known.state.borrow(), State::Arriving(_));
        known.iter().find(|(key, known)| key.0 == *digest && arrives(known)).map(|(key, _)| key.1)
    }
}

/// A blob on its way.
pub(super) struct Flight {
    owner: Repository,
    state: watch::Receiver<State>,
}

impl Flight {
    /// Whether it is this repository that it is asked for as.
    pub(super) fn is_of(&self, repository: &Repository) -> bool {
        self.owner == *repository
    }

    /// Waits for its first bytes, and for the last ones of a small blob, so that an error can still be answered as one.
    pub(super) async fn landing(mut self) -> Outcome<Landing> {
        let is_told = |state: &State| match state {
            State::Asked => false,
            State::Arriving(reader) => reader.size() > CHUNK_LEN as u64,
            State::Ended(_) => true,
        };
        let state = self.state.wait_for(is_told).await.map(|state| state.clone());
        match state {
            Ok(State::Ended(outcome)) => outcome.map(|()| Landing::Stored),
            Ok(State::Arriving(reader)) => {
                // Where it has begun anew since, this one reads what is gone.
                if reader.read_at(0, 1).await.is_err_and(|error| error.kind() == ErrorKind::Aborted) {
                    return self.ended().await;
                }
                Ok(Landing::Arriving(Arc::new(Arriving { reader, state: self.state })))
            }
            Ok(State::Asked) | Err(_) => Err(Arc::new(given_up())),
        }
    }

    async fn ended(mut self) -> Outcome<Landing> {
        match self.state.wait_for(|state| matches!(state, State::Ended(_))).await.map(|state| state.clone()) {
            Ok(State::Ended(outcome)) => outcome.map(|()| Landing::Stored),
            _ => Err(Arc::new(given_up())),
        }
    }
}

fn given_up() -> Error {
    Error::new(ErrorKind::Aborted, "the fetch of a blob was given up")
}

/// A blob that can be read while it arrives, but for its last piece, which is given when the whole is verified.
#[derive(Debug)]
struct Arriving {
    reader: Arc<dyn BlobReader>,
    state: watch::Receiver<State>,
}

#[async_trait]
impl BlobReader for Arriving {
    fn size(&self) -> u64 {
        self.reader.size()
    }

    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        if offset.saturating_add(len as u64) >= self.size() {
            let mut state = self.state.clone();
            let ended = state.wait_for(|state| matches!(state, State::Ended(_))).await;
            let State::Ended(outcome) = &*ended.map_err(|_| given_up())? else { return Err(given_up()) };
            if let Err(error) = outcome {
                return Err(Error::new(error.kind(), format!("a blob did not arrive: {}", error.report())));
            }
        }
        self.reader.read_at(offset, len).await
    }
}

/// Tells of a blob that begins to arrive: by its reader as soon as the first bytes came, so that what the upstream refuses is not begun.
pub(super) struct Announcer {
    state: watch::Sender<State>,
    reader: Mutex<Option<Arc<dyn BlobReader>>>,
    counted: Counted,
}

impl Announcer {
    pub(super) fn new(state: watch::Sender<State>, counted: Counted) -> Self {
        Self { state, reader: Mutex::default(), counted }
    }

    fn reader(&self) -> Option<Arc<dyn BlobReader>> {
        self.reader.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl fmt::Debug for Announcer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Announcer").field("state", &*self.state.borrow()).finish_non_exhaustive()
    }
}

impl Follower for Announcer {
    fn begun(&self, _: &Descriptor, reader: Arc<dyn BlobReader>) {
        *self.reader.lock().unwrap_or_else(PoisonError::into_inner) = Some(reader);
        // What came before was not what it should be, and is gone.
        self.state.send_replace(State::Asked);
    }
}

impl Sink for Announcer {
    fn event(&self, event: &Event<'_>) {
        self.counted.event(event);
        if let Event::Bytes { .. } = event {
            self.state.send_if_modified(|state| match (&state, self.reader()) {
                (State::Asked, Some(reader)) => {
                    *state = State::Arriving(reader);
                    true
                }
                _ => false,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    fn flight(state: watch::Receiver<State>) -> Flight {
        Flight { owner: Repository::parse("a").expect("valid"), state }
    }

    /// All of it can be read, verified or not.
    #[derive(Debug)]
    struct Whole(u64);

    #[async_trait]
    impl BlobReader for Whole {
        fn size(&self) -> u64 {
            self.0
        }

        async fn read_at(&self, _: u64, len: usize) -> Result<Bytes> {
            Ok(vec![0; len].into())
        }
    }

    #[tokio::test]
    async fn the_end_of_a_blob_waits_for_the_verdict() {
        for verdict in [Ok(()), Err(Arc::new(Error::failed_precondition("other bytes")))] {
            let (sender, state) = watch::channel(State::Asked);
            sender.send_replace(State::Arriving(Arc::new(Whole(1 << 20))));
            let Ok(Landing::Arriving(reader)) = flight(state).landing().await else { panic!("it arrives") };
            let soon = Duration::from_millis(20);
            assert_eq!(reader.read_at(0, 1000).await.expect("is there").len(), 1000);
            timeout(soon, reader.read_at((1 << 20) - 10, 10)).await.expect_err("it is not verified yet");
            timeout(soon, reader.read_at(0, 1 << 20)).await.expect_err("nor is the whole");
            sender.send_replace(State::Ended(verdict.clone()));
            assert_eq!(reader.read_at((1 << 20) - 10, 10).await.is_ok(), verdict.is_ok());
        }
        let (sender, state) = watch::channel(State::Arriving(Arc::new(Whole(1 << 20))));
        let Ok(Landing::Arriving(reader)) = flight(state).landing().await else { panic!("it arrives") };
        drop(sender);
        assert_eq!(reader.read_at(0, 1 << 20).await.expect_err("given up").kind(), ErrorKind::Aborted);
    }

    /// What is read of it has gone.
    #[derive(Debug)]
    struct Gone;

    #[async_trait]
    impl BlobReader for Gone {
        fn size(&self) -> u64 {
            1 << 20
        }

        async fn read_at(&self, _: u64, _: usize) -> Result<Bytes> {
            Err(given_up())
        }
    }

    #[tokio::test]
    async fn who_comes_when_a_blob_has_begun_anew_gets_it_when_it_is_there() {
        let (sender, state) = watch::channel(State::Arriving(Arc::new(Gone)));
        let landing = tokio::spawn(flight(state).landing());
        tokio::task::yield_now().await;
        sender.send_replace(State::Ended(Ok(())));
        assert!(matches!(landing.await.expect("ends"), Ok(Landing::Stored)));
    }

    #[tokio::test]
    async fn a_small_blob_is_answered_when_it_is_whole_and_a_fetch_ends_with_its_owner() {
        let (sender, state) = watch::channel(State::Arriving(Arc::new(Whole(10))));
        timeout(Duration::from_millis(20), flight(state.clone()).landing())
            .await
            .err()
            .expect("not whole yet");
        sender.send_replace(State::Ended(Ok(())));
        assert!(matches!(flight(state).landing().await, Ok(Landing::Stored)));

        let flights = Flights::new(NonZeroUsize::MIN);
        let (one, other) = ["a", "b"].map(|name| Repository::parse(name).expect("valid")).into();
        let key = (Digest::sha256(b"x"), 1);
        let never = |state| async move {
            let _state: watch::Sender<State> = state;
            std::future::pending::<Outcome<()>>().await
        };
        let flight = flights.join(&key, &one, never).expect("there is room");
        let joined = flights.join(&key, &other, |_| async { panic!("it is under way") });
        assert!(joined.is_some_and(|flight| flight.is_of(&one) && !flight.is_of(&other)));
        let promised = (key.0.clone(), 2);
        assert!(flights.join(&promised, &other, never).is_some_and(|flight| flight.is_of(&other)));
        drop(flights);
        assert_eq!(flight.landing().await.err().expect("given up").kind(), ErrorKind::Aborted);
    }
}
