//! Handlers that wrap another one and change the children that it gives: labelled, filtered by platform, limited.
//!
//! [`Children`](crate::Children) with a [`Selection`](crate::Selection) decodes, labels and chooses in one step, which is what a pull
//! wants. These are the single steps (containerd: `core/images/handlers.go`, `core/remotes/handlers.go`), for who composes a pull of his
//! own. Usual order: children, [referrers](crate::referrers::SetReferrers), labels, platforms, limit.

use std::{cmp::Ordering, num::NonZeroUsize, sync::Arc};

use async_trait::async_trait;
use wharf_content::{Catalogue, Descriptor, Error, Manager, Provider, Result};
use wharf_platforms::Matcher;

use crate::{
    children::decode,
    decode::{Kind, Role, kind},
    handler::{Flow, Handler},
    labels::{self, LabelKeys},
};

/// Writes labels that hold the children onto their parent, and passes the children on (containerd: `SetChildrenMappedLabels`).
#[derive(Debug)]
pub struct SetChildrenLabels<H> {
    inner: H,
    manager: Arc<dyn Manager>,
    keys: LabelKeys,
}

impl<H: Handler> SetChildrenLabels<H> {
    /// Labels what `inner` gives with the keys of [`labels::child_key`].
    pub fn new(inner: H, manager: Arc<dyn Manager>) -> Self {
        Self { inner, manager, keys: LabelKeys::default() }
    }

    /// Labels with keys of the caller's.
    #[must_use]
    pub fn with_keys(mut self, keys: LabelKeys) -> Self {
        self.keys = keys;
        self
    }
}

#[async_trait]
impl<H: Handler> Handler for SetChildrenLabels<H> {
    async fn handle(&self, descriptor: &Descriptor) -> Result<Flow> {
        let flow = self.inner.handle(descriptor).await?;
        if let Flow::Children(children) = &flow
            && !children.is_empty()
        {
            labels::hold_children_mapped(self.manager.as_ref(), descriptor, children, &self.keys).await?;
        }
        Ok(flow)
    }
}

/// Keeps children that have no platform or one that matches (containerd: `FilterPlatforms`).
#[derive(Debug)]
pub struct FilterPlatforms<H> {
    inner: H,
    matcher: Arc<dyn Matcher>,
}

impl<H: Handler> FilterPlatforms<H> {
    /// Filters what `inner` gives.
    pub fn new(inner: H, matcher: Arc<dyn Matcher>) -> Self {
        Self { inner, matcher }
    }
}

#[async_trait]
impl<H: Handler> Handler for FilterPlatforms<H> {
    async fn handle(&self, descriptor: &Descriptor) -> Result<Flow> {
        let mut flow = self.inner.handle(descriptor).await?;
        if let Flow::Children(children) = &mut flow {
            children.retain(|child| {
                child.platform.as_ref().is_none_or(|platform| self.matcher.matches(platform))
            });
        }
        Ok(flow)
    }
}

/// Sorts the children of an index, the best platform first and those without one last, and keeps the first few (containerd:
/// `LimitManifests`). Children of anything else stay as they are.
#[derive(Debug)]
pub struct LimitManifests<H> {
    inner: H,
    matcher: Arc<dyn Matcher>,
    limit: Option<NonZeroUsize>,
    catalogue: Catalogue,
}

impl<H: Handler> LimitManifests<H> {
    /// Limits what `inner` gives to `limit` children; without a limit they are sorted only.
    pub fn new(inner: H, matcher: Arc<dyn Matcher>, limit: Option<NonZeroUsize>) -> Self {
        Self { inner, matcher, limit, catalogue: Catalogue::linked().clone() }
    }

    /// What an index is, is told by the decoders of this catalogue.
    #[must_use]
    pub fn with_catalogue(mut self, catalogue: Catalogue) -> Self {
        self.catalogue = catalogue;
        self
    }

    fn compare(&self, a: &Descriptor, b: &Descriptor) -> Ordering {
        match (&a.platform, &b.platform) {
            (Some(a), Some(b)) => self.matcher.compare(a, b),
            (a, b) => a.is_none().cmp(&b.is_none()),
        }
    }
}

#[async_trait]
impl<H: Handler> Handler for LimitManifests<H> {
    /// # Errors
    /// `NotFound` where there is a limit and the index has no child left.
    async fn handle(&self, descriptor: &Descriptor) -> Result<Flow> {
        let mut flow = self.inner.handle(descriptor).await?;
        if let Flow::Children(children) = &mut flow
            && kind(&descriptor.media_type, &self.catalogue)? == Some(Kind::Index)
        {
            children.sort_by(|a, b| self.compare(a, b));
            if let Some(limit) = self.limit {
                if children.is_empty() {
                    return Err(Error::not_found(format!(
                        "no manifest of the index {} is for a platform that was asked for",
                        descriptor.digest
                    )));
                }
                children.truncate(limit.get());
            }
        }
        Ok(flow)
    }
}

/// Keeps of a manifest for another platform its config only, so that what is known of every platform of an image is there without its
/// layers: "all metadata" (containerd: `FilterManifestByPlatformHandler`).
#[derive(Debug)]
pub struct FilterManifestByPlatform<H> {
    inner: H,
    provider: Arc<dyn Provider>,
    matcher: Arc<dyn Matcher>,
    catalogue: Catalogue,
}

impl<H: Handler> FilterManifestByPlatform<H> {
    /// Filters what `inner` gives. Which child is the config is told by the manifest, which is read from `provider`.
    pub fn new(inner: H, provider: Arc<dyn Provider>, matcher: Arc<dyn Matcher>) -> Self {
        Self { inner, provider, matcher, catalogue: Catalogue::linked().clone() }
    }

    /// Decodes with this catalogue.
    #[must_use]
    pub fn with_catalogue(mut self, catalogue: Catalogue) -> Self {
        self.catalogue = catalogue;
        self
    }
}

#[async_trait]
impl<H: Handler> Handler for FilterManifestByPlatform<H> {
    /// # Errors
    /// Those of reading the manifest.
    async fn handle(&self, descriptor: &Descriptor) -> Result<Flow> {
        let mut flow = self.inner.handle(descriptor).await?;
        if let Flow::Children(children) = &mut flow
            && descriptor.platform.as_ref().is_some_and(|platform| !self.matcher.matches(platform))
            && kind(&descriptor.media_type, &self.catalogue)? == Some(Kind::Manifest)
            && let Some(decoded) = decode(self.provider.as_ref(), descriptor, &self.catalogue).await?
        {
            children.retain(|child| decoded.children_of(Role::Config).any(|config| config == child));
        }
        Ok(flow)
    }
}

#[cfg(test)]
mod tests {
    use wharf_content::{CommitOptions, ErrorKind, MemoryStore, write_blob};

    use super::*;
    use crate::{children::Children, handler::handler_fn, labels::child_key, media_types as types};

    fn child(name: &str, platform: &str) -> Descriptor {
        let descriptor = Descriptor::of(types::OCI_MANIFEST, name.as_bytes());
        if platform.is_empty() {
            return descriptor;
        }
        descriptor.with_platform(wharf_platforms::parse(platform).expect("a platform"))
    }

    /// Gives these children, whatever it is asked.
    fn gives(children: &[(&str, &str)]) -> impl Handler + use<> {
        let children: Vec<_> = children.iter().map(|(name, platform)| child(name, platform)).collect();
        handler_fn(move |_| {
            let children = children.clone();
            async move { Ok(Flow::Children(children)) }
        })
    }

    fn only(platform: &str) -> Arc<dyn Matcher> {
        Arc::new(wharf_platforms::only(&wharf_platforms::parse(platform).expect("a platform")))
    }

    async fn names(handler: &dyn Handler, at: &Descriptor, of: &[(&str, &str)]) -> Result<Vec<String>> {
        let Flow::Children(found) = handler.handle(at).await? else { panic!("children") };
        let name = |found: &Descriptor| {
            let named =
                of.iter().find(|(name, _)| Descriptor::of("", name.as_bytes()).digest == found.digest);
            named.expect("one of them").0.to_owned()
        };
        Ok(found.iter().map(name).collect())
    }

    const CHILDREN: &[(&str, &str)] = &[
        ("none", ""),
        ("v6", "linux/arm/v6"),
        ("amd64", "linux/amd64"),
        ("v7", "linux/arm/v7"),
        ("none too", ""),
        ("v7 too", "linux/arm/v7"),
    ];

    #[tokio::test]
    async fn children_without_a_platform_or_with_one_that_matches_stay() {
        for at in [types::OCI_INDEX, types::OCI_MANIFEST, "application/x-unheard-of"] {
            let at = Descriptor::of(at, b"parent");
            for (wanted, expected) in [
                ("linux/amd64", &["none", "amd64", "none too"][..]),
                ("linux/arm/v7", &["none", "v6", "v7", "none too", "v7 too"]),
                ("linux/s390x", &["none", "none too"]),
            ] {
                let handler = FilterPlatforms::new(gives(CHILDREN), only(wanted));
                assert_eq!(names(&handler, &at, CHILDREN).await.expect("filters"), expected, "{wanted}");
            }
        }
    }

    #[tokio::test]
    async fn an_index_is_sorted_and_cut_and_nothing_else_is() {
        let limited = |limit: usize| {
            LimitManifests::new(gives(CHILDREN), only("linux/arm/v7"), NonZeroUsize::new(limit))
        };
        let sorted = ["v7", "v7 too", "v6", "amd64", "none", "none too"];
        for index in [types::OCI_INDEX, types::DOCKER_LIST] {
            let index = Descriptor::of(index, b"parent");
            for (limit, expected) in [(0, 6), (1, 1), (3, 3), (6, 6), (7, 6)] {
                let found = names(&limited(limit), &index, CHILDREN).await.expect("limits");
                assert_eq!(found, sorted[..expected], "{limit}");
            }
            let nothing =
                |limit| LimitManifests::new(gives(&[]), only("linux/amd64"), NonZeroUsize::new(limit));
            let error = nothing(1).handle(&index).await.expect_err("nothing is left");
            assert_eq!(error.kind(), ErrorKind::NotFound);
            assert_eq!(nothing(0).handle(&index).await.expect("no limit"), Flow::leaf());
        }
        for other in [types::OCI_MANIFEST, types::OCI_CONFIG, "application/x-unheard-of"] {
            let other = Descriptor::of(other, b"parent");
            let found = names(&limited(1), &other, CHILDREN).await.expect("passes");
            assert_eq!(found, CHILDREN.iter().map(|(name, _)| *name).collect::<Vec<_>>());
        }
    }

    #[tokio::test]
    async fn skip_and_stop_pass_through() {
        let at = Descriptor::of(types::OCI_INDEX, b"parent");
        for flow in [Flow::Skip, Flow::Stop] {
            let given = flow.clone();
            let inner = Arc::new(handler_fn(move |_| {
                let flow = given.clone();
                async move { Ok(flow) }
            }));
            let matcher = only("linux/amd64");
            let store = Arc::new(MemoryStore::new());
            let handlers: [Arc<dyn Handler>; 4] = [
                Arc::new(FilterPlatforms::new(inner.clone(), matcher.clone())),
                Arc::new(LimitManifests::new(inner.clone(), matcher.clone(), NonZeroUsize::new(1))),
                Arc::new(FilterManifestByPlatform::new(inner.clone(), store.clone(), matcher)),
                Arc::new(SetChildrenLabels::new(inner, store)),
            ];
            for handler in handlers {
                assert_eq!(handler.handle(&at).await.expect("passes"), flow);
            }
        }
    }

    async fn manifest(store: &MemoryStore) -> (Descriptor, Descriptor, Descriptor) {
        let config = Descriptor::of("application/x-config", b"config");
        let layer = Descriptor::of(types::OCI_LAYER, b"layer");
        let text = serde_json::json!({ "config": config, "layers": [layer] }).to_string();
        let manifest = Descriptor::of(types::OCI_MANIFEST, text.as_bytes());
        write_blob(store, "m", &manifest, text.into(), CommitOptions::default()).await.expect("writes");
        (manifest, config, layer)
    }

    #[tokio::test]
    async fn a_manifest_of_another_platform_keeps_its_config() {
        let store = Arc::new(MemoryStore::new());
        let (manifest, config, layer) = manifest(&store).await;
        let handler =
            FilterManifestByPlatform::new(Children::new(store.clone()), store.clone(), only("linux/amd64"));
        let on = |platform: &str| {
            manifest.clone().with_platform(wharf_platforms::parse(platform).expect("a platform"))
        };
        let all = vec![config.clone(), layer];
        for (at, expected) in [
            (manifest.clone(), all.clone()),
            (on("linux/amd64"), all),
            (on("linux/arm64"), vec![config]),
            (on("unknown/unknown"), vec![Descriptor::of("application/x-config", b"config")]),
        ] {
            assert_eq!(handler.handle(&at).await.expect("handles"), Flow::Children(expected), "{at:?}");
        }
    }

    #[tokio::test]
    async fn labels_are_those_of_the_caller() {
        let store = Arc::new(MemoryStore::new());
        let (manifest, config, layer) = manifest(&store).await;
        let plain = SetChildrenLabels::new(Children::new(store.clone()), store.clone());
        plain.handle(&manifest).await.expect("labels");
        let labels = store.info(&manifest.digest).await.expect("there").labels;
        assert_eq!(labels.len(), 2);
        assert_eq!(labels[&format!("{}0", child_key(&config))], config.digest.as_str());

        let keys = LabelKeys::new(|child| match child.media_type.as_str() {
            types::OCI_LAYER => vec!["example.com/layer".to_owned(), "example.com/any.".to_owned()],
            _ => vec!["example.com/any.".to_owned()],
        });
        let mapped = SetChildrenLabels::new(Children::new(store.clone()), store.clone()).with_keys(keys);
        mapped.handle(&manifest).await.expect("labels");
        let labels = store.info(&manifest.digest).await.expect("there").labels;
        assert_eq!(labels.len(), 5, "those that were there stay");
        assert_eq!(labels["example.com/layer"], layer.digest.as_str());
        assert_eq!(labels["example.com/any.0"], config.digest.as_str());
        assert_eq!(labels["example.com/any.1"], layer.digest.as_str());
    }
}
