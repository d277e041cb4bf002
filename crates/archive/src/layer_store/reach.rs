//! Opening directories of a layer however deep they are and whatever their owner may do with them.

use rustix::{
    fd::OwnedFd,
    fs::{Mode, OFlags, openat},
    io::Errno,
};

use crate::apply::writable;

/// The longest path that the kernel takes, with a zero byte behind it. What links led into may be deeper.
const MAX_PATH_LEN: usize = 4096;
/// The longest name.
const MAX_NAME_LEN: usize = 255;

const CLOSED: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const LIST: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Opens a directory below a root, to be listed. The names on the way were found to be directories, and nobody else is at work there.
pub(super) fn reach(root: &OwnedFd, parts: &[&[u8]]) -> Result<OwnedFd, Errno> {
    let len: usize = parts.iter().map(|part| part.len() + 1).sum();
    let at_once = if len < MAX_PATH_LEN { parts.len() } else { MAX_PATH_LEN / (MAX_NAME_LEN + 1) - 1 };
    let mut fd = openat(root, ".", CLOSED, Mode::empty())?;
    for some in parts.chunks(at_once.max(1)) {
        fd = match openat(&fd, some.join(&b'/'), CLOSED, Mode::empty()) {
            // One that its owner, who is not root, may not look into.
            Err(Errno::ACCESS) => some
                .iter()
                .try_fold(fd, |at, part| writable(&at, || openat(&at, *part, CLOSED, Mode::empty())))?,
            opened => opened?,
        };
    }
    writable(&fd, || openat(&fd, ".", LIST, Mode::empty()))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use rustix::fs::{CWD, fstat, mkdirat};

    use super::*;

    /// A path that is longer than the kernel takes: names of 255 bytes and short ones.
    #[test]
    fn directories_are_reached_however_long_their_path_is() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = openat(CWD, dir.path(), OFlags::PATH, Mode::empty()).expect("opens");
        let mut at = openat(&root, ".", OFlags::PATH, Mode::empty()).expect("opens");
        let long = "l".repeat(MAX_NAME_LEN);
        let parts: Vec<&[u8]> =
            (0..40).map(|number| if number % 7 == 3 { &b"s"[..] } else { long.as_bytes() }).collect();
        for (depth, part) in (1..).zip(&parts) {
            mkdirat(&at, *part, Mode::RWXU).expect("makes");
            at = openat(&at, *part, OFlags::PATH, Mode::empty()).expect("opens");
            let found = reach(&root, &parts[..depth]).expect("reaches it");
            assert_eq!(fstat(&found).expect("looks").st_ino, fstat(&at).expect("looks").st_ino);
        }
    }

    /// Says most for who is not root.
    #[test]
    fn closed_directories_are_opened_and_closed_again() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(dir.path().join("a/b/c")).expect("makes");
        let closed = [("a/b/c", 0o000), ("a/b", 0o111), ("a", 0o000)];
        for (path, mode) in closed {
            fs::set_permissions(dir.path().join(path), fs::Permissions::from_mode(mode)).expect("chmod");
        }
        let root = openat(CWD, dir.path(), OFlags::PATH, Mode::empty()).expect("opens");
        for parts in [&[&b"a"[..]][..], &[b"a", b"b"], &[b"a", b"b", b"c"]] {
            reach(&root, parts).expect("reaches it");
        }
        for (path, mode) in closed.into_iter().rev() {
            let path = dir.path().join(path);
            assert_eq!(fs::metadata(&path).expect("stat").permissions().mode() & 0o7777, mode);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("chmod");
        }
    }
}
