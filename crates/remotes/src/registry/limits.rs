//! Politeness: how many requests a host is asked at once, how fast one after the other, and being quiet for as long as it asks.
//!
//! All clients made of one [`RegistrySettings`](super::RegistrySettings) and its clones share the limits of a host, and whatever led there (a
//! redirect, a token server) goes by them.
//!
//! A place is held from before a request is sent until its body has been read or dropped. Whoever holds one may need another before it
//! can go on: the source of an upload may be a body of the same host that broke, and a body may wait for its reader, who waits for
//! another body. So that nobody waits in a circle, who does not wait for the host *rests*, and after [`PATIENCE`] of resting the place may
//! go to who is in need of it; its former holder queues for another one when it goes on. Then a host may have more bodies open than
//! the limit, but no more of them flow. Error answers and redirects are read at once and hold no place.

use std::{
    collections::{HashMap, HashSet},
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use reqwest::Url;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until, timeout_at},
};

use super::settings::RegistrySettings;

/// After so long without a look at its host a place may go to somebody else.
const PATIENCE: Duration = Duration::from_secs(1);
/// The most texts of warnings that are remembered, so that a host that always says something new is not listened to for ever.
const MAX_WARNINGS: usize = 100;

/// What all clients of the same settings share.
#[derive(Debug, Default)]
pub(super) struct Limits {
    gates: Mutex<HashMap<String, Arc<Gate>>>,
    warnings: Mutex<HashSet<String>>,
}

impl Limits {
    /// The gate of the host that a URL is at.
    pub(super) fn gate(&self, url: &Url, settings: &RegistrySettings) -> Arc<Gate> {
        let port = url.port_or_known_default().unwrap_or_default();
        let key = format!("{}:{port}", url.host_str().unwrap_or_default());
        let make = || Arc::new(Gate::new(settings.host_concurrency, settings.request_interval));
        Arc::clone(lock(&self.gates).entry(key).or_insert_with(make))
    }

    /// Whether this warning is told for the first time.
    pub(super) fn is_new_warning(&self, text: &str) -> bool {
        let mut warnings = lock(&self.warnings);
        warnings.len() < MAX_WARNINGS && warnings.insert(text.to_owned())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where requests to one host line up.
#[derive(Debug)]
pub(super) struct Gate {
    most: usize,
    interval: Option<Duration>,
    state: Mutex<State>,
    /// Held by the first in the queue, the only one who waits for a change.
    turn: tokio::sync::Mutex<()>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    places: HashMap<u64, Place>,
    next_id: u64,
    /// When the next request may be sent by the rate.
    next_request: Option<Instant>,
    /// Until when the host wants to be left alone.
    quiet_until: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
enum Place {
    Active,
    Resting(Instant),
}

/// A place at a host. It is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Permit {
    gate: Arc<Gate>,
    id: u64,
}

impl Gate {
    fn new(most: NonZeroUsize, interval: Option<Duration>) -> Self {
        let (state, turn, changed) = (Mutex::default(), tokio::sync::Mutex::default(), Notify::new());
        Self { most: most.get(), interval, state, turn, changed }
    }

    /// Waits until a request may be sent.
    pub(super) async fn enter(self: Arc<Self>) -> Permit {
        let id = {
            let mut state = lock(&self.state);
            state.next_id += 1;
            state.next_id
        };
        let permit = Permit { gate: self, id };
        permit.gate.take_place(id).await;
        permit.gate.keep_quiet().await;
        if let Some(at) = permit.gate.slot() {
            sleep_until(at).await;
            permit.gate.keep_quiet().await;
        }
        permit
    }

    /// Sends nothing for so long, at least.
    pub(super) fn hold_off(&self, wait: Duration) {
        let mut state = lock(&self.state);
        let until = Instant::now() + wait;
        state.quiet_until = Some(state.quiet_until.map_or(until, |quiet| quiet.max(until)));
    }

    /// How much longer the host wants to be left alone, where it does.
    pub(super) fn quiet_for(&self) -> Option<Duration> {
        let until = lock(&self.state).quiet_until?;
        Some(until.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero())
    }

    async fn keep_quiet(&self) {
        while let Some(left) = self.quiet_for() {
            sleep_until(Instant::now() + left).await;
        }
    }

    /// When the next request of the rate may be sent; that time is taken then.
    fn slot(&self) -> Option<Instant> {
        let interval = self.interval?;
        let mut state = lock(&self.state);
        let now = Instant::now();
        let at = state.next_request.map_or(now, |next| next.max(now));
        state.next_request = Some(at + interval);
        Some(at)
    }

    async fn take_place(&self, id: u64) {
        // Whoever comes first is served first.
        let _turn = self.turn.lock().await;
        loop {
            let changed = self.changed.notified();
            let retry_at = {
                let mut state = lock(&self.state);
                let rests = state.places.iter().filter_map(|(id, place)| match place {
                    Place::Resting(since) => Some((*since, *id)),
                    Place::Active => None,
                });
                let longest = rests.min();
                let is_full = state.places.len() >= self.most;
                match longest.filter(|_| is_full) {
                    Some((since, resting)) if since.elapsed() >= PATIENCE => {
                        state.places.remove(&resting);
                        state.places.insert(id, Place::Active);
                        return;
                    }
                    _ if !is_full => {
                        state.places.insert(id, Place::Active);
                        return;
                    }
                    longest => longest.map(|(since, _)| since + PATIENCE),
                }
            };
            match retry_at {
                // Whether it was a change or the time: it is looked again.
                Some(at) => drop(timeout_at(at, changed).await),
                None => changed.await,
            }
        }
    }
}

impl Permit {
    /// Says that the host is not waited for.
    pub(super) fn rest(&self) {
        let mut state = lock(&self.gate.state);
        if let Some(place) = state.places.get_mut(&self.id) {
            *place = Place::Resting(Instant::now());
        }
        drop(state);
        self.gate.changed.notify_one();
    }

    /// Goes on with the host, after queueing where the place was given away.
    pub(super) async fn resume(&self) {
        let is_here = {
            let mut state = lock(&self.gate.state);
            state.places.get_mut(&self.id).map(|place| *place = Place::Active).is_some()
        };
        if !is_here {
            self.gate.take_place(self.id).await;
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        lock(&self.gate.state).places.remove(&self.id);
        self.gate.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn gate(most: usize, interval: Option<Duration>) -> Arc<Gate> {
        Arc::new(Gate::new(NonZeroUsize::new(most).expect("not zero"), interval))
    }

    #[tokio::test(start_paused = true)]
    async fn never_more_than_the_limit_and_everybody_comes_through() {
        let gate = gate(3, None);
        let (inside, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let tasks: Vec<_> = (0..50)
            .map(|_| {
                let (gate, inside, most) = (Arc::clone(&gate), Arc::clone(&inside), Arc::clone(&most));
                tokio::spawn(async move {
                    let _permit = gate.enter().await;
                    most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    inside.fetch_sub(1, Ordering::SeqCst);
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("no panic");
        }
        assert_eq!(most.load(Ordering::SeqCst), 3);
        assert!(lock(&gate.state).places.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_gives_up_waiting_takes_nothing_along() {
        let gate = gate(1, None);
        let held = Arc::clone(&gate).enter().await;
        let short = Duration::from_millis(5);
        tokio::time::timeout(short, Arc::clone(&gate).enter()).await.expect_err("it is full");
        drop(held);
        tokio::time::timeout(short, Arc::clone(&gate).enter()).await.expect("it is free");
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_that_rests_is_lent_and_queued_for_again() {
        let gate = gate(1, None);
        let first = Arc::clone(&gate).enter().await;
        first.rest();
        let began = Instant::now();
        // Needed by the same task, which would wait for itself.
        let second = Arc::clone(&gate).enter().await;
        assert!(began.elapsed() >= PATIENCE);
        let mut again = Box::pin(first.resume());
        tokio::time::timeout(PATIENCE * 3, again.as_mut()).await.expect_err("the second is at work");
        second.rest();
        again.await;
        let _first = first;
        // Now the second has lost its place.
        tokio::time::timeout(PATIENCE * 3, second.resume()).await.expect_err("the first is at work");
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_rest_keeps_its_place() {
        let gate = gate(1, None);
        let held = Arc::clone(&gate).enter().await;
        held.rest();
        held.resume().await;
        tokio::time::timeout(PATIENCE * 100, Arc::clone(&gate).enter()).await.expect_err("it is at work");
    }

    #[tokio::test(start_paused = true)]
    async fn the_rate_is_kept() {
        let gate = gate(100, Some(Duration::from_millis(100)));
        let began = Instant::now();
        for request in 0..21_u32 {
            drop(Arc::clone(&gate).enter().await);
            assert_eq!(began.elapsed(), Duration::from_millis(100) * request);
        }
        // What was not sent meanwhile is not sent all at once afterwards.
        tokio::time::sleep(Duration::from_secs(60)).await;
        let began = Instant::now();
        for _ in 0..3 {
            drop(Arc::clone(&gate).enter().await);
        }
        assert_eq!(began.elapsed(), Duration::from_millis(200));
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_that_asks_for_quiet_is_left_alone_by_everybody() {
        let gate = gate(4, None);
        gate.hold_off(Duration::from_secs(7));
        gate.hold_off(Duration::from_secs(3));
        let began = Instant::now();
        let two = [Arc::clone(&gate).enter(), Arc::clone(&gate).enter()];
        for permit in futures_util::future::join_all(two).await {
            assert!(began.elapsed() >= Duration::from_secs(7));
            drop(permit);
        }
    }

    #[test]
    fn warnings_are_new_once_and_not_for_ever() {
        let limits = Limits::default();
        assert!(limits.is_new_warning("a") && !limits.is_new_warning("a"));
        let told = (0..1000).filter(|number| limits.is_new_warning(&number.to_string())).count();
        assert_eq!(told, MAX_WARNINGS - 1);
    }
}
