//! The `store` transport: a store and its image records as a place that images are copied from and to.
//!
//! Names are those of records. A name that is read as Docker reads it finds the record of the normalised name; what is put under a name is
//! recorded under that one, so that names without a digest have a tag. It is made for a store that is open, so that it is in no catalogue.
//!
//! What comes in is held by a lease, labelled with its children and with the repository that it is from, and recorded last, as by a pull;
//! what goes out is held by a lease, and is mounted where its labels tell of a neighbour, as by a push.

mod fetcher;
mod holding;
mod pusher;

use std::{collections::BTreeSet, sync::Arc};

use async_trait::async_trait;
use wharf_content::{Catalogue, Descriptor, Digest, Error, ErrorKind, Result, Store, filter::FilterSet};
use wharf_images::{
    Image, ImageStore, Reference,
    decode::MAX_MANIFEST_LEN,
    referrers::{ReferrersProvider, StoredReferrers},
    sniff,
    transport::{Fetcher, Pusher, Resolved, Resolver, explicit},
};

use self::{fetcher::StoreFetcher, holding::Holding, pusher::StorePusher};

/// Resolves names in a store.
#[derive(Clone, Debug)]
pub struct StoreResolver {
    store: Arc<dyn Store>,
    images: Arc<dyn ImageStore>,
    catalogue: Catalogue,
}

impl StoreResolver {
    /// A store and its records.
    pub fn new(store: Arc<dyn Store>, images: Arc<dyn ImageStore>) -> Self {
        Self { store, images, catalogue: Catalogue::linked().clone() }
    }

    /// Decodes with this catalogue.
    #[must_use]
    pub fn with_catalogue(mut self, catalogue: Catalogue) -> Self {
        self.catalogue = catalogue;
        self
    }

    /// The record of a name: of exactly that one, else of the normalised one.
    async fn record(&self, name: &str) -> Result<Option<Image>> {
        if name.is_empty() {
            return Err(Error::invalid_argument("an image needs a name"));
        }
        if let Some(image) = found(self.images.get(name).await)? {
            return Ok(Some(image));
        }
        match Reference::parse(name)?.to_string() {
            normalised if normalised == name => Ok(None),
            normalised => found(self.images.get(&normalised).await),
        }
    }

    /// The records of a repository, with their names.
    async fn of_repository(&self, repository: &str) -> Result<Vec<(Reference, Image)>> {
        let images = self.images.list(&FilterSet::all()).await?;
        let named = images.into_iter().filter_map(|image| Some((Reference::parse(&image.name).ok()?, image)));
        Ok(named.filter(|(name, _)| name.repository() == repository).collect())
    }

    /// What a name means. One with a digest means what a record of its repository is, else a manifest that is here.
    async fn meant(&self, name: &str) -> Result<Resolved> {
        if let Some(image) = self.record(name).await? {
            return Ok(Resolved::new(image.name, plain(&image.target)));
        }
        let reference = Reference::parse(name)?;
        let absent = || Error::not_found(format!("there is no image {name:?} in the store"));
        let Some(digest) = reference.digest() else { return Err(absent()) };
        let records = self.of_repository(reference.repository()).await?;
        let recorded = records.into_iter().find(|(_, image)| image.target.digest == *digest);
        let descriptor = match recorded {
            Some((_, image)) => plain(&image.target),
            None => self.document(digest).await?.ok_or_else(absent)?,
        };
        Ok(Resolved::new(reference.to_string(), descriptor))
    }

    /// A manifest of which there is no record.
    async fn document(&self, digest: &Digest) -> Result<Option<Descriptor>> {
        let Some(reader) = found(self.store.reader(&Descriptor::new("", digest.clone(), 0)).await)? else {
            return Ok(None);
        };
        let Some(len) = usize::try_from(reader.size()).ok().filter(|_| reader.size() <= MAX_MANIFEST_LEN)
        else {
            return Ok(None);
        };
        let media_type = sniff::document(&reader.read_at(0, len).await?);
        Ok(media_type.map(|media_type| Descriptor::new(media_type, digest.clone(), reader.size())))
    }
}

/// Without what a record adds to its target.
fn plain(target: &Descriptor) -> Descriptor {
    Descriptor::new(&*target.media_type, target.digest.clone(), target.size)
}

fn found<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[async_trait]
impl Resolver for StoreResolver {
    async fn resolve(&self, name: &str) -> Result<Resolved> {
        self.meant(name).await
    }

    async fn fetcher(&self, name: &str) -> Result<Arc<dyn Fetcher>> {
        // Of content it is not the name that matters, so that what is no longer named can be fetched.
        let root = found(self.meant(name).await)?.map(|resolved| resolved.descriptor.digest);
        Ok(Arc::new(StoreFetcher::new(Holding::to_read(Arc::clone(&self.store)), root)))
    }

    async fn pusher(&self, name: &str) -> Result<Arc<dyn Pusher>> {
        let reference = Reference::parse(name)?;
        let holding = Holding::to_write(Arc::clone(&self.store));
        let (images, catalogue) = (Arc::clone(&self.images), self.catalogue.clone());
        Ok(Arc::new(StorePusher::new(holding, images, catalogue, reference)))
    }

    fn beside(&self, name: &str, tag: &str) -> Option<String> {
        Reference::beside(name, tag)
    }

    async fn tags(&self, repository: &str) -> Result<Vec<String>> {
        let reference = Reference::parse(repository)?;
        if !Reference::is_bare(repository) {
            return Err(Error::invalid_argument(format!(
                "{repository:?} names an image: give its repository, {}, without a tag or digest",
                reference.repository()
            )));
        }
        let records = self.of_repository(reference.repository()).await?;
        if records.is_empty() {
            return Err(Error::not_found(format!("the store has no image of {}", reference.repository())));
        }
        let tags: BTreeSet<&str> = records.iter().filter_map(|(name, _)| name.tag()).collect();
        Ok(tags.into_iter().map(str::to_owned).collect())
    }

    async fn referrers(&self, _: &str) -> Result<Arc<dyn ReferrersProvider>> {
        // A store has the content of all names in one place. It is looked through when it is asked, so that what came in since is seen.
        Ok(Arc::new(Gathered { store: Arc::clone(&self.store), catalogue: self.catalogue.clone() }))
    }

    /// Removes records; what they kept goes with the next collection.
    async fn delete(&self, name: &str) -> Result<()> {
        if let Some(image) = found(self.images.get(name).await)? {
            return self.images.delete(&image.name, Some(&image.target)).await;
        }
        let reference = explicit(name)?;
        let mut removed = false;
        if let Some(image) = self.record(name).await? {
            self.images.delete(&image.name, Some(&image.target)).await?;
            removed = true;
        }
        if let Some(digest) = reference.digest() {
            for (_, image) in self.of_repository(reference.repository()).await? {
                if image.target.digest == *digest {
                    self.images.delete(&image.name, Some(&image.target)).await?;
                    removed = true;
                }
            }
        }
        if removed {
            Ok(())
        } else {
            Err(Error::not_found(format!("there is no image {name:?} in the store")))
        }
    }
}

/// The referrers that a store has.
#[derive(Debug)]
struct Gathered {
    store: Arc<dyn Store>,
    catalogue: Catalogue,
}

#[async_trait]
impl ReferrersProvider for Gathered {
    async fn referrers(&self, subject: &Descriptor) -> Result<Vec<Descriptor>> {
        StoredReferrers::gather(self.store.as_ref(), &self.catalogue).await?.referrers(subject).await
    }
}
