//! Blobs through a proxy.

use std::sync::Arc;

use futures_util::FutureExt;
use http::{HeaderValue, Method, StatusCode, header, request::Parts};
use tokio::sync::watch;
use wharf_content::{Catalogue, Descriptor, Digest, LeasedStore, Manager, Resource, Result, Store, reading};
use wharf_images::{Handler, Reference, transport::Resolver};

use super::{
    Relay,
    calls::Outcome,
    fetch::Counted,
    flights::{Announcer, Landing, State},
    promises::Promises,
    trouble,
};
use crate::{
    DistributionSource, Fetch,
    server::{
        Registry, blobs, keep::Keeper, media_type::OCTET_STREAM, names::Repository, refusal::Refusal,
        reply::Reply,
    },
};

impl Registry {
    /// Answers a blob of the store, or else of the upstream.
    pub(super) async fn relay_blob(
        &self,
        relay: &Relay,
        repository: &Repository,
        digest: &Digest,
        head: &Parts,
    ) -> Result<Reply, Refusal> {
        match self.read_blob(repository, digest, head).await {
            Err(refusal) if refusal.is_missing() => {}
            answered => {
                self.relayed("blobs", "hit");
                return answered;
            }
        }
        self.relayed("blobs", "miss");
        let reference = relay.reference(repository)?;
        let key = (repository.clone(), digest.clone());
        let refused = |error: &_| trouble::refusal(&relay.proxy.upstream, error, Refusal::blob_unknown);
        if head.method == Method::HEAD {
            let size = if let Some(size) = relay.flights.size(&key) {
                size
            } else {
                let ask = || {
                    let (registry, reference) = (self.clone(), reference.clone());
                    let digest = digest.clone();
                    async move { registry.size_of(&reference, &digest).await.map_err(Arc::new) }.boxed()
                };
                let size: Outcome<u64> = relay.sizes.ask(key, ask).await;
                size.map_err(|error| refused(&error))?
            };
            // Only its length is told.
            let described = blobs::described(digest, StatusCode::OK);
            return Ok(described.with_value(header::CONTENT_LENGTH, HeaderValue::from(size)));
        }
        let fly = |state| {
            let journey = Journey {
                store: Arc::clone(&self.inner.store),
                keeper: Arc::clone(&self.inner.keeper),
                resolver: Arc::clone(&relay.proxy.resolver),
                catalogue: self.options().catalogue.clone(),
                promises: Arc::clone(&relay.promises),
                counted: Counted(self.metrics().cloned()),
                repository: reference.repository().to_owned(),
                digest: digest.clone(),
            };
            async move { journey.run(state).await.map_err(Arc::new) }
        };
        let Some(flight) = relay.flights.join(key, fly) else {
            return Err(Refusal::busy("too many blobs are fetched from the upstream"));
        };
        match flight.landing().await.map_err(|error| refused(&error))? {
            Landing::Arriving(reader) => blobs::send(digest, reader, head),
            Landing::Stored => {
                // It may have been deleted here when this was no proxy.
                self.restore(repository, digest).await?;
                self.read_blob(repository, digest, head).await
            }
        }
    }

    async fn size_of(&self, reference: &Reference, digest: &Digest) -> Result<u64> {
        let relay = self.inner.relay.as_ref().expect("only a proxy asks");
        let fetcher = relay.resolver().fetcher(reference.repository()).await?;
        self.asked("size");
        fetcher.size(digest, OCTET_STREAM).await
    }
}

/// All that is needed to bring one blob. It holds no registry, so that a registry that is dropped ends it.
struct Journey {
    store: Arc<dyn Store>,
    keeper: Arc<Keeper>,
    resolver: Arc<dyn Resolver>,
    catalogue: Catalogue,
    promises: Arc<Promises>,
    counted: Counted,
    repository: String,
    digest: Digest,
}

impl Journey {
    async fn run(self, state: watch::Sender<State>) -> Result<()> {
        // It may have come between the look for it and this.
        if reading::exists(self.store.as_ref(), &self.digest).await? {
            return Ok(());
        }
        let leased = LeasedStore::hold(Arc::clone(&self.store), wharf_content::Labels::new()).await?;
        let brought = self.bring(Arc::clone(&leased) as Arc<dyn Store>, state).await;
        // Whether a manifest leads to it or not. Those who read along have it in any case.
        if brought.is_ok()
            && let Err(error) =
                self.keeper.hold(self.store.as_ref(), Resource::Content(self.digest.clone())).await
        {
            tracing::warn!(digest = %self.digest, error = %error.report(), "a blob that came is not held");
        }
        if let Err(error) = leased.release().await {
            tracing::warn!(error = %error.report(), "the lease of a blob that came stays until it expires");
        }
        brought
    }

    async fn bring(&self, store: Arc<dyn Store>, state: watch::Sender<State>) -> Result<()> {
        let fetcher = self.resolver.fetcher(&self.repository).await?;
        let descriptor = if let Some(promised) = self.promises.of(&self.repository, &self.digest) {
            promised
        } else {
            self.counted.asked("size");
            let size = fetcher.size(&self.digest, OCTET_STREAM).await?;
            Descriptor::new(OCTET_STREAM, self.digest.clone(), size)
        };
        self.counted.asked("blob");
        let announcer = Arc::new(Announcer::new(state, self.counted.clone()));
        let manager = Arc::clone(&store) as Arc<dyn Manager>;
        let labels = DistributionSource::new(manager, &self.repository).map(|source| source.labels());
        let fetch =
            Fetch::new(store, Arc::clone(&fetcher), Arc::clone(&announcer) as _, self.catalogue.clone())
                .with_labels(labels.unwrap_or_default())
                .with_follower(announcer);
        let fetched = fetch.handle(&descriptor).await.map(drop);
        if let Err(error) = &fetched {
            self.promises.broken(&self.repository, &self.digest, error);
        }
        let finished = fetcher.finish().await;
        fetched.and(finished)
    }
}
