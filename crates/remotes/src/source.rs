//! Where content came from: a label on each blob that names the repositories of a registry, and finding them again by it.
//!
//! ```text
//! containerd.io/distribution.source.<host without port> = library/busybox,other/repository
//! ```
//!
//! The form is containerd's (`core/remotes/docker/handler.go`), port lost and all. Which port it was, the names of images tell.

use std::{collections::BTreeSet, sync::Arc};

use async_trait::async_trait;
use wharf_content::{
    Descriptor, Digest, Labels, Manager, Result,
    labels::{self, DISTRIBUTION_SOURCE},
};
use wharf_images::{Flow, Handler, Reference};

/// The host of a registry's domain: without its port, and without the brackets of an IPv6 address.
pub(crate) fn host(domain: &str) -> &str {
    if let Some((address, _)) = domain.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return address;
    }
    domain.rsplit_once(':').map_or(domain, |(host, _)| host)
}

/// A handler that labels each node, once it is in the store, with the repository that it came from.
#[derive(Debug)]
pub struct DistributionSource {
    manager: Arc<dyn Manager>,
    key: String,
    path: String,
    elsewhere: Vec<Digest>,
}

impl DistributionSource {
    /// Names `repository`, a domain and a path, as the source; `None` where it is no repository of a registry.
    pub fn new(manager: Arc<dyn Manager>, repository: &str) -> Option<Self> {
        let reference = Reference::parse(repository).ok()?;
        let key = format!("{DISTRIBUTION_SOURCE}{}", host(reference.domain()));
        Some(Self { manager, key, path: reference.path().to_owned(), elsewhere: Vec::new() })
    }

    /// As a handler, leaves these alone, since they are not from there.
    #[must_use]
    pub fn without(mut self, digests: Vec<Digest>) -> Self {
        self.elsewhere = digests;
        self
    }

    /// The labels of a blob that comes from here and was never anywhere else; none where a label may not be as long as that.
    pub fn labels(&self) -> Labels {
        match labels::validate_one(&self.key, &self.path) {
            Ok(()) => Labels::from([(self.key.clone(), self.path.clone())]),
            Err(_) => Labels::new(),
        }
    }

    /// Labels a blob of the store, unless that changes nothing or makes the label longer than one may be.
    ///
    /// # Errors
    /// `NotFound` when the blob is not in the store.
    pub async fn label(&self, digest: &Digest) -> Result<()> {
        let info = self.manager.info(digest).await?;
        let before = info.labels.get(&self.key).map_or("", String::as_str);
        let Some(after) = joined(before, &self.path) else { return Ok(()) };
        if labels::validate_one(&self.key, &after).is_err() {
            return Ok(());
        }
        let path = format!("labels.{}", self.key);
        let wanted = Labels::from([(self.key.clone(), after)]);
        self.manager.update(digest, &wanted, &[&path]).await.map(drop)
    }
}

/// The value with `path` in it, sorted, each once; `None` where it is that already.
fn joined(value: &str, path: &str) -> Option<String> {
    let mut paths: BTreeSet<&str> = value.split(',').filter(|path| !path.is_empty()).collect();
    paths.insert(path);
    let joined = paths.into_iter().collect::<Vec<_>>().join(",");
    (joined != value).then_some(joined)
}

#[async_trait]
impl Handler for DistributionSource {
    async fn handle(&self, descriptor: &Descriptor) -> Result<Flow> {
        if !self.elsewhere.contains(&descriptor.digest) {
            self.label(&descriptor.digest).await?;
        }
        Ok(Flow::leaf())
    }
}

/// The repositories, as `domain/path`, at which content is looked for again: the likeliest first, each once.
///
/// `names` are those of the images that need it, `others` those of all images. First come the repositories of the labels, at the ports
/// that the names give their hosts; then those of the names themselves; then the labels' at the ports of others, and at none.
pub fn repositories<'a>(
    labels: &Labels,
    names: impl IntoIterator<Item = &'a str>,
    others: impl IntoIterator<Item = &'a str>,
) -> Vec<String> {
    let read = |names: Vec<&str>| -> Vec<Reference> {
        names.into_iter().filter_map(|name| Reference::parse(name).ok()).collect()
    };
    let names = read(names.into_iter().collect());
    let others = read(others.into_iter().collect());
    let sources: Vec<(&str, &str)> = labels
        .iter()
        .filter_map(|(key, value)| Some((key.strip_prefix(DISTRIBUTION_SOURCE)?, value)))
        .flat_map(|(host, value)| value.split(',').map(move |path| (host, path)))
        .collect();
    let at = |references: &[Reference], source: &(&str, &str)| -> Vec<String> {
        let domains = references.iter().map(Reference::domain).filter(|domain| host(domain) == source.0);
        domains.map(|domain| format!("{domain}/{}", source.1)).collect()
    };
    let bare = |(host, path): &(&str, &str)| {
        if host.contains(':') { format!("[{host}]/{path}") } else { format!("{host}/{path}") }
    };
    let mut found: Vec<String> = Vec::new();
    for source in &sources {
        let known = at(&names, source);
        found.extend(if known.is_empty() { at(&others, source) } else { known });
        if at(&names, source).is_empty() && at(&others, source).is_empty() {
            found.push(bare(source));
        }
    }
    found.extend(names.iter().map(|name| name.repository().to_owned()));
    found.extend(sources.iter().flat_map(|source| at(&others, source)));
    found.extend(sources.iter().map(bare));
    let mut seen = BTreeSet::new();
    // A label is anybody's text: what is no repository is not asked for.
    found.retain(|name| {
        Reference::parse(name).is_ok_and(|read| read.repository() == name) && seen.insert(name.clone())
    });
    found
}

/// The other repositories, as `domain/path`, of a repository's registry that content is said to be in: those that share the most
/// components of the path from its start come first (containerd: `core/remotes/docker/handler.go`, `selectRepositoryMountCandidate`).
pub(crate) fn neighbours(labels: &Labels, repository: &str) -> Vec<String> {
    let Ok(reference) = Reference::parse(repository) else { return Vec::new() };
    let Some(paths) = labels.get(&format!("{DISTRIBUTION_SOURCE}{}", host(reference.domain()))) else {
        return Vec::new();
    };
    let shared =
        |path: &str| path.split('/').zip(reference.path().split('/')).take_while(|(a, b)| a == b).count();
    let named = paths.split(',').filter_map(|path| {
        // A label is anybody's text.
        let name = format!("{}/{path}", reference.domain());
        let is_other =
            Reference::parse(&name).is_ok_and(|read| read.repository() == name) && path != reference.path();
        is_other.then_some((shared(path), name))
    });
    let mut named: Vec<(usize, String)> = named.collect();
    named.sort_by_key(|(shared, _)| std::cmp::Reverse(*shared));
    named.into_iter().map(|(_, name)| name).collect()
}

#[cfg(test)]
mod tests {
    use wharf_content::{CommitOptions, MemoryStore, labels::MAX_LABEL_LEN, write_blob};

    use super::*;

    fn labelled(pairs: &[(&str, &str)]) -> Labels {
        pairs
            .iter()
            .map(|(host, value)| (format!("{DISTRIBUTION_SOURCE}{host}"), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn hosts_lose_their_ports() {
        for (domain, expected) in [
            ("docker.io", "docker.io"),
            ("localhost:5000", "localhost"),
            ("127.0.0.1:1", "127.0.0.1"),
            ("[::1]:5000", "::1"),
            ("[::1]", "::1"),
        ] {
            assert_eq!(host(domain), expected);
        }
    }

    #[test]
    fn values_are_sorted_and_change_only_where_they_must() {
        assert_eq!(joined("", "b/a").as_deref(), Some("b/a"));
        assert_eq!(joined("b/a", "b/a"), None);
        assert_eq!(joined("b/a", "a").as_deref(), Some("a,b/a"));
        assert_eq!(joined("z,a,,z", "a").as_deref(), Some("a,z"), "what others left is put in order");
    }

    #[test]
    fn ports_come_from_names_and_nothing_is_asked_twice() {
        let labels = labelled(&[("localhost", "a/b,c"), ("docker.io", "library/x")]);
        let names = ["localhost:5000/a/b:1", "localhost:5000/a/b:2"];
        assert_eq!(
            repositories(&labels, names, ["localhost:6000/z:1"]),
            [
                "docker.io/library/x",
                "localhost:5000/a/b",
                "localhost:5000/c",
                "localhost:6000/a/b",
                "localhost:6000/c",
                "localhost/a/b",
                "localhost/c",
            ]
        );
        assert_eq!(
            repositories(&labelled(&[("::1", "a")]), ["[::1]:7/b:1"], []),
            ["[::1]:7/a", "[::1]:7/b", "[::1]/a"]
        );
        assert_eq!(repositories(&Labels::new(), ["busybox"], []), ["docker.io/library/busybox"]);
        let evil = labelled(&[("x.y/..", "a"), ("x.y", "../a,A,a:b,,a@b,ok")]);
        assert_eq!(repositories(&evil, [], []), ["x.y/ok"]);
    }

    #[test]
    fn the_nearest_neighbour_is_first_and_the_repository_itself_is_none() {
        let labels =
            labelled(&[("localhost", "a/x,other,team/app,team/base,team/deep/app,../x"), ("h", "z")]);
        assert_eq!(
            neighbours(&labels, "localhost:5000/team/app"),
            ["team/base", "team/deep/app", "a/x", "other"].map(|path| format!("localhost:5000/{path}"))
        );
        assert_eq!(neighbours(&labels, "elsewhere.example/z"), [""; 0]);
    }

    #[tokio::test]
    async fn a_label_that_is_full_is_left_alone() {
        let store = Arc::new(MemoryStore::new());
        let descriptor = Descriptor::of("x", b"bytes");
        let options = CommitOptions::default();
        write_blob(store.as_ref(), "x", &descriptor, b"bytes".as_slice().into(), options)
            .await
            .expect("writes");
        let source = |path: &str| {
            let manager = Arc::clone(&store) as Arc<dyn Manager>;
            DistributionSource::new(manager, &format!("h.example:5000/{path}")).expect("a repository")
        };
        let key = format!("{DISTRIBUTION_SOURCE}h.example");
        let value = async || store.info(&descriptor.digest).await.expect("there").labels[&key].clone();
        source("b").label(&descriptor.digest).await.expect("labels");
        source("a/b").label(&descriptor.digest).await.expect("labels");
        assert_eq!(value().await, "a/b,b");
        for at in 0..40 {
            let path = format!("p{at:02}/{}", "x".repeat(200));
            source(&path).label(&descriptor.digest).await.expect("is no error");
        }
        let full = value().await;
        assert!(full.len() + key.len() <= MAX_LABEL_LEN && full.len() > 3000, "{}", full.len());
        assert!(full.starts_with("a/b,b,p00/"));
    }
}
