//! Making what an entry describes, in the place of what is there: directories are kept, all else is replaced.

use std::{io::Read, rc::Rc};

use rustix::{
    fd::OwnedFd,
    fs::{Mode, fchmod, fstat, ftruncate, mkdirat},
    io::{Errno, pwrite},
};
use wharf_content::{Error, Result};

use super::{
    Apply, BUFFER_LEN, Directory, Ownership, hide::remove, is_a_directory, node::Metadata, tree::cannot,
    writable,
};
use crate::untar::{Entry, MAX_NAME_LEN, TarReader};

/// The most bytes of paths, beyond what names can have, that are kept to the end of a layer.
const MAX_REMEMBERED: usize = 64 * 1024 * 1024;

impl Apply {
    /// Makes something where there is nothing, or after what is there was removed: most of the time there is nothing.
    pub(super) fn make<T>(
        &mut self,
        directory: &Rc<Directory>,
        base: &[u8],
        what: &str,
        name: &[u8],
        mut make: impl FnMut() -> Result<T, Errno>,
    ) -> Result<T> {
        let mut made = writable(directory, &mut make);
        if matches!(made, Err(Errno::EXIST)) {
            self.clear(directory, base)?;
            made = writable(directory, make);
        }
        let made = made.map_err(|error| cannot(what, name, error))?;
        self.written.add(directory.inode, base);
        Ok(made)
    }

    /// Makes a directory, or takes the one that is there.
    pub(super) fn directory(
        &mut self,
        directory: &Rc<Directory>,
        base: &[u8],
        metadata: Metadata,
        name: &[u8],
    ) -> Result<()> {
        let mut make = || mkdirat(directory, base, Mode::from_raw_mode(0o700));
        let (mut is_kept, mut was_other) = (false, false);
        let mut made = writable(directory, &mut make);
        if made == Err(Errno::EXIST) {
            let there = directory.look(base)?;
            is_kept = there.as_ref().is_some_and(is_a_directory);
            was_other = !is_kept;
            made = if is_kept {
                Ok(())
            } else {
                self.clear(directory, base)?;
                writable(directory, make)
            };
        }
        made.map_err(|error| cannot("make the directory", name, error))?;
        self.written.add(directory.inode, base);
        let fd = directory.open(base).map_err(|error| cannot("open", name, error))?;
        let stat = fstat(&fd).map_err(|error| cannot("look at", name, error))?;
        if !is_kept {
            self.add_made(stat.st_ino);
            // It is none of those below any more, and shows nothing of them.
            if was_other {
                self.mark_opaque(&fd, name)?;
            }
        }
        metadata.set(&fd, &stat, name, &mut self.omissions)?;
        // The owner still writes to it.
        let mode = match self.options.ownership {
            Ownership::Image => metadata.mode,
            Ownership::User => metadata.mode | Mode::RWXU,
        };
        fchmod(&fd, mode).map_err(|error| cannot("set the mode of", name, error))?;
        let path = directory.path_of(base);
        self.remember(&path)?;
        self.directories.insert(stat.st_ino, (path, metadata.without_xattrs()));
        Ok(())
    }

    /// Counts a path that is kept to the end of the layer. One without links may be much longer than the name that led to it.
    ///
    /// # Errors
    /// `ResourceExhausted` for more than anybody needs.
    pub(super) fn remember(&mut self, path: &[u8]) -> Result<()> {
        self.remembered += path.len().saturating_sub(MAX_NAME_LEN);
        if self.remembered > MAX_REMEMBERED {
            return Err(Error::resource_exhausted(
                "links lead to more and deeper directories than anybody needs",
            ));
        }
        Ok(())
    }

    /// Removes what is to be replaced.
    pub(super) fn clear(&mut self, directory: &Rc<Directory>, base: &[u8]) -> Result<()> {
        // It may have been on the way to a directory that is open.
        self.tree.forget();
        writable(directory, || remove(directory, base)).map_err(|error| cannot("replace", base, error))
    }

    /// Writes a file's content.
    pub(super) fn content<R: Read>(
        &mut self,
        entry: &Entry,
        fd: &OwnedFd,
        tar: &mut TarReader<R>,
    ) -> Result<()> {
        let failed = |error| cannot("write", &entry.name, error);
        let mut put = |tar: &mut TarReader<R>, mut at: u64, mut left: u64| {
            while left > 0 {
                let most = usize::try_from(left).unwrap_or(BUFFER_LEN).min(BUFFER_LEN);
                let read = tar.read(&mut self.buffer[..most])?;
                let mut rest = &self.buffer[..read];
                while !rest.is_empty() {
                    let count = pwrite(fd, rest, at).map_err(failed)?;
                    rest = &rest[count..];
                    at += count as u64;
                }
                left -= read as u64;
                self.applied.bytes += read as u64;
            }
            Ok::<_, Error>(())
        };
        match &entry.sparse {
            None => put(tar, 0, entry.size),
            Some(sparse) => {
                ftruncate(fd, sparse.real_size).map_err(failed)?;
                sparse.pieces.iter().try_for_each(|piece| put(tar, piece.offset, piece.len))
            }
        }
    }
}
