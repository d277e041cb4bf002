//! What names mean.

use wharf_content::{Digest, ErrorKind};

use super::probe::{Promise, Sample, Site, promise};
use crate::conformance::probe::{Check, refused};

pub(super) const PROMISES: &[Promise] = &[
    promise!(
        "resolve-tag",
        "a name means what was last pushed as its root, by media type, digest and size",
        resolve_tag
    ),
    promise!(
        "resolve-digest",
        "a name with a digest means the manifest of that digest, whatever tags there are",
        resolve_digest
    ),
    promise!("resolve-absent", "a name under which nothing was pushed is NotFound", resolve_absent),
    promise!(
        "malformed-names",
        "a name that is none is InvalidArgument to resolve, to fetch from and to push to",
        malformed_names
    ),
];

async fn resolve_tag(site: &Site) -> Check {
    let (first, second) = (Sample::new("first"), Sample::new("second"));
    let (name, other) = (site.tag("a/b", "1"), site.tag("a/b", "other"));
    site.put(&name, &first).await?;
    site.put(&other, &second).await?;
    site.means("after a push", &name, &first).await?;
    site.put(&name, &second).await?;
    site.means("after another push", &name, &second).await?;
    site.put(&name, &first).await?;
    site.means("after the first was pushed again", &name, &first).await?;
    site.means("the name beside it", &other, &second).await
}

async fn resolve_digest(site: &Site) -> Check {
    let (first, second) = (Sample::new("first"), Sample::new("second"));
    site.put(&site.tag("a", "1"), &first).await?;
    site.put(&site.tag("a", "2"), &second).await?;
    for image in [&first, &second] {
        site.means("by digest", &site.pinned("a", &image.manifest.digest), image).await?;
    }
    site.means_nothing("a digest of nothing", &site.pinned("a", &Digest::sha256(b"nothing"))).await
}

async fn resolve_absent(site: &Site) -> Check {
    let absent = site.tag("a", "1");
    site.means_nothing("before anything was pushed", &absent).await?;
    site.put(&site.tag("a", "2"), &Sample::new("x")).await?;
    site.put(&site.tag("b", "1"), &Sample::new("y")).await?;
    site.means_nothing("beside what was pushed", &absent).await
}

async fn malformed_names(site: &Site) -> Check {
    for name in &site.malformed {
        let what = |verb: &str| format!("{verb} {name:?}");
        refused(&what("resolving"), site.resolver.resolve(name).await, ErrorKind::InvalidArgument)?;
        refused(&what("fetching from"), site.resolver.fetcher(name).await, ErrorKind::InvalidArgument)?;
        refused(&what("pushing to"), site.resolver.pusher(name).await, ErrorKind::InvalidArgument)?;
    }
    Ok(())
}
