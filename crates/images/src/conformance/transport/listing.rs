//! Tags and referrers.

use serde_json::json;
use wharf_content::{Digest, ErrorKind};

use super::probe::{Promise, Sample, Site, offered, promise};
use crate::{
    conformance::probe::{Check, equal, refused},
    transport::Place,
};

pub(super) const PROMISES: &[Promise] = &[
    promise!(
        "tags-listed",
        "the tags of a repository are those that were pushed there, and no other",
        tags_listed
    ),
    promise!(
        "tags-of-images",
        "listing the tags of what is no repository is InvalidArgument",
        tags_of_images
    ),
    promise!(
        "referrers-listed",
        "what was pushed with a subject is listed with its artifact type and annotations, and nothing else is",
        referrers_listed
    ),
    promise!("referrers-chosen", "those of one artifact type are listed alone", referrers_chosen),
];

async fn tags_listed(site: &Site) -> Check {
    let image = Sample::new("x");
    for (path, tag) in [("a/b", "1"), ("a/b", "latest"), ("a/c", "other"), ("a", "above")] {
        site.put(&site.tag(path, tag), &image).await?;
    }
    site.put_as(&site.tag("a/b", "never"), &Sample::new("y"), Place::Manifest).await?;
    let Some(mut tags) = offered(site.resolver.tags(&format!("{}/a/b", site.base)).await)? else {
        return Ok(());
    };
    tags.sort();
    equal("the tags", tags, ["1", "latest"])
}

async fn tags_of_images(site: &Site) -> Check {
    site.put(&site.tag("a/b", "1"), &Sample::new("x")).await?;
    if offered(site.resolver.tags(&format!("{}/a/b", site.base)).await)?.is_none() {
        return Ok(());
    }
    for name in [site.tag("a/b", "1"), site.pinned("a/b", &Digest::sha256(b"x"))] {
        refused(&format!("the tags of {name}"), site.resolver.tags(&name).await, ErrorKind::InvalidArgument)?;
    }
    Ok(())
}

/// An image and two that refer to it.
async fn put_referrers(site: &Site) -> Check<[Sample; 3]> {
    let image = Sample::new("subject");
    let about = |artifact_type: &str| {
        let more = json!({
            "subject": image.manifest, "artifactType": artifact_type, "annotations": { "a.b": artifact_type },
        });
        Sample::with(artifact_type, more)
    };
    let (bill, signature) = (about("application/x-bill"), about("application/x-signature"));
    site.put(&site.tag("a", "1"), &image).await?;
    site.put(&site.tag("a", "other"), &Sample::new("other")).await?;
    for referrer in [&bill, &signature] {
        site.put_as(&site.tag("a", "1"), referrer, Place::Manifest).await?;
    }
    Ok([image, bill, signature])
}

async fn referrers_listed(site: &Site) -> Check {
    let [image, bill, signature] = put_referrers(site).await?;
    let Some(provider) = offered(site.resolver.referrers(&site.tag("a", "1")).await)? else { return Ok(()) };
    let mut listed = provider.referrers(&image.manifest).await?;
    listed.sort_by(|a, b| a.artifact_type.cmp(&b.artifact_type));
    let digests: Vec<_> = listed.iter().map(|referrer| &referrer.digest).collect();
    equal("the referrers", digests, [&bill.manifest.digest, &signature.manifest.digest])?;
    for (referrer, wanted) in listed.iter().zip(["application/x-bill", "application/x-signature"]) {
        equal("the artifact type", referrer.artifact_type.as_deref(), Some(wanted))?;
        equal("the annotation", referrer.annotations.get("a.b").map(String::as_str), Some(wanted))?;
        equal("the media type", &referrer.media_type, &bill.manifest.media_type)?;
    }
    equal("what refers to what nothing refers to", provider.referrers(&bill.manifest).await?, [])
}

async fn referrers_chosen(site: &Site) -> Check {
    let [image, bill, _] = put_referrers(site).await?;
    let Some(provider) = offered(site.resolver.referrers(&site.tag("a", "1")).await)? else { return Ok(()) };
    let listed = provider.referrers_of_type(&image.manifest, "application/x-bill").await?;
    let digests: Vec<_> = listed.iter().map(|referrer| &referrer.digest).collect();
    equal("the bills", digests, [&bill.manifest.digest])?;
    let none = provider.referrers_of_type(&image.manifest, "application/x").await?;
    equal("those of a type of none", none, [])
}
