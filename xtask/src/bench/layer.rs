//! A layer that takes no time to make: a tar archive with one file of noise, in gzip's form but not compressed
//! (RFC 1952 around the stored blocks of RFC 1951).
//!
//! What begins as gzip is left as it is by the programs that are compared.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use crate::failure::{Context, Result};
use crate::process::Tool;
use crate::random::Noise;

/// The longest stored block.
const BLOCK: usize = 65_535;

/// A block of a tar archive.
const TAR: u64 = 512;

/// Writes a layer whose file has `length` bytes; another `seed` gives other ones.
pub(super) fn write(path: &Path, length: u64, seed: u64) -> Result<()> {
    let file = File::create(path).context(path.display())?;
    archive(BufWriter::with_capacity(1 << 20, file), length, seed).context(path.display())
}

/// Writes a layer with files that have nothing in them.
pub(super) fn write_empty(path: &Path, names: impl Iterator<Item = String>) -> Result<()> {
    let write = |out| -> io::Result<()> {
        let mut stored = Stored::begin(out)?;
        for name in names {
            stored.write(&header(&name, 0))?;
        }
        stored.write(&[0; 1024])?;
        stored.end()
    };
    let file = File::create(path).context(path.display())?;
    write(BufWriter::with_capacity(1 << 20, file)).context(path.display())
}

/// Writes a layer with one file of zeros, so many times 64 MiB, compressed as well as gzip can.
pub(super) fn write_zeros(path: &Path, times: u64) -> Result<()> {
    const PIECE: usize = 64 << 20;
    let member = |bytes: &[u8]| Ok(Tool::new("gzip").arg("-9").input(bytes).success()?.stdout);
    let (start, end) = (member(&header("zeros", times * PIECE as u64))?, member(&[0; 1024])?);
    // One member follows the other, and equal ones are compressed once.
    let zeros = member(&vec![0; PIECE])?;
    let write = |mut out: BufWriter<File>| -> io::Result<()> {
        out.write_all(&start)?;
        (0..times).try_for_each(|_| out.write_all(&zeros))?;
        out.write_all(&end)?;
        out.flush()
    };
    let file = File::create(path).context(path.display())?;
    write(BufWriter::with_capacity(1 << 20, file)).context(path.display())
}

fn archive(out: impl Write, length: u64, seed: u64) -> io::Result<()> {
    let mut stored = Stored::begin(out)?;
    stored.write(&header("noise", length))?;
    let mut noise = Noise::new(seed);
    let padded = length.next_multiple_of(TAR);
    for word in 0..padded / 8 {
        // What is behind the end of the file has to be zero.
        let bytes = noise.word().to_le_bytes();
        let left = usize::try_from(length.saturating_sub(word * 8)).unwrap_or(usize::MAX).min(8);
        let mut kept = [0; 8];
        kept[..left].copy_from_slice(&bytes[..left]);
        stored.write(&kept)?;
    }
    stored.write(&[0; 1024])?;
    stored.end()
}

/// The header of a file with a name of at most 100 bytes (POSIX ustar; longer than 8 GiB as GNU tar has it).
fn header(name: &str, length: u64) -> [u8; 512] {
    let mut header = [0; 512];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name.as_bytes());
    put(100, b"0000644\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    if length < 1 << 33 {
        put(124, format!("{length:011o}\0").as_bytes());
    } else {
        put(124, &[0x80]);
        put(128, &length.to_be_bytes());
    }
    put(136, b"00000000000\0");
    // The sum is made with spaces in its place.
    put(148, b"        ");
    put(156, b"0");
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

/// A gzip member of stored blocks.
#[derive(Debug)]
struct Stored<W> {
    out: W,
    block: Vec<u8>,
    table: [u32; 256],
    crc: u32,
    length: u32,
}

impl<W: Write> Stored<W> {
    fn begin(mut out: W) -> io::Result<Self> {
        out.write_all(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255])?;
        Ok(Self { out, block: Vec::with_capacity(BLOCK), table: table(), crc: u32::MAX, length: 0 })
    }

    fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        for byte in bytes {
            let [low, ..] = (self.crc ^ u32::from(*byte)).to_le_bytes();
            self.crc = self.table[usize::from(low)] ^ (self.crc >> 8);
        }
        // The format counts modulo 2^32.
        self.length = self.length.wrapping_add(u32::try_from(bytes.len()).unwrap_or_default());
        while self.block.len() + bytes.len() > BLOCK {
            let (now, later) = bytes.split_at(BLOCK - self.block.len());
            self.block.extend_from_slice(now);
            self.flush(false)?;
            bytes = later;
        }
        self.block.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self, last: bool) -> io::Result<()> {
        let length = u16::try_from(self.block.len()).unwrap_or(u16::MAX);
        self.out.write_all(&[u8::from(last)])?;
        self.out.write_all(&length.to_le_bytes())?;
        self.out.write_all(&(!length).to_le_bytes())?;
        self.out.write_all(&self.block)?;
        self.block.clear();
        Ok(())
    }

    fn end(mut self) -> io::Result<()> {
        self.flush(true)?;
        self.out.write_all(&(!self.crc).to_le_bytes())?;
        self.out.write_all(&self.length.to_le_bytes())?;
        self.out.flush()
    }
}

/// The remainders of all bytes (RFC 1952, section 8).
fn table() -> [u32; 256] {
    let mut table = [0; 256];
    for (byte, entry) in (0_u32..).zip(&mut table) {
        *entry = (0..8).fold(byte, |crc, _| if crc & 1 == 1 { 0xEDB8_8320 ^ (crc >> 1) } else { crc >> 1 });
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn gzip_and_tar_read_it() {
        let scratch = Scratch::new("layer").unwrap();
        let path = scratch.path().join("layer");
        for length in [0, 1, 511, 512, 65_536, 200_001] {
            write(&path, length, 1).unwrap();
            Tool::new("gzip").arg("-t").input(&std::fs::read(&path).unwrap()).success().unwrap();
            let tool = Tool::new("tar").arg("-xzOf").arg(&path).arg("noise");
            assert_eq!(tool.success().unwrap().stdout.len() as u64, length);
        }
    }

    #[test]
    fn names_and_zeros_are_read_too() {
        let scratch = Scratch::new("layer").unwrap();
        let path = scratch.path().join("layer");
        write_empty(&path, ["a", "b/c"].into_iter().map(str::to_owned)).unwrap();
        let listed = |path: &Path| Tool::new("tar").arg("-tzvf").arg(path).text().unwrap();
        assert_eq!(listed(&path).lines().count(), 2);
        assert!(listed(&path).ends_with(" b/c"), "{}", listed(&path));
        write_zeros(&path, 1).unwrap();
        assert!(listed(&path).contains(" 67108864 "), "{}", listed(&path));
    }

    #[test]
    fn another_seed_gives_other_bytes() {
        let made = |seed| {
            let mut bytes = Vec::new();
            archive(&mut bytes, 1000, seed).unwrap();
            bytes
        };
        assert_eq!(made(1), made(1));
        assert_ne!(made(1), made(2));
    }
}
