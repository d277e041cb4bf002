//! The one pull: resolve, fetch what is missing, decode, choose, label, record.
//!
//! Written against the traits of `wharf-images` alone, so that it serves registries, archives and layouts alike. What upper layers add
//! (unpacking, progress, more handlers) they hand down as values.

mod referrers;

use std::{fmt, num::NonZeroUsize, sync::Arc};

use tokio::sync::Semaphore;
use wharf_content::{
    Catalogue, Digest, Error, Labels, LeasedStore, Manager, Provider, Result, ResultExt, Store,
    follow::Follower,
};
use wharf_images::{
    Chain, Children, Handler, Image, ImageStore, Limits, Reference, Selection, dispatch, image,
    labels::LabelKeys,
    progress::{Event, Silent, Sink},
    record,
    stage::{self, HandlerFactories, Stage, StageContext},
    transport::{Fetcher, Resolved, Resolver},
    verifier::{Verifier, accept},
};

use crate::{
    convert::{Conversion, Schema1},
    fetch::Fetch,
    lazy::LazyProvider,
    source::DistributionSource,
};

pub use referrers::MAX_REFERRERS;
use referrers::Referrers;

/// How many pieces of content are fetched at once.
pub const DEFAULT_CONCURRENCY: NonZeroUsize = NonZeroUsize::new(6).expect("six is not zero");

/// How many more may be under way without the network: opened and waiting for their turn, or complete and being committed.
const BESIDE_TRANSFERS: usize = 26;

/// Wraps the handler of a pull; see [`PullOptions::with_wrapper`].
pub type Wrapper = Arc<dyn Fn(Arc<dyn Handler>) -> Arc<dyn Handler> + Send + Sync>;

/// How an image is pulled.
#[derive(Clone)]
#[non_exhaustive]
pub struct PullOptions {
    selection: Selection,
    concurrency: NonZeroUsize,
    labels: Labels,
    sink: Arc<dyn Sink>,
    catalogue: Catalogue,
    limits: Limits,
    handlers: Vec<Arc<dyn Handler>>,
    wrapper: Option<Wrapper>,
    follower: Option<Arc<dyn Follower>>,
    strict_types: bool,
    label_keys: LabelKeys,
    verifiers: Vec<Arc<dyn Verifier>>,
    schema1: Schema1,
    all_metadata: bool,
    referrers: bool,
}

impl Default for PullOptions {
    fn default() -> Self {
        Self {
            selection: Selection::host(),
            concurrency: DEFAULT_CONCURRENCY,
            labels: Labels::new(),
            sink: Arc::new(Silent),
            catalogue: Catalogue::linked().clone(),
            limits: Limits::default(),
            handlers: Vec::new(),
            wrapper: None,
            follower: None,
            strict_types: false,
            label_keys: LabelKeys::default(),
            verifiers: Vec::new(),
            schema1: Schema1::Converted,
            all_metadata: false,
            referrers: false,
        }
    }
}

impl PullOptions {
    /// The host's platform, six fetches at once, no labels, no progress.
    pub fn new() -> Self {
        Self::default()
    }

    /// Which platforms are pulled.
    #[must_use]
    pub fn with_selection(mut self, selection: Selection) -> Self {
        self.selection = selection;
        self
    }

    /// How many pieces of content are fetched at once.
    #[must_use]
    pub fn with_concurrency(mut self, concurrency: NonZeroUsize) -> Self {
        self.concurrency = concurrency;
        self
    }

    /// Labels of the image record.
    #[must_use]
    pub fn with_labels(mut self, labels: Labels) -> Self {
        self.labels = labels;
        self
    }

    /// Where progress is told.
    #[must_use]
    pub fn with_sink(mut self, sink: Arc<dyn Sink>) -> Self {
        self.sink = sink;
        self
    }

    /// The catalogue of decoders and handlers.
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

    /// Adds a handler that sees each node before it is fetched. An image that has to be converted is fetched for that first, and seen as
    /// what it was converted to.
    #[must_use]
    pub fn with_handler(mut self, handler: Arc<dyn Handler>) -> Self {
        self.handlers.push(handler);
        self
    }

    /// Fails with `FailedPrecondition` where some part has a media type that no decoder of the catalogue knows. All manifests are looked
    /// at first, so that no layer is fetched in vain.
    #[must_use]
    pub fn with_strict_types(mut self) -> Self {
        self.strict_types = true;
        self
    }

    /// Wraps the whole chain, for instance to unpack layers while others are fetched.
    #[must_use]
    pub fn with_wrapper(mut self, wrapper: Wrapper) -> Self {
        self.wrapper = Some(wrapper);
        self
    }

    /// Tells a follower of all content that begins to arrive, for instance to unpack layers before they are complete.
    #[must_use]
    pub fn with_follower(mut self, follower: Arc<dyn Follower>) -> Self {
        self.follower = Some(follower);
        self
    }

    /// Holds children by labels of these keys on their parents (containerd: `WithChildLabelMap`).
    #[must_use]
    pub fn with_label_keys(mut self, keys: LabelKeys) -> Self {
        self.label_keys = keys;
        self
    }

    /// Adds a verifier. All are asked, in this order, when the name is resolved and before anything is fetched, and all must accept.
    #[must_use]
    pub fn with_verifier(mut self, verifier: Arc<dyn Verifier>) -> Self {
        self.verifiers.push(verifier);
        self
    }

    /// Fails with `NotImplemented` for an image of Docker's schema 1 instead of converting it to schema 2.
    #[must_use]
    pub fn without_schema1_conversion(mut self) -> Self {
        self.schema1 = Schema1::Refused;
        self
    }

    /// Fetches the manifests and configs of all platforms, and the layers of those that were selected (containerd: `WithAllMetadata`).
    /// The [wrapper](PullOptions::with_wrapper) sees only what is pulled whole.
    #[must_use]
    pub fn with_all_metadata(mut self) -> Self {
        self.all_metadata = true;
        self
    }

    /// Pulls what refers to the image and to its chosen manifests too, and what refers to that: signatures, bills of materials
    /// (containerd: `SetReferrers`). They are looked for at every pull, by one request for each manifest; at most [`MAX_REFERRERS`]. What
    /// cosign has put under tags made of the digests of the image's index and manifests is pulled and recorded under these tags, three of
    /// which are asked for of each.
    #[must_use]
    pub fn with_referrers(mut self) -> Self {
        self.referrers = true;
        self
    }

    /// How what is attached to the image by a tag is pulled: wholly, and as no image that anybody runs.
    fn attached(&self) -> Self {
        Self {
            selection: Selection::all(),
            concurrency: self.concurrency,
            sink: Arc::clone(&self.sink),
            catalogue: self.catalogue.clone(),
            limits: self.limits,
            label_keys: self.label_keys.clone(),
            ..Self::default()
        }
    }
}

impl fmt::Debug for PullOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PullOptions")
            .field("selection", &self.selection)
            .field("concurrency", &self.concurrency)
            .field("labels", &self.labels)
            .finish_non_exhaustive()
    }
}

/// Pulls the image that `name` names into the store and records it.
///
/// The record is written last, when everything that it needs is there. An image of Docker's schema 1, and one whose config has the type
/// `application/octet-stream`, is converted and recorded as what it became, which a warning tells.
///
/// # Errors
/// `NotFound` when there is no such image or it lacks a wanted platform, naming those that it has; `FailedPrecondition` for
/// content of another size or digest than was promised; `InvalidArgument` for a malformed or ambiguous manifest; those of the
/// resolver, the verifiers and the stores.
///
/// # Cancellation
/// Nothing is recorded; content that is complete stays, and what is half there is resumed by the next pull. A lease keeps both from
/// collection for [`PROCESS_LEASE`](wharf_content::lease::PROCESS_LEASE).
pub async fn pull(
    store: Arc<dyn Store>,
    images: &dyn ImageStore,
    resolver: &dyn Resolver,
    name: &str,
    options: PullOptions,
) -> Result<Image> {
    let sink = Arc::clone(&options.sink);
    sink.event(&Event::Resolving { name });
    let resolved = resolver.resolve(name).await?;
    sink.event(&Event::Resolved { name: &resolved.name, descriptor: &resolved.descriptor });
    for verifier in &options.verifiers {
        accept(verifier.as_ref(), &resolved.name, &resolved.descriptor).await?;
    }
    let fetcher = resolver.fetcher(&resolved.name).await?;
    let leased = LeasedStore::hold(store, Labels::new()).await?;
    let held = Arc::clone(&leased) as Arc<dyn Store>;
    let pulled = pull_resolved(held, images, resolver, resolved, Arc::clone(&fetcher), options).await;
    // What failed is told first; what it fetched may be collected, for nobody is at work on it.
    let finished = fetcher.finish().await;
    let released = leased.release().await;
    let image = pulled?;
    finished?;
    released?;
    Ok(image)
}

/// Brings what a name was found to mean into a store where a lease holds it, with what is attached to it, and records it.
async fn pull_resolved(
    store: Arc<dyn Store>,
    images: &dyn ImageStore,
    resolver: &dyn Resolver,
    resolved: Resolved,
    fetcher: Arc<dyn Fetcher>,
    options: PullOptions,
) -> Result<Image> {
    let name = resolved.name.clone();
    let attached = options.referrers.then(|| options.attached());
    // Boxed, since callers hold what this awaits.
    let image =
        Box::pin(bring(Arc::clone(&store), resolver, resolved, Arc::clone(&fetcher), options)).await?;
    if let Some(attached) = attached {
        let found = referrers::attachments(store.as_ref(), resolver, &name, &image, &attached).await?;
        for resolved in found {
            let fetcher = Arc::clone(&fetcher);
            let image =
                Box::pin(bring(Arc::clone(&store), resolver, resolved, fetcher, attached.clone())).await?;
            put(images, image).await?;
        }
    }
    put(images, image).await
}

async fn put(images: &dyn ImageStore, image: Image) -> Result<Image> {
    let name = image.name.clone();
    record::put(images, image).await.context(|| format!("cannot record the image {name}"))
}

/// Brings what a name was found to mean into a store, and gives the record to be made of it.
async fn bring(
    store: Arc<dyn Store>,
    resolver: &dyn Resolver,
    resolved: Resolved,
    fetcher: Arc<dyn Fetcher>,
    options: PullOptions,
) -> Result<Image> {
    let sink = Arc::clone(&options.sink);
    let (name, image_name) = (resolved.name, resolved.image_name);
    if image_name.is_none() && Reference::parse(&name).is_err() {
        return Err(Error::invalid_argument(format!(
            "{name:?} says no name under which the image is recorded: copy it to store:NAME instead"
        )));
    }
    // That an image is for other machines is found out before its layers are fetched.
    let ahead = LazyProvider::new(Arc::clone(&store), Arc::clone(&fetcher), options.catalogue.clone())
        .with_sink(Arc::clone(&sink));
    let conversion = Conversion {
        store: &store,
        fetcher: &fetcher,
        ahead: &ahead,
        sink: &sink,
        catalogue: &options.catalogue,
        selection: &options.selection,
        concurrency: options.concurrency,
        schema1: options.schema1,
    };
    let (root, made) = match conversion.convert(&name, &resolved.descriptor).await? {
        Some(converted) => (converted.target, converted.made),
        None => (resolved.descriptor, Vec::new()),
    };
    image::check_platform(&ahead, &root, &options.selection, &options.catalogue).await?;
    let transfers = Arc::new(Semaphore::new(options.concurrency.get().min(Semaphore::MAX_PERMITS)));
    // Syncing takes its time, which the network need not wait for. Handlers that do more are held to what they were promised.
    let is_fetch_alone = options.handlers.is_empty()
        && options.wrapper.is_none()
        && !options.referrers
        && options.catalogue.every::<HandlerFactories>().is_empty();
    let beside = if is_fetch_alone { BESIDE_TRANSFERS } else { 0 };
    let slots = options.concurrency.get().saturating_add(beside).min(Semaphore::MAX_PERMITS);
    let limiter = Arc::new(Semaphore::new(slots));
    if options.strict_types {
        // So is a type that nobody knows: this fetches documents, and no leaf.
        let types = Children::new(Arc::new(ahead))
            .with_catalogue(options.catalogue.clone())
            .with_selection(options.selection.clone())
            .with_strict_types();
        dispatch(Arc::new(types), vec![root.clone()], Some(Arc::clone(&transfers)), options.limits).await?;
    }

    let chain = Links { store: &store, name: &name, options: &options, fetcher, transfers, made };
    let mut last: Vec<Arc<dyn Handler>> = vec![Arc::new(chain.children(options.selection.clone()))];
    if options.referrers {
        let provider = resolver.referrers(&name).await?;
        let manager = Arc::clone(&store) as Arc<dyn Manager>;
        let keys = options.label_keys.clone();
        last.push(Arc::new(Referrers::new(provider, manager, keys, options.catalogue.clone())));
    }
    let mut handler = chain.ending_with(last)?;
    if let Some(wrapper) = &options.wrapper {
        handler = wrapper(handler);
    }
    dispatch(handler, vec![root.clone()], Some(Arc::clone(&limiter)), options.limits).await?;
    if options.all_metadata {
        let children = chain.children(Selection::all()).with_metadata_only();
        let handler = chain.ending_with(vec![Arc::new(children)])?;
        dispatch(handler, vec![root.clone()], Some(limiter), options.limits).await?;
    }

    Ok(Image::new(image_name.unwrap_or(name), root).with_labels(options.labels))
}

/// What the chains of a pull are made of.
struct Links<'a> {
    store: &'a Arc<dyn Store>,
    name: &'a str,
    options: &'a PullOptions,
    fetcher: Arc<dyn Fetcher>,
    transfers: Arc<Semaphore>,
    /// What is from no registry.
    made: Vec<Digest>,
}

impl Links<'_> {
    /// The handler that labels and gives children.
    fn children(&self, selection: Selection) -> Children {
        Children::new(Arc::clone(self.store) as Arc<dyn Provider>)
            .with_catalogue(self.options.catalogue.clone())
            .with_selection(selection)
            .with_labels(Arc::clone(self.store) as Arc<dyn Manager>)
            .with_label_keys(self.options.label_keys.clone())
            .with_sink(Arc::clone(&self.options.sink))
    }

    /// The chain that fetches each node, up to `last`.
    fn ending_with(&self, last: Vec<Arc<dyn Handler>>) -> Result<Arc<dyn Handler>> {
        let Self { store, name, options, fetcher, transfers, made } = self;
        let source = fetcher
            .repository()
            .and_then(|name| DistributionSource::new(Arc::clone(store) as Arc<dyn Manager>, name));
        let sink = Arc::clone(&options.sink);
        // What is new is labelled as it is committed; the handler finds that done, and labels what was there.
        let fetch = Fetch::new(Arc::clone(store), Arc::clone(fetcher), sink, options.catalogue.clone())
            .with_labels(source.as_ref().map(DistributionSource::labels).unwrap_or_default())
            .with_transfers(Arc::clone(transfers));
        let fetch = options.follower.iter().cloned().fold(fetch, Fetch::with_follower);
        let context = StageContext::new(Arc::clone(store), *name);
        let mut chain = options.handlers.clone();
        chain.extend(stage::handlers(&options.catalogue, Stage::BeforeFetch, &context)?);
        chain.push(Arc::new(fetch));
        chain.extend(source.map(|source| Arc::new(source.without(made.clone())) as Arc<dyn Handler>));
        chain.extend(stage::handlers(&options.catalogue, Stage::AfterFetch, &context)?);
        chain.extend(last);
        Ok(Arc::new(Chain::from_iter(chain)))
    }
}
