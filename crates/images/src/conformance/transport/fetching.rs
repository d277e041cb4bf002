//! Content by descriptor.

use bytes::Bytes;
use wharf_content::{Algorithm, Descriptor, ErrorKind};

use super::probe::{BLOB, Promise, Sample, Site, noise, promise, read, same, shipment};
use crate::{
    conformance::probe::{Check, refused},
    transport::Place,
};

pub(super) const PROMISES: &[Promise] = &[
    promise!("fetch-exact", "blobs and manifests are fetched as the bytes that were pushed", fetch_exact),
    promise!(
        "fetch-offset",
        "content opened at an offset is the bytes from there to the end, and at its end none",
        fetch_offset
    ),
    promise!("fetch-past-end", "an offset past the end of content is OutOfRange", fetch_past_end),
    promise!("fetch-absent", "content that is not there is NotFound when it is opened", fetch_absent),
    promise!("empty-blobs", "a blob of no bytes is pushed and fetched like any other", empty_blobs),
    promise!("sha512", "content is found under the digest that it was pushed with, of any algorithm", sha512),
];

async fn fetch_exact(site: &Site) -> Check {
    let (name, image) = (site.tag("a", "1"), Sample::new("x"));
    site.put(&name, &image).await?;
    site.holds(&name, &image.manifest, &image.bytes).await?;
    for (descriptor, bytes) in &image.blobs {
        site.holds(&name, descriptor, bytes).await?;
    }
    Ok(())
}

async fn fetch_offset(site: &Site) -> Check {
    let (name, image) = (site.tag("a", "1"), Sample::new("x"));
    site.put(&name, &image).await?;
    let fetcher = site.fetcher(&name).await?;
    let (descriptor, bytes) = &image.blobs[1];
    for offset in [1, 100, 16_384, 65_536, bytes.len() - 1, bytes.len()] {
        let rest = read(fetcher.as_ref(), descriptor, offset as u64).await?;
        same(&format!("what comes from byte {offset} on"), &rest, &bytes[offset..])?;
    }
    fetcher.finish().await?;
    Ok(())
}

async fn fetch_past_end(site: &Site) -> Check {
    let (name, image) = (site.tag("a", "1"), Sample::new("x"));
    site.put(&name, &image).await?;
    let fetcher = site.fetcher(&name).await?;
    for (descriptor, _) in &image.blobs {
        for past in [1, 1 << 40] {
            let opened = read(fetcher.as_ref(), descriptor, descriptor.size + past).await;
            refused("opening past the end", opened, ErrorKind::OutOfRange)?;
        }
    }
    Ok(())
}

async fn fetch_absent(site: &Site) -> Check {
    let (name, image) = (site.tag("a", "1"), Sample::new("x"));
    site.put(&name, &image).await?;
    let fetcher = site.fetcher(&name).await?;
    let other = Sample::new("other");
    for absent in [&other.manifest, &other.blobs[0].0, &other.blobs[1].0] {
        // What cannot be opened is told when it is, and not by its bytes.
        refused("opening what is not there", fetcher.fetch(absent, 0).await.map(drop), ErrorKind::NotFound)?;
    }
    Ok(())
}

async fn empty_blobs(site: &Site) -> Check {
    let (name, empty) = (site.tag("a", "1"), Bytes::new());
    let descriptor = Descriptor::of(BLOB, &empty);
    site.pusher(&name).await?.push(&shipment(&descriptor, Place::Blob, &empty)).await?;
    site.holds(&name, &descriptor, &empty).await
}

async fn sha512(site: &Site) -> Check {
    let (name, bytes) = (site.tag("a", "1"), noise(40_000, "long"));
    let descriptor = Descriptor::new(BLOB, Algorithm::Sha512.digest(&bytes), bytes.len() as u64);
    site.pusher(&name).await?.push(&shipment(&descriptor, Place::Blob, &bytes)).await?;
    site.holds(&name, &descriptor, &bytes).await
}
