//! For whom a credential is: the host that is contacted and, where it matters, a repository there; and how the files of docker and
//! podman write that.
//!
//! ```text
//! ghcr.io   ghcr.io:8443   https://ghcr.io   https://ghcr.io/v2/     a registry
//! https://index.docker.io/v1/                                        Docker Hub, as docker writes it
//! quay.io/owner   quay.io/owner/image                                what is below, as podman writes it
//! ```

/// The names of Docker Hub: the one that is written in references, the one of logging in, and the one that is contacted.
const HUB: [&str; 3] = ["docker.io", "index.docker.io", "registry-1.docker.io"];
/// What docker calls Docker Hub in its file and to its helpers (docker/cli: `cli/config/configfile`).
const HUB_SERVER: &str = "https://index.docker.io/v1/";

/// For whom a credential is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Audience {
    host: String,
    repository: Option<String>,
}

impl Audience {
    /// A registry, by its host and port. A scheme and a path are left out, the port of HTTPS too, and all names of Docker Hub are one.
    pub fn new(host: &str) -> Self {
        let (_, rest) = split_scheme(host);
        let host = rest.split('/').next().unwrap_or_default();
        Self { host: canonical_host(host), repository: None }
    }

    /// A repository of the same registry.
    #[must_use]
    pub fn with_repository(mut self, path: impl Into<String>) -> Self {
        self.repository = Some(path.into()).filter(|path| !path.is_empty());
        self
    }

    /// The registry's host and port; `docker.io` for Docker Hub.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The repository, where one is meant.
    pub fn repository(&self) -> Option<&str> {
        self.repository.as_deref()
    }

    /// What docker's file and credential helpers call the registry.
    pub fn server(&self) -> &str {
        if self.host == HUB[0] { HUB_SERVER } else { &self.host }
    }

    /// The keys under which podman's file may have the repository or what is above it, the longest first; not the registry itself.
    pub(super) fn repository_keys(&self) -> Vec<String> {
        let Some(mut path) = self.repository() else { return Vec::new() };
        let mut keys = Vec::new();
        loop {
            keys.push(format!("{}/{path}", self.host));
            let Some((above, _)) = path.rsplit_once('/') else { return keys };
            path = above;
        }
    }
}

/// A key of a file in the form of [`Audience::host`] or [`Audience::repository_keys`].
pub(super) fn canonical(key: &str) -> String {
    let (scheme, rest) = split_scheme(key.trim());
    let rest = rest.trim_end_matches('/');
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let host = canonical_host(host);
    // docker writes URLs of an API, podman writes repositories, and those without a scheme.
    if scheme.is_some() || matches!(path, "" | "v1" | "v2") { host } else { format!("{host}/{path}") }
}

fn canonical_host(host: &str) -> String {
    let host = host.to_ascii_lowercase();
    let host = host.strip_suffix(":443").unwrap_or(&host);
    if HUB.contains(&host) { HUB[0].to_owned() } else { host.to_owned() }
}

fn split_scheme(text: &str) -> (Option<&str>, &str) {
    match text.split_once("://") {
        Some((scheme, rest)) => (Some(scheme), rest),
        None => (None, text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_files() {
        for (key, expected) in [
            ("ghcr.io", "ghcr.io"),
            ("GHCR.io", "ghcr.io"),
            ("ghcr.io/", "ghcr.io"),
            ("https://ghcr.io", "ghcr.io"),
            ("http://ghcr.io:8080/v1/", "ghcr.io:8080"),
            ("https://ghcr.io/v2/", "ghcr.io"),
            ("https://ghcr.io/any/path", "ghcr.io"),
            ("ghcr.io/v2", "ghcr.io"),
            ("ghcr.io:443", "ghcr.io"),
            ("localhost:5000", "localhost:5000"),
            ("[::1]:5000", "[::1]:5000"),
            ("https://index.docker.io/v1/", "docker.io"),
            ("index.docker.io", "docker.io"),
            ("registry-1.docker.io", "docker.io"),
            ("docker.io/library/x", "docker.io/library/x"),
            ("quay.io/Owner/image/", "quay.io/Owner/image"),
            ("", ""),
            ("://", ""),
        ] {
            assert_eq!(canonical(key), expected, "{key:?}");
        }
    }

    #[test]
    fn audiences() {
        let hub = Audience::new("registry-1.docker.io").with_repository("library/busybox");
        assert_eq!((hub.host(), hub.server()), ("docker.io", "https://index.docker.io/v1/"));
        assert_eq!(hub.repository_keys(), ["docker.io/library/busybox", "docker.io/library"]);
        let other = Audience::new("https://r.example:5000/v2/");
        assert_eq!((other.host(), other.server()), ("r.example:5000", "r.example:5000"));
        assert_eq!(other.repository_keys(), [""; 0]);
        assert_eq!(other.with_repository("").repository(), None);
    }
}
