//! Image records: a name, what it points at, labels. And the trait of what keeps them.

use std::{borrow::Cow, fmt::Debug, sync::Arc, time::SystemTime};

use async_trait::async_trait;
use wharf_content::{
    Descriptor, Error, Labels, Result, Store,
    filter::{Fields, FilterSet},
    gc::{CollectOptions, Collected},
    labels,
};

use crate::{collect::collect, memory::MemoryImages, sqlite::SqliteImages};

/// A named image of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Image {
    /// The name, unique in the store; for images of registries the full reference.
    pub name: String,
    /// Labels, for people and for collection.
    pub labels: Labels,
    /// The root of the image.
    pub target: Descriptor,
    /// When the record was made.
    pub created_at: SystemTime,
    /// When it last changed.
    pub updated_at: SystemTime,
}

impl Image {
    /// Makes a record without labels. The store sets the times.
    pub fn new(name: impl Into<String>, target: Descriptor) -> Self {
        Self {
            name: name.into(),
            labels: Labels::new(),
            target,
            created_at: SystemTime::UNIX_EPOCH,
            updated_at: SystemTime::UNIX_EPOCH,
        }
    }

    /// Sets the labels.
    #[must_use]
    pub fn with_labels(mut self, labels: Labels) -> Self {
        self.labels = labels;
        self
    }

    /// Checks what a store demands of a record (containerd: `core/metadata/images.go`).
    ///
    /// That the target's digest is one is the promise of its type.
    ///
    /// # Errors
    /// `InvalidArgument` for an empty name or media type, a size of zero or of more than `i64::MAX`, or a label without a key or that is
    /// too long.
    pub fn validate(&self) -> Result<()> {
        let refuse = |what: &str| Err(Error::invalid_argument(format!("image {:?} has {what}", self.name)));
        refuse_nameless(&self.name)?;
        if self.target.media_type.is_empty() {
            return refuse("a target without a media type");
        }
        if self.target.size == 0 {
            return refuse("a target of no bytes");
        }
        if i64::try_from(self.target.size).is_err() {
            // No document could name it: sizes are signed in the formats, and such a record could not be read again.
            return refuse("a target of more bytes than a descriptor can tell");
        }
        labels::validate(&self.labels)
    }

    /// Takes over from `wanted` what the field paths name; none at all replaces everything but the name and the time of creation.
    pub(crate) fn apply(&mut self, wanted: &Self, fieldpaths: &[&str]) -> Result<()> {
        let unknown = |path: &str| {
            Err(Error::invalid_argument(format!(
                "cannot update field {path:?} of an image: known are target, labels, labels.<key>, annotations and annotations.<key>"
            )))
        };
        if fieldpaths.is_empty() {
            self.labels.clone_from(&wanted.labels);
            self.target.clone_from(&wanted.target);
        }
        for path in fieldpaths {
            if matches!(*path, "labels." | "annotations.") {
                return unknown(path);
            } else if *path == "target" {
                self.target.clone_from(&wanted.target);
            } else if *path == "annotations" {
                self.target.annotations.clone_from(&wanted.target.annotations);
            } else if let Some(key) = path.strip_prefix("annotations.") {
                match wanted.target.annotations.get(key) {
                    Some(value) => self.target.annotations.insert(key.to_owned(), value.clone()),
                    None => self.target.annotations.remove(key),
                };
            } else if *path == "labels" || path.starts_with("labels.") {
                labels::apply(&mut self.labels, &wanted.labels, &[*path])?;
            } else {
                return unknown(path);
            }
        }
        self.validate()
    }
}

impl Fields for Image {
    fn field(&self, path: &[String]) -> Option<Cow<'_, str>> {
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        match path[..] {
            ["name"] => Some(self.name.as_str().into()),
            ["target", "digest"] => Some(self.target.digest.as_str().into()),
            ["target", "mediatype"] => Some(self.target.media_type.as_str().into()),
            ["labels", ref key @ ..] => self.labels.get(&key.join(".")).map(|value| value.as_str().into()),
            ["annotations", ref key @ ..] => {
                self.target.annotations.get(&key.join(".")).map(|value| value.as_str().into())
            }
            _ => None,
        }
    }
}

/// Keeps image records.
///
/// `wharf_images::conformance`, a feature, checks these promises on any store.
///
/// # Cancellation
/// A change whose future is dropped happens whole or not at all, perhaps a little later.
#[async_trait]
pub trait ImageStore: Debug + Send + Sync + 'static {
    /// Finds a record by its exact name.
    ///
    /// # Errors
    /// `NotFound`.
    async fn get(&self, name: &str) -> Result<Image>;

    /// Lists the records that the filters match, sorted by name. Fields: `name`, `target.digest`, `target.mediatype`, `labels.…`,
    /// `annotations.…`.
    async fn list(&self, filters: &FilterSet) -> Result<Vec<Image>>;

    /// Adds a record.
    ///
    /// # Errors
    /// `AlreadyExists`; `InvalidArgument` as [`Image::validate`].
    async fn create(&self, image: Image) -> Result<Image>;

    /// Changes a record: what the field paths name (`target`, `labels`, `labels.<key>`, `annotations`, `annotations.<key>`), or
    /// everything but the name where there are none. The time of creation stays. A label that `labels.<key>` names goes where `image` does
    /// not have it or has it empty, an annotation that `annotations.<key>` names where `image` does not have it.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` for an empty name, any other field, or as [`Image::validate`]. Nothing has changed then.
    async fn update(&self, image: Image, fieldpaths: &[&str]) -> Result<Image>;

    /// Removes a record; its content stays until it is collected.
    ///
    /// # Errors
    /// `NotFound` when there is no such name, or its target has another digest than `expected` (containerd: `core/metadata/images.go`).
    async fn delete(&self, name: &str, expected: Option<&Descriptor>) -> Result<()>;

    /// Says what is wrong with the view of the records that other programs read; `None` where nothing is, or there is no view.
    ///
    /// # Errors
    /// Those of the records. A view that cannot be read is wrong and no error.
    async fn stale_view(&self) -> Result<Option<String>> {
        Ok(None)
    }

    /// Writes the view again.
    ///
    /// # Errors
    /// Those of the records and of the system.
    async fn rewrite_view(&self) -> Result<()> {
        Ok(())
    }
}

/// The image records of a store: in its database where it has one, else in memory.
///
/// # Errors
/// Those of the database.
pub fn image_store(store: &dyn Store) -> Result<Arc<dyn ImageStore>> {
    Ok(match store.metadata() {
        Some(metadata) => Arc::new(SqliteImages::open(metadata.clone())?),
        None => Arc::new(MemoryImages::new()),
    })
}

/// Makes `image` the record of its name, whether there was one or not.
///
/// # Errors
/// Those of [`ImageStore::create`] and [`ImageStore::update`] other than that the record is there or has just gone.
pub async fn put(images: &dyn ImageStore, image: Image) -> Result<Image> {
    use wharf_content::ErrorKind::{AlreadyExists, NotFound};
    // Another process may remove the record between the two calls; more often than this it does not do by chance.
    const TRIES: usize = 8;
    let mut outcome = images.create(image.clone()).await;
    for _ in 0..TRIES {
        outcome = match outcome {
            Err(error) if error.kind() == AlreadyExists => images.update(image.clone(), &[]).await,
            Err(error) if error.kind() == NotFound => images.create(image.clone()).await,
            settled => return settled,
        };
    }
    outcome
}

/// Removes a record, and returns when all that only it kept has been collected: what containerd calls a synchronous delete.
///
/// [`ImageStore::delete`] alone leaves the content to the next collection.
///
/// # Errors
/// Those of [`ImageStore::delete`]; those of [`collect`](crate::collect()), when the record has gone and its content is left.
///
/// # Cancellation
/// The record may be gone; what is not collected yet goes with the next collection.
pub async fn delete_and_collect(
    store: &dyn Store,
    images: &dyn ImageStore,
    name: &str,
    expected: Option<&Descriptor>,
) -> Result<Vec<Collected>> {
    images.delete(name, expected).await?;
    collect(store, &CollectOptions::new()).await
}

pub(crate) fn refuse_nameless(name: &str) -> Result<()> {
    if name.is_empty() { Err(Error::invalid_argument("an image needs a name")) } else { Ok(()) }
}

pub(crate) fn absent(name: &str) -> Error {
    Error::not_found(format!("there is no image {name:?} in the store"))
}

pub(crate) fn present(name: &str) -> Error {
    Error::already_exists(format!("there is an image {name:?} in the store already"))
}

pub(crate) fn refuse_unexpected(image: &Image, expected: Option<&Descriptor>) -> Result<()> {
    match expected {
        Some(expected) if expected.digest != image.target.digest => Err(Error::not_found(format!(
            "image {:?} is {} by now and not {}",
            image.name, image.target.digest, expected.digest
        ))),
        _ => Ok(()),
    }
}
