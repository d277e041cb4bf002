//! Reading blobs: whole and bounded, or as a stream of chunks.

use std::{fmt, pin::Pin, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use futures_core::Stream;
use futures_util::stream;

use crate::{
    copying::Source,
    descriptor::Descriptor,
    digest::Digest,
    error::{Error, ErrorKind, Result},
    store::{BlobReader, Manager, Provider},
};

/// A stream of chunks. After an error it has ended.
pub type ByteStream = Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>;

/// How many bytes of a blob are read at a time.
pub const CHUNK_LEN: usize = 256 * 1024;

/// Reads a whole blob, which may be embedded in its descriptor, and verifies size and digest.
///
/// # Errors
/// `ResourceExhausted` when it is larger than `limit` bytes; `NotFound`; `FailedPrecondition` for a size other than the
/// descriptor's or a digest that differs.
pub async fn read_blob(provider: &dyn Provider, descriptor: &Descriptor, limit: u64) -> Result<Bytes> {
    if let Some(bytes) = descriptor.embedded() {
        return Ok(bytes.into());
    }
    let too_large = |size: u64| {
        Error::resource_exhausted(format!(
            "{} ({}) has {size} bytes, more than the {limit} that are read of such content",
            descriptor.digest, descriptor.media_type
        ))
    };
    // A provider may fetch what it is asked for.
    if descriptor.size > limit {
        return Err(too_large(descriptor.size));
    }
    let reader = provider.reader(descriptor).await?;
    let size = reader.size();
    if size > limit {
        return Err(too_large(size));
    }
    let len = usize::try_from(size).map_err(|_| too_large(size))?;
    let bytes = reader.read_at(0, len).await?;
    descriptor.verify(&bytes)?;
    Ok(bytes)
}

/// Streams a blob from `offset` to its end in chunks of [`CHUNK_LEN`] bytes. Nothing is verified.
pub fn stream_blob(reader: Arc<dyn BlobReader>, offset: u64) -> ByteStream {
    stream_range(reader, offset, u64::MAX)
}

/// Streams at most `len` bytes of a blob from `offset`. Nothing is verified.
pub fn stream_range(reader: Arc<dyn BlobReader>, offset: u64, len: u64) -> ByteStream {
    let end = offset.saturating_add(len).min(reader.size());
    Box::pin(stream::unfold(Some((reader, offset)), move |state| async move {
        let (reader, at) = state?;
        if at >= end {
            return None;
        }
        let wanted = usize::try_from(end - at).unwrap_or(usize::MAX).min(CHUNK_LEN);
        match reader.read_at(at, wanted).await {
            Ok(bytes) if bytes.is_empty() => {
                let error =
                    Error::data_loss(format!("a blob ended at byte {at} and not at {end}: it was cut short"));
                Some((Err(error), None))
            }
            Ok(bytes) => {
                let next = at + bytes.len() as u64;
                Some((Ok(bytes), Some((reader, next))))
            }
            Err(error) => Some((Err(error), None)),
        }
    }))
}

/// Whether a blob is committed.
///
/// # Errors
/// Those of the store other than `NotFound`.
pub async fn exists(manager: &dyn Manager, digest: &Digest) -> Result<bool> {
    match manager.info(digest).await {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// A blob of a store as the source of a copy.
pub struct BlobSource {
    reader: Arc<dyn BlobReader>,
}

impl BlobSource {
    /// Copies from `reader`.
    pub fn new(reader: Arc<dyn BlobReader>) -> Self {
        Self { reader }
    }
}

impl fmt::Debug for BlobSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobSource").field("size", &self.reader.size()).finish_non_exhaustive()
    }
}

#[async_trait]
impl Source for BlobSource {
    async fn open(&self, offset: u64) -> Result<ByteStream> {
        Ok(stream_blob(Arc::clone(&self.reader), offset))
    }

    async fn local(&self) -> Option<Arc<dyn BlobReader>> {
        Some(Arc::clone(&self.reader))
    }
}
