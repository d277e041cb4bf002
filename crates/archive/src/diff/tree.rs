//! Reading a tree by descriptors. Links are read and never followed, pipes and devices are not opened, and what changes while it is read is
//! an error.

use std::path::{Path, PathBuf};

use rustix::{
    fd::OwnedFd,
    fs::{
        AtFlags, CWD, FileType, Mode, OFlags, Stat, fstat, lgetxattr, llistxattr, openat, readlinkat, statat,
    },
    io::{Errno, read},
};
use wharf_content::{Error, Result};

use crate::{
    apply::{itself, names, shown},
    untar::{Time, Xattr},
};

/// How much of a file is read at once.
pub(super) const BUFFER_LEN: usize = 256 * 1024;
/// The most bytes of an extended attribute and of the names of all of them (Linux: `limits.h`, `XATTR_SIZE_MAX` and `XATTR_LIST_MAX`).
const MAX_XATTR_LEN: usize = 65_536;

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// Were it a pipe by now, opening it would not wait for anybody.
const FILE: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);

/// A directory of a tree, open.
#[derive(Debug)]
pub(super) struct Directory {
    fd: OwnedFd,
    stat: Stat,
    /// Where it was found, to be shown only.
    path: PathBuf,
}

impl Directory {
    /// Opens the root of a tree. Links on the way to it are the caller's.
    pub(super) fn root(path: &Path) -> Result<Self> {
        let opened = openat(CWD, path, DIRECTORY, Mode::empty()).and_then(|fd| Ok((fstat(&fd)?, fd)));
        let (stat, fd) = opened.map_err(|error| {
            Error::io(format!("cannot open the directory {}", path.display()), error.into())
        })?;
        Ok(Self { fd, stat, path: path.to_owned() })
    }

    /// Opens a directory in this one, of which `stat` was told.
    pub(super) fn open(&self, base: &[u8], stat: &Stat) -> Result<Self> {
        let opened = openat(&self.fd, base, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())
            .and_then(|fd| Ok((fstat(&fd)?, fd)));
        let (found, fd) = opened.map_err(|error| self.cannot("open", base, error))?;
        if inode(&found) != inode(stat) {
            return Err(self.changed(base));
        }
        Ok(Self { fd, stat: found, path: self.path_of(base) })
    }

    pub(super) fn stat(&self) -> &Stat {
        &self.stat
    }

    /// The names in it, sorted by their bytes.
    pub(super) fn names(&self) -> Result<Vec<Vec<u8>>> {
        let mut names = names(&self.fd).map_err(|error| self.cannot("list", b"", error))?;
        names.sort_unstable();
        Ok(names)
    }

    /// What is there under a name that was listed.
    pub(super) fn look(&self, base: &[u8]) -> Result<Stat> {
        statat(&self.fd, base, AtFlags::SYMLINK_NOFOLLOW).map_err(|error| self.cannot("look at", base, error))
    }

    /// What the link leads to, as it is written.
    pub(super) fn link_target(&self, base: &[u8]) -> Result<Vec<u8>> {
        match readlinkat(&self.fd, base, Vec::new()) {
            Ok(target) => Ok(target.into_bytes()),
            // It is no link.
            Err(Errno::INVAL) => Err(self.changed(base)),
            Err(error) => Err(self.cannot("read the link", base, error)),
        }
    }

    /// The extended attributes of what is there under a name, of the directory itself under none, sorted. Those that `is_left_out` are
    /// not read.
    pub(super) fn xattrs(&self, base: &[u8], is_left_out: fn(&[u8]) -> bool) -> Result<Vec<Xattr>> {
        let cannot = |error| self.cannot("read the extended attributes of", base, error);
        let path = [itself(&self.fd).as_bytes(), b"/", if base.is_empty() { b"." } else { base }].concat();
        let list = match filled(|buffer| llistxattr(&path[..], buffer)) {
            Err(Errno::NOTSUP) => return Ok(Vec::new()),
            list => list.map_err(cannot)?,
        };
        let mut xattrs = Vec::new();
        for name in list.split(|byte| *byte == 0).filter(|name| !name.is_empty() && !is_left_out(name)) {
            let value = filled(|buffer| lgetxattr(&path[..], name, buffer)).map_err(cannot)?;
            xattrs.push((name.to_vec(), value));
        }
        xattrs.sort_unstable();
        Ok(xattrs)
    }

    /// Opens a file, of which `stat` was told, to be read.
    pub(super) fn file(&self, base: &[u8], stat: &Stat) -> Result<File<'_>> {
        let fd =
            openat(&self.fd, base, FILE, Mode::empty()).map_err(|error| self.cannot("open", base, error))?;
        let file = File {
            fd,
            directory: self,
            base: base.to_vec(),
            stat: *stat,
            left: stat.st_size.cast_unsigned(),
        };
        file.check()?;
        Ok(file)
    }

    /// Whether it is as it was when it was opened.
    ///
    /// # Errors
    /// `FailedPrecondition` where something was put into it or taken out of it.
    pub(super) fn check(&self) -> Result<()> {
        let stat = fstat(&self.fd).map_err(|error| self.cannot("look at", b"", error))?;
        if is_as_it_was(&stat, &self.stat) { Ok(()) } else { Err(self.changed(b"")) }
    }

    /// The path of a name, to be shown only.
    pub(super) fn shown(&self, base: &[u8]) -> String {
        shown(self.path_of(base).as_os_str().as_encoded_bytes())
    }

    fn path_of(&self, base: &[u8]) -> PathBuf {
        use std::os::unix::ffi::OsStrExt;
        if base.is_empty() { self.path.clone() } else { self.path.join(std::ffi::OsStr::from_bytes(base)) }
    }

    fn cannot(&self, what: &str, base: &[u8], error: Errno) -> Error {
        match error {
            // It was there a moment ago, and of another type.
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NODATA | Errno::NXIO | Errno::STALE => {
                self.changed(base)
            }
            error => Error::io(format!("cannot {what} {}", self.shown(base)), error.into()),
        }
    }

    fn changed(&self, base: &[u8]) -> Error {
        Error::failed_precondition(format!(
            "{} changed while it was read: make the layer again when nobody writes to the tree",
            self.shown(base)
        ))
    }
}

/// A file of a tree that is being read. It has as many bytes as it had when it was looked at.
#[derive(Debug)]
pub(super) struct File<'a> {
    fd: OwnedFd,
    directory: &'a Directory,
    base: Vec<u8>,
    stat: Stat,
    left: u64,
}

impl File<'_> {
    /// The next bytes, as many as there are to the end of the file or the buffer; 0 at the end.
    ///
    /// # Errors
    /// `FailedPrecondition` for a file that became shorter or longer, or was written to.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let mut filled = 0;
        while filled < most {
            match read(&self.fd, &mut buffer[filled..most]) {
                Ok(0) => return Err(self.directory.changed(&self.base)),
                Ok(count) => filled += count,
                Err(Errno::INTR) => {}
                Err(error) => return Err(self.directory.cannot("read", &self.base, error)),
            }
        }
        self.left -= filled as u64;
        if self.left == 0 {
            self.check()?;
        }
        Ok(filled)
    }

    fn check(&self) -> Result<()> {
        let stat = fstat(&self.fd).map_err(|error| self.directory.cannot("look at", &self.base, error))?;
        if is_as_it_was(&stat, &self.stat) { Ok(()) } else { Err(self.directory.changed(&self.base)) }
    }
}

/// What a call puts into a buffer, which is short at first: most nodes have no extended attributes, or small ones.
fn filled(mut call: impl FnMut(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut short = [0; 256];
    match call(&mut short[..]) {
        Err(Errno::RANGE) => {}
        len => return Ok(short[..len?].to_vec()),
    }
    let mut long = vec![0; MAX_XATTR_LEN];
    let len = call(&mut long[..])?;
    long.truncate(len);
    Ok(long)
}

/// Names a file or directory among those that are mounted.
pub(super) type Inode = (u64, u64);

pub(super) fn inode(stat: &Stat) -> Inode {
    (stat.st_dev, stat.st_ino)
}

pub(super) fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

pub(super) fn mtime(stat: &Stat) -> Time {
    // It is less than a second.
    Time { seconds: stat.st_mtime, nanoseconds: u32::try_from(stat.st_mtime_nsec).unwrap_or_default() }
}

/// Whether nobody wrote to a file or directory between two looks at it.
fn is_as_it_was(one: &Stat, other: &Stat) -> bool {
    let of = |stat: &Stat| {
        (
            inode(stat),
            stat.st_mode,
            stat.st_size,
            mtime(stat).seconds,
            mtime(stat).nanoseconds,
            stat.st_ctime,
            stat.st_ctime_nsec,
        )
    };
    of(one) == of(other)
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::{fs::symlink, net::UnixListener},
    };

    use rustix::fs::{FileType, mknodat};
    use wharf_content::ErrorKind;

    use super::*;

    /// Puts something in the place of what was looked at a moment ago.
    #[test]
    fn what_was_exchanged_is_not_opened() {
        type Exchange = fn(&Path);
        let exchanges: [(&str, Exchange); 7] = [
            ("nothing", |_| ()),
            ("file", |path| fs::write(path, "x").expect("writes")),
            ("directory", |path| fs::create_dir(path).expect("makes")),
            ("link to a file", |path| symlink("../secret", path).expect("links")),
            ("link to a directory", |path| symlink("..", path).expect("links")),
            ("pipe", |path| mknodat(CWD, path, FileType::Fifo, Mode::RWXU, 0).expect("makes")),
            ("socket", |path| drop(UnixListener::bind(path).expect("binds"))),
        ];
        for (what, exchange) in exchanges {
            let dir = tempfile::tempdir().expect("a directory");
            let (tree, secret) = (dir.path().join("tree"), dir.path().join("secret"));
            fs::create_dir(&tree).expect("makes");
            fs::create_dir(tree.join("directory")).expect("makes");
            fs::write(secret, "secret").expect("writes");
            fs::write(tree.join("file"), "content").expect("writes");
            symlink("file", tree.join("link")).expect("links");
            // Clocks of file systems may be coarse.
            let epoch = std::time::UNIX_EPOCH;
            fs::File::open(&tree).and_then(|tree| tree.set_modified(epoch)).expect("sets");
            let root = Directory::root(&tree).expect("opens");
            let [file, directory] = ["file", "directory"].map(|name| root.look(name.as_bytes()).expect(name));
            root.file(b"file", &file).expect("it is as it was");
            root.open(b"directory", &directory).expect("it is as it was");
            assert_eq!(root.link_target(b"link").expect("it is as it was"), b"file");
            for name in ["file", "directory", "link"] {
                fs::rename(tree.join(name), dir.path().join(name)).expect("moves");
                exchange(&tree.join(name));
            }
            let mut errors =
                vec![root.file(b"file", &file).map(drop), root.open(b"directory", &directory).map(drop)];
            if !what.starts_with("link") {
                errors.push(root.link_target(b"link").map(drop));
            }
            errors.push(root.check());
            for (at, error) in errors.into_iter().enumerate() {
                let error = error.expect_err(what);
                assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{what}, {at}: {}", error.report());
                assert!(error.to_string().contains("changed while it was read"), "{what}, {at}: {error}");
            }
        }
    }
}
