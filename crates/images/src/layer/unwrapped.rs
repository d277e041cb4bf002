//! The two ends of a chain of decoders: what goes in is counted, what comes out is limited.

use std::{
    io::{self, Read},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use wharf_content::{Descriptor, Digest, Error};

use super::{LayerOptions, LayerStream};

/// How many bytes went in.
pub(super) type Consumed = Arc<AtomicU64>;

/// Counts what is read.
pub(super) struct Counted<R> {
    inner: R,
    consumed: Consumed,
}

impl<R> Counted<R> {
    pub(super) fn new(inner: R) -> (Self, Consumed) {
        let consumed = Consumed::default();
        (Self { inner, consumed: Arc::clone(&consumed) }, consumed)
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.consumed.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

/// What comes out, as long as it keeps to the limits.
pub(super) struct Unwrapped {
    inner: LayerStream,
    consumed: Consumed,
    produced: u64,
    stored: u64,
    digest: Digest,
    options: LayerOptions,
}

impl Unwrapped {
    pub(super) fn new(
        inner: LayerStream,
        consumed: Consumed,
        layer: &Descriptor,
        options: LayerOptions,
    ) -> Self {
        Self { inner, consumed, produced: 0, stored: layer.size, digest: layer.digest.clone(), options }
    }

    fn check_end(&self) -> io::Result<()> {
        let consumed = self.consumed.load(Ordering::Relaxed);
        if consumed == self.stored {
            return Ok(());
        }
        Err(io::Error::other(Error::failed_precondition(format!(
            "layer {} ends after {consumed} of its bytes and is described with {}: it is cut short, or something stands behind it",
            self.digest, self.stored
        ))))
    }

    fn check_limits(&self) -> io::Result<()> {
        let consumed = self.consumed.load(Ordering::Relaxed);
        let by_ratio = consumed.saturating_mul(self.options.max_ratio).max(LayerOptions::FREE_LEN);
        let limit = by_ratio.min(self.options.max_len);
        if self.produced <= limit {
            return Ok(());
        }
        Err(io::Error::other(Error::resource_exhausted(format!(
            "layer {} grows to more than {limit} bytes out of {consumed}, as a decompression bomb does; \
             raise the limits for layers if it is meant to",
            self.digest
        ))))
    }
}

impl Read for Unwrapped {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let count = self.inner.read(buffer)?;
        if count == 0 {
            self.check_end()?;
            return Ok(0);
        }
        self.produced = self.produced.saturating_add(count as u64);
        self.check_limits()?;
        Ok(count)
    }
}
