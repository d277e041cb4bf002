//! The names in a request: repositories, tags, uploads and the host, checked once when they enter.
//!
//! This module says which records of the store a name stands for; it asks no store. Nothing here becomes a path.

use http::{Version, header, request::Parts, uri::Authority};
use wharf_content::Digest;
use wharf_images::Reference;

use super::refusal::{Code, Refusal};

/// The domain of what is pushed under a `Host` header that names none.
pub(super) const FALLBACK_DOMAIN: &str = "localhost";

/// The name of a repository as the specification has it ("Pulling manifests"): a path of lower-case components.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Repository(String);

impl Repository {
    /// Checks a name; the grammar is that of a reference's path.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let reference = Reference::parse(&format!("{FALLBACK_DOMAIN}/{text}")).ok()?;
        (reference.path() == text).then(|| Self(text.to_owned()))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// The repositories of records that this name stands for, `domain/path` each, the best first.
    pub(super) fn meanings(&self, host: &Host) -> Vec<String> {
        let docker = format!("{}/{}", wharf_images::reference::DEFAULT_DOMAIN, self.0);
        let docker = Reference::parse(&docker).ok().map(|reference| reference.repository().to_owned());
        let hosted = format!("{}/{}", host.0, self.0);
        self.qualified().into_iter().chain([hosted]).chain(docker).collect()
    }

    /// The repository whose records a push writes.
    pub(super) fn pushed(&self, host: &Host) -> String {
        self.qualified().unwrap_or_else(|| format!("{}/{}", host.0, self.0))
    }

    /// Whether a record's reference is one of this repository, whatever its domain.
    pub(super) fn covers(&self, meanings: &[String], record: &Reference) -> bool {
        record.path() == self.0 || meanings.iter().any(|meaning| meaning == record.repository())
    }

    /// The name itself as a record's repository, where its first component is a domain.
    fn qualified(&self) -> Option<String> {
        let (first, rest) = self.0.split_once('/')?;
        if rest.is_empty() || !(first == FALLBACK_DOMAIN || first.contains('.')) {
            return None;
        }
        Some(Reference::parse(&self.0).ok()?.repository().to_owned())
    }
}

/// A tag: a letter, digit or underscore, then at most 127 of these, dots and hyphens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tag(String);

impl Tag {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let reference = Reference::parse(&format!("{FALLBACK_DOMAIN}/x:{text}")).ok()?;
        (reference.tag() == Some(text) && reference.digest().is_none()).then(|| Self(text.to_owned()))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// The number of an upload, 128 random bits in lower-case hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UploadId(String);

impl UploadId {
    const LEN: usize = 32;

    pub(super) fn parse(text: &str) -> Option<Self> {
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        (text.len() == Self::LEN && text.bytes().all(is_digit)).then(|| Self(text.to_owned()))
    }

    /// Draws a new number from the system's source of randomness.
    pub(super) fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; Self::LEN / 2];
        getrandom::fill(&mut bytes)?;
        Ok(Self(format!("{:032x}", u128::from_be_bytes(bytes))))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of its ingest in the store. A number means something in its own repository only, which is therefore part of the name.
    pub(super) fn ingest(&self, repository: &Repository) -> String {
        let digest = Digest::sha256(repository.0.as_bytes());
        format!("upload-{}-{}", self.0, &digest.hex()[..Self::LEN])
    }
}

/// The domain that the client takes this registry for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Host(String);

impl Host {
    /// Reads the authority of the request's target where it has one, which goes before the header (RFC 9112, 3.2.2), or else the `Host` header.
    ///
    /// # Errors
    /// A request of HTTP/1.1 has one such header, and it is a host or empty (RFC 9112, 3.2; 400).
    pub(super) fn of(head: &Parts) -> Result<Self, Refusal> {
        let malformed = |what| Err(Refusal::bad(Code::Unsupported, what));
        let mut headers = head.headers.get_all(header::HOST).iter();
        let host = match (headers.next(), headers.next()) {
            (_, Some(_)) => return malformed("there is more than one Host header"),
            (None, _) if head.version >= Version::HTTP_11 => return malformed("there is no Host header"),
            (None, _) => "",
            (Some(host), None) => match host.to_str() {
                Ok(host) if host.is_empty() || Authority::try_from(host).is_ok() => host,
                _ => return malformed("the Host header is no host"),
            },
        };
        Ok(Self::new(head.uri.authority().map_or(host, Authority::as_str)))
    }

    /// Takes over what is the domain of a reference, in lower case; anything else is [`FALLBACK_DOMAIN`].
    pub(super) fn new(text: &str) -> Self {
        let text = text.to_ascii_lowercase();
        let is_domain = !text.contains('/')
            && Reference::parse(&format!("{text}/x")).is_ok_and(|reference| reference.domain() == text);
        Self(if is_domain { text } else { FALLBACK_DOMAIN.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_follow_the_grammar() {
        for good in ["a", "library/busybox", "a.b/c_d/e__f/g--h", "docker.io/library/x", "localhost/x"] {
            assert_eq!(Repository::parse(good).expect(good).as_str(), good);
        }
        let long = "a".repeat(256);
        for bad in [
            "",
            "/",
            "a/",
            "/a",
            "a//b",
            "A",
            "a/B",
            "..",
            "a/../b",
            ".",
            "a/.",
            "-a",
            "a-",
            "a..b",
            "a:b",
            "a@b",
            "a b",
            "ä",
            "a\0",
            "a/%2e",
            "http://a",
            "a@sha256:00",
            &long,
        ] {
            assert_eq!(Repository::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn tags_and_uploads() {
        for good in ["latest", "_x", "1.0-rc.1", &"a".repeat(128)] {
            assert!(Tag::parse(good).is_some(), "{good}");
        }
        for bad in ["", ".x", "-x", "a/b", "a:b", "a@b", "ä", &"a".repeat(129)] {
            assert_eq!(Tag::parse(bad), None, "{bad:?}");
        }
        let id = UploadId::random().expect("the system has randomness");
        assert_eq!(UploadId::parse(id.as_str()), Some(id.clone()));
        assert_ne!(UploadId::random().expect("randomness"), id);
        for bad in [
            "",
            "..",
            "0",
            &"A".repeat(32),
            &"0".repeat(31),
            &"0".repeat(33),
            "../../../../../../../../../../../",
        ] {
            assert_eq!(UploadId::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn hosts_are_domains_or_localhost() {
        for (text, expected) in [
            ("127.0.0.1:5000", "127.0.0.1:5000"),
            ("Example.COM", "example.com"),
            ("[::1]:5000", "[::1]:5000"),
            ("registry", "localhost"),
            ("localhost:1", "localhost:1"),
            ("", "localhost"),
            ("a.b/c", "localhost"),
            ("a.b:x", "localhost"),
            ("../..", "localhost"),
            ("a b.c", "localhost"),
        ] {
            assert_eq!(Host::new(text).0, expected, "{text:?}");
        }
    }

    #[test]
    fn one_host_and_the_target_before_it() {
        let one = [("host", "a.example:5000")];
        let two = [one[0], ("host", "b.example")];
        for (version, target, headers, expected) in [
            (Version::HTTP_11, "/", &one[..], Ok("a.example:5000")),
            (Version::HTTP_11, "/", &[("host", "")], Ok("localhost")),
            (Version::HTTP_11, "/", &[("host", "[::1]:5000")], Ok("[::1]:5000")),
            (Version::HTTP_11, "http://c.example/", &one, Ok("c.example")),
            (Version::HTTP_10, "/", &[], Ok("localhost")),
            (Version::HTTP_11, "/", &[], Err("no Host")),
            (Version::HTTP_11, "http://c.example/", &[], Err("no Host")),
            (Version::HTTP_11, "/", &two, Err("more than one")),
            (Version::HTTP_10, "/", &two, Err("more than one")),
            (Version::HTTP_11, "/", &[("host", "../../etc")], Err("no host")),
            (Version::HTTP_11, "/", &[("host", "a b")], Err("no host")),
            (Version::HTTP_11, "/", &[("host", "ä")], Err("no host")),
        ] {
            let mut request = http::Request::builder().version(version).uri(target);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let (head, ()) = request.body(()).expect("a request").into_parts();
            match (Host::of(&head), expected) {
                (Ok(host), Ok(expected)) => assert_eq!(host.0, expected, "{headers:?}"),
                (Err(refusal), Err(told)) => {
                    assert_eq!(refusal.parts(), (400, Code::Unsupported), "{headers:?}");
                    assert!(format!("{refusal:?}").contains(told), "{headers:?}: {refusal:?}");
                }
                (found, expected) => panic!("{headers:?}: {found:?} and not {expected:?}"),
            }
        }
    }

    #[test]
    fn meanings_in_order() {
        let host = Host::new("127.0.0.1:5000");
        let meanings = |name: &str| Repository::parse(name).expect("valid").meanings(&host);
        assert_eq!(meanings("x"), ["127.0.0.1:5000/x", "docker.io/library/x"]);
        assert_eq!(
            meanings("ghcr.io/o/p"),
            ["ghcr.io/o/p", "127.0.0.1:5000/ghcr.io/o/p", "docker.io/ghcr.io/o/p"]
        );
        assert_eq!(meanings("docker.io/x")[0], "docker.io/library/x");
        let repository = Repository::parse("o/p").expect("valid");
        assert_eq!(repository.pushed(&host), "127.0.0.1:5000/o/p");
        assert_eq!(Repository::parse("localhost/p").expect("valid").pushed(&host), "localhost/p");
        let record = Reference::parse("quay.io/o/p:1").expect("valid");
        assert!(repository.covers(&repository.meanings(&host), &record));
        assert!(!repository.covers(&[], &Reference::parse("quay.io/other/p").expect("valid")));
    }
}
