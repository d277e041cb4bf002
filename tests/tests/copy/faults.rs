//! Sources that lie, break or are slow to be taken from.

use std::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use serde_json::json;
use wharf_content::{ByteStream, Error};
use wharf_images::transport::{Delivery, Fetcher, Pusher, Resolved, Shipment};

use super::*;

/// A registry in memory of whose large blobs the bytes are bent on their way.
#[derive(Debug)]
struct Bent {
    inner: MemoryRegistry,
    how: How,
}

#[derive(Clone, Copy, Debug)]
enum How {
    Rightly,
    Flipped,
    Short,
    Long,
    Gone,
}

#[derive(Debug)]
struct BentFetcher(Arc<dyn Fetcher>, How);

#[async_trait]
impl Resolver for Bent {
    async fn resolve(&self, name: &str) -> Result<Resolved> {
        self.inner.resolve(name).await
    }

    async fn fetcher(&self, name: &str) -> Result<Arc<dyn Fetcher>> {
        Ok(Arc::new(BentFetcher(self.inner.fetcher(name).await?, self.how)))
    }
}

#[async_trait]
impl Fetcher for BentFetcher {
    async fn fetch(&self, descriptor: &Descriptor, offset: u64) -> Result<ByteStream> {
        let mut stream = self.0.fetch(descriptor, offset).await?;
        if descriptor.size < 10_000 {
            return Ok(stream);
        }
        let mut bytes = stream.next().await.expect("it has bytes")?.to_vec();
        match self.1 {
            How::Rightly => {}
            How::Flipped => bytes[7_000] ^= 1,
            How::Short => bytes.truncate(9_000),
            How::Long => bytes.push(0),
            How::Gone => return Err(Error::not_found("it has just gone")),
        }
        let chunks: Vec<_> = bytes.chunks(4_096).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
        Ok(Box::pin(stream::iter(chunks)))
    }
}

#[tokio::test]
async fn what_the_source_bends_never_becomes_an_image() {
    for (how, kind, said) in [
        (How::Flipped, ErrorKind::FailedPrecondition, "digest mismatch: the source gave for sha256:"),
        (How::Short, ErrorKind::Unavailable, "ended after 9000 of"),
        (How::Long, ErrorKind::FailedPrecondition, "and there are more"),
        (How::Gone, ErrorKind::NotFound, "it has just gone"),
    ] {
        let registry = TestRegistry::start().await;
        let name = registry.put("x:1", &one_layer(60_000)).await.expect("puts");
        let inner = MemoryRegistry::new();
        copied_with(&resolver(), &name, &inner, "m.example/x:1", CopyOptions::new()).await.expect("copies");
        let source = Bent { inner, how };
        let quirky = ScriptedRegistry::start(|_, _| None).await;
        let to = quirky.reference("x:1");
        let failed = copied_with(&source, "m.example/x:1", &resolver(), &to, CopyOptions::new()).await;
        let error = failed.expect_err("bent");
        assert_eq!(error.kind(), kind, "{}", error.report());
        assert!(error.report().contains(said), "{}", error.report());
        assert!(quirky.contents.manifests().is_empty(), "{how:?}");
        assert!(quirky.contents.blobs().values().all(|blob| blob.len() < 10_000), "{how:?}");
        // The same is right from a source that is.
        let source = Bent { how: How::Rightly, ..source };
        let right = copied_with(&source, "m.example/x:1", &resolver(), &to, CopyOptions::new()).await;
        assert!(right.expect("copies").sent >= 2);
    }
}

#[tokio::test]
async fn a_manifest_that_the_source_exchanges_is_refused() {
    let quirky = ScriptedRegistry::start(|request, contents| {
        let is_by_digest = request.method == "GET" && request.path.contains("/manifests/sha256:");
        let mut reply = json!({ "schemaVersion": 2 }).to_string();
        let (_, bytes) = contents.manifests().values().next().cloned().unwrap_or_default();
        reply.push_str(&" ".repeat(bytes.len().saturating_sub(reply.len())));
        is_by_digest.then(|| Reply::new(200, &[("Content-Type", types::OCI_MANIFEST)], reply))
    })
    .await;
    let registry = TestRegistry::start().await;
    let name = registry.put("x:1", &one_layer(20_000)).await.expect("puts");
    copied(&name, &quirky.reference("x:1"), CopyOptions::new()).await.expect("copies");
    let memory = MemoryRegistry::new();
    let from = quirky.reference("x:1");
    let error = copied_with(&resolver(), &from, &memory, "m.example/x:1", CopyOptions::new()).await;
    let error = error.expect_err("another manifest");
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{}", error.report());
    assert!(error.report().contains("digest mismatch"), "{}", error.report());
    assert!(memory.resolve("m.example/x:1").await.is_err());
}

#[tokio::test]
async fn a_body_that_breaks_goes_on_at_its_offset_in_the_middle_of_the_upload() {
    let broken = Mutex::new(false);
    let quirky = ScriptedRegistry::start(move |request, contents| {
        let digest = request.path.rsplit('/').next().unwrap_or_default();
        let blob = contents.blobs().get(digest).filter(|blob| blob.len() > 10_000).cloned()?;
        if request.method != "GET" {
            return None;
        }
        if let Some(range) = request.header("range") {
            let from: usize = range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()?;
            let content_range = format!("bytes {from}-{}/{}", blob.len() - 1, blob.len());
            return Some(Reply::new(206, &[("Content-Range", &content_range)], &blob[from..]));
        }
        assert!(
            !std::mem::replace(&mut *broken.lock().expect("no panic"), true),
            "asked for the whole again"
        );
        let len = blob.len().to_string();
        Some(Reply::new(200, &[("Content-Length", &len)], &blob[..blob.len() / 2]))
    })
    .await;
    let registry = TestRegistry::start().await;
    let name = registry.put("x:1", &one_layer(400_000)).await.expect("puts");
    let from = quirky.reference("x:1");
    copied(&name, &from, CopyOptions::new()).await.expect("copies");
    let destination = TestRegistry::start().await;
    let before = quirky.contents.requests().len();
    copied(&from, &destination.reference("x:1"), CopyOptions::new()).await.expect("copies");
    let ranges: Vec<String> = quirky.contents.requests()[before..]
        .iter()
        .filter_map(|request| request.header("range").map(str::to_owned))
        .collect();
    assert_eq!(ranges.len(), 1, "{ranges:?}");
    let posts = destination.take_log().into_iter().filter(|record| record.method == "POST").count();
    assert_eq!(posts, 2, "each upload was begun once");
    assert_eq!(digests(destination.store()).await, digests(registry.store()).await);
}

#[tokio::test]
async fn an_upload_that_breaks_opens_the_source_where_the_registry_is() {
    let registry = TestRegistry::start().await;
    let name = registry.put("x:1", &one_layer(400_000)).await.expect("puts");
    // Of each request it reads 150,000 bytes at most, and then ends the connection.
    let destination = ScriptedRegistry::reading(
        |request| if request.content_length().unwrap_or(0) > 100_000 { 150_000 } else { usize::MAX },
        |request, contents| {
            let is_large = request.method == "PUT" && request.content_length().unwrap_or(0) > 100_000;
            if is_large {
                contents.append(request, 150_000);
            }
            is_large.then(|| Reply::raw(""))
        },
    )
    .await;
    registry.take_log();
    copied(&name, &destination.reference("x:1"), CopyOptions::new()).await.expect("copies");
    let ranges: Vec<String> = registry.take_log().into_iter().filter_map(|record| record.range).collect();
    assert_eq!(ranges[..2], ["bytes=150000-", "bytes=300000-"], "{ranges:?}");
}

/// A source of one large layer, which is made while it is read.
#[derive(Debug)]
struct Spring {
    documents: MemoryRegistry,
    made: Arc<AtomicU64>,
}

const CHUNK: usize = 64 * 1024;
const CHUNKS: u64 = 256;

#[derive(Debug)]
struct SpringFetcher(Arc<dyn Fetcher>, Arc<AtomicU64>);

#[async_trait]
impl Resolver for Spring {
    async fn resolve(&self, name: &str) -> Result<Resolved> {
        self.documents.resolve(name).await
    }

    async fn fetcher(&self, name: &str) -> Result<Arc<dyn Fetcher>> {
        Ok(Arc::new(SpringFetcher(self.documents.fetcher(name).await?, Arc::clone(&self.made))))
    }
}

#[async_trait]
impl Fetcher for SpringFetcher {
    async fn fetch(&self, descriptor: &Descriptor, offset: u64) -> Result<ByteStream> {
        if descriptor.media_type != types::OCI_LAYER {
            return self.0.fetch(descriptor, offset).await;
        }
        let made = Arc::clone(&self.1);
        Ok(Box::pin(stream::iter(0..CHUNKS).map(move |_| {
            made.fetch_add(CHUNK as u64, Ordering::SeqCst);
            Ok(Bytes::from(vec![7; CHUNK]))
        })))
    }
}

/// A destination that takes a chunk at a time, and keeps nothing but documents.
#[derive(Debug)]
struct Drain {
    made: Arc<AtomicU64>,
    most: AtomicU64,
}

#[async_trait]
impl Pusher for Drain {
    async fn push(&self, shipment: &Shipment) -> Result<Delivery> {
        let mut stream = shipment.source.open(0).await?;
        let mut taken = 0;
        while let Some(chunk) = stream.next().await {
            let chunk = chunk?;
            if shipment.descriptor.media_type == types::OCI_LAYER {
                taken += chunk.len() as u64;
                tokio::task::yield_now().await;
                let ahead = self.made.load(Ordering::SeqCst) - (taken - chunk.len() as u64);
                self.most.fetch_max(ahead, Ordering::SeqCst);
            }
        }
        Ok(Delivery::Sent)
    }
}

#[derive(Debug)]
struct DrainResolver(Arc<Drain>);

#[async_trait]
impl Resolver for DrainResolver {
    async fn resolve(&self, name: &str) -> Result<Resolved> {
        Err(Error::not_found(format!("there is no {name}")))
    }

    async fn fetcher(&self, name: &str) -> Result<Arc<dyn Fetcher>> {
        Err(Error::not_found(format!("there is no {name}")))
    }

    async fn pusher(&self, _: &str) -> Result<Arc<dyn Pusher>> {
        Ok(Arc::clone(&self.0) as Arc<dyn Pusher>)
    }
}

#[tokio::test]
async fn of_a_large_blob_one_chunk_is_on_its_way() {
    let mut hasher = wharf_content::Hasher::new(wharf_content::Algorithm::Sha256);
    let chunk = vec![7; CHUNK];
    (0..CHUNKS).for_each(|_| hasher.update(&chunk));
    let layer = Descriptor::new(types::OCI_LAYER, hasher.finish(), CHUNKS * CHUNK as u64);
    let config = Bytes::from_static(b"{}");
    let config_descriptor = Descriptor::of(types::OCI_CONFIG, &config);
    let manifest = json!({ "schemaVersion": 2, "config": config_descriptor, "layers": [layer] });
    let manifest = Bytes::from(manifest.to_string());
    let documents = MemoryRegistry::new();
    let pusher = documents.pusher("m.example/x:1").await.expect("takes content");
    for (descriptor, place, bytes) in [
        (config_descriptor, wharf_images::transport::Place::Blob, config),
        (
            Descriptor::of(types::OCI_MANIFEST, &manifest),
            wharf_images::transport::Place::Root,
            manifest.clone(),
        ),
    ] {
        pusher.push(&Shipment::new(descriptor, place, Arc::new(bytes))).await.expect("takes it");
    }
    let made = Arc::new(AtomicU64::new(0));
    let source = Spring { documents, made: Arc::clone(&made) };
    let drain = Arc::new(Drain { made: Arc::clone(&made), most: AtomicU64::new(0) });
    let destination = DrainResolver(Arc::clone(&drain));
    let pushed = copied_with(&source, "m.example/x:1", &destination, "y", CopyOptions::new()).await;
    assert_eq!(pushed.expect("copies").sent, 3);
    assert_eq!(made.load(Ordering::SeqCst), CHUNKS * CHUNK as u64, "read once");
    assert_eq!(drain.most.load(Ordering::SeqCst), CHUNK as u64, "nothing is read ahead");
}
