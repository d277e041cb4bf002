//! The promises of a transport, kept by those that are built in: registries, and stores in memory and on disk.

use std::{sync::Arc, time::Duration};

use wharf_archive::LayoutResolver;
use wharf_content::{LocalStore, MemoryStore};
use wharf_images::{
    MemoryImages,
    conformance::transport::{Subject, assert_conformant},
    image_store,
};
use wharf_remotes::{
    StoreResolver,
    registry::{RegistryResolver, RegistrySettings},
};
use wharf_tests::TestRegistry;

#[tokio::test(flavor = "multi_thread")]
async fn registries() {
    assert_conformant(|| async {
        let registry = TestRegistry::start().await;
        let settings = RegistrySettings::new().with_retries(1, Duration::from_millis(1));
        let base = registry.address();
        Ok(Subject::new(RegistryResolver::new(settings), base).with_guard(registry))
    })
    .await;
}

#[tokio::test]
async fn stores_in_memory() {
    assert_conformant(|| async {
        let (store, images) = (Arc::new(MemoryStore::new()), Arc::new(MemoryImages::new()));
        Ok(Subject::new(StoreResolver::new(store, images), "store.example"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stores_on_disk() {
    assert_conformant(|| async {
        let dir = tempfile::tempdir().expect("temporary directory");
        let store = Arc::new(LocalStore::open(dir.path().join("store")).await?);
        let images = image_store(store.as_ref())?;
        Ok(Subject::new(StoreResolver::new(store, images), "store.example").with_guard(dir))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn layouts_in_directories() {
    assert_conformant(|| async {
        let dir = tempfile::tempdir().expect("temporary directory");
        let base = dir.path().join("layouts").display().to_string();
        // Paths may have spaces.
        let malformed = ["", "\0", ":1", "a:", "a@sha256:1", "a:b:c/d"];
        Ok(Subject::new(LayoutResolver::new(), base).with_malformed_names(malformed).with_guard(dir))
    })
    .await;
}
