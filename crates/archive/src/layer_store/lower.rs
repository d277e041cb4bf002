//! Filling what a layer links to and a layer below has (see `apply::lower`): content, owner, attributes, mode and time of the file below, as
//! overlayfs copies it up. What the layer itself hides is not asked for here: it was not hidden yet when it was linked to.

use std::{fs::File, io};

use rustix::{
    fd::OwnedFd,
    fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, openat, statat},
    io::{Errno, fcntl_dupfd_cloexec},
};
use wharf_content::{Error, Result};

use super::{
    inherit::{Found, Root, copy, find},
    reach::reach,
};
use crate::apply::{Lower, Ownership, cannot, itself, shown, writable};

/// Fills the files of a layer that stand for those below; `below` has the lowest first, each filled itself.
///
/// # Errors
/// `FailedPrecondition` where there is none below, or something that is no regular file.
pub(super) fn fill(layer: &Root, mut lower: Lower, below: &[Root], ownership: Ownership) -> Result<()> {
    if lower.paths.is_empty() {
        return Ok(());
    }
    // They may have other names by now, or none: each is looked for by what it is.
    let mut left = vec![Vec::new()];
    while let Some(path) = left.pop() {
        let failed = |error| cannot("read the directory", &path, error);
        let parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()).collect();
        let directory = reach(layer.fd(), &parts).map_err(failed)?;
        let entries = fcntl_dupfd_cloexec(&directory, 0).and_then(Dir::new).map_err(failed)?;
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            let kind = match entry.file_type() {
                // Not every file system tells.
                FileType::Unknown => {
                    let stat = look(&directory, name).map_err(failed)?;
                    FileType::from_raw_mode(stat.st_mode)
                }
                kind => kind,
            };
            if kind == FileType::Directory {
                left.push([&path[..], b"/", name].concat());
            } else if kind == FileType::RegularFile
                && let Some(wanted) = lower.paths.remove(&entry.ino())
                && let Some(target) =
                    writable(&directory, || unfilled(&directory, name, lower.mark)).map_err(failed)?
            {
                one(target, &wanted, below, ownership)?;
            }
        }
    }
    Ok(())
}

fn look(directory: &OwnedFd, name: &[u8]) -> Result<Stat, Errno> {
    writable(directory, || statat(directory, name, AtFlags::SYMLINK_NOFOLLOW))
}

/// Opens a file, if it is one that is to be filled.
fn unfilled(directory: &OwnedFd, name: &[u8], mark: i64) -> Result<Option<OwnedFd>, Errno> {
    let stat = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if stat.st_size != 0 || stat.st_mtime != mark {
        return Ok(None);
    }
    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    openat(directory, name, flags, Mode::empty()).map(Some)
}

fn one(target: OwnedFd, path: &[u8], below: &[Root], ownership: Ownership) -> Result<()> {
    let failed = |error| cannot("bring up", path, error);
    let parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
    let absent = || Error::failed_precondition(format!("a hard link to {}, which is not there", shown(path)));
    let from = match find(below, &parts).map_err(failed)? {
        Found::Other { kind: FileType::RegularFile, fd, is_last: true } => fd,
        Found::Nothing | Found::Other { is_last: false, .. } => return Err(absent()),
        Found::Directory | Found::Other { .. } => {
            return Err(Error::failed_precondition(format!(
                "a hard link to {}, which is no regular file in the layers below: such layers can only be unpacked one over the other, into \
                 a directory of their own",
                shown(path)
            )));
        }
    };
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let source = openat(CWD, &*itself(&from), flags, Mode::empty()).map_err(failed)?;
    let mut target = File::from(target);
    // In the kernel, where it can.
    io::copy(&mut File::from(source), &mut target)
        .map_err(|error| Error::io(format!("cannot bring up {}", shown(path)), error))?;
    copy(&from, &OwnedFd::from(target), ownership).map_err(failed)
}
