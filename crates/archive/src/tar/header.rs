//! The headers of a tar, as they are written.
//!
//! ```text
//! offset  0    100   108  116  124   136    148  156   157       257     263  …  329    337    …  512
//!         name mode  uid  gid  size  mtime  sum  type  linkname  ustar\0 00   …  major  minor  …
//!              octal                                                              (the rest is zero)
//! ```
//!
//! A header is POSIX ustar. Where ustar ends: names of more than 100 bytes are in a PAX header before it, and a number with too many
//! digits is in base 256 in the header itself, as GNU tar, libarchive and Go read it. A size is there even where a PAX header tells it as
//! well: a reader that passed over that would else take the file's content for headers (CVE-2025-62518).

use crate::untar::Time;

const BLOCK_LEN: usize = 512;
const NAME_LEN: usize = 100;

/// An archive ends with two blocks of zeros (POSIX pax, "ustar interchange format").
pub(crate) const END: [u8; 2 * BLOCK_LEN] = [0; 2 * BLOCK_LEN];

/// The first size and time that eleven octal digits do not hold.
pub(crate) const OCTAL_END: u64 = 1 << 33;
/// The first owner that seven octal digits do not hold.
pub(crate) const SHORT_OCTAL_END: u32 = 1 << 21;

pub(crate) const FILE: u8 = b'0';
pub(crate) const HARD_LINK: u8 = b'1';
pub(crate) const SYMLINK: u8 = b'2';
pub(crate) const CHAR_DEVICE: u8 = b'3';
pub(crate) const BLOCK_DEVICE: u8 = b'4';
pub(crate) const DIRECTORY: u8 = b'5';
pub(crate) const FIFO: u8 = b'6';
const PAX: u8 = b'x';

const PAX_MODE: u32 = 0o644;

/// The name and the value of a PAX record.
pub(crate) type Record = (Vec<u8>, Vec<u8>);

/// What the header of one entry says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header<'a> {
    /// That of a directory ends with a slash.
    pub(crate) name: &'a [u8],
    /// The type flag.
    pub(crate) kind: u8,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// How many bytes of content follow.
    pub(crate) size: u64,
    /// Seconds since the epoch; zero in the place of a time before it.
    pub(crate) mtime: u64,
    /// What a link leads to.
    pub(crate) link: &'a [u8],
    /// The major and the minor number.
    pub(crate) device: (u32, u32),
}

impl<'a> Header<'a> {
    /// Of root, without content, from the epoch.
    pub(crate) fn new(name: &'a [u8], kind: u8, mode: u32) -> Self {
        Self { name, kind, mode, uid: 0, gid: 0, size: 0, mtime: 0, link: b"", device: (0, 0) }
    }

    /// The header of an entry, with a PAX header before it where names are long or there are `records`, which follow those of names.
    pub(crate) fn bytes(&self, records: &[Record]) -> Vec<u8> {
        let mut text = Vec::new();
        for (key, name) in [("path", self.name), ("linkpath", self.link)] {
            if name.len() > NAME_LEN {
                pax_record(&mut text, key.as_bytes(), name);
            }
        }
        for (key, value) in records {
            pax_record(&mut text, key, value);
        }
        let mut bytes = Vec::with_capacity(3 * BLOCK_LEN + text.len());
        if !text.is_empty() {
            let name = [b"PaxHeaders.0/", self.name].concat();
            let pax = Header { size: text.len() as u64, ..Header::new(&name, PAX, PAX_MODE) };
            bytes.extend(pax.block());
            bytes.extend(&text);
            bytes.resize(bytes.len() + padding(text.len() as u64), 0);
        }
        bytes.extend(self.block());
        bytes
    }

    /// One block; longer names are cut.
    fn block(&self) -> [u8; BLOCK_LEN] {
        let mut block = [0; BLOCK_LEN];
        let mut put = |at: usize, name: &[u8]| {
            let name = &name[..name.len().min(NAME_LEN)];
            block[at..at + name.len()].copy_from_slice(name);
        };
        put(0, self.name);
        put(157, self.link);
        number(&mut block[100..108], self.mode.into());
        number(&mut block[108..116], self.uid.into());
        number(&mut block[116..124], self.gid.into());
        number(&mut block[124..136], self.size);
        number(&mut block[136..148], self.mtime);
        block[148..156].fill(b' ');
        block[156] = self.kind;
        block[257..265].copy_from_slice(b"ustar\x0000");
        number(&mut block[329..337], self.device.0.into());
        number(&mut block[337..345], self.device.1.into());
        let sum = block.iter().copied().map(u64::from).sum();
        // Six digits, a zero byte, and the last of the spaces (POSIX).
        number(&mut block[148..155], sum);
        block
    }
}

/// How many bytes are missing to a whole number of blocks.
pub(crate) fn padding(size: u64) -> usize {
    let rest = usize::try_from(size % BLOCK_LEN as u64).expect("because it is less than a block");
    (BLOCK_LEN - rest) % BLOCK_LEN
}

/// A time as PAX has it: seconds with as many digits behind the point as it takes.
pub(crate) fn pax_time(time: Time) -> String {
    let (sign, seconds, nanoseconds) = match time {
        Time { seconds, nanoseconds } if seconds < 0 && nanoseconds > 0 => {
            ("-", (seconds + 1).unsigned_abs(), 1_000_000_000 - nanoseconds)
        }
        Time { seconds, nanoseconds } => {
            (if seconds < 0 { "-" } else { "" }, seconds.unsigned_abs(), nanoseconds)
        }
    };
    if nanoseconds == 0 {
        return format!("{sign}{seconds}");
    }
    format!("{sign}{seconds}.{nanoseconds:09}").trim_end_matches('0').to_owned()
}

/// Adds `length key=value\n`, where the length counts its own digits.
fn pax_record(text: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + b" =\n".len();
    let mut len = rest + 1;
    while len != rest + len.to_string().len() {
        len = rest + len.to_string().len();
    }
    text.extend(len.to_string().as_bytes());
    for part in [b" ", key, b"=", value, b"\n"] {
        text.extend(part);
    }
}

/// Fills a field with octal digits and a zero byte, and where it is too short for them with the number in base 256.
fn number(field: &mut [u8], value: u64) {
    let digits = format!("{value:0width$o}\0", width = field.len() - 1);
    if digits.len() == field.len() {
        field.copy_from_slice(digits.as_bytes());
        return;
    }
    field.fill(0);
    for (byte, of_value) in field.iter_mut().rev().zip(value.to_le_bytes()) {
        *byte = of_value;
    }
    field[0] |= 0x80;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_beyond_octal_are_read_back() {
        for size in [0, 1, 511, OCTAL_END - 1, OCTAL_END, OCTAL_END + 513, i64::MAX as u64] {
            let header = Header { size, ..Header::new(b"blobs/sha256/x", FILE, 0o444) }.bytes(&[]);
            let read = tar::Header::from_byte_slice(&header);
            assert_eq!(read.entry_size().expect("a size"), size);
            assert_eq!(header[124] & 0x80 != 0, size >= OCTAL_END, "{size}");
            let bytes: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
            let field: u32 = header[148..156].iter().map(|byte| u32::from(*byte)).sum();
            assert_eq!(read.cksum().expect("a sum"), bytes - field + 8 * u32::from(b' '));
        }
    }

    #[test]
    fn owners_times_and_devices_are_read_back() {
        for (owner, mtime, device) in [
            (0, 0, (1, 3)),
            (SHORT_OCTAL_END - 1, OCTAL_END - 1, (0xfff, 0xf_ffff)),
            (SHORT_OCTAL_END, OCTAL_END, (0, 0)),
            (u32::MAX - 1, OCTAL_END + 1, (u32::MAX, u32::MAX)),
        ] {
            let header =
                Header { uid: owner, gid: owner, mtime, device, ..Header::new(b"d", CHAR_DEVICE, 0o7600) };
            let bytes = header.bytes(&[]);
            let read = tar::Header::from_byte_slice(&bytes);
            assert_eq!((read.uid().expect("uid"), read.gid().expect("gid")), (owner.into(), owner.into()));
            assert_eq!((read.mtime().expect("mtime"), read.mode().expect("mode")), (mtime, 0o7600));
            assert_eq!(bytes[108] & 0x80 != 0, owner >= SHORT_OCTAL_END, "{owner}");
            if device.0 < SHORT_OCTAL_END {
                assert_eq!(read.device_major().expect("major"), Some(device.0));
                assert_eq!(read.device_minor().expect("minor"), Some(device.1));
            }
        }
    }

    #[test]
    fn long_names_are_in_a_pax_header() {
        let name = format!("blobs/sha512/{}", "a".repeat(128));
        let header = Header { size: 7, ..Header::new(name.as_bytes(), FILE, 0o444) }.bytes(&[]);
        assert_eq!(header.len(), 3 * BLOCK_LEN);
        assert_eq!((header[156], header[2 * BLOCK_LEN + 156]), (PAX, FILE));
        assert!(header[BLOCK_LEN..].starts_with(format!("151 path={name}\n\0").as_bytes()));
        let name = "b".repeat(NAME_LEN);
        let link = Header { link: name.as_bytes(), ..Header::new(name.as_bytes(), SYMLINK, 0o777) };
        assert_eq!(link.bytes(&[])[..NAME_LEN], *name.as_bytes());
        assert_eq!(link.bytes(&[]).len(), BLOCK_LEN);
        let long = "c".repeat(NAME_LEN + 1);
        let link = Header { link: long.as_bytes(), ..link }.bytes(&[(b"mtime".to_vec(), b"1.5".to_vec())]);
        let text = format!("115 linkpath={long}\n13 mtime=1.5\n\0");
        assert!(link[BLOCK_LEN..].starts_with(text.as_bytes()));
    }

    #[test]
    fn a_pax_record_counts_itself() {
        for len in 0..2000 {
            let mut record = Vec::new();
            pax_record(&mut record, b"path", &b"x".repeat(len));
            let text = String::from_utf8(record).expect("text");
            let (count, _) = text.split_once(' ').expect("a length");
            assert_eq!(count.parse(), Ok(text.len()));
        }
    }

    #[test]
    fn times() {
        for (seconds, nanoseconds, text) in [
            (0, 0, "0"),
            (1, 500_000_000, "1.5"),
            (1, 1, "1.000000001"),
            (-1, 0, "-1"),
            (-2, 500_000_000, "-1.5"),
            (-1, 750_000_000, "-0.25"),
            (i64::MIN, 0, "-9223372036854775808"),
            (i64::MIN, 1, "-9223372036854775807.999999999"),
        ] {
            assert_eq!(pax_time(Time { seconds, nanoseconds }), text);
        }
    }

    #[test]
    fn blocks_are_filled_up() {
        for (size, expected) in [(0, 0), (1, 511), (511, 1), (512, 0), (513, 511), (u64::MAX, 1)] {
            assert_eq!(padding(size), expected, "{size}");
        }
    }
}
