//! Whether one stream is slow. No I/O, and no clock: the caller says how long it waited.
//!
//! Only the time that is spent waiting for the network counts, so that a slow disk makes no registry slow.

use std::time::Duration;

/// Nothing can be said of a shorter wait.
const MIN_WINDOW: Duration = Duration::from_millis(1);

/// How fast bytes came, in windows of waiting.
#[derive(Debug)]
pub(super) struct Pace {
    window: Duration,
    rate: u64,
    bytes: u64,
    waited: Duration,
}

impl Pace {
    /// Calls slow what brings fewer than `rate` bytes for each second of waiting, looked at after each `window` of waiting.
    pub(super) fn new(rate: u64, window: Duration) -> Self {
        let window = window.max(MIN_WINDOW);
        Self { window, rate, bytes: 0, waited: Duration::ZERO }
    }

    /// How much longer may be waited before there is something to judge.
    pub(super) fn left(&self) -> Duration {
        self.window.saturating_sub(self.waited)
    }

    /// Takes note of what came after a wait. `true` where a window is over and was slow.
    pub(super) fn note(&mut self, bytes: u64, waited: Duration) -> bool {
        self.bytes += bytes;
        self.waited += waited;
        if self.waited < self.window {
            return false;
        }
        let wanted = u128::from(self.rate) * self.waited.as_nanos();
        let is_slow = u128::from(self.bytes) * 1_000_000_000 < wanted;
        (self.bytes, self.waited) = (0, Duration::ZERO);
        is_slow
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_and_fast_streams() {
        const WINDOW: Duration = Duration::from_secs(2);
        let ms = Duration::from_millis;
        for (what, notes, expected) in [
            ("fast", &[(1500, ms(1000)), (1500, ms(1000))][..], [false, false].as_slice()),
            ("as fast as wanted", &[(1000, ms(1000)), (1000, ms(1000))], &[false, false]),
            ("slow", &[(999, ms(1000)), (1000, ms(1000))], &[false, true]),
            ("silent", &[(0, ms(2000))], &[true]),
            ("slow, but not for a window yet", &[(1, ms(1999))], &[false]),
            ("the network is never waited for", &[(1, ms(0)), (1, ms(0))], &[false, false]),
            ("slow after a fast window", &[(9000, ms(2000)), (10, ms(2000))], &[false, true]),
        ] {
            let mut pace = Pace::new(1000, WINDOW);
            let found: Vec<bool> = notes.iter().map(|(bytes, waited)| pace.note(*bytes, *waited)).collect();
            assert_eq!(found, expected, "{what}");
        }
    }

    #[test]
    fn a_window_begins_anew_after_it_was_judged() {
        let mut pace = Pace::new(1, Duration::from_secs(2));
        assert!(!pace.note(5, Duration::from_secs(1)));
        assert_eq!(pace.left(), Duration::from_secs(1));
        assert!(!pace.note(5, Duration::from_secs(3)));
        assert_eq!(pace.left(), Duration::from_secs(2));
    }
}
