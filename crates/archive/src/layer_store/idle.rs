//! Whiteouts that hide nothing, taken out of a layer.
//!
//! Overlayfs hides whiteouts only where it merges directories. In a directory that one layer alone has, they are listed, cannot be looked
//! at, and keep the directory from being removed. A layer's directory belongs to one stack of layers, so that what hides nothing there
//! never will.

use rustix::{
    fd::OwnedFd,
    fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, chmodat, fstat, openat, statat, unlinkat, utimensat},
    io::Errno,
};
use wharf_content::Result;

use super::inherit::{Found, Own, Root, find, is_opaque, own};
use crate::apply::{cannot, itself, times_of};

/// Removes the whiteouts in directories of which the layers below show nothing; `below` has the lowest first. The root is left as it is:
/// roots are always merged.
///
/// # Errors
/// Those of the file system.
pub(super) fn drop_idle_whiteouts(layer: &Root, below: &[Root]) -> Result<()> {
    let mut left: Vec<Vec<u8>> = vec![Vec::new()];
    while let Some(path) = left.pop() {
        let inner =
            directory(layer, below, &path).map_err(|error| cannot("take whiteouts out of", &path, error))?;
        let below = inner.into_iter().map(|base| match path.len() {
            0 => base,
            _ => [&path[..], b"/", &base].concat(),
        });
        left.extend(below);
    }
    Ok(())
}

/// Sees to one directory, and gives the names of those in it.
fn directory(layer: &Root, below: &[Root], path: &[u8]) -> Result<Vec<Vec<u8>>, Errno> {
    let parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()).collect();
    let Own::Directory { fd, is_cut_off } = own(layer, &parts)? else { return Ok(Vec::new()) };
    let (mut inner, mut devices) = (Vec::new(), Vec::new());
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    for entry in Dir::read_from(openat(&fd, ".", flags, Mode::empty())?)? {
        let entry = entry?;
        let base = entry.file_name().to_bytes();
        if matches!(base, b"." | b"..") {
            continue;
        }
        let kind = match entry.file_type() {
            FileType::Unknown => {
                FileType::from_raw_mode(statat(&fd, base, AtFlags::SYMLINK_NOFOLLOW)?.st_mode)
            }
            kind => kind,
        };
        match kind {
            FileType::Directory => inner.push(base.to_vec()),
            FileType::CharacterDevice => devices.push(base.to_vec()),
            _ => {}
        }
    }
    let is_candidate = !parts.is_empty() && !devices.is_empty();
    if is_candidate && (is_cut_off || is_opaque(&fd) || !matches!(find(below, &parts)?, Found::Directory(_)))
    {
        remove_whiteouts(&fd, &devices)?;
    }
    Ok(inner)
}

/// Removes those devices that are whiteouts. The directory keeps its time.
fn remove_whiteouts(directory: &OwnedFd, devices: &[Vec<u8>]) -> Result<(), Errno> {
    let stat = fstat(directory)?;
    let path = itself(directory);
    let mut is_opened = false;
    for base in devices {
        if statat(directory, base, AtFlags::SYMLINK_NOFOLLOW)?.st_rdev != 0 {
            continue;
        }
        match unlinkat(directory, base, AtFlags::empty()) {
            // A directory that its owner may not write to, who is not root.
            Err(Errno::ACCESS) => {
                chmodat(CWD, &*path, Mode::RWXU, AtFlags::empty())?;
                is_opened = true;
                unlinkat(directory, base, AtFlags::empty())?;
            }
            removed => removed?,
        }
    }
    if is_opened {
        chmodat(CWD, &*path, Mode::from_raw_mode(stat.st_mode & 0o7777), AtFlags::empty())?;
    }
    utimensat(CWD, &*path, &times_of(&stat), AtFlags::empty())
}
