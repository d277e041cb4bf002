//! Compresses what is written on its way to the output: gzip or zstd at the default level, and the same bytes for the same bytes.

use std::{
    fmt,
    io::{self, Write},
    pin::Pin,
    task::{Context, Poll, ready},
};

use flate2::{GzBuilder, write::GzEncoder};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use wharf_content::{Error, Result};

use crate::{format::Output, options::ArchiveCompression};

/// So much is compressed at a time, so that what waits for the output stays small.
const STEP_LEN: usize = 128 * 1024;

/// Compresses with gzip. Neither a name nor a time nor the system is told.
pub(crate) fn gzip<W: Write>(output: W) -> GzEncoder<W> {
    GzBuilder::new().operating_system(255).write(output, flate2::Compression::default())
}

/// Compresses with zstd, in one frame with a checksum.
pub(crate) fn zstd<W: Write>(output: W) -> io::Result<zstd::stream::write::Encoder<'static, W>> {
    let mut encoder = zstd::stream::write::Encoder::new(output, 0)?;
    encoder.include_checksum(true)?;
    Ok(encoder)
}

/// An output that compresses.
pub(crate) struct Compressed<'a, 'o> {
    output: &'a mut Output<'o>,
    encoder: Encoder,
    /// How much of what came out of the encoder is written.
    written: usize,
    /// How many bytes the output has got.
    len: u64,
}

enum Encoder {
    None,
    Gzip(GzEncoder<Vec<u8>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
    Finished(Vec<u8>),
}

impl Encoder {
    fn ready(&mut self) -> Option<&mut Vec<u8>> {
        match self {
            Self::None => None,
            Self::Gzip(encoder) => Some(encoder.get_mut()),
            Self::Zstd(encoder) => Some(encoder.get_mut()),
            Self::Finished(bytes) => Some(bytes),
        }
    }
}

impl<'a, 'o> Compressed<'a, 'o> {
    /// Compresses into `output`.
    pub(crate) fn new(output: &'a mut Output<'o>, compression: ArchiveCompression) -> Result<Self> {
        let encoder = match compression {
            ArchiveCompression::None => Encoder::None,
            ArchiveCompression::Gzip => Encoder::Gzip(gzip(Vec::new())),
            ArchiveCompression::Zstd => Encoder::Zstd(
                zstd(Vec::new()).map_err(|error| Error::io("cannot begin to compress the archive", error))?,
            ),
        };
        Ok(Self { output, encoder, written: 0, len: 0 })
    }

    /// Writes all that is left, and gives the length of all.
    pub(crate) async fn finish(&mut self) -> io::Result<u64> {
        let bytes = match std::mem::replace(&mut self.encoder, Encoder::None) {
            Encoder::Gzip(encoder) => encoder.finish()?,
            Encoder::Zstd(encoder) => encoder.finish()?,
            Encoder::Finished(bytes) => bytes,
            Encoder::None => return Ok(self.len),
        };
        self.encoder = Encoder::Finished(bytes);
        std::future::poll_fn(|context| self.poll_drain(context)).await?;
        self.output.flush().await?;
        Ok(self.len)
    }

    /// Writes what came out of the encoder.
    fn poll_drain(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(ready) = self.encoder.ready() else { return Poll::Ready(Ok(())) };
        while self.written < ready.len() {
            let count = ready!(Pin::new(&mut *self.output).poll_write(context, &ready[self.written..]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += count;
            self.len += count as u64;
        }
        ready.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Compressed<'_, '_> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_drain(context))?;
        let step = &bytes[..bytes.len().min(STEP_LEN)];
        let this = &mut *self;
        match &mut this.encoder {
            Encoder::None => {
                let count = ready!(Pin::new(&mut *this.output).poll_write(context, bytes))?;
                this.len += count as u64;
                return Poll::Ready(Ok(count));
            }
            Encoder::Gzip(encoder) => encoder.write_all(step)?,
            Encoder::Zstd(encoder) => encoder.write_all(step)?,
            Encoder::Finished(_) => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
        Poll::Ready(Ok(step.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(context))?;
        Pin::new(&mut *self.output).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(context)
    }
}

impl fmt::Debug for Compressed<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compressed").field("len", &self.len).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[tokio::test]
    async fn what_is_compressed_is_read_back_and_is_the_same_each_time() {
        let text: Vec<u8> = (0..1_000_000_u32).flat_map(|at| (at / 7).to_le_bytes()).collect();
        for compression in [ArchiveCompression::None, ArchiveCompression::Gzip, ArchiveCompression::Zstd] {
            let mut outputs = Vec::new();
            for _ in 0..2 {
                let mut output = Vec::new();
                let mut compressed = Compressed::new(&mut output, compression).expect("begins");
                for chunk in text.chunks(300_001) {
                    compressed.write_all(chunk).await.expect("writes");
                }
                let len = compressed.finish().await.expect("finishes");
                assert_eq!(len, output.len() as u64, "{compression:?}");
                outputs.push(output);
            }
            assert_eq!(outputs[0], outputs[1], "{compression:?}");
            let mut back = Vec::new();
            match compression {
                ArchiveCompression::None => back.clone_from(&outputs[0]),
                ArchiveCompression::Gzip => {
                    flate2::read::GzDecoder::new(&outputs[0][..])
                        .read_to_end(&mut back)
                        .map(drop)
                        .expect("reads");
                }
                ArchiveCompression::Zstd => back = zstd::decode_all(&outputs[0][..]).expect("reads"),
            }
            assert!(back == text, "{compression:?}");
        }
    }
}
