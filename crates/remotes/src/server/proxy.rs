//! A registry that is a cache of another one: what it does not have yet it fetches from there, once, whoever asks.
//!
//! ```text
//! tag        asked about not long ago? ─ yes ─> the record
//!            └ no ─> upstream, HEAD: the same? the record.  another? fetch it, record it.  404? 404.  no answer soon? the record, and a warning
//! digest     in the store? ─ yes ─> the store
//!            └ no ─> a manifest: fetched, verified, kept, answered
//!                    a blob: its ingest, which all who ask read along while one task fills it
//! lists      upstream; no answer? what the store knows
//! changes    refused (405)
//! ```
//!
//! # What stays
//! A tag that was asked for is an image of the store, named after the upstream: `docker.io/library/busybox:latest`. So is a manifest that
//! was asked for by its digest alone, `…/busybox@sha256:…`, where nothing in the store leads to it. These images have what clients asked
//! for and may lack the rest: the record comes before the blobs, and labels on the manifests hold those as soon as they are there. A blob
//! of no such manifest is held for [`UPLOAD_GRACE`](super::UPLOAD_GRACE) and more. A tag that the upstream does not know any more is
//! answered with 404, also while the upstream is away after that; its record stays until somebody removes it.
//!
//! # An upstream that takes its time
//! Where there is a record, it is served after [`PROXY_PATIENCE`], and at once for a while after that; the question goes on meanwhile, without
//! anybody who waits if need be. So are the tags that the store knows, where there are some. Referrers are waited for: that there are none of a
//! kind is something that clients act on. What is not here is waited for as long as the resolver tries. A page of a list behind the first one is never
//! the store's, which may know less than the page before.
//!
//! # Blobs that arrive
//! Each blob has one fetch at a time, whatever repositories it is asked for in. It goes on when nobody waits for it any more, until it ends
//! or the registry is dropped; then the ingest is resumed by the next one, after a restart as well. The end of a blob, at most 256 KiB, is
//! handed out when all of it was verified, so that wrong bytes are never taken for the blob. What ends for want of room is thrown away. Where
//! a fetch fails, whoever was told a length gets less than that, and the connection is cut.
//!
//! # What it deliberately does not do
//! It does not ask the upstream who its clients are: all of them are served with what the resolver is let in by. It throws nothing away by
//! age or size: that is for who collects the store and removes images.

mod blobs;
mod calls;
mod fetch;
mod flights;
mod lists;
mod manifests;
mod promises;
mod seen;
mod trouble;
mod upstream;

use std::{
    fmt,
    num::NonZeroUsize,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderName, StatusCode, header, request::Parts};
use wharf_content::{Descriptor, Digest};
use wharf_images::{Reference as ImageReference, transport::Resolver};

pub use self::upstream::Upstream;
use self::{calls::Calls, flights::Flights, promises::Promises, seen::Seen};
use super::{
    Registry,
    names::Repository,
    refusal::{Code, Refusal},
    reply::Reply,
    route::{self, Call, Reference},
};
use crate::{pull::DEFAULT_CONCURRENCY, via::Via};

/// How long a tag is taken for what the upstream said that it is: about as long as all machines of a site take to ask for a new image.
pub const PROXY_TTL: Duration = Duration::from_secs(10);

/// How long a registry is waited for about a tag whose record could be served.
pub const PROXY_PATIENCE: Duration = Duration::from_secs(5);

/// Tells that an answer is of the registry that was asked for ("Registry Proxying").
const OCI_NAMESPACE: HeaderName = HeaderName::from_static("oci-namespace");

type Clock = Arc<dyn Fn() -> Instant + Send + Sync>;

/// Of which registry a registry is a cache, and how it asks there.
///
/// ```
/// use std::{sync::Arc, time::Duration};
///
/// use wharf_content::MemoryStore;
/// use wharf_images::{MemoryImages, transport::MemoryRegistry};
/// use wharf_remotes::server::{Proxy, Registry, RegistryOptions, Upstream};
///
/// # fn main() -> wharf_content::Result<()> {
/// let upstream = Upstream::parse("https://registry-1.docker.io")?;
/// assert_eq!(upstream.domain(), "docker.io");
/// // With the feature `http`, a `RegistryResolver`.
/// let resolver = Arc::new(MemoryRegistry::new());
/// let proxy = Proxy::new(upstream, resolver).with_ttl(Duration::from_secs(60));
/// let options = RegistryOptions::default().with_proxy(proxy);
/// let registry = Registry::with_options(Arc::new(MemoryStore::new()), Arc::new(MemoryImages::new()), options);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Proxy {
    upstream: Upstream,
    resolver: Arc<dyn Resolver>,
    ttl: Duration,
    patience: Duration,
    downloads: NonZeroUsize,
    clock: Clock,
    via: Option<Via>,
}

impl Proxy {
    /// Asks `resolver` for what is at `upstream`.
    pub fn new(upstream: Upstream, resolver: Arc<dyn Resolver>) -> Self {
        Self {
            upstream,
            resolver,
            ttl: PROXY_TTL,
            patience: PROXY_PATIENCE,
            downloads: DEFAULT_CONCURRENCY,
            clock: Arc::new(Instant::now),
            via: None,
        }
    }

    /// Takes a tag for what the upstream said for so long; [`PROXY_TTL`] by default. Nothing has the upstream asked each time.
    #[must_use]
    pub fn with_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Waits so long for what the upstream says of a tag whose image is in the store, and serves that then; [`PROXY_PATIENCE`] by default.
    /// The question goes on, and its answer counts.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Fetches so many blobs at once; [`DEFAULT_CONCURRENCY`] by default. The resolver needs room for more than that at the host, so that
    /// questions do not wait for blobs: it is `RegistrySettings::with_host_concurrency`.
    #[must_use]
    pub fn with_downloads(mut self, downloads: NonZeroUsize) -> Self {
        self.downloads = downloads;
        self
    }

    /// Measures the time of [`with_ttl`](Self::with_ttl) by another clock.
    #[must_use]
    pub fn with_clock(mut self, now: impl Fn() -> Instant + Send + Sync + 'static) -> Self {
        self.clock = Arc::new(now);
        self
    }

    /// Refuses requests (508) that have come through this proxy before, as the header tells. The resolver must send it: it is the one of
    /// `RegistrySettings::with_via`.
    #[must_use]
    pub fn with_via(mut self, via: Via) -> Self {
        self.via = Some(via);
        self
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy")
            .field("upstream", &self.upstream)
            .field("resolver", &self.resolver)
            .field("ttl", &self.ttl)
            .field("patience", &self.patience)
            .field("downloads", &self.downloads)
            .finish_non_exhaustive()
    }
}

/// A proxy at work.
pub(super) struct Relay {
    proxy: Proxy,
    seen: Seen,
    promises: Arc<Promises>,
    tags: Calls<String, (Descriptor, &'static str)>,
    documents: Calls<(Repository, Digest), ()>,
    sizes: Calls<(Repository, Digest), u64>,
    listed_tags: Calls<Repository, Arc<Vec<String>>>,
    listed_referrers: Calls<(Repository, Digest, Option<String>), Arc<Vec<Descriptor>>>,
    flights: Flights,
}

impl Relay {
    pub(super) fn new(proxy: Proxy) -> Self {
        Self {
            seen: Seen::new(proxy.ttl, Arc::clone(&proxy.clock)),
            flights: Flights::new(proxy.downloads),
            proxy,
            promises: Arc::default(),
            tags: Calls::default(),
            documents: Calls::default(),
            sizes: Calls::default(),
            listed_tags: Calls::default(),
            listed_referrers: Calls::default(),
        }
    }

    /// The domain of the upstream's images.
    pub(super) fn domain(&self) -> &str {
        self.proxy.upstream.domain()
    }

    fn resolver(&self) -> &dyn Resolver {
        self.proxy.resolver.as_ref()
    }

    /// A repository as the upstream's references and the records have it.
    fn reference(&self, repository: &Repository) -> Result<ImageReference, Refusal> {
        let name = format!("{}/{}", self.proxy.upstream.domain(), repository.as_str());
        // Together with the domain it may be too long.
        ImageReference::parse(&name)
            .map_err(|_| Refusal::missing(Code::NameUnknown, "the upstream cannot have such a repository"))
    }

    /// Refuses what is not for this upstream, or would be asked in a circle.
    fn admit(&self, head: &Parts) -> Result<(), Refusal> {
        let passed = head.headers.get_all(header::VIA).into_iter().filter_map(|value| value.to_str().ok());
        if self.proxy.via.as_ref().is_some_and(|via| via.has_passed(passed)) {
            tracing::warn!(upstream = %self.proxy.upstream, "the upstream leads back to this proxy");
            let message = "this proxy is asked by itself: its upstream leads back to it";
            return Err(Refusal::new(StatusCode::LOOP_DETECTED, Code::Unsupported, message));
        }
        match route::namespace(head.uri.query()) {
            Some(namespace) if !self.proxy.upstream.is_called(&namespace) => {
                let message = format!("this registry is a proxy of {} alone", self.proxy.upstream.domain());
                Err(Refusal::missing(Code::NameUnknown, message))
            }
            _ => Ok(()),
        }
    }
}

impl Registry {
    /// Answers a request as a proxy does.
    pub(super) async fn relay(
        &self,
        relay: &Relay,
        call: &Call,
        head: &Parts,
    ) -> Option<Result<Reply, Refusal>> {
        if let Err(refusal) = relay.admit(head) {
            return Some(Err(refusal));
        }
        let answer = match call {
            Call::Version | Call::Metrics | Call::ListRepositories { .. } | Call::UploadStatus { .. } => {
                return None;
            }
            Call::ReadManifest { repository, reference: Reference::Tag(tag) } => {
                self.relay_tagged(relay, repository, tag).await
            }
            Call::ReadManifest { repository, reference: Reference::Digest(digest) } => {
                self.relay_manifest(relay, repository, digest).await
            }
            Call::ReadBlob { repository, digest } => self.relay_blob(relay, repository, digest, head).await,
            Call::ListTags { repository, page } => self.relay_tags(relay, repository, page).await,
            Call::ListReferrers { repository, subject, filter, last } => {
                self.relay_referrers(relay, repository, subject, filter.as_deref(), last.as_ref()).await
            }
            _ => {
                let upstream = &relay.proxy.upstream;
                let message =
                    format!("this registry is a proxy of {0}: push to {0} itself", upstream.domain());
                Err(Refusal::not_allowed(message))
            }
        };
        Some(answer.map(|reply| match route::namespace(head.uri.query()) {
            Some(namespace) => reply.with(OCI_NAMESPACE, &namespace),
            None => reply,
        }))
    }
}
