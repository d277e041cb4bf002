//! The transport `oci`: an OCI image layout in a directory, `oci:DIR[:TAG]`, as a place that images come from and go to.
//!
//! A name without a tag means the only image. What is put there is verified, synced and listed last; the other images stay. Deleting takes names
//! away, by digest all of them, and then the blobs that no other image of the layout needs.

use std::{fs, path::PathBuf, sync::Arc};

use async_trait::async_trait;
use wharf_content::{Catalogue, Descriptor, Digest, Error, Provider, Result, blocking};
use wharf_images::{
    decode::MAX_MANIFEST_LEN,
    referrers::ReferrersProvider,
    sniff,
    transport::{Fetcher, Pusher, Resolved, Resolver, Transport, TransportOptions},
};

use super::{
    directory::Layout,
    entries::{self, choose, plain},
    fetcher::{ListedReferrers, LocalFetcher},
    location::{Location, Title, Words},
    pusher::LayoutPusher,
    removal,
};

wharf_images::register_transport! { name: "oci", keys: ["oci"], make: Oci }

#[derive(Debug)]
struct Oci;

impl Transport for Oci {
    fn resolver(&self, options: &TransportOptions) -> Result<Arc<dyn Resolver>> {
        Ok(Arc::new(LayoutResolver::new().with_catalogue(options.catalogue.clone())))
    }
}

/// Resolves names in OCI image layouts: `DIR`, `DIR:TAG`, `DIR:NAME` and `DIR@DIGEST`.
#[derive(Clone, Debug)]
pub struct LayoutResolver {
    catalogue: Catalogue,
}

impl LayoutResolver {
    /// Layouts of the file system, with the catalogue that is linked.
    pub fn new() -> Self {
        Self { catalogue: Catalogue::linked().clone() }
    }

    /// Decodes with this catalogue.
    #[must_use]
    pub fn with_catalogue(mut self, catalogue: Catalogue) -> Self {
        self.catalogue = catalogue;
        self
    }

    async fn listed(&self, location: &Location) -> Result<Vec<Descriptor>> {
        refuse_file(location).await?;
        let layout = Layout::new(&location.path);
        layout
            .entries(&self.catalogue)
            .await?
            .ok_or_else(|| Error::not_found(format!("{} is no OCI image layout", location.path.display())))
    }
}

/// Refuses a file, which may be an archive.
async fn refuse_file(location: &Location) -> Result<()> {
    let path = location.path.clone();
    blocking::run(move || {
        if !path.is_file() {
            return Ok(());
        }
        Err(Error::invalid_argument(format!(
            "{0} is a file, and a layout is a directory: say oci-archive:{0}, or docker-archive:{0} for what `docker save` wrote",
            path.display()
        )))
    })
    .await
}

impl Default for LayoutResolver {
    fn default() -> Self {
        Self::new()
    }
}

/// What was found, under a name by which it is found again: with the whole path, and by digest where it has no other.
pub(super) fn resolved(location: &Location, entry: &Descriptor, words: Words) -> Resolved {
    let path = fs::canonicalize(&location.path).ok().and_then(|path| path.to_str().map(str::to_owned));
    let path = path.filter(|path| !path.contains([':', '@']));
    let path = path.unwrap_or_else(|| location.path.display().to_string());
    let title = Title::of_entry(entry).filter(|_| location.digest.is_none());
    let titled = title.as_ref().map(|title| format!("{path}:{}", title.shown()));
    let name = titled.filter(|name| Location::parse(name, words).is_ok());
    let name = name.unwrap_or_else(|| format!("{path}@{}", entry.digest));
    let resolved = Resolved::new(name, plain(entry));
    match Title::of_entry(entry).and_then(|title| title.full) {
        Some(full) => resolved.with_image_name(full),
        None => resolved,
    }
}

pub(super) fn absent(location: &Location) -> Error {
    let path = location.path.display();
    Error::not_found(match (&location.digest, &location.title) {
        (Some(digest), _) => format!("{path} has no manifest {digest}"),
        (None, Some(title)) => format!("{path} has no image {:?}", title.shown()),
        (None, None) => format!("{path} has no image"),
    })
}

/// What a place is asked for where all that is known is a digest.
pub(super) async fn document(provider: &dyn Provider, digest: &Digest) -> Result<Option<Descriptor>> {
    let reader = match provider.reader(&Descriptor::new("", digest.clone(), 0)).await {
        Err(error) if error.kind() == wharf_content::ErrorKind::NotFound => return Ok(None),
        reader => reader?,
    };
    let Some(len) = usize::try_from(reader.size()).ok().filter(|_| reader.size() <= MAX_MANIFEST_LEN) else {
        return Ok(None);
    };
    let media_type = sniff::document(&reader.read_at(0, len).await?);
    Ok(media_type.map(|media_type| Descriptor::new(media_type, digest.clone(), reader.size())))
}

#[async_trait]
impl Resolver for LayoutResolver {
    async fn resolve(&self, name: &str) -> Result<Resolved> {
        let location = Location::parse(name, Words::Tags)?;
        let listed = self.listed(&location).await?;
        let layout = Layout::new(&location.path);
        if let Some(entry) = choose(&listed, &location)? {
            // An entry whose manifest is gone means nothing.
            return match layout.size(&entry.digest).await? {
                Some(_) => Ok(resolved(&location, entry, Words::Tags)),
                None => Err(absent(&location)),
            };
        }
        let found = match &location.digest {
            Some(digest) => document(&layout, digest).await?,
            None => None,
        };
        found.map(|found| resolved(&location, &found, Words::Tags)).ok_or_else(|| absent(&location))
    }

    async fn fetcher(&self, name: &str) -> Result<Arc<dyn Fetcher>> {
        let location = Location::parse(name, Words::Tags)?;
        Ok(Arc::new(LocalFetcher(Arc::new(Layout::new(location.path)))))
    }

    async fn pusher(&self, name: &str) -> Result<Arc<dyn Pusher>> {
        let location = Location::parse(name, Words::Tags)?;
        refuse_file(&location).await?;
        let layout = Layout::new(&location.path);
        Ok(LayoutPusher::new(layout, location, self.catalogue.clone()).into())
    }

    async fn tags(&self, repository: &str) -> Result<Vec<String>> {
        let location = Location::parse(repository, Words::Tags)?;
        directory_only(&location, repository)?;
        Ok(entries::tags(&self.listed(&location).await?))
    }

    async fn referrers(&self, name: &str) -> Result<Arc<dyn ReferrersProvider>> {
        let location = Location::parse(name, Words::Tags)?;
        let layout = Layout::new(&location.path);
        let entries = layout.entries(&self.catalogue).await?.unwrap_or_default();
        Ok(Arc::new(ListedReferrers::gather(&layout, &entries, &self.catalogue).await?))
    }

    async fn delete(&self, name: &str) -> Result<()> {
        let location = Location::parse(name, Words::Tags)?;
        if location.is_bare() {
            return Err(Error::invalid_argument(format!(
                "{name:?} names a layout: say what of it is to be deleted, DIR:TAG or DIR@DIGEST"
            )));
        }
        refuse_file(&location).await?;
        removal::remove(&Layout::new(&location.path), &location, &self.catalogue).await
    }
}

pub(super) fn directory_only(location: &Location, typed: &str) -> Result<PathBuf> {
    if location.is_bare() {
        return Ok(location.path.clone());
    }
    Err(Error::invalid_argument(format!(
        "{typed:?} names an image: give {} without a tag or digest",
        location.path.display()
    )))
}
