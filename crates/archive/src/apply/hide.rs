//! Hiding what the layers below have, never what this layer has already written, in whichever order the two come.
//!
//! In a root that holds all layers, hiding is removing. Which names this layer has written is known by directory and name, so that a
//! second name of a file from below spares nothing. A directory that holds nothing from below any more is remembered, so that each is
//! gone through once, however many markers there are.
//!
//! Where a layer is applied by itself, nothing from below is there. What goes then are whiteouts that something larger has made needless, files
//! that stand for those below which are linked to, and directories that hold nothing else.

use std::{
    collections::{HashSet, hash_map::RandomState},
    hash::BuildHasher,
};

use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{
        AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags, Stat, chmodat, fchmod, fstat, openat,
        renameat_with, statat, unlinkat,
    },
    io::Errno,
    process::geteuid,
};

use super::tree::{Missing, itself};

/// What becomes of names that a layer hides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Whiteouts {
    /// They are removed: the directory holds all layers.
    #[default]
    Remove,
    /// They are marked as overlayfs marks them: the directory holds this layer alone. A hidden name is a device of characters 0:0; a
    /// directory that hides everything has the attribute `trusted.overlay.opaque`, which only root can set.
    Overlay,
    /// As [`Whiteouts::Overlay`], with the attribute `user.overlay.opaque`, for an overlay that is mounted with `userxattr`.
    UserOverlay,
}

impl Whiteouts {
    /// The attribute of a directory that hides everything.
    pub(super) fn attribute(self) -> Option<&'static str> {
        match self {
            Self::Remove => None,
            Self::Overlay => Some("trusted.overlay.opaque"),
            Self::UserOverlay => Some("user.overlay.opaque"),
        }
    }

    /// What may be made to hide something in it.
    pub(super) fn missing(self) -> Missing {
        match self {
            Self::Remove => Missing::Leave,
            Self::Overlay | Self::UserOverlay => Missing::MakeUnlessHidden,
        }
    }
}

/// Names that this layer has written, and directories that are all its own.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// Hashes of directory and name: a layer may have millions.
    names: HashSet<u64>,
    hasher: RandomState,
    /// Inodes of directories with nothing from below.
    own: HashSet<u64>,
    /// How many directories were gone through.
    #[cfg(test)]
    pub(super) listed: u64,
}

impl Written {
    /// Notes that the layer has written a name.
    pub(super) fn add(&mut self, directory: u64, base: &[u8]) {
        let hash = self.hasher.hash_one((directory, base));
        self.names.insert(hash);
    }

    /// Notes a directory that the layer has made.
    pub(super) fn add_own(&mut self, directory: u64) {
        self.own.insert(directory);
    }

    /// Notes a directory that the layer has made, where what stands for something below may be in it.
    pub(super) fn add_open(&mut self, directory: u64) {
        // It may have the inode of one that is gone.
        self.own.remove(&directory);
    }

    /// Whether a directory has nothing from below.
    pub(super) fn is_own(&self, directory: u64) -> bool {
        self.own.contains(&directory)
    }

    /// Whether the layer has written a name.
    pub(super) fn has(&self, directory: u64, base: &[u8]) -> bool {
        self.names.contains(&self.hasher.hash_one((directory, base)))
    }

    /// Removes everything in a directory that this layer has not written. Says whether anything is left.
    pub(super) fn hide_all(&mut self, directory: &impl AsFd) -> Result<bool, Errno> {
        let directory = openat(directory, ".", LIST, Mode::empty())?;
        self.hide_within(&directory, 0)
    }

    /// Removes a name, unless this layer has written it, and what it has not written below. Says whether the name is still there.
    pub(super) fn hide(&mut self, directory: &impl AsFd, inode: u64, base: &[u8]) -> Result<bool, Errno> {
        self.hide_one(directory, inode, base, 0)
    }

    fn hide_within(&mut self, directory: &OwnedFd, depth: usize) -> Result<bool, Errno> {
        if depth > MAX_HIDDEN_DEPTH {
            return Err(Errno::NAMETOOLONG);
        }
        let inode = fstat(directory)?.st_ino;
        if self.own.contains(&inode) {
            return has_names(directory);
        }
        #[cfg(test)]
        {
            self.listed += 1;
        }
        let mut is_left = false;
        for base in names(directory)? {
            is_left |= self.hide_one(directory, inode, &base, depth)?;
        }
        self.own.insert(inode);
        Ok(is_left)
    }

    /// Says whether the name is still there.
    fn hide_one(
        &mut self,
        directory: &impl AsFd,
        inode: u64,
        base: &[u8],
        depth: usize,
    ) -> Result<bool, Errno> {
        let stat = match statat(directory, base, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(false),
            stat => stat?,
        };
        let is_written = self.has(inode, base);
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            if !is_written {
                unlinkat(directory, base, AtFlags::empty())?;
            }
            return Ok(is_written);
        }
        let (below, closed) = open_up(directory, base, &stat)?;
        let is_left = self.hide_within(&below, depth + 1);
        if is_written || is_left != Ok(false) {
            if let Some(mode) = closed {
                fchmod(&below, mode)?;
            }
            return is_left.map(|_| true);
        }
        unlinkat(directory, base, AtFlags::REMOVEDIR)?;
        Ok(false)
    }
}

const LIST: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// A directory that is not to be read.
const CLOSED: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Opens a directory in which something may be hidden. Of one whose owner, who is not root, may not do that, it gives the mode to set when it
/// was done.
fn open_up(directory: &impl AsFd, base: &[u8], stat: &Stat) -> Result<(OwnedFd, Option<Mode>), Errno> {
    let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
    if mode.contains(Mode::RWXU) || geteuid().is_root() {
        return Ok((openat(directory, base, LIST, Mode::empty())?, None));
    }
    let closed = openat(directory, base, CLOSED, Mode::empty())?;
    // Whose it is not cannot, and may be allowed to all the same.
    let opened = chmodat(CWD, &*itself(&closed), mode | Mode::RWXU, AtFlags::empty());
    Ok((openat(&closed, ".", LIST, Mode::empty())?, opened.is_ok().then_some(mode)))
}

/// The most directories below each other of which some names are hidden and some are not. Nobody has as many.
const MAX_HIDDEN_DEPTH: usize = 500;
/// How many directories are kept open on the way down. What is deeper is moved up, since there may be more than can be open.
const MAX_WAY: usize = 64;

/// Removes a name and all below it, whoever wrote it and however deep it is. Links are removed and not followed.
pub(super) fn remove(directory: &impl AsFd, base: &[u8]) -> Result<(), Errno> {
    match unlinkat(directory, base, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => {}
        removed => return removed,
    }
    // Directories on the way down, each with what is left to remove in it.
    let top = enter(directory, base)?;
    let mut number = 0;
    let mut way = vec![(names(&top)?, top, base.to_vec())];
    while let Some((left, at, _)) = way.last_mut() {
        let Some(name) = left.pop() else {
            let Some((_, _, name)) = way.pop() else { break };
            match way.last() {
                Some((_, parent, _)) => unlinkat(parent, &name, AtFlags::REMOVEDIR)?,
                None => unlinkat(directory, &name, AtFlags::REMOVEDIR)?,
            }
            continue;
        };
        let mut removed = unlinkat(&*at, &name, AtFlags::empty());
        if removed == Err(Errno::ACCESS) {
            // A directory that its owner may not write to, who is not root.
            fchmod(&*at, Mode::RWXU)?;
            removed = unlinkat(&*at, &name, AtFlags::empty());
        }
        match removed {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR | Errno::PERM) => {
                let below = enter(&*at, &name)?;
                if way.len() < MAX_WAY {
                    way.push((names(&below)?, below, name));
                } else if let [(waiting, top, _), .., (_, at, _)] = &mut way[..] {
                    waiting.push(move_up(at, &name, &below, top, &mut number)?);
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Opens a directory that is to be removed, whatever its owner may do with it so far.
fn enter(directory: &impl AsFd, base: &[u8]) -> Result<OwnedFd, Errno> {
    match openat(directory, base, LIST, Mode::empty()) {
        Err(Errno::ACCESS) => {}
        opened => return opened,
    }
    let closed = openat(directory, base, CLOSED, Mode::empty())?;
    chmodat(CWD, &*itself(&closed), Mode::RWXU, AtFlags::empty())?;
    openat(directory, base, LIST, Mode::empty())
}

/// Moves a directory that is to be removed to the top of what is to be removed. Gives its name there. `number` is one that no name had yet.
fn move_up(
    from: &OwnedFd,
    base: &[u8],
    directory: &OwnedFd,
    top: &OwnedFd,
    number: &mut u64,
) -> Result<Vec<u8>, Errno> {
    let mut is_writable = false;
    loop {
        let name = format!(".wharf-{number}").into_bytes();
        match renameat_with(from, base, top, &name[..], RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => *number += 1,
            Err(Errno::ACCESS) if !is_writable => {
                // Its owner, who is not root, must be allowed to write to all three.
                for changed in [from, directory, top] {
                    fchmod(changed, Mode::RWXU)?;
                }
                is_writable = true;
            }
            moved => {
                *number += 1;
                return moved.map(|()| name);
            }
        }
    }
}

/// Whether there is anything in a directory.
fn has_names(directory: &OwnedFd) -> Result<bool, Errno> {
    for entry in Dir::read_from(directory)? {
        if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The names in a directory.
pub(crate) fn names(directory: &OwnedFd) -> Result<Vec<Vec<u8>>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    Ok(names)
}
