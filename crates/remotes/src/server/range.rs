//! Ranges of bytes: the one that a read asks for, and the one that a chunk of an upload claims.
//!
//! A read with several ranges gets everything, which RFC 9110 (14.2) allows; so does one in a unit other than bytes.

use http::{HeaderMap, header};

/// What part of a blob is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Selection {
    Whole,
    /// `len` bytes from `start`, at least one.
    Part {
        start: u64,
        len: u64,
    },
    /// No byte of the blob, or nonsense (416).
    Unsatisfiable,
}

/// Reads `Range`, unless `If-Range` asks for another version than `etag` (RFC 9110, 13.1.5).
pub(super) fn select(headers: &HeaderMap, etag: &str, size: u64) -> Selection {
    let other = headers.get(header::IF_RANGE).is_some_and(|wanted| wanted.as_bytes() != etag.as_bytes());
    match headers.get(header::RANGE) {
        Some(range) if !other => range.to_str().map_or(Selection::Unsatisfiable, |range| parse(range, size)),
        _ => Selection::Whole,
    }
}

fn parse(range: &str, size: u64) -> Selection {
    let Some((unit, set)) = range.split_once('=') else {
        return Selection::Unsatisfiable;
    };
    if !unit.trim().eq_ignore_ascii_case("bytes") || set.contains(',') {
        return Selection::Whole;
    }
    let Some((first, last)) = set.trim().split_once('-') else {
        return Selection::Unsatisfiable;
    };
    let (start, end) = match (number(first), number(last)) {
        (Some(first), None) if last.is_empty() => (first, size),
        (Some(first), Some(last)) if first <= last => (first, last.saturating_add(1).min(size)),
        (None, Some(suffix)) if first.is_empty() => (size.saturating_sub(suffix), size),
        _ => return Selection::Unsatisfiable,
    };
    if start >= end {
        return Selection::Unsatisfiable;
    }
    Selection::Part { start, len: end - start }
}

/// The place of a chunk in its upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    pub(super) start: u64,
    pub(super) len: u64,
}

impl Chunk {
    /// Reads the `Content-Range` of a chunk, `first-last` ("Pushing a blob in chunks"). The form of RFC 9110, `bytes first-last/total`,
    /// is understood as well.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let text = text.strip_prefix("bytes ").unwrap_or(text);
        let range = text.split_once('/').map_or(text, |(range, _)| range);
        let (first, last) = range.split_once('-')?;
        let (start, last) = (number(first)?, number(last)?);
        Some(Self { start, len: last.checked_sub(start)?.checked_add(1)? })
    }
}

/// Digits and nothing else; more than can be counted is the largest number.
fn number(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_reads() {
        let part = |start, len| Selection::Part { start, len };
        for (range, expected) in [
            ("bytes=0-", part(0, 100)),
            ("bytes=0-0", part(0, 1)),
            ("bytes=10-19", part(10, 10)),
            ("BYTES= 10-19 ", part(10, 10)),
            ("bytes=90-1000", part(90, 10)),
            ("bytes=99-", part(99, 1)),
            ("bytes=-1", part(99, 1)),
            ("bytes=-1000", part(0, 100)),
            ("bytes=0-99999999999999999999999", part(0, 100)),
            ("bytes=100-", Selection::Unsatisfiable),
            ("bytes=99999999999999999999999-", Selection::Unsatisfiable),
            ("bytes=-0", Selection::Unsatisfiable),
            ("bytes=19-10", Selection::Unsatisfiable),
            ("bytes=", Selection::Unsatisfiable),
            ("bytes=-", Selection::Unsatisfiable),
            ("bytes=a-b", Selection::Unsatisfiable),
            ("bytes=+1-2", Selection::Unsatisfiable),
            ("bytes", Selection::Unsatisfiable),
            ("bytes=0-1,3-4", Selection::Whole),
            ("items=0-1", Selection::Whole),
        ] {
            assert_eq!(parse(range, 100), expected, "{range}");
        }
        assert_eq!(parse("bytes=0-", 0), Selection::Unsatisfiable);
        assert_eq!(parse("bytes=-5", 0), Selection::Unsatisfiable);
    }

    #[test]
    fn chunks() {
        for (text, expected) in [
            ("0-0", Some((0, 1))),
            ("10-19", Some((10, 10))),
            ("bytes 10-19/100", Some((10, 10))),
            ("bytes 10-19/*", Some((10, 10))),
            ("19-10", None),
            ("-5", None),
            ("5-", None),
            ("a-b", None),
            ("", None),
            ("0-18446744073709551615", None),
        ] {
            let chunk = Chunk::parse(text).map(|chunk| (chunk.start, chunk.len));
            assert_eq!(chunk, expected, "{text}");
        }
    }
}
