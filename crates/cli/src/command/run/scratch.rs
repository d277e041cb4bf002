//! Where a run has its bundle and the runtime its state: a directory below `$TMPDIR` that goes with the run, or, where that was killed, with the
//! next one.
//!
//! ```text
//! $TMPDIR/wharf-<process>-<time>/   locked by `wharf run`
//!     lock                          locked by `wharf run` and by the runtime, which goes on when `wharf run` is killed, and says which one
//!                                   it is; it goes last
//!     bundle/  state/
//! ```
//!
//! The runtime is handed the file and not the directory: a container that got at it would get at the host's files.

use std::{
    ffi::OsStr,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rustix::{
    fs::{CWD, Mode, OFlags, mkdirat, open},
    io::{Errno, FdFlags, fcntl_setfd},
    process::geteuid,
};
use wharf_content::{Error, Result};

use super::remove;
use crate::exit;

/// The file that is locked.
const LOCK: &str = "lock";

/// How often a name is tried.
const TRIES: u32 = 100;

/// A directory of this run.
pub(super) struct Scratch {
    pub(super) path: PathBuf,
    /// The name of the container.
    pub(super) name: String,
    _directory: File,
    shared: File,
}

impl Scratch {
    /// Makes one.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn make(temporary: &Path) -> Result<Self> {
        let mut last = Errno::EXIST;
        for at in 0..TRIES {
            let since = std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_nanos());
            let name = format!("wharf-{}-{:x}", std::process::id(), since.wrapping_add(u128::from(at)));
            let path = temporary.join(&name);
            let failed = |error| exit::outside(format!("cannot make {}", path.display()), error);
            match mkdirat(CWD, &path, Mode::RWXU) {
                Ok(()) => {}
                Err(Errno::EXIST) => {
                    last = Errno::EXIST;
                    continue;
                }
                Err(error) => return Err(failed(error.into())),
            }
            // Another run may have taken it for one that was left.
            let Some(directory) = lock(&path).map_err(failed)? else { continue };
            let shared = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path.join(LOCK));
            let shared = shared.map_err(failed)?;
            shared.try_lock().map_err(|error| failed(error.into()))?;
            return Ok(Self { path, name, _directory: directory, shared });
        }
        Err(exit::outside("cannot make a directory for the container", last.into()))
    }

    /// Where the runtime keeps what it knows of the container.
    pub(super) fn state(&self) -> PathBuf {
        self.path.join("state")
    }

    /// Has programs that are started from now on hold the directory as well, until they end. One of them is the runtime, which alone knows
    /// of its containers.
    pub(super) fn share(&self, runtime: &Path) -> io::Result<()> {
        (&self.shared).write_all(std::path::absolute(runtime)?.as_os_str().as_bytes())?;
        Ok(fcntl_setfd(&self.shared, FdFlags::empty())?)
    }
}

/// Removes what killed runs of this user left, as far as no runtime is at work in it and no container runs. What cannot be removed stays.
pub(super) fn sweep(temporary: &Path) {
    let Ok(entries) = fs::read_dir(temporary) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| is_name(name)) else { continue };
        if let Err(error) = sweep_one(&entry.path(), name) {
            tracing::debug!(path = %entry.path().display(), error = %error.report(), "a run that was killed cannot be removed");
        }
    }
}

/// Whether a name is one that [`Scratch::make`] gives.
fn is_name(name: &str) -> bool {
    let parts = name.strip_prefix("wharf-").and_then(|rest| rest.split_once('-'));
    parts.is_some_and(|(process, time)| {
        !process.is_empty()
            && process.bytes().all(|byte| byte.is_ascii_digit())
            && !time.is_empty()
            && time.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    })
}

/// Removes the directory of a run; the lock, by which it is known for what it is, goes last.
pub(super) fn discard(path: &Path) -> Result<()> {
    empty(path)?;
    remove(path)
}

/// Removes all but the lock.
fn empty(path: &Path) -> Result<()> {
    let failed = |error| exit::outside(format!("cannot remove {}", path.display()), error);
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(failed)?,
    };
    for entry in entries {
        let entry = entry.map_err(failed)?;
        if entry.file_name() != LOCK {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

fn sweep_one(path: &Path, name: &str) -> Result<()> {
    let failed = |error| exit::outside(format!("cannot look at {}", path.display()), error);
    let Some(directory) = lock(path).map_err(failed)? else { return Ok(()) };
    let metadata = directory.metadata().map_err(failed)?;
    if metadata.uid() != geteuid().as_raw() || metadata.mode() & 0o777 != 0o700 {
        return Ok(());
    }
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut shared = match open(path.join(LOCK), flags, Mode::empty()) {
        Ok(fd) => {
            let shared = File::from(fd);
            match shared.try_lock() {
                Ok(()) => shared,
                Err(TryLockError::WouldBlock) => return Ok(()),
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
        }
        // Killed before anything was in it; or somebody else's.
        Err(Errno::NOENT) => return fs::remove_dir(path).map_err(failed),
        Err(error) => return Err(failed(error.into())),
    };
    let state = path.join("state");
    if state.join(name).exists() {
        // Refused while the container runs. Without a runtime it stays.
        let mut runtime = Vec::new();
        shared.read_to_end(&mut runtime).map_err(failed)?;
        let mut command = Command::new(OsStr::from_bytes(&runtime));
        command.arg("--root").arg(&state).arg("delete").arg(name).stdin(Stdio::null());
        let output = command.output().map_err(failed)?;
        if !output.status.success() {
            let told = String::from_utf8_lossy(&output.stderr);
            return Err(Error::failed_precondition(format!("the runtime does not delete {name}: {told}")));
        }
    }
    discard(path)
}

/// Locks a directory; `None` where another process has it, or it is none or has gone.
fn lock(path: &Path) -> io::Result<Option<File>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = match open(path, flags, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    match directory.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(error)) => return Err(error),
    }
    let own = directory.metadata()?;
    let is_there = match fs::symlink_metadata(path) {
        Ok(there) => (there.dev(), there.ino()) == (own.dev(), own.ino()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(error),
    };
    Ok(is_there.then_some(directory))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).expect("lists");
        let mut names: Vec<_> =
            entries.map(|entry| entry.expect("lists").file_name().into_string().expect("text")).collect();
        names.sort();
        names
    }

    /// A runtime that does, or does not, delete containers.
    fn runtime(place: &Path, code: u8) -> PathBuf {
        let path = place.join(format!("runtime-{code}"));
        let script = format!(
            "#!/bin/sh\n[ \"$1 $3\" = '--root delete' ] && [ -e \"$2/$4\" ] && exit {code}\nexit 99\n"
        );
        fs::write(&path, script).expect("writes");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("chmod");
        path
    }

    /// As a killed run leaves it.
    fn leave(temporary: &Path) -> PathBuf {
        let scratch = Scratch::make(temporary).expect("makes");
        fs::create_dir_all(scratch.path.join("bundle/rootfs/d")).expect("makes");
        scratch.path.clone()
    }

    #[test]
    fn what_a_killed_run_left_goes_and_what_is_in_use_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        let temporary = dir.path();
        let running = Scratch::make(temporary).expect("makes");
        leave(temporary);
        fs::create_dir(temporary.join("wharf-1-2a")).expect("makes");
        fs::set_permissions(temporary.join("wharf-1-2a"), fs::Permissions::from_mode(0o700)).expect("chmod");
        assert_eq!(names(temporary).len(), 3);
        sweep(temporary);
        assert_eq!(names(temporary), std::slice::from_ref(&running.name));
        // What the run has started goes on, and ends.
        running.share(Path::new("/nonesuch")).expect("shares");
        let mut child = Command::new("sleep").arg("60").spawn().expect("starts");
        let name = running.name.clone();
        drop(running);
        sweep(temporary);
        assert_eq!(names(temporary), [name]);
        child.kill().and_then(|()| child.wait()).expect("ends");
        // What another test has just started may hold it for a moment.
        for _ in 0..500 {
            sweep(temporary);
            if names(temporary).is_empty() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        panic!("{:?} stays", names(temporary));
    }

    #[test]
    fn a_container_that_runs_keeps_its_files() {
        let place = tempfile::tempdir().expect("a directory");
        let dir = tempfile::tempdir().expect("a directory");
        let temporary = dir.path();
        for code in [1, 0] {
            let scratch = Scratch::make(temporary).expect("makes");
            let left = scratch.path.clone();
            fs::create_dir_all(left.join("state").join(&scratch.name)).expect("makes");
            scratch.share(&runtime(place.path(), code)).expect("shares");
            drop(scratch);
            sweep(temporary);
            assert_eq!(left.exists(), code == 1);
        }
    }

    #[test]
    fn the_lock_goes_last() {
        let dir = tempfile::tempdir().expect("a directory");
        let left = leave(dir.path());
        assert_eq!(names(&left), ["bundle", LOCK]);
        empty(&left).expect("removes");
        assert_eq!(names(&left), [LOCK]);
        // As if it was killed then: it is still known for what it is.
        sweep(dir.path());
        assert!(!left.exists());
        discard(&left).expect("nothing is there");
    }

    #[test]
    fn what_is_not_of_a_run_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        let temporary = dir.path();
        let others = ["wharf-1-2x", "wharf-1", "wharf--1", "wharf-a-1", "x-1-2", "wharf-1-"];
        for name in others {
            fs::create_dir(temporary.join(name)).expect("makes");
            fs::write(temporary.join(name).join("lock"), "").expect("writes");
        }
        // Names of runs: a file, a link to one that was left, one with something and no lock, one that others may write to.
        fs::write(temporary.join("wharf-1-1"), "").expect("writes");
        let elsewhere = tempfile::tempdir().expect("a directory");
        symlink(leave(elsewhere.path()), temporary.join("wharf-1-2")).expect("links");
        fs::create_dir_all(temporary.join("wharf-1-3/bundle")).expect("makes");
        fs::set_permissions(temporary.join("wharf-1-3"), fs::Permissions::from_mode(0o700)).expect("chmod");
        fs::create_dir(temporary.join("wharf-1-4")).expect("makes");
        fs::write(temporary.join("wharf-1-4/lock"), "").expect("writes");
        fs::set_permissions(temporary.join("wharf-1-4"), fs::Permissions::from_mode(0o777)).expect("chmod");
        let before = names(temporary);
        assert_eq!(before.len(), others.len() + 4);
        if geteuid().is_root() {
            // Somebody else's.
            fs::create_dir(temporary.join("wharf-1-5")).expect("makes");
            fs::write(temporary.join("wharf-1-5/lock"), "").expect("writes");
            fs::set_permissions(temporary.join("wharf-1-5"), fs::Permissions::from_mode(0o700))
                .expect("chmod");
            std::os::unix::fs::chown(temporary.join("wharf-1-5"), Some(65534), None).expect("chown");
        }
        sweep(temporary);
        assert!(before.iter().all(|name| names(temporary).contains(name)), "{:?}", names(temporary));
        assert_eq!(temporary.join("wharf-1-5").exists(), geteuid().is_root());
        assert_eq!(names(elsewhere.path()).len(), 1);
    }
}
