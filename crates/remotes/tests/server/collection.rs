//! A collection between what a push found to be there and what it records.

use std::sync::Arc;

use async_trait::async_trait;
use wharf_content::{Catalogue, Descriptor, Result, Store, filter::FilterSet, gc::CollectOptions};
use wharf_images::{Image, ImageStore, Selection, image, image_store};
use wharf_remotes::server::RegistryOptions;

use crate::site::{Site, local};

/// Records before each of whose changes the store is collected.
#[derive(Debug)]
struct Collecting {
    store: Arc<dyn Store>,
    images: Arc<dyn ImageStore>,
}

impl Collecting {
    async fn collect(&self) -> Result<()> {
        wharf_images::collect(self.store.as_ref(), &CollectOptions::default()).await.map(drop)
    }
}

#[async_trait]
impl ImageStore for Collecting {
    async fn get(&self, name: &str) -> Result<Image> {
        self.images.get(name).await
    }

    async fn list(&self, filters: &FilterSet) -> Result<Vec<Image>> {
        self.images.list(filters).await
    }

    async fn create(&self, image: Image) -> Result<Image> {
        self.collect().await?;
        self.images.create(image).await
    }

    async fn update(&self, image: Image, fieldpaths: &[&str]) -> Result<Image> {
        self.collect().await?;
        self.images.update(image, fieldpaths).await
    }

    async fn delete(&self, name: &str, expected: Option<&Descriptor>) -> Result<()> {
        self.images.delete(name, expected).await
    }
}

#[tokio::test]
async fn a_push_keeps_what_it_found_until_it_is_recorded() {
    let root = tempfile::tempdir().expect("temporary directory");
    let store = local(&root).await;
    let images = image_store(store.as_ref()).expect("records");
    let collecting = Arc::new(Collecting { store: Arc::clone(&store), images });
    let site = Site::start_with(store, collecting, RegistryOptions::default()).await;

    site.push_image("app", "1", b"layer").await;

    // What keeps it now is the image: no lease is left, and another collection takes nothing.
    let leases = site.store.leases().expect("has leases").list_leases(&FilterSet::all()).await;
    assert_eq!(leases.expect("lists"), []);
    wharf_images::collect(site.store.as_ref(), &CollectOptions::default()).await.expect("collects");
    let [image] = &site.images.list(&FilterSet::all()).await.expect("lists")[..] else { panic!("one image") };
    let (selection, catalogue) = (Selection::all(), Catalogue::linked());
    let check = image::check(Arc::clone(&site.store) as _, &image.target, &selection, catalogue)
        .await
        .expect("checks");
    assert_eq!((check.required.len(), check.missing), (3, vec![]));
    site.stop().await;
}
