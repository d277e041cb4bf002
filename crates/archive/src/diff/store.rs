//! A layer into a content store: made, hashed and compressed on a blocking thread while the store writes.
//!
//! ```text
//! trees -> tar -> diff id -> compress     on a blocking thread
//!                               | chunks, by a channel of a few
//!                               v
//!                            an ingest -> commit, with the diff id as a label
//! ```

use std::io::{self, Write};

use bytes::Bytes;
use tokio::{
    sync::mpsc::{Receiver, Sender, channel},
    task::{self, JoinHandle},
};
use wharf_content::{
    Algorithm, CommitOptions, Descriptor, Digest, Error, ErrorKind, Hasher, IngestOptions, Labels, Result,
    ResultExt, Store, Writer, open_writer, reading::CHUNK_LEN,
};
use wharf_images::{diff_id::LABEL_UNCOMPRESSED, media_types as types};

use super::{Diff, Diffed};
use crate::{compress, intake::unique, options::ArchiveCompression};

/// How many chunks wait between the thread and the store.
const CHANNEL_LEN: usize = 4;

/// A layer in a store.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DiffLayer {
    /// The blob: of OCI's media type for the compression, as an image's manifest lists it.
    pub descriptor: Descriptor,
    /// The digest of the plain tar, as an image's config lists it.
    pub diff_id: Digest,
    /// What is in it.
    pub diffed: Diffed,
}

impl Diff {
    /// Makes the layer and puts it into the store. The same trees give the same blob.
    ///
    /// A compressed one is labelled with its diff id ([`LABEL_UNCOMPRESSED`]), as containerd does. A blob that is there already is a success.
    /// Nothing but a lease keeps the layer from being collected until an image refers to it: give a
    /// [`LeasedStore`](wharf_content::LeasedStore).
    ///
    /// # Errors
    /// Those of [`Diff::write`] and of the store. Nothing remains.
    ///
    /// # Cancellation
    /// What was ingested is left for the store to collect. The thread ends when it next has something to write.
    pub async fn store(&self, store: &dyn Store, compression: ArchiveCompression) -> Result<DiffLayer> {
        let reference = format!("diff-{:016x}", unique());
        let mut writer = open_writer(store, IngestOptions::new(&reference), &|_| ()).await?;
        let (sender, receiver) = channel(CHANNEL_LEN);
        let diff = self.clone();
        let making = task::spawn_blocking(move || make(&diff, compression, sender));
        let (made, digest) = match put(writer.as_mut(), receiver, making, compression).await {
            Ok(made) => made,
            Err(error) => {
                let closed = writer.close().await;
                drop(writer);
                // The first error is the one to tell; what stays is collected after a day.
                drop(closed.and(store.abort(&reference).await));
                return Err(error);
            }
        };
        if compression != ArchiveCompression::None {
            // It may have been there before, without it.
            let path = format!("labels.{LABEL_UNCOMPRESSED}");
            store.update(&digest, &made.labels(compression), &[&path]).await?;
        }
        let media_type = match compression {
            ArchiveCompression::None => types::OCI_LAYER,
            ArchiveCompression::Gzip => types::OCI_LAYER_GZIP,
            ArchiveCompression::Zstd => types::OCI_LAYER_ZSTD,
        };
        let descriptor = Descriptor::new(media_type, digest, made.len);
        Ok(DiffLayer { descriptor, diff_id: made.diff_id, diffed: made.diffed })
    }
}

/// What came of the thread.
struct Made {
    diffed: Diffed,
    diff_id: Digest,
    /// The length of the blob.
    len: u64,
}

impl Made {
    fn labels(&self, compression: ArchiveCompression) -> Labels {
        match compression {
            ArchiveCompression::None => Labels::new(),
            _ => Labels::from([(LABEL_UNCOMPRESSED.to_owned(), self.diff_id.to_string())]),
        }
    }
}

/// Writes and commits what the thread makes.
async fn put(
    writer: &mut dyn Writer,
    mut chunks: Receiver<Bytes>,
    making: JoinHandle<Result<Made>>,
    compression: ArchiveCompression,
) -> Result<(Made, Digest)> {
    while let Some(chunk) = chunks.recv().await {
        writer.write(chunk).await?;
    }
    let made =
        making.await.map_err(|error| Error::internal("a blocking task ended early").with_source(error))??;
    let digest = writer.digest().await?;
    let options = CommitOptions::default().with_labels(made.labels(compression));
    match writer.commit(Some(made.len), Some(&digest), options).await {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        committed => drop(committed?),
    }
    Ok((made, digest))
}

/// Makes the layer.
fn make(diff: &Diff, compression: ArchiveCompression, sender: Sender<Bytes>) -> Result<Made> {
    let cannot = || "cannot compress the layer";
    let chunks = Chunks { sender, buffer: Vec::with_capacity(CHUNK_LEN), len: 0 };
    let ((diffed, diff_id), mut chunks) = match compression {
        ArchiveCompression::None => hashed(diff, chunks)?,
        ArchiveCompression::Gzip => {
            let (made, encoder) = hashed(diff, compress::gzip(chunks))?;
            (made, encoder.finish().context(cannot)?)
        }
        ArchiveCompression::Zstd => {
            let (made, encoder) = hashed(diff, compress::zstd(chunks).context(cannot)?)?;
            (made, encoder.finish().context(cannot)?)
        }
    };
    chunks.send().context(cannot)?;
    Ok(Made { diffed, diff_id, len: chunks.len })
}

/// Makes the plain layer and its diff id.
fn hashed<W: Write>(diff: &Diff, output: W) -> Result<((Diffed, Digest), W)> {
    let mut hashed = Hashed { output, hasher: Hasher::new(Algorithm::default()) };
    let diffed = diff.write(&mut hashed)?;
    Ok(((diffed, hashed.hasher.finish()), hashed.output))
}

/// Hashes what is written.
struct Hashed<W> {
    output: W,
    hasher: Hasher,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.output.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        // An encoder that is flushed ends a block; the end is for who finishes it.
        Ok(())
    }
}

/// Sends what is written in chunks.
struct Chunks {
    sender: Sender<Bytes>,
    buffer: Vec<u8>,
    len: u64,
}

impl Chunks {
    fn send(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK_LEN));
        self.len += chunk.len() as u64;
        // Nobody waits for the layer any more.
        self.sender.blocking_send(chunk.into()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(CHUNK_LEN - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..count]);
        if self.buffer.len() == CHUNK_LEN {
            self.send()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
