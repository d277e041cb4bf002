//! Where what is pushed comes from: the store here, and another place in [`copy`](crate::copy).

use std::{fmt::Debug, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use wharf_content::{
    Descriptor, Digest, Error, ErrorKind, Labels, LeasedStore, Manager, Provider, Result, copying::Source,
    reading::BlobSource,
};

use crate::source::neighbours;

/// Content to be pushed.
#[async_trait]
pub(crate) trait Cargo: Debug + Send + Sync + 'static {
    /// What documents are read from.
    fn documents(&self) -> Arc<dyn Provider>;

    /// Whether the content is there, as far as that can be told without moving it.
    ///
    /// # Errors
    /// `FailedPrecondition` for content of another size.
    async fn has(&self, descriptor: &Descriptor) -> Result<bool>;

    /// The bytes, which nobody has verified.
    async fn source(&self, descriptor: &Descriptor) -> Result<Arc<dyn Source>>;

    /// Repositories, as `domain/path`, that are said to have the content, for who takes it to `destination`: the likeliest first.
    async fn origins(&self, descriptor: &Descriptor, destination: Option<&str>) -> Result<Vec<String>>;

    /// Told that content turned out to be something else. True where it can be had from another place instead.
    fn refused(&self, _descriptor: &Descriptor) -> bool {
        false
    }

    /// Says that content turned out to have another digest.
    fn damage(&self, descriptor: &Descriptor, found: &Digest) -> Error;
}

/// Says that a blob of a store has other bytes than those it was stored with.
pub(crate) fn damaged(descriptor: &Descriptor, found: &Digest) -> Error {
    Error::failed_precondition(format!(
        "blob {} ({:?}) is damaged: its bytes have the digest {found}",
        descriptor.digest, descriptor.media_type
    ))
}

/// What a store has.
#[derive(Debug)]
pub(super) struct Stored(pub(super) Arc<LeasedStore>);

#[async_trait]
impl Cargo for Stored {
    fn documents(&self) -> Arc<dyn Provider> {
        Arc::clone(&self.0) as Arc<dyn Provider>
    }

    async fn has(&self, descriptor: &Descriptor) -> Result<bool> {
        match self.0.reader(descriptor).await {
            Ok(reader) if reader.size() == descriptor.size => Ok(true),
            Ok(reader) => Err(Error::failed_precondition(format!(
                "size mismatch for {} ({:?}): described with {} bytes, and the store has {}",
                descriptor.digest,
                descriptor.media_type,
                descriptor.size,
                reader.size()
            ))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(descriptor.embedded().is_some()),
            Err(error) => Err(error),
        }
    }

    async fn source(&self, descriptor: &Descriptor) -> Result<Arc<dyn Source>> {
        match self.0.reader(descriptor).await {
            Err(error) if error.kind() == ErrorKind::NotFound => match descriptor.embedded() {
                Some(bytes) => Ok(Arc::new(Bytes::from(bytes))),
                None => Err(error),
            },
            reader => Ok(Arc::new(BlobSource::new(reader?))),
        }
    }

    async fn origins(&self, descriptor: &Descriptor, destination: Option<&str>) -> Result<Vec<String>> {
        let Some(destination) = destination else { return Ok(Vec::new()) };
        // Content that only its descriptor has comes from nowhere.
        let labels = match self.0.info(&descriptor.digest).await {
            Err(error) if error.kind() == ErrorKind::NotFound => Labels::new(),
            info => info?.labels,
        };
        Ok(neighbours(&labels, destination))
    }

    fn damage(&self, descriptor: &Descriptor, found: &Digest) -> Error {
        damaged(descriptor, found)
    }
}
