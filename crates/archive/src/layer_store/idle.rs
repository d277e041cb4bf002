//! Whiteouts that hide nothing, taken out of a layer.
//!
//! Overlayfs hides whiteouts only where it merges directories. In a directory that one layer alone has, they are listed, cannot be looked
//! at, and keep the directory from being removed. A layer's directory belongs to one stack of layers, so that what hides nothing there
//! never will.

use rustix::{
    fd::OwnedFd,
    fs::{AtFlags, CWD, Dir, FileType, fstat, statat, unlinkat, utimensat},
    io::{Errno, fcntl_dupfd_cloexec},
};
use wharf_content::Result;

use super::{
    inherit::{Found, Root, find},
    reach::reach,
};
use crate::apply::{cannot, is_opaque, itself, times_of, writable};

/// Removes the whiteouts in directories of which the layers below show nothing; `below` has the lowest first. The root is left as it is:
/// roots are always merged.
///
/// # Errors
/// Those of the file system.
pub(super) fn drop_idle_whiteouts(layer: &Root, below: &[Root]) -> Result<()> {
    // With whether something above hides all that is below.
    let mut left = vec![(Vec::new(), false)];
    while let Some((path, is_cut_off)) = left.pop() {
        let (inner, is_cut_off) = directory(layer, below, &path, is_cut_off)
            .map_err(|error| cannot("take whiteouts out of", &path, error))?;
        let below = inner.into_iter().map(|base| match path.len() {
            0 => base,
            _ => [&path[..], b"/", &base].concat(),
        });
        left.extend(below.map(|path| (path, is_cut_off)));
    }
    Ok(())
}

/// Sees to one directory, and gives the names of those in it, and whether they show nothing of what is below.
fn directory(
    layer: &Root,
    below: &[Root],
    path: &[u8],
    is_cut_off: bool,
) -> Result<(Vec<Vec<u8>>, bool), Errno> {
    let parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()).collect();
    let fd = reach(layer.fd(), &parts)?;
    let is_cut_off = is_cut_off || is_opaque(&fd);
    let (mut inner, mut devices) = (Vec::new(), Vec::new());
    for entry in Dir::new(fcntl_dupfd_cloexec(&fd, 0)?)? {
        let entry = entry?;
        let base = entry.file_name().to_bytes();
        if matches!(base, b"." | b"..") {
            continue;
        }
        let kind = match entry.file_type() {
            FileType::Unknown => {
                let stat = writable(&fd, || statat(&fd, base, AtFlags::SYMLINK_NOFOLLOW))?;
                FileType::from_raw_mode(stat.st_mode)
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
    if is_candidate && (is_cut_off || !matches!(find(below, &parts)?, Found::Directory)) {
        remove_whiteouts(&fd, &devices)?;
    }
    Ok((inner, is_cut_off))
}

/// Removes those devices that are whiteouts. The directory keeps its time.
fn remove_whiteouts(directory: &OwnedFd, devices: &[Vec<u8>]) -> Result<(), Errno> {
    let stat = fstat(directory)?;
    for base in devices {
        writable(directory, || match statat(directory, base, AtFlags::SYMLINK_NOFOLLOW)?.st_rdev {
            0 => unlinkat(directory, base, AtFlags::empty()),
            _ => Ok(()),
        })?;
    }
    utimensat(CWD, &*itself(directory), &times_of(&stat), AtFlags::empty())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::apply::LOOKS;

    #[test]
    fn the_way_down_is_not_gone_for_each_directory() {
        let dir = tempfile::tempdir().expect("a directory");
        let deep = dir.path().join(["d"; 300].join("/"));
        for at in 0..100 {
            fs::create_dir_all(deep.join(at.to_string())).expect("makes");
        }
        let root = Root::open(dir.path()).expect("opens");
        LOOKS.set(0);
        drop_idle_whiteouts(&root, &[]).expect("goes through it");
        assert_eq!(LOOKS.get(), 401, "each directory and the root once");
    }
}
