//! The range that an answer says it is (`Content-Range`; RFC 9110, 14.4). No I/O.

use std::ops::Range;

/// Whether a Content-Range is exactly what was asked for of a content of `size` bytes. A continuation may leave the total open.
pub(super) fn continues(value: &str, wanted: &Range<u64>, size: u64) -> bool {
    read(value)
        .is_some_and(|(found, total)| found == *wanted && (total == "*" || number(total) == Some(size)))
}

/// Whether a Content-Range is exactly a part in the middle, total and all: who does not know the total is not asked for parts.
pub(super) fn is_part(value: &str, wanted: &Range<u64>, size: u64) -> bool {
    read(value).is_some_and(|(found, total)| found == *wanted && number(total) == Some(size))
}

fn read(value: &str) -> Option<(Range<u64>, &str)> {
    let (bytes, total) = value.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = bytes.split_once('-')?;
    Some((number(first)?..number(last)?.checked_add(1)?, total))
}

/// Digits and nothing else.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_rest_continues() {
        for good in ["bytes 5-9/10", "bytes 5-9/*"] {
            assert!(continues(good, &(5..10), 10), "{good}");
        }
        for bad in [
            "",
            "junk",
            "bytes 4-9/10",
            "bytes 5-8/10",
            "bytes 5-10/10",
            "bytes 5-9/11",
            "bytes 5-9/",
            "bytes 5-9",
            "5-9/10",
            "bytes */10",
            "bytes -5/10",
            "bytes +5-9/10",
            "bytes 5-18446744073709551615/10",
            "bytes 9-5/10",
        ] {
            assert!(!continues(bad, &(5..10), 10), "{bad}");
        }
    }

    #[test]
    fn a_part_needs_its_total() {
        assert!(is_part("bytes 5-9/100", &(5..10), 100));
        for bad in ["bytes 5-9/*", "bytes 5-9/10", "bytes 5-99/100", "bytes 0-9/100", "bytes 0-99/100"] {
            assert!(!is_part(bad, &(5..10), 100), "{bad}");
        }
    }
}
