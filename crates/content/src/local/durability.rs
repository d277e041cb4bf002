//! How hard a local store tries to survive a power cut.

use std::{fs::File, io, path::Path};

use crate::{error::Result, metadata::Metadata};

use super::atomic;

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
    pub(super) fn sync(self, file: &File) -> io::Result<()> {
        match self {
            Self::Full => file.sync_all(),
            Self::None => Ok(()),
        }
    }

    /// Makes a name in a directory durable.
    pub(super) fn sync_parent(self, path: &Path) -> io::Result<()> {
        match self {
            Self::Full => atomic::sync_parent(path),
            Self::None => Ok(()),
        }
    }

    /// Sets the connection to the database, which comes as full.
    pub(super) fn apply(self, metadata: &Metadata) -> Result<()> {
        match self {
            Self::Full => Ok(()),
            Self::None => metadata
                .read_blocking(|connection| Ok(connection.pragma_update(None, "synchronous", "OFF")?)),
        }
    }
}
