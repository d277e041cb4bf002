//! The one push: find that all is there, then put it at the destination, what is referred to before what refers to it.
//!
//! Written against the traits of `wharf-images` alone, as the pull is. Documents are sent as the bytes that the store has, under the
//! media type of their descriptor; nothing is converted, compressed or signed anew.
//!
//! ```text
//! image ─> plan: walk, decode, choose ─> blobs ─> manifests ─> indexes ─> the root, under the name
//!                missing: an error that names it    each tier in parallel, under a limit
//! ```

mod parcel;
mod plan;

use std::{
    fmt,
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use wharf_content::{
    BlobReader, Catalogue, Descriptor, Error, ErrorKind, Labels, LeasedStore, Manager, Provider, Result,
    ResultExt, Store,
};
use wharf_images::{
    Image, Limits, Selection,
    progress::{Event, Silent, Sink},
    transport::{Delivery, Place, Pusher, Resolver, Shipment},
};

use self::{parcel::Parcel, plan::Plan};
use crate::source::neighbours;

/// How many pieces of content are pushed at once.
pub const DEFAULT_CONCURRENCY: NonZeroUsize = NonZeroUsize::new(3).expect("three is not zero");

/// What is pushed of an image that is an index. Of an image that is a manifest, all of it is, after its platform was checked.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum Portion {
    /// The index and all that it lists.
    #[default]
    Whole,
    /// The manifest that fits best, in the place of the index: the name then means that manifest (containerd: `ctr images push
    /// --platform`).
    Best(Selection),
    /// The index, and of what it lists the best for each wanted platform (containerd: `Client.Push` with a platform matcher). The
    /// index still lists the others. Registries that demand all that an index lists refuse it.
    Sparse(Selection),
}

/// How an image is pushed.
#[derive(Clone)]
#[non_exhaustive]
pub struct PushOptions {
    portion: Portion,
    concurrency: NonZeroUsize,
    non_distributable: bool,
    sink: Arc<dyn Sink>,
    catalogue: Catalogue,
    limits: Limits,
}

impl Default for PushOptions {
    fn default() -> Self {
        Self {
            portion: Portion::default(),
            concurrency: DEFAULT_CONCURRENCY,
            non_distributable: false,
            sink: Arc::new(Silent),
            catalogue: Catalogue::linked().clone(),
            limits: Limits::default(),
        }
    }
}

impl PushOptions {
    /// The whole image but for layers that may not be distributed, three pushes at once, no progress.
    pub fn new() -> Self {
        Self::default()
    }

    /// What of an index is pushed.
    #[must_use]
    pub fn with_portion(mut self, portion: Portion) -> Self {
        self.portion = portion;
        self
    }

    /// How many pieces of content are pushed at once.
    #[must_use]
    pub fn with_concurrency(mut self, concurrency: NonZeroUsize) -> Self {
        self.concurrency = concurrency;
        self
    }

    /// Pushes layers that may not be distributed, too. Whether that is allowed is for the caller to know.
    #[must_use]
    pub fn allowing_non_distributable(mut self) -> Self {
        self.non_distributable = true;
        self
    }

    /// Where progress is told.
    #[must_use]
    pub fn with_sink(mut self, sink: Arc<dyn Sink>) -> Self {
        self.sink = sink;
        self
    }

    /// The catalogue of decoders.
    #[must_use]
    pub fn with_catalogue(mut self, catalogue: Catalogue) -> Self {
        self.catalogue = catalogue;
        self
    }

    /// How deep and how large an image may be.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }
}

impl fmt::Debug for PushOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PushOptions")
            .field("portion", &self.portion)
            .field("concurrency", &self.concurrency)
            .field("non_distributable", &self.non_distributable)
            .finish_non_exhaustive()
    }
}

/// What a push did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pushed {
    /// What the name means at the destination now.
    pub target: Descriptor,
    /// How many pieces of content were sent.
    pub sent: usize,
    /// How many the registry took over from another repository.
    pub mounted: usize,
    /// How many were there already.
    pub existing: usize,
    /// How many layers were left out, since they may not be distributed.
    pub skipped: usize,
}

/// Pushes an image of the store under `name`, which is the destination's.
///
/// That the image is all there is found out before the first request. Every blob is hashed while it is sent. The root is put there last, so
/// that the name never means something incomplete.
///
/// # Errors
/// `NotFound` when the store lacks parts of the image, naming them, or the image lacks a wanted platform; `FailedPrecondition` for a
/// blob that is damaged or has another size than it is described with, for a `name` that is pinned to another digest, and where the
/// registry understood another digest; `InvalidArgument` for a malformed manifest or name; those of the pusher and the store.
///
/// # Cancellation
/// What is at the destination stays there, and the next push does not send it again; the name means what it meant. A lease keeps the
/// image from collection for [`PROCESS_LEASE`](wharf_content::lease::PROCESS_LEASE).
pub async fn push(
    store: Arc<dyn Store>,
    image: &Image,
    resolver: &dyn Resolver,
    name: &str,
    options: &PushOptions,
) -> Result<Pushed> {
    let pusher = resolver.pusher(name).await?;
    // Somebody may remove the image and collect meanwhile.
    let leased = LeasedStore::hold(store, Labels::new()).await?;
    let pushed = push_held(&leased, image, pusher.as_ref(), options).await;
    let released = leased.release().await;
    let pushed = pushed.context(|| format!("cannot push {:?} to {name}", image.name))?;
    released?;
    Ok(pushed)
}

async fn push_held(
    leased: &Arc<LeasedStore>,
    image: &Image,
    pusher: &dyn Pusher,
    options: &PushOptions,
) -> Result<Pushed> {
    leased.add(&image.target.digest).await?;
    let provider: Arc<dyn Provider> = Arc::clone(leased) as Arc<dyn Provider>;
    let plan = Plan::make(&provider, &image.target, options).await?;
    if let Some(pinned) = pusher.pinned().filter(|pinned| **pinned != plan.root.digest) {
        return Err(Error::failed_precondition(format!(
            "digest mismatch: the destination is pinned to {pinned}, and what is pushed is {}",
            plan.root.digest
        )));
    }
    if plan.skipped > 0 {
        let text = format!(
            "{} layers of {:?} may not be distributed and are not pushed; --allow-non-distributable pushes them",
            plan.skipped, image.name
        );
        options.sink.event(&Event::Warning { text: &text });
    }
    let journey = Journey { store: leased, pusher, sink: &options.sink, counts: Default::default() };
    for tier in &plan.tiers {
        stream::iter(tier)
            .map(|(descriptor, place)| journey.send(descriptor, *place))
            .buffer_unordered(options.concurrency.get())
            .try_collect::<()>()
            .await?;
    }
    let [sent, mounted, existing] = journey.counts.map(AtomicUsize::into_inner);
    Ok(Pushed { target: plan.root, sent, mounted, existing, skipped: plan.skipped })
}

/// From the store to the destination.
struct Journey<'a> {
    store: &'a Arc<LeasedStore>,
    pusher: &'a dyn Pusher,
    sink: &'a Arc<dyn Sink>,
    /// Sent, mounted, there already.
    counts: [AtomicUsize; 3],
}

impl Journey<'_> {
    async fn send(&self, descriptor: &Descriptor, place: Place) -> Result<()> {
        let delivery = self.deliver(descriptor, place).await;
        let delivery = delivery
            .context(|| format!("cannot push {} ({:?})", descriptor.digest, descriptor.media_type))?;
        let at = match &delivery {
            Delivery::Sent => {
                self.sink.event(&Event::Done { descriptor });
                0
            }
            Delivery::Mounted(from) => {
                self.sink.event(&Event::Mounted { descriptor, from });
                1
            }
            _ => {
                self.sink.event(&Event::Exists { descriptor });
                2
            }
        };
        self.counts[at].fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    async fn deliver(&self, descriptor: &Descriptor, place: Place) -> Result<Delivery> {
        let reader: Arc<dyn BlobReader> = match self.store.reader(descriptor).await {
            Err(error) if error.kind() == ErrorKind::NotFound => match descriptor.embedded() {
                Some(bytes) => Arc::new(Bytes::from(bytes)),
                None => return Err(error),
            },
            reader => reader?,
        };
        let mut shipment = Shipment::new(
            descriptor.clone(),
            place,
            Arc::new(Parcel::new(reader, descriptor.clone(), Arc::clone(self.sink))),
        );
        if place == Place::Blob
            && let Some(repository) = self.pusher.repository()
        {
            // Content that only its descriptor has comes from nowhere.
            let labels = match self.store.info(&descriptor.digest).await {
                Err(error) if error.kind() == ErrorKind::NotFound => Labels::new(),
                info => info?.labels,
            };
            shipment = shipment.with_origins(neighbours(&labels, repository));
        }
        self.pusher.push(&shipment).await
    }
}
