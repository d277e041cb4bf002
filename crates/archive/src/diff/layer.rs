//! The tar of a layer: each node of a tree as an entry, whiteouts, and what a header cannot say in PAX records.

use std::io::Write;

use rustix::fs::{FileType, major, minor};
use wharf_content::{Error, Result, ResultExt};

use super::{
    node::{Node, Place},
    tree::{BUFFER_LEN, mtime},
};
use crate::{
    apply::{WHITEOUT, shown},
    tar::header::{
        BLOCK_DEVICE, CHAR_DEVICE, DIRECTORY, END, FIFO, FILE, HARD_LINK, Header, OCTAL_END, Record,
        SHORT_OCTAL_END, SYMLINK, padding, pax_time,
    },
    untar::{MAX_EXTENSIONS_LEN, MAX_NAME_LEN, Time},
};

/// Begins the PAX records of extended attributes.
const XATTR: &[u8] = b"SCHILY.xattr.";

/// Writes entries and counts them.
#[derive(Debug)]
pub(super) struct LayerWriter<W> {
    output: W,
    /// No time is later, in seconds since the epoch.
    max_mtime: Option<i64>,
    buffer: Vec<u8>,
    pub(super) len: u64,
    pub(super) entries: u64,
}

impl<W: Write> LayerWriter<W> {
    pub(super) fn new(output: W, max_mtime: Option<i64>) -> Self {
        Self { output, max_mtime, buffer: vec![0; BUFFER_LEN], len: 0, entries: 0 }
    }

    /// Writes a directory; its name ends with a slash.
    pub(super) fn directory(&mut self, name: &[u8], node: &Node) -> Result<()> {
        self.header(Header { kind: DIRECTORY, ..self.of(name, node) }, node, true)
    }

    /// Writes what is no directory, a file with its content.
    ///
    /// # Errors
    /// `InvalidArgument` for what a layer cannot say; those of the file and the output.
    pub(super) fn node(&mut self, name: &[u8], place: Place<'_>) -> Result<()> {
        let node = place.node;
        let header = self.of(name, node);
        let device = (major(node.stat.st_rdev), minor(node.stat.st_rdev));
        let header = match node.kind() {
            FileType::Symlink => Header { kind: SYMLINK, link: &node.target, ..header },
            FileType::Fifo => Header { kind: FIFO, ..header },
            FileType::CharacterDevice if node.is_whiteout() => {
                return Err(Error::invalid_argument(format!(
                    "{} is a device 0:0, by which overlayfs hides a name: make the layer of the mounted tree, or as that of a directory \
                     to which an overlay's changes were written",
                    place.directory.shown(place.base)
                )));
            }
            FileType::CharacterDevice => Header { kind: CHAR_DEVICE, device, ..header },
            FileType::BlockDevice => Header { kind: BLOCK_DEVICE, device, ..header },
            FileType::RegularFile => {
                let mut file = place.directory.file(place.base, &node.stat)?;
                let size = node.stat.st_size.cast_unsigned();
                self.header(Header { kind: FILE, size, ..header }, node, true)?;
                let mut buffer = std::mem::take(&mut self.buffer);
                loop {
                    match file.read(&mut buffer)? {
                        0 => break,
                        count => self.put(&buffer[..count])?,
                    }
                }
                self.buffer = buffer;
                return self.put(&END[..padding(size)]);
            }
            kind => {
                return Err(Error::invalid_argument(format!(
                    "{} is of a type that a layer does not have: {kind:?}",
                    place.directory.shown(place.base)
                )));
            }
        };
        self.header(header, node, true)
    }

    /// Writes another name of a file that was written.
    pub(super) fn hard_link(&mut self, name: &[u8], target: &[u8], node: &Node) -> Result<()> {
        self.header(Header { kind: HARD_LINK, link: target, ..self.of(name, node) }, node, false)
    }

    /// Writes what hides a name, or all that is in a directory: an empty file from the epoch, of nobody in particular.
    pub(super) fn whiteout(&mut self, name: &[u8]) -> Result<()> {
        self.bytes(&Header::new(name, FILE, 0), &[])
    }

    /// Ends the layer.
    pub(super) fn finish(&mut self) -> Result<()> {
        self.put(&END)?;
        self.output.flush().context(|| "cannot write the layer")
    }

    /// What headers say of every node.
    fn of<'n>(&self, name: &'n [u8], node: &Node) -> Header<'n> {
        let (stat, mtime) = (&node.stat, self.mtime(node));
        Header {
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: u64::try_from(mtime.seconds).unwrap_or(0),
            ..Header::new(name, FILE, stat.st_mode & 0o7777)
        }
    }

    fn mtime(&self, node: &Node) -> Time {
        let mtime = mtime(&node.stat);
        match self.max_mtime {
            Some(max) if mtime.seconds >= max => Time { seconds: max, nanoseconds: 0 },
            _ => mtime,
        }
    }

    fn header(&mut self, header: Header<'_>, node: &Node, has_xattrs: bool) -> Result<()> {
        let name = header.name.strip_suffix(b"/").unwrap_or(header.name);
        let base = name.rsplit(|byte| *byte == b'/').next().unwrap_or(name);
        check_base(base, header.name)?;
        let mut records: Vec<Record> = Vec::new();
        let mut say = |key: &str, value: String| records.push((key.into(), value.into()));
        if header.size >= OCTAL_END {
            say("size", header.size.to_string());
        }
        for (key, owner) in [("uid", header.uid), ("gid", header.gid)] {
            if owner >= SHORT_OCTAL_END {
                say(key, owner.to_string());
            }
        }
        let mtime = self.mtime(node);
        if mtime.nanoseconds > 0 || mtime.seconds != header.mtime.min(OCTAL_END - 1).cast_signed() {
            say("mtime", pax_time(mtime));
        }
        if has_xattrs {
            for (key, value) in &node.xattrs {
                if key.contains(&b'=') {
                    return Err(Error::invalid_argument(format!(
                        "{} has an extended attribute whose name has a \"=\" in it, which a layer cannot say: {}",
                        shown(header.name),
                        shown(key)
                    )));
                }
                records.push(([XATTR, key].concat(), value.clone()));
            }
        }
        self.bytes(&header, &records)
    }

    fn bytes(&mut self, header: &Header<'_>, records: &[Record]) -> Result<()> {
        // What is longer cannot be unpacked, by this program either.
        if header.name.len() > MAX_NAME_LEN {
            return Err(Error::invalid_argument(format!(
                "a path of more than {MAX_NAME_LEN} bytes, which no layer can have: {}",
                shown(&header.name[..MAX_NAME_LEN / 8])
            )));
        }
        let bytes = header.bytes(records);
        if bytes.len() as u64 > MAX_EXTENSIONS_LEN {
            return Err(Error::invalid_argument(format!(
                "{} has extended attributes of more than {MAX_EXTENSIONS_LEN} bytes, which no layer can have",
                shown(header.name)
            )));
        }
        self.entries += 1;
        self.put(&bytes)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.output.write_all(bytes).context(|| "cannot write the layer")?;
        self.len += bytes.len() as u64;
        Ok(())
    }
}

/// Refuses names that hide others (OCI image specification, layer.md, "Whiteouts").
pub(super) fn check_base(base: &[u8], path: &[u8]) -> Result<()> {
    if !base.starts_with(WHITEOUT) {
        return Ok(());
    }
    Err(Error::invalid_argument(format!(
        "{} cannot be in a layer, nor hidden by one: names that begin with .wh. hide others there; rename it",
        shown(path)
    )))
}
