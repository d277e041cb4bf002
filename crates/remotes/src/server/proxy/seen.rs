//! When tags were asked about last, and which the upstream has said that it does not have.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::Clock;

/// The most tags that are remembered; beyond it they are asked about again.
const MAX_REMEMBERED: usize = 16 * 1024;
/// How long an upstream is left alone about a tag that it did not answer.
const PAUSE: Duration = Duration::from_secs(10);

/// What was seen of the tags of an upstream.
pub(super) struct Seen {
    ttl: Duration,
    clock: Clock,
    tags: Mutex<HashMap<String, Tag>>,
}

#[derive(Clone, Copy)]
enum Tag {
    /// It is not asked about for so long after that.
    Settled(Instant, Duration),
    /// The upstream does not have it.
    Gone,
}

impl Seen {
    pub(super) fn new(ttl: Duration, clock: Clock) -> Self {
        Self { ttl, clock, tags: Mutex::default() }
    }

    /// Whether the record of this name is as good as an answer.
    pub(super) fn is_fresh(&self, name: &str) -> bool {
        let now = (self.clock)();
        let seen = self.with(|tags| tags.get(name).copied());
        matches!(seen, Some(Tag::Settled(since, lasts)) if now.saturating_duration_since(since) < lasts)
    }

    /// Whether the upstream has said, and not taken back, that it does not have it.
    pub(super) fn is_gone(&self, name: &str) -> bool {
        matches!(self.with(|tags| tags.get(name).copied()), Some(Tag::Gone))
    }

    /// The upstream has told what it is.
    pub(super) fn answered(&self, name: &str) {
        self.note(name, Tag::Settled((self.clock)(), self.ttl));
    }

    /// The upstream did not answer. That takes back nothing that it has said.
    pub(super) fn unanswered(&self, name: &str) {
        if self.is_gone(name) {
            return;
        }
        self.note(name, Tag::Settled((self.clock)(), self.ttl.min(PAUSE)));
    }

    /// The upstream does not have it.
    pub(super) fn gone(&self, name: &str) {
        self.note(name, Tag::Gone);
    }

    fn note(&self, name: &str, tag: Tag) {
        self.with(|tags| {
            if tags.len() >= MAX_REMEMBERED && !tags.contains_key(name) {
                tags.clear();
            }
            tags.insert(name.to_owned(), tag);
        });
    }

    fn with<T>(&self, act: impl FnOnce(&mut HashMap<String, Tag>) -> T) -> T {
        act(&mut self.tags.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    };

    use super::*;

    #[test]
    fn answers_grow_old_and_memory_does_not_grow() {
        let (zero, seconds) = (Instant::now(), Arc::new(AtomicU64::new(0)));
        let told = Arc::clone(&seconds);
        let clock: Clock = Arc::new(move || zero + Duration::from_secs(told.load(Ordering::Relaxed)));
        let seen = Seen::new(Duration::from_secs(60), Arc::clone(&clock));
        assert!(!seen.is_fresh("a") && !seen.is_gone("a"));
        seen.answered("a");
        seen.unanswered("b");
        seen.gone("c");
        for (at, fresh) in
            [(0, ["a", "b"].as_slice()), (9, &["a", "b"]), (10, &["a"]), (59, &["a"]), (60, &[])]
        {
            seconds.store(at, Ordering::Relaxed);
            let found: Vec<&str> = ["a", "b", "c"].into_iter().filter(|name| seen.is_fresh(name)).collect();
            assert_eq!(found, fresh, "after {at} s");
        }
        seen.unanswered("c");
        assert!(seen.is_gone("c") && !seen.is_gone("a"));
        seen.answered("c");
        assert!(!seen.is_gone("c") && seen.is_fresh("c"));
        for number in 0..=MAX_REMEMBERED {
            seen.gone(&number.to_string());
        }
        assert!(seen.with(|tags| tags.len()) <= MAX_REMEMBERED);

        let never = Seen::new(Duration::ZERO, clock);
        never.answered("a");
        never.unanswered("b");
        assert!(!never.is_fresh("a") && !never.is_fresh("b"));
    }
}
