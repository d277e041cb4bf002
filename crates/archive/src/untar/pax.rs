//! Pax headers: `length key=value\n`, of which names and sizes are read (POSIX pax, "pax Header Block").
//!
//! Owners, times and extended attributes are passed over; what cannot be read is refused, whatever it is about, since the records of one
//! program would else be the values of another.

/// What a pax header says of the entry after it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    /// The content is not the file's, but pieces of it (GNU tar, "PAX Sparse").
    pub(super) sparse: bool,
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
        Ok(pax)
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), &'static str> {
        match key {
            b"path" | b"linkpath" => {
                if value.contains(&0) {
                    return Err("a name with a zero byte");
                }
                let slot = if key == b"path" { &mut self.path } else { &mut self.link };
                // No value at all: what the header itself says.
                *slot = (!value.is_empty()).then(|| value.to_vec());
            }
            b"size" => {
                let size = decimal(value).filter(|size| i64::try_from(*size).is_ok());
                self.size = Some(size.ok_or("a pax header with a size that is no number")?);
            }
            _ if key.starts_with(b"GNU.sparse.") => self.sparse = true,
            _ => {}
        }
        Ok(())
    }

    /// Whether it says nothing that matters here.
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

fn decimal(digits: &[u8]) -> Option<u64> {
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
            (b"11 path=ab\n8 path=\n", Some(Pax::default())),
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
            (b"22 GNU.sparse.major=1\n", Some(Pax { sparse: true, ..Pax::default() })),
            (b"11 mtime=x\n", Some(Pax::default())),
            (b"10 mtime=x\n", None),
        ] {
            assert_eq!(Pax::parse(text).ok(), expected, "{:?}", String::from_utf8_lossy(text));
        }
    }
}
