//! References: the names by which people and programs speak of images, `name[:tag][@digest]`.
//!
//! ```text
//! ghcr.io:443/owner/project:v1.2@sha256:9f86…0a08
//! └────┬────┘ └─────┬─────┘ └┬─┘ └──────┬───────┘
//!   domain        path      tag       digest          domain/path = repository
//! ```
//!
//! A [`Reference`] is checked and normalised when it is parsed, the way Docker does it (distribution/reference,
//! `normalize.go`), and never again later: `busybox` becomes `docker.io/library/busybox:latest`. Before a reference on
//! a command line there may be the name of a transport; [`split_transport`] takes it off.
//!
//! Nothing here asks a registry, and nothing decides which host stands behind a domain: `docker.io` stays `docker.io`.
//! References are not used as paths either; only digests are. Parsing takes one pass over the text, without regular
//! expressions, and refuses what is too long.

mod error;
mod grammar;
mod location;

use std::{borrow::Cow, fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use wharf_content::Digest;

pub(crate) use self::error::excerpt;
pub use self::{
    error::ReferenceError,
    location::{DEFAULT_TRANSPORT, Location, split_transport},
};

/// The domain of a name that has none.
pub const DEFAULT_DOMAIN: &str = "docker.io";

/// The tag of a name that has neither a tag nor a digest.
pub const DEFAULT_TAG: &str = "latest";

/// The most characters that a path has, without the domain (distribution/reference, `RepositoryNameTotalLengthMax`).
pub const MAX_PATH_LEN: usize = 255;

/// The most characters that a domain has: a host of 253 (RFC 1035), a colon, and a port of five digits.
pub const MAX_DOMAIN_LEN: usize = 259;

/// The most characters that a tag has.
pub const MAX_TAG_LEN: usize = 128;

/// The domain that Docker Hub had before [`DEFAULT_DOMAIN`].
const LEGACY_DEFAULT_DOMAIN: &str = "index.docker.io";

/// The namespace of the images on Docker Hub that have no owner, with its slash.
const OFFICIAL: &str = "library/";

/// The name of an image in a registry, checked and normalised: a domain, a path, and a tag or a digest or both.
///
/// Where both are given, the digest decides what is fetched: [`Display`](fmt::Display) prints the canonical form with
/// the digest alone, while [`tag`](Self::tag) still gives the tag and [`full`](Self::full) prints both. Equality looks
/// at everything, so a reference with both differs from one with the digest only.
///
/// With serde it is a string, in the [`full`](Self::full) form, so nothing is lost; reading normalises.
///
/// ```
/// use wharf_images::reference::Reference;
///
/// let reference = Reference::parse("busybox")?;
/// assert_eq!(reference.to_string(), "docker.io/library/busybox:latest");
/// assert_eq!(reference.familiar(), "busybox:latest");
/// assert_eq!((reference.domain(), reference.path()), ("docker.io", "library/busybox"));
/// # Ok::<(), wharf_images::reference::ReferenceError>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    /// Domain, slash, path.
    repository: String,
    domain_len: usize,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Reads and normalises a name as it is typed.
    ///
    /// The part before the first slash is a domain if it is `localhost`, contains `.` or `:`, or has an upper-case
    /// letter; else the domain is [`DEFAULT_DOMAIN`]. `index.docker.io` becomes `docker.io`, and a path of one component
    /// there gets `library/`. A name without tag and digest gets [`DEFAULT_TAG`].
    ///
    /// # Errors
    /// A [`ReferenceError`] that says which part is wrong.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        if let Some(reason) = never_a_reference(text) {
            return Err(ReferenceError::InvalidFormat { input: excerpt(text), reason });
        }
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None => (text, None),
        };
        let (domain, rest) = split_domain(name);
        let (path, tag) = match rest.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (rest, None),
        };
        check_domain(text, domain)?;
        let path = check_path(text, domain, path)?;
        if tag.is_some_and(|tag| !grammar::is_tag(tag)) {
            return Err(ReferenceError::InvalidTag { input: excerpt(text) });
        }
        let digest = digest.map(|digest| read_digest(text, digest)).transpose()?;
        let tag = match (tag, &digest) {
            (None, None) => Some(DEFAULT_TAG),
            (tag, _) => tag,
        };
        Ok(Self {
            repository: format!("{domain}/{path}"),
            domain_len: domain.len(),
            tag: tag.map(str::to_owned),
            digest,
        })
    }

    /// Reads a name that must already be in canonical form, as `Display` prints it, or in the [`full`](Self::full) form.
    ///
    /// # Errors
    /// [`ReferenceError::NotCanonical`] if normalising changes the text; else as [`parse`](Self::parse).
    pub fn parse_canonical(text: &str) -> Result<Self, ReferenceError> {
        let reference = Self::parse(text)?;
        let full = reference.full();
        if text == full || text == reference.to_string() {
            return Ok(reference);
        }
        Err(ReferenceError::NotCanonical { input: excerpt(text), canonical: full })
    }

    /// The name of another tag in the repository of a name, in the form in which names are recorded. None of what is malformed.
    pub fn beside(name: &str, tag: &str) -> Option<String> {
        let repository = Self::parse(name).ok()?.repository().to_owned();
        Self::parse(&format!("{repository}:{tag}")).ok().map(|beside| beside.to_string())
    }

    /// Whether a name can be read and says neither a tag nor a digest, so that it names a repository until [`parse`](Self::parse) fills in
    /// a tag.
    pub fn is_bare(text: &str) -> bool {
        // A tag that is filled in cannot be told from one that was typed; but what has none can be given one.
        Self::parse(text).is_ok() && Self::parse(&format!("{text}:{DEFAULT_TAG}")).is_ok()
    }

    /// The registry: a host, perhaps with a port, as in `docker.io`, `localhost:5000` or `[::1]:5000`. Case is kept.
    pub fn domain(&self) -> &str {
        &self.repository[..self.domain_len]
    }

    /// The repository within the registry, such as `library/busybox`.
    pub fn path(&self) -> &str {
        &self.repository[self.domain_len + 1..]
    }

    /// Domain and path, such as `docker.io/library/busybox`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag, if one was given or filled in. It does not decide what is fetched where there is a digest, too.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if one was given.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// What to ask the registry for: the digest where there is one, else the tag.
    pub fn object(&self) -> &str {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.as_str(),
            (None, Some(tag)) => tag,
            (None, None) => DEFAULT_TAG,
        }
    }

    /// The reference of `tag` in the same repository. A digest is dropped, as it would decide in place of the tag.
    ///
    /// # Errors
    /// [`ReferenceError::InvalidTag`].
    pub fn with_tag(&self, tag: &str) -> Result<Self, ReferenceError> {
        if !grammar::is_tag(tag) {
            return Err(ReferenceError::InvalidTag { input: excerpt(tag) });
        }
        Ok(Self {
            repository: self.repository.clone(),
            domain_len: self.domain_len,
            tag: Some(tag.to_owned()),
            digest: None,
        })
    }

    /// This reference pinned to `digest`. The tag is kept for people to read.
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { digest: Some(digest), ..self.clone() }
    }

    /// Everything that is known, `domain/path:tag@digest`, with the parts that are there.
    pub fn full(&self) -> String {
        self.named(&self.repository)
    }

    /// The shortest form that [`parse`](Self::parse) reads as the same reference: without `docker.io/`, and without
    /// `library/` where nothing but one component follows.
    ///
    /// Unlike Docker's it keeps `docker.io/` where the path would be read as a domain without it
    /// (`docker.io/example.com/app`).
    pub fn familiar(&self) -> String {
        let path = self.path();
        let short = if self.domain() != DEFAULT_DOMAIN {
            &self.repository
        } else if let Some(name) = path.strip_prefix(OFFICIAL).filter(|name| !name.contains('/')) {
            name
        } else if split_domain(path) == (DEFAULT_DOMAIN, path) {
            path
        } else {
            &self.repository
        };
        self.named(short)
    }

    fn named(&self, name: &str) -> String {
        let mut text = name.to_owned();
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            text.push('@');
            text.push_str(digest.as_str());
        }
        text
    }
}

/// Finds the mistakes for which there is better advice than that a character is wrong.
fn never_a_reference(text: &str) -> Option<&'static str> {
    if let Some((scheme, _)) = text.split_once("://") {
        return Some(if scheme.eq_ignore_ascii_case("https") {
            r#"a reference has no scheme; drop "https://""#
        } else if scheme.eq_ignore_ascii_case("http") {
            r#"a reference has no scheme; drop "http://", and use --plain-http if the registry has no TLS"#
        } else {
            r#"a reference has no scheme; drop what stands up to "://""#
        });
    }
    grammar::is_identifier(text).then_some(
        "64 hexadecimal digits are an identifier and not a name; to fetch by digest write NAME@sha256:DIGITS",
    )
}

/// Splits what precedes the digest into the domain, perhaps the default one, and the rest.
fn split_domain(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some((LEGACY_DEFAULT_DOMAIN, rest)) => (DEFAULT_DOMAIN, rest),
        Some((first, rest))
            if first == "localhost"
                || first.contains(['.', ':'])
                || first.contains(|character: char| character.is_ascii_uppercase()) =>
        {
            (first, rest)
        }
        _ => (DEFAULT_DOMAIN, name),
    }
}

fn check_domain(text: &str, domain: &str) -> Result<(), ReferenceError> {
    if !grammar::is_domain(domain) {
        return Err(ReferenceError::InvalidFormat {
            input: excerpt(text),
            reason: "what stands before the first slash is not a host with an optional port; \
                     expected letters, digits, hyphens and dots, as in registry.example.com:5000/name",
        });
    }
    if domain.len() > MAX_DOMAIN_LEN {
        return Err(ReferenceError::NameTooLong {
            input: excerpt(text),
            part: "domain",
            len: domain.len(),
            limit: MAX_DOMAIN_LEN,
        });
    }
    Ok(())
}

/// Checks the path and completes it.
fn check_path<'a>(text: &str, domain: &str, path: &'a str) -> Result<Cow<'a, str>, ReferenceError> {
    if path.is_empty() {
        return Err(ReferenceError::EmptyName { input: excerpt(text) });
    }
    if !grammar::is_path(path) {
        let input = excerpt(text);
        return Err(if grammar::is_path_but_for_case(path) {
            ReferenceError::ContainsUppercase { input }
        } else {
            ReferenceError::InvalidFormat {
                input,
                reason: "a component of the repository path is empty or has a character in the wrong place; \
                         expected lower-case letters and digits, between them one of . _ __ or hyphens",
            }
        });
    }
    let path = if domain == DEFAULT_DOMAIN && !path.contains('/') {
        Cow::Owned(format!("{OFFICIAL}{path}"))
    } else {
        Cow::Borrowed(path)
    };
    if path.len() > MAX_PATH_LEN {
        return Err(ReferenceError::NameTooLong {
            input: excerpt(text),
            part: "path",
            len: path.len(),
            limit: MAX_PATH_LEN,
        });
    }
    Ok(path)
}

fn read_digest(text: &str, digest: &str) -> Result<Digest, ReferenceError> {
    if !grammar::is_digest_shaped(digest) {
        return Err(ReferenceError::InvalidDigest { input: excerpt(text) });
    }
    digest.parse().map_err(|source| ReferenceError::Digest { input: excerpt(text), source })
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        Self::parse(text)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let before = if self.digest.is_some() { '@' } else { ':' };
        f.pad(&format!("{}{before}{}", self.repository, self.object()))
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.full())
    }
}

impl Serialize for Reference {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.full())
    }
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Reference;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an image reference")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Reference, E> {
                // The error behind the error would be lost here, so it is part of the message.
                text.parse()
                    .map_err(|error: ReferenceError| E::custom(wharf_content::Error::from(error).report()))
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

#[cfg(test)]
mod differential;
#[cfg(test)]
mod tests;
