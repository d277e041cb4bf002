//! Ingests on disk: their directories, their locks and their status.

use std::{
    fs::{self, DirBuilder, File, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use jiff::Timestamp;

use crate::{
    digest::Digest,
    error::{Error, ErrorKind, Result, ResultExt},
    filter::Fields,
    store::Status,
};

use super::{Inner, blob};

pub(super) const DATA: &str = "data";
const REF: &str = "ref";
const STARTED_AT: &str = "startedat";
const UPDATED_AT: &str = "updatedat";
const TOTAL: &str = "total";

/// The directory of an ingest with the lock on it; the lock ends when this is dropped or the process dies.
#[derive(Debug)]
pub(super) struct Locked {
    pub(super) dir: PathBuf,
    _lock: File,
}

pub(super) fn dir_of(inner: &Inner, reference: &str) -> PathBuf {
    inner.ingest_dir().join(Digest::sha256(reference.as_bytes()).hex())
}

/// Locks the ingest, making its directory where there is none and `create` is set.
pub(super) fn lock(inner: &Inner, reference: &str, create: bool) -> Result<Locked> {
    let dir = dir_of(inner, reference);
    loop {
        if create {
            match DirBuilder::new().mode(0o700).create(&dir) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(Error::io(format!("cannot begin ingest {reference:?}"), error));
                }
                _ => {}
            }
        }
        let lock = match File::open(&dir) {
            // Another process has just finished or aborted it.
            Err(error) if error.kind() == io::ErrorKind::NotFound && create => continue,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(absent(reference)),
            opened => opened.context(|| format!("cannot open ingest {reference:?}"))?,
        };
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(busy(inner, &dir, reference)),
            Err(TryLockError::Error(error)) => {
                return Err(Error::io(format!("cannot lock ingest {reference:?}"), error));
            }
        }
        // The lock is on the directory that was opened; the name may belong to another one by now.
        if same_directory(&lock, &dir) {
            return Ok(Locked { dir, _lock: lock });
        }
    }
}

fn same_directory(lock: &File, dir: &Path) -> bool {
    match (lock.metadata(), fs::metadata(dir)) {
        (Ok(opened), Ok(named)) => opened.ino() == named.ino() && opened.dev() == named.dev(),
        _ => false,
    }
}

fn busy(inner: &Inner, dir: &Path, reference: &str) -> Error {
    let since = read_time(&dir.join(UPDATED_AT)).and_then(|at| inner.now().duration_since(at).ok());
    let age = since.map_or_else(String::new, |since| format!(" for {} s", since.as_secs()));
    Error::unavailable(format!("ingest {reference:?} is locked{age}: another writer is at work on it"))
}

fn absent(reference: &str) -> Error {
    Error::not_found(format!("there is no ingest {reference:?}"))
}

impl Locked {
    /// Writes the facts of a new ingest, or takes over those of one that can be resumed. Gives its status; the offset is that of the
    /// file and not verified.
    pub(super) fn begin(&self, reference: &str, total: Option<u64>, now: SystemTime) -> Result<Status> {
        let cannot = || format!("cannot begin ingest {reference:?}");
        let resumed = read_status(&self.dir).ok().filter(|status| {
            status.reference == reference
                && (status.total.is_none() || total.is_none() || status.total == total)
        });
        let mut status = if let Some(status) = resumed {
            status
        } else {
            self.clear().context(cannot)?;
            fs::write(self.dir.join(REF), reference).context(cannot)?;
            write_text(&self.dir, STARTED_AT, &rfc3339(now)).context(cannot)?;
            Status::new(reference, now)
        };
        if let Some(total) = total {
            write_text(&self.dir, TOTAL, &total.to_string()).context(cannot)?;
            status.total = Some(total);
        }
        self.touch(now).context(cannot)?;
        status.updated_at = now;
        Ok(status)
    }

    /// Notes the time of the last change.
    pub(super) fn touch(&self, now: SystemTime) -> io::Result<()> {
        write_text(&self.dir, UPDATED_AT, &rfc3339(now))
    }

    fn clear(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.dir)? {
            fs::remove_file(entry?.path())?;
        }
        Ok(())
    }

    /// Removes the ingest. The directory goes last, so that what is left after a kill is still an ingest or empty.
    pub(super) fn remove(&self) -> io::Result<()> {
        self.clear()?;
        fs::remove_dir(&self.dir)
    }
}

pub(super) fn status(inner: &Inner, reference: &str) -> Result<Status> {
    read_status(&dir_of(inner, reference))
        .map_err(|error| if error.kind() == ErrorKind::NotFound { absent(reference) } else { error })
}

pub(super) fn list(inner: &Inner) -> Result<Vec<Status>> {
    let dir = inner.ingest_dir();
    let mut statuses = Vec::new();
    let entries = match fs::read_dir(&dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(statuses),
        entries => entries.context(|| format!("cannot list {}", dir.display()))?,
    };
    for entry in entries {
        let entry = entry.context(|| format!("cannot list {}", dir.display()))?;
        match read_status(&entry.path()) {
            Ok(status) => statuses.push(status),
            // Finished meanwhile, or killed before its first fact was written.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    statuses.sort_by(|a, b| a.reference.cmp(&b.reference));
    Ok(statuses)
}

/// Removes ingests without a name, which nobody can resume: a process was killed while it made or removed them. One that is being made
/// right now is locked.
pub(super) fn sweep(inner: &Inner) -> io::Result<()> {
    for entry in fs::read_dir(inner.ingest_dir())? {
        let dir = entry?.path();
        let lock = match File::open(&dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            opened => opened?,
        };
        if lock.try_lock().is_ok() && same_directory(&lock, &dir) && !dir.join(REF).exists() {
            Locked { dir, _lock: lock }.remove()?;
        }
    }
    Ok(())
}

pub(super) fn abort(inner: &Inner, reference: &str) -> Result<()> {
    let locked = lock(inner, reference, false)?;
    locked.remove().context(|| format!("cannot remove ingest {reference:?}"))
}

fn read_status(dir: &Path) -> Result<Status> {
    let cannot = || format!("cannot read the ingest in {}", dir.display());
    let reference = fs::read_to_string(dir.join(REF)).context(cannot)?;
    let started_at = read_time(&dir.join(STARTED_AT)).unwrap_or(UNIX_EPOCH);
    let mut status = Status::new(reference, started_at);
    status.updated_at = read_time(&dir.join(UPDATED_AT)).unwrap_or(started_at);
    status.total = fs::read_to_string(dir.join(TOTAL)).ok().and_then(|text| text.parse().ok());
    status.offset = match fs::metadata(dir.join(DATA)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        metadata => metadata.context(cannot)?.len(),
    };
    Ok(status)
}

/// Small facts are written to a temporary file and renamed; their loss costs a resume and no more, so they are not synced.
fn write_text(dir: &Path, name: &str, text: &str) -> io::Result<()> {
    let temporary = dir.join(format!("{name}.tmp"));
    fs::write(&temporary, text)?;
    fs::rename(temporary, dir.join(name))
}

fn rfc3339(time: SystemTime) -> String {
    Timestamp::try_from(time).unwrap_or(Timestamp::UNIX_EPOCH).to_string()
}

fn read_time(path: &Path) -> Option<SystemTime> {
    let timestamp: Timestamp = fs::read_to_string(path).ok()?.parse().ok()?;
    Some(timestamp.into())
}

impl Fields for Status {
    fn field(&self, path: &[String]) -> Option<std::borrow::Cow<'_, str>> {
        match path {
            [field] if field == "ref" => Some(self.reference.as_str().into()),
            _ => None,
        }
    }
}

/// Gives the data its name among the blobs, durably; `false` where something has that name, which stays as it is. The directory entry
/// of an ingest need not be durable; that of a blob must.
pub(super) fn publish(inner: &Inner, locked: &Locked, digest: &Digest) -> Result<bool> {
    let (data, target) = (locked.dir.join(DATA), inner.blob_path(digest));
    let cannot = || format!("cannot publish {digest}");
    let is_new = match rename_new(&data, &target) {
        // Where the file system cannot, the lock of the database makes one step of the look and the rename.
        Err(error) if error.kind() == io::ErrorKind::Unsupported => inner.metadata.write_blocking(|_| {
            let is_new = !blob::exists(inner, digest)?;
            if is_new {
                fs::rename(&data, &target).context(cannot)?;
            }
            Ok(is_new)
        })?,
        renamed => renamed.context(cannot)?,
    };
    inner.durability.sync_parent(&target).context(cannot)?;
    Ok(is_new)
}

/// Renames unless the target exists, which is `false`; `Unsupported` where the system has no such call.
#[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
fn rename_new(from: &Path, to: &Path) -> io::Result<bool> {
    use rustix::{
        fs::{CWD, RenameFlags, renameat_with},
        io::Errno,
    };
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => Err(io::ErrorKind::Unsupported.into()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
fn rename_new(_: &Path, _: &Path) -> io::Result<bool> {
    Err(io::ErrorKind::Unsupported.into())
}
