//! Repairing a store: what is damaged is moved out of the way and fetched again from where it came.
//!
//! Written against the traits of `wharf-images` alone. What comes is verified by the store as any content is; what went is in
//! quarantine, whether anything came or not. What only a lease or a label keeps is fetched as the documents of the store describe it, or
//! by its digest, where none does. What was made here, by a conversion, is made again.

mod remade;
mod wanted;

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    fmt,
    num::NonZeroUsize,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use futures_util::{StreamExt, stream};
use wharf_content::{
    Catalogue, Descriptor, Digest, Error, ErrorKind, Labels, LeasedStore, Manager, Provider, Resource,
    Result, Store,
    filter::FilterSet,
    gc,
    labels::GC_REF_CONTENT,
    verify::{Custodian, Stray, VerifyOptions},
};
use wharf_images::{
    Children, Handler, ImageStore, media_types,
    progress::{Silent, Sink},
    transport::Resolver,
    verify::{Report, check_again},
};

use crate::{
    error::RemoteError,
    fetch::fetch_into,
    pull::DEFAULT_CONCURRENCY,
    source::{DistributionSource, repositories},
};

use wanted::{Wanted, descriptions, is_parent};

/// How a store is repaired.
#[derive(Clone)]
#[non_exhaustive]
pub struct RepairOptions {
    concurrency: NonZeroUsize,
    verify: VerifyOptions,
    sink: Arc<dyn Sink>,
    catalogue: Catalogue,
}

impl Default for RepairOptions {
    fn default() -> Self {
        Self {
            concurrency: DEFAULT_CONCURRENCY,
            verify: VerifyOptions::default(),
            sink: Arc::new(Silent),
            catalogue: Catalogue::linked().clone(),
        }
    }
}

impl RepairOptions {
    /// Six fetches at once, no progress.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many pieces of content are fetched at once.
    #[must_use]
    pub fn with_concurrency(mut self, concurrency: NonZeroUsize) -> Self {
        self.concurrency = concurrency;
        self
    }

    /// How what comes to light is verified.
    #[must_use]
    pub fn with_verify(mut self, verify: VerifyOptions) -> Self {
        self.verify = verify;
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
}

impl fmt::Debug for RepairOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RepairOptions").field("concurrency", &self.concurrency).finish_non_exhaustive()
    }
}

/// What was done about a report, and what could not be.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Repaired {
    /// The damaged blobs that were moved away, and where they are now.
    pub quarantined: Vec<(Digest, PathBuf)>,
    /// What was no blob or no ingest and was moved away, and where it is now.
    pub moved: Vec<(Stray, PathBuf)>,
    /// What was fetched, and the repository that it came from.
    pub fetched: Vec<(Digest, String)>,
    /// Whether the view of the records was written again.
    pub is_view_rewritten: bool,
    /// Whether the file `oci-layout` was written again.
    pub is_layout_rewritten: bool,
    /// What could not be done. The digest is that of the blob concerned, where it is one.
    pub failed: Vec<(Option<Digest>, Error)>,
    /// What is wrong now.
    pub left: Report,
}

/// Puts right what `report` says is wrong, as far as that can be done.
///
/// Damaged blobs and strays are moved into quarantine; what images need, and what leases and labels keep, is fetched, verified and held
/// again, documents first and then what they turn out to need. Blobs that nothing keeps are not fetched. The view of the records and the
/// file `oci-layout` are written again.
///
/// # Errors
/// Those of the store: no room, no permission. That something cannot be moved or fetched is in the result and no error.
///
/// # Cancellation
/// What was moved is in quarantine, what was fetched is in the store, and the next repair goes on there. A lease keeps what damaged
/// documents refer to from collection meanwhile.
pub async fn repair(
    store: Arc<dyn Store>,
    images: &dyn ImageStore,
    resolver: &dyn Resolver,
    report: Report,
    options: &RepairOptions,
) -> Result<Repaired> {
    let leased = LeasedStore::hold(store, Labels::new()).await?;
    let mut repair = Repair {
        store: Arc::clone(&leased) as Arc<dyn Store>,
        leased: Arc::clone(&leased),
        images,
        resolver,
        options,
        sources: BTreeMap::new(),
        tried: BTreeSet::new(),
        gone: Mutex::default(),
        done: Repaired { left: report, ..Repaired::default() },
    };
    let outcome = repair.run().await;
    let done = repair.done;
    let released = leased.release().await;
    outcome?;
    released?;
    Ok(done)
}

struct Repair<'a> {
    store: Arc<dyn Store>,
    leased: Arc<LeasedStore>,
    images: &'a dyn ImageStore,
    resolver: &'a dyn Resolver,
    options: &'a RepairOptions,
    /// The labels that damaged blobs had.
    sources: BTreeMap<Digest, Labels>,
    tried: BTreeSet<Digest>,
    /// Domains that could not be reached, and why: they are not tried for every blob.
    gone: Mutex<BTreeMap<String, String>>,
    done: Repaired,
}

impl Repair<'_> {
    async fn run(&mut self) -> Result<()> {
        // Before anything is held for this repair.
        self.find_kept().await?;
        self.move_strays().await;
        self.rewrite_layout().await?;
        if self.done.left.view.is_some() {
            match self.images.rewrite_view().await {
                Ok(()) => self.done.is_view_rewritten = true,
                Err(error) => self.done.failed.push((None, error.context("cannot write index.json again"))),
            }
            self.done.left.view = self.images.stale_view().await?;
        }
        loop {
            self.quarantine().await?;
            let (options, left) = (self.options, &mut self.done.left);
            let store = Arc::clone(&self.store);
            check_again(store, self.images, left, &options.verify, &options.catalogue).await?;
            self.drop_found().await?;
            let wanted = self.wanted().await?;
            if wanted.is_empty() && left_untried(&self.done.left, &self.tried).next().is_none() {
                return Ok(());
            }
            self.fetch(wanted).await?;
        }
    }

    /// Notes which of the damaged blobs that no image needs are kept by a lease or a label, and what labels all of those have.
    async fn find_kept(&mut self) -> Result<()> {
        let left = &self.done.left;
        let unnamed: Vec<Digest> =
            left.damaged.keys().filter(|digest| left.images_of(digest).next().is_none()).cloned().collect();
        if !unnamed.is_empty() {
            let kept = gc::kept(self.store.as_ref(), &[], SystemTime::now()).await?;
            let is_kept = |digest: &Digest| kept.contains(&Resource::Content(digest.clone()));
            self.done.left.lost.extend(unnamed.into_iter().filter(is_kept));
        }
        let Some(custodian) = self.store.custodian() else { return Ok(()) };
        for digest in &self.done.left.lost {
            // They are advice: what cannot be read gives none.
            self.sources.insert(digest.clone(), custodian.labels(digest).await.unwrap_or_default());
        }
        Ok(())
    }

    /// Drops of what was lost whatever is there, damaged or whole, and what an image turned out to need.
    async fn drop_found(&mut self) -> Result<()> {
        for digest in self.done.left.lost.clone() {
            let is_absent = match self.store.info(&digest).await {
                Err(error) if error.kind() == ErrorKind::ResourceExhausted => return Err(error),
                Err(error) => error.kind() == ErrorKind::NotFound,
                Ok(_) => false,
            };
            if !is_absent || self.done.left.images_of(&digest).next().is_some() {
                self.done.left.lost.remove(&digest);
            }
        }
        Ok(())
    }

    async fn rewrite_layout(&mut self) -> Result<()> {
        let Some(custodian) = self.store.custodian().filter(|_| self.done.left.layout.is_some()) else {
            return Ok(());
        };
        match custodian.rewrite_layout().await {
            Ok(()) => self.done.is_layout_rewritten = true,
            Err(error) => self.done.failed.push((None, error.context("cannot write oci-layout again"))),
        }
        self.done.left.layout = custodian.census().await?.layout;
        Ok(())
    }

    async fn move_strays(&mut self) {
        for stray in std::mem::take(&mut self.done.left.strays) {
            let moved = match self.store.custodian() {
                Some(custodian) => custodian.quarantine_stray(&stray).await,
                None => Err(Error::not_implemented("this store has no quarantine")),
            };
            match moved {
                Ok(Some(place)) => self.done.moved.push((stray, place)),
                Ok(None) => {}
                Err(error) => {
                    self.done.failed.push((None, error));
                    self.done.left.strays.push(stray);
                }
            }
        }
    }

    /// Moves away what is damaged, after what it refers to is held.
    async fn quarantine(&mut self) -> Result<()> {
        let damaged: Vec<Digest> = left_untried(&self.done.left, &self.tried).cloned().collect();
        for digest in damaged {
            self.tried.insert(digest.clone());
            let outcome = match self.store.custodian() {
                Some(custodian) => self.quarantine_one(custodian, &digest).await,
                None => Err(Error::not_implemented("this store has no quarantine")),
            };
            match outcome {
                Ok((labels, place)) => {
                    self.sources.insert(digest.clone(), labels);
                    self.done.left.damaged.remove(&digest);
                    self.done.quarantined.extend(place.map(|place| (digest, place)));
                }
                Err(error) if error.kind() == ErrorKind::ResourceExhausted => return Err(error),
                Err(error) => self.done.failed.push((Some(digest), error)),
            }
        }
        Ok(())
    }

    async fn quarantine_one(
        &self,
        custodian: &dyn Custodian,
        digest: &Digest,
    ) -> Result<(Labels, Option<PathBuf>)> {
        let labels = custodian.labels(digest).await?;
        // While the document is away, nothing else keeps its children from being collected.
        for (_, value) in labels.iter().filter(|(key, _)| key.starts_with(GC_REF_CONTENT)) {
            if let Ok(child) = value.parse() {
                self.leased.add(&child).await?;
            }
        }
        let place = custodian.quarantine(digest).await?;
        Ok((labels, place))
    }

    /// What is lacking, each once, and was not asked for yet. What could not be moved away cannot be fetched.
    async fn wanted(&self) -> Result<Vec<Wanted>> {
        let left = &self.done.left;
        let is_new = |digest: &Digest| {
            (!self.tried.contains(digest) || self.sources.contains_key(digest))
                && !left.damaged.contains_key(digest)
        };
        let mut wanted: BTreeMap<Digest, Wanted> = BTreeMap::new();
        for fault in left.faults.iter().filter(|fault| fault.problem.is_fetchable()) {
            let descriptor = &fault.descriptor;
            if is_new(&descriptor.digest) {
                let described = || Wanted::Described(Box::new(descriptor.clone()));
                wanted.entry(descriptor.digest.clone()).or_insert_with(described);
            }
        }
        let lost = left.lost.iter().filter(|digest| is_new(digest) && !wanted.contains_key(digest));
        let lost: BTreeSet<Digest> = lost.cloned().collect();
        if !lost.is_empty() {
            let described = descriptions(self.store.as_ref(), &lost, &self.options.catalogue).await?;
            let (documents, others): (Vec<Digest>, Vec<Digest>) = lost
                .into_iter()
                .filter(|digest| !described.contains_key(digest))
                .partition(|digest| self.sources.get(digest).is_some_and(is_parent));
            // Documents first: once they are here, they describe the others.
            let named = if documents.is_empty() { others } else { documents };
            wanted.extend(named.into_iter().map(|digest| (digest.clone(), Wanted::Named(digest))));
            let described = described.into_iter();
            wanted.extend(described.map(|(digest, found)| (digest, Wanted::Described(Box::new(found)))));
        }
        Ok(wanted.into_values().collect())
    }

    async fn fetch(&mut self, wanted: Vec<Wanted>) -> Result<()> {
        let every = self.images.list(&FilterSet::all()).await?;
        let mut work = Vec::with_capacity(wanted.len());
        for wanted in wanted {
            let digest = wanted.digest();
            self.tried.insert(digest.clone());
            let names: Vec<&str> = self.done.left.images_of(digest).collect();
            let mut labels = self.sources.remove(digest).unwrap_or_default();
            if labels.is_empty() {
                labels = self.labels_around(digest, &names).await;
            }
            let others = every.iter().map(|image| image.name.as_str());
            let places = repositories(&labels, names.iter().copied(), others);
            let names: Vec<String> = names.into_iter().map(str::to_owned).collect();
            work.push((wanted, places, names));
        }
        let this = &*self;
        let fetches = work.into_iter().map(|(wanted, places, names)| async move {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            (wanted.digest().clone(), this.fetch_one(&wanted, &places, &names).await)
        });
        let outcomes: Vec<_> =
            stream::iter(fetches).buffer_unordered(self.options.concurrency.get()).collect().await;
        for (digest, outcome) in outcomes {
            match outcome {
                Ok(place) => self.done.fetched.push((digest, place)),
                // There is no room here, and none for the next one.
                Err(error)
                    if error.kind() == ErrorKind::ResourceExhausted && RemoteError::of(&error).is_none() =>
                {
                    return Err(error);
                }
                Err(error) => self.done.failed.push((Some(digest), error)),
            }
        }
        Ok(())
    }

    /// The labels that it had, or those of the images that it belongs to. They are advice: what cannot be read gives none.
    async fn labels_around(&self, digest: &Digest, names: &[&str]) -> Labels {
        let custodian = self.store.custodian();
        let targets = self.done.left.images.iter().filter(|image| names.contains(&image.name.as_str()));
        for digest in [digest].into_iter().chain(targets.map(|image| &image.target.digest)) {
            let labels = match custodian {
                Some(custodian) => custodian.labels(digest).await,
                None => self.store.info(digest).await.map(|info| info.labels),
            };
            if let Some(labels) = labels.ok().filter(|labels| !labels.is_empty()) {
                return labels;
            }
        }
        Labels::new()
    }

    /// Tries one repository after the other, and gives the one that had it.
    async fn fetch_one(&self, wanted: &Wanted, places: &[String], names: &[&str]) -> Result<String> {
        let digest = wanted.digest();
        let mut failed: Vec<(String, Error)> = Vec::new();
        for place in places {
            let domain = place.split_once('/').map_or(place.as_str(), |(domain, _)| domain);
            if let Some(reason) = self.gone().get(domain) {
                failed.push((place.clone(), Error::unavailable(reason.clone())));
                continue;
            }
            let Err(error) = self.bring(wanted, place, names).await else { return Ok(place.clone()) };
            match error.kind() {
                ErrorKind::ResourceExhausted if RemoteError::of(&error).is_none() => return Err(error),
                ErrorKind::Unavailable => {
                    self.gone().insert(domain.to_owned(), error.report());
                }
                _ => {}
            }
            failed.push((place.clone(), error));
        }
        if failed.len() < 2 {
            return Err(match failed.pop() {
                Some((place, error)) => error.context(format!("cannot fetch {digest} again from {place}")),
                None => Error::not_found(format!(
                    "cannot fetch {digest} again: nothing says where it came from; pull or import the image again"
                )),
            });
        }
        let told: Vec<String> =
            failed.iter().map(|(place, error)| format!("from {place}: {}", error.report())).collect();
        let (_, first) = failed.swap_remove(0);
        Err(Error::new(first.kind(), format!("cannot fetch {digest} again: {}", told.join("; "))))
    }

    fn gone(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, String>> {
        self.gone.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes it again where it was made here, and fetches it otherwise.
    async fn bring(&self, wanted: &Wanted, place: &str, names: &[&str]) -> Result<()> {
        if self.remake(wanted.digest(), place).await? {
            return Ok(());
        }
        let outcome = self.fetch_from(wanted, place).await;
        match (&outcome, wanted) {
            (Err(error), Wanted::Described(descriptor))
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::FailedPrecondition)
                    && self.remake_by_name(descriptor, names, place).await? =>
            {
                Ok(())
            }
            _ => outcome,
        }
    }

    async fn fetch_from(&self, wanted: &Wanted, place: &str) -> Result<()> {
        let descriptor = match wanted {
            Wanted::Described(descriptor) => Cow::Borrowed(descriptor.as_ref()),
            Wanted::Named(digest) => {
                // The size is the registry's word; the digest is what the store holds the bytes to.
                let resolved = self.resolver.resolve(&format!("{place}@{digest}")).await?.descriptor;
                if media_types::is_schema1(&resolved.media_type) {
                    // Its digest is of what was signed, so that it comes with what it is converted to, or not at all.
                    return self.convert(&resolved, digest, place).await.map(drop);
                }
                Cow::Owned(Descriptor::new(resolved.media_type, digest.clone(), resolved.size))
            }
        };
        let descriptor = descriptor.as_ref();
        let fetcher = self.resolver.fetcher(place).await?;
        let (sink, catalogue) = (self.options.sink.as_ref(), &self.options.catalogue);
        fetch_into(self.store.as_ref(), fetcher.as_ref(), descriptor, sink, catalogue).await?;
        let manager = || Arc::clone(&self.store) as Arc<dyn Manager>;
        if let Some(source) = fetcher.repository().and_then(|name| DistributionSource::new(manager(), name)) {
            source.label(&descriptor.digest).await?;
        }
        self.hold_children(descriptor).await
    }

    /// Labels a document with what it refers to.
    async fn hold_children(&self, descriptor: &Descriptor) -> Result<()> {
        let children = Children::new(Arc::clone(&self.store) as Arc<dyn Provider>)
            .with_catalogue(self.options.catalogue.clone())
            .with_labels(Arc::clone(&self.store) as Arc<dyn Manager>);
        match children.handle(descriptor).await {
            // It is what it should be; that it makes no sense comes to light when it is checked.
            Err(error) if matches!(error.kind(), ErrorKind::InvalidArgument | ErrorKind::NotImplemented) => {
                Ok(())
            }
            handled => handled.map(drop),
        }
    }
}

/// The damaged blobs that nothing was tried with yet.
fn left_untried<'a>(left: &'a Report, tried: &'a BTreeSet<Digest>) -> impl Iterator<Item = &'a Digest> {
    left.damaged.keys().filter(|digest| !tried.contains(*digest))
}
