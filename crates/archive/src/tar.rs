//! A tar writer for archives that must come out the same to the byte: regular files and directories, and nothing that differs from
//! machine to machine. What a header looks like is in [`header`], for layers as well.

pub(crate) mod header;

use tokio::io::AsyncWriteExt;
use wharf_content::{Result, ResultExt};

use crate::format::Output;
use header::{DIRECTORY, END, FILE, Header, padding};

const DIRECTORY_MODE: u32 = 0o755;

/// Writes records and counts bytes.
pub(crate) struct TarWriter<'a, 'o> {
    output: &'a mut Output<'o>,
    len: u64,
}

impl<'a, 'o> TarWriter<'a, 'o> {
    pub(crate) fn new(output: &'a mut Output<'o>) -> Self {
        Self { output, len: 0 }
    }

    /// Writes a directory; its name ends with a slash.
    pub(crate) async fn directory(&mut self, name: &str) -> Result<()> {
        self.put(&Header::new(name.as_bytes(), DIRECTORY, DIRECTORY_MODE).bytes(&[])).await
    }

    /// Writes a whole file.
    pub(crate) async fn file(&mut self, name: &str, mode: u32, bytes: &[u8]) -> Result<()> {
        let size = bytes.len() as u64;
        self.begin(name, mode, size).await?;
        self.put(bytes).await?;
        self.end(size).await
    }

    /// Begins a file of `size` bytes: as many must be [`put`](Self::put), and then it is [ended](Self::end).
    pub(crate) async fn begin(&mut self, name: &str, mode: u32, size: u64) -> Result<()> {
        let header = Header { size, ..Header::new(name.as_bytes(), FILE, mode) };
        self.put(&header.bytes(&[])).await
    }

    /// Writes bytes as they are.
    pub(crate) async fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.output.write_all(bytes).await.context(|| "cannot write the archive")?;
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Ends a file of `size` bytes.
    pub(crate) async fn end(&mut self, size: u64) -> Result<()> {
        self.put(&END[..padding(size)]).await
    }

    /// Ends the archive and gives its length.
    pub(crate) async fn finish(mut self) -> Result<u64> {
        self.put(&END).await?;
        Ok(self.len)
    }
}
