//! One file, directory, link or device of a tree, and whether that of the other tree is the same (containerd's continuity: `fs/path.go`,
//! `sameFile`).

use rustix::fs::{FileType, Stat};
use wharf_content::Result;

use super::tree::{BUFFER_LEN, Directory, inode, kind, mtime};
use crate::{apply::OVERLAY, untar::Xattr};

/// Extended attributes that tell something of the system that a tree is on, and not of the tree.
const OF_THE_HOST: [&[u8]; 3] = [b"security.selinux", b"security.evm", b"system.nfs4_acl"];

/// What overlayfs notes in a directory that changes are written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// Nothing below it is seen.
    Opaque,
    /// It hides a name, as a device 0:0 does.
    Whiteout,
    /// Its content, or what is in it, is somewhere else in the layers below.
    Elsewhere,
}

/// A node of a tree, without its content.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) stat: Stat,
    /// Sorted by name.
    pub(super) xattrs: Vec<Xattr>,
    /// Empty for what is no link.
    pub(super) target: Vec<u8>,
}

impl Node {
    /// Reads what is there under a name that was listed, of which `stat` was told.
    pub(super) fn read(directory: &Directory, base: &[u8], stat: Stat) -> Result<Self> {
        let xattrs = directory.xattrs(base, is_left_out)?;
        let target = match kind(&stat) {
            FileType::Symlink => directory.link_target(base)?,
            _ => Vec::new(),
        };
        Ok(Self { stat, xattrs, target })
    }

    /// The root of a tree.
    pub(super) fn root(directory: &Directory) -> Result<Self> {
        Ok(Self { stat: *directory.stat(), xattrs: directory.xattrs(b"", is_left_out)?, target: Vec::new() })
    }

    pub(super) fn kind(&self) -> FileType {
        kind(&self.stat)
    }

    /// An extended attribute that another node has and this one has not. What is applied to a directory does not take it away.
    pub(super) fn lost<'n>(&self, other: &'n Node) -> Option<&'n [u8]> {
        let has = |name: &[u8]| self.xattrs.iter().any(|(own, _)| own == name);
        other.xattrs.iter().map(|(name, _)| &name[..]).find(|name| !has(name))
    }

    /// A device that overlayfs takes for a hidden name.
    pub(super) fn is_whiteout(&self) -> bool {
        self.kind() == FileType::CharacterDevice && self.stat.st_rdev == 0
    }
}

/// What overlayfs noted of a node. Only root sees the notes of an overlay that root has mounted.
pub(super) fn marks(directory: &Directory, base: &[u8]) -> Result<Vec<Mark>> {
    let noted = directory.xattrs(base, |name| !is_of_overlay(name))?;
    let mark = |(name, value): &Xattr| {
        let name = OVERLAY.iter().find_map(|prefix| name.strip_prefix(*prefix))?;
        match (name, &value[..]) {
            (b"opaque", b"y") => Some(Mark::Opaque),
            (b"whiteout", _) => Some(Mark::Whiteout),
            (b"redirect" | b"metacopy", _) => Some(Mark::Elsewhere),
            _ => None,
        }
    };
    Ok(noted.iter().filter_map(mark).collect())
}

fn is_of_overlay(name: &[u8]) -> bool {
    OVERLAY.iter().any(|prefix| name.starts_with(prefix))
}

fn is_left_out(name: &[u8]) -> bool {
    is_of_overlay(name) || OF_THE_HOST.contains(&name)
}

/// A node and where it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    pub(super) directory: &'a Directory,
    pub(super) base: &'a [u8],
    pub(super) node: &'a Node,
}

/// Whether two nodes of one name are the same. `buffer` is for their contents.
///
/// They are where they are one inode; else type, mode, owner, device and extended attributes must be equal, and for all but
/// directories size, time and target of a link. Times of whole seconds may have been rounded, as some programs do when they unpack a
/// layer: then the contents decide.
pub(super) fn is_same(lower: Place<'_>, upper: Place<'_>, buffer: &mut Vec<u8>) -> Result<bool> {
    let (one, other) = (lower.node, upper.node);
    if inode(&one.stat) == inode(&other.stat) {
        return Ok(true);
    }
    let of = |node: &Node| (node.stat.st_mode, node.stat.st_uid, node.stat.st_gid, node.stat.st_rdev);
    if of(one) != of(other) || one.xattrs != other.xattrs {
        return Ok(false);
    }
    if one.kind() == FileType::Directory {
        return Ok(true);
    }
    let times = (mtime(&one.stat), mtime(&other.stat));
    if one.stat.st_size != other.stat.st_size || times.0 != times.1 || one.target != other.target {
        return Ok(false);
    }
    if times.0.nanoseconds > 0 || one.kind() != FileType::RegularFile || one.stat.st_size == 0 {
        return Ok(true);
    }
    buffer.resize(2 * BUFFER_LEN, 0);
    let (of_lower, of_upper) = buffer.split_at_mut(BUFFER_LEN);
    let mut lower = lower.directory.file(lower.base, &one.stat)?;
    let mut upper = upper.directory.file(upper.base, &other.stat)?;
    loop {
        // Both have the same number of bytes, or one of them fails.
        let count = lower.read(of_lower)?;
        if count != upper.read(of_upper)? || of_lower[..count] != of_upper[..count] {
            return Ok(false);
        }
        if count == 0 {
            return Ok(true);
        }
    }
}
