//! wharf through a proxy with faults, and behind a guard: what breaks is gone on with or told, and nothing wrong is kept.

mod fixtures;
mod guarded;
mod resets;
mod soak;

use std::{sync::Arc, time::Duration};

use wharf_content::{MemoryStore, Result, Store};
use wharf_images::{Image, MemoryImages, Selection};
use wharf_remotes::{
    PullOptions, PushOptions, Pushed, pull, push,
    registry::{RegistryResolver, RegistrySettings},
};
use wharf_tests::ImageFixture;

/// What a run may take at the most. It is never waited for.
const BOUND: Duration = Duration::from_secs(60);

fn settings() -> RegistrySettings {
    let mut settings = RegistrySettings::new().with_retries(2, Duration::from_millis(1));
    settings.max_retry_delay = Duration::from_millis(5);
    settings
}

/// A store in memory with one image.
async fn origin(fixture: &ImageFixture) -> (Arc<MemoryStore>, Image) {
    let store = Arc::new(MemoryStore::new());
    let target = fixture.write(store.as_ref()).await.expect("writes");
    (store, Image::new("localhost/image:1", target))
}

async fn pull_into(store: Arc<dyn Store>, name: &str) -> Result<Image> {
    let options = PullOptions::new().with_selection(Selection::all());
    let (images, resolver) = (MemoryImages::new(), RegistryResolver::new(settings()));
    let work = pull(store, &images, &resolver, name, options);
    tokio::time::timeout(BOUND, work).await.expect("bounded in time")
}

async fn push_from(
    settings: RegistrySettings,
    store: Arc<dyn Store>,
    image: &Image,
    name: &str,
) -> Result<Pushed> {
    let (resolver, options) = (RegistryResolver::new(settings), PushOptions::new());
    let work = push(store, image, &resolver, name, &options);
    tokio::time::timeout(BOUND, work).await.expect("bounded in time")
}
