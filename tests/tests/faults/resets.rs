//! A large layer over connections that are all reset early costs hardly more than its bytes, whichever way it goes.

use std::sync::Arc;

use wharf_content::{Info, Manager, MemoryStore, filter::FilterSet, read_blob};
use wharf_tests::{
    Fault, FaultProxy, ImageFixture, Layer, TestRegistry,
    fault_proxy::{Asked, plan},
};

use super::{origin, pull_into, push_from, settings};

const LAYER: usize = 24 << 20;
const EVERY: u64 = 384 << 10;

fn large() -> ImageFixture {
    ImageFixture::new().with("linux/amd64", vec![Layer::noise("data", LAYER, 11)])
}

/// The bytes of an image's blobs, as they are stored.
async fn blobs_of(image: &ImageFixture) -> u64 {
    let store = MemoryStore::new();
    let root = image.write(&store).await.expect("writes");
    let mut sum = 0;
    let mut visit = |info: Info| {
        sum += if info.digest == root.digest { 0 } else { info.size };
        Ok(())
    };
    store.walk(&FilterSet::all(), &mut visit).await.expect("walks");
    sum
}

/// Fails unless the blobs passed, and hardly more than a twentieth of them again.
async fn assert_hardly_more(bytes: u64, image: &ImageFixture) {
    let once = blobs_of(image).await;
    assert!(once > LAYER as u64, "it does not compress");
    assert!((once..=once / 20 * 21).contains(&bytes), "{bytes} bytes of {once}");
}

#[tokio::test]
async fn a_large_layer_is_pulled_with_hardly_more_than_its_bytes() {
    let registry = TestRegistry::start().await;
    registry.put("big:1", &large()).await.expect("puts");
    let proxy = FaultProxy::start(&registry.address(), plan::resets_every(EVERY, 5)).await;
    let store = Arc::new(MemoryStore::new());
    pull_into(store, &proxy.reference("big:1")).await.expect("pulls");
    let resets = proxy.faults().len();
    assert!((50..90).contains(&resets), "{resets}");
    let served = proxy.served("/blobs/");
    assert_hardly_more(served, &large()).await;
}

#[tokio::test]
async fn a_large_layer_is_pushed_with_hardly_more_than_its_bytes() {
    let registry = TestRegistry::start().await;
    let proxy = FaultProxy::start(&registry.address(), plan::resets_every(EVERY, 6)).await;
    let (store, image) = origin(&large()).await;
    push_from(settings(), store.clone(), &image, &proxy.reference("big:1")).await.expect("pushes");
    let resets = proxy.faults().len();
    assert!((50..90).contains(&resets), "{resets}");
    let taken = proxy.taken("/blobs/");
    assert_hardly_more(taken, &large()).await;
    let here = read_blob(store.as_ref(), &image.target, 1 << 20).await.expect("reads");
    assert_eq!(read_blob(registry.store(), &image.target, 1 << 20).await.expect("arrived"), here);
}

#[tokio::test]
async fn what_begins_again_each_time_is_seen_to_cost_more() {
    // The twin that shows that the counts above can be too large: a server that gives no parts.
    let registry = TestRegistry::start().await;
    let image = ImageFixture::new().with("linux/amd64", vec![Layer::noise("data", 400_000, 1)]);
    registry.put("x:1", &image).await.expect("puts");
    let is_odd = |asked: &Asked| asked.request.path.contains("/blobs/") && asked.nth % 2 == 1;
    let plan = move |asked: &Asked| {
        Some(if is_odd(asked) { Fault::IgnoreRange } else { Fault::ResetAnswer(300_000) })
    };
    let proxy = FaultProxy::start(&registry.address(), plan).await;
    pull_into(Arc::new(MemoryStore::new()), &proxy.reference("x:1")).await.expect("pulls");
    assert_eq!(proxy.faults(), ["reset-answer", "ignore-range"]);
    let served = proxy.served("/blobs/");
    assert_eq!(served, 300_000 + blobs_of(&image).await, "as if nothing had come before");
}
