//! A directory that is there whole or not at all: made beside its place under another name, synced, then renamed.
//!
//! Who makes it holds a lock on it, which ends with the process. What a process that was killed left is removed by the next one.
//!
//! Its name can be guessed, and others may write to the directory that it is in, as to `/tmp`. So one that was there already is never
//! used, and the descriptor says which one it is, not the name, which others may have given to a link by now.

use std::{
    ffi::OsString,
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use rustix::{
    fd::{AsFd, BorrowedFd},
    fs::{AtFlags, CWD, Mode, OFlags, StatxAttributes, StatxFlags, fsync, mkdirat, open, statx, syncfs},
};
use wharf_content::{Error, ErrorKind, Result};

use crate::apply::remove_tree;

/// How often a directory is made that somebody else takes away at once.
const TRIES: usize = 8;

/// A directory in the making.
#[derive(Debug)]
pub(crate) struct Staging {
    /// Where it is made.
    pub(crate) path: PathBuf,
    /// Where it is to be, as it was told.
    target: PathBuf,
    /// The same without links.
    place: PathBuf,
    parent: PathBuf,
    lock: File,
}

impl Staging {
    /// Begins a directory that will be at `target`, which is not there or is empty.
    ///
    /// # Errors
    /// `AlreadyExists` where something is there; `InvalidArgument` for a directory that no other can take the place of; `Unavailable` where another process is making the same directory; those of the file
    /// system.
    pub(crate) fn begin(target: &Path) -> Result<Self> {
        check_vacant(target)?;
        let (parent, name) = place(target)?;
        let place = parent.join(&name);
        check_replaceable(target, &place)?;
        let mut hidden = OsString::from(".");
        hidden.push(&name);
        hidden.push(".wharf-unpack");
        let path = parent.join(hidden);
        for _ in 0..TRIES {
            let is_new = match mkdirat(CWD, &path, Mode::from_raw_mode(0o700)) {
                Ok(()) => true,
                Err(rustix::io::Errno::EXIST) => false,
                Err(error) => {
                    return Err(Error::io(
                        format!("cannot make the directory {}", path.display()),
                        error.into(),
                    ));
                }
            };
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let lock = match open(&path, flags, Mode::empty()) {
                Ok(fd) => File::from(fd),
                // Another process took it for one that a killed process left, before it was locked.
                Err(rustix::io::Errno::NOENT) => continue,
                Err(error) => return Err(cannot_open(&path, error.into())),
            };
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
            let staging = Self {
                path: path.clone(),
                target: target.to_owned(),
                place: place.clone(),
                parent: parent.clone(),
                lock,
            };
            if !staging.is_in_place()? {
                continue;
            }
            let is_empty = fs::read_dir(&path).is_ok_and(|mut entries| entries.next().is_none());
            if is_new && is_empty {
                return Ok(staging);
            }
            // What a killed process left, or somebody else put there. It goes as a whole, so that its mode, owner and attributes go too.
            staging.discard()?;
        }
        Err(Error::unavailable(format!("somebody else writes to {}", path.display())))
    }

    /// Puts the directory into its place, when everything in it is on the disk. Where that fails, it is thrown away.
    pub(crate) fn publish(self) -> Result<()> {
        if let Err(error) = self.put() {
            if let Err(second) = self.discard() {
                // The first error is the one to tell.
                tracing::debug!(error = %second.report(), "what was made cannot be removed");
            }
            return Err(error);
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        open(&self.parent, flags, Mode::empty()).and_then(fsync).map_err(|error| self.cannot_put(error))
    }

    fn put(&self) -> Result<()> {
        syncfs(&self.lock).map_err(|error| self.cannot_put(error))?;
        self.check_place()?;
        // Over an empty directory it may be renamed, over anything else not.
        rustix::fs::rename(&self.path, &self.place).map_err(|error| match error {
            rustix::io::Errno::NOTEMPTY | rustix::io::Errno::EXIST | rustix::io::Errno::NOTDIR => {
                occupied(&self.target)
            }
            error => self.cannot_put(error),
        })
    }

    fn cannot_put(&self, error: rustix::io::Errno) -> Error {
        Error::io(format!("cannot put {} into its place", self.target.display()), error.into())
    }

    /// Throws it away.
    pub(crate) fn discard(self) -> Result<()> {
        self.check_place()?;
        remove_tree(&self.path)
    }

    fn check_place(&self) -> Result<()> {
        if self.is_in_place()? {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Aborted,
            format!(
                "somebody else has put something into the place of {}: unpack to where nobody else writes",
                self.path.display()
            ),
        ))
    }

    /// Whether the name is still that of the directory.
    fn is_in_place(&self) -> Result<bool> {
        let failed = |error| cannot_open(&self.path, error);
        let own = self.lock.metadata().map_err(failed)?;
        match fs::symlink_metadata(&self.path) {
            Ok(there) => Ok((there.dev(), there.ino()) == (own.dev(), own.ino())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(failed(error)),
        }
    }
}

impl AsFd for Staging {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.lock.as_fd()
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

/// Refuses a directory that cannot be replaced by another one, or whose user would not see that.
fn check_replaceable(target: &Path, place: &Path) -> Result<()> {
    let refuse = |what: &str| {
        let shown = target.display();
        Err(Error::invalid_argument(format!(
            "{what} {shown}, and a directory is unpacked whole into its place: give one that is not there, such as {}",
            target.join("rootfs").display()
        )))
    };
    if std::env::current_dir().is_ok_and(|current| current == place) {
        return refuse("this process is at work in");
    }
    let found = statx(CWD, place, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty());
    if found.is_ok_and(|found| found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)) {
        return refuse("something is mounted on");
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use crate::apply::{ApplyOptions, Ownership, apply_in};

    use super::*;

    const HIDDEN: &str = ".out.wharf-unpack";

    fn layer() -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_size(1);
        header.set_mode(0o644);
        builder.append_data(&mut header, "file", &b"x"[..]).expect("fits");
        builder.into_inner().expect("in memory")
    }

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).expect("lists");
        let mut names: Vec<_> =
            entries.map(|entry| entry.expect("lists").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_others_put_into_its_place_is_neither_written_to_nor_published() {
        let options = ApplyOptions::new().with_ownership(Ownership::User);
        for is_published in [true, false] {
            let dir = tempfile::tempdir().expect("a directory");
            let (target, outside) = (dir.path().join("out"), dir.path().join("outside"));
            fs::create_dir(&outside).expect("makes");
            let staging = Staging::begin(&target).expect("begins");
            fs::rename(dir.path().join(HIDDEN), dir.path().join("aside")).expect("moves");
            symlink(&outside, dir.path().join(HIDDEN)).expect("links");
            apply_in(&layer()[..], &staging, &options).expect("applies");
            assert_eq!(
                (names(&outside), names(&dir.path().join("aside"))),
                (vec![], vec!["file".to_owned()])
            );
            let error = if is_published { staging.publish() } else { staging.discard() }.expect_err("not it");
            assert_eq!(error.kind(), ErrorKind::Aborted, "{error}");
            assert_eq!(names(dir.path()), [HIDDEN, "aside", "outside"]);
        }
    }

    #[test]
    fn what_was_there_before_is_not_used() {
        let dir = tempfile::tempdir().expect("a directory");
        let (target, outside) = (dir.path().join("out"), dir.path().join("outside"));
        fs::create_dir(&outside).expect("makes");
        fs::write(outside.join("kept"), "").expect("writes");
        symlink(&outside, dir.path().join(HIDDEN)).expect("links");
        Staging::begin(&target).expect_err("a link");
        assert_eq!(names(&outside), ["kept"]);
        fs::remove_file(dir.path().join(HIDDEN)).expect("removes");
        // Somebody else's, who could write to it and move it away.
        fs::create_dir(dir.path().join(HIDDEN)).expect("makes");
        let others = fs::symlink_metadata(dir.path().join(HIDDEN)).expect("is there");
        let held = File::open(dir.path().join(HIDDEN)).expect("opens");
        let staging = Staging::begin(&target).expect("begins");
        let own = staging.lock.metadata().expect("is there");
        assert_ne!(own.ino(), others.ino(), "it is a new one");
        assert_eq!(own.mode() & 0o7777, 0o700);
        drop(held);
        apply_in(&layer()[..], &staging, &ApplyOptions::new().with_ownership(Ownership::User))
            .expect("applies");
        let second = Staging::begin(&target).expect_err("one at a time");
        assert_eq!(second.kind(), ErrorKind::Unavailable, "{second}");
        staging.publish().expect("publishes");
        assert_eq!(names(dir.path()), ["out", "outside"]);
        assert_eq!(names(&target), ["file"]);
    }

    #[test]
    fn a_link_to_an_empty_directory_is_followed_and_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir(dir.path().join("out")).expect("makes");
        symlink("out", dir.path().join("link")).expect("links");
        let staging = Staging::begin(&dir.path().join("link")).expect("begins");
        apply_in(&layer()[..], &staging, &ApplyOptions::new().with_ownership(Ownership::User))
            .expect("applies");
        staging.publish().expect("publishes");
        assert_eq!(
            (names(dir.path()), names(&dir.path().join("out"))),
            (vec!["link".to_owned(), "out".to_owned()], vec!["file".to_owned()])
        );
    }

    #[test]
    fn what_cannot_be_put_into_its_place_is_removed() {
        let dir = tempfile::tempdir().expect("a directory");
        let target = dir.path().join("out");
        let staging = Staging::begin(&target).expect("begins");
        fs::create_dir_all(target.join("others")).expect("makes");
        let error = staging.publish().expect_err("occupied");
        assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
        assert_eq!((names(dir.path()), names(&target)), (vec!["out".to_owned()], vec!["others".to_owned()]));
    }

    #[test]
    fn what_no_directory_can_take_the_place_of_is_refused_at_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let current = std::env::current_dir().expect("is there");
        for (target, place, words) in [
            (Path::new("."), &current, "at work in ."),
            (Path::new("/proc"), &PathBuf::from("/proc"), "mounted on /proc"),
        ] {
            let error = check_replaceable(target, place).expect_err("refused");
            assert!(error.to_string().contains(words), "{error}");
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        }
        for fine in ["new", ""] {
            check_replaceable(dir.path(), &dir.path().join(fine)).expect("fine");
        }
    }
}
