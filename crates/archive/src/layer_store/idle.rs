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

use super::inherit::{Found, Root, find};
use crate::apply::{cannot, is_opaque, itself, times_of};

/// The longest path that the kernel takes, with a zero byte behind it. What links led into may be deeper.
const MAX_PATH_LEN: usize = 4096;

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
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut fd = openat(layer.fd(), ".", flags, Mode::empty())?;
    // They were found to be directories, and nobody else is at work here.
    let at_once = if path.len() < MAX_PATH_LEN { parts.len().max(1) } else { MAX_PATH_LEN / 256 };
    for some in parts.chunks(at_once) {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        fd = openat(&fd, some.join(&b'/'), flags, Mode::empty())?;
    }
    let is_cut_off = is_cut_off || is_opaque(&fd);
    let (mut inner, mut devices) = (Vec::new(), Vec::new());
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
    if is_candidate && (is_cut_off || !matches!(find(below, &parts)?, Found::Directory)) {
        remove_whiteouts(&fd, &devices)?;
    }
    Ok((inner, is_cut_off))
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

    /// A path that is longer than the kernel takes: names of 255 bytes and short ones.
    #[test]
    fn directories_are_reached_however_long_their_path_is() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut at = openat(CWD, dir.path(), OFlags::PATH, Mode::empty()).expect("opens");
        let long = "l".repeat(255);
        for part in (0..40).map(|number| if number % 7 == 3 { "s" } else { &long }) {
            rustix::fs::mkdirat(&at, part, Mode::RWXU).expect("makes");
            at = openat(&at, part, OFlags::PATH, Mode::empty()).expect("opens");
        }
        let root = Root::open(dir.path()).expect("opens");
        drop_idle_whiteouts(&root, &[]).expect("goes through it");
    }
}
