//! Sparse files: which pieces of a file an archive has. What lies between them is zeros.
//!
//! ```text
//! 'S' header              pieces in the header and in blocks behind it          GNU tar, "Old GNU Format"
//! GNU.sparse.offset, …    pieces in a pax header, a record for each number      "PAX Format, Version 0.0"
//! GNU.sparse.map          pieces in a pax header, one record                    "PAX Format, Version 0.1"
//! GNU.sparse.major=1      pieces in front of the content, a line for each       "PAX Format, Version 1.0"
//! ```

use super::header::BLOCK_LEN;

/// The most bytes of a map in front of the content, and of blocks with pieces.
pub(super) const MAX_MAP_LEN: usize = 1024 * 1024;

/// Content that is there: its place in the file and its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

/// A sparse file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sparse {
    /// The size of the file.
    pub(crate) real_size: u64,
    /// In ascending order, not overlapping, all within the size.
    pub(crate) pieces: Vec<Piece>,
}

impl Sparse {
    /// Puts pieces together that stand in the archive as `stored` bytes.
    pub(super) fn new(real_size: u64, pieces: Vec<Piece>, stored: u64) -> Result<Self, &'static str> {
        let (mut end, mut sum) = (0, 0_u64);
        for piece in &pieces {
            // GNU tar begins each piece with a block, other programs where the one before it ends.
            if piece.len > 0 && !sum.is_multiple_of(BLOCK_LEN as u64) {
                return Err("a sparse file with a piece in its middle that does not fill whole blocks");
            }
            if piece.offset < end {
                return Err("a sparse file whose pieces overlap or are out of order");
            }
            // Both are at most `i64::MAX`.
            end = piece.offset + piece.len;
            sum += piece.len;
            if end > real_size {
                return Err("a sparse file with a piece behind its end");
            }
        }
        if sum != stored {
            return Err("a sparse file whose pieces are not as long as its content");
        }
        Ok(Self { real_size, pieces })
    }
}

/// A piece of two numbers, neither of which is too large.
pub(super) fn piece(offset: Option<u64>, len: Option<u64>) -> Result<Piece, &'static str> {
    let in_range = |number: Option<u64>| number.filter(|number| i64::try_from(*number).is_ok());
    match (in_range(offset), in_range(len)) {
        (Some(offset), Some(len)) => Ok(Piece { offset, len }),
        _ => Err("a sparse file with a piece that cannot be read"),
    }
}

/// What a pax header says of a sparse file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct SparsePax {
    version: (Option<u64>, Option<u64>),
    /// The name, where that of the header is made up.
    pub(super) name: Option<Vec<u8>>,
    real_size: Option<u64>,
    pieces: Vec<Piece>,
    /// An offset whose length is still to come.
    offset: Option<u64>,
}

/// Where the pieces of a sparse file are told.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// In the headers.
    Here(Vec<Piece>),
    /// In front of the content.
    InContent,
}

impl SparsePax {
    /// Reads a record whose key begins with `GNU.sparse.`, without that.
    pub(super) fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), &'static str> {
        const MALFORMED: &str = "a sparse file whose pax header cannot be read";
        let number =
            || super::pax::decimal(value).filter(|size| i64::try_from(*size).is_ok()).ok_or(MALFORMED);
        match key {
            b"major" => self.version.0 = Some(number()?),
            b"minor" => self.version.1 = Some(number()?),
            b"size" | b"realsize" => self.real_size = Some(number()?),
            b"name" if value.is_empty() || value.contains(&0) => return Err(MALFORMED),
            b"name" => self.name = Some(value.to_vec()),
            b"offset" if self.offset.is_some() => return Err(MALFORMED),
            b"offset" => self.offset = Some(number()?),
            b"numbytes" => self.pieces.push(piece(self.offset.take(), Some(number()?))?),
            b"map" => {
                if !self.pieces.is_empty() {
                    return Err(MALFORMED);
                }
                let numbers: Vec<_> = value.split(|byte| *byte == b',').map(super::pax::decimal).collect();
                let (pairs, rest) = numbers.as_chunks::<2>();
                if !rest.is_empty() {
                    return Err(MALFORMED);
                }
                self.pieces =
                    pairs.iter().map(|[offset, len]| piece(*offset, *len)).collect::<Result<_, _>>()?;
            }
            // How many pieces there are is seen.
            _ => {}
        }
        Ok(())
    }

    /// The size of the file, and where its pieces are.
    pub(super) fn finish(self) -> Result<(u64, Told), &'static str> {
        let real_size = self.real_size.ok_or("a sparse file whose size is not told")?;
        if self.offset.is_some() {
            return Err("a sparse file with half a piece");
        }
        match self.version {
            (None | Some(0), _) => Ok((real_size, Told::Here(self.pieces))),
            (Some(1), Some(0)) => Ok((real_size, Told::InContent)),
            _ => Err("a sparse file of a version that is not known"),
        }
    }
}

/// The map in front of the content: the number of pieces and for each its offset and length, a line each.
#[derive(Debug, Default)]
pub(super) struct Map {
    numbers: Vec<u64>,
    line: Vec<u8>,
}

impl Map {
    /// Takes a block; gives the pieces where it was the last one.
    pub(super) fn push(&mut self, block: &[u8]) -> Result<Option<Vec<Piece>>, &'static str> {
        for byte in block {
            if *byte != b'\n' {
                if self.line.len() == 20 {
                    return Err("a sparse file whose map cannot be read");
                }
                self.line.push(*byte);
                continue;
            }
            let number = super::pax::decimal(&self.line).ok_or("a sparse file whose map cannot be read")?;
            self.line.clear();
            self.numbers.push(number);
            let Some((count, numbers)) = self.numbers.split_first() else { continue };
            if count.checked_mul(2) == Some(numbers.len() as u64) {
                // The rest of the block is filling.
                let (pairs, _) = numbers.as_chunks::<2>();
                return pairs
                    .iter()
                    .map(|[offset, len]| piece(Some(*offset), Some(*len)))
                    .collect::<Result<_, _>>()
                    .map(Some);
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(pairs: &[(u64, u64)]) -> Vec<Piece> {
        pairs.iter().map(|(offset, len)| Piece { offset: *offset, len: *len }).collect()
    }

    #[test]
    fn pieces_are_in_order_and_inside() {
        for (real, pairs, stored, is_good) in [
            (0, &[][..], 0, true),
            (10, &[], 0, true),
            (2000, &[(2, 1024), (1500, 5), (2000, 0)], 1029, true),
            (10, &[(2, 3), (5, 5)], 8, false),
            (2000, &[(0, 513), (1000, 512)], 1025, false),
            (10, &[(10, 0)], 0, true),
            (10, &[(0, 11)], 11, false),
            (10, &[(5, 2), (2, 2)], 4, false),
            (10, &[(0, 5), (4, 2)], 7, false),
            (10, &[(0, 5)], 4, false),
            (10, &[(0, 5)], 6, false),
        ] {
            assert_eq!(Sparse::new(real, pieces(pairs), stored).is_ok(), is_good, "{real} {pairs:?}");
        }
    }

    #[test]
    fn pax_records_of_every_version() {
        let read = |records: &[(&str, &str)]| {
            let mut pax = SparsePax::default();
            records.iter().try_for_each(|(key, value)| pax.set(key.as_bytes(), value.as_bytes()))?;
            pax.finish()
        };
        let here = |pairs| Ok((9, Told::Here(pieces(pairs))));
        for (records, expected) in [
            (&[("size", "9"), ("numblocks", "1"), ("offset", "1"), ("numbytes", "2")][..], here(&[(1, 2)])),
            (&[("size", "9"), ("map", "1,2,5,1")], here(&[(1, 2), (5, 1)])),
            (&[("major", "1"), ("minor", "0"), ("realsize", "9"), ("name", "x")], Ok((9, Told::InContent))),
        ] {
            assert_eq!(read(records), expected, "{records:?}");
        }
        for bad in [
            &[("map", "1,2")][..],
            &[("size", "9"), ("map", "1")],
            &[("size", "9"), ("map", "")],
            &[("size", "9"), ("map", "1,x")],
            &[("size", "9"), ("offset", "1")],
            &[("size", "9"), ("offset", "1"), ("offset", "2")],
            &[("size", "9"), ("numbytes", "1")],
            &[("size", "-1")],
            &[("size", "9"), ("name", "")],
            &[("size", "9"), ("major", "2"), ("minor", "0")],
            &[("size", "9"), ("major", "1"), ("minor", "1")],
        ] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn maps_in_front_of_the_content() {
        let mut map = Map::default();
        assert_eq!(map.push(b"2\n0\n5"), Ok(None));
        assert_eq!(map.push(b"\n10\n1\n\0\0"), Ok(Some(pieces(&[(0, 5), (10, 1)]))));
        assert_eq!(Map::default().push(b"0\n"), Ok(Some(vec![])));
        for bad in [&b"x\n"[..], b"\n", b"1\n-1\n", b"111111111111111111111"] {
            assert!(Map::default().push(bad).is_err(), "{bad:?}");
        }
        assert_eq!(Map::default().push(b"9223372036854775807\n"), Ok(None));
    }
}
