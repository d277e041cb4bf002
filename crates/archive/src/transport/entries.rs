//! The entries of an `index.json`: which of them a name means, and how a name is given to another image.
//!
//! What other tools wrote into an entry or beside the entries stays as it is.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
use wharf_content::{Descriptor, Digest, Error, Result};
use wharf_images::{
    media_types,
    sqlite::{ANNOTATION_IMAGE_NAME, ANNOTATION_REF_NAME},
};

use super::location::{Location, Title};

/// How many names an error tells.
const MAX_TOLD: usize = 16;

/// Without what an entry adds to its target.
pub(crate) fn plain(entry: &Descriptor) -> Descriptor {
    Descriptor::new(&*entry.media_type, entry.digest.clone(), entry.size)
}

/// The entry that is meant: of a name the one that has it, of nothing the only one. `None` where there is none.
///
/// # Errors
/// `InvalidArgument` where there are several, naming them.
pub(super) fn choose<'a>(entries: &'a [Descriptor], location: &Location) -> Result<Option<&'a Descriptor>> {
    if let Some(digest) = &location.digest {
        return Ok(entries.iter().find(|entry| entry.digest == *digest));
    }
    // What has no name beside what has one belongs to it, as signatures do.
    let is_any_named = entries.iter().any(|entry| Title::of_entry(entry).is_some());
    let is_meant = |entry: &&Descriptor| match &location.title {
        Some(title) => title.means(entry),
        None => !is_any_named || Title::of_entry(entry).is_some(),
    };
    let meant: Vec<_> = entries.iter().filter(is_meant).collect();
    let digests: BTreeSet<&Digest> = meant.iter().map(|entry| &entry.digest).collect();
    if digests.len() < 2 {
        return Ok(meant.first().copied());
    }
    let shown = |entry: &&Descriptor| {
        Title::of_entry(entry)
            .map_or_else(|| format!("@{}", entry.digest), |title| format!(":{}", title.shown()))
    };
    let told: BTreeSet<String> = meant.iter().map(shown).collect();
    let more = if told.len() > MAX_TOLD { " and more" } else { "" };
    let told: Vec<String> = told.into_iter().take(MAX_TOLD).map(|name| format!("{name:?}")).collect();
    Err(Error::invalid_argument(format!(
        "{} has several images: say which one, by adding {}{more}",
        location.path.display(),
        told.join(" or ")
    )))
}

/// The tags of all entries, sorted. One that several repositories have is told by its full names.
pub(super) fn tags(entries: &[Descriptor]) -> Vec<String> {
    let titles: BTreeSet<(String, String)> = entries
        .iter()
        .filter_map(Title::of_entry)
        .map(|title| (title.shown().to_owned(), title.tag))
        .collect();
    let is_shared = |tag: &str| titles.iter().filter(|(_, other)| other == tag).count() > 1;
    let tags: BTreeSet<String> =
        titles.iter().map(|(full, tag)| if is_shared(tag) { full.clone() } else { tag.clone() }).collect();
    tags.into_iter().collect()
}

/// The entry of an image that has this title.
pub(super) fn entry(target: &Descriptor, title: Option<&Title>) -> Descriptor {
    let mut entry = plain(target);
    if let Some(title) = title {
        if let Some(full) = &title.full {
            entry = entry.with_annotation(ANNOTATION_IMAGE_NAME, full);
        }
        entry = entry.with_annotation(ANNOTATION_REF_NAME, &title.tag);
    }
    entry
}

/// An `index.json` that is changed.
#[derive(Debug)]
pub(super) struct Index {
    object: Map<String, Value>,
    entries: Vec<Value>,
    pub(super) is_changed: bool,
}

impl Index {
    /// One of no image.
    pub(super) fn new() -> Self {
        let mut object = Map::new();
        object.insert("schemaVersion".into(), json!(2));
        object.insert("mediaType".into(), json!(media_types::OCI_INDEX));
        Self { object, entries: Vec::new(), is_changed: true }
    }

    /// Reads one, which was found to be well-formed.
    ///
    /// # Errors
    /// `InvalidArgument`.
    pub(super) fn parse(text: &[u8]) -> Result<Self> {
        let malformed = |error| Error::invalid_argument("index.json is no index").with_source(error);
        let mut object: Map<String, Value> = serde_json::from_slice(text).map_err(malformed)?;
        let entries = match object.remove("manifests") {
            None | Some(Value::Null) => Vec::new(),
            Some(entries) => serde_json::from_value(entries).map_err(malformed)?,
        };
        Ok(Self { object, entries, is_changed: false })
    }

    /// The text.
    pub(super) fn write(mut self) -> Vec<u8> {
        self.object.insert("manifests".into(), Value::Array(self.entries));
        Value::Object(self.object).to_string().into_bytes()
    }

    /// Makes a title mean an image, and nothing else. One without a title is listed.
    pub(super) fn put(&mut self, target: &Descriptor, title: Option<&Title>) {
        let new = entry(target, title);
        let is_there = |entry: &Value| {
            read(entry).is_some_and(|entry| {
                entry.digest == target.digest && title.is_none_or(|title| title.means(&entry))
            })
        };
        let is_done = self.entries.iter().any(is_there);
        self.drop_where(|entry| match title {
            Some(_) if entry.digest == target.digest => !is_done && Title::of_entry(entry).is_none(),
            Some(title) => title.means(entry),
            None => false,
        });
        if !is_done {
            self.entries.push(json!(new));
            self.is_changed = true;
        }
    }

    /// Takes entries out, and tells whether there were any.
    pub(super) fn drop_where(&mut self, is_meant: impl Fn(&Descriptor) -> bool) -> bool {
        let before = self.entries.len();
        self.entries.retain(|entry| !read(entry).is_some_and(|entry| is_meant(&entry)));
        let is_any = self.entries.len() < before;
        self.is_changed |= is_any;
        is_any
    }
}

/// An entry; `None` for what cannot be read, which is left alone.
fn read(entry: &Value) -> Option<Descriptor> {
    serde_json::from_value(entry.clone()).ok()
}
