//! A registry over a store: what is in the store can be pulled from it, and what is pushed to it is an image of the store.
//!
//! It speaks the distribution specification of the OCI, version 1.1, over HTTP/1.1: pulls with ranges, pushes in one piece or many,
//! mounts, tags with pages, referrers. Bodies stream both ways in bounded memory, and uploads are ingests of the store, so that they
//! outlive a restart.
//!
//! ```text
//! request ─> route::Call ─> handlers: blobs, uploads, manifests, push, tags, referrers ─> Reply or Refusal
//!            pure, no I/O   the only ones that touch the store                            JSON of the specification
//! ```
//!
//! # Names
//! A record of the store is named `domain/path:tag`. A request for repository `R` and tag `T` finds, in this order: the record `R:T`
//! where `R` itself begins with a domain; the record in the domain of the request's `Host` header; the one of Docker Hub, normalised
//! as Docker does it; any other record whose path is `R` and whose tag is `T`, the most recently changed one. A push of `R:T` names
//! its record after the `Host` header, or `R:T` where `R` begins with a domain. Manifests by digest and blobs are those of the whole
//! store, whatever the repository; what was deleted in one repository is gone in that one, and images of other registries stay in the
//! store.
//!
//! What was pushed and is part of no image yet is held for [`UPLOAD_GRACE`] and more, in this process or after it.
//!
//! With a [`Proxy`] it is a cache of another registry, and names mean what they mean there.
//!
//! # What it deliberately does not do
//! No rights of single users: whoever is let in, by a [password](RegistryOptions::with_passwords) or because there are none, can name any
//! image of a registry that is not [read-only](RegistryOptions::with_read_only). No conversion of manifests: the bytes are those that came, whatever `Accept` says.

mod access;
mod blobs;
mod body;
mod condition;
mod connection;
mod delete;
mod keep;
mod manifests;
mod media_type;
mod metrics;
mod names;
mod origin;
mod page_cache;
mod parking;
mod passwords;
mod proxy;
mod push;
mod range;
mod referrers;
mod refusal;
mod reply;
mod request_body;
mod room;
mod route;
mod sendfile;
mod stamp;
mod tags;
mod tls;
mod tuning;
mod uploads;
mod write_timeout;

use std::{fmt, sync::Arc, time::Duration};

use http::request::Parts;
use tokio::sync::{Mutex, Semaphore};
use wharf_content::{Catalogue, Store};
use wharf_images::ImageStore;

use self::{
    access::Access,
    keep::Keeper,
    metrics::Metrics,
    names::Host,
    parking::Parking,
    proxy::Relay,
    refusal::Refusal,
    reply::Reply,
    request_body::RequestBody,
    room::Room,
    route::{Call, Reference},
};
pub use self::{
    access::{AccessRecord, Observer},
    connection::serve,
    delete::LABEL_DELETED,
    media_type::LABEL_MEDIA_TYPE,
    passwords::Passwords,
    proxy::{PROXY_PATIENCE, PROXY_TTL, Proxy, Upstream},
    push::LABEL_PUSHED,
    referrers::LABEL_SUBJECT,
    tls::Tls,
};

/// The most bytes that a pushed manifest has: what the specification asks every registry to take ("Pushing Manifests").
pub const MAX_MANIFEST_LEN: u64 = 4 * 1024 * 1024;
/// The bytes that large manifests may have together while they are pushed; more wait to be read.
pub const MANIFEST_MEMORY: u64 = 64 * 1024 * 1024;
/// How long a client may take to send the head of a request; an idle connection is closed after it, too.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a client may take between two pieces of a body.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a client may take nothing of an answer. The system may tell of room only when a third of what it keeps for a client has gone, so
/// this is not to be much shorter.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(120);
/// How long requests may go on after the shutdown of [`serve`].
pub const SHUTDOWN_GRACE: Duration = Duration::from_secs(10);
/// How long content is held at least after it was pushed, or was found to be there by who wanted to push it.
pub const UPLOAD_GRACE: Duration = Duration::from_secs(60 * 60);
/// How long an upload is kept open after a request, for the next one to go on with it without reading anything again. Meanwhile another process
/// cannot go on with it.
pub const UPLOAD_IDLE: Duration = Duration::from_secs(10);
/// The most connections that are served at the same time; more wait to be accepted.
pub const MAX_CONNECTIONS: usize = 512;

/// The most manifests that are taken in at the same time.
const MAX_PUSHES: usize = 64;

/// How a registry behaves.
#[derive(Clone)]
#[non_exhaustive]
pub struct RegistryOptions {
    catalogue: Catalogue,
    read_only: bool,
    complete_manifests: bool,
    max_manifest_len: u64,
    manifest_memory: u64,
    header_timeout: Duration,
    body_timeout: Duration,
    write_timeout: Duration,
    shutdown_grace: Duration,
    upload_grace: Duration,
    upload_idle: Duration,
    max_connections: usize,
    passwords: Option<Arc<Passwords>>,
    tls: Option<Tls>,
    observer: Option<Observer>,
    proxy: Option<Proxy>,
}

impl Default for RegistryOptions {
    fn default() -> Self {
        Self {
            catalogue: Catalogue::linked().clone(),
            read_only: false,
            complete_manifests: false,
            max_manifest_len: MAX_MANIFEST_LEN,
            manifest_memory: MANIFEST_MEMORY,
            header_timeout: HEADER_TIMEOUT,
            body_timeout: BODY_TIMEOUT,
            write_timeout: WRITE_TIMEOUT,
            shutdown_grace: SHUTDOWN_GRACE,
            upload_grace: UPLOAD_GRACE,
            upload_idle: UPLOAD_IDLE,
            max_connections: MAX_CONNECTIONS,
            passwords: None,
            tls: None,
            observer: None,
            proxy: None,
        }
    }
}

impl RegistryOptions {
    /// Reads pushed manifests with the decoders of this catalogue; by default those that are linked.
    #[must_use]
    pub fn with_catalogue(mut self, catalogue: Catalogue) -> Self {
        self.catalogue = catalogue;
        self
    }

    /// Refuses everything that would change the store (405, `UNSUPPORTED`). A [proxy](Self::with_proxy) gives what is there and fetches nothing.
    #[must_use]
    pub fn with_read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// Refuses manifests whose blobs are not there (404, `MANIFEST_BLOB_UNKNOWN`). By default they are taken, with a `Warning` in the answer,
    /// as the specification has it for sparse manifests. What an index lists need never be there.
    #[must_use]
    pub fn with_complete_manifests(mut self) -> Self {
        self.complete_manifests = true;
        self
    }

    /// Is a cache of another registry, whose images it fetches when somebody asks for them. What would change the store is refused
    /// (405, `UNSUPPORTED`).
    ///
    /// # Security
    /// Whoever may ask here is given what the proxy's resolver may have there.
    #[must_use]
    pub fn with_proxy(mut self, proxy: Proxy) -> Self {
        self.proxy = Some(proxy);
        self
    }

    /// Takes manifests of at most so many bytes; [`MAX_MANIFEST_LEN`] by default.
    #[must_use]
    pub fn with_max_manifest_len(mut self, bytes: u64) -> Self {
        self.max_manifest_len = bytes;
        self
    }

    /// Takes in large manifests at the same time as long as they have at most so many bytes together; [`MANIFEST_MEMORY`] by default. Others wait
    /// for as long as a body is waited for (503, `UNAVAILABLE`). One that is larger is taken in alone.
    #[must_use]
    pub fn with_manifest_memory(mut self, bytes: u64) -> Self {
        self.manifest_memory = bytes;
        self
    }

    /// Waits so long for the head of a request; [`HEADER_TIMEOUT`] by default.
    #[must_use]
    pub fn with_header_timeout(mut self, timeout: Duration) -> Self {
        self.header_timeout = timeout;
        self
    }

    /// Waits so long for the next piece of a body; [`BODY_TIMEOUT`] by default. All of them together may take as long, and a second more for
    /// each 500 bytes that came (16 KiB of a large manifest; 408).
    #[must_use]
    pub fn with_body_timeout(mut self, timeout: Duration) -> Self {
        self.body_timeout = timeout;
        self
    }

    /// Waits so long for a client that takes nothing of an answer, then ends its connection; [`WRITE_TIMEOUT`] by default.
    #[must_use]
    pub fn with_write_timeout(mut self, timeout: Duration) -> Self {
        self.write_timeout = timeout;
        self
    }

    /// Lets requests go on so long after a shutdown; [`SHUTDOWN_GRACE`] by default.
    #[must_use]
    pub fn with_shutdown_grace(mut self, grace: Duration) -> Self {
        self.shutdown_grace = grace;
        self
    }

    /// Holds what was pushed and is part of no image yet at least so long; [`UPLOAD_GRACE`] by default.
    #[must_use]
    pub fn with_upload_grace(mut self, grace: Duration) -> Self {
        self.upload_grace = grace;
        self
    }

    /// Keeps uploads open so long between their requests; [`UPLOAD_IDLE`] by default. Nothing at all suits registries that share a store and the
    /// requests of one upload: each request then hashes again what came before it.
    #[must_use]
    pub fn with_upload_idle(mut self, idle: Duration) -> Self {
        self.upload_idle = idle;
        self
    }

    /// Serves so many connections at the same time, at least one; [`MAX_CONNECTIONS`] by default.
    #[must_use]
    pub fn with_max_connections(mut self, connections: usize) -> Self {
        self.max_connections = connections.max(1);
        self
    }

    /// Answers only users who show one of these passwords (401, `UNAUTHORIZED`).
    ///
    /// # Security
    /// Passwords go over the connection as they are: use [TLS](Self::with_tls), or one that nobody listens to.
    #[must_use]
    pub fn with_passwords(mut self, passwords: Passwords) -> Self {
        self.passwords = Some(Arc::new(passwords));
        self
    }

    /// Has [`serve`] speak TLS.
    #[must_use]
    pub fn with_tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Calls `observer` once per finished request, on the task of its connection: it must not block.
    #[must_use]
    pub fn with_observer(mut self, observer: impl Fn(&AccessRecord) + Send + Sync + 'static) -> Self {
        self.observer = Some(Arc::new(observer));
        self
    }
}

impl fmt::Debug for RegistryOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryOptions")
            .field("read_only", &self.read_only)
            .field("complete_manifests", &self.complete_manifests)
            .field("max_manifest_len", &self.max_manifest_len)
            .field("passwords", &self.passwords)
            .field("tls", &self.tls)
            .field("max_connections", &self.max_connections)
            .field("proxy", &self.proxy)
            .finish_non_exhaustive()
    }
}

/// A registry over a store and its image records; see the [module](self). Cheap to clone.
///
/// ```
/// use std::sync::Arc;
///
/// use wharf_content::MemoryStore;
/// use wharf_images::MemoryImages;
/// use wharf_remotes::server::{Registry, serve};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let registry = Registry::new(Arc::new(MemoryStore::new()), Arc::new(MemoryImages::new()));
/// let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
/// let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
/// let server = tokio::spawn(serve(registry, listener, async { drop(stopped.await) }));
/// drop(stop);
/// server.await??;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Registry {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<dyn Store>,
    images: Arc<dyn ImageStore>,
    options: RegistryOptions,
    keeper: Arc<Keeper>,
    parking: Parking,
    /// Held while tags are changed, so that a condition on one still holds when it is.
    tagging: Mutex<()>,
    room: Room,
    /// A place for each manifest that is taken in.
    pushes: Arc<Semaphore>,
    metrics: Option<Metrics>,
    relay: Option<Relay>,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry")
            .field("store", &self.inner.store)
            .field("options", &self.inner.options)
            .finish_non_exhaustive()
    }
}

impl Registry {
    /// Makes a registry with the default options.
    pub fn new(store: Arc<dyn Store>, images: Arc<dyn ImageStore>) -> Self {
        Self::with_options(store, images, RegistryOptions::default())
    }

    /// Makes a registry.
    pub fn with_options(
        store: Arc<dyn Store>,
        images: Arc<dyn ImageStore>,
        options: RegistryOptions,
    ) -> Self {
        let keeper = Arc::new(Keeper::new(options.upload_grace));
        let parking = Parking::new(Arc::clone(&store), options.upload_idle);
        let relay = options.proxy.clone().map(Relay::new);
        let metrics = Metrics::new()
            .inspect_err(|error| tracing::warn!(error = %error.report(), "nothing is counted"))
            .ok();
        let room = Room::new(options.manifest_memory);
        let (tagging, pushes) = (Mutex::new(()), Arc::new(Semaphore::new(MAX_PUSHES)));
        let inner = Inner { store, images, options, keeper, parking, tagging, room, pushes, metrics, relay };
        Self { inner: Arc::new(inner) }
    }

    fn store(&self) -> &dyn Store {
        self.inner.store.as_ref()
    }

    fn images(&self) -> &dyn ImageStore {
        self.inner.images.as_ref()
    }

    fn options(&self) -> &RegistryOptions {
        &self.inner.options
    }

    /// Whether clients may add to the store.
    fn takes_pushes(&self) -> bool {
        !self.options().read_only && self.inner.relay.is_none()
    }

    fn metrics(&self) -> Option<&Metrics> {
        self.inner.metrics.as_ref()
    }

    /// Waits until no manifest is being taken in any more. Those whose clients have gone are, too.
    async fn pushes_end(&self) {
        let places = u32::try_from(MAX_PUSHES).unwrap_or(u32::MAX);
        // It is never closed.
        drop(self.inner.pushes.acquire_many(places).await);
    }

    /// Answers a request. What is left of the body is the caller's to settle.
    async fn answer(
        &self,
        head: &Parts,
        body: &mut RequestBody,
        access: &mut Access,
    ) -> Result<Reply, Refusal> {
        let host = Host::of(head)?;
        if let Some(passwords) = &self.options().passwords {
            access.admitted(passwords.admit(head).await?);
        }
        let call = route::parse(&head.method, head.uri.path(), head.uri.query())?;
        access.understood(&call);
        if call.writes() && origin::is_of_a_page(head, self.options().passwords.is_some()) {
            return Err(Refusal::denied("a page on the web may not change this registry"));
        }
        if self.options().read_only && call.writes() {
            // As "Deleting" has it; nobody's permission is missing.
            return Err(Refusal::not_allowed("this registry is read-only"));
        }
        // What is fetched is a change of the store, too.
        if let Some(relay) = self.inner.relay.as_ref().filter(|_| !self.options().read_only)
            && let Some(answer) = self.relay(relay, &call, head).await
        {
            return answer;
        }
        match call {
            Call::Version => Ok(Reply::json(&serde_json::json!({}))),
            Call::Metrics => self.count(),
            Call::ListRepositories { page } => self.list_repositories(&page).await,
            Call::ListTags { repository, page } => self.list_tags(&repository, &host, &page).await,
            Call::ReadManifest { repository, reference } => match reference {
                Reference::Tag(tag) => self.read_tagged(&repository, &host, &tag).await,
                Reference::Digest(digest) => self.read_pinned(&repository, &digest, head).await,
            },
            Call::PutManifest(push) => self.put_manifest(push, host, head, body).await,
            Call::DeleteManifest { repository, reference } => {
                self.delete_manifest(&repository, &host, &reference).await
            }
            Call::ReadBlob { repository, digest } => self.read_blob(&repository, &digest, head).await,
            Call::DeleteBlob { repository, digest } => self.delete_blob(&repository, &digest).await,
            Call::StartUpload { repository, start } => {
                self.start_upload(&repository, start, head, body).await
            }
            Call::UploadStatus { upload } => self.upload_status(&upload).await,
            Call::AppendUpload { upload } => self.append_upload(&upload, head, body).await,
            Call::FinishUpload { upload, digest } => self.finish_upload(&upload, &digest, head, body).await,
            Call::CancelUpload { upload } => self.cancel_upload(&upload).await,
            Call::ListReferrers { repository, subject, filter, last } => {
                self.list_referrers(&repository, &host, &subject, filter.as_deref(), last.as_ref()).await
            }
        }
    }

    fn count(&self) -> Result<Reply, Refusal> {
        match self.metrics() {
            Some(metrics) => Ok(Reply::new(http::StatusCode::OK)
                .with(http::header::CONTENT_TYPE, metrics::CONTENT_TYPE)
                .with_bytes(metrics.text()?.into())),
            None => Err(Refusal::missing(refusal::Code::Unsupported, "nothing is counted here")),
        }
    }
}
