//! Layer directories in the making, and those that are on their way out: hidden names beside the others, each locked by who is at work on it.
//!
//! A killed process holds no lock, so that the next one sees what it left and removes it. Several processes may make the same layer; the
//! first one's stays, so that nobody waits for another who waits for him.

use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use rustix::{
    fs::{CWD, Mode, OFlags, mkdirat, open},
    io::Errno,
};
use wharf_content::{Error, Result};

use crate::apply::remove_tree;

/// Begins the names of directories that are none yet, or no longer.
pub(super) const HIDDEN: &str = ".new-";
/// Makes names of this process different.
static COUNTER: AtomicU64 = AtomicU64::new(0);

/// A directory in the making. Dropping it removes it.
#[derive(Debug)]
pub(crate) struct Staging {
    path: PathBuf,
    _lock: File,
}

impl Staging {
    /// Begins a directory in `layers`.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn begin(layers: &Path) -> Result<Self> {
        loop {
            let count = COUNTER.fetch_add(1, Ordering::Relaxed);
            let path = layers.join(format!("{HIDDEN}{}-{count}", std::process::id()));
            match mkdirat(CWD, &path, Mode::from_raw_mode(0o700)) {
                Ok(()) => {}
                // A process of another namespace, or one that was killed, has this name.
                Err(Errno::EXIST) => continue,
                Err(error) => return Err(failed("make", &path, error.into())),
            }
            // Somebody who removes what was left may have been faster.
            if let Some(lock) = lock(&path).map_err(|error| failed("lock", &path, error))? {
                return Ok(Self { path, _lock: lock });
            }
        }
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Puts it into its place. Says whether it was this one that is there now.
    pub(super) fn publish(self, place: &Path) -> Result<bool> {
        match rustix::fs::rename(&self.path, place) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST | Errno::NOTEMPTY) => Ok(false),
            Err(error) => Err(failed("put into place", place, error.into())),
        }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.path.exists()
            && let Err(error) = remove_tree(&self.path)
        {
            // The next one removes what is left.
            tracing::debug!(error = %error.report(), "a layer in the making cannot be removed");
        }
    }
}

/// Removes what killed processes left.
pub(super) fn sweep(layers: &Path) -> Result<()> {
    for entry in fs::read_dir(layers).map_err(|error| failed("read", layers, error))? {
        let entry = entry.map_err(|error| failed("read", layers, error))?;
        if !entry.file_name().to_string_lossy().starts_with(HIDDEN) {
            continue;
        }
        let path = entry.path();
        if let Some(_lock) = lock(&path).map_err(|error| failed("lock", &path, error))? {
            remove_tree(&path)?;
        }
    }
    Ok(())
}

/// Takes a directory away: at once for everybody else, and then from the disk.
pub(super) fn discard(layers: &Path, place: &Path) -> Result<()> {
    let staging = Staging::begin(layers)?;
    let gone = staging.path.join("gone");
    match rustix::fs::rename(place, &gone) {
        Ok(()) => remove_tree(&gone),
        Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(failed("remove", place, error.into())),
    }
}

/// Locks a directory; `None` where another process has it, or it has gone.
fn lock(path: &Path) -> io::Result<Option<File>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = match open(path, flags, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(error)) => return Err(error),
    }
    let is_it = match fs::symlink_metadata(path) {
        Ok(there) => there.ino() == file.metadata()?.ino(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(error),
    };
    Ok(is_it.then_some(file))
}

fn failed(what: &str, path: &Path, error: io::Error) -> Error {
    Error::io(format!("cannot {what} {}", path.display()), error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(layers: &Path) -> Vec<String> {
        let entries = fs::read_dir(layers).expect("lists");
        entries.map(|entry| entry.expect("lists").file_name().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn what_somebody_is_at_work_on_stays_and_what_was_left_goes() {
        let dir = tempfile::tempdir().expect("a directory");
        let layers = dir.path();
        let staging = Staging::begin(layers).expect("begins");
        fs::create_dir_all(layers.join(format!("{HIDDEN}1-1/fs/d"))).expect("makes");
        sweep(layers).expect("sweeps");
        assert_eq!(names(layers), [staging.path().file_name().expect("a name").to_string_lossy()]);
        drop(staging);
        assert_eq!(names(layers), [""; 0]);
    }

    #[test]
    fn the_first_of_two_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        let place = dir.path().join("x");
        for (name, is_first) in [("one", true), ("two", false)] {
            let staging = Staging::begin(dir.path()).expect("begins");
            fs::write(staging.path().join(name), "").expect("writes");
            assert_eq!(staging.publish(&place).expect("publishes"), is_first);
        }
        assert_eq!(names(&place), ["one"]);
        assert_eq!(names(dir.path()), ["x"]);
        discard(dir.path(), &place).expect("removes");
        assert_eq!(names(dir.path()), [""; 0]);
    }
}
