//! From samples to the lines that are printed. No I/O.

use std::fmt::Write;
use std::time::Duration;

/// One run of one program.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sample {
    /// From start to end.
    pub(super) time: Duration,
    /// The largest resident set, in bytes.
    pub(super) peak: u64,
}

/// Pulls at most this many times as long as curl.
const CURL: f64 = 1.5;

/// Pulls in less than this many times what skopeo takes.
const SKOPEO: f64 = 1.0;

/// The memory a pull stays under, in MiB.
const MEMORY: f64 = 64.0;

/// What `wharf version` stays under, in milliseconds.
const VERSION: f64 = 10.0;

/// What came out, one line per figure, each with its target.
pub(super) fn report(wharf: &[Sample], curl: &[Sample], skopeo: &[Sample], versions: &[Duration]) -> String {
    let mut text = String::new();
    for (name, samples) in [("wharf", wharf), ("curl", curl), ("skopeo", skopeo)] {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{name:<8} {}, peak {:.1} MiB", spread(samples), mebibytes(samples));
    }
    let version = median(versions.iter().map(Duration::as_secs_f64)) * 1000.0;
    let figures = [
        ("wharf / curl", ratio(wharf, curl), CURL, "at most", ""),
        ("wharf / skopeo", ratio(wharf, skopeo), SKOPEO, "below", ""),
        ("wharf's memory", mebibytes(wharf), MEMORY, "below", " MiB"),
        ("wharf version", version, VERSION, "below", " ms"),
    ];
    for (name, figure, target, bound, unit) in figures {
        let reached = if bound == "at most" { figure <= target } else { figure < target };
        let verdict = if reached { "reached" } else { "MISSED" };
        let _ = writeln!(text, "{name:<15} {figure:.2}{unit}, target {bound} {target}{unit}: {verdict}");
    }
    text
}

/// `VmHWM` of a `/proc/PID/status`, in bytes.
pub(super) fn high_water(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// The median of the times in seconds, with what it lies between.
pub(super) fn spread(samples: &[Sample]) -> String {
    let times = || samples.iter().map(|sample| sample.time.as_secs_f64());
    let (low, high) = (times().reduce(f64::min), times().reduce(f64::max));
    format!(
        "{:.3} s median of {} ({:.3} to {:.3})",
        median(times()),
        samples.len(),
        low.unwrap_or(f64::NAN),
        high.unwrap_or(f64::NAN)
    )
}

/// The median over rounds of the ratios of two runs of the same round.
fn ratio(ours: &[Sample], theirs: &[Sample]) -> f64 {
    median(ours.iter().zip(theirs).map(|(a, b)| a.time.as_secs_f64() / b.time.as_secs_f64()))
}

/// The one in the middle, or the middle of two.
pub(super) fn median(figures: impl Iterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.collect();
    figures.sort_by(f64::total_cmp);
    match figures.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => figures[length / 2],
        length => f64::midpoint(figures[length / 2 - 1], figures[length / 2]),
    }
}

/// The largest peak of all, in MiB.
pub(super) fn mebibytes(samples: &[Sample]) -> f64 {
    let peak = samples.iter().map(|sample| sample.peak).max().unwrap_or_default();
    // A few hundred GiB in KiB are still exact.
    f64::from(u32::try_from(peak / 1024).unwrap_or(u32::MAX)) / 1024.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(times: &[u64], peak: u64) -> Vec<Sample> {
        times.iter().map(|time| Sample { time: Duration::from_millis(*time), peak }).collect()
    }

    #[test]
    fn medians_are_in_the_middle() {
        for (figures, expected) in [(&[9.0, 1.0, 5.0][..], 5.0), (&[9.0, 1.0], 5.0), (&[3.0], 3.0)] {
            let found = median(figures.iter().copied());
            assert!((found - expected).abs() < 1e-9, "{figures:?}: {found}");
        }
        assert!(median(std::iter::empty()).is_nan());
    }

    #[test]
    fn ratios_are_of_pairs() {
        let found = ratio(&samples(&[100, 400, 300], 0), &samples(&[100, 200, 100], 0));
        assert!((found - 2.0).abs() < 1e-9, "{found}");
    }

    #[test]
    fn targets_are_reached_or_missed() {
        let mebibyte = 1024 * 1024;
        let good = report(
            &samples(&[300], 20 * mebibyte),
            &samples(&[250], 0),
            &samples(&[900], 0),
            &[Duration::from_millis(3)],
        );
        assert_eq!(good.matches(": reached").count(), 4, "{good}");
        let bad = report(
            &samples(&[1000], 64 * mebibyte),
            &samples(&[250], 0),
            &samples(&[900], 0),
            &[Duration::from_millis(30)],
        );
        assert_eq!(bad.matches(": MISSED").count(), 4, "{bad}");
    }

    #[test]
    fn the_high_water_mark_is_read() {
        assert_eq!(high_water("Name:\tx\nVmPeak:\t 9 kB\nVmHWM:\t   1234 kB\n"), Some(1234 * 1024));
        assert_eq!(high_water("Name:\tx\n"), None);
    }
}
