//! A tar writer for archives that must come out the same to the byte: regular files and directories, and nothing that differs from
//! machine to machine.
//!
//! ```text
//! offset  0    100   108  116  124   136    148  156   157       257     263  …  512
//!         name mode  uid  gid  size  mtime  sum  type  linkname  ustar\0 00   …
//!              octal 0    0    octal 0           0 5             (the rest is zero)
//! ```
//!
//! A header is POSIX ustar. Where ustar ends: a name of more than 100 bytes is in a PAX header before it, and a size of 8 GiB or more is
//! in base 256 in the header itself, as GNU tar, libarchive and Go read it. The size is deliberately never in a PAX header: a reader
//! that passed over that would take the file's content for headers (CVE-2025-62518).

use tokio::io::AsyncWriteExt;
use wharf_content::{Result, ResultExt};

use crate::format::Output;

const BLOCK_LEN: usize = 512;
const NAME_LEN: usize = 100;

/// An archive ends with two blocks of zeros (POSIX pax, "ustar interchange format").
const END: [u8; 2 * BLOCK_LEN] = [0; 2 * BLOCK_LEN];

/// The first size that eleven octal digits do not hold.
const OCTAL_END: u64 = 1 << 33;

const FILE: u8 = b'0';
const DIRECTORY: u8 = b'5';
const PAX: u8 = b'x';

const DIRECTORY_MODE: u32 = 0o755;
const PAX_MODE: u32 = 0o644;

/// Writes records and counts bytes.
pub(crate) struct TarWriter<'a, 'o> {
    output: &'a mut Output<'o>,
    len: u64,
}

impl<'a, 'o> TarWriter<'a, 'o> {
    pub(crate) fn new(output: &'a mut Output<'o>) -> Self {
        Self { output, len: 0 }
    }

    /// Writes a directory; its name ends with a slash.
    pub(crate) async fn directory(&mut self, name: &str) -> Result<()> {
        self.put(&header(name, DIRECTORY, DIRECTORY_MODE, 0)).await
    }

    /// Writes a whole file.
    pub(crate) async fn file(&mut self, name: &str, mode: u32, bytes: &[u8]) -> Result<()> {
        let size = bytes.len() as u64;
        self.begin(name, mode, size).await?;
        self.put(bytes).await?;
        self.end(size).await
    }

    /// Begins a file of `size` bytes: as many must be [`put`](Self::put), and then it is [ended](Self::end).
    pub(crate) async fn begin(&mut self, name: &str, mode: u32, size: u64) -> Result<()> {
        self.put(&header(name, FILE, mode, size)).await
    }

    /// Writes bytes as they are.
    pub(crate) async fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.output.write_all(bytes).await.context(|| "cannot write the archive")?;
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Ends a file of `size` bytes.
    pub(crate) async fn end(&mut self, size: u64) -> Result<()> {
        self.put(&END[..padding(size)]).await
    }

    /// Ends the archive and gives its length.
    pub(crate) async fn finish(mut self) -> Result<u64> {
        self.put(&END).await?;
        Ok(self.len)
    }
}

/// How many bytes are missing to a whole number of blocks.
fn padding(size: u64) -> usize {
    let rest = usize::try_from(size % BLOCK_LEN as u64).expect("because it is less than a block");
    (BLOCK_LEN - rest) % BLOCK_LEN
}

/// The header of a record, with the PAX header that goes before it where the name is long.
fn header(name: &str, kind: u8, mode: u32, size: u64) -> Vec<u8> {
    let mut header = Vec::with_capacity(BLOCK_LEN);
    if name.len() > NAME_LEN {
        let record = pax_record("path", name);
        header.extend(block(&format!("PaxHeaders.0/{name}"), PAX, PAX_MODE, record.len() as u64));
        header.extend(record.as_bytes());
        header.resize(header.len() + padding(record.len() as u64), 0);
    }
    header.extend(block(name, kind, mode, size));
    header
}

/// `length key=value\n`, where the length counts its own digits.
fn pax_record(key: &str, value: &str) -> String {
    let rest = format!(" {key}={value}\n");
    let mut len = rest.len() + 1;
    while len != rest.len() + len.to_string().len() {
        len = rest.len() + len.to_string().len();
    }
    format!("{len}{rest}")
}

/// One block; a longer name is cut.
fn block(name: &str, kind: u8, mode: u32, size: u64) -> [u8; BLOCK_LEN] {
    let mut block = [0; BLOCK_LEN];
    let name = &name.as_bytes()[..name.len().min(NAME_LEN)];
    block[..name.len()].copy_from_slice(name);
    octal(&mut block[100..108], u64::from(mode));
    octal(&mut block[108..116], 0);
    octal(&mut block[116..124], 0);
    if size < OCTAL_END {
        octal(&mut block[124..136], size);
    } else {
        block[124] = 0x80;
        block[128..136].copy_from_slice(&size.to_be_bytes());
    }
    octal(&mut block[136..148], 0);
    block[148..156].fill(b' ');
    block[156] = kind;
    block[257..265].copy_from_slice(b"ustar\x0000");
    octal(&mut block[329..337], 0);
    octal(&mut block[337..345], 0);
    let sum = block.iter().copied().map(u64::from).sum();
    // Six digits, a zero byte, and the last of the spaces (POSIX).
    octal(&mut block[148..155], sum);
    block
}

/// Fills a field with octal digits and a zero byte.
fn octal(field: &mut [u8], value: u64) {
    let digits = format!("{value:0width$o}\0", width = field.len() - 1);
    field.copy_from_slice(digits.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_beyond_octal_are_read_back() {
        for size in [0, 1, 511, OCTAL_END - 1, OCTAL_END, OCTAL_END + 513, i64::MAX as u64] {
            let header = header("blobs/sha256/x", FILE, 0o444, size);
            let read = tar::Header::from_byte_slice(&header);
            assert_eq!(read.entry_size().expect("a size"), size);
            let bytes: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
            let field: u32 = header[148..156].iter().map(|byte| u32::from(*byte)).sum();
            assert_eq!(read.cksum().expect("a sum"), bytes - field + 8 * u32::from(b' '));
        }
    }

    #[test]
    fn long_names_are_in_a_pax_header() {
        let name = format!("blobs/sha512/{}", "a".repeat(128));
        let header = header(&name, FILE, 0o444, 7);
        assert_eq!(header.len(), 3 * BLOCK_LEN);
        assert_eq!((header[156], header[2 * BLOCK_LEN + 156]), (PAX, FILE));
        assert!(header[BLOCK_LEN..].starts_with(format!("151 path={name}\n\0").as_bytes()));
        let name = "b".repeat(NAME_LEN);
        assert_eq!(block(&name, FILE, 0o444, 0)[..NAME_LEN], *name.as_bytes());
    }

    #[test]
    fn a_pax_record_counts_itself() {
        for len in 0..2000 {
            let record = pax_record("path", &"x".repeat(len));
            let (count, _) = record.split_once(' ').expect("a length");
            assert_eq!(count.parse(), Ok(record.len()));
        }
    }

    #[test]
    fn blocks_are_filled_up() {
        for (size, expected) in [(0, 0), (1, 511), (511, 1), (512, 0), (513, 511), (u64::MAX, 1)] {
            assert_eq!(padding(size), expected, "{size}");
        }
    }
}
