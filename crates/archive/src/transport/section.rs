//! A part of a file as a blob: read in place, from any offset, by as many as want to.

use std::{fs::File, io, os::unix::fs::FileExt, sync::Arc};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use wharf_content::{BlobReader, Error, Result, blocking};

/// Bytes of a file.
#[derive(Clone, Debug)]
pub(super) struct Section {
    file: Arc<File>,
    start: u64,
    len: u64,
    is_all: bool,
}

impl Section {
    /// A whole file.
    pub(super) fn whole(file: File, len: u64) -> Self {
        Self { file: Arc::new(file), start: 0, len, is_all: true }
    }

    /// `len` bytes of a file, from `start` on.
    pub(super) fn of(file: Arc<File>, start: u64, len: u64) -> Self {
        Self { file, start, len, is_all: false }
    }
}

#[async_trait]
impl BlobReader for Section {
    fn size(&self) -> u64 {
        self.len
    }

    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        let wanted = usize::try_from(self.len.saturating_sub(offset)).unwrap_or(usize::MAX).min(len);
        let (file, start) = (Arc::clone(&self.file), self.start + offset.min(self.len));
        if wanted == 0 {
            return Ok(Bytes::new());
        }
        blocking::run(move || read(&file, start, wanted)).await
    }

    fn file(&self) -> Option<&File> {
        self.is_all.then_some(&*self.file)
    }
}

/// Reads so many bytes; fewer where the file was cut short meanwhile.
fn read(file: &File, start: u64, wanted: usize) -> Result<Bytes> {
    let mut bytes = BytesMut::zeroed(wanted);
    let mut filled = 0;
    while filled < wanted {
        match file.read_at(&mut bytes[filled..], start + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::io("cannot read a blob", error)),
        }
    }
    bytes.truncate(filled);
    Ok(bytes.freeze())
}
