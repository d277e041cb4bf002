//! Hard links to files of the layers below, in a layer that is applied by itself.
//!
//! A link is another name of one file, and a file is in one layer. Where a layer links to what a layer below has, the file comes up into
//! this layer under its own name, as overlayfs brings up what is linked to. Here an empty file takes its place, so that whatever the layer
//! does to its names comes out as it should; it is filled when the layers below are there. It is known by its inode and by a time that nobody
//! can foresee, since an inode whose last name has gone may be given to another file.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::BuildHasher,
};

use rustix::{
    fs::{Mode, OFlags, Timespec, Timestamps, fstat, futimens, openat},
    io::Errno,
};
use wharf_content::{Error, ErrorKind, Result};

use super::{
    Apply,
    name::components,
    node,
    tree::{Missing, absent, cannot, is_opaque},
    writable,
};

/// The most bytes of paths that are remembered.
const MAX_LEN: usize = 64 * 1024 * 1024;

/// Files that are still to be filled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lower {
    /// Their paths below the root, by inode.
    pub(crate) paths: HashMap<u64, Vec<u8>>,
    /// Their time, in seconds.
    pub(crate) mark: i64,
}

/// Collects them.
#[derive(Debug, Default)]
pub(super) struct List {
    lower: Lower,
    len: usize,
}

impl List {
    pub(super) fn finish(self) -> Lower {
        self.lower
    }

    /// A time before 2038, as every file system can have.
    fn mark(&mut self) -> Timestamps {
        if self.lower.paths.is_empty() {
            self.lower.mark = i64::try_from(RandomState::new().hash_one(0) >> 33).unwrap_or_default();
        }
        let time = Timespec { tv_sec: self.lower.mark, tv_nsec: 0 };
        Timestamps { last_access: time, last_modification: time }
    }
}

impl Apply {
    /// Makes an empty file in the place of one of the layers below.
    ///
    /// # Errors
    /// `FailedPrecondition` where this layer hides it, and where it is known that they have no such directory.
    pub(super) fn bring_up(&mut self, target: &[u8]) -> Result<()> {
        let mut parent = components(target)?;
        let Some(base) = parent.pop() else { return Ok(()) };
        let missing = if self.tree.is_above() { Missing::MakeAsBelow } else { Missing::MakeUnlessHidden };
        let directory = self.reach(&parent, missing)?.ok_or_else(|| absent(target))?;
        if directory.look(base)?.is_some() {
            // Links of the layers below led back to what this layer has.
            return Ok(());
        }
        if self.is_cut_off(&directory.path).map_err(|error| cannot("find", target, error))? {
            return Err(absent(target));
        }
        let fd = writable(&directory, || node::file(&*directory, base, Mode::RUSR | Mode::WUSR))
            .map_err(|error| cannot("make the file", target, error))?;
        futimens(&fd, &self.lower.mark()).map_err(|error| cannot("set the times of", target, error))?;
        let inode = fstat(&fd).map_err(|error| cannot("look at", target, error))?.st_ino;
        let path = directory.path_of(base);
        self.lower.len += path.len() + size_of::<(u64, Vec<u8>)>();
        self.lower.lower.paths.insert(inode, path);
        if self.lower.len > MAX_LEN {
            let what = "more hard links lead to layers below than anybody needs";
            return Err(Error::new(ErrorKind::ResourceExhausted, what));
        }
        Ok(())
    }

    /// Whether a directory, or one on the way to it, shows nothing of the layers below.
    fn is_cut_off(&mut self, path: &[u8]) -> Result<bool, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut at = openat(&*self.tree.root(), ".", flags, Mode::empty())?;
        for part in path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
            if is_opaque(&at) {
                return Ok(true);
            }
            at = openat(&at, part, flags, Mode::empty())?;
        }
        Ok(is_opaque(&at))
    }

    /// Whether the layers below may have what a link leads to: nothing that this layer has or hides is in the way.
    pub(super) fn may_be_below(&mut self, target: &[u8]) -> Result<bool> {
        if self.options.whiteouts == super::Whiteouts::Remove {
            return Ok(false);
        }
        let mut parent = components(target)?;
        let Some(base) = parent.pop() else { return Ok(false) };
        Ok(match self.tree.directory(&parent, Missing::Leave)? {
            None => true,
            Some(directory) => directory.look(base)?.is_none(),
        })
    }
}
