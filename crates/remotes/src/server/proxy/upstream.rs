//! The registry that a proxy is a cache of, as its operator writes it: a URL without anything behind the host.

use std::fmt;

use http::Uri;
use wharf_content::{Error, Result};
use wharf_images::{Reference, reference::DEFAULT_DOMAIN};

/// Where Docker Hub is asked, and how people call it.
const HUB: &[&str] = &["docker.io", "index.docker.io", "registry-1.docker.io"];

/// A registry, by its domain and scheme.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    domain: String,
    is_plain: bool,
}

impl Upstream {
    /// Reads `https://HOST[:PORT]` or `http://HOST[:PORT]`. Docker Hub is known by all of its names.
    ///
    /// # Errors
    /// `InvalidArgument`, which never shows a password that may be in it.
    pub fn parse(text: &str) -> Result<Self> {
        let fault = |what: &str| {
            let shown = if text.contains('@') { String::new() } else { format!(" {text:?}") };
            Error::invalid_argument(format!(
                "the upstream{shown} {what}: write it as https://registry.example or http://HOST:PORT"
            ))
        };
        if text.contains('@') {
            return Err(fault(
                "has a user or a password in its URL, which `wharf login` and --creds are for",
            ));
        }
        let uri: Uri = text.parse().map_err(|_| fault("is no URL"))?;
        let is_plain = match uri.scheme_str() {
            Some("https") => false,
            Some("http") => true,
            Some(_) => return Err(fault("is neither https nor http")),
            None => return Err(fault("has no scheme")),
        };
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() || text.contains('#') {
            return Err(fault("has a path or more behind its host, where a registry is the whole of one"));
        }
        let authority = uri.authority().map(|authority| authority.as_str().to_ascii_lowercase());
        let authority =
            authority.filter(|authority| !authority.is_empty()).ok_or_else(|| fault("has no host"))?;
        if authority.ends_with(':') {
            return Err(fault("has a colon and no port"));
        }
        let port = if is_plain { ":80" } else { ":443" };
        let bare = authority.strip_suffix(port).unwrap_or(&authority);
        if !is_plain && HUB.contains(&bare) {
            return Ok(Self { domain: DEFAULT_DOMAIN.to_owned(), is_plain });
        }
        // A name without a dot is a domain only with its port.
        let domain = [bare.to_owned(), format!("{bare}{port}")].into_iter().find(|domain| is_domain(domain));
        Ok(Self { domain: domain.ok_or_else(|| fault("has no host that a registry could have"))?, is_plain })
    }

    /// The domain of its references, and of the images that come from it.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Whether it is spoken to in plain HTTP.
    pub fn is_plain_http(&self) -> bool {
        self.is_plain
    }

    /// Whether a client means it by this name (containerd: the parameter `ns` of its mirrors).
    pub(super) fn is_called(&self, namespace: &str) -> bool {
        let scheme = if self.is_plain { "http" } else { "https" };
        Self::parse(&format!("{scheme}://{namespace}")).is_ok_and(|named| named.domain == self.domain)
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.domain)
    }
}

fn is_domain(text: &str) -> bool {
    Reference::parse(&format!("{text}/x")).is_ok_and(|reference| reference.domain() == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_registries() {
        for (url, domain, is_plain) in [
            ("https://registry-1.docker.io", "docker.io", false),
            ("https://index.docker.io/", "docker.io", false),
            ("https://Docker.IO:443", "docker.io", false),
            ("https://ghcr.io", "ghcr.io", false),
            ("https://ghcr.io:443", "ghcr.io", false),
            ("https://ghcr.io:8443/", "ghcr.io:8443", false),
            ("http://127.0.0.1:5000", "127.0.0.1:5000", true),
            ("https://localhost", "localhost", false),
            ("http://registry:5000", "registry:5000", true),
            ("http://registry", "registry:80", true),
            ("https://registry", "registry:443", false),
            ("http://[::1]:5000", "[::1]:5000", true),
        ] {
            let upstream = Upstream::parse(url).expect(url);
            assert_eq!((upstream.domain(), upstream.is_plain_http()), (domain, is_plain), "{url}");
        }
    }

    #[test]
    fn what_is_none_is_told_and_never_a_password() {
        for (text, told) in [
            ("", "is no URL"),
            ("docker.io", "has no scheme"),
            ("127.0.0.1:5000", "has no scheme"),
            ("docker.io/library", "is no URL"),
            ("ftp://docker.io", "neither https nor http"),
            ("https://docker.io/library", "has a path"),
            ("https://docker.io/v2/", "has a path"),
            ("https://docker.io?x=y", "has a path"),
            ("https://docker.io/#x", "has a path"),
            ("https://ann:canary@docker.io", "has a user or a password"),
            ("https://canary@docker.io", "has a user or a password"),
            ("ann:canary@docker.io", "has a user or a password"),
            ("https://", "is no URL"),
            ("https://:5000", "could have"),
            ("https://docker.io:", "no port"),
            ("https://a b", "is no URL"),
            ("https://a_b.example", "could have"),
        ] {
            let error = Upstream::parse(text).expect_err(text).to_string();
            assert!(error.contains(told) && !error.contains("canary"), "{text}: {error}");
            assert!(error.contains("https://registry.example"), "{error}");
        }
    }

    #[test]
    fn names_of_one_registry() {
        let hub = Upstream::parse("https://docker.io").expect("a URL");
        for (name, expected) in [
            ("docker.io", true),
            ("registry-1.docker.io", true),
            ("quay.io", false),
            ("", false),
            ("a/b", false),
        ] {
            assert_eq!(hub.is_called(name), expected, "{name}");
        }
        let local = Upstream::parse("http://127.0.0.1:5000").expect("a URL");
        assert!(local.is_called("127.0.0.1:5000") && !local.is_called("127.0.0.1:5001"));
    }
}
