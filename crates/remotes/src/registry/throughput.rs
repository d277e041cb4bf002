//! The least that must flow: bodies that come, or are taken, slower than this are broken off, as those are that stop altogether.
//!
//! Only time in which the other side is waited for counts, so that nobody who is slow to write or to read what is sent is blamed on it.
//! Time is given and not asked for here.
//!
//! ```text
//! waited:  0 ───────────── window ───────────── window ──> less than the least in one of them: too slow
//! ```

use std::{fmt, num::NonZeroU64, time::Duration};

use super::settings::RegistrySettings;

/// How many bytes must flow in a window of waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Floor {
    per_second: NonZeroU64,
    window: Duration,
}

impl Floor {
    /// What the user decided; `None` where everything is fast enough.
    pub(super) fn of(settings: &RegistrySettings) -> Option<Self> {
        let window = settings.throughput_window;
        settings.min_throughput.filter(|_| !window.is_zero()).map(|per_second| Self { per_second, window })
    }

    fn least(self) -> u64 {
        let least = u128::from(self.per_second.get()) * self.window.as_millis() / 1000;
        u64::try_from(least).unwrap_or(u64::MAX)
    }
}

/// What flowed in the window that is open.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    floor: Option<Floor>,
    bytes: u64,
    waited: Duration,
}

/// Less flowed than must.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooSlow {
    bytes: u64,
    waited: Duration,
    per_second: NonZeroU64,
}

impl fmt::Display for TooSlow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bytes, waited, per_second } = self;
        write!(f, "{bytes} bytes in {:.1} s, less than {per_second} bytes per second", waited.as_secs_f64())
    }
}

impl Pace {
    pub(super) fn new(floor: Option<Floor>) -> Self {
        Self { floor, bytes: 0, waited: Duration::ZERO }
    }

    /// Takes down what flowed after so much waiting.
    pub(super) fn add(&mut self, bytes: u64, waited: Duration) {
        self.bytes = self.bytes.saturating_add(bytes);
        self.waited = self.waited.saturating_add(waited);
    }

    /// How much longer may be waited until the window is judged; `None` where it never is.
    pub(super) fn left(&self) -> Option<Duration> {
        self.floor.map(|floor| floor.window.saturating_sub(self.waited))
    }

    /// Judges the window if it is over, and opens the next.
    pub(super) fn check(&mut self) -> Result<(), TooSlow> {
        let Some(floor) = self.floor.filter(|floor| self.waited >= floor.window) else { return Ok(()) };
        let Self { bytes, waited, .. } = *self;
        *self = Self::new(self.floor);
        // More may have been waited than the window is long: what is judged is the average.
        let least = u128::from(floor.least()) * waited.as_millis() / floor.window.as_millis().max(1);
        if u128::from(bytes) < least {
            return Err(TooSlow { bytes, waited, per_second: floor.per_second });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn pace(per_second: u64, window: u64) -> Pace {
        let per_second = NonZeroU64::new(per_second).expect("not zero");
        Pace::new(Some(Floor { per_second, window: SECOND * u32::try_from(window).expect("small") }))
    }

    #[test]
    fn windows_are_judged_when_they_are_over() {
        // Per second of waiting so many bytes come; the second at which it is found too slow.
        for (bytes, found) in [(0, Some(30)), (1, Some(30)), (1023, Some(30)), (1024, None), (100_000, None)]
        {
            let mut pace = pace(1024, 30);
            let slow = (1..=100).find(|_| {
                pace.add(bytes, SECOND);
                pace.check().is_err()
            });
            assert_eq!(slow, found, "{bytes}");
        }
    }

    #[test]
    fn what_was_fast_once_is_not_fast_for_ever() {
        let mut pace = pace(1024, 30);
        pace.add(u64::MAX, SECOND * 30);
        pace.check().expect("fast");
        assert_eq!(pace.left(), Some(SECOND * 30));
        pace.add(3, SECOND * 29);
        pace.check().expect("the window is open");
        assert_eq!(pace.left(), Some(SECOND));
        pace.add(0, SECOND);
        let slow = pace.check().expect_err("a drip");
        assert_eq!(slow.to_string(), "3 bytes in 30.0 s, less than 1024 bytes per second");
    }

    #[test]
    fn nothing_is_too_slow_where_that_is_switched_off() {
        let mut pace = Pace::new(None);
        pace.add(0, SECOND * 1_000_000);
        assert_eq!((pace.check(), pace.left()), (Ok(()), None));
        let off = RegistrySettings::new().with_min_throughput(None, SECOND);
        assert_eq!(Floor::of(&off), None);
        assert!(Floor::of(&RegistrySettings::new()).is_some());
    }
}
