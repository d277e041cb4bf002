//! What a layer that was applied by itself takes from those below: owner, mode, extended attributes and time of the directories that it needs
//! and does not describe (containerd: `pkg/archive/tar.go`, `mkparent`).
//!
//! The layers below are looked at as overlayfs shows them: upper before lower, whiteouts and opaque directories hide. Nothing follows a link.

use std::{collections::HashSet, path::Path};

use rustix::{
    fd::OwnedFd,
    fs::{
        AtFlags, CWD, FileType, Gid, Mode, OFlags, Stat, Uid, XattrFlags, chmodat, chownat, fstat, getxattr,
        listxattr, openat, setxattr, utimensat,
    },
    io::Errno,
};
use wharf_content::{Error, Result};

use crate::apply::{Implied, Ownership, cannot, itself, shown, times_of};

/// Marks a directory that shows nothing of the layers below.
const OPAQUE: [&str; 2] = ["trusted.overlay.opaque", "user.overlay.opaque"];

/// A layer's root directory.
#[derive(Debug)]
pub(crate) struct Root(OwnedFd);

impl Root {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        openat(CWD, path, DIRECTORY, Mode::empty())
            .map(Self)
            .map_err(|error| Error::io(format!("cannot open the directory {}", path.display()), error.into()))
    }

    pub(super) fn fd(&self) -> &OwnedFd {
        &self.0
    }
}

/// Directories that a layer has and does not describe.
#[derive(Debug, Default)]
pub(crate) struct Inherited {
    pub(crate) implied: Vec<Implied>,
    /// Those that it describes after all, by inode.
    pub(crate) described: HashSet<u64>,
    pub(crate) describes_root: bool,
}

/// Gives a layer's directories what those below say; `below` has the lowest first, each with what it takes itself.
///
/// # Errors
/// `FailedPrecondition` where what is a directory here is a link or a file below: applied one over the other, the layers mean something else.
pub(crate) fn inherit(layer: &Root, taken: &Inherited, below: &[Root], ownership: Ownership) -> Result<()> {
    // Those that were looked at: many entries need the same ones.
    let mut done: HashSet<&[u8]> = HashSet::new();
    for implied in &taken.implied {
        let parts: Vec<&[u8]> = implied.path.split(|byte| *byte == b'/').collect();
        let mut end = 0;
        for (at, part) in parts.iter().enumerate() {
            end += part.len() + usize::from(at > 0);
            let path = &implied.path[..end];
            if at + implied.made < parts.len() || !done.insert(path) {
                continue;
            }
            one(layer, path, &parts[..=at], taken, below, ownership)
                .map_err(|error| cannot("complete", path, error))??;
        }
    }
    if !taken.describes_root
        && let Some(from) = below.last()
    {
        copy(&from.0, &layer.0, ownership).map_err(|error| cannot("complete", b".", error))?;
    }
    Ok(())
}

fn one(
    layer: &Root,
    path: &[u8],
    parts: &[&[u8]],
    taken: &Inherited,
    below: &[Root],
    ownership: Ownership,
) -> Result<Result<()>, Errno> {
    // What the layer has since replaced is no directory any more.
    let Own::Directory { fd, is_cut_off } = own(layer, parts)? else { return Ok(Ok(())) };
    if is_cut_off {
        return Ok(Ok(()));
    }
    match find(below, parts)? {
        Found::Nothing => {}
        Found::Directory(from) => {
            if !taken.described.contains(&fstat(&fd)?.st_ino) {
                copy(&from, &fd, ownership)?;
            }
        }
        Found::Other { kind, .. } => {
            let what = if kind == FileType::Symlink { "a link" } else { "no directory" };
            return Ok(Err(Error::failed_precondition(format!(
                "it has something in {}, which is {what} in the layers below: such layers can only be unpacked one over the other, into a \
                 directory of their own",
                shown(path)
            ))));
        }
    }
    Ok(Ok(()))
}

/// What a layer itself has.
pub(super) enum Own {
    Directory { fd: OwnedFd, is_cut_off: bool },
    Other,
}

pub(super) fn own(layer: &Root, parts: &[&[u8]]) -> Result<Own, Errno> {
    let mut at = openat(&layer.0, ".", DIRECTORY, Mode::empty())?;
    let mut is_cut_off = false;
    for part in parts {
        is_cut_off |= is_opaque(&at);
        at = match openat(&at, *part, DIRECTORY | OFlags::NOFOLLOW, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(Own::Other),
            Err(error) => return Err(error),
        };
    }
    Ok(Own::Directory { fd: at, is_cut_off })
}

/// What the layers below show under a path.
pub(super) enum Found {
    Nothing,
    Directory(OwnedFd),
    /// The path, or something on the way, is no directory.
    Other {
        kind: FileType,
        fd: OwnedFd,
        is_last: bool,
    },
}

pub(super) fn find(below: &[Root], parts: &[&[u8]]) -> Result<Found, Errno> {
    'layers: for layer in below.iter().rev() {
        let mut at = openat(&layer.0, ".", DIRECTORY, Mode::empty())?;
        let mut hides = is_opaque(&at);
        for (number, part) in (1..).zip(parts) {
            at = match openat(&at, *part, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
                Ok(fd) => fd,
                Err(Errno::NOENT) if hides => return Ok(Found::Nothing),
                Err(Errno::NOENT) => continue 'layers,
                Err(error) => return Err(error),
            };
            let stat = fstat(&at)?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => hides |= is_opaque(&at),
                FileType::CharacterDevice if stat.st_rdev == 0 => return Ok(Found::Nothing),
                kind => return Ok(Found::Other { kind, fd: at, is_last: number == parts.len() }),
            }
        }
        return Ok(Found::Directory(at));
    }
    Ok(Found::Nothing)
}

pub(super) fn is_opaque(directory: &OwnedFd) -> bool {
    let path = itself(directory);
    let mut value = [0; 2];
    OPAQUE.iter().any(|name| matches!(getxattr(&*path, *name, &mut value[..]), Ok(1)) && value[0] == b'y')
}

/// Gives one root what another has, its owner as well.
pub(super) fn copy_root(from: &Root, to: &Root) -> Result<(), Errno> {
    copy(&from.0, &to.0, Ownership::Image)
}

/// Gives one directory or file what another has. Attributes that cannot be set here could not be set there.
pub(super) fn copy(from: &OwnedFd, to: &OwnedFd, ownership: Ownership) -> Result<(), Errno> {
    let stat: Stat = fstat(from)?;
    let (source, target) = (itself(from), itself(to));
    if ownership == Ownership::Image {
        let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
        chownat(to, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)?;
    }
    let mut names = vec![0; 65_536];
    let len = match listxattr(&*source, &mut names[..]) {
        Err(Errno::NOTSUP) => 0,
        len => len?,
    };
    for name in names[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        if name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.") {
            continue;
        }
        let mut value = vec![0; 65_536];
        let len = getxattr(&*source, name, &mut value[..])?;
        match setxattr(&*target, name, &value[..len], XattrFlags::empty()) {
            Ok(()) | Err(Errno::NOTSUP | Errno::PERM) => {}
            Err(error) => return Err(error),
        }
    }
    chmodat(CWD, &*target, Mode::from_raw_mode(stat.st_mode & 0o7777), AtFlags::empty())?;
    utimensat(CWD, &*target, &times_of(&stat), AtFlags::empty())
}

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
