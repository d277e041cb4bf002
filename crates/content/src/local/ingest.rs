//! Ingests on disk: their directories, their locks and their status.

use std::{
    ffi::OsString,
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use jiff::Timestamp;
use rustix::fs::OFlags;

use crate::{
    digest::Digest,
    error::{Error, ErrorKind, Result, ResultExt},
    filter::Fields,
    store::Status,
};

use super::{Inner, blob, quarantine::kind_of};

pub(super) const DATA: &str = "data";
const REF: &str = "ref";
const STARTED_AT: &str = "startedat";
const UPDATED_AT: &str = "updatedat";
const TOTAL: &str = "total";

/// No more of a small file is read, in bytes. A name that is longer is not found again, and nobody has such names.
const MAX_TEXT_LEN: u64 = 1024 * 1024;

/// The directory of an ingest with the lock on it; the lock ends when this is dropped or the process dies.
#[derive(Debug)]
pub(super) struct Locked {
    pub(super) dir: PathBuf,
    /// Whether the directory was made with the lock on it.
    is_new: bool,
    _lock: File,
}

/// An ingest that was begun or taken over.
#[derive(Debug)]
pub(super) struct Begun {
    /// The offset is that of the file, and not verified.
    pub(super) status: Status,
    /// Whether there is nothing of it but its name: its facts are to be written by [`Locked::note`], before its data.
    pub(super) is_new: bool,
}

pub(super) fn dir_of(inner: &Inner, reference: &str) -> PathBuf {
    inner.ingest_dir().join(Digest::sha256(reference.as_bytes()).hex())
}

/// Locks the ingest, making its directory where there is none and `create` is set.
pub(super) fn lock(inner: &Inner, reference: &str, create: bool) -> Result<Locked> {
    let dir = dir_of(inner, reference);
    loop {
        let is_new = create
            && match DirBuilder::new().mode(0o700).create(&dir) {
                Ok(()) => true,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
                Err(error) => return Err(Error::io(format!("cannot begin ingest {reference:?}"), error)),
            };
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
            return Ok(Locked { dir, is_new, _lock: lock });
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
    let updated_at = read_time(&dir.join(UPDATED_AT)).or_else(|| modified(&dir.join(REF)));
    let since = updated_at.and_then(|at| inner.now().duration_since(at).ok());
    let age = since.map_or_else(String::new, |since| format!(" for {} s", since.as_secs()));
    Error::unavailable(format!("ingest {reference:?} is locked{age}: another writer is at work on it"))
}

fn absent(reference: &str) -> Error {
    Error::not_found(format!("there is no ingest {reference:?}"))
}

impl Locked {
    /// Names a new ingest, or takes over one that can be resumed.
    pub(super) fn begin(&self, reference: &str, total: Option<u64>, now: SystemTime) -> Result<Begun> {
        let cannot = || format!("cannot begin ingest {reference:?}");
        let new = || {
            let mut status = Status::new(reference, now);
            status.total = total;
            Begun { status, is_new: true }
        };
        // What has a name already was begun by somebody between the making of the directory and the lock.
        if self.is_new && self.name(reference).context(cannot)? {
            return Ok(new());
        }
        let resumed = match look(&self.dir)? {
            Found::Ingest(status) if status.reference == reference => Some(status)
                .filter(|status| status.total.is_none() || total.is_none() || status.total == total),
            _ => None,
        };
        let Some(mut status) = resumed else {
            self.clear().context(cannot)?;
            self.name(reference).context(cannot)?;
            return Ok(new());
        };
        status.total = total.or(status.total);
        status.updated_at = now;
        self.note(&status).context(cannot)?;
        Ok(Begun { status, is_new: false })
    }

    /// Writes the name of an ingest that has none; `false` where it has.
    fn name(&self, reference: &str) -> io::Result<bool> {
        match OpenOptions::new().write(true).create_new(true).open(self.dir.join(REF)) {
            Ok(mut file) => file.write_all(reference.as_bytes()).map(|()| true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Writes what others are to know of the ingest. One that is over before its first batch is full does without.
    pub(super) fn note(&self, status: &Status) -> io::Result<()> {
        write_text(&self.dir, STARTED_AT, &rfc3339(status.started_at))?;
        if let Some(total) = status.total {
            write_text(&self.dir, TOTAL, &total.to_string())?;
        }
        self.touch(status.updated_at)
    }

    /// Notes the time of the last change.
    pub(super) fn touch(&self, now: SystemTime) -> io::Result<()> {
        write_text(&self.dir, UPDATED_AT, &rfc3339(now))
    }

    fn clear(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            // None of ours is a directory; one that is there keeps nobody from going on.
            if entry.file_type()?.is_dir() {
                fs::remove_dir_all(entry.path())?;
            } else {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// Removes the ingest. Its name goes after all else, so that what is left after a kill is still an ingest or empty.
    pub(super) fn remove(&self) -> io::Result<()> {
        for name in [DATA, TOTAL, STARTED_AT, UPDATED_AT, REF] {
            // Most of them are not there most of the time. What stays is told of below.
            drop(fs::remove_file(self.dir.join(name)));
        }
        match fs::remove_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                self.clear()?;
                fs::remove_dir(&self.dir)
            }
            removed => removed,
        }
    }
}

pub(super) fn status(inner: &Inner, reference: &str) -> Result<Status> {
    match look(&dir_of(inner, reference))? {
        Found::Ingest(status) => Ok(status),
        Found::Nothing => Err(absent(reference)),
        Found::Broken(reason) => Err(Error::data_loss(format!("ingest {reference:?} is damaged: {reason}"))),
    }
}

/// Every ingest that can be resumed. What is broken hides none of the others; verification tells of it.
pub(super) fn list(inner: &Inner) -> Result<Vec<Status>> {
    let mut statuses = Vec::new();
    for name in names(inner)? {
        match look(&inner.ingest_dir().join(&name))? {
            Found::Ingest(status) => statuses.push(status),
            Found::Nothing => {}
            Found::Broken(reason) => tracing::warn!(?name, reason, "an ingest is broken and not listed"),
        }
    }
    statuses.sort_by(|a, b| a.reference.cmp(&b.reference));
    Ok(statuses)
}

/// The names of what stands where ingests stand and is none, and why.
pub(super) fn broken(inner: &Inner) -> Result<Vec<(OsString, &'static str)>> {
    let mut broken = Vec::new();
    for name in names(inner)? {
        if let Some(reason) = breakage(&inner.ingest_dir().join(&name))? {
            broken.push((name, reason));
        }
    }
    Ok(broken)
}

/// Why what is at `dir` is no ingest; `None` where it is one, or has gone.
pub(super) fn breakage(dir: &Path) -> Result<Option<&'static str>> {
    Ok(match look(dir)? {
        Found::Broken(reason) => Some(reason),
        Found::Ingest(_) | Found::Nothing => None,
    })
}

/// Keeps writers from what is to be moved away; what is no directory they cannot be at work on.
pub(super) fn lock_broken(path: &Path) -> Result<Option<File>> {
    let cannot = || format!("cannot lock {}", path.display());
    if !fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir()) {
        return Ok(None);
    }
    let lock = File::open(path).context(cannot)?;
    match lock.try_lock() {
        Ok(()) => Ok(Some(lock)),
        Err(TryLockError::WouldBlock) => {
            Err(Error::unavailable(format!("{} is locked: a writer is at work on it", path.display())))
        }
        Err(TryLockError::Error(error)) => Err(Error::io(cannot(), error)),
    }
}

fn names(inner: &Inner) -> Result<Vec<OsString>> {
    let dir = inner.ingest_dir();
    let cannot = || format!("cannot list {}", dir.display());
    let entries = match fs::read_dir(&dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.context(cannot)?,
    };
    entries.map(|entry| entry.map(|entry| entry.file_name())).collect::<io::Result<_>>().context(cannot)
}

/// Removes ingests without a name, which nobody can resume: a process was killed while it made or removed them. One that is being made
/// right now is locked.
pub(super) fn sweep(inner: &Inner) -> io::Result<()> {
    let is_nothing = |dir: &Path| matches!(look(dir), Ok(Found::Nothing));
    for entry in fs::read_dir(inner.ingest_dir())? {
        let dir = entry?.path();
        // What is no directory is not opened: a FIFO would be waited for.
        if !is_nothing(&dir) {
            continue;
        }
        let lock = match File::open(&dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            opened => opened?,
        };
        if lock.try_lock().is_ok() && same_directory(&lock, &dir) && is_nothing(&dir) {
            Locked { dir, is_new: false, _lock: lock }.remove()?;
        }
    }
    Ok(())
}

pub(super) fn abort(inner: &Inner, reference: &str) -> Result<()> {
    let locked = lock(inner, reference, false)?;
    locked.remove().context(|| format!("cannot remove ingest {reference:?}"))
}

/// What something below `ingest/` turned out to be.
#[derive(Debug)]
enum Found {
    /// One that can be resumed.
    Ingest(Status),
    /// It has gone, or has no name: finished meanwhile, or left by a process that was killed while it made or removed it.
    Nothing,
    /// What no process of ours leaves, and why.
    Broken(&'static str),
}

/// Looks at one directory, without following links or waiting for FIFOs.
///
/// # Errors
/// `ResourceExhausted` when files cannot be opened for want of memory or descriptors, which says nothing of the ingest.
fn look(dir: &Path) -> Result<Found> {
    let cannot = || format!("cannot read the ingest in {}", dir.display());
    match fs::symlink_metadata(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => return Err(Error::io(cannot(), error)),
        Ok(metadata) if !metadata.is_dir() => return Ok(Found::Broken(kind_of(metadata.file_type()))),
        Ok(_) => {}
    }
    let Some(name) = dir.file_name().and_then(|name| name.to_str()).filter(|name| is_name(name)) else {
        return Ok(Found::Broken("a directory whose name is none of an ingest"));
    };
    let reference = match read_text(&dir.join(REF)) {
        Ok(reference) => reference,
        Err(error) => {
            return match Error::io(cannot(), error) {
                error if error.kind() == ErrorKind::NotFound => Ok(Found::Nothing),
                error if error.kind() == ErrorKind::ResourceExhausted => Err(error),
                error if error.kind() == ErrorKind::DataLoss => {
                    Ok(Found::Broken("its ref is not a file of UTF-8 text"))
                }
                _ => Ok(Found::Broken("its ref cannot be read")),
            };
        }
    };
    // A kill between making the file and writing it.
    if reference.is_empty() {
        return Ok(Found::Nothing);
    }
    if Digest::sha256(reference.as_bytes()).hex() != name {
        return Ok(Found::Broken("its ref belongs to another directory"));
    }
    // One that has no facts yet was begun when it was named.
    let started_at =
        read_time(&dir.join(STARTED_AT)).or_else(|| modified(&dir.join(REF))).unwrap_or(UNIX_EPOCH);
    let mut status = Status::new(reference, started_at);
    status.updated_at = read_time(&dir.join(UPDATED_AT)).unwrap_or(started_at);
    status.total = read_text(&dir.join(TOTAL)).ok().and_then(|text| text.parse().ok());
    status.offset = match fs::symlink_metadata(dir.join(DATA)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Ok(metadata) if !metadata.is_file() => return Ok(Found::Broken("its data is not a file")),
        metadata => metadata.context(cannot)?.len(),
    };
    Ok(Found::Ingest(status))
}

/// Whether a name is of the form of [`dir_of`].
fn is_name(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Reads a small file; `InvalidData` for what is none, or no text.
pub(super) fn read_text(path: &Path) -> io::Result<String> {
    let invalid = || io::Error::new(io::ErrorKind::InvalidData, "not a regular file");
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let opened = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path);
    let file = opened.map_err(|error| match fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.is_file() => invalid(),
        _ => error,
    })?;
    if !file.metadata()?.is_file() {
        return Err(invalid());
    }
    let mut bytes = Vec::new();
    file.take(MAX_TEXT_LEN).read_to_end(&mut bytes)?;
    String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
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
    let timestamp: Timestamp = read_text(path).ok()?.parse().ok()?;
    Some(timestamp.into())
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::symlink_metadata(path).and_then(|metadata| metadata.modified()).ok()
}

impl Fields for Status {
    fn field(&self, path: &[String]) -> Option<std::borrow::Cow<'_, str>> {
        match path {
            [field] if field == "ref" => Some(self.reference.as_str().into()),
            _ => None,
        }
    }
}

/// Gives the data its name among the blobs; `false` where something has that name, which stays as it is. The directory entry of an ingest
/// need not be durable; that of a blob must, which is the caller's to see to.
pub(super) fn rename(inner: &Inner, data: &Path, digest: &Digest) -> Result<bool> {
    let target = inner.blob_path(digest);
    let cannot = || format!("cannot publish {digest}");
    match rename_new(data, &target) {
        // Where the file system cannot, the lock of the database makes one step of the look and the rename.
        Err(error) if error.kind() == io::ErrorKind::Unsupported => inner.metadata.write_blocking(|_| {
            let is_new = !blob::exists(inner, digest)?;
            if is_new {
                fs::rename(data, &target).context(cannot)?;
            }
            Ok(is_new)
        }),
        renamed => renamed.context(cannot),
    }
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
