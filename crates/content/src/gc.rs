//! Collection: mark what is held, sweep the rest.
//!
//! Marking is a pure function over vertices: what is there, what it refers to, whether it is a root. The vertices come from the store
//! itself and from the layers above, each of which knows its own records. No media type is known here: edges are labels.
//!
//! | label (prefixed `containerd.io/gc.`) | edge |
//! |---|---|
//! | `root` | the content is a root |
//! | `ref.content[.x]`, `ref.content[/x]` | to content |
//! | `ref.image[…]` | to an image |
//! | `ref.snapshot.<name>[/x]` | to an unpacked layer |
//! | `bref.content[…]`, `bref.image[…]` | from that content or image to the one with the label |
//! | `expire` | a lease holds nothing after it; an image is no root after it |
//! | `flat` | a lease holds its resources and not what they refer to |

use std::{
    collections::{HashMap, HashSet},
    fmt::Debug,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;

use crate::{
    digest::Digest,
    error::{ErrorKind, Result},
    filter::FilterSet,
    labels::{GC_PREFIX, Labels},
    lease::{LABEL_FLAT, Resource, expiry},
    store::{Exclusive, Store},
};

/// How long an ingest is kept that nobody is at work on, so that it can be resumed.
pub const INGEST_GRACE: Duration = Duration::from_secs(24 * 60 * 60);

/// One thing that may be collected, with what it refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Vertex {
    /// What it is.
    pub resource: Resource,
    /// Whether it is kept for its own sake.
    pub is_root: bool,
    /// Whether what it refers to is kept without what that refers to in turn.
    pub is_flat: bool,
    /// What it keeps.
    pub edges: Vec<Resource>,
    /// Those that keep it.
    pub back_edges: Vec<Resource>,
}

impl Vertex {
    /// Something that refers to nothing.
    pub fn new(resource: Resource, is_root: bool) -> Self {
        Self { resource, is_root, is_flat: false, edges: Vec::new(), back_edges: Vec::new() }
    }

    /// Adds what it keeps.
    #[must_use]
    pub fn with_edges(mut self, edges: impl IntoIterator<Item = Resource>) -> Self {
        self.edges.extend(edges);
        self
    }

    /// Adds the edges that its labels make. A value that names nothing is passed over.
    #[must_use]
    pub fn with_labels(mut self, labels: &Labels) -> Self {
        for (key, value) in labels {
            let Some(key) = key.strip_prefix(GC_PREFIX) else { continue };
            if let Some(rest) = key.strip_prefix("ref.") {
                self.edges.extend(referred(rest, value));
            } else if let Some(rest) = key.strip_prefix("bref.") {
                // An unpacked layer refers; nothing refers back by way of one.
                self.back_edges
                    .extend(referred(rest, value).filter(|to| !matches!(to, Resource::Snapshot(_))));
            } else if key == "flat" {
                self.is_flat = true;
            } else if key == "root" && matches!(self.resource, Resource::Content(_)) {
                self.is_root = true;
            }
        }
        self
    }
}

/// What `content.l.0` = `sha256:…` and the like refer to.
fn referred(key: &str, value: &str) -> Option<Resource> {
    let is_suffix = |rest: &str| rest.is_empty() || rest.starts_with(['.', '/']);
    if key.strip_prefix("content").is_some_and(is_suffix) {
        return value.parse::<Digest>().ok().map(Resource::Content);
    }
    if key.strip_prefix("image").is_some_and(is_suffix) {
        return Some(Resource::Image(value.to_owned()));
    }
    let name = key.strip_prefix("snapshot.")?.split('/').next().filter(|name| !name.is_empty())?;
    Some(Resource::Snapshot(format!("{name}/{value}")))
}

/// Finds everything that roots keep.
pub fn mark(vertices: &[Vertex]) -> HashSet<Resource> {
    let mut edges: HashMap<&Resource, Vec<&Resource>> =
        vertices.iter().map(|vertex| (&vertex.resource, Vec::new())).collect();
    let mut flat: HashSet<&Resource> = HashSet::new();
    for vertex in vertices {
        edges.entry(&vertex.resource).or_default().extend(&vertex.edges);
        for parent in &vertex.back_edges {
            // What is not there keeps nothing.
            if let Some(below) = edges.get_mut(parent) {
                below.push(&vertex.resource);
            }
        }
        if vertex.is_flat {
            flat.insert(&vertex.resource);
        }
    }
    // What a flat vertex keeps is marked and not followed, unless something else leads there too.
    let (mut followed, mut kept) = (HashSet::new(), HashSet::new());
    let mut stack: Vec<&Resource> =
        vertices.iter().filter(|vertex| vertex.is_root).map(|vertex| &vertex.resource).collect();
    while let Some(resource) = stack.pop() {
        if !followed.insert(resource) {
            continue;
        }
        let below = edges.get(resource).into_iter().flatten();
        if flat.contains(resource) { kept.extend(below) } else { stack.extend(below) }
    }
    followed.union(&kept).map(|resource| (*resource).clone()).collect()
}

/// A layer with records of its own that keep content, or are kept.
#[async_trait]
pub trait Source: Debug + Send + Sync {
    /// Everything of this layer.
    ///
    /// # Errors
    /// Any; nothing is then collected.
    async fn vertices(&self, now: SystemTime) -> Result<Vec<Vertex>>;

    /// Removes one of them that nothing keeps.
    ///
    /// # Errors
    /// Any but that it has gone already.
    async fn remove(&self, resource: &Resource) -> Result<()>;
}

/// How a collection is made.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CollectOptions {
    /// Only tell what would go.
    pub is_dry_run: bool,
    /// The time by which leases, images and ingests have expired.
    pub now: SystemTime,
}

impl Default for CollectOptions {
    fn default() -> Self {
        Self { is_dry_run: false, now: SystemTime::now() }
    }
}

impl CollectOptions {
    /// Collects by the system's clock.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only tells what would go.
    #[must_use]
    pub fn dry_run(mut self) -> Self {
        self.is_dry_run = true;
        self
    }

    /// Collects as if it were this time.
    #[must_use]
    pub fn at(mut self, now: SystemTime) -> Self {
        self.now = now;
        self
    }
}

/// Something that was collected, or would be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Collected {
    /// What it was.
    pub resource: Resource,
    /// How many bytes it had; zero for records.
    pub size: u64,
}

/// Collects a store that nobody else changes meanwhile: removes whatever no root keeps, and gives it sorted.
///
/// Roots are leases that have not expired or that a process holds, content with the label `gc.root`, and what the sources say. Ingests stay
/// while a writer has them, and for [`INGEST_GRACE`] after; those without a byte go at once and untold,
/// unless a lease has them. A blob that is lost, in quarantine
/// say, keeps what its labels refer to as if it were there; when nothing keeps it either, its labels go, untold.
///
/// # Errors
/// Those of the store and the sources. What was removed before an error is gone; all that is kept is whole.
///
/// # Cancellation
/// As an error.
pub async fn collect(
    exclusive: &Exclusive,
    sources: &[&dyn Source],
    options: &CollectOptions,
) -> Result<Vec<Collected>> {
    let store = exclusive.store();
    let Graph { vertices, sizes, lost } = graph(store, sources, options.now).await?;
    let marked = mark(&vertices);
    let mut collected = Vec::new();
    for vertex in vertices.into_iter().filter(|vertex| !marked.contains(&vertex.resource)) {
        let resource = vertex.resource;
        if lost.contains(&resource) {
            if let (Resource::Content(digest), Some(custodian), false) =
                (&resource, store.custodian(), options.is_dry_run)
            {
                custodian.forget(digest).await?;
            }
            continue;
        }
        if !options.is_dry_run {
            remove(exclusive, sources, &resource).await?;
        }
        let size = sizes.get(&resource).copied().unwrap_or(0);
        collected.push(Collected { resource, size });
    }
    for status in store.list_statuses(&FilterSet::all()).await? {
        let is_recent =
            options.now.duration_since(status.updated_at).map_or(true, |unused| unused < INGEST_GRACE);
        let resource = Resource::Ingest(status.reference);
        if status.offset == 0 && !options.is_dry_run && !marked.contains(&resource) {
            // There is nothing in it to resume; a writer that is at work on it keeps it.
            drop(store.abort(resource.id()).await);
            continue;
        }
        if is_recent || marked.contains(&resource) {
            continue;
        }
        let Resource::Ingest(reference) = &resource else { continue };
        let removed = if options.is_dry_run { Ok(()) } else { store.abort(reference).await };
        match removed {
            Ok(()) => collected.push(Collected { resource, size: status.offset }),
            // A writer is at work on it, or has just finished.
            Err(error) if matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::NotFound) => {}
            Err(error) => return Err(error),
        }
    }
    collected.sort();
    Ok(collected)
}

/// Finds what is kept now, of what is there and of what is lost, by the store's own leases and labels and by the sources.
///
/// # Errors
/// Those of the store and the sources.
///
/// # Cancellation
/// Nothing is changed.
pub async fn kept(store: &dyn Store, sources: &[&dyn Source], now: SystemTime) -> Result<HashSet<Resource>> {
    Ok(mark(&graph(store, sources, now).await?.vertices))
}

/// All vertices, the sizes of content, and which of it is lost.
struct Graph {
    vertices: Vec<Vertex>,
    sizes: HashMap<Resource, u64>,
    lost: HashSet<Resource>,
}

async fn graph(store: &dyn Store, sources: &[&dyn Source], now: SystemTime) -> Result<Graph> {
    let mut vertices = Vec::new();
    for source in sources {
        vertices.extend(source.vertices(now).await?);
    }
    vertices.extend(leases(store, now).await?);
    let mut sizes = HashMap::new();
    let mut visit = |info: crate::Info| {
        let resource = Resource::Content(info.digest);
        sizes.insert(resource.clone(), info.size);
        vertices.push(Vertex::new(resource, false).with_labels(&info.labels));
        Ok(())
    };
    store.walk(&FilterSet::all(), &mut visit).await?;
    // After the walk: what goes into quarantine in between is seen by both.
    let every = match store.custodian() {
        Some(custodian) => custodian.lost().await?,
        None => Vec::new(),
    };
    let mut lost = HashSet::new();
    for gone in every {
        let resource = Resource::Content(gone.digest);
        if sizes.contains_key(&resource) {
            continue;
        }
        let mut vertex = Vertex::new(resource.clone(), false).with_labels(&gone.labels);
        // Who deletes what is in quarantine lets go of what its own label kept.
        vertex.is_root &= gone.is_quarantined;
        vertices.push(vertex);
        lost.insert(resource);
    }
    Ok(Graph { vertices, sizes, lost })
}

async fn leases(store: &dyn Store, now: SystemTime) -> Result<Vec<Vertex>> {
    let mut vertices = Vec::new();
    let Some(leases) = store.leases() else { return Ok(vertices) };
    for lease in leases.list_leases(&FilterSet::all()).await? {
        let has_expired = expiry(&lease.labels).is_some_and(|at| at <= now);
        let is_root = !has_expired || leases.is_held(&lease.id).await?;
        let mut vertex = Vertex::new(Resource::Lease(lease.id.clone()), is_root);
        vertex.is_flat = lease.labels.contains_key(LABEL_FLAT);
        match leases.resources(&lease.id).await {
            // Its work has ended since it was listed.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            resources => vertices.push(vertex.with_edges(resources?)),
        }
    }
    Ok(vertices)
}

async fn remove(exclusive: &Exclusive, sources: &[&dyn Source], resource: &Resource) -> Result<()> {
    let store = exclusive.store();
    let removed = match (resource, store.leases()) {
        (Resource::Content(digest), _) => store.delete(digest).await,
        (Resource::Lease(id), Some(leases)) => leases.delete_lease(id).await,
        _ => {
            for source in sources {
                source.remove(resource).await?;
            }
            Ok(())
        }
    };
    match removed {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}
