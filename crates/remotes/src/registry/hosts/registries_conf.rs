//! Reading `registries.conf`, version 2 (containers-registries.conf(5)).
//!
//! ```text
//! [[registry]]
//! prefix = "example.com/team"          what it is for, *.example.com for all hosts below; without it the location
//! location = "mirror.example/team"     takes the place of the prefix
//! [[registry.mirror]]                  asked before, in order
//! location = "localhost:5000/team"
//! ```
//!
//! It is for what is read. Pushes go to the host of their reference, whatever stands for it here, as they do with podman and skopeo.
//! Short names, their aliases and the registries to search for them are not used: references are completed as docker does it.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Value;
use wharf_images::Reference;

use super::{Capabilities, config::syntax};

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    registry: Vec<Entry>,
    /// Of version 1.
    registries: Option<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Entry {
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    location: String,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    blocked: bool,
    #[serde(default)]
    mirror_by_digest_only: bool,
    #[serde(default)]
    mirror: Vec<MirrorEntry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct MirrorEntry {
    #[serde(default)]
    location: String,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    pull_from_mirror: Option<String>,
}

/// What stands for a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Registry {
    /// Where it stands.
    pub(super) file: PathBuf,
    pub(super) prefix: String,
    /// Nothing may be read or written there.
    pub(super) blocked: bool,
    /// In the order in which they are asked; the last one is the registry's own.
    places: Vec<Place>,
}

/// A place that is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    /// `None` where the prefix stays.
    location: Option<String>,
    insecure: bool,
    pulls: Pulls,
}

/// For what a mirror is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pulls {
    All,
    DigestOnly,
    TagOnly,
}

/// What a name of a reference becomes at one place.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Located {
    pub(super) domain: String,
    pub(super) path: String,
    /// Certificates are not looked at, and plain HTTP will do.
    pub(super) insecure: bool,
    pub(super) capabilities: Capabilities,
    pub(super) is_own: bool,
}

/// Reads the text of a file.
///
/// # Errors
/// What is wrong in which entry.
pub(super) fn parse(text: &str, file: &Path) -> Result<Vec<Registry>, String> {
    let read: File = toml::from_str(text).map_err(|error| syntax(text, &error))?;
    if read.registries.is_some() {
        return Err(
            "it is of version 1, which is not read: write each registry as a [[registry]] table".into()
        );
    }
    read.registry.into_iter().map(|entry| registry(entry, file)).collect()
}

/// Adds what a later file says: for the same prefix it counts alone.
pub(super) fn merge(registries: &mut Vec<Registry>, later: Vec<Registry>) {
    for registry in later {
        registries.retain(|before| before.prefix != registry.prefix);
        registries.push(registry);
    }
}

fn registry(entry: Entry, file: &Path) -> Result<Registry, String> {
    let prefix = if entry.prefix.is_empty() { &entry.location } else { &entry.prefix };
    let at = format!("[[registry]] {prefix:?}");
    let prefix = trimmed(prefix).map_err(|why| format!("{at}: prefix or location {why}"))?;
    if prefix.trim_start_matches("*.").contains('*') {
        return Err(format!("{at}: a prefix may begin with \"*.\" and has no other \"*\""));
    }
    let location = match entry.location.as_str() {
        "" => None,
        location => Some(trimmed(location).map_err(|why| format!("{at}: location {why}"))?),
    };
    if location.as_ref().is_some_and(|location| location.contains('*')) {
        return Err(format!("{at}: a location has no \"*\""));
    }
    let mut places = Vec::new();
    for mirror in entry.mirror {
        let location =
            trimmed(&mirror.location).map_err(|why| format!("{at}: the location of a mirror {why}"))?;
        let pulls = match (mirror.pull_from_mirror.as_deref(), entry.mirror_by_digest_only) {
            (Some(_), true) => {
                return Err(format!(
                    "{at}: pull-from-mirror of {location:?} contradicts mirror-by-digest-only = true"
                ));
            }
            (None | Some("" | "all"), false) => Pulls::All,
            (None, true) | (Some("digest-only"), false) => Pulls::DigestOnly,
            (Some("tag-only"), false) => Pulls::TagOnly,
            (Some(other), false) => {
                return Err(format!(
                    "{at}: pull-from-mirror of {location:?} is {other:?}, and neither all, digest-only nor tag-only"
                ));
            }
        };
        places.push(Place { location: Some(location), insecure: mirror.insecure, pulls });
    }
    let location = location.filter(|location| *location != prefix);
    places.push(Place { location, insecure: entry.insecure, pulls: Pulls::All });
    Ok(Registry { file: file.to_owned(), prefix, blocked: entry.blocked, places })
}

/// A prefix or a location without the slashes at its end.
fn trimmed(text: &str) -> Result<String, String> {
    let trimmed = text.trim_end_matches('/');
    if trimmed.is_empty() {
        return Err("is empty".into());
    }
    if trimmed.contains("://") {
        return Err(format!("{text:?} has a scheme: insecure = true allows plain HTTP"));
    }
    Ok(trimmed.to_owned())
}

/// The registry of the longest prefix of a reference.
pub(super) fn find<'r>(registries: &'r [Registry], reference: &Reference) -> Option<&'r Registry> {
    let full = lower(reference, &reference.full());
    let matching = registries.iter().filter(|registry| matched(&full, &registry.prefix).is_some());
    // Of two of one length the one that names the host is closer than the one for all.
    matching.max_by_key(|registry| (registry.prefix.len(), !registry.prefix.starts_with("*.")))
}

/// The reference in the form in which it is compared: a domain has no case.
fn lower(reference: &Reference, text: &str) -> String {
    let domain = reference.domain();
    format!("{}{}", domain.to_ascii_lowercase(), text.get(domain.len()..).unwrap_or_default())
}

/// How many bytes of a name its prefix matches.
fn matched(name: &str, prefix: &str) -> Option<usize> {
    let ends = |at: usize| matches!(name.as_bytes().get(at), None | Some(b'/' | b':' | b'@'));
    let host_len = name.find('/').unwrap_or(name.len());
    let lowered = match prefix.split_once('/') {
        Some((host, path)) => format!("{}/{path}", host.to_ascii_lowercase()),
        None => prefix.to_ascii_lowercase(),
    };
    match lowered.strip_prefix('*') {
        None => (name.starts_with(&lowered) && ends(lowered.len())).then_some(lowered.len()),
        Some(suffix) => (1..host_len)
            .filter(|at| name.get(*at..).is_some_and(|rest| rest.starts_with(suffix)))
            .map(|at| at + suffix.len())
            .find(|end| ends(*end)),
    }
}

impl Registry {
    /// Where the content of a reference is asked for, in order.
    ///
    /// # Errors
    /// A location that makes no name of the reference.
    pub(super) fn located(&self, reference: &Reference) -> Result<Vec<Located>, String> {
        let is_pinned = reference.digest().is_some();
        let last = self.places.len().saturating_sub(1);
        let located = self.places.iter().enumerate().map(|(number, place)| {
            let (domain, path) = self.renamed(place, reference)?;
            let capabilities = match place.pulls {
                // Content is always asked for by its digest, whatever led to it.
                Pulls::DigestOnly if !is_pinned => Capabilities::PULL,
                Pulls::TagOnly if is_pinned => Capabilities::NONE,
                Pulls::All | Pulls::DigestOnly | Pulls::TagOnly => Capabilities::ALL,
            };
            Ok(Located { domain, path, insecure: place.insecure, capabilities, is_own: number == last })
        });
        located.collect()
    }

    /// Whether the reference's own host may be spoken to without trust.
    pub(super) fn is_insecure(&self) -> bool {
        self.places.last().is_some_and(|place| place.insecure)
    }

    fn renamed(&self, place: &Place, reference: &Reference) -> Result<(String, String), String> {
        let Some(location) = &place.location else {
            return Ok((reference.domain().to_owned(), reference.path().to_owned()));
        };
        let full = lower(reference, &reference.full());
        let name = lower(reference, reference.repository());
        let rest = matched(&full, &self.prefix).and_then(|end| name.get(end..)).unwrap_or_default();
        let wrong = || {
            format!(
                "[[registry]] {:?}: the location {location:?} makes {:?} of {}, which is no name",
                self.prefix,
                format!("{location}{rest}"),
                reference.repository()
            )
        };
        let (domain, _) = location.split_once('/').unwrap_or((location, ""));
        let renamed = Reference::parse(&format!("{location}{rest}")).map_err(|_| wrong())?;
        // What is completed to another host was written without one.
        if !renamed.domain().starts_with(domain) && domain != "index.docker.io" {
            return Err(wrong());
        }
        Ok((renamed.domain().to_owned(), renamed.path().to_owned()))
    }
}

#[cfg(test)]
mod tests;
