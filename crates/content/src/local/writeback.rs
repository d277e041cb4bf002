//! Asking the system to write a file's pages to the disk while more of it is coming.
//!
//! It is advice: what it does or fails to do changes nothing but how long the sync at the end takes. What is durable is the sync's matter.

use std::{fs::File, ops::Range};

/// The disk is asked for after each so many bytes.
const STRIDE: u64 = 8 * 1024 * 1024;

/// How far a file is written, and up to where the disk was asked for.
#[derive(Debug)]
pub(super) struct Writeback {
    written: u64,
    begun: u64,
}

impl Writeback {
    /// Of a file that is written from `offset` on.
    pub(super) fn starting_at(offset: u64) -> Self {
        Self { written: offset, begun: offset }
    }

    /// Up to where the file is written.
    pub(super) fn end(&self) -> u64 {
        self.written
    }

    /// Counts what was written; gives the range that is due, if there is one.
    pub(super) fn wrote(&mut self, len: u64) -> Option<Range<u64>> {
        self.written += len;
        (self.written - self.begun >= STRIDE).then(|| {
            let range = self.begun..self.written;
            self.begun = self.written;
            range
        })
    }
}

/// Begins to write a range to the disk, without waiting for the end of it.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn begin(file: &File, range: Range<u64>) {
    use std::num::NonZeroU64;

    use rustix::fs::{Advice, fadvise};
    // Linux begins to write what is to be dropped and is dirty (mm/fadvise.c), which is what this is for. Pages that are being written
    // stay in the cache; whoever unpacks the layer finds them there.
    if let Err(error) = fadvise(file, range.start, NonZeroU64::new(range.end - range.start), Advice::DontNeed)
    {
        tracing::trace!(%error, "writing back early");
    }
}

/// Other systems are not known to take such advice.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) fn begin(_: &File, _: Range<u64>) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_byte_is_asked_for_once_in_strides() {
        let mut writeback = Writeback::starting_at(100);
        let due: Vec<_> = (0..20).filter_map(|_| writeback.wrote(1024 * 1024)).collect();
        assert_eq!(due, [100..100 + STRIDE, 100 + STRIDE..100 + 2 * STRIDE]);
        assert_eq!(writeback.wrote(STRIDE), Some(100 + 2 * STRIDE..100 + 20 * 1024 * 1024 + STRIDE));
        assert_eq!(writeback.wrote(1), None);
    }
}
