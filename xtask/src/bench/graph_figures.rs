//! From what `bench_graph` prints to the lines that are printed. No I/O.

use std::fmt::Write;

use super::figures::median;
use crate::failure::{Context, Result, ensure};

/// Twice the nodes take at most this many times as long.
const LINEAR: f64 = 2.2;

/// Our decoder takes at most this many times as long as plain serde_json into oci-spec's type.
const DECODE: f64 = 2.0;

/// What an absurd graph stays under, in seconds.
const AT_ONCE: f64 = 1.0;

/// How a graph of some shape ended.
#[derive(Debug, PartialEq)]
pub(super) struct Shape {
    name: String,
    nodes: u64,
    ended: String,
    seconds: f64,
}

/// Reads lines of two numbers.
pub(super) fn pairs(text: &str) -> Result<Vec<(f64, f64)>> {
    let pairs: Option<Vec<_>> = text
        .lines()
        .map(|line| {
            let (first, second) = line.split_once(' ')?;
            Some((first.parse().ok()?, second.parse().ok()?))
        })
        .collect();
    let pairs = pairs.context(format_args!("bench_graph prints {text:?}"))?;
    ensure(!pairs.is_empty(), || "bench_graph prints nothing".to_owned())?;
    Ok(pairs)
}

/// Reads lines of a name, a number of nodes, how it ended, and seconds.
pub(super) fn shapes(text: &str) -> Result<Vec<Shape>> {
    let shapes: Option<Vec<_>> = text
        .lines()
        .map(|line| {
            let mut words = line.split(' ');
            let (name, nodes, ended, seconds) = (words.next()?, words.next()?, words.next()?, words.next()?);
            let (nodes, seconds) = (nodes.parse().ok()?, seconds.parse().ok()?);
            Some(Shape { name: name.to_owned(), nodes, ended: ended.to_owned(), seconds })
        })
        .collect();
    shapes.context(format_args!("bench_graph prints {text:?}"))
}

/// What came out, one line per figure, each with its target. Pairs are of a walk and a dispatch, and of our decoder and the other.
pub(super) fn report(
    small: &[(f64, f64)],
    large: &[(f64, f64)],
    shapes: &[Shape],
    decode: &[(f64, f64)],
) -> String {
    let mut text = String::new();
    for (name, pick) in [("walk", first as fn(&(f64, f64)) -> f64), ("dispatch", second)] {
        let (n, twice) = (median(small.iter().map(pick)), median(large.iter().map(pick)));
        let ratio = twice / n;
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{name:<10} {n:.3} s, twice the nodes {twice:.3} s: {ratio:.2} times, target at most {LINEAR}: {}",
            verdict(ratio <= LINEAR)
        );
    }
    for Shape { name, nodes, ended, seconds } in shapes {
        let _ = writeln!(
            text,
            "{name}: {ended} after {nodes} nodes in {seconds:.3} s, target below {AT_ONCE} s: {}",
            verdict(*seconds < AT_ONCE)
        );
    }
    let (ours, theirs) = (median(decode.iter().map(first)), median(decode.iter().map(second)));
    let ratio = median(decode.iter().map(|(ours, theirs)| ours / theirs));
    let _ = writeln!(
        text,
        "decoding   {:.0} us, oci-spec's type {:.0} us: {ratio:.2} times, target at most {DECODE}: {}",
        ours * 1e6,
        theirs * 1e6,
        verdict(ratio <= DECODE)
    );
    text
}

fn first(pair: &(f64, f64)) -> f64 {
    pair.0
}

fn second(pair: &(f64, f64)) -> f64 {
    pair.1
}

fn verdict(is_reached: bool) -> &'static str {
    if is_reached { "reached" } else { "MISSED" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_read() {
        assert_eq!(pairs("0.1 0.2\n1 2").unwrap(), [(0.1, 0.2), (1.0, 2.0)]);
        for bad in ["", "1", "1 x", "1 2\n\n"] {
            assert!(pairs(bad).is_err(), "{bad:?}");
        }
        let chain = Shape { name: "chain".into(), nodes: 65, ended: "refused".into(), seconds: 0.5 };
        assert_eq!(shapes("chain 65 refused 0.5").unwrap(), [chain]);
        assert!(shapes("chain 65 refused").is_err());
    }

    #[test]
    fn targets_are_reached_or_missed() {
        let shape =
            |seconds| vec![Shape { name: "chain".into(), nodes: 1, ended: "refused".into(), seconds }];
        let good = report(&[(1.0, 2.0)], &[(2.2, 4.4)], &shape(0.9), &[(2.0, 1.0), (9.0, 1.0), (1.0, 1.0)]);
        assert_eq!(good.matches(": reached").count(), 4, "{good}");
        let bad = report(&[(1.0, 2.0)], &[(2.3, 4.5)], &shape(1.0), &[(2.1, 1.0)]);
        assert_eq!(bad.matches(": MISSED").count(), 4, "{bad}");
    }
}
