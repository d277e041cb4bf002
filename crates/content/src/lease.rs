//! Leases: what holds content that no image names yet.
//!
//! A lease is a record with resources. It holds them until it is removed or expires. A process that is at work holds its lease by a
//! lock as well; while the lock is held the lease is alive whatever the clock says, and a killed process holds none
//! (containerd: `core/leases`, which knows only the clock).

use std::{
    fmt::{self, Debug},
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use jiff::Timestamp;

use crate::{
    descriptor::Descriptor,
    digest::Digest,
    error::{Error, Result},
    filter::{Fields, FilterSet},
    labels::Labels,
    metadata::Metadata,
    store::{
        BlobReader, Exclusive, Info, IngestManager, IngestOptions, Ingester, Manager, Provider, Status,
        Store, Visit, Writer,
    },
    verify::Custodian,
};

/// Label with the time (RFC 3339) after which a lease holds nothing and an image is no root.
pub const LABEL_EXPIRE: &str = "containerd.io/gc.expire";
/// Label of a lease that holds its resources without what their labels refer to.
pub const LABEL_FLAT: &str = "containerd.io/gc.flat";

/// How long the lease of a process lasts that was killed, so that what it fetched can be resumed.
pub const PROCESS_LEASE: Duration = Duration::from_secs(24 * 60 * 60);

/// A lease.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lease {
    /// The id, unique in the store.
    pub id: String,
    /// When it was made.
    pub created_at: SystemTime,
    /// Its labels.
    pub labels: Labels,
}

impl Lease {
    /// Describes a lease without labels.
    pub fn new(id: impl Into<String>, created_at: SystemTime) -> Self {
        Self { id: id.into(), created_at, labels: Labels::new() }
    }

    /// When it expires; `None` where it does not. A time that cannot be read is taken for none.
    pub fn expires_at(&self) -> Option<SystemTime> {
        expiry(&self.labels)
    }
}

impl Fields for Lease {
    fn field(&self, path: &[String]) -> Option<std::borrow::Cow<'_, str>> {
        match path {
            [field] if field == "id" => Some(self.id.as_str().into()),
            [field, key @ ..] if field == "labels" => {
                self.labels.get(&key.join(".")).map(|value| value.as_str().into())
            }
            _ => None,
        }
    }
}

/// The time in [`LABEL_EXPIRE`], where there is one that can be read.
pub fn expiry(labels: &Labels) -> Option<SystemTime> {
    labels.get(LABEL_EXPIRE)?.parse::<Timestamp>().ok().map(SystemTime::from)
}

/// Something that can be held or collected.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Resource {
    /// A blob.
    Content(Digest),
    /// An image record, by name.
    Image(String),
    /// An ingest, by reference.
    Ingest(String),
    /// A lease, by id.
    Lease(String),
    /// An unpacked layer, as `<snapshotter>/<key>`.
    Snapshot(String),
}

impl Resource {
    /// The type as it stands in records and listings.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Content(_) => "content",
            Self::Image(_) => "images",
            Self::Ingest(_) => "ingests",
            Self::Lease(_) => "leases",
            Self::Snapshot(_) => "snapshots",
        }
    }

    /// The id within its type.
    pub fn id(&self) -> &str {
        match self {
            Self::Content(digest) => digest.as_str(),
            Self::Image(id) | Self::Ingest(id) | Self::Lease(id) | Self::Snapshot(id) => id,
        }
    }

    /// Reads a type and an id.
    ///
    /// # Errors
    /// `InvalidArgument` for an unknown type, or a digest that is none.
    pub fn parse(kind: &str, id: &str) -> Result<Self> {
        Ok(match kind {
            "content" => Self::Content(id.parse()?),
            "images" => Self::Image(id.into()),
            "ingests" => Self::Ingest(id.into()),
            "leases" => Self::Lease(id.into()),
            "snapshots" => Self::Snapshot(id.into()),
            _ => {
                return Err(Error::invalid_argument(format!(
                    "{kind:?} is no type of resource: known are content, images, ingests and snapshots"
                )));
            }
        })
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind(), self.id())
    }
}

/// What a new lease is told.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct LeaseOptions {
    /// The id; a random one where there is none.
    pub id: Option<String>,
    /// The labels.
    pub labels: Labels,
    /// How long it lasts from now; for ever where there is no limit.
    pub lasts: Option<Duration>,
}

impl LeaseOptions {
    /// A lease of a random id that lasts for ever.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the id.
    #[must_use]
    pub fn with_id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// Sets the labels.
    #[must_use]
    pub fn with_labels(mut self, labels: Labels) -> Self {
        self.labels = labels;
        self
    }

    /// Sets how long it lasts.
    #[must_use]
    pub fn lasting(mut self, duration: Duration) -> Self {
        self.lasts = Some(duration);
        self
    }
}

/// The lock by which a process holds a lease. Dropping it lets go.
pub trait Hold: Debug + Send + Sync + 'static {}

/// Keeps leases.
#[async_trait]
pub trait LeaseManager: Debug + Send + Sync + 'static {
    /// Makes a lease.
    ///
    /// # Errors
    /// `AlreadyExists` for an id that is taken; `InvalidArgument` for an empty id or a label that is too long.
    async fn create_lease(&self, options: LeaseOptions) -> Result<Lease>;

    /// Makes a lease that this process holds until the lock is dropped, and [`LeaseOptions::lasts`] after it was made in any case.
    ///
    /// # Errors
    /// As [`LeaseManager::create_lease`].
    async fn hold_lease(&self, options: LeaseOptions) -> Result<(Lease, Box<dyn Hold>)>;

    /// Removes a lease; what it held stays until it is collected.
    ///
    /// # Errors
    /// `NotFound`.
    async fn delete_lease(&self, id: &str) -> Result<()>;

    /// Lists the leases that the filters match (`id`, `labels.…`), sorted by id.
    async fn list_leases(&self, filters: &FilterSet) -> Result<Vec<Lease>>;

    /// Whether some process holds the lease by its lock.
    async fn is_held(&self, id: &str) -> Result<bool>;

    /// Adds a resource; one that is there already is a success.
    ///
    /// # Errors
    /// `NotFound` when there is no such lease.
    async fn add_resource(&self, id: &str, resource: &Resource) -> Result<()>;

    /// Adds several resources. They may come one by one: where it fails, some may have been added.
    ///
    /// # Errors
    /// As [`LeaseManager::add_resource`].
    async fn add_resources(&self, id: &str, resources: &[Resource]) -> Result<()> {
        for resource in resources {
            self.add_resource(id, resource).await?;
        }
        Ok(())
    }

    /// Removes a resource.
    ///
    /// # Errors
    /// `NotFound` when there is no such lease, or it does not have the resource.
    async fn delete_resource(&self, id: &str, resource: &Resource) -> Result<()>;

    /// Lists the resources of a lease, sorted.
    ///
    /// # Errors
    /// `NotFound` when there is no such lease.
    async fn resources(&self, id: &str) -> Result<Vec<Resource>>;
}

/// A store under a lease: everything that is written through it, or found there by who wanted to write it, is held.
///
/// # Cancellation
/// Dropped without [`LeasedStore::release`], the lease remains for as long as it lasts, so that what was interrupted can be resumed. One of
/// [`LeasedStore::hold_while_at_work`] lasts no longer than that.
#[derive(Debug)]
pub struct LeasedStore {
    store: Arc<dyn Store>,
    lease: Option<String>,
    /// Let go when this store is no longer used by anybody.
    _hold: Option<Box<dyn Hold>>,
}

impl LeasedStore {
    /// Takes a lease of [`PROCESS_LEASE`] for the work of this process. A store that knows no leases collects nothing and needs none.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn hold(store: Arc<dyn Store>, labels: Labels) -> Result<Arc<Self>> {
        Self::hold_for(store, labels, PROCESS_LEASE).await
    }

    /// Takes a lease for work of this process that leaves nothing to be resumed, such as reading. However the work ends, nothing is held after it:
    /// a collection removes the lease that was not released.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn hold_while_at_work(store: Arc<dyn Store>) -> Result<Arc<Self>> {
        Self::hold_for(store, Labels::new(), Duration::ZERO).await
    }

    async fn hold_for(store: Arc<dyn Store>, labels: Labels, lasts: Duration) -> Result<Arc<Self>> {
        let (lease, hold) = match store.leases() {
            Some(leases) => {
                let options = LeaseOptions::new().with_labels(labels).lasting(lasts);
                let (lease, hold) = leases.hold_lease(options).await?;
                (Some(lease.id), Some(hold))
            }
            None => (None, None),
        };
        Ok(Arc::new(Self { store, lease, _hold: hold }))
    }

    /// Writes under a lease that somebody else keeps.
    pub fn under(store: Arc<dyn Store>, lease: impl Into<String>) -> Arc<Self> {
        Arc::new(Self { store, lease: Some(lease.into()), _hold: None })
    }

    /// The lease's id, where the store knows leases.
    pub fn lease(&self) -> Option<&str> {
        self.lease.as_deref()
    }

    /// Holds a blob that is there, and with it what its labels refer to.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn add(&self, digest: &Digest) -> Result<()> {
        self.add_all([digest]).await
    }

    /// Holds several blobs, as [`LeasedStore::add`] does one. Some may be held where it fails.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn add_all<'a>(&self, digests: impl IntoIterator<Item = &'a Digest> + Send) -> Result<()> {
        let (Some(leases), Some(id)) = (self.store.leases(), &self.lease) else { return Ok(()) };
        let resources: Vec<Resource> =
            digests.into_iter().map(|digest| Resource::Content(digest.clone())).collect();
        leases.add_resources(id, &resources).await
    }

    /// Ends the lease: what it held is by now held by something else, or may go.
    ///
    /// # Errors
    /// Those of the store other than that the lease has gone.
    pub async fn release(&self) -> Result<()> {
        let (Some(leases), Some(id)) = (self.store.leases(), &self.lease) else { return Ok(()) };
        match leases.delete_lease(id).await {
            Err(error) if error.kind() == crate::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }
}

#[async_trait]
impl Provider for LeasedStore {
    async fn reader(&self, descriptor: &Descriptor) -> Result<Arc<dyn BlobReader>> {
        self.store.reader(descriptor).await
    }
}

#[async_trait]
impl Ingester for LeasedStore {
    async fn writer(&self, mut options: IngestOptions) -> Result<Box<dyn Writer>> {
        options.lease.clone_from(&self.lease);
        self.store.writer(options).await
    }
}

#[async_trait]
impl Manager for LeasedStore {
    async fn info(&self, digest: &Digest) -> Result<Info> {
        self.store.info(digest).await
    }

    async fn update(&self, digest: &Digest, labels: &Labels, fieldpaths: &[&str]) -> Result<Info> {
        self.store.update(digest, labels, fieldpaths).await
    }

    async fn walk(&self, filters: &FilterSet, visit: &mut Visit<'_>) -> Result<()> {
        self.store.walk(filters, visit).await
    }

    async fn delete(&self, digest: &Digest) -> Result<()> {
        self.store.delete(digest).await
    }
}

#[async_trait]
impl IngestManager for LeasedStore {
    async fn status(&self, reference: &str) -> Result<Status> {
        self.store.status(reference).await
    }

    async fn list_statuses(&self, filters: &FilterSet) -> Result<Vec<Status>> {
        self.store.list_statuses(filters).await
    }

    async fn abort(&self, reference: &str) -> Result<()> {
        self.store.abort(reference).await
    }
}

#[async_trait]
impl Store for LeasedStore {
    fn metadata(&self) -> Option<&Metadata> {
        self.store.metadata()
    }

    fn leases(&self) -> Option<&dyn LeaseManager> {
        self.store.leases()
    }

    fn custodian(&self) -> Option<&dyn Custodian> {
        self.store.custodian()
    }

    async fn exclusive(&self) -> Result<Option<Exclusive>> {
        self.store.exclusive().await
    }
}
