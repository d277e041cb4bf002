//! How much memory may go into knowing an image's files.

use wharf_content::{Error, Result};

/// What is left of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    max_len: u64,
    left: u64,
}

impl Budget {
    pub(super) fn new(max_len: u64) -> Self {
        Self { max_len, left: max_len }
    }

    /// Takes so many bytes.
    ///
    /// # Errors
    /// `ResourceExhausted` when there are not so many.
    pub(super) fn take(&mut self, len: usize) -> Result<()> {
        match self.left.checked_sub(len as u64) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => Err(Error::resource_exhausted(format!(
                "the image has so many files that knowing them takes more than {} MiB of memory",
                self.max_len >> 20
            ))),
        }
    }
}
