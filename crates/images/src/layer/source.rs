//! A blob as a synchronous stream.

use std::{
    fmt,
    io::{self, Read},
    os::unix::fs::FileExt,
    sync::Arc,
};

use bytes::{Buf, Bytes};
use tokio::runtime::Handle;
use wharf_content::{BlobReader, Error, reading::CHUNK_LEN};

/// Reads a blob of a store from its start, on a blocking thread. Nothing is verified.
pub struct BlobStream {
    reader: Arc<dyn BlobReader>,
    runtime: Handle,
    offset: u64,
    chunk: Bytes,
}

impl BlobStream {
    /// Reads by way of `runtime`. Reading panics on one of its asynchronous threads.
    pub fn new(reader: Arc<dyn BlobReader>, runtime: Handle) -> Self {
        Self { reader, runtime, offset: 0, chunk: Bytes::new() }
    }

    /// Another stream of the same blob, from its start.
    #[must_use]
    pub fn from_start(&self) -> Self {
        Self::new(Arc::clone(&self.reader), self.runtime.clone())
    }

    /// Whether the blob is in a file of this machine, so that it can be read again at no cost but that of the disk.
    pub fn is_of_file(&self) -> bool {
        self.reader.file().is_some()
    }

    fn cut_short(&self) -> io::Error {
        io::Error::other(Error::data_loss(format!(
            "a blob ended at byte {} and not at {}: it was cut short",
            self.offset,
            self.reader.size()
        )))
    }
}

impl Read for BlobStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.reader.size().saturating_sub(self.offset);
        if let Some(file) = self.reader.file() {
            // This thread may wait for the disk itself.
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            let count = file.read_at(&mut buffer[..most], self.offset)?;
            if count == 0 && most > 0 {
                return Err(self.cut_short());
            }
            self.offset += count as u64;
            return Ok(count);
        }
        if self.chunk.is_empty() && left > 0 {
            let read = self.runtime.block_on(self.reader.read_at(self.offset, CHUNK_LEN));
            self.chunk = read.map_err(io::Error::other)?;
            if self.chunk.is_empty() {
                return Err(self.cut_short());
            }
            self.offset += self.chunk.len() as u64;
        }
        let count = buffer.len().min(self.chunk.len());
        self.chunk.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

impl fmt::Debug for BlobStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobStream").field("offset", &self.offset).finish_non_exhaustive()
    }
}
