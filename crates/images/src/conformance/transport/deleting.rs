//! Names and manifests that go.

use wharf_content::{Digest, ErrorKind};

use super::probe::{Promise, Sample, Site, offered, promise};
use crate::conformance::probe::{Check, refused};

pub(super) const PROMISES: &[Promise] = &[
    promise!(
        "delete-tag",
        "deleting a tag takes that name alone, and no other of the same manifest",
        delete_tag
    ),
    promise!(
        "delete-digest",
        "deleting by digest takes every name of the manifest, and no other's",
        delete_digest
    ),
    promise!("delete-absent", "deleting what is not there is NotFound", delete_absent),
    promise!(
        "delete-explicit",
        "deleting what says neither tag nor digest is InvalidArgument and deletes nothing",
        delete_explicit
    ),
];

async fn delete_tag(site: &Site) -> Check {
    let (image, name, other) = (Sample::new("x"), site.tag("a", "1"), site.tag("a", "2"));
    site.put(&name, &image).await?;
    site.put(&other, &image).await?;
    if offered(site.resolver.delete(&name).await)?.is_none() {
        return site.means("what could not be deleted", &name, &image).await;
    }
    site.means_nothing("what was deleted", &name).await?;
    site.means("its other name", &other, &image).await?;
    site.holds(&other, &image.blobs[1].0, &image.blobs[1].1).await?;
    site.put(&name, &image).await?;
    site.means("what was pushed again", &name, &image).await
}

async fn delete_digest(site: &Site) -> Check {
    let (image, second) = (Sample::new("x"), Sample::new("y"));
    let names = [site.tag("a", "1"), site.tag("a", "2")];
    for name in &names {
        site.put(name, &image).await?;
    }
    let (third, elsewhere) = (site.tag("a", "3"), site.tag("b", "1"));
    site.put(&third, &second).await?;
    site.put(&elsewhere, &image).await?;
    let pinned = site.pinned("a", &image.manifest.digest);
    if offered(site.resolver.delete(&pinned).await)?.is_none() {
        return site.means("what could not be deleted", &names[0], &image).await;
    }
    for name in &names {
        site.means_nothing("a name of what was deleted", name).await?;
    }
    site.means("the name of another", &third, &second).await?;
    site.means("the name in another repository", &elsewhere, &image).await
}

async fn delete_absent(site: &Site) -> Check {
    let name = site.tag("a", "1");
    site.put(&name, &Sample::new("x")).await?;
    for absent in [site.tag("a", "2"), site.tag("b", "1"), site.pinned("a", &Digest::sha256(b"absent"))] {
        match site.resolver.delete(&absent).await {
            Err(error) if error.kind() == ErrorKind::NotImplemented => {}
            deleted => refused(&format!("deleting {absent}"), deleted, ErrorKind::NotFound)?,
        }
    }
    site.resolver.resolve(&name).await?;
    Ok(())
}

async fn delete_explicit(site: &Site) -> Check {
    let (name, image) = (site.tag("a", "latest"), Sample::new("x"));
    site.put(&name, &image).await?;
    match site.resolver.delete(&format!("{}/a", site.base)).await {
        Err(error) if error.kind() == ErrorKind::NotImplemented => {}
        deleted => refused("deleting a repository", deleted, ErrorKind::InvalidArgument)?,
    }
    site.means("the tag that is filled in elsewhere", &name, &image).await
}
