//! How much memory applying a layer takes whose directories all have as many attributes as fit. The only test of its process, which is what is
//! measured.

use std::io::{Cursor, Read};

use wharf_archive::{ApplyOptions, apply, apply::Ownership};

/// How many directories the layer has, each with almost 1 MiB of attributes.
const DIRECTORIES: usize = 96;

/// What applying may take beyond what the process had before, in KiB.
const MAX_KIB: u64 = 32 << 10;

fn header(name: &str, flag: u8, size: usize) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.set_path(name).expect("fits");
    header.as_mut_bytes()[156] = flag;
    header.set_size(size as u64);
    header.set_mode(0o755);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    header.as_bytes().to_vec()
}

/// Attributes that no file system has, so that they take no room there.
fn attributes() -> Vec<u8> {
    const LEN: usize = 65_000;
    let mut text = Vec::new();
    for at in 10..25 {
        let record = format!(" SCHILY.xattr.nobody.knows.{at}=");
        let len = record.len() + LEN + 1 + 5;
        text.extend(format!("{len}{record}").into_bytes());
        text.resize(text.len() + LEN, b'x');
        text.push(b'\n');
    }
    text
}

/// The layer, made while it is read.
struct Layer {
    pax: Vec<u8>,
    made: usize,
    entry: Cursor<Vec<u8>>,
}

impl Read for Layer {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.entry.read(buffer)?;
        if count > 0 || self.made == DIRECTORIES {
            return Ok(count);
        }
        let mut entry = std::mem::take(self.entry.get_mut());
        entry.clear();
        entry.extend_from_slice(&self.pax);
        entry.extend(header(&format!("d{}", self.made), b'5', 0));
        self.entry = Cursor::new(entry);
        self.made += 1;
        self.entry.read(buffer)
    }
}

/// The most memory that this process has had, in KiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("it is told");
    line.split_whitespace().nth(1).expect("a number").parse().expect("a number")
}

#[test]
fn attributes_of_directories_are_not_kept_to_the_end() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let attributes = attributes();
    let mut pax = header("pax", b'x', attributes.len());
    pax.extend(attributes);
    pax.resize(pax.len().next_multiple_of(512), 0);
    let layer = Layer { pax, made: 0, entry: Cursor::default() };
    let before = peak();
    let applied =
        apply(layer, dir.path(), &ApplyOptions::new().with_ownership(Ownership::User)).expect("applies");
    assert_eq!(applied.entries, DIRECTORIES as u64);
    let told = applied.left_out.iter().map(|left_out| left_out.count).max();
    assert_eq!(told, Some(15 * DIRECTORIES as u64), "none was set");
    let grown = peak() - before;
    assert!(grown < MAX_KIB, "{grown} KiB more than before");
}
