//! Manifests through a proxy, by tag and by digest.

use std::sync::Arc;

use futures_util::FutureExt;
use wharf_content::{Descriptor, Digest, Error, ErrorKind, Manager, reading};
use wharf_images::Image;

use super::{Relay, calls::Outcome, trouble};
use crate::DistributionSource;
use crate::server::{
    Registry,
    media_type::LABEL_MEDIA_TYPE,
    names::{Repository, Tag},
    refusal::Refusal,
    reply::Reply,
};

impl Registry {
    /// Answers what a tag is at the upstream.
    pub(super) async fn relay_tagged(
        &self,
        relay: &Relay,
        repository: &Repository,
        tag: &Tag,
    ) -> Result<Reply, Refusal> {
        let reference = relay.reference(repository)?;
        let name = reference.with_tag(tag.as_str()).map_err(|_| Refusal::manifest_unknown())?.to_string();
        let ask = || {
            let (registry, name) = (self.clone(), name.clone());
            async move { registry.current(&name).await.map_err(Arc::new) }.boxed()
        };
        let current: Outcome<(Descriptor, &str)> = relay.tags.ask(name.clone(), ask).await;
        self.relayed("manifests", current.as_ref().map_or("miss", |(_, outcome)| outcome));
        match current {
            Ok((target, _)) => self.read_target(repository, &target).await,
            Err(error) => Err(trouble::refusal(&relay.proxy.upstream, &error, Refusal::manifest_unknown)),
        }
    }

    /// Answers a manifest of the store, or else of the upstream.
    pub(super) async fn relay_manifest(
        &self,
        relay: &Relay,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Reply, Refusal> {
        let reference = relay.reference(repository)?;
        let ask = || {
            let (registry, digest) = (self.clone(), digest.clone());
            let repository = reference.repository().to_owned();
            async move { registry.bring_pinned(&repository, digest).await.map_err(Arc::new) }.boxed()
        };
        let bring = || relay.documents.ask((repository.clone(), digest.clone()), ask);
        match self.read_manifest(repository, digest).await {
            Err(refusal) if refusal.is_missing() => {}
            answered => {
                self.relayed("manifests", "hit");
                if answered.is_ok()
                    && self.is_half_brought(reference.repository(), digest).await?
                    && let Err(error) = bring().await
                {
                    let error = error.report();
                    tracing::debug!(%digest, error, "a manifest whose bringing was cut short stays so");
                }
                return answered;
            }
        }
        self.relayed("manifests", "miss");
        let brought: Outcome<()> = bring().await;
        brought
            .map_err(|error| trouble::refusal(&relay.proxy.upstream, &error, Refusal::manifest_unknown))?;
        // It may have been deleted here when this was no proxy.
        self.restore(repository, digest).await?;
        self.read_manifest(repository, digest).await
    }

    /// Whether bringing a manifest ended between its bytes and the labels that hold its parts, since nobody waited for it any more.
    async fn is_half_brought(&self, repository: &str, digest: &Digest) -> Result<bool, Error> {
        let labels = self.store().info(digest).await?.labels;
        let source = DistributionSource::new(Arc::clone(&self.inner.store) as Arc<dyn Manager>, repository);
        let source = source.map(|source| source.labels()).unwrap_or_default();
        Ok(!labels.contains_key(LABEL_MEDIA_TYPE) && !source.keys().any(|key| labels.contains_key(key)))
    }

    /// What a tag is now, as far as that can be found out, with its manifest in the store, and how that was found out.
    async fn current(&self, name: &str) -> Result<(Descriptor, &'static str), Error> {
        let relay = self.inner.relay.as_ref().expect("only a proxy asks");
        let recorded = self.recorded(name).await?;
        if let Some(image) = recorded.as_ref().filter(|_| relay.seen.is_fresh(name)) {
            return Ok((image.target.clone(), "hit"));
        }
        let error = match self.bring_tagged(name, recorded.as_ref()).await {
            Ok(current) => {
                relay.seen.answered(name);
                return Ok(current);
            }
            Err(error) => error,
        };
        // A name that nothing is recorded under would only take the place of one.
        let Some(image) = recorded else { return Err(error) };
        if error.kind() == ErrorKind::NotFound {
            relay.seen.gone(name);
        }
        if !trouble::may_pass(&error) || relay.seen.is_gone(name) {
            return Err(error);
        }
        tracing::warn!(
            name,
            error = %error.report(),
            "the upstream does not answer: what was there last is served"
        );
        relay.seen.unanswered(name);
        Ok((image.target, "stale"))
    }

    /// The record of a name, where its manifest is here too.
    async fn recorded(&self, name: &str) -> Result<Option<Image>, Error> {
        let image = match self.images().get(name).await {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            image => image?,
        };
        Ok(reading::exists(self.store(), &image.target.digest).await?.then_some(image))
    }
}
