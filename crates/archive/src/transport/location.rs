//! Reads what follows a transport's prefix: a path, perhaps the name of an image in it, perhaps its digest.
//!
//! ```text
//! /srv/layout                         path
//! /srv/layout:v1                      path, tag
//! image.tar:ghcr.io/owner/image:1.2   path, full name
//! /srv/layout@sha256:…                path, digest
//! /srv/layout:v1@sha256:…             all of them
//! ```
//!
//! The path ends with the first colon, as other programs have it, so that no path has one. Nothing is opened here.

use std::path::PathBuf;

use wharf_content::{Descriptor, Digest, Error, Result};
use wharf_images::{
    Reference,
    sqlite::{ANNOTATION_IMAGE_NAME, ANNOTATION_REF_NAME},
};

/// How an image is called in an `index.json`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Title {
    /// The name with its repository, normalised, where it has one.
    pub(crate) full: Option<String>,
    /// The tag; what tools choose by.
    pub(crate) tag: String,
}

impl Title {
    /// A bare tag.
    fn of_tag(tag: &str) -> Self {
        Self { full: None, tag: tag.to_owned() }
    }

    /// A name with its repository.
    fn of_reference(reference: &Reference) -> Self {
        let tag = reference.tag().unwrap_or_else(|| reference.object()).to_owned();
        Self { full: Some(reference.to_string()), tag }
    }

    /// The title that an entry of `index.json` has; `None` where it has none.
    pub(crate) fn of_entry(entry: &Descriptor) -> Option<Self> {
        let annotation = |key| entry.annotations.get(key).filter(|value: &&String| !value.is_empty());
        let (own, tag) = (annotation(ANNOTATION_IMAGE_NAME), annotation(ANNOTATION_REF_NAME));
        // Some tools write a whole name where the tag belongs.
        let whole = tag.filter(|tag| tag.contains(['/', ':']) && tag.parse::<Digest>().is_err());
        let full = own.cloned().or_else(|| Some(Reference::parse(whole?).ok()?.to_string()));
        let reference = full.as_deref().and_then(|full| Reference::parse(full).ok());
        let tag = match (&reference, tag) {
            (Some(reference), _) if whole.is_some() || tag.is_none() => Self::of_reference(reference).tag,
            (_, Some(tag)) => tag.clone(),
            (_, None) => full.clone()?,
        };
        Some(Self { full, tag })
    }

    /// Whether an entry of `index.json` is meant. A bare tag means every repository's.
    pub(crate) fn means(&self, entry: &Descriptor) -> bool {
        Self::of_entry(entry).is_some_and(|other| match &self.full {
            Some(full) => other.full.as_ref() == Some(full),
            None => other.tag == self.tag,
        })
    }

    /// What is shown, and typed.
    pub(crate) fn shown(&self) -> &str {
        self.full.as_deref().unwrap_or(&self.tag)
    }
}

/// What a bare word behind the path is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Words {
    /// A tag, as in an OCI layout.
    Tags,
    /// A repository whose tag is filled in, as Docker reads it.
    Repositories,
}

/// A place, and what is meant there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Location {
    pub(crate) path: PathBuf,
    pub(crate) title: Option<Title>,
    pub(crate) digest: Option<Digest>,
}

impl Location {
    /// Reads what was typed behind the prefix.
    ///
    /// # Errors
    /// `InvalidArgument`.
    pub(crate) fn parse(text: &str, words: Words) -> Result<Self> {
        let malformed = |what: String| {
            let shown: String = text.chars().take(256).collect();
            Err(Error::invalid_argument(format!("{shown:?} cannot be read: {what}")))
        };
        if text.contains('\0') {
            return malformed("no path has a zero byte".into());
        }
        let is_digest = |rest: &str| {
            rest.split_once(':').is_some_and(|(algorithm, _)| algorithm.starts_with("sha"))
                && !rest.contains('/')
        };
        let (rest, digest) = match text.rsplit_once('@') {
            Some((rest, digest)) if is_digest(digest) => match digest.parse::<Digest>() {
                Ok(digest) => (rest, Some(digest)),
                Err(error) => return malformed(error.to_string()),
            },
            _ => (text, None),
        };
        let (path, name) = match rest.split_once(':') {
            Some((path, name)) => (path, Some(name)),
            None => (rest, None),
        };
        if text.is_empty() {
            return Err(Error::invalid_argument(
                "no path is given: it stands behind the prefix, as in oci:DIR, oci-archive:FILE or docker-archive:FILE",
            ));
        }
        if path.is_empty() {
            return malformed("there is no path in front of it".into());
        }
        let title = match name.map(|name| title(name, words)) {
            None => None,
            Some(Ok(title)) => Some(title),
            Some(Err(error)) => return malformed(error.report()),
        };
        Ok(Self { path: path.into(), title, digest })
    }

    /// Whether neither a name nor a digest was given.
    pub(crate) fn is_bare(&self) -> bool {
        self.title.is_none() && self.digest.is_none()
    }
}

fn title(name: &str, words: Words) -> Result<Title> {
    let any = Reference::parse("any").map_err(Error::from)?;
    if words == Words::Tags && any.with_tag(name).is_ok() {
        return Ok(Title::of_tag(name));
    }
    Reference::parse(name)
        .map(|reference| Title::of_reference(&reference))
        .map_err(|error| Error::from(error).context("what follows the path is no name of an image"))
}

#[cfg(test)]
mod tests {
    use wharf_content::ErrorKind;

    use super::*;

    #[test]
    fn paths_names_and_digests() {
        let digest = Digest::sha256(b"x");
        let full = Some("docker.io/library/busybox:1");
        for (text, path, expected, is_pinned) in [
            ("layout", "layout", None, false),
            ("/srv/a b/é", "/srv/a b/é", None, false),
            ("/srv/layout:v1", "/srv/layout", Some((None, "v1")), false),
            ("x.tar:busybox:1", "x.tar", Some((full, "1")), false),
            ("x.tar:docker.io/library/busybox:1", "x.tar", Some((full, "1")), false),
            (&format!("layout@{digest}"), "layout", None, true),
            (&format!("layout:v1@{digest}"), "layout", Some((None, "v1")), true),
            ("me@host/layout:v1", "me@host/layout", Some((None, "v1")), false),
        ] {
            let found = Location::parse(text, Words::Tags).expect(text);
            let title = expected.map(|(full, tag): (Option<&str>, &str)| Title {
                full: full.map(str::to_owned),
                tag: tag.to_owned(),
            });
            assert_eq!((found.path, found.title), (PathBuf::from(path), title), "{text}");
            assert_eq!(found.digest.is_some(), is_pinned, "{text}");
        }
        let word = Location::parse("x.tar:busybox", Words::Repositories).expect("reads").title;
        assert_eq!(word.and_then(|title| title.full).as_deref(), Some("docker.io/library/busybox:latest"));
        for text in ["", "\0", ":v1", "layout:", "layout:a b", "a:b:c/d", "a@sha256:1", "a:-x", "a@shax:y"] {
            let error = Location::parse(text, Words::Tags).expect_err(text);
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{text:?}");
        }
    }

    #[test]
    fn entries_are_meant_by_tag_or_by_full_name() {
        let entry = |own: &str, tag: &str| {
            Descriptor::of("x", b"")
                .with_annotation(ANNOTATION_IMAGE_NAME, own)
                .with_annotation(ANNOTATION_REF_NAME, tag)
        };
        let busybox = "docker.io/library/busybox:1";
        for (typed, entry, expected) in [
            ("d:1", entry(busybox, "1"), true),
            ("d:1", entry("", "1"), true),
            ("d:1", entry(busybox, ""), true),
            ("d:1", entry("", busybox), true),
            ("d:busybox:1", entry(busybox, "1"), true),
            ("d:busybox:1", entry("", "busybox:1"), true),
            ("d:busybox:1", entry("", "1"), false),
            ("d:busybox:1", entry("docker.io/library/alpine:1", "1"), false),
            ("d:2", entry(busybox, "1"), false),
            ("d:1", entry("", ""), false),
        ] {
            let title = Location::parse(typed, Words::Tags).expect(typed).title.expect("a title");
            assert_eq!(title.means(&entry), expected, "{typed} {entry:?}");
        }
    }
}
