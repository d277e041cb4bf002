//! Pax headers: `length key=value\n` (POSIX pax, "pax Header Block").
//!
//! A record that cannot be read is refused, whatever it is about, since the records of one program would else be the values of another.
//! That the value of an owner or a time cannot be read is noted for who wants it.

use std::collections::HashSet;

use super::sparse::SparsePax;

/// An extended attribute: its name and its value.
pub(crate) type Xattr = (Vec<u8>, Vec<u8>);

/// A moment: seconds since the epoch, which may be before it, and nanoseconds after that second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Time {
    pub(crate) seconds: i64,
    pub(crate) nanoseconds: u32,
}

/// What a pax header says of the entry after it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    /// The content is not the file's, but pieces of it.
    pub(super) sparse: Option<SparsePax>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<Time>,
    /// In the order in which they stand, each name once.
    pub(super) xattrs: Vec<Xattr>,
    /// What has a value that cannot be read.
    pub(super) malformed: Option<&'static str>,
}

impl Pax {
    /// Reads the records.
    pub(super) fn parse(mut text: &[u8]) -> Result<Self, &'static str> {
        const MALFORMED: &str = "a pax header that cannot be read";
        let mut pax = Self::default();
        while !text.is_empty() {
            let space = text.iter().position(|byte| *byte == b' ').ok_or(MALFORMED)?;
            let len = decimal(&text[..space]).and_then(|len| usize::try_from(len).ok()).ok_or(MALFORMED)?;
            // A key of one letter, "=" and the end of the line.
            if len > text.len() || len < space + 4 || text[len - 1] != b'\n' {
                return Err(MALFORMED);
            }
            let record = &text[space + 1..len - 1];
            let equals =
                record.iter().position(|byte| *byte == b'=').filter(|at| *at > 0).ok_or(MALFORMED)?;
            pax.set(&record[..equals], &record[equals + 1..])?;
            text = &text[len..];
        }
        pax.xattrs = last_of_each(pax.xattrs);
        Ok(pax)
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), &'static str> {
        match key {
            b"path" | b"linkpath" => {
                if value.contains(&0) {
                    return Err("a name with a zero byte");
                }
                // POSIX takes the header's own name then, and other programs none at all.
                if value.is_empty() {
                    return Err("a pax header with an empty name");
                }
                let slot = if key == b"path" { &mut self.path } else { &mut self.link };
                *slot = Some(value.to_vec());
            }
            b"size" => {
                let size = decimal(value).filter(|size| i64::try_from(*size).is_ok());
                self.size = Some(size.ok_or("a pax header with a size that is no number")?);
            }
            b"uid" => self.uid = self.read("uid", value, decimal),
            b"gid" => self.gid = self.read("gid", value, decimal),
            b"mtime" => self.mtime = self.read("mtime", value, time),
            _ => {
                if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
                    self.sparse.get_or_insert_default().set(key, value)?;
                } else if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Ok(())
    }

    /// Reads a value, and notes one that cannot be read. No value at all: what the header itself says.
    fn read<T>(&mut self, what: &'static str, value: &[u8], read: fn(&[u8]) -> Option<T>) -> Option<T> {
        let found = read(value);
        if found.is_none() && !value.is_empty() {
            self.malformed = Some(what);
        }
        found
    }

    /// Whether it renames or resizes nothing.
    pub(super) fn moves_nothing(&self) -> bool {
        self.path.is_none() && self.link.is_none() && self.size.is_none() && self.sparse.is_none()
    }
}

/// Of attributes of one name, the last one counts. There may be as many as fit into a header.
fn last_of_each(mut xattrs: Vec<Xattr>) -> Vec<Xattr> {
    let mut is_last: Vec<bool> = {
        let mut names = HashSet::new();
        xattrs.iter().rev().map(|(name, _)| names.insert(&name[..])).collect()
    };
    xattrs.retain(|_| is_last.pop().unwrap_or_default());
    xattrs
}

/// Seconds with a fraction, of which nine digits are kept.
fn time(text: &[u8]) -> Option<Time> {
    let (is_negative, text) = match text.strip_prefix(b"-") {
        Some(text) => (true, text),
        None => (false, text),
    };
    let point = text.iter().position(|byte| *byte == b'.').unwrap_or(text.len());
    let seconds = i64::try_from(decimal(&text[..point])?).ok()?;
    let mut nanoseconds = 0;
    for at in 0..9 {
        let digit = match text.get(point + 1 + at) {
            Some(digit) if digit.is_ascii_digit() => u32::from(digit - b'0'),
            Some(_) => return None,
            None => 0,
        };
        nanoseconds = nanoseconds * 10 + digit;
    }
    if text.get(point + 10..).is_some_and(|rest| !rest.iter().all(u8::is_ascii_digit)) {
        return None;
    }
    Some(match (is_negative, nanoseconds) {
        (false, nanoseconds) => Time { seconds, nanoseconds },
        (true, 0) => Time { seconds: -seconds, nanoseconds: 0 },
        (true, nanoseconds) => Time { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds },
    })
}

pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |sum, byte| match byte {
        b'0'..=b'9' => sum.checked_mul(10)?.checked_add(u64::from(byte - b'0')),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        let of = |seconds, nanoseconds| Some(Time { seconds, nanoseconds });
        for (text, expected) in [
            ("0", of(0, 0)),
            ("1700000000.5", of(1_700_000_000, 500_000_000)),
            ("1.000000001", of(1, 1)),
            ("1.0000000019", of(1, 1)),
            ("1.", of(1, 0)),
            ("-1", of(-1, 0)),
            ("-1.5", of(-2, 500_000_000)),
            ("-0.25", of(-1, 750_000_000)),
            ("", None),
            (".5", None),
            ("-", None),
            ("+1", None),
            ("1.5x", None),
            ("1.0000000000x", None),
            ("1e9", None),
            ("9223372036854775808", None),
        ] {
            assert_eq!(time(text.as_bytes()), expected, "{text:?}");
        }
    }

    #[test]
    fn extended_attributes_may_hold_anything() {
        let pax = Pax::parse(b"28 SCHILY.xattr.user.a=\0=\n\xff\n25 SCHILY.xattr.user.b=x\n").expect("reads");
        let of = |name: &str, value: &[u8]| (name.as_bytes().to_vec(), value.to_vec());
        assert_eq!(pax.xattrs, [of("user.a", b"\0=\n\xff"), of("user.b", b"x")]);
    }

    #[test]
    fn of_attributes_of_one_name_the_last_counts() {
        let of = |name: &str, value: &str| (name.into(), value.into());
        let all = vec![of("a", "1"), of("b", "2"), of("a", "3"), of("c", "4"), of("b", "5")];
        assert_eq!(last_of_each(all), [of("a", "3"), of("c", "4"), of("b", "5")]);
    }

    #[test]
    fn records() {
        let path = |path: &str| Some(Pax { path: Some(path.into()), ..Pax::default() });
        let size = |size| Some(Pax { size: Some(size), ..Pax::default() });
        for (text, expected) in [
            (&b""[..], Some(Pax::default())),
            (b"9 path=a\n", path("a")),
            (b"10 path=ab\n", None),
            (b"11 path=ab\n", path("ab")),
            (b"011 path=a\n", path("a")),
            (b"11 path=ab\n12 path=abc\n", path("abc")),
            (b"11 path=ab\n8 path=\n", None),
            (b"12 linkpath=\n", None),
            (b"13 linkpath=a\n", None),
            (b"14 linkpath=a\n", Some(Pax { link: Some(b"a".to_vec()), ..Pax::default() })),
            (b"11 path=a=\n", path("a=")),
            (b"11 path=a\n\n", path("a\n")),
            (b"11 path=a\0\n", None),
            (b"11 path=ab", None),
            (b"30 path=ab\n", None),
            (b"-1 path=ab\n", None),
            (b"99999999999999999999 path=ab\n", None),
            (b"path=ab\n", None),
            (b"0 \n", None),
            (b"6 =ab\n", None),
            (b"11 size=17\n", size(17)),
            (b"12 size=017\n", size(17)),
            (b"10 size=17\n", None),
            (b"12 size=-17\n", None),
            (b"12 size=1e3\n", None),
            (b"8 size=\n", None),
            (b"28 size=9223372036854775807\n", size(i64::MAX as u64)),
            (b"28 size=9223372036854775808\n", None),
            (b"29 size=99999999999999999999\n", None),
            (b"11 mtime=x\n", Some(Pax { malformed: Some("mtime"), ..Pax::default() })),
            (b"9 uid=70\n", Some(Pax { uid: Some(70), ..Pax::default() })),
            (b"10 gid=-1\n", Some(Pax { malformed: Some("gid"), ..Pax::default() })),
            (b"10 mtime=x\n", None),
        ] {
            assert_eq!(Pax::parse(text).ok(), expected, "{:?}", String::from_utf8_lossy(text));
        }
    }
}
