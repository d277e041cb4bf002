//! Room on the disk for what a file is going to hold, asked for before it is written: in pieces as large as this the file system places
//! it with less work than page by page.
//!
//! It is advice like [`writeback`](super::writeback): where there is none, writing says what is wrong.

use std::{fs::File, ops::Range};

/// How much is reserved at a time. What a sender announces is believed no further than this ahead of what has come.
const STRIDE: u64 = 64 * 1024 * 1024;

/// How far a file has room.
#[derive(Debug)]
pub(super) struct Reserve {
    total: u64,
    until: u64,
}

impl Reserve {
    /// For a file that is written from `offset` on, and is to have `total` bytes. Without a total nothing is reserved.
    pub(super) fn starting_at(offset: u64, total: Option<u64>) -> Self {
        Self { total: total.unwrap_or(0), until: offset }
    }

    /// The range that is due before writing up to `end`, if there is one. It does not reach beyond the total.
    pub(super) fn before(&mut self, end: u64) -> Option<Range<u64>> {
        if end <= self.until || self.total < STRIDE {
            return None;
        }
        let range = self.until..self.total.min(end.saturating_add(STRIDE));
        self.until = range.end.max(end);
        (!range.is_empty()).then_some(range)
    }

    /// Begins again, with a file that was emptied and has no room.
    pub(super) fn restart(&mut self) {
        self.until = 0;
    }

    /// Whether there may be room behind a file of `len` bytes.
    pub(super) fn is_beyond(&self, len: u64) -> bool {
        self.until > len
    }
}

/// Reserves a range, and leaves the file as long as it is.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn take(file: &File, range: &Range<u64>) {
    use rustix::fs::{FallocateFlags, fallocate};
    if let Err(error) = fallocate(file, FallocateFlags::KEEP_SIZE, range.start, range.end - range.start) {
        tracing::trace!(%error, "reserving room on the disk");
    }
}

/// Other systems have no such call, or one that changes the length.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) fn take(_: &File, _: &Range<u64>) {}

#[cfg(test)]
mod tests {
    use super::*;

    const BATCH: u64 = 1024 * 1024;

    #[test]
    fn room_is_taken_once_and_never_beyond_the_total_nor_far_ahead() {
        let total = 3 * STRIDE + 5;
        let mut reserve = Reserve::starting_at(7, Some(total));
        let mut taken = Vec::new();
        for end in (0..).map(|batch| 7 + (batch + 1) * BATCH).take_while(|end| *end <= total) {
            if let Some(range) = reserve.before(end) {
                assert!(range.end <= end + STRIDE, "{range:?} at {end}");
                taken.push(range);
            }
        }
        assert_eq!(taken.first().map(|range| range.start), Some(7));
        assert_eq!(taken.last().map(|range| range.end), Some(total));
        assert!(taken.windows(2).all(|pair| pair[0].end == pair[1].start), "{taken:?}");
        assert_eq!(taken.len(), 3);
        assert!(reserve.is_beyond(total - 1) && !reserve.is_beyond(total));
    }

    #[test]
    fn what_is_small_unknown_or_more_than_announced_takes_none() {
        assert_eq!(Reserve::starting_at(0, Some(STRIDE - 1)).before(BATCH), None);
        assert_eq!(Reserve::starting_at(0, None).before(10 * STRIDE), None);
        let mut reserve = Reserve::starting_at(0, Some(STRIDE));
        assert_eq!(reserve.before(BATCH), Some(0..STRIDE));
        assert_eq!(reserve.before(2 * STRIDE), None);
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    #[test]
    fn a_file_with_room_is_as_long_as_before() {
        use std::os::unix::fs::MetadataExt;

        let file = tempfile::tempfile().expect("a file");
        take(&file, &(0..STRIDE));
        let found = file.metadata().expect("its metadata");
        assert_eq!(found.len(), 0);
        // Where the file system takes the advice, setting the length gives the room back.
        if found.blocks() * 512 >= STRIDE {
            file.set_len(0).expect("the same length");
            assert_eq!(file.metadata().expect("its metadata").blocks(), 0);
        }
    }
}
