//! What can be done to one request or its answer on the way.

use std::time::Duration;

use crate::fake::Reply;

/// One fault. Offsets count the bytes of a body, from 0; a fault that begins beyond the body does not happen.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Fault {
    /// The client gets this, and the server is not asked.
    Answer(Reply),
    /// The answer has this header in the place of its own, or none.
    Header(&'static str, Option<String>),
    /// The connection is reset when the client has so much of the answer.
    ResetAnswer(u64),
    /// The connection is reset when the server has so much of what the client sends.
    ResetRequest(u64),
    /// The server does what it is asked, and the connection is reset in the place of its answer.
    LoseAnswer,
    /// The connection is silent from here on, and stays open until the proxy ends.
    Stall(u64),
    /// The connection is closed as if that were the end, though more was announced.
    Truncate(u64),
    /// The body lacks so much at its end, and what is announced agrees.
    Shorten(u64),
    /// The body has so much more at its end, and what is announced agrees.
    Lengthen(u64),
    /// One bit of this byte is another.
    Flip(u64),
    /// The body comes in pieces of so many bytes, with pauses.
    Drip(usize, Duration),
    /// The server does not see that a part was asked for.
    IgnoreRange,
    /// The part is called another than it is.
    Splice(Splice),
}

/// What a `Content-Range` says wrongly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Splice {
    /// The first byte.
    First,
    /// The last byte.
    Last,
    /// How much there is in all.
    Total,
    /// Nothing that could be read.
    Junk,
    /// There is none.
    Missing,
}

impl Splice {
    /// A `Content-Range` with this fault in it. One that cannot be read has it already.
    pub(super) fn spoil(self, range: &str) -> Option<String> {
        let numbers = || {
            let (bytes, total) = range.strip_prefix("bytes ")?.split_once('/')?;
            let (first, last) = bytes.split_once('-')?;
            Some((first.parse::<u64>().ok()?, last.parse::<u64>().ok()?, total.parse::<u64>().ok()?))
        };
        let (first, last, total) = numbers().unwrap_or_default();
        match self {
            Self::First => Some(format!("bytes {}-{last}/{total}", first.saturating_sub(1))),
            Self::Last => Some(format!("bytes {first}-{}/{total}", last.saturating_sub(1))),
            Self::Total => Some(format!("bytes {first}-{last}/{}", total + 1)),
            Self::Junk => Some("bytes of some kind".to_owned()),
            Self::Missing => None,
        }
    }
}

impl Fault {
    /// The kind of fault, for counting.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Answer(_) => "answer",
            Self::Header(..) => "header",
            Self::ResetAnswer(_) => "reset-answer",
            Self::ResetRequest(_) => "reset-request",
            Self::LoseAnswer => "lose-answer",
            Self::Stall(_) => "stall",
            Self::Truncate(_) => "truncate",
            Self::Shorten(_) => "shorten",
            Self::Lengthen(_) => "lengthen",
            Self::Flip(_) => "flip",
            Self::Drip(..) => "drip",
            Self::IgnoreRange => "ignore-range",
            Self::Splice(_) => "splice",
        }
    }
}

/// Every form of `Retry-After` that was seen: seconds, dates, and what is neither.
pub const RETRY_AFTER: [&str; 10] = [
    "0",
    "1",
    "86400",
    "-1",
    "1.5",
    "99999999999999999999",
    "",
    "soon",
    "Wed, 21 Oct 2015 07:28:00 GMT",
    "Thu, 31 Dec 2099 23:59:59 GMT",
];

/// An answer with one of them.
pub fn retry_after(status: u16, form: usize) -> Fault {
    Fault::Answer(Reply::new(status, &[("Retry-After", RETRY_AFTER[form % RETRY_AFTER.len()])], ""))
}

/// A redirect to a place.
pub fn redirect(location: &str) -> Fault {
    Fault::Answer(Reply::new(307, &[("Location", location)], ""))
}

/// A refusal with a challenge.
pub fn challenge(value: &str) -> Fault {
    Fault::Answer(Reply::new(401, &[("WWW-Authenticate", value)], ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splices() {
        for (splice, spoilt) in [
            (Splice::First, Some("bytes 4-9/10")),
            (Splice::Last, Some("bytes 5-8/10")),
            (Splice::Total, Some("bytes 5-9/11")),
            (Splice::Junk, Some("bytes of some kind")),
            (Splice::Missing, None),
        ] {
            assert_eq!(splice.spoil("bytes 5-9/10").as_deref(), spoilt);
        }
        assert_eq!(Splice::Total.spoil("junk").as_deref(), Some("bytes 0-0/1"));
    }
}
