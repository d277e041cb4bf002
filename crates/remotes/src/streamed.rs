//! Reading large content of an image that is elsewhere, as it flows by: nothing is kept, neither on disk nor in memory.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use tokio::sync::Mutex;
use wharf_content::{BlobReader, ByteStream, Catalogue, Descriptor, Error, ErrorKind, Provider, Result};
use wharf_images::{Kind, decode::kind, media_types, transport::Fetcher};

/// How often a stream that breaks is opened again without a byte having come.
const MAX_TRIES: u32 = 3;

/// A provider that gives layers as streams and leaves manifests and configs to another provider.
///
/// A layer is to be read from its start to its end. Reading elsewhere opens it again there. Nothing of it is verified: that is for who reads.
#[derive(Debug)]
pub struct StreamedProvider {
    documents: Arc<dyn Provider>,
    fetcher: Arc<dyn Fetcher>,
    catalogue: Catalogue,
}

impl StreamedProvider {
    /// Gives what `fetcher` fetches, and manifests, indexes and configs from `documents`.
    pub fn new(documents: Arc<dyn Provider>, fetcher: Arc<dyn Fetcher>, catalogue: Catalogue) -> Self {
        Self { documents, fetcher, catalogue }
    }
}

#[async_trait]
impl Provider for StreamedProvider {
    async fn reader(&self, descriptor: &Descriptor) -> Result<Arc<dyn BlobReader>> {
        let is_document = kind(&descriptor.media_type, &self.catalogue)?.is_some_and(Kind::is_manifest)
            || media_types::is_config(&descriptor.media_type);
        if is_document || descriptor.embedded().is_some() {
            return self.documents.reader(descriptor).await;
        }
        // What is not there is told now.
        let stream = self.fetcher.fetch(descriptor, 0).await?;
        Ok(Arc::new(Streamed {
            descriptor: descriptor.clone(),
            fetcher: Arc::clone(&self.fetcher),
            at: Mutex::new(Some(At { offset: 0, stream, rest: Bytes::new() })),
        }))
    }
}

/// Content that is fetched while it is read.
struct Streamed {
    descriptor: Descriptor,
    fetcher: Arc<dyn Fetcher>,
    at: Mutex<Option<At>>,
}

/// Where a stream is.
struct At {
    /// Of the first byte of `rest`.
    offset: u64,
    stream: ByteStream,
    rest: Bytes,
}

impl fmt::Debug for Streamed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streamed").field("descriptor", &self.descriptor).finish_non_exhaustive()
    }
}

impl Streamed {
    async fn open(&self, offset: u64) -> Result<At> {
        let stream = self.fetcher.fetch(&self.descriptor, offset).await?;
        Ok(At { offset, stream, rest: Bytes::new() })
    }
}

#[async_trait]
impl BlobReader for Streamed {
    fn size(&self) -> u64 {
        self.descriptor.size
    }

    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        let left = usize::try_from(self.descriptor.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let len = len.min(left);
        let mut slot = self.at.lock().await;
        // Who is cancelled leaves none, and the next one opens it again.
        let mut at = match slot.take() {
            Some(at) if at.offset == offset => at,
            _ if len == 0 => return Ok(Bytes::new()),
            _ => self.open(offset).await?,
        };
        let (mut read, mut tries) = (BytesMut::with_capacity(len), 0);
        while read.len() < len {
            if !at.rest.is_empty() {
                let count = at.rest.len().min(len - read.len());
                read.extend_from_slice(&at.rest.split_to(count));
                at.offset += count as u64;
                tries = 0;
                continue;
            }
            let error = match at.stream.next().await {
                Some(Ok(chunk)) => {
                    at.rest = chunk;
                    continue;
                }
                Some(Err(error)) => error,
                None => Error::unavailable(format!(
                    "{} ended at byte {} and not at {}",
                    self.descriptor.digest, at.offset, self.descriptor.size
                )),
            };
            tries += 1;
            if error.kind() != ErrorKind::Unavailable || tries >= MAX_TRIES {
                return Err(error);
            }
            at = self.open(at.offset).await?;
        }
        *slot = Some(at);
        Ok(read.freeze())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use futures_util::stream;
    use wharf_content::MemoryStore;

    use super::*;

    /// Sends ten bytes of what it has, and then breaks.
    #[derive(Debug)]
    struct Breaking {
        bytes: Bytes,
        per_stream: usize,
        opened: AtomicU64,
    }

    #[async_trait]
    impl Fetcher for Breaking {
        async fn fetch(&self, _: &Descriptor, offset: u64) -> Result<ByteStream> {
            self.opened.fetch_add(1, Ordering::Relaxed);
            let rest = self.bytes.slice(usize::try_from(offset).expect("small")..);
            let sent = rest.slice(..rest.len().min(self.per_stream));
            let chunks: Vec<_> = sent.chunks(3).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
            Ok(Box::pin(stream::iter(chunks)))
        }
    }

    async fn reader(per_stream: usize) -> (Arc<dyn BlobReader>, Arc<Breaking>, Bytes) {
        let bytes = (0..100_u8).collect::<Bytes>();
        let fetcher = Arc::new(Breaking { bytes: bytes.clone(), per_stream, opened: AtomicU64::new(0) });
        let documents = Arc::new(MemoryStore::new());
        let provider = StreamedProvider::new(documents, fetcher.clone(), Catalogue::linked().clone());
        let layer = Descriptor::of(media_types::OCI_LAYER, &bytes);
        (provider.reader(&layer).await.expect("opens"), fetcher, bytes)
    }

    #[tokio::test]
    async fn what_breaks_goes_on_where_it_was() {
        let (reader, fetcher, bytes) = reader(10).await;
        for (offset, expected) in (0..100).step_by(25).zip(bytes.chunks(25)) {
            assert_eq!(reader.read_at(offset, 25).await.expect("reads"), expected);
        }
        assert_eq!(fetcher.opened.load(Ordering::Relaxed), 10);
        assert_eq!(reader.read_at(90, 25).await.expect("reads"), bytes[90..], "back, and up to the end");
        assert!(reader.read_at(100, 25).await.expect("reads").is_empty());
    }

    #[tokio::test]
    async fn what_gives_nothing_is_given_up() {
        let (reader, fetcher, _) = reader(0).await;
        let error = reader.read_at(0, 10).await.expect_err("nothing comes");
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert_eq!(fetcher.opened.load(Ordering::Relaxed), u64::from(MAX_TRIES));
    }
}
