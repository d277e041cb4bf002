//! The one push: find that all is there, then put it at the destination, what is referred to before what refers to it.
//!
//! Written against the traits of `wharf-images` alone, as the pull is. Documents are sent as the bytes that the store has, under the
//! media type of their descriptor; nothing is converted, compressed or signed anew.
//!
//! ```text
//! image ─> plan: walk, decode, choose ─> blobs ─> manifests ─> indexes ─> the root, under the name
//!                missing: an error that names it    each tier in parallel, under a limit
//! ```

pub(crate) mod cargo;
pub(crate) mod companions;
mod parcel;
mod plan;
pub(crate) mod voyage;

use std::{fmt, num::NonZeroUsize, sync::Arc};

use wharf_content::{Catalogue, Descriptor, LeasedStore, Result, ResultExt, Store};
use wharf_images::{
    Image, Limits, Selection, image_store,
    progress::{Silent, Sink},
    referrers::StoredReferrers,
    transport::{Pusher, Resolver},
};

use self::{
    cargo::Stored,
    companions::{Companions, Named},
    voyage::Voyage,
};
use crate::stored::StoreResolver;

/// How many pieces of content are pushed at once.
pub const DEFAULT_CONCURRENCY: NonZeroUsize = NonZeroUsize::new(6).expect("six is not zero");

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
    pub(crate) sink: Arc<dyn Sink>,
    catalogue: Catalogue,
    limits: Limits,
    pub(crate) referrers: bool,
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
            referrers: false,
        }
    }
}

impl PushOptions {
    /// The whole image but for layers that may not be distributed, six pushes at once, no progress.
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

    /// Pushes what refers to the image too, such as signatures and bills of materials, and what refers to that; from a store, whatever
    /// it has of them. What the store has recorded beside the image under cosign's tags for its digests goes to the same tags.
    #[must_use]
    pub fn with_referrers(mut self) -> Self {
        self.referrers = true;
        self
    }
}

impl fmt::Debug for PushOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PushOptions")
            .field("portion", &self.portion)
            .field("concurrency", &self.concurrency)
            .field("non_distributable", &self.non_distributable)
            .field("referrers", &self.referrers)
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
    /// How many manifests that refer to the image went with it; what they are made of is counted above.
    pub referrers: usize,
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
/// What is at the destination stays there, and the next push does not send it again; the name means what it meant. Nothing keeps the image
/// from collection any more.
pub async fn push(
    store: Arc<dyn Store>,
    image: &Image,
    resolver: &dyn Resolver,
    name: &str,
    options: &PushOptions,
) -> Result<Pushed> {
    let pusher = resolver.pusher(name).await?;
    // Somebody may remove the image and collect meanwhile.
    let leased = LeasedStore::hold_while_at_work(store).await?;
    let pushed = push_held(&leased, image, resolver, &pusher, name, options).await;
    let finished = pusher.finish().await;
    let released = leased.release().await;
    let pushed = pushed.context(|| format!("cannot push {:?} to {name}", image.name))?;
    finished?;
    released?;
    Ok(pushed)
}

async fn push_held(
    leased: &Arc<LeasedStore>,
    image: &Image,
    resolver: &dyn Resolver,
    pusher: &Arc<dyn Pusher>,
    name: &str,
    options: &PushOptions,
) -> Result<Pushed> {
    leased.add(&image.target.digest).await?;
    // Not every store has records.
    let records = image_store(leased.as_ref()).ok();
    let records = records.map(|images| {
        StoreResolver::new(Arc::clone(leased) as Arc<dyn Store>, images)
            .with_catalogue(options.catalogue.clone())
    });
    let companions = if options.referrers {
        let here = StoredReferrers::gather(leased.as_ref(), &options.catalogue).await?;
        let from = records.as_ref().map(|records| Named { resolver: records, name: &image.name });
        Some(Companions::between(Arc::new(here), from, Named { resolver, name }).await?)
    } else {
        None
    };
    let cargo = Arc::new(Stored(Arc::clone(leased)));
    Voyage::new(cargo, Arc::clone(pusher), options).run(&image.name, &image.target, companions.as_ref()).await
}
