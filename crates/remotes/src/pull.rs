//! The one pull: resolve, fetch what is missing, decode, choose, label, record.
//!
//! Written against the traits of `wharf-images` alone, so that it serves registries, archives and layouts alike. What upper layers add
//! (unpacking, progress, more handlers) they hand down as values.

use std::{fmt, num::NonZeroUsize, sync::Arc};

use tokio::sync::Semaphore;
use wharf_content::{Catalogue, Labels, LeasedStore, Manager, Provider, Result, ResultExt, Store};
use wharf_images::{
    Chain, Children, Handler, Image, ImageStore, Limits, Selection, dispatch, image,
    progress::{Event, Silent, Sink},
    record,
    stage::{self, Stage, StageContext},
    transport::{Resolved, Resolver},
};

use crate::{fetch::Fetch, lazy::LazyProvider, source::DistributionSource};

/// How many pieces of content are fetched at once.
pub const DEFAULT_CONCURRENCY: NonZeroUsize = NonZeroUsize::new(3).expect("three is not zero");

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
    strict_types: bool,
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
            strict_types: false,
        }
    }
}

impl PullOptions {
    /// The host's platform, three fetches at once, no labels, no progress.
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

    /// Adds a handler that sees each node before it is fetched.
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
/// The record is written last, when everything that it needs is there.
///
/// # Errors
/// `NotFound` when there is no such image or it lacks a wanted platform, naming those that it has; `FailedPrecondition` for
/// content of another size or digest than was promised; `InvalidArgument` for a malformed or ambiguous manifest; those of the
/// resolver and the stores.
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
    let leased = LeasedStore::hold(store, Labels::new()).await?;
    let pulled =
        pull_resolved(Arc::clone(&leased) as Arc<dyn Store>, images, resolver, resolved, options).await;
    // What failed is told first; what it fetched may be collected, for nobody is at work on it.
    let released = leased.release().await;
    let image = pulled?;
    released?;
    Ok(image)
}

/// Brings what a name was found to mean into a store where a lease holds it, and records it.
async fn pull_resolved(
    store: Arc<dyn Store>,
    images: &dyn ImageStore,
    resolver: &dyn Resolver,
    resolved: Resolved,
    options: PullOptions,
) -> Result<Image> {
    let sink = Arc::clone(&options.sink);
    let fetcher = resolver.fetcher(&resolved.name).await?;
    // That an image is for other machines is found out before its layers are fetched.
    let ahead = LazyProvider::new(Arc::clone(&store), Arc::clone(&fetcher), options.catalogue.clone())
        .with_sink(Arc::clone(&sink));
    image::check_platform(&ahead, &resolved.descriptor, &options.selection, &options.catalogue).await?;
    let limiter = Arc::new(Semaphore::new(options.concurrency.get()));
    if options.strict_types {
        // So is a type that nobody knows: this fetches documents, and no leaf.
        let types = Children::new(Arc::new(ahead))
            .with_catalogue(options.catalogue.clone())
            .with_selection(options.selection.clone())
            .with_strict_types();
        let root = vec![resolved.descriptor.clone()];
        dispatch(Arc::new(types), root, Some(Arc::clone(&limiter)), options.limits).await?;
    }

    let source = fetcher
        .repository()
        .and_then(|name| DistributionSource::new(Arc::clone(&store) as Arc<dyn Manager>, name));
    let fetch = Fetch::new(Arc::clone(&store), fetcher, Arc::clone(&sink), options.catalogue.clone());
    let children = Children::new(Arc::clone(&store) as Arc<dyn Provider>)
        .with_catalogue(options.catalogue.clone())
        .with_selection(options.selection)
        .with_labels(Arc::clone(&store) as Arc<dyn Manager>)
        .with_sink(Arc::clone(&sink));
    let context = StageContext::new(Arc::clone(&store), &*resolved.name);
    let mut chain = options.handlers;
    chain.extend(stage::handlers(&options.catalogue, Stage::BeforeFetch, &context)?);
    chain.push(Arc::new(fetch));
    chain.extend(source.map(|source| Arc::new(source) as Arc<dyn Handler>));
    chain.extend(stage::handlers(&options.catalogue, Stage::AfterFetch, &context)?);
    chain.push(Arc::new(children));
    let mut handler: Arc<dyn Handler> = Arc::new(Chain::from_iter(chain));
    if let Some(wrapper) = &options.wrapper {
        handler = wrapper(handler);
    }
    dispatch(handler, vec![resolved.descriptor.clone()], Some(limiter), options.limits).await?;

    let image = Image::new(resolved.name, resolved.descriptor).with_labels(options.labels);
    let name = image.name.clone();
    record::put(images, image).await.context(|| format!("cannot record the image {name}"))
}
