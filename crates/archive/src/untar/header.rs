//! One block of a tar header: fields, numbers and the checksum. What an entry means is put together elsewhere.

use super::sparse::{Piece, piece};

/// Everything in a tar is a multiple of it.
pub(super) const BLOCK_LEN: usize = 512;

/// What is read of a block.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) name: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) size: u64,
    pub(super) flag: u8,
    /// These are `None` where they cannot be read, which matters only to who wants them.
    pub(super) mode: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    /// Seconds since the epoch, which may be before it.
    pub(super) mtime: Option<i64>,
    pub(super) device: (Option<u64>, Option<u64>),
}

impl Header {
    /// Reads a header; `None` for a block of zeros, which ends an archive.
    pub(super) fn parse(block: &[u8; BLOCK_LEN]) -> Result<Option<Self>, &'static str> {
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        if !has_checksum(block) {
            return Err("a header has a wrong checksum");
        }
        let mut name = text(&block[..100]).to_vec();
        let prefix = text(&block[345..500]);
        if &block[257..263] == b"ustar\0" {
            if !prefix.is_empty() {
                name = [prefix, b"/", &name].concat();
            }
            if block[156] == b'S' {
                return Err("GNU's header of a sparse file without GNU's mark");
            }
        } else if !prefix.is_empty() && !matches!(block[156], b'L' | b'K' | b'S') {
            // GNU's header, whose magic ends in spaces, has times there in incremental archives. Python takes even those for directories.
            return Err("a header of an old kind with something where ustar has directories");
        }
        let size = number(&block[124..136]).filter(|size| i64::try_from(*size).is_ok());
        Ok(Some(Self {
            name,
            link: text(&block[157..257]).to_vec(),
            size: size.ok_or("a size is no number, negative or too large")?,
            flag: block[156],
            mode: number(&block[100..108]),
            uid: number(&block[108..116]),
            gid: number(&block[116..124]),
            mtime: signed(&block[136..148]),
            device: (number(&block[329..337]), number(&block[337..345])),
        }))
    }
}

/// What GNU's own header of a sparse file says of it (GNU tar, "Old GNU Format").
#[derive(Debug)]
pub(super) struct OldSparse {
    pub(super) pieces: Vec<Piece>,
    pub(super) real_size: u64,
    /// Whether a block with more pieces follows.
    pub(super) goes_on: bool,
}

impl OldSparse {
    pub(super) fn parse(block: &[u8; BLOCK_LEN]) -> Result<Self, &'static str> {
        let real_size = number(&block[483..495]).filter(|size| i64::try_from(*size).is_ok());
        Ok(Self {
            pieces: pieces(&block[386..482])?,
            real_size: real_size.ok_or("a sparse file whose size is no number, negative or too large")?,
            goes_on: block[482] != 0,
        })
    }

    /// Adds what a block after the header says.
    pub(super) fn extend(&mut self, block: &[u8; BLOCK_LEN]) -> Result<(), &'static str> {
        self.pieces.extend(pieces(&block[..504])?);
        self.goes_on = block[504] != 0;
        Ok(())
    }
}

fn pieces(fields: &[u8]) -> Result<Vec<Piece>, &'static str> {
    let (pairs, _) = fields.as_chunks::<24>();
    let used = pairs.iter().take_while(|pair| pair[0] != 0);
    used.map(|pair| piece(number(&pair[..12]), number(&pair[12..]))).collect()
}

/// Whether a block is a header: some programs have summed signed bytes.
pub(super) fn has_checksum(block: &[u8; BLOCK_LEN]) -> bool {
    let Some(expected) = number(&block[148..156]) else { return false };
    let fields = block[..148].iter().chain(&[b' '; 8]).chain(&block[156..]);
    let unsigned: u64 = fields.clone().map(|byte| u64::from(*byte)).sum();
    let signed: i64 = fields.map(|byte| i64::from(byte.cast_signed())).sum();
    expected == unsigned || i64::try_from(expected) == Ok(signed)
}

/// A text up to its zero byte, or as long as the field.
fn text(field: &[u8]) -> &[u8] {
    &field[..field.iter().position(|byte| *byte == 0).unwrap_or(field.len())]
}

/// Octal digits behind spaces and before spaces and zero bytes, or GNU's base 256; `None` for anything else. An empty field is zero.
///
/// Digits behind a zero byte are none: some programs read them, and for others the field ends there.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        // With 0xff it is negative. The first byte's other bits belong to the number.
        let first = u64::from(field[0] & 0x7f);
        return field[1..]
            .iter()
            .try_fold(first, |sum: u64, byte| sum.checked_mul(256).map(|sum| sum | u64::from(*byte)));
    }
    let is_blank = |byte: &u8| matches!(byte, 0 | b' ');
    let start = field.iter().position(|byte| *byte != b' ').unwrap_or(field.len());
    let field = &field[start..];
    let end = field.iter().position(is_blank).unwrap_or(field.len());
    let (digits, rest) = field.split_at(end);
    if !rest.iter().all(is_blank) {
        return None;
    }
    digits.iter().try_fold(0_u64, |sum, byte| match byte {
        b'0'..=b'7' => sum.checked_mul(8)?.checked_add(u64::from(byte - b'0')),
        _ => None,
    })
}

/// As [`number`], and negative ones of base 256.
fn signed(field: &[u8]) -> Option<i64> {
    if field[0] != 0xff {
        return number(field)?.try_into().ok();
    }
    let (high, low) = field.split_at(field.len().checked_sub(8)?);
    let low: [u8; 8] = low.try_into().ok()?;
    let value = i64::from_be_bytes(low);
    (high.iter().all(|byte| *byte == 0xff) && value < 0).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_the_epoch() {
        for (field, expected) in [
            (&b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"[..], Some(-1)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2)),
            (b"\xff\xff\xff\xff\x7f\xff\xff\xff\xff\xff\xff\xff", None),
            (b"\xff\xff\xff\0\xff\xff\xff\xff\xff\xff\xff\xff", None),
            (b"00000000017\0", Some(15)),
            (b"\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff", None),
        ] {
            assert_eq!(signed(field), expected, "{field:?}");
        }
    }

    #[test]
    fn numbers() {
        for (field, expected) in [
            (&b"00000000017\0"[..], Some(15)),
            (b"      17 \0\0\0", Some(15)),
            (b"17", Some(15)),
            (b"\0\0\0\0", Some(0)),
            (b"    ", Some(0)),
            (b"777777777777", Some(0o777_777_777_777)),
            (b"\x80\0\0\0\0\0\0\0\0\0\x01\x02", Some(258)),
            (b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", Some(i64::MAX as u64)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
            (b"\x81\0\0\0\0\0\0\0\0\0\0\0", None),
            (b"1 7", None),
            (b"1\x007", None),
            (b"\x0017", None),
            (b"\0 17", None),
            (b" \x0017", None),
            (b" \0 \0", Some(0)),
            (b"18", None),
            (b"-1", None),
            (b"1e3", None),
            (b"0x1", None),
        ] {
            assert_eq!(number(field), expected, "{field:?}");
        }
    }
}
