//! Finding directories below a root that may be full of hostile links, and may change while one looks.
//!
//! A directory is a descriptor, never a path that is looked up twice. The kernel resolves inside the root where it can (`openat2` with
//! `RESOLVE_IN_ROOT`); where it cannot, or something is missing, each component is opened by itself without following it, and links
//! are followed here: absolute ones from the root, `..` at the root stays there.

use std::{
    collections::{HashMap, VecDeque},
    path::Path,
    rc::Rc,
};

use rustix::{
    fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    fs::{
        AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, XattrFlags, chmodat,
        fchmod, fsetxattr, fstat, getxattr, mkdirat, openat, openat2, readlinkat, statat, unlinkat,
    },
    io::Errno,
};
use wharf_content::{Error, Result};

use super::{
    beneath::{Beneath, Seen},
    name::{components, shown},
};

/// The most links on the way to one directory, as in Linux.
const MAX_LINKS: usize = 40;
/// The most directories below each other. A path has fewer; links into the depth could make more.
const MAX_DEPTH: usize = 2048;
/// How many directories are kept open.
const MAX_OPEN: usize = 64;
/// The mode of directories that an entry needs and no entry makes.
pub(crate) const IMPLIED_MODE: Mode = Mode::from_raw_mode(0o755);

/// How many names more than their paths have may be gone by on the ways to all directories of a layer, because of links.
const MAX_EXTRA_STEPS: usize = 1 << 20;

const DIRECTORY: OFlags =
    OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A directory below the root.
#[derive(Debug)]
pub(super) struct Directory {
    fd: OwnedFd,
    /// Its inode, by which it is known as long as it exists.
    pub(super) inode: u64,
    /// Its path below the root, without links.
    pub(super) path: Vec<u8>,
    /// Its times when it was found.
    pub(super) times: Timestamps,
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Directory {
    fn new(fd: OwnedFd, path: Vec<u8>) -> Result<Self, Errno> {
        let stat = fstat(&fd)?;
        Ok(Self { fd, inode: stat.st_ino, path, times: times_of(&stat) })
    }

    fn root(fd: OwnedFd) -> Result<Self, Errno> {
        Self::new(fd, Vec::new())
    }

    /// The path below the root of what is in it under a name.
    pub(super) fn path_of(&self, base: &[u8]) -> Vec<u8> {
        if self.path.is_empty() { base.to_vec() } else { [&self.path, base].join(&b'/') }
    }

    /// What is there under a name; links are not followed.
    pub(super) fn look(&self, base: &[u8]) -> Result<Option<Stat>> {
        match writable(self, || statat(&self.fd, base, AtFlags::SYMLINK_NOFOLLOW)) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(cannot("look at", base, error)),
        }
    }

    /// Opens a directory in this one, to be listed or changed.
    pub(super) fn open(&self, base: &[u8]) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match openat(&self.fd, base, flags, Mode::empty()) {
            Err(Errno::ACCESS) => {}
            opened => return opened,
        }
        let closed = writable(self, || openat(&self.fd, base, DIRECTORY, Mode::empty()))?;
        writable(&closed, || openat(&closed, ".", flags, Mode::empty()))
    }
}

/// What may be made on the way to a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// Directories that are missing are made; they take the place of whiteouts, and show nothing of what those hid.
    Make,
    /// As [`Missing::Make`], unless what may be missing is hidden: then it is not there.
    MakeUnlessHidden,
    /// Those are made that the layers below have. What they have not either is not there.
    MakeAsBelow,
    /// What is not there is not there.
    Leave,
}

/// The tree below a root.
#[derive(Debug)]
pub(super) struct Tree {
    root: Rc<Directory>,
    open: HashMap<Vec<u8>, Rc<Directory>>,
    has_openat2: bool,
    /// The attribute that hides what layers below have in a directory, where there are whiteouts for overlayfs.
    opaque: Option<&'static str>,
    /// What the layers below show, where the root has one layer alone and they are known.
    beneath: Option<Box<dyn Beneath>>,
    /// Whether their links lead to directories that are open.
    has_followed: bool,
    /// The directories that were made on the way since they were taken.
    made: Vec<Made>,
    /// How many names may still be gone by: each look for a directory adds as many as its path may have, and links use them up.
    steps: usize,
}

/// A directory that was made on the way to another.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) inode: u64,
    /// Its path below the root, without links.
    pub(super) path: Vec<u8>,
    /// Whether it took the place of a whiteout, and so has nothing to do with what is below.
    pub(super) is_new: bool,
}

impl Tree {
    /// Opens the root, which must be a directory. Links on the way to it are the caller's.
    pub(super) fn open(root: &Path) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = openat(CWD, root, flags, Mode::empty()).and_then(Directory::root);
        let root = opened.map_err(|error| {
            Error::io(format!("cannot open the directory {}", root.display()), error.into())
        })?;
        Ok(Self::below(root))
    }

    /// Opens a directory as a root once more.
    pub(super) fn open_in(root: &impl AsFd) -> Result<Self> {
        let opened = openat(root, ".", DIRECTORY, Mode::empty()).and_then(Directory::root);
        opened.map(Self::below).map_err(|error| cannot("open the directory", b".", error))
    }

    fn below(root: Directory) -> Self {
        Self {
            root: Rc::new(root),
            open: HashMap::new(),
            has_openat2: true,
            opaque: None,
            beneath: None,
            has_followed: false,
            made: Vec::new(),
            steps: MAX_EXTRA_STEPS,
        }
    }

    /// Takes devices of characters 0:0 for whiteouts. A directory in the place of one gets the attribute.
    pub(super) fn with_opaque(mut self, attribute: Option<&'static str>) -> Self {
        self.opaque = attribute;
        self
    }

    /// Takes the layers below for there where the root has nothing: what is reached through their links is where those lead.
    pub(super) fn above(mut self, beneath: Box<dyn Beneath>) -> Self {
        self.beneath = Some(beneath);
        self
    }

    /// Whether it is known what the layers below have.
    pub(super) fn is_above(&self) -> bool {
        self.beneath.is_some()
    }

    /// Goes component by component, as on a kernel without `openat2`.
    #[cfg(test)]
    pub(super) fn without_openat2(mut self) -> Self {
        self.has_openat2 = false;
        self
    }

    /// The root.
    pub(super) fn root(&self) -> Rc<Directory> {
        Rc::clone(&self.root)
    }

    /// Finds a directory; `None` where there is none and none may be made.
    ///
    /// # Errors
    /// `FailedPrecondition` where something on the way is no directory; those of the file system.
    pub(super) fn directory(&mut self, path: &[&[u8]], missing: Missing) -> Result<Option<Rc<Directory>>> {
        if path.is_empty() {
            return Ok(Some(self.root()));
        }
        let key = path.join(&b'/');
        if let Some(found) = self.open.get(&key) {
            return Ok(Some(Rc::clone(found)));
        }
        let found = match self.by_kernel(&key) {
            Some(fd) => Some((fd, key.clone())),
            None => self.by_component(path, missing)?,
        };
        let Some((fd, path)) = found else { return Ok(None) };
        let directory = Rc::new(Directory::new(fd, path).map_err(|error| cannot("look at", &key, error))?);
        if self.open.len() >= MAX_OPEN {
            self.open.clear();
        }
        self.open.insert(key, Rc::clone(&directory));
        Ok(Some(directory))
    }

    /// Forgets where directories are to which links of the layers below lead, since something may have been made in the place of one.
    pub(super) fn forget_followed(&mut self) {
        if std::mem::take(&mut self.has_followed) {
            self.forget();
        }
    }

    /// Forgets where directories are, since something that may have been on the way to one is another thing now.
    pub(super) fn forget(&mut self) {
        self.open.clear();
    }

    /// The directories that were made on the way to others, since this was asked last.
    pub(super) fn take_made(&mut self) -> Vec<Made> {
        std::mem::take(&mut self.made)
    }

    /// Has the kernel find a directory, to which no links lead. What it does not find is looked for once more, which tells where links lead,
    /// or why it is not there.
    fn by_kernel(&mut self, path: &[u8]) -> Option<OwnedFd> {
        if !self.has_openat2 {
            return None;
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let within = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
        match openat2(&self.root.fd, path, flags, Mode::empty(), within) {
            Ok(fd) => Some(fd),
            Err(error) => {
                // An old kernel, or a filter of system calls.
                self.has_openat2 = !matches!(error, Errno::NOSYS | Errno::PERM | Errno::INVAL);
                None
            }
        }
    }

    /// Finds a directory, and its path without links.
    fn by_component(&mut self, path: &[&[u8]], missing: Missing) -> Result<Option<(OwnedFd, Vec<u8>)>> {
        let failed = |error| cannot("find the directory", &path.join(&b'/'), error);
        let mut left: VecDeque<Vec<u8>> = path.iter().map(|part| part.to_vec()).collect();
        let (mut links, mut was_whiteout) = (0, false);
        if let Some(beneath) = &mut self.beneath {
            beneath.begin();
        }
        // Whether the root, and each on the way, hides what is below, where that matters.
        let asks = self.beneath.is_some() || missing == Missing::MakeUnlessHidden;
        let mut hides = vec![asks && is_opaque(&self.root.fd)];
        // The way from the root, which is left out, and the names on it.
        let mut way: Vec<OwnedFd> = Vec::new();
        let mut names: Vec<Vec<u8>> = Vec::new();
        // A path has fewer names than bytes, and people's links are short.
        self.steps += 64 + path.iter().map(|part| part.len() + 1).sum::<usize>();
        while let Some(part) = left.pop_front() {
            self.steps = self.steps.checked_sub(1).ok_or_else(|| {
                Error::resource_exhausted("links lead a longer way round than anybody needs")
            })?;
            match &part[..] {
                b"" | b"." => continue,
                b".." => {
                    if way.pop().is_some() {
                        names.pop();
                        hides.pop();
                    }
                    continue;
                }
                _ => {}
            }
            if way.len() == MAX_DEPTH {
                return Err(Error::resource_exhausted(format!(
                    "more than {MAX_DEPTH} directories below each other: {}",
                    shown(&path.join(&b'/'))
                )));
            }
            let at = way.last().unwrap_or(&self.root.fd);
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = match writable(at, || openat(at, &part[..], flags, Mode::empty())) {
                Ok(fd) => fd,
                Err(Errno::NOENT) => {
                    let is_hidden = was_whiteout || hides.last() == Some(&true);
                    let seen = match &mut self.beneath {
                        Some(beneath) if !is_hidden => beneath.look(&names, &part).map_err(failed)?,
                        _ => Seen::Nothing,
                    };
                    match (seen, missing) {
                        (Seen::Link(target), _) => {
                            self.has_followed = true;
                            links += 1;
                            if links > MAX_LINKS {
                                return Err(failed(Errno::LOOP));
                            }
                            if follow(&target, &mut left) {
                                way.clear();
                                names.clear();
                                hides.truncate(1);
                            }
                            continue;
                        }
                        (_, Missing::Leave) | (Seen::Nothing | Seen::Other, Missing::MakeAsBelow) => {
                            return Ok(None);
                        }
                        (_, Missing::MakeUnlessHidden) if is_hidden => return Ok(None),
                        (Seen::Other, _) => return Err(is_no_directory(&part, path)),
                        (Seen::Nothing | Seen::Directory, _) => {}
                    }
                    let (fd, inode) = writable(at, || make(at, &part)).map_err(failed)?;
                    if was_whiteout && let Some(attribute) = self.opaque {
                        fsetxattr(&fd, attribute, b"y", XattrFlags::empty()).map_err(failed)?;
                    }
                    let path = names.iter().chain([&part]).map(Vec::as_slice).collect::<Vec<_>>().join(&b'/');
                    self.made.push(Made { inode, path, is_new: was_whiteout });
                    was_whiteout = false;
                    fd
                }
                Err(error) => return Err(failed(error)),
            };
            let stat = fstat(&fd).map_err(failed)?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {
                    let is_hidden = hides.last() == Some(&true);
                    hides.push(is_hidden || (asks && is_opaque(&fd)));
                    way.push(fd);
                    names.push(part);
                }
                FileType::Symlink => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(failed(Errno::LOOP));
                    }
                    let target = readlinkat(&fd, "", Vec::new()).map_err(failed)?.into_bytes();
                    if follow(&target, &mut left) {
                        way.clear();
                        names.clear();
                        hides.truncate(1);
                    }
                }
                _ if missing != Missing::Make => return Ok(None),
                FileType::CharacterDevice if stat.st_rdev == 0 && self.opaque.is_some() => {
                    unlinkat(at, &part[..], AtFlags::empty()).map_err(failed)?;
                    was_whiteout = true;
                    left.push_front(part);
                }
                _ => return Err(is_no_directory(&part, path)),
            }
        }
        let fd = match way.pop() {
            Some(fd) => fd,
            // A link to the root.
            None => openat(&self.root.fd, ".", DIRECTORY, Mode::empty()).map_err(failed)?,
        };
        Ok(Some((fd, names.join(&b'/'))))
    }

    /// Finds what a hard link leads to: the directory that it is in, and its name there.
    ///
    /// # Errors
    /// `FailedPrecondition` where it is not there; `InvalidArgument` where the name means the root or leads upwards.
    pub(super) fn link_target<'a>(&mut self, name: &'a [u8]) -> Result<(Rc<Directory>, &'a [u8])> {
        let mut parent = components(name)?;
        let base = parent
            .pop()
            .ok_or_else(|| Error::invalid_argument("a hard link to the root, which can have none"))?;
        let directory = self.directory(&parent, Missing::Leave)?;
        let directory = directory.ok_or_else(|| absent(name))?;
        Ok((directory, base))
    }
}

/// The error of a hard link to what is not there.
pub(super) fn absent(target: &[u8]) -> Error {
    Error::failed_precondition(format!("a hard link to {}, which is not there", shown(target)))
}

/// Puts where a link leads before what is left of a path. Says whether that begins at the root.
fn follow(target: &[u8], left: &mut VecDeque<Vec<u8>>) -> bool {
    for part in target.split(|byte| *byte == b'/').rev() {
        left.push_front(part.to_vec());
    }
    target.starts_with(b"/")
}

fn is_no_directory(part: &[u8], path: &[&[u8]]) -> Error {
    Error::failed_precondition(format!(
        "{} is no directory, and something is to be in it: {}",
        shown(part),
        shown(&path.join(&b'/'))
    ))
}

/// The times of something that is there.
pub(crate) fn times_of(stat: &Stat) -> Timestamps {
    let time =
        |seconds: i64, nanoseconds: u64| Timespec { tv_sec: seconds, tv_nsec: nanoseconds.cast_signed() };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

/// Makes a directory that no entry describes.
fn make(at: &OwnedFd, part: &[u8]) -> Result<(OwnedFd, u64), Errno> {
    match mkdirat(at, part, IMPLIED_MODE) {
        // Somebody else made it.
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = openat(at, part, flags, Mode::empty())?;
    // Whatever the process's mask is.
    fchmod(&fd, IMPLIED_MODE)?;
    let inode = fstat(&fd)?.st_ino;
    Ok((fd, inode))
}

/// Does something in a directory that its owner may not write to, or not even look into: a user who is not root may change that for a moment.
pub(crate) fn writable<T>(
    directory: &impl AsFd,
    mut change: impl FnMut() -> Result<T, Errno>,
) -> Result<T, Errno> {
    match change() {
        Err(Errno::ACCESS) => {}
        done => return done,
    }
    let mode = fstat(directory)?.st_mode;
    let itself = itself(directory);
    let set = |mode: u32| chmodat(CWD, &*itself, Mode::from_raw_mode(mode & 0o7777), AtFlags::empty());
    set(mode | 0o700)?;
    let done = change();
    set(mode)?;
    done
}

/// Marks a directory that shows nothing of the layers below.
const OPAQUE: [&str; 2] = ["trusted.overlay.opaque", "user.overlay.opaque"];

#[cfg(test)]
thread_local! {
    /// How many directories were asked.
    pub(crate) static LOOKS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// Whether a directory shows nothing of the layers below.
pub(crate) fn is_opaque(directory: &OwnedFd) -> bool {
    #[cfg(test)]
    LOOKS.set(LOOKS.get() + 1);
    let path = itself(directory);
    let mut value = [0; 2];
    OPAQUE.iter().any(|name| matches!(getxattr(&*path, *name, &mut value[..]), Ok(1)) && value[0] == b'y')
}

/// A path to what a descriptor is, even one that is open for its path only: it leads to the thing itself and no further.
pub(crate) fn itself(fd: &impl AsFd) -> String {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}

/// The error of a system call.
pub(crate) fn cannot(what: &str, name: &[u8], error: Errno) -> Error {
    Error::io(format!("cannot {what} {}", shown(name)), error.into())
}
