//! Waiting times between tries: random, with a bound that doubles up to a limit.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

/// A series of waiting times. Not for secrets: the randomness only keeps processes from trying in step.
#[derive(Clone, Debug)]
pub struct Backoff {
    bound: Duration,
    limit: Duration,
    random: RandomState,
    turn: u64,
}

impl Backoff {
    /// Starts with waits below `first` and never waits longer than `limit`.
    pub fn new(first: Duration, limit: Duration) -> Self {
        Self { bound: first.min(limit), limit, random: RandomState::new(), turn: 0 }
    }

    /// The next wait, anywhere between nothing and the bound, which then doubles.
    pub fn wait(&mut self) -> Duration {
        self.turn += 1;
        let bound = u64::try_from(self.bound.as_micros()).unwrap_or(u64::MAX).max(1);
        self.bound = self.bound.saturating_mul(2).min(self.limit);
        Duration::from_micros(self.random.hash_one(self.turn) % bound)
    }

    /// The next wait, between half the bound and the bound, which then doubles.
    pub fn wait_at_least_half(&mut self) -> Duration {
        let half = self.bound / 2;
        half + self.wait() / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_stay_below_a_bound_that_doubles() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new(ms(16), ms(100));
        for bound in [16, 32, 64, 100, 100] {
            assert!(backoff.wait() < ms(bound));
        }
        let mut backoff = Backoff::new(ms(16), ms(100));
        for bound in [16, 32, 64, 100, 100] {
            let wait = backoff.wait_at_least_half();
            assert!(wait >= ms(bound) / 2 && wait <= ms(bound), "{wait:?} of {bound}");
        }
    }
}
