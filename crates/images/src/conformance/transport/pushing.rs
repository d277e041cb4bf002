//! Content that is put somewhere.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::join;
use wharf_content::{Descriptor, Digest, ErrorKind};

use super::probe::{BLOB, Promise, Sample, Scripted, Site, noise, promise, shipment};
use crate::{
    conformance::probe::{Check, ensure, equal, refused},
    transport::{Delivery, Place, Shipment},
};

pub(super) const PROMISES: &[Promise] = &[
    promise!("push-once", "a blob that is there Exists, and its source is not opened", push_once),
    promise!("push-tells", "a source is told of each chunk that was sent of it", push_tells),
    promise!(
        "push-damaged",
        "bytes of another digest or size are FailedPrecondition, and nothing of them is there",
        push_damaged
    ),
    promise!(
        "push-short",
        "a source that ends too early is an error, and nothing of it is there",
        push_short
    ),
    promise!(
        "push-source-fails",
        "an error of the source is told with its kind, and nothing of it is there",
        push_source_fails
    ),
    promise!("push-unnamed", "what is pushed as a manifest and not as the root gets no name", push_unnamed),
    promise!(
        "push-pinned",
        "a pusher of a name with a digest says so and takes no other root, with FailedPrecondition",
        push_pinned
    ),
    promise!(
        "push-cancelled",
        "a push that is dropped leaves nothing or all, and can be made again",
        push_cancelled
    ),
    promise!("pushes-race", "two pushes of the same blob at the same time both succeed", pushes_race),
    promise!(
        "origins-are-hints",
        "a blob that is said to be elsewhere too arrives, whether that is so or not",
        origins_are_hints
    ),
    promise!(
        "has-is-true",
        "a place that says it has a manifest has it, for a root under that name",
        has_is_true
    ),
];

async fn push_once(site: &Site) -> Check {
    let (name, bytes) = (site.tag("a", "1"), noise(50_000, "blob"));
    let descriptor = Descriptor::of(BLOB, &bytes);
    let pusher = site.pusher(&name).await?;
    let first = pusher.push(&shipment(&descriptor, Place::Blob, &bytes)).await?;
    equal("the first push", first, Delivery::Sent)?;
    let again = Arc::new(Scripted::of(&bytes));
    let second =
        pusher.push(&Shipment::new(descriptor.clone(), Place::Blob, Arc::clone(&again) as _)).await?;
    equal("the second push", second, Delivery::Exists)?;
    equal("how often the source was opened", again.opened.load(Ordering::SeqCst), 0)
}

async fn push_tells(site: &Site) -> Check {
    let (name, bytes) = (site.tag("a", "1"), noise(50_000, "blob"));
    let source = Arc::new(Scripted::of(&bytes));
    let told = Shipment::new(Descriptor::of(BLOB, &bytes), Place::Blob, Arc::clone(&source) as _);
    site.pusher(&name).await?.push(&told).await?;
    equal("how many bytes were told of", source.taken.load(Ordering::SeqCst), bytes.len())
}

async fn push_damaged(site: &Site) -> Check {
    let name = site.tag("a", "1");
    let pusher = site.pusher(&name).await?;
    let (bytes, other) = (noise(50_000, "blob"), noise(50_000, "other"));
    let descriptor = Descriptor::of(BLOB, &bytes);
    let pushed = pusher.push(&shipment(&descriptor, Place::Blob, &other)).await;
    refused("pushing other bytes", pushed, ErrorKind::FailedPrecondition)?;
    site.lacks("the blob", &name, &descriptor).await?;
    let image = Sample::new("x");
    for (descriptor, bytes) in &image.blobs {
        pusher.push(&shipment(descriptor, Place::Blob, bytes)).await?;
    }
    let other = Bytes::from(String::from_utf8_lossy(&image.bytes).replace("schemaVersion", "schemaversion"));
    let pushed = pusher.push(&shipment(&image.manifest, Place::Root, &other)).await;
    refused("pushing another manifest", pushed, ErrorKind::FailedPrecondition)?;
    site.means_nothing("the manifest", &name).await?;
    // The same pusher takes the right ones.
    pusher.push(&shipment(&descriptor, Place::Blob, &bytes)).await?;
    pusher.push(&shipment(&image.manifest, Place::Root, &image.bytes)).await?;
    site.holds(&name, &descriptor, &bytes).await?;
    site.means("the manifest", &name, &image).await
}

async fn push_short(site: &Site) -> Check {
    let (name, bytes) = (site.tag("a", "1"), noise(50_000, "blob"));
    let descriptor = Descriptor::of(BLOB, &bytes);
    let pusher = site.pusher(&name).await?;
    let pushed = pusher.push(&shipment(&descriptor, Place::Blob, &bytes.slice(..40_000))).await;
    ensure!(pushed.is_err(), "pushing a part of the bytes: {pushed:?}, expected an error");
    site.lacks("the blob", &name, &descriptor).await
}

async fn push_source_fails(site: &Site) -> Check {
    let (name, bytes) = (site.tag("a", "1"), noise(50_000, "blob"));
    let descriptor = Descriptor::of(BLOB, &bytes);
    let pusher = site.pusher(&name).await?;
    let mut source = Scripted::of(&bytes.slice(..40_000));
    source.fails = Some(ErrorKind::DataLoss);
    let pushed = pusher.push(&Shipment::new(descriptor.clone(), Place::Blob, Arc::new(source))).await;
    refused("pushing from a source that fails", pushed, ErrorKind::DataLoss)?;
    site.lacks("the blob", &name, &descriptor).await
}

async fn push_unnamed(site: &Site) -> Check {
    let (name, image, second) = (site.tag("a", "1"), Sample::new("x"), Sample::new("y"));
    site.put_as(&name, &image, Place::Manifest).await?;
    site.means_nothing("a name of nothing", &name).await?;
    site.holds(&name, &image.manifest, &image.bytes).await?;
    site.put(&name, &second).await?;
    site.put_as(&name, &image, Place::Manifest).await?;
    site.means("the name after it", &name, &second).await
}

async fn push_pinned(site: &Site) -> Check {
    let (image, other) = (Sample::new("x"), Sample::new("y"));
    let name = site.pinned("a", &image.manifest.digest);
    let pusher = site.pusher(&name).await?;
    equal("what the name is pinned to", pusher.pinned(), Some(&image.manifest.digest))?;
    equal("what another name is pinned to", site.pusher(&site.tag("a", "1")).await?.pinned(), None)?;
    refused("pushing another root", site.put(&name, &other).await, ErrorKind::FailedPrecondition)?;
    site.put(&name, &image).await?;
    site.holds(&name, &image.manifest, &image.bytes).await
}

async fn push_cancelled(site: &Site) -> Check {
    let name = site.tag("a", "1");
    for millis in [0, 1, 5, 20] {
        let bytes = noise(50_000, &format!("blob {millis}"));
        let descriptor = Descriptor::of(BLOB, &bytes);
        let pusher = site.pusher(&name).await?;
        let mut source = Scripted::of(&bytes.slice(..32_768));
        source.stalls = true;
        let stalled = Shipment::new(descriptor.clone(), Place::Blob, Arc::new(source));
        let dropped = tokio::time::timeout(Duration::from_millis(millis), pusher.push(&stalled)).await;
        ensure!(dropped.is_err(), "a push of a source that never ends has ended: {dropped:?}");
        site.lacks("what was dropped half-way", &name, &descriptor).await?;
        site.pusher(&name).await?.push(&shipment(&descriptor, Place::Blob, &bytes)).await?;
        site.holds(&name, &descriptor, &bytes).await?;
    }
    Ok(())
}

async fn pushes_race(site: &Site) -> Check {
    let (name, other) = (site.tag("a", "1"), site.tag("a", "2"));
    let bytes = noise(200_000, "blob");
    let descriptor = Descriptor::of(BLOB, &bytes);
    let (one, two) = (site.pusher(&name).await?, site.pusher(&other).await?);
    let sent = shipment(&descriptor, Place::Blob, &bytes);
    let (first, second) = join(one.push(&sent), two.push(&sent)).await;
    first?;
    second?;
    site.holds(&name, &descriptor, &bytes).await
}

async fn origins_are_hints(site: &Site) -> Check {
    let (there, name) = (site.tag("there", "1"), site.tag("here", "1"));
    let bytes = noise(50_000, "blob");
    let descriptor = Descriptor::of(BLOB, &bytes);
    site.pusher(&there).await?.push(&shipment(&descriptor, Place::Blob, &bytes)).await?;
    let pusher = site.pusher(&name).await?;
    let origins = vec![format!("{}/there", site.base)];
    pusher.push(&shipment(&descriptor, Place::Blob, &bytes).with_origins(origins)).await?;
    site.holds(&name, &descriptor, &bytes).await?;
    let bytes = noise(50_000, "another");
    let descriptor = Descriptor::of(BLOB, &bytes);
    let origins = vec![format!("{}/there", site.base), format!("{}/nowhere", site.base), "junk".into()];
    pusher.push(&shipment(&descriptor, Place::Blob, &bytes).with_origins(origins)).await?;
    site.holds(&name, &descriptor, &bytes).await
}

async fn has_is_true(site: &Site) -> Check {
    let (name, image, other) = (site.tag("a", "1"), Sample::new("x"), Sample::new("y"));
    let pusher = site.pusher(&name).await?;
    for place in [Place::Manifest, Place::Root] {
        ensure!(!pusher.has(&image.manifest, place).await?, "it has what was never pushed, as {place:?}");
    }
    site.put(&name, &other).await?;
    site.put(&site.tag("a", "2"), &image).await?;
    ensure!(
        !pusher.has(&image.manifest, Place::Root).await?,
        "it has a root under a name that means another"
    );
    let absent = Descriptor::new(&*image.manifest.media_type, Digest::sha256(b"absent"), 6);
    ensure!(!pusher.has(&absent, Place::Manifest).await?, "it has a manifest of which it has no bytes");
    pusher.finish().await?;
    Ok(())
}
