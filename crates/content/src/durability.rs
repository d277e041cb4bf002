//! How hard a local store tries to survive a power cut.

use std::{fs::File, io, path::Path};

use crate::local::atomic::{self, PendingFile};

/// What a local store does for its content to survive a crash of the system or a power cut. The end of a process, however it comes,
/// loses nothing committed either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Durability {
    /// Content is synced before it has a name, then the directory, then the database: what was committed is there after a power cut.
    #[default]
    Full,
    /// Nothing is synced by this handle, and its connection to the database has `synchronous=OFF`: a power cut may leave blobs that
    /// are damaged or empty under the right name, or a damaged database. For scratch stores and benchmarks alone.
    None,
}

impl Durability {
    /// Syncs what a file holds.
    ///
    /// # Errors
    /// Those of the system.
    pub fn sync(self, file: &File) -> io::Result<()> {
        match self {
            Self::Full => file.sync_all(),
            Self::None => Ok(()),
        }
    }

    /// Makes a name in a directory durable.
    ///
    /// # Errors
    /// Those of the system.
    pub fn sync_parent(self, path: &Path) -> io::Result<()> {
        match self {
            Self::Full => atomic::sync_parent(path),
            Self::None => Ok(()),
        }
    }

    /// Replaces the file at `path` by one that holds `bytes`: whole or not at all to those who read it meanwhile, and with
    /// [`Durability::Full`] after a power cut too.
    ///
    /// # Errors
    /// Those of the system; the file is then as it was.
    pub fn replace(self, path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
        let pending = PendingFile::holding(path, bytes, mode)?;
        match self {
            Self::Full => pending.publish(),
            Self::None => pending.rename(),
        }
    }

    /// The value of the database's `synchronous`.
    pub(crate) fn pragma(self) -> &'static str {
        match self {
            Self::Full => "FULL",
            Self::None => "OFF",
        }
    }
}
