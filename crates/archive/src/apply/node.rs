//! Making one file, directory, link or device, and giving it what its entry says: owner, extended attributes, mode and times, in this
//! order, since a new owner takes rights away (containerd: `pkg/archive/tar.go`).
//!
//! Everything is done by descriptor or within a directory's descriptor. Nothing here follows a link.

use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{
        AtFlags, CWD, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags, chmodat,
        chownat, fchmod, fchown, fsetxattr, fstat, futimens, makedev, mknodat, openat, setxattr, statat,
        utimensat,
    },
    io::Errno,
};
use wharf_content::{Error, Result};

use super::{
    Ownership,
    left_out::{Omission, Omissions},
    name::shown,
    tree::{Directory, cannot, itself, writable},
};
use crate::untar::{Attributes, Time, Xattr};

/// Begins the names of extended attributes that overlayfs reads.
pub(crate) const OVERLAY: [&[u8]; 2] = [b"trusted.overlay.", b"user.overlay."];

/// What a node gets, checked.
#[derive(Clone, Debug)]
pub(super) struct Metadata {
    pub(super) mode: Mode,
    owner: Option<(Uid, Gid)>,
    times: Timestamps,
    xattrs: Vec<Xattr>,
}

impl Metadata {
    /// Reads what an entry says.
    ///
    /// # Errors
    /// `InvalidArgument` for what cannot be read or is out of range.
    pub(super) fn of(
        name: &[u8],
        attributes: &Attributes,
        ownership: Ownership,
        omissions: &mut Omissions,
    ) -> Result<Self> {
        let bad = |what: &str| {
            Error::invalid_argument(format!(
                "{} has a {what} that cannot be read or is out of range",
                shown(name)
            ))
        };
        let mode = attributes.mode.ok_or_else(|| bad("mode"))?;
        // Some programs put the type of the file into the higher bits.
        let mode = Mode::from_raw_mode((mode & 0o7777) as u32);
        // The highest number means that nothing changes.
        let id = |id: Option<u64>| id.and_then(|id| u32::try_from(id).ok()).filter(|id| *id != u32::MAX);
        let uid = id(attributes.uid).ok_or_else(|| bad("user"))?;
        let gid = id(attributes.gid).ok_or_else(|| bad("group"))?;
        let owner = match ownership {
            Ownership::Image => Some((Uid::from_raw(uid), Gid::from_raw(gid))),
            Ownership::User => {
                if (uid, gid) != (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()) {
                    omissions.add(Omission::Owner, name);
                }
                None
            }
        };
        let mtime = attributes.mtime.ok_or_else(|| bad("time"))?;
        let mut xattrs = Vec::new();
        for (key, value) in &attributes.xattrs {
            if OVERLAY.iter().any(|prefix| key.starts_with(prefix)) {
                omissions.add(Omission::OverlayAttribute, name);
            } else {
                xattrs.push((key.clone(), value.clone()));
            }
        }
        Ok(Self { mode, owner, times: timestamps(mtime), xattrs })
    }

    /// Gives owner and attributes to what is open, as far as it does not have them: a change costs the file system more than a look.
    /// Says whether the mode may be another one than that of `stat` now.
    pub(super) fn set(
        &self,
        fd: &OwnedFd,
        stat: &Stat,
        name: &[u8],
        omissions: &mut Omissions,
    ) -> Result<bool> {
        let new_owner = self.new_owner(stat);
        if let Some((uid, gid)) = new_owner {
            fchown(fd, Some(uid), Some(gid)).map_err(|error| cannot("set the owner of", name, error))?;
        }
        for (key, value) in &self.xattrs {
            judge(fsetxattr(fd, &key[..], value, XattrFlags::empty()), name, omissions)?;
        }
        // A new owner takes rights away, and access lists are part of the mode.
        Ok(new_owner.is_some() || !self.xattrs.is_empty())
    }

    /// Gives all of it to a file that is new and has its content.
    pub(super) fn set_file(&self, fd: &OwnedFd, name: &[u8], omissions: &mut Omissions) -> Result<()> {
        let stat = fstat(fd).map_err(|error| cannot("look at", name, error))?;
        let may_differ = self.set(fd, &stat, name, omissions)?;
        if may_differ || stat.st_mode & 0o7777 != self.mode.as_raw_mode() {
            fchmod(fd, self.mode).map_err(|error| cannot("set the mode of", name, error))?;
        }
        futimens(fd, &self.times).map_err(|error| cannot("set the times of", name, error))
    }

    /// The owner, where it is another one.
    fn new_owner(&self, stat: &Stat) -> Option<(Uid, Gid)> {
        self.owner.filter(|(uid, gid)| (uid.as_raw(), gid.as_raw()) != (stat.st_uid, stat.st_gid))
    }

    /// What [`Metadata::finish`] needs: attributes are set by then, and those of all directories together may be more than there is memory.
    pub(super) fn without_xattrs(mut self) -> Self {
        self.xattrs = Vec::new();
        self
    }

    /// Gives mode and times to what is open.
    pub(super) fn finish(&self, fd: &OwnedFd, name: &[u8]) -> Result<()> {
        fchmod(fd, self.mode).map_err(|error| cannot("set the mode of", name, error))?;
        futimens(fd, &self.times).map_err(|error| cannot("set the times of", name, error))
    }

    /// Gives it to a link that is new.
    pub(super) fn set_link(
        &self,
        directory: &Directory,
        base: &[u8],
        name: &[u8],
        omissions: &mut Omissions,
    ) -> Result<()> {
        if !self.xattrs.is_empty() {
            return self.set_unopened(directory, base, true, name, omissions);
        }
        if self.owner.is_some() {
            let stat = statat(directory, base, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|error| cannot("look at", name, error))?;
            if let Some((uid, gid)) = self.new_owner(&stat) {
                chownat(directory, base, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(|error| cannot("set the owner of", name, error))?;
            }
        }
        writable(directory, || utimensat(directory, base, &self.times, AtFlags::SYMLINK_NOFOLLOW))
            .map_err(|error| cannot("set the times of", name, error))
    }

    /// Gives it to what cannot be opened without doing something: links, devices and pipes.
    pub(super) fn set_unopened(
        &self,
        directory: &Directory,
        base: &[u8],
        is_link: bool,
        name: &[u8],
        omissions: &mut Omissions,
    ) -> Result<()> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = writable(directory, || openat(directory, base, flags, Mode::empty()))
            .map_err(|error| cannot("open", name, error))?;
        if let Some((uid, gid)) = self.owner {
            chownat(&fd, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)
                .map_err(|error| cannot("set the owner of", name, error))?;
        }
        let itself = itself(&fd);
        for (key, value) in &self.xattrs {
            judge(setxattr(&*itself, &key[..], value, XattrFlags::empty()), name, omissions)?;
        }
        if !is_link {
            chmodat(CWD, &*itself, self.mode, AtFlags::empty())
                .map_err(|error| cannot("set the mode of", name, error))?;
        }
        writable(directory, || utimensat(directory, base, &self.times, AtFlags::SYMLINK_NOFOLLOW))
            .map_err(|error| cannot("set the times of", name, error))
    }
}

fn timestamps(time: Time) -> Timestamps {
    let time = Timespec { tv_sec: time.seconds, tv_nsec: time.nanoseconds.into() };
    Timestamps { last_access: time, last_modification: time }
}

/// An extended attribute that cannot be set is left out where that is the file system's or the user's rights' doing.
fn judge(set: Result<(), Errno>, name: &[u8], omissions: &mut Omissions) -> Result<()> {
    match set {
        Ok(()) => Ok(()),
        Err(Errno::NOTSUP | Errno::PERM) => {
            omissions.add(Omission::Attribute, name);
            Ok(())
        }
        Err(error) => Err(cannot("set an extended attribute of", name, error)),
    }
}

/// Makes a file that was not there, open for writing. Rights that another owner would lose again are for later.
pub(super) fn file(directory: &impl AsFd, base: &[u8], mode: Mode) -> Result<OwnedFd, Errno> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(directory, base, flags, mode & Mode::from_raw_mode(0o777))
}

/// Makes a device or a pipe; `None` for a device that is left out.
pub(super) fn special(
    directory: &Directory,
    base: &[u8],
    what: FileType,
    attributes: &Attributes,
    ownership: Ownership,
) -> Result<Option<Omission>> {
    let mut device = 0;
    if what != FileType::Fifo {
        let in_range = |number: Option<u64>, most: u32| {
            number.and_then(|number| u32::try_from(number).ok()).filter(|number| *number <= most)
        };
        // As many bits as Linux has for each.
        let (major, minor) = (in_range(attributes.device.0, 0xfff), in_range(attributes.device.1, 0xf_ffff));
        let (Some(major), Some(minor)) = (major, minor) else {
            return Err(Error::invalid_argument(format!(
                "{} is a device whose numbers cannot be read or are out of range",
                shown(base)
            )));
        };
        if what == FileType::CharacterDevice && (major, minor) == (0, 0) {
            return Ok(Some(Omission::WhiteoutDevice));
        }
        if ownership == Ownership::User {
            return Ok(Some(Omission::Device));
        }
        device = makedev(major, minor);
    }
    match writable(directory, || mknodat(directory, base, what, Mode::from_raw_mode(0o600), device)) {
        Ok(()) => Ok(None),
        // Root of a user namespace, or without the capability.
        Err(Errno::PERM) if what != FileType::Fifo => Ok(Some(Omission::Device)),
        Err(error) => Err(cannot("make", base, error)),
    }
}

/// Makes what overlayfs takes for a hidden name.
pub(super) fn whiteout(directory: &impl AsFd, base: &[u8]) -> Result<()> {
    mknodat(directory, base, FileType::CharacterDevice, Mode::empty(), makedev(0, 0))
        .map_err(|error| cannot("make a whiteout for", base, error))
}
