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

/// The runs of one program, a sample for each round.
#[derive(Clone, Debug)]
pub(super) struct Runs {
    /// What it is called.
    pub(super) name: &'static str,
    /// In the order of the rounds, which are the same ones for all.
    pub(super) samples: Vec<Sample>,
}

/// What wharf, whose runs come first, is to reach in comparison with another one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    /// The other one.
    pub(super) than: &'static str,
    /// At most, or less than, so many times as long; or at least so many times as fast.
    pub(super) bound: Bound,
}

/// A figure's limit.
#[derive(Clone, Copy, Debug)]
pub(super) enum Bound {
    /// This, or less.
    AtMost(f64),
    /// Less than this.
    Below(f64),
    /// This, or more.
    AtLeast(f64),
}

impl Bound {
    fn is_reached(self, figure: f64) -> bool {
        match self {
            Self::AtMost(limit) => figure <= limit,
            Self::Below(limit) => figure < limit,
            Self::AtLeast(limit) => figure >= limit,
        }
    }

    fn words(self) -> (&'static str, f64) {
        match self {
            Self::AtMost(limit) => ("at most", limit),
            Self::Below(limit) => ("below", limit),
            Self::AtLeast(limit) => ("at least", limit),
        }
    }
}

/// What is done in one run.
#[derive(Clone, Copy, Debug)]
pub(super) enum Work {
    /// So many MiB are moved.
    Mebibytes(u32),
    /// So many requests are answered.
    Requests(u32),
}

impl Work {
    /// As much of it as is done in a second.
    fn rate(self, seconds: f64) -> String {
        match self {
            Self::Mebibytes(amount) => format!("{:.0} MiB/s", f64::from(amount) / seconds),
            Self::Requests(amount) => format!("{:.0} requests/s", f64::from(amount) / seconds),
        }
    }
}

/// The memory that wharf stays within, in MiB, whatever it moves.
pub(super) const MEMORY: Bound = Bound::AtMost(64.0);

/// What `wharf version` stays under, in milliseconds.
const VERSION: Bound = Bound::Below(10.0);

/// What came out of one comparison: a line for each program, then one for each figure with its target.
pub(super) fn report(title: &str, runs: &[Runs], targets: &[Target]) -> String {
    let mut text = format!("{title}\n");
    for Runs { name, samples } in runs {
        // Writing to a string does not fail.
        let _ = writeln!(text, "  {name:<10} {}, peak {:.1} MiB", spread(samples), mebibytes(samples));
    }
    text + &judged(runs, targets)
}

/// As [`report`], with how much of `work` each does in a second.
pub(super) fn rates(title: &str, work: Work, runs: &[Runs], targets: &[Target]) -> String {
    let mut text = format!("{title}\n");
    for Runs { name, samples } in runs {
        let rate = work.rate(median(seconds(samples)));
        // Writing to a string does not fail.
        let _ =
            writeln!(text, "  {name:<16} {rate}, {}, peak {:.1} MiB", spread(samples), mebibytes(samples));
    }
    text + &judged(runs, targets)
}

/// A line for each figure with its target.
fn judged(runs: &[Runs], targets: &[Target]) -> String {
    let mut text = String::new();
    let Some((ours, others)) = runs.split_first() else { return text };
    for Target { than, bound } in targets {
        let theirs = others.iter().find(|runs| runs.name == *than);
        let figure = theirs.map_or(f64::NAN, |theirs| match bound {
            Bound::AtMost(_) | Bound::Below(_) => ratio(&ours.samples, &theirs.samples),
            // Twice as fast is half as long.
            Bound::AtLeast(_) => ratio(&theirs.samples, &ours.samples),
        });
        text += &line(&format!("{} / {than}", ours.name), figure, "", *bound);
    }
    text + &line("memory", mebibytes(&ours.samples), " MiB", MEMORY)
}

/// How long starting takes.
pub(super) fn version(times: &[Duration]) -> String {
    let median = median(times.iter().map(Duration::as_secs_f64)) * 1000.0;
    line("wharf version", median, " ms", VERSION)
}

fn line(name: &str, figure: f64, unit: &str, bound: Bound) -> String {
    let verdict = if bound.is_reached(figure) { "reached" } else { "MISSED" };
    let (words, limit) = bound.words();
    format!("  {name:<16} {figure:.2}{unit}, target {words} {limit}{unit}: {verdict}\n")
}

/// `VmHWM` of a `/proc/PID/status`, in bytes.
pub(super) fn high_water(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// The median of the times in seconds, with what it lies between.
pub(super) fn spread(samples: &[Sample]) -> String {
    let (low, high) = (seconds(samples).reduce(f64::min), seconds(samples).reduce(f64::max));
    format!(
        "{:.3} s median of {} ({:.3} to {:.3})",
        median(seconds(samples)),
        samples.len(),
        low.unwrap_or(f64::NAN),
        high.unwrap_or(f64::NAN)
    )
}

fn seconds(samples: &[Sample]) -> impl Iterator<Item = f64> {
    samples.iter().map(|sample| sample.time.as_secs_f64())
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

    const MEBIBYTE: u64 = 1024 * 1024;

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
        let targets = [
            Target { than: "curl", bound: Bound::AtMost(1.15) },
            Target { than: "skopeo", bound: Bound::Below(1.0) },
        ];
        let runs = |ours: &[u64], peak| {
            [("wharf", samples(ours, peak)), ("curl", samples(&[200], 0)), ("skopeo", samples(&[300], 0))]
                .map(|(name, samples)| Runs { name, samples })
        };
        let good = report("an image", &runs(&[230], 64 * MEBIBYTE), &targets);
        assert!(good.starts_with("an image\n  wharf "), "{good}");
        assert_eq!(good.matches(": reached").count(), 3, "{good}");
        let bad = report("an image", &runs(&[300], 65 * MEBIBYTE), &targets);
        assert_eq!(bad.matches(": MISSED").count(), 3, "{bad}");
    }

    #[test]
    fn rates_are_the_better_the_higher_they_are() {
        let target = [Target { than: "other", bound: Bound::AtLeast(1.5) }];
        let runs = |ours: u64| {
            [("wharf", samples(&[ours], 0)), ("other", samples(&[300], 0))]
                .map(|(name, samples)| Runs { name, samples })
        };
        let good = rates("blobs", Work::Mebibytes(1000), &runs(150), &target);
        assert!(good.contains("wharf            6667 MiB/s, 0.150 s"), "{good}");
        assert!(good.contains("wharf / other    2.00, target at least 1.5: reached"), "{good}");
        let bad = rates("asked", Work::Requests(300), &runs(201), &target);
        assert!(bad.contains("other            1000 requests/s"), "{bad}");
        assert!(bad.contains("1.49, target at least 1.5: MISSED"), "{bad}");
    }

    #[test]
    fn what_was_not_run_is_missed() {
        let runs = [Runs { name: "wharf", samples: samples(&[1], 0) }];
        let text = report("", &runs, &[Target { than: "nobody", bound: Bound::Below(1.0) }]);
        assert!(text.contains("wharf / nobody   NaN, target below 1: MISSED"), "{text}");
    }

    #[test]
    fn starting_has_a_target() {
        assert!(version(&[Duration::from_millis(3)]).ends_with("below 10 ms: reached\n"));
        assert!(version(&[Duration::from_millis(10)]).ends_with(": MISSED\n"));
    }

    #[test]
    fn the_high_water_mark_is_read() {
        assert_eq!(high_water("Name:\tx\nVmPeak:\t 9 kB\nVmHWM:\t   1234 kB\n"), Some(1234 * 1024));
        assert_eq!(high_water("Name:\tx\n"), None);
    }
}
