//! Tags and referrers through a proxy: as the upstream lists them, and as the store knows them while the upstream does not answer.

use std::{collections::BTreeSet, sync::Arc};

use futures_util::FutureExt;
use serde_json::json;
use wharf_content::{Descriptor, Digest, Result, filter::FilterSet};
use wharf_images::{Reference, transport::Resolver};

use super::{Relay, calls::Outcome, trouble};
use crate::server::{
    Registry,
    media_type::OCTET_STREAM,
    names::{Host, Repository},
    referrers::Listing,
    refusal::Refusal,
    reply::Reply,
    route::Page,
    tags,
};

impl Registry {
    pub(super) async fn relay_tags(
        &self,
        relay: &Relay,
        repository: &Repository,
        page: &Page,
    ) -> Result<Reply, Refusal> {
        let name = relay.reference(repository)?.repository().to_owned();
        let ask = || {
            let (resolver, name) = (Arc::clone(&relay.proxy.resolver), name.clone());
            self.asked("tags");
            async move { resolver.tags(&name).await.map(Arc::new).map_err(Arc::new) }.boxed()
        };
        // Its answer is for who asks next, too.
        let asked = relay.listed_tags.begin(repository.clone(), ask);
        let in_time = tokio::time::timeout(relay.proxy.patience, asked.clone()).await.ok();
        let listed: Outcome<Arc<Vec<String>>> = if let Some(listed) = in_time {
            listed
        } else {
            let known = self.known_tags(relay, &name).await?;
            if page.last.is_none() && !known.is_empty() {
                self.stale("tags", &name, "it takes its time");
                return Ok(tags::answer(repository, &known, page));
            }
            asked.await
        };
        let tags: BTreeSet<String> = match listed {
            Ok(listed) => {
                self.relayed("tags", "miss");
                listed.iter().cloned().collect()
            }
            Err(error) => {
                let refused = || trouble::refusal(&relay.proxy.upstream, &error, tags::unknown);
                let known = self.known_tags(relay, &name).await?;
                // What the store knows may end before what was answered last.
                if !trouble::is_silent(&error) || page.last.is_some() || known.is_empty() {
                    self.relayed("tags", "miss");
                    return Err(refused());
                }
                self.stale("tags", &name, &error.report());
                known
            }
        };
        Ok(tags::answer(repository, &tags, page))
    }

    pub(super) async fn relay_referrers(
        &self,
        relay: &Relay,
        repository: &Repository,
        subject: &Digest,
        filter: Option<&str>,
        last: Option<&Digest>,
    ) -> Result<Reply, Refusal> {
        let name = relay.reference(repository)?.repository().to_owned();
        let key = (repository.clone(), subject.clone(), filter.map(str::to_owned));
        let ask = || {
            let (resolver, name) = (Arc::clone(&relay.proxy.resolver), name.clone());
            let (_, subject, filter) = key.clone();
            self.asked("referrers");
            async move {
                let listed = referrers(resolver.as_ref(), &name, subject, filter.as_deref()).await;
                listed.map(Arc::new).map_err(Arc::new)
            }
            .boxed()
        };
        let listed: Outcome<Arc<Vec<Descriptor>>> = relay.listed_referrers.ask(key.clone(), ask).await;
        let listed = match listed {
            Ok(listed) => listed,
            Err(error) if trouble::is_silent(&error) && last.is_none() => {
                self.stale("referrers", &name, &error.report());
                let host = Host::new(relay.proxy.upstream.domain());
                return self.list_referrers(repository, &host, subject, filter, last).await;
            }
            Err(error) => {
                self.relayed("referrers", "miss");
                return Err(trouble::refusal(&relay.proxy.upstream, &error, tags::unknown));
            }
        };
        self.relayed("referrers", "miss");
        let mut rest: Vec<&Descriptor> =
            listed.iter().filter(|found| last.is_none_or(|last| found.digest > *last)).collect();
        rest.sort_by(|a, b| a.digest.cmp(&b.digest));
        let mut listing = Listing::new(filter);
        let taken = rest.iter().take_while(|found| listing.takes(json!(found))).count();
        // The first one is always taken.
        let next = if taken < rest.len() { rest[..taken].last() } else { None };
        Ok(listing.reply(repository, subject, next.map(|last| &last.digest)))
    }

    /// The tags that the store has of a repository, and of which the upstream has not said that they are not there.
    async fn known_tags(&self, relay: &Relay, repository: &str) -> Result<BTreeSet<String>> {
        let mut images = self.images().list(&FilterSet::all()).await?;
        images.retain(|image| !relay.seen.is_gone(&image.name));
        let names = images.iter().filter_map(|image| Reference::parse(&image.name).ok());
        let of_it = names.filter(|name| name.repository() == repository && name.digest().is_none());
        Ok(of_it.filter_map(|name| name.tag().map(str::to_owned)).collect())
    }

    fn stale(&self, endpoint: &str, name: &str, error: &str) {
        tracing::warn!(name, endpoint, error, "the upstream does not answer: what the store knows is served");
        self.relayed(endpoint, "stale");
    }
}

async fn referrers(
    resolver: &dyn Resolver,
    repository: &str,
    subject: Digest,
    filter: Option<&str>,
) -> Result<Vec<Descriptor>> {
    let provider = resolver.referrers(repository).await?;
    // Only its digest is looked at.
    let subject = Descriptor::new(OCTET_STREAM, subject, 0);
    match filter {
        Some(filter) => provider.referrers_of_type(&subject, filter).await,
        None => provider.referrers(&subject).await,
    }
}
