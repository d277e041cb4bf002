//! From samples of the store to the lines that are printed. No I/O.

use std::fmt::Write;

use super::figures::{Sample, mebibytes, median, spread};

/// The names of what takes the large file, in the order of [`Large`].
const NAMES: [&str; 5] = ["sha256sum", "cp", "cp and sync", "wharf full", "wharf none"];

/// Of `sha256sum` and `cp` together, a commit takes at most this many times as long.
const TARGET: f64 = 1.2;

/// What a list or a collection of nothing stays under, in seconds.
const LOOK: f64 = 5.0;

/// One large blob, by contender: sha256sum, cp, cp with sync, and commits with durability full and none.
#[derive(Debug, Default)]
pub(super) struct Large {
    /// A sample of each round.
    pub(super) samples: [Vec<Sample>; 5],
}

/// Many small blobs.
#[derive(Debug)]
pub(super) struct Small {
    /// How many were written at once.
    pub(super) writers: u32,
    /// `full` or `none`.
    pub(super) durability: String,
    /// How many there were.
    pub(super) count: u32,
    /// How long all of them took, in each round.
    pub(super) seconds: Vec<f64>,
}

/// What came out, one line per figure, with a target where there is one.
pub(super) fn report(large: &Large, small: &[Small], many: &[(String, Sample)]) -> String {
    let mut text = String::new();
    for (name, samples) in NAMES.iter().zip(&large.samples) {
        let peak = mebibytes(samples);
        // Writing to a string does not fail.
        let _ = writeln!(text, "{name:<12} {}, peak {peak:.1} MiB", spread(samples));
    }
    let [sha256sum, cp, cp_and_sync, full, none] = &large.samples;
    for (name, ours, copy, target) in [
        ("full / (sha256sum + cp and sync)", full, cp_and_sync, Some(TARGET)),
        ("full / (sha256sum + cp)", full, cp, None),
        ("none / (sha256sum + cp)", none, cp, Some(TARGET)),
    ] {
        let figure = ratio(ours, sha256sum, copy);
        let verdict = match target {
            Some(target) if figure <= target => format!(", target at most {target}: reached"),
            Some(target) => format!(", target at most {target}: MISSED"),
            None => String::new(),
        };
        let _ = writeln!(text, "{name:<32} {figure:.2}{verdict}");
    }
    for Small { writers, durability, count, seconds } in small {
        let seconds = median(seconds.iter().copied());
        let rate = f64::from(*count) / seconds;
        let _ = writeln!(
            text,
            "{count} small blobs, durability {durability}, {writers} at once: {rate:.0} per second ({seconds:.2} s)"
        );
    }
    for (name, sample) in many {
        let seconds = sample.time.as_secs_f64();
        let verdict = if seconds < LOOK { "reached" } else { "MISSED" };
        let peak = mebibytes(std::slice::from_ref(sample));
        let _ =
            writeln!(text, "{name}: {seconds:.2} s, target below {LOOK} s: {verdict}, peak {peak:.1} MiB");
    }
    text
}

/// The median over rounds of what we took to what the two of the same round took together.
fn ratio(ours: &[Sample], first: &[Sample], second: &[Sample]) -> f64 {
    let pairs = ours.iter().zip(first).zip(second);
    median(pairs.map(|((ours, first), second)| {
        ours.time.as_secs_f64() / (first.time.as_secs_f64() + second.time.as_secs_f64())
    }))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn samples(times: &[u64]) -> Vec<Sample> {
        times.iter().map(|time| Sample { time: Duration::from_millis(*time), peak: 1024 * 1024 }).collect()
    }

    fn large(full: u64, none: u64) -> Large {
        let samples = [1000, 500, 1000, full, none].map(|time| samples(&[time]));
        Large { samples }
    }

    #[test]
    fn ratios_are_of_the_sum_in_the_same_round() {
        let found = ratio(&samples(&[300, 900, 300]), &samples(&[100, 100, 200]), &samples(&[200, 200, 100]));
        assert!((found - 1.0).abs() < 1e-9, "{found}");
    }

    #[test]
    fn targets_are_reached_or_missed() {
        let look = |seconds| vec![("gc".to_owned(), Sample { time: Duration::from_secs(seconds), peak: 0 })];
        let small = || {
            vec![Small {
                writers: 1,
                durability: "full".to_owned(),
                count: 100,
                seconds: vec![9.0, 2.0, 1.0],
            }]
        };
        let good = report(&large(2400, 1800), &small(), &look(1));
        assert_eq!(good.matches(": reached").count(), 3, "{good}");
        assert!(good.contains("50 per second"), "{good}");
        let bad = report(&large(2401, 1801), &small(), &look(5));
        assert_eq!(bad.matches(": MISSED").count(), 3, "{bad}");
    }
}
