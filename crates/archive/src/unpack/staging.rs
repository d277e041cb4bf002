//! A directory that is there whole or not at all: made beside its place under another name, synced, then renamed.
//!
//! Who makes it holds a lock on it, which ends with the process. What a process that was killed left is removed by the next one.

use std::{
    ffi::OsString,
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, Mode, OFlags, fsync, mkdirat, open, syncfs};
use wharf_content::{Error, ErrorKind, Result};

use crate::apply::remove_tree;

/// A directory in the making.
#[derive(Debug)]
pub(crate) struct Staging {
    /// Where it is made.
    pub(crate) path: PathBuf,
    target: PathBuf,
    parent: PathBuf,
    lock: File,
}

impl Staging {
    /// Begins a directory that will be at `target`, which is not there or is empty.
    ///
    /// # Errors
    /// `AlreadyExists` where something is there; `Unavailable` where another process is making the same directory; those of the file
    /// system.
    pub(crate) fn begin(target: &Path) -> Result<Self> {
        check_vacant(target)?;
        let (parent, name) = place(target)?;
        let mut hidden = OsString::from(".");
        hidden.push(&name);
        hidden.push(".wharf-unpack");
        let path = parent.join(hidden);
        for _ in 0..2 {
            match mkdirat(CWD, &path, Mode::from_raw_mode(0o700)) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(error) => {
                    return Err(Error::io(
                        format!("cannot make the directory {}", path.display()),
                        error.into(),
                    ));
                }
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let opened = open(&path, flags, Mode::empty());
            let lock = File::from(opened.map_err(|error| cannot_open(&path, error.into()))?);
            match lock.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    return Err(Error::unavailable(format!(
                        "another process is unpacking to {}: wait for it, or give another directory",
                        target.display()
                    )));
                }
                Err(TryLockError::Error(error)) => return Err(cannot_open(&path, error)),
            }
            // What a killed process left. It goes as a whole, so that its mode and attributes go too.
            let is_empty = fs::read_dir(&path).is_ok_and(|mut entries| entries.next().is_none());
            if is_empty {
                return Ok(Self { path, target: target.to_owned(), parent, lock });
            }
            remove_tree(&path)?;
        }
        Err(Error::unavailable(format!("somebody else writes to {}", path.display())))
    }

    /// Puts the directory into its place, when everything in it is on the disk.
    pub(crate) fn publish(self) -> Result<()> {
        let failed = |error: rustix::io::Errno| {
            Error::io(format!("cannot put {} into its place", self.target.display()), error.into())
        };
        syncfs(&self.lock).map_err(failed)?;
        // Over an empty directory it may be renamed, over anything else not.
        rustix::fs::rename(&self.path, &self.target).map_err(|error| match error {
            rustix::io::Errno::NOTEMPTY | rustix::io::Errno::EXIST | rustix::io::Errno::NOTDIR => {
                occupied(&self.target)
            }
            error => failed(error),
        })?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        open(&self.parent, flags, Mode::empty()).and_then(fsync).map_err(failed)
    }

    /// Throws it away.
    pub(crate) fn discard(self) -> Result<()> {
        remove_tree(&self.path)
    }
}

fn cannot_open(path: &Path, error: io::Error) -> Error {
    Error::io(format!("cannot open the directory {}", path.display()), error)
}

fn occupied(target: &Path) -> Error {
    Error::new(
        ErrorKind::AlreadyExists,
        format!("{} is there already and is not empty: give a directory that is not there", target.display()),
    )
}

fn check_vacant(target: &Path) -> Result<()> {
    match fs::read_dir(target) {
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(occupied(target)),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => Err(occupied(target)),
        Err(error) => Err(cannot_open(target, error)),
    }
}

/// The directory that a place is in, and its name there.
fn place(target: &Path) -> Result<(PathBuf, OsString)> {
    // What is there may be a link, or `.`, or end in `..`.
    let target = match target.canonicalize() {
        Ok(target) => target,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty());
            let parent = parent.unwrap_or(Path::new("."));
            let parent = parent.canonicalize().map_err(|error| cannot_open(parent, error))?;
            let name = target.file_name().ok_or_else(|| {
                Error::invalid_argument(format!("{} is no name of a directory", target.display()))
            })?;
            parent.join(name)
        }
        Err(error) => return Err(cannot_open(target, error)),
    };
    match (target.parent(), target.file_name()) {
        (Some(parent), Some(name)) => Ok((parent.to_owned(), name.to_owned())),
        _ => Err(Error::invalid_argument("the root of the file system is nothing to unpack to")),
    }
}
