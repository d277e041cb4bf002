//! What the checks are made of: a place, images to put there, and sources that fail.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, future::BoxFuture, stream};
use serde_json::{Value, json};
use wharf_content::{ByteStream, Descriptor, Digest, Error, ErrorKind, Result, copying::Source};

use crate::{
    conformance::probe::{Check, Failure, ensure},
    media_types as types,
    transport::{Delivery, Fetcher, Place, Pusher, Resolver, Shipment},
};

/// One promise and how it is checked.
pub(super) struct Promise {
    pub(super) name: &'static str,
    pub(super) says: &'static str,
    pub(super) check: fn(Site) -> BoxFuture<'static, Check>,
}

/// Makes a [`Promise`] of an asynchronous function.
macro_rules! promise {
    ($name:literal, $says:literal, $check:path) => {
        $crate::conformance::transport::probe::Promise {
            name: $name,
            says: $says,
            check: |site| Box::pin(async move { $check(&site).await }),
        }
    };
}

pub(super) use promise;

/// An empty place, and what its names begin with.
pub(super) struct Site {
    pub(super) resolver: Arc<dyn Resolver>,
    pub(super) base: String,
    pub(super) malformed: Vec<String>,
}

/// An image of two blobs.
pub(super) struct Sample {
    pub(super) manifest: Descriptor,
    pub(super) bytes: Bytes,
    pub(super) blobs: Vec<(Descriptor, Bytes)>,
}

impl Sample {
    /// An image; those of other names differ in every part.
    pub(super) fn new(name: &str) -> Self {
        Self::with(name, json!({}))
    }

    /// An image whose manifest has more fields.
    pub(super) fn with(name: &str, more: Value) -> Self {
        let config =
            Bytes::from(json!({ "author": name, "os": "linux", "architecture": "amd64" }).to_string());
        let layer = noise(70_000, name);
        let blobs = vec![
            (Descriptor::of(types::OCI_CONFIG, &config), config),
            (Descriptor::of(types::OCI_LAYER, &layer), layer),
        ];
        let mut manifest = json!({
            "schemaVersion": 2, "mediaType": types::OCI_MANIFEST, "config": blobs[0].0, "layers": [blobs[1].0],
        });
        if let Value::Object(more) = more {
            manifest.as_object_mut().expect("because it is one").extend(more);
        }
        // With white space, so that nobody who writes it again gets the same bytes by chance.
        let bytes = Bytes::from(format!("{manifest:#}\n"));
        Self { manifest: Descriptor::of(types::OCI_MANIFEST, &bytes), bytes, blobs }
    }
}

/// Bytes that do not repeat; those of another name differ.
pub(super) fn noise(len: usize, name: &str) -> Bytes {
    let mut bytes = BytesMut::with_capacity(len + 64);
    let mut count = 0;
    while bytes.len() < len {
        bytes.extend_from_slice(Digest::sha256(format!("{name} {count}").as_bytes()).hex().as_bytes());
        count += 1;
    }
    bytes.truncate(len);
    bytes.freeze()
}

/// A type of blobs.
pub(super) const BLOB: &str = types::OCI_LAYER;

impl Site {
    /// The name of a tag.
    pub(super) fn tag(&self, path: &str, tag: &str) -> String {
        format!("{}/{path}:{tag}", self.base)
    }

    /// The name of a digest.
    pub(super) fn pinned(&self, path: &str, digest: &Digest) -> String {
        format!("{}/{path}@{digest}", self.base)
    }

    pub(super) async fn pusher(&self, name: &str) -> Result<Arc<dyn Pusher>> {
        self.resolver.pusher(name).await
    }

    pub(super) async fn fetcher(&self, name: &str) -> Result<Arc<dyn Fetcher>> {
        self.resolver.fetcher(name).await
    }

    /// Puts an image under a name, and the manifest at a place of the caller's choice.
    pub(super) async fn put_as(&self, name: &str, image: &Sample, place: Place) -> Result<Delivery> {
        let pusher = self.pusher(name).await?;
        for (descriptor, bytes) in &image.blobs {
            pusher.push(&shipment(descriptor, Place::Blob, bytes)).await?;
        }
        let delivery = pusher.push(&shipment(&image.manifest, place, &image.bytes)).await;
        pusher.finish().await?;
        delivery
    }

    /// Puts an image under a name.
    pub(super) async fn put(&self, name: &str, image: &Sample) -> Result<Delivery> {
        self.put_as(name, image, Place::Root).await
    }

    /// Demands that a name means an image.
    pub(super) async fn means(&self, what: &str, name: &str, image: &Sample) -> Check {
        let found = self.resolver.resolve(name).await?.descriptor;
        let found = (found.media_type.as_str(), &found.digest, found.size);
        let wanted = (image.manifest.media_type.as_str(), &image.manifest.digest, image.manifest.size);
        ensure!(found == wanted, "{what}: {name} means {found:?}, expected {wanted:?}");
        Ok(())
    }

    /// Demands that a name means nothing.
    pub(super) async fn means_nothing(&self, what: &str, name: &str) -> Check {
        crate::conformance::probe::refused(what, self.resolver.resolve(name).await, ErrorKind::NotFound)
    }

    /// Demands that content is not there.
    pub(super) async fn lacks(&self, what: &str, name: &str, descriptor: &Descriptor) -> Check {
        let found = read(self.fetcher(name).await?.as_ref(), descriptor, 0).await;
        crate::conformance::probe::refused(what, found, ErrorKind::NotFound)
    }

    /// Demands that content is there.
    pub(super) async fn holds(&self, name: &str, descriptor: &Descriptor, bytes: &[u8]) -> Check {
        let found = read(self.fetcher(name).await?.as_ref(), descriptor, 0).await?;
        same(&format!("what was fetched of {}", descriptor.digest), &found, bytes)
    }
}

/// Content on its way.
pub(super) fn shipment(descriptor: &Descriptor, place: Place, bytes: &Bytes) -> Shipment {
    Shipment::new(descriptor.clone(), place, Arc::new(bytes.clone()))
}

/// All that a fetcher gives from an offset on.
pub(super) async fn read(fetcher: &dyn Fetcher, descriptor: &Descriptor, offset: u64) -> Result<Bytes> {
    let mut stream = fetcher.fetch(descriptor, offset).await?;
    let mut bytes = BytesMut::new();
    while let Some(chunk) = stream.next().await {
        bytes.extend_from_slice(&chunk?);
    }
    Ok(bytes.freeze())
}

/// Demands that bytes are as they should be, and shows where they differ.
pub(super) fn same(what: &str, found: &[u8], expected: &[u8]) -> Check {
    let differ = found.iter().zip(expected).position(|(found, expected)| found != expected);
    ensure!(
        found == expected,
        "{what}: {} bytes that differ at {:?}, expected {} bytes",
        found.len(),
        differ,
        expected.len()
    );
    Ok(())
}

/// What is offered or is said not to be: `None` for the latter.
pub(super) fn offered<T>(result: Result<T>) -> Check<Option<T>> {
    match result {
        Ok(offered) => Ok(Some(offered)),
        Err(error) if error.kind() == ErrorKind::NotImplemented => Ok(None),
        Err(error) => Err(Failure::from(error)),
    }
}

/// A source that counts how often it is opened, gives chunks one at a time, and may end with an error.
#[derive(Debug, Default)]
pub(super) struct Scripted {
    pub(super) chunks: Vec<Bytes>,
    pub(super) fails: Option<ErrorKind>,
    pub(super) stalls: bool,
    pub(super) opened: AtomicUsize,
    pub(super) taken: AtomicUsize,
}

impl Scripted {
    pub(super) fn of(bytes: &Bytes) -> Self {
        let chunks = bytes.chunks(16 * 1024).map(Bytes::copy_from_slice).collect();
        Self { chunks, ..Self::default() }
    }
}

#[async_trait]
impl Source for Scripted {
    async fn open(&self, offset: u64) -> Result<ByteStream> {
        self.opened.fetch_add(1, Ordering::SeqCst);
        let mut skip = usize::try_from(offset).unwrap_or(usize::MAX);
        let mut items = Vec::new();
        for chunk in &self.chunks {
            let gone = skip.min(chunk.len());
            skip -= gone;
            if gone < chunk.len() {
                items.push(Ok(chunk.slice(gone..)));
            }
        }
        let error = self.fails.map(|kind| Err(Error::new(kind, "the source of the check failed")));
        let items = stream::iter(items.into_iter().chain(error));
        Ok(if self.stalls { Box::pin(items.chain(stream::pending())) } else { Box::pin(items) })
    }

    fn taken(&self, chunk: &Bytes) {
        self.taken.fetch_add(chunk.len(), Ordering::SeqCst);
    }
}
