//! Manifests through a proxy, by tag and by digest.

use std::{sync::Arc, time::Duration};

use futures_util::{FutureExt, future::BoxFuture};
use wharf_content::{Descriptor, Digest, Error, ErrorKind, labels::GC_REF_CONTENT, reading};
use wharf_images::{Image, Reference};

use super::{Relay, calls::Outcome, trouble};
use crate::server::{
    Registry,
    media_type::LABEL_MEDIA_TYPE,
    names::{Repository, Tag},
    refusal::Refusal,
    reply::Reply,
};

/// How long a manifest that is here is kept back at most while it is being finished.
const MOMENT: Duration = Duration::from_secs(1);

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
        let mut is_again = false;
        loop {
            let current = self.current(relay, &name).await;
            let answer = match &current {
                Ok((target, _)) => self.read_target(repository, target).await,
                Err(error) => Err(trouble::refusal(&relay.proxy.upstream, error, Refusal::manifest_unknown)),
            };
            // It was collected while it was asked about, and can be fetched once more.
            if !is_again && current.is_ok() && answer.as_ref().is_err_and(Refusal::is_missing) {
                is_again = true;
                continue;
            }
            self.relayed("manifests", current.as_ref().map_or("miss", |(_, outcome)| outcome));
            return answer;
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
        match self.read_manifest(repository, digest).await {
            Err(refusal) if refusal.is_missing() => {}
            answered => {
                self.relayed("manifests", "hit");
                if answered.is_ok() && self.is_half_brought(digest).await? {
                    let ask = || self.finish(reference.repository(), digest);
                    let finished = relay.documents.begin((repository.clone(), digest.clone()), ask);
                    // Whoever has just brought it is about to tell what its parts are. All else goes on without this answer.
                    drop(tokio::time::timeout(MOMENT, finished).await);
                }
                return answered;
            }
        }
        self.relayed("manifests", "miss");
        self.document(relay, repository, &reference, digest)
            .await
            .map_err(|error| trouble::refusal(&relay.proxy.upstream, &error, Refusal::manifest_unknown))?;
        // It may have been deleted here when this was no proxy.
        self.restore(repository, digest).await?;
        self.read_manifest(repository, digest).await
    }

    /// Brings what is missing of a manifest that is here.
    fn finish(&self, repository: &str, digest: &Digest) -> BoxFuture<'static, Outcome<()>> {
        let (registry, repository, digest) = (self.clone(), repository.to_owned(), digest.clone());
        async move {
            let finished = registry.bring_pinned(&repository, digest.clone()).await;
            if let Err(error) = &finished {
                let error = error.report();
                tracing::debug!(%digest, error, "a manifest whose bringing was cut short stays so");
            }
            finished.map_err(Arc::new)
        }
        .boxed()
    }

    /// Brings a manifest, once for all who ask.
    pub(super) async fn document(
        &self,
        relay: &Relay,
        repository: &Repository,
        reference: &Reference,
        digest: &Digest,
    ) -> Outcome<()> {
        let ask = || {
            let (registry, digest) = (self.clone(), digest.clone());
            let name = reference.repository().to_owned();
            async move { registry.bring_pinned(&name, digest).await.map_err(Arc::new) }.boxed()
        };
        relay.documents.ask((repository.clone(), digest.clone()), ask).await
    }

    /// Whether bringing a manifest ended between its bytes and the labels that hold its parts, since nobody waited for it any more, or it
    /// came as a blob. What was pulled or imported has the latter alone.
    async fn is_half_brought(&self, digest: &Digest) -> Result<bool, Error> {
        let labels = match self.store().info(digest).await {
            // It is being collected.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            info => info?.labels,
        };
        let holds_parts = labels.keys().any(|key| key.starts_with(GC_REF_CONTENT));
        Ok(!labels.contains_key(LABEL_MEDIA_TYPE) && !holds_parts)
    }

    /// What a tag is now, and how that was found out. Where there is a record, the upstream is not waited for without end.
    async fn current(&self, relay: &Relay, name: &str) -> Outcome<(Descriptor, &'static str)> {
        let recorded = self.recorded(name).await.map_err(Arc::new)?;
        let ask = || {
            let (registry, name) = (self.clone(), name.to_owned());
            async move { registry.asked_now(&name).await.map_err(Arc::new) }.boxed()
        };
        let Some(image) = recorded.filter(|_| !relay.seen.is_gone(name)) else {
            return relay.tags.ask(name.to_owned(), ask).await;
        };
        if relay.seen.is_fresh(name) {
            return Ok((image.target, "hit"));
        }
        let asked = relay.tags.begin(name.to_owned(), ask);
        if let Ok(answer) = tokio::time::timeout(relay.proxy.patience, asked).await {
            return answer;
        }
        // Others may have lost their patience at the same time.
        if !relay.seen.is_fresh(name) {
            tracing::warn!(name, "the upstream takes its time: what was there last is served");
            relay.seen.unanswered(name);
        }
        Ok((image.target, "stale"))
    }

    /// What a tag is now, as far as that can be found out, with its manifest in the store, and how that was found out.
    async fn asked_now(&self, name: &str) -> Result<(Descriptor, &'static str), Error> {
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
        if !trouble::may_pass(&error) {
            return Err(error);
        }
        if relay.seen.is_gone(name) {
            return Err(Error::not_found(format!("{name} was not at the upstream when it answered last"))
                .with_source(error));
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
