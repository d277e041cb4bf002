//! The documents of an image that is elsewhere, in memory: each is fetched once, as long as they are not too many to be kept.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use wharf_content::{BlobReader, Descriptor, Digest, Error, Provider, Result};
use wharf_images::{decode::MAX_MANIFEST_LEN, transport::Fetcher};

/// How many bytes of documents are kept. Those beyond it are fetched again when they are needed again.
const MAX_KEPT: usize = 16 * 1024 * 1024;

/// Gives documents by digest, verified.
#[derive(Debug)]
pub(super) struct Documents {
    fetcher: Arc<dyn Fetcher>,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    documents: HashMap<Digest, Bytes>,
    len: usize,
}

impl Documents {
    pub(super) fn new(fetcher: Arc<dyn Fetcher>) -> Self {
        Self { fetcher, kept: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        // Each single change is complete in itself.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A document that was read before and is kept.
    pub(super) fn kept(&self, descriptor: &Descriptor) -> Option<Bytes> {
        let kept = self.lock().documents.get(&descriptor.digest).cloned();
        kept.filter(|bytes| bytes.len() as u64 == descriptor.size)
    }

    async fn fetch(&self, descriptor: &Descriptor) -> Result<Bytes> {
        if descriptor.size > MAX_MANIFEST_LEN {
            return Err(Error::resource_exhausted(format!(
                "{} ({}) claims {} bytes, more than the {MAX_MANIFEST_LEN} that are read of a document",
                descriptor.digest, descriptor.media_type, descriptor.size
            )));
        }
        loop {
            let mut stream = self.fetcher.fetch(descriptor, 0).await?;
            let mut bytes = BytesMut::new();
            while let Some(chunk) = stream.next().await {
                bytes.extend_from_slice(&chunk?);
                if bytes.len() as u64 > descriptor.size {
                    break;
                }
            }
            match descriptor.verify(&bytes) {
                Ok(()) => return Ok(bytes.freeze()),
                Err(_) if self.fetcher.refused(descriptor) => {}
                Err(error) => {
                    let found = descriptor.digest.algorithm().digest(&bytes);
                    let is_other = found != descriptor.digest && bytes.len() as u64 == descriptor.size;
                    let damage = is_other.then(|| self.fetcher.damage(descriptor, &found)).flatten();
                    return Err(damage.unwrap_or(error));
                }
            }
        }
    }
}

#[async_trait]
impl Provider for Documents {
    async fn reader(&self, descriptor: &Descriptor) -> Result<Arc<dyn BlobReader>> {
        if let Some(bytes) = self.kept(descriptor) {
            return Ok(Arc::new(bytes));
        }
        let bytes = self.fetch(descriptor).await?;
        let mut kept = self.lock();
        if kept.len + bytes.len() <= MAX_KEPT
            && kept.documents.insert(descriptor.digest.clone(), bytes.clone()).is_none()
        {
            kept.len += bytes.len();
        }
        Ok(Arc::new(bytes))
    }
}
