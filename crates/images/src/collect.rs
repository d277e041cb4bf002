//! Collection of a store with its image records.
//!
//! Images are roots until they expire; a record that has expired, and that no other image refers to, goes with what it kept.

use std::time::SystemTime;

use async_trait::async_trait;
use wharf_content::{
    Error, ErrorKind, Resource, Result, Store,
    filter::FilterSet,
    gc::{self, CollectOptions, Collected, Source, Vertex},
    lease::expiry,
};

use crate::record::{ImageStore, image_store};

/// Removes whatever neither an image nor a lease keeps, and gives it sorted.
///
/// Waits until nobody is adding anything, in this or another process; a process that is pulling holds a lease for what it has, and goes on
/// afterwards.
///
/// # Errors
/// `NotImplemented` for a store that is never collected; those of the store.
///
/// # Cancellation
/// All that is kept is whole; what was not removed yet goes with the next collection.
pub async fn collect(store: &dyn Store, options: &CollectOptions) -> Result<Vec<Collected>> {
    collect_with(store, &[], options).await
}

/// As [`collect()`], with what other layers have in the store, such as unpacked layers.
///
/// # Errors
/// As [`collect()`], and those of the sources.
///
/// # Cancellation
/// As [`collect()`].
pub async fn collect_with(
    store: &dyn Store,
    sources: &[&dyn Source],
    options: &CollectOptions,
) -> Result<Vec<Collected>> {
    let exclusive = store
        .exclusive()
        .await?
        .ok_or_else(|| Error::not_implemented("this store keeps everything: there is nothing to collect"))?;
    let images = image_store(exclusive.store())?;
    let records = Records { images: images.as_ref() };
    let all: Vec<&dyn Source> = sources.iter().copied().chain([&records as &dyn Source]).collect();
    gc::collect(&exclusive, &all, options).await
}

#[derive(Debug)]
struct Records<'a> {
    images: &'a dyn ImageStore,
}

#[async_trait]
impl Source for Records<'_> {
    async fn vertices(&self, now: SystemTime) -> Result<Vec<Vertex>> {
        let images = self.images.list(&FilterSet::all()).await?;
        let vertex = |image: crate::Image| {
            let is_root = expiry(&image.labels).is_none_or(|at| at > now);
            Vertex::new(Resource::Image(image.name), is_root)
                .with_edges([Resource::Content(image.target.digest)])
                .with_labels(&image.labels)
        };
        Ok(images.into_iter().map(vertex).collect())
    }

    async fn remove(&self, resource: &Resource) -> Result<()> {
        let Resource::Image(name) = resource else { return Ok(()) };
        match self.images.delete(name, None).await {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}
