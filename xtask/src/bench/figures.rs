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
        let times: Vec<_> = samples.iter().map(|sample| sample.time).collect();
        let (low, high) = (times.iter().min().copied(), times.iter().max().copied());
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{name:<8} {:.3} s median of {} ({:.3} to {:.3}), peak {:.1} MiB",
            median(&times).as_secs_f64(),
            times.len(),
            low.unwrap_or_default().as_secs_f64(),
            high.unwrap_or_default().as_secs_f64(),
            mebibytes(samples),
        );
    }
    let version = median(versions).as_secs_f64() * 1000.0;
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

/// The median over rounds of the ratios of two runs of the same round.
fn ratio(ours: &[Sample], theirs: &[Sample]) -> f64 {
    let pairs = ours.iter().zip(theirs);
    let mut ratios: Vec<f64> = pairs.map(|(a, b)| a.time.as_secs_f64() / b.time.as_secs_f64()).collect();
    ratios.sort_by(f64::total_cmp);
    match ratios.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => ratios[length / 2],
        length => f64::midpoint(ratios[length / 2 - 1], ratios[length / 2]),
    }
}

fn median(times: &[Duration]) -> Duration {
    let mut times = times.to_vec();
    times.sort();
    match times.len() {
        0 => Duration::ZERO,
        length if length % 2 == 1 => times[length / 2],
        length => (times[length / 2 - 1] + times[length / 2]) / 2,
    }
}

/// The largest peak of all, in MiB.
fn mebibytes(samples: &[Sample]) -> f64 {
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
        let times: Vec<_> = [9, 1, 5].map(Duration::from_millis).to_vec();
        assert_eq!(median(&times), Duration::from_millis(5));
        assert_eq!(median(&times[..2]), Duration::from_millis(5));
        assert_eq!(median(&[]), Duration::ZERO);
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
