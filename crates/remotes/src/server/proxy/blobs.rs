//! Blobs through a proxy.

use std::sync::Arc;

use futures_util::{FutureExt, TryFutureExt};
use http::{HeaderValue, Method, StatusCode, header, request::Parts};
use tokio::sync::watch;
use wharf_content::{
    Catalogue, Descriptor, Digest, ErrorKind, LeasedStore, Manager, Resource, Result, Store, reading,
};
use wharf_images::{Handler, Kind, Reference, decode, transport::Resolver};

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
    fetch::ingest_name,
    server::{
        Registry, blobs,
        keep::Keeper,
        media_type::OCTET_STREAM,
        names::Repository,
        refusal::{Refusal, is_full},
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
        let promised = relay.promises.of(reference.repository(), digest);
        let refused = |error: &_| trouble::refusal(&relay.proxy.upstream, error, Refusal::blob_unknown);
        let asked_size = async || match relay.flights.size(digest, repository) {
            Some(size) => Ok(size),
            None => self.size(relay, repository, &reference, digest).await.map_err(|error| refused(&error)),
        };
        if head.method == Method::HEAD {
            // Only its length is told.
            let described = blobs::described(digest, StatusCode::OK);
            return Ok(described.with_value(header::CONTENT_LENGTH, HeaderValue::from(asked_size().await?)));
        }
        if let Some(promised) = &promised
            && decode::kind(&promised.media_type, &self.options().catalogue)?.is_some_and(Kind::is_manifest)
        {
            // As a manifest it holds its parts.
            match self.document(relay, repository, &reference, digest).await {
                Ok(()) => return self.read_landed(repository, digest, head).await,
                // The promise may have been wrong, and is forgotten then.
                Err(_) if relay.promises.of(reference.repository(), digest).is_none() => {}
                Err(error) => return Err(refused(&error)),
            }
        }
        let size = match promised {
            Some(promised) => promised.size,
            None => asked_size().await?,
        };
        let key = (digest.clone(), size);
        let fly = |state| {
            let journey = Journey {
                store: Arc::clone(&self.inner.store),
                keeper: Arc::clone(&self.inner.keeper),
                resolver: Arc::clone(&relay.proxy.resolver),
                catalogue: self.options().catalogue.clone(),
                promises: Arc::clone(&relay.promises),
                counted: Counted(self.metrics().cloned()),
                repository: reference.repository().to_owned(),
                descriptor: Descriptor::new(OCTET_STREAM, digest.clone(), size),
            };
            async move { journey.run(state).await.map_err(Arc::new) }
        };
        loop {
            let Some(flight) = relay.flights.join(&key, repository, fly) else {
                return Err(Refusal::busy("too many blobs are fetched from the upstream"));
            };
            let is_own = flight.is_of(repository);
            match flight.landing().await {
                Ok(Landing::Arriving(reader)) => return blobs::send(digest, reader, head),
                Ok(Landing::Stored) => return self.read_landed(repository, digest, head).await,
                // What another repository does not have, this one may.
                Err(_) if !is_own => {}
                Err(error) => return Err(refused(&error)),
            }
        }
    }

    /// Answers a blob that has just come.
    async fn read_landed(
        &self,
        repository: &Repository,
        digest: &Digest,
        head: &Parts,
    ) -> Result<Reply, Refusal> {
        // It may have been deleted here when this was no proxy.
        self.restore(repository, digest).await?;
        self.read_blob(repository, digest, head).await
    }

    /// Asks for the size of a blob, once for all who ask.
    async fn size(
        &self,
        relay: &Relay,
        repository: &Repository,
        reference: &Reference,
        digest: &Digest,
    ) -> Outcome<u64> {
        let ask = || {
            let (resolver, counted) = (Arc::clone(&relay.proxy.resolver), Counted(self.metrics().cloned()));
            let (name, digest) = (reference.repository().to_owned(), digest.clone());
            async move {
                let fetcher = resolver.fetcher(&name).await?;
                counted.asked("size");
                fetcher.size(&digest, OCTET_STREAM).await
            }
            .map_err(Arc::new)
            .boxed()
        };
        relay.sizes.ask((repository.clone(), digest.clone()), ask).await
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
    /// Of no type, so that it has one ingest whoever promises it as what.
    descriptor: Descriptor,
}

impl Journey {
    async fn run(self, state: watch::Sender<State>) -> Result<()> {
        // It may have come between the look for it and this.
        if reading::exists(self.store.as_ref(), &self.descriptor.digest).await? {
            return Ok(());
        }
        let leased = LeasedStore::hold(Arc::clone(&self.store), wharf_content::Labels::new()).await?;
        let brought = self.bring(Arc::clone(&leased) as Arc<dyn Store>, state).await;
        // Whether a manifest leads to it or not. Those who read along have it in any case.
        if brought.is_ok()
            && let Err(error) =
                self.keeper.hold(self.store.as_ref(), Resource::Content(self.descriptor.digest.clone())).await
        {
            tracing::warn!(digest = %self.descriptor.digest, error = %error.report(), "a blob that came is not held");
        }
        if let Err(error) = leased.release().await {
            tracing::warn!(error = %error.report(), "the lease of a blob that came stays until it expires");
        }
        match &brought {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                let (repository, digest) = (&self.repository, &self.descriptor.digest);
                tracing::warn!(repository, %digest, error = %error.report(), "a blob did not come from the upstream");
                if is_full(error) {
                    self.make_room().await;
                }
            }
            _ => {}
        }
        brought
    }

    /// Throws away what has come: for want of room nothing would be resumed, and all else would fail too.
    async fn make_room(&self) {
        let aborted = match ingest_name(&self.descriptor, &self.catalogue) {
            Ok(name) => self.store.abort(&name).await,
            Err(error) => Err(error),
        };
        if let Err(error) = aborted
            && error.kind() != ErrorKind::NotFound
        {
            let error = error.report();
            tracing::warn!(digest = %self.descriptor.digest, error, "what has come of a blob stays until it expires");
        }
    }

    async fn bring(&self, store: Arc<dyn Store>, state: watch::Sender<State>) -> Result<()> {
        let fetcher = self.resolver.fetcher(&self.repository).await?;
        self.counted.asked("blob");
        let announcer = Arc::new(Announcer::new(state, self.counted.clone()));
        let manager = Arc::clone(&store) as Arc<dyn Manager>;
        let labels = DistributionSource::new(manager, &self.repository).map(|source| source.labels());
        let fetch =
            Fetch::new(store, Arc::clone(&fetcher), Arc::clone(&announcer) as _, self.catalogue.clone())
                .with_labels(labels.unwrap_or_default())
                .with_follower(announcer);
        let fetched = fetch.handle(&self.descriptor).await.map(drop);
        if let Err(error) = &fetched {
            self.promises.broken(&self.repository, &self.descriptor.digest, error);
        }
        let finished = fetcher.finish().await;
        fetched.and(finished)
    }
}
