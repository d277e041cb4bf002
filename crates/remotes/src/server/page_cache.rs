//! What of a file is in memory, so that sending it holds up nobody, and getting it there.
//!
//! Only Linux tells ([`preadv2(2)`](https://man7.org/linux/man-pages/man2/preadv2.2.html), `RWF_NOWAIT`), and not of every file system;
//! elsewhere nothing is known to be there.

use std::{fs::File, io, os::unix::fs::FileExt};

use bytes::Bytes;

/// How far the samples lie apart, in bytes: what the kernel reads ahead by default.
const STRIDE: usize = 128 * 1024;

/// Whether a part of a file seems to be in memory, by samples. What has been evicted in between costs its reader a short wait.
pub(super) fn is_resident(file: &File, offset: u64, len: usize) -> bool {
    let last = len.saturating_sub(1);
    let mut samples = (0..last).step_by(STRIDE).chain([last]);
    samples.all(|at| read_resident(file, offset + at as u64, 1).is_some())
}

/// Reads a part of a file if all of it is in memory.
#[cfg(target_os = "linux")]
pub(super) fn read_resident(file: &File, offset: u64, len: usize) -> Option<Bytes> {
    use rustix::io::{ReadWriteFlags, preadv2};

    let mut buffer = vec![0; len];
    let mut slices = [io::IoSliceMut::new(&mut buffer)];
    let read = preadv2(file, &mut slices, offset, ReadWriteFlags::NOWAIT).ok()?;
    (read == len).then(|| buffer.into())
}

#[cfg(not(target_os = "linux"))]
pub(super) fn read_resident(_: &File, _: u64, _: usize) -> Option<Bytes> {
    None
}

/// Gets a part of a file into memory, and has the system begin with as much behind it. What is past the end of the file is left out. Blocks.
///
/// # Errors
/// Those of reading.
pub(super) fn fetch(file: &File, offset: u64, len: usize) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        let ahead = std::num::NonZeroU64::new(2 * len as u64);
        // Without it everything takes longer, and that is all.
        let _ = rustix::fs::fadvise(file, offset, ahead, rustix::fs::Advice::WillNeed);
    }
    let mut buffer = vec![0; STRIDE.min(len)];
    let (mut at, end) = (offset, offset + len as u64);
    while at < end {
        match file.read_at(&mut buffer, at) {
            Ok(0) => break,
            Ok(read) => at += read as u64,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::{env, io::Write};

    use rustix::fs::{Advice, fadvise, fstatfs};

    use super::*;

    /// The magic number of tmpfs, whose files are in memory and nowhere else.
    const TMPFS: i128 = 0x0102_1994;

    #[test]
    fn what_was_evicted_is_seen_to_be_and_fetched() {
        const LEN: usize = 3 * STRIDE + 5;
        // Beside the program, where there is more often a disk than where temporary files are.
        let beside = env::current_exe().expect("a program").parent().expect("a directory").to_owned();
        let mut file = tempfile::tempfile_in(beside).expect("a file");
        file.write_all(&vec![7; LEN]).expect("written");
        assert!(is_resident(&file, 0, LEN) && read_resident(&file, 5, LEN - 5).is_some());
        file.sync_all().expect("synced");
        fadvise(&file, 0, None, Advice::DontNeed).expect("advised");
        let has_disk = i128::from(fstatfs(&file).expect("told").f_type) != TMPFS;
        assert_eq!(read_resident(&file, 0, 1).is_none(), has_disk);
        assert_eq!(is_resident(&file, 0, LEN), !has_disk);
        // Beyond the end too, as where the last part of a blob is looked after.
        fetch(&file, 0, LEN + STRIDE).expect("fetched");
        assert!(is_resident(&file, 0, LEN));
        assert_eq!(read_resident(&file, 5, LEN - 5).expect("in memory"), vec![7; LEN - 5]);
        assert!(read_resident(&file, 5, LEN).is_none(), "there is less");
    }
}
