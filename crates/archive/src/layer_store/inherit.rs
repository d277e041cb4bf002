//! What a layer that was applied by itself takes from those below: owner, mode, extended attributes and time of the directories that it needs
//! and does not describe (containerd: `pkg/archive/tar.go`, `mkparent`).
//!
//! The layers below are looked at as overlayfs shows them: upper before lower, whiteouts and opaque directories hide. Nothing follows a link.
//! Where one of those is in the place of such a directory, the layer is to be applied once more (`layer_store/above.rs`).

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

use crate::apply::{Implied, Ownership, cannot, is_opaque, itself, shown, times_of};

/// A layer's root directory.
#[derive(Debug)]
pub(crate) struct Root(OwnedFd);

impl Root {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        openat(CWD, path, DIRECTORY, Mode::empty())
            .map(Self)
            .map_err(|error| Error::io(format!("cannot open the directory {}", path.display()), error.into()))
    }

    /// Opens it once more.
    pub(super) fn again(&self) -> Result<Self, Errno> {
        openat(&self.0, ".", DIRECTORY, Mode::empty()).map(Self)
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
    /// Whether it was applied with what is below in sight, so that nothing of it is in the place of a link.
    pub(crate) is_above: bool,
}

/// Gives a layer's directories what those below say; `below` has the lowest first, each with what it takes itself.
///
/// # Errors
/// `FailedPrecondition` where what is a directory here is a link or a file below, and the layer was applied without looking at those: applied one
/// over the other, the layers mean something else.
pub(crate) fn inherit(layer: &Root, taken: &Inherited, below: &[Root], ownership: Ownership) -> Result<()> {
    // Those that were looked at: many entries need the same ones.
    let mut done: HashSet<&[u8]> = HashSet::new();
    for implied in &taken.implied {
        descend(layer, implied, taken, below, ownership, &mut done)
            .map_err(|error| cannot("complete", &implied.path, error))??;
    }
    if !taken.describes_root
        && let Some(from) = below.last()
    {
        copy(&from.0, &layer.0, ownership).map_err(|error| cannot("complete", b".", error))?;
    }
    Ok(())
}

/// Goes down to what was implied, once for all that is on the way: a path may have thousands of names.
fn descend<'a>(
    layer: &Root,
    implied: &'a Implied,
    taken: &Inherited,
    below: &[Root],
    ownership: Ownership,
    done: &mut HashSet<&'a [u8]>,
) -> Result<Result<()>, Errno> {
    let count = implied.path.split(|byte| *byte == b'/').count();
    // `None` from where nothing of what is below is seen, or what the layer has since replaced is no directory any more.
    let mut own = Some(openat(&layer.0, ".", DIRECTORY, Mode::empty())?);
    let mut below = Below::of(below)?;
    let mut end = 0;
    for (at, part) in implied.path.split(|byte| *byte == b'/').enumerate() {
        end += part.len() + usize::from(at > 0);
        own = match own.filter(|own| !is_opaque(own)) {
            None => None,
            Some(own) => match openat(&own, part, DIRECTORY | OFlags::NOFOLLOW, Mode::empty()) {
                Ok(fd) => Some(fd),
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => None,
                Err(error) => return Err(error),
            },
        };
        below.enter(part)?;
        let Some(found) = below.shown.first() else { return Ok(Ok(())) };
        let path = &implied.path[..end];
        if at + implied.made < count || !done.insert(path) {
            continue;
        }
        match found {
            Shown::Directory { fd, .. } => {
                if let Some(own) = &own
                    && !taken.described.contains(&fstat(own)?.st_ino)
                {
                    copy(fd, own, ownership)?;
                }
            }
            // An entry has put a directory into its place.
            Shown::Other { depth, .. } if taken.is_above || *depth <= at => return Ok(Ok(())),
            Shown::Other { kind, .. } => {
                let what = if *kind == FileType::Symlink { "a link" } else { "no directory" };
                return Ok(Err(Error::failed_precondition(format!(
                    "it has something in {}, which is {what} in the layers below",
                    shown(path)
                ))));
            }
        }
    }
    Ok(Ok(()))
}

/// What the layers below show under a path.
pub(super) enum Found {
    Nothing,
    Directory,
    /// The path, or something on the way, is no directory.
    Other {
        kind: FileType,
        fd: OwnedFd,
        is_last: bool,
    },
}

/// Looks for a path in the layers below.
pub(super) fn find(below: &[Root], parts: &[&[u8]]) -> Result<Found, Errno> {
    let mut below = Below::of(below)?;
    for part in parts {
        below.enter(part)?;
    }
    Ok(match below.shown.into_iter().next() {
        None => Found::Nothing,
        Some(Shown::Directory { .. }) => Found::Directory,
        Some(Shown::Other { kind, fd, depth }) => Found::Other { kind, fd, is_last: depth == parts.len() },
    })
}

/// The layers below on the way down a path.
#[derive(Debug)]
pub(super) struct Below {
    /// What they show there, the topmost first, as far as it is not hidden: the first is what is seen, and those after it may have what it has
    /// not.
    shown: Vec<Shown>,
    depth: usize,
}

#[derive(Debug)]
pub(super) enum Shown {
    Directory {
        fd: OwnedFd,
        /// Whether it shows nothing of those after it.
        hides: bool,
    },
    /// The path, or something on the way, is no directory.
    Other {
        kind: FileType,
        fd: OwnedFd,
        /// How far down it is.
        depth: usize,
    },
}

impl Below {
    pub(super) fn of(below: &[Root]) -> Result<Self, Errno> {
        let mut shown = Vec::new();
        for layer in below.iter().rev() {
            let fd = openat(&layer.0, ".", DIRECTORY, Mode::empty())?;
            let hides = is_opaque(&fd);
            shown.push(Shown::Directory { fd, hides });
            if hides {
                break;
            }
        }
        Ok(Self { shown, depth: 0 })
    }

    /// What is seen here.
    pub(super) fn seen(&self) -> Option<&Shown> {
        self.shown.first()
    }

    /// Goes one name further down.
    pub(super) fn enter(&mut self, part: &[u8]) -> Result<(), Errno> {
        if let Some(Shown::Other { .. }) = self.shown.first() {
            return Ok(());
        }
        *self = self.inside(part)?;
        Ok(())
    }

    /// What they show in a directory under a name.
    pub(super) fn inside(&self, part: &[u8]) -> Result<Self, Errno> {
        let mut inside = Self { shown: Vec::new(), depth: self.depth + 1 };
        for above in &self.shown {
            let Shown::Directory { fd, hides } = above else { break };
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = match openat(fd, part, flags, Mode::empty()) {
                Ok(fd) => fd,
                Err(Errno::NOENT) if *hides => break,
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(error),
            };
            let stat = fstat(&fd)?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {
                    let hides = *hides || is_opaque(&fd);
                    inside.shown.push(Shown::Directory { fd, hides });
                    if hides {
                        break;
                    }
                }
                FileType::CharacterDevice if stat.st_rdev == 0 => break,
                kind => {
                    // What is below a file or a link is hidden by it, and nothing of a directory above it is in it.
                    inside.shown.push(Shown::Other { kind, fd, depth: inside.depth });
                    break;
                }
            }
        }
        Ok(inside)
    }
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

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;
    use crate::apply::LOOKS;

    #[test]
    fn the_way_down_is_gone_once() {
        const DEPTH: usize = 500;
        let dir = tempfile::tempdir().expect("a directory");
        let path = vec!["d"; DEPTH].join("/");
        for layer in ["below", "layer"] {
            fs::create_dir_all(dir.path().join(layer).join(&path)).expect("makes");
        }
        let innermost = dir.path().join("below").join(&path);
        fs::set_permissions(innermost, fs::Permissions::from_mode(0o751)).expect("chmod");
        let [below, layer] =
            ["below", "layer"].map(|name| Root::open(&dir.path().join(name)).expect("opens"));
        let implied = vec![Implied { path: path.clone().into_bytes(), made: DEPTH }];
        let taken = Inherited { implied, described: HashSet::new(), describes_root: true, is_above: false };
        LOOKS.set(0);
        inherit(&layer, &taken, &[below], Ownership::User).expect("completes");
        let mode = fs::metadata(dir.path().join("layer").join(&path)).expect("stat").permissions().mode();
        assert_eq!(mode & 0o7777, 0o751);
        let looks = LOOKS.get();
        assert!((DEPTH..3 * DEPTH).contains(&looks), "{looks} directories were looked at");
    }
}
