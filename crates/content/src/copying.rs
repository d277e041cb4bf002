//! Writing blobs: waiting for a busy ingest, and copying with resume (containerd: `core/content/helpers.go`).

use std::{fmt::Debug, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};

use crate::{
    backoff::Backoff,
    descriptor::Descriptor,
    error::{Error, ErrorKind, Result},
    local::sharing,
    reading::ByteStream,
    store::{BlobReader, CommitOptions, IngestOptions, Ingester, Writer},
};

/// The first wait for a busy ingest is shorter than this.
pub const FIRST_RETRY: Duration = Duration::from_millis(16);
/// No wait for a busy ingest is longer than this.
pub const MAX_RETRY: Duration = Duration::from_millis(2048);

/// Bytes that can be read again from any offset.
#[async_trait]
pub trait Source: Debug + Send + Sync {
    /// Opens the bytes from `offset` to their end.
    ///
    /// # Errors
    /// Those of the source; `OutOfRange` when it cannot start there.
    async fn open(&self, offset: u64) -> Result<ByteStream>;

    /// What reads all of it in place, where it is a file of this machine. By default it is none.
    async fn local(&self) -> Option<Arc<dyn BlobReader>> {
        None
    }

    /// Told of each chunk that a copy took over, for progress.
    fn taken(&self, _chunk: &Bytes) {}

    /// Told that a copy took over all bytes, as many as these, without opening them.
    fn shared(&self, _len: u64) {}
}

#[async_trait]
impl Source for Bytes {
    async fn open(&self, offset: u64) -> Result<ByteStream> {
        let start = usize::try_from(offset).ok().filter(|start| *start <= self.len()).ok_or_else(|| {
            Error::out_of_range(format!("offset {offset} is outside a source of {} bytes", self.len()))
        })?;
        let rest = self.slice(start..);
        Ok(Box::pin(stream::iter((!rest.is_empty()).then_some(Ok(rest)))))
    }
}

/// Opens a writer, waiting while another one has the ingest. `waiting` is called before each wait.
///
/// The waits are random, below a bound that starts at [`FIRST_RETRY`], doubles, and ends at [`MAX_RETRY`].
///
/// # Errors
/// Those of [`Ingester::writer`] other than `Unavailable`.
///
/// # Cancellation
/// Nothing remains.
pub async fn open_writer(
    ingester: &dyn Ingester,
    options: IngestOptions,
    waiting: &(dyn Fn(&Error) + Sync),
) -> Result<Box<dyn Writer>> {
    let mut backoff = Backoff::new(FIRST_RETRY, MAX_RETRY);
    loop {
        match ingester.writer(options.clone()).await {
            Err(error) if error.kind() == ErrorKind::Unavailable => {
                waiting(&error);
                tokio::time::sleep(backoff.wait()).await;
            }
            result => return result,
        }
    }
}

/// Copies `source` through `writer` and commits what `descriptor` promises. A blob that is there already is a success.
///
/// The copy goes on at the writer's offset. Exactly the promised size is read; bytes beyond it are an error. What fails
/// verification is thrown away, and where it was begun by an earlier copy, read once more from its start.
///
/// # Errors
/// `FailedPrecondition` for a wrong size or digest; those of the source and the store.
///
/// # Cancellation
/// The progress remains in the ingest and a later copy resumes it.
pub async fn copy(
    writer: &mut dyn Writer,
    source: &dyn Source,
    descriptor: &Descriptor,
    options: CommitOptions,
) -> Result<()> {
    let mut resumed_at = writer.status().offset;
    if resumed_at > descriptor.size {
        writer.truncate(0).await?;
        resumed_at = 0;
    }
    // A resumed ingest has bytes already.
    let mut offset = if share(writer, source, descriptor).await? { descriptor.size } else { resumed_at };
    loop {
        let outcome = copy_once(writer, source, descriptor, offset, options.clone()).await;
        match outcome {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(()),
            Err(error) if error.kind() == ErrorKind::FailedPrecondition => {
                writer.truncate(0).await?;
                if resumed_at == 0 {
                    writer.close().await?;
                    return Err(error);
                }
                tracing::warn!(digest = %descriptor.digest, resumed_at, "resumed content was wrong, starting again");
                (resumed_at, offset) = (0, 0);
            }
            Err(error) => {
                // The first error is the one to tell; closing only keeps what there is for the next try.
                if let Err(second) = writer.close().await {
                    tracing::debug!(error = %second.report(), "closing a failed ingest");
                }
                return Err(error);
            }
            Ok(()) => return Ok(()),
        }
    }
}

/// Has the writer take over the file that the source is, where both can do that.
async fn share(writer: &mut dyn Writer, source: &dyn Source, descriptor: &Descriptor) -> Result<bool> {
    if writer.status().offset > 0 || descriptor.size < sharing::MIN_LEN {
        return Ok(false);
    }
    let Some(reader) = source.local().await.filter(|reader| reader.size() == descriptor.size) else {
        return Ok(false);
    };
    let Some(file) = reader.file() else { return Ok(false) };
    let is_shared = writer.share(file).await?;
    if is_shared {
        source.shared(descriptor.size);
    }
    Ok(is_shared)
}

async fn copy_once(
    writer: &mut dyn Writer,
    source: &dyn Source,
    descriptor: &Descriptor,
    offset: u64,
    options: CommitOptions,
) -> Result<()> {
    let mut at = offset;
    if at < descriptor.size || descriptor.size == 0 {
        let mut stream = source.open(at).await?;
        while let Some(chunk) = stream.next().await {
            let chunk = chunk?;
            at += chunk.len() as u64;
            if at > descriptor.size {
                return Err(Error::failed_precondition(format!(
                    "size mismatch for {}: expected {} bytes, and the source has more",
                    descriptor.digest, descriptor.size
                )));
            }
            source.taken(&chunk);
            writer.write(chunk).await?;
        }
        if at < descriptor.size {
            return Err(Error::unavailable(format!(
                "unexpected end of {}: expected {} bytes, received {at}",
                descriptor.digest, descriptor.size
            )));
        }
    }
    writer.commit(Some(descriptor.size), Some(&descriptor.digest), options).await.map(drop)
}

/// Stores `bytes` as the blob that `descriptor` promises. A blob that is there already is a success.
///
/// # Errors
/// As [`copy`] and [`open_writer`].
pub async fn write_blob(
    ingester: &dyn Ingester,
    reference: &str,
    descriptor: &Descriptor,
    bytes: Bytes,
    options: CommitOptions,
) -> Result<()> {
    let ingest = IngestOptions::new(reference).with_descriptor(descriptor);
    match open_writer(ingester, ingest, &|_| ()).await {
        Ok(mut writer) => copy(writer.as_mut(), &bytes, descriptor, options).await,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}
