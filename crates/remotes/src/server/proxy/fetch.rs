//! Bringing manifests from the upstream into the store: fetched, verified, labelled with their parts, recorded.

use std::sync::Arc;

use wharf_content::{
    Descriptor, Digest, Error, ErrorKind, LeasedStore, Manager, Resource, Result, Store, filter::FilterSet,
    reading,
};
use wharf_images::{
    Decoded, Image, Kind, Reference, decode,
    media_types::is_schema1,
    progress::{Event, Sink},
    transport::Resolved,
};

use crate::{
    DistributionSource,
    fetch::{fetch_into, ingest_name},
    server::{Registry, keep::Kept, metrics::Metrics, push},
};

/// Counts what comes from the upstream.
#[derive(Clone, Debug)]
pub(super) struct Counted(pub(super) Option<Metrics>);

impl Counted {
    /// Counts a question to the upstream.
    pub(super) fn asked(&self, operation: &str) {
        if let Some(metrics) = &self.0 {
            metrics.asked(operation);
        }
    }
}

impl Sink for Counted {
    fn event(&self, event: &Event<'_>) {
        if let (Some(metrics), Event::Bytes { count, .. }) = (&self.0, event) {
            metrics.fetched(*count);
        }
    }
}

impl Registry {
    /// Counts a request of a client by what became of it.
    pub(super) fn relayed(&self, endpoint: &str, outcome: &str) {
        if let Some(metrics) = self.metrics() {
            metrics.relayed(endpoint, outcome);
        }
    }

    /// Counts a question to the upstream.
    pub(super) fn asked(&self, operation: &str) {
        Counted(self.metrics().cloned()).asked(operation);
    }

    /// Asks what a tag is, brings its manifest where that is another one than is recorded, and records it. Tells too whether that was a
    /// hit or a miss.
    pub(super) async fn bring_tagged(
        &self,
        name: &str,
        recorded: Option<&Image>,
    ) -> Result<(Descriptor, &'static str)> {
        let descriptor = self.resolve(name).await?.descriptor;
        if let Some(image) = recorded.filter(|image| image.target.digest == descriptor.digest) {
            return Ok((image.target.clone(), "hit"));
        }
        let reference = Reference::parse(name)?;
        let (store, _kept) = self.held(&descriptor).await?;
        self.bring(store.as_ref(), reference.repository(), &descriptor).await?;
        push::retarget(self.images(), Image::new(name, descriptor.clone()), None).await?;
        Ok((descriptor, "miss"))
    }

    /// Brings a manifest that is known by its digest. It is recorded by that unless something in the store leads to it.
    pub(super) async fn bring_pinned(&self, repository: &str, digest: Digest) -> Result<()> {
        let relay = self.inner.relay.as_ref().expect("only a proxy brings");
        let name = format!("{repository}@{digest}");
        let promised = relay.promises.of(repository, &digest);
        let is_part = promised.is_some() || self.is_part(repository, &digest).await?;
        let catalogue = &self.options().catalogue;
        let kind_of = |descriptor: &Descriptor| decode::kind(&descriptor.media_type, catalogue);
        let descriptor = match promised {
            Some(promised) if kind_of(&promised)?.is_some_and(Kind::is_manifest) => promised,
            _ => {
                let Resolved { descriptor, is_blob, .. } = self.resolve(&name).await?;
                if is_blob || kind_of(&descriptor)?.is_some_and(|kind| !kind.is_manifest()) {
                    return Err(Error::not_found(format!("{name} is a blob and no manifest")));
                }
                descriptor
            }
        };
        let (store, _kept) = self.held(&descriptor).await?;
        let brought = self.bring(store.as_ref(), repository, &descriptor).await;
        if let Err(error) = &brought {
            relay.promises.broken(repository, &digest, error);
        }
        let decoded = brought?;
        let follows = match &decoded.subject {
            Some(subject) => reading::exists(self.store(), &subject.digest).await?,
            None => false,
        };
        if is_part || follows {
            // For as long as what leads to it might still come.
            return self.inner.keeper.hold(self.store(), Resource::Content(digest)).await;
        }
        push::retarget(self.images(), Image::new(name, descriptor), None).await.map(drop)
    }

    async fn resolve(&self, name: &str) -> Result<Resolved> {
        let relay = self.inner.relay.as_ref().expect("only a proxy resolves");
        self.asked("resolve");
        relay.resolver().resolve(name).await
    }

    /// The store, under the lease of what is part of no image yet, which is to be kept meanwhile.
    async fn held(&self, descriptor: &Descriptor) -> Result<(Arc<dyn Store>, Option<Kept>)> {
        let (store, keeper) = (&self.inner.store, &self.inner.keeper);
        let ingest = ingest_name(descriptor, &self.options().catalogue)?;
        keeper.hold(store.as_ref(), Resource::Ingest(ingest)).await?;
        Ok(match keeper.lease(store.as_ref()).await? {
            Some(kept) => (LeasedStore::under(Arc::clone(store), kept.id()) as _, Some(kept)),
            None => (Arc::clone(store), None),
        })
    }

    /// Brings a manifest into the store, with labels that hold its parts.
    async fn bring(&self, store: &dyn Store, repository: &str, descriptor: &Descriptor) -> Result<Decoded> {
        let relay = self.inner.relay.as_ref().expect("only a proxy brings");
        if is_schema1(&descriptor.media_type) {
            // What is sent has a signature in it that its digest leaves out.
            return Err(Error::not_implemented(format!(
                "{} is a Docker schema 1 manifest, which no cache can verify",
                descriptor.digest
            )));
        }
        if descriptor.size > self.manifest_limit() {
            return Err(Error::not_found(format!("{} is larger than any manifest", descriptor.digest)));
        }
        let catalogue = &self.options().catalogue;
        if !reading::exists(store, &descriptor.digest).await? {
            self.asked("manifest");
        }
        let fetcher = relay.resolver().fetcher(repository).await?;
        let sink = Counted(self.metrics().cloned());
        let fetched = fetch_into(store, fetcher.as_ref(), descriptor, &sink, catalogue).await;
        let finished = fetcher.finish().await;
        fetched?;
        finished?;
        let decoded = match wharf_images::decode(store, descriptor, catalogue).await {
            Ok(decoded) => decoded.unwrap_or_default(),
            Err(error) if !matches!(error.kind(), ErrorKind::InvalidArgument | ErrorKind::NotImplemented) => {
                return Err(error);
            }
            // Its type may be somebody's wrong promise: then it is not this one.
            Err(error) if relay.promises.of(repository, &descriptor.digest).is_some() => return Err(error),
            Err(error) => {
                tracing::warn!(
                    digest = %descriptor.digest,
                    error = %error.report(),
                    "a manifest cannot be decoded, and is served as it is"
                );
                Decoded::default()
            }
        };
        // Before the labels, by which others see that it is all here.
        relay.promises.note(repository, decoded.children.iter().map(|child| &child.descriptor));
        push::label(store, &descriptor.digest, &push::labels(descriptor, &decoded)).await?;
        if let Some(source) =
            DistributionSource::new(Arc::clone(&self.inner.store) as Arc<dyn Manager>, repository)
        {
            source.label(&descriptor.digest).await?;
        }
        Ok(decoded)
    }

    /// Whether an image of the repository leads to this content.
    async fn is_part(&self, repository: &str, digest: &Digest) -> Result<bool> {
        for image in self.images().list(&FilterSet::all()).await? {
            let is_of = Reference::parse(&image.name).is_ok_and(|name| name.repository() == repository);
            if !is_of {
                continue;
            }
            let info = match self.store().info(&image.target.digest).await {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                info => info?,
            };
            if info.labels.values().any(|value| value == digest.as_str()) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
