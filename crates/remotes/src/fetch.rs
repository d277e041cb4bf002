//! Fetching content into a store: resumed where an earlier try ended, with size and digest enforced.
//!
//! Written against the traits of `wharf-images` alone; it does not know where the bytes come from.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::Semaphore;
use wharf_content::{
    BlobReader, ByteStream, Catalogue, CommitOptions, Descriptor, Error, ErrorKind, IngestOptions, Labels,
    Provider, Result, ResultExt, Store, copy, copying::Source, follow::Follower, open_writer,
};
use wharf_images::{
    Flow, Handler, Kind, decode,
    decode::MAX_MANIFEST_LEN,
    media_types,
    progress::{Event, Sink},
    transport::Fetcher,
};

/// The name under which a fetch of this content can be resumed (containerd: `remotes.MakeRefKey`).
///
/// # Errors
/// `Conflict` when several decoders claim the media type.
pub fn ingest_name(descriptor: &Descriptor, catalogue: &Catalogue) -> Result<String> {
    let kind = match decode::kind(&descriptor.media_type, catalogue)? {
        Some(Kind::Index) => "index",
        Some(Kind::Manifest) => "manifest",
        _ if media_types::is_config(&descriptor.media_type) => "config",
        _ if media_types::is_layer(&descriptor.media_type) => "layer",
        _ => "unknown",
    };
    Ok(format!("{kind}-{}", descriptor.digest))
}

/// Brings content into the store, unless it is there. Content that is embedded in the descriptor is not fetched. Where a mirror's bytes
/// are not those of the digest, they are thrown away and fetched anew from another host.
///
/// # Errors
/// `FailedPrecondition` for content of another size or digest; `ResourceExhausted` for a manifest or index that claims to be larger than
/// [`MAX_MANIFEST_LEN`]; those of the fetcher and the store.
///
/// # Cancellation
/// What has arrived stays in the ingest, and the next fetch goes on there.
pub async fn fetch_into(
    store: &dyn Store,
    fetcher: &dyn Fetcher,
    descriptor: &Descriptor,
    sink: &dyn Sink,
    catalogue: &Catalogue,
) -> Result<()> {
    let is_started = AtomicBool::new(false);
    let fetched = Fetched { fetcher, descriptor, sink, transfers: None, follower: None, is_started };
    fetch_with(store, fetched, catalogue, CommitOptions::default()).await
}

async fn fetch_with(
    store: &dyn Store,
    fetched: Fetched<'_>,
    catalogue: &Catalogue,
    commit: CommitOptions,
) -> Result<()> {
    let Fetched { descriptor, sink, .. } = fetched;
    refuse_huge_document(descriptor, catalogue)?;
    let ingest = IngestOptions::new(ingest_name(descriptor, catalogue)?).with_descriptor(descriptor);
    let waiting = |_: &Error| sink.event(&Event::Waiting { descriptor });
    let embedded = descriptor.embedded().map(Bytes::from);
    let mut wrong: Option<Error> = None;
    loop {
        let mut writer = match open_writer(store, ingest.clone(), &waiting).await {
            Ok(writer) => writer,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                refuse_other_size(store, descriptor).await?;
                sink.event(&Event::Exists { descriptor });
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        if let Some(follower) = fetched.follower
            && embedded.is_none()
            && let Some(reader) = writer.follow()
        {
            follower.begun(descriptor, reader);
        }
        let offset = writer.status().offset.min(descriptor.size);
        // What needs no transfer starts here, and the rest when its turn comes.
        if embedded.is_some() || (offset == descriptor.size && offset > 0) {
            fetched.started(offset);
        }
        let source: &dyn Source = embedded.as_ref().map_or(&fetched, |bytes| bytes);
        let error = match copy(writer.as_mut(), source, descriptor, commit.clone()).await {
            Ok(()) => {
                sink.event(&Event::Done { descriptor });
                return Ok(());
            }
            Err(error) => error,
        };
        let is_wrong = error.kind() == ErrorKind::FailedPrecondition && embedded.is_none();
        if !is_wrong || !fetched.fetcher.refused(descriptor) {
            // That nobody else has it is not all that there is to tell.
            return Err(match wrong {
                Some(first) => error.context(format!("after wrong bytes of a mirror ({first})")),
                None => error,
            });
        }
        sink.event(&Event::Retried { descriptor, error: &error });
        wrong = Some(error);
    }
}

/// Nobody would read it, so nobody fetches it, let alone into memory.
fn refuse_huge_document(descriptor: &Descriptor, catalogue: &Catalogue) -> Result<()> {
    let is_document = decode::kind(&descriptor.media_type, catalogue)?.is_some_and(Kind::is_manifest);
    if is_document && descriptor.size > MAX_MANIFEST_LEN {
        return Err(Error::resource_exhausted(format!(
            "{} ({}) claims {} bytes, more than the {MAX_MANIFEST_LEN} that are read of a manifest",
            descriptor.digest, descriptor.media_type, descriptor.size
        )));
    }
    Ok(())
}

/// A digest has one size; a document that gives it another one lies.
async fn refuse_other_size(provider: &dyn Provider, descriptor: &Descriptor) -> Result<()> {
    let size = provider.reader(descriptor).await?.size();
    if size == descriptor.size {
        return Ok(());
    }
    Err(Error::failed_precondition(format!(
        "size mismatch for {}: described with {} bytes, and the store has it with {size}",
        descriptor.digest, descriptor.size
    )))
}

/// A fetcher as the source of a copy that tells its progress.
#[derive(Debug)]
struct Fetched<'a> {
    fetcher: &'a dyn Fetcher,
    descriptor: &'a Descriptor,
    sink: &'a dyn Sink,
    /// How many may be under way at once; `None` where the caller sees to that.
    transfers: Option<&'a Arc<Semaphore>>,
    follower: Option<&'a dyn Follower>,
    is_started: AtomicBool,
}

impl Fetched<'_> {
    /// Tells once that the transfer begins.
    fn started(&self, offset: u64) {
        if !self.is_started.swap(true, Ordering::Relaxed) {
            self.sink.event(&Event::Started { descriptor: self.descriptor, offset });
        }
    }
}

#[async_trait]
impl Source for Fetched<'_> {
    async fn open(&self, offset: u64) -> Result<ByteStream> {
        let Some(transfers) = self.transfers else {
            self.started(offset);
            return self.fetcher.fetch(self.descriptor, offset).await;
        };
        let slot = Arc::clone(transfers).acquire_owned().await;
        let slot = slot.map_err(|error| Error::internal("the limiter was closed").with_source(error))?;
        self.started(offset);
        let stream = self.fetcher.fetch(self.descriptor, offset).await?;
        // Given back with the stream: what is being committed keeps nobody from the network.
        Ok(Box::pin(stream.inspect(move |_| {
            let _ = &slot;
        })))
    }

    async fn local(&self) -> Option<Arc<dyn BlobReader>> {
        self.fetcher.local()?.reader(self.descriptor).await.ok()
    }

    fn shared(&self, len: u64) {
        self.started(0);
        self.sink.event(&Event::Bytes { descriptor: self.descriptor, count: len });
    }

    fn taken(&self, chunk: &Bytes) {
        self.sink.event(&Event::Bytes { descriptor: self.descriptor, count: chunk.len() as u64 });
    }
}

/// A handler that brings each node into the store.
#[derive(Debug)]
pub struct Fetch {
    store: Arc<dyn Store>,
    fetcher: Arc<dyn Fetcher>,
    sink: Arc<dyn Sink>,
    catalogue: Catalogue,
    labels: Labels,
    transfers: Option<Arc<Semaphore>>,
    follower: Option<Arc<dyn Follower>>,
}

impl Fetch {
    /// Fetches by `fetcher` into `store`.
    pub fn new(
        store: Arc<dyn Store>,
        fetcher: Arc<dyn Fetcher>,
        sink: Arc<dyn Sink>,
        catalogue: Catalogue,
    ) -> Self {
        Self { store, fetcher, sink, catalogue, labels: Labels::new(), transfers: None, follower: None }
    }

    /// Labels what is fetched as it is committed, which costs nothing beside the commit. What is there already keeps its labels.
    #[must_use]
    pub fn with_labels(mut self, labels: Labels) -> Self {
        self.labels = labels;
        self
    }

    /// Bounds how many transfers are under way at once. What waits for its turn, and what has come and is being committed, is none.
    #[must_use]
    pub fn with_transfers(mut self, transfers: Arc<Semaphore>) -> Self {
        self.transfers = Some(transfers);
        self
    }

    /// Tells a follower of all content that begins to arrive. What is there already, or is embedded in its descriptor, does not arrive.
    #[must_use]
    pub fn with_follower(mut self, follower: Arc<dyn Follower>) -> Self {
        self.follower = Some(follower);
        self
    }
}

#[async_trait]
impl Handler for Fetch {
    async fn handle(&self, descriptor: &Descriptor) -> Result<Flow> {
        let fetched = Fetched {
            fetcher: self.fetcher.as_ref(),
            descriptor,
            sink: self.sink.as_ref(),
            transfers: self.transfers.as_ref(),
            follower: self.follower.as_deref(),
            is_started: AtomicBool::new(false),
        };
        fetch_with(
            self.store.as_ref(),
            fetched,
            &self.catalogue,
            CommitOptions::default().with_labels(self.labels.clone()),
        )
        .await
        .context(|| format!("cannot fetch {} ({})", descriptor.digest, descriptor.media_type))?;
        Ok(Flow::leaf())
    }
}
