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
pub(super) struct Limited {
    inner: LayerStream,
    consumed: Consumed,
    produced: u64,
    digest: Digest,
    options: LayerOptions,
}

impl Limited {
    pub(super) fn new(
        inner: LayerStream,
        consumed: Consumed,
        layer: &Descriptor,
        options: LayerOptions,
    ) -> Self {
        Self { inner, consumed, produced: 0, digest: layer.digest.clone(), options }
    }

    fn check(&self) -> io::Result<()> {
        let LayerOptions { max_len, max_ratio, .. } = self.options;
        if self.produced > max_len {
            return Err(io::Error::other(Error::resource_exhausted(format!(
                "layer {} grows to more than {max_len} bytes, the most that a layer may have here",
                self.digest
            ))));
        }
        let consumed = self.consumed.load(Ordering::Relaxed);
        if self.produced <= consumed.saturating_mul(max_ratio).max(LayerOptions::FREE_LEN) {
            return Ok(());
        }
        Err(io::Error::other(Error::resource_exhausted(format!(
            "layer {} grows to more than {max_ratio} times its size, {} bytes out of {consumed}, as a decompression bomb does",
            self.digest, self.produced
        ))))
    }
}

impl Read for Limited {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.produced = self.produced.saturating_add(count as u64);
        self.check()?;
        Ok(count)
    }
}

/// What comes out of the last wrapping, whose end is that of what is stored.
pub(super) struct Unwrapped {
    inner: Limited,
    stored: u64,
}

impl Unwrapped {
    pub(super) fn new(inner: Limited, layer: &Descriptor) -> Self {
        Self { inner, stored: layer.size }
    }

    fn check_end(&self) -> io::Result<()> {
        let consumed = self.inner.consumed.load(Ordering::Relaxed);
        if consumed == self.stored {
            return Ok(());
        }
        Err(io::Error::other(Error::failed_precondition(format!(
            "layer {} ends after {consumed} of its bytes and is described with {}: it is cut short, or something stands behind it",
            self.inner.digest, self.stored
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
        }
        Ok(count)
    }
}
