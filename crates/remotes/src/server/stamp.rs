//! In which state a file is, to see that it has changed since it was read.

use std::{fs, io, os::unix::fs::MetadataExt, path::Path};

/// What tells one state of a file from another, without reading it.
///
/// The time of the last change of its metadata is there for those who set the time of the last change of its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    pub(super) size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// Looks at a file, behind symbolic links. Blocks.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let found = fs::metadata(path)?;
        Ok(Self {
            device: found.dev(),
            inode: found.ino(),
            size: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }
}
