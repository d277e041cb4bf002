//! Pulls: which platforms come, from both kinds of index, and that nothing comes twice.

use super::super::busybox::{self, PLATFORMS};
use super::super::fixture::Index;
use super::super::layout::{self, text};
use super::super::small::FIRST;
use super::super::{Step, World};
use crate::failure::{Result, ensure, ensure_equal};
use crate::registry::proxy::Proxy;
use crate::registry::{Options, Request};

pub(super) const STEPS: &[Step] = &[
    ("pull-host-platform-oci", |world| host_platform(world, &world.fixture.oci, "host-oci")),
    ("pull-host-platform-docker", |world| host_platform(world, &world.fixture.docker, "host-docker")),
    ("pull-arm64-oci", |world| arm64(world, &world.fixture.oci, "arm64-oci")),
    ("pull-arm64-docker", |world| arm64(world, &world.fixture.docker, "arm64-docker")),
    ("pull-arm-v7", arm_v7),
    ("pull-all-platforms-oci", |world| all_platforms(world, &world.fixture.oci, "all-oci")),
    ("pull-all-platforms-docker", |world| all_platforms(world, &world.fixture.docker, "all-docker")),
    ("pull-by-digest", by_digest),
    ("pull-adds-a-platform", adds_a_platform),
    ("pull-twice-costs-nothing", twice),
    ("pull-twice-is-one-request", one_request),
    ("pull-root-from-environment", root_from_environment),
];

/// Pulls and compares what the store then says with what there must be.
fn pull(world: &World, index: &Index, name: &str, options: &[&str], platforms: &[&str]) -> Result<()> {
    let store = world.store(name)?;
    let digest = store.pull(&index.image, options)?;
    ensure_equal("the digest", &digest, &index.digest)?;
    let record = store.record()?;
    ensure_equal("the name", &record.name, &index.image)?;
    ensure_equal("the digest in the list", &record.digest, &index.digest)?;
    ensure_equal("the media type", &record.media_type.as_str(), &index.media_type)?;
    ensure_equal("the size", &record.size, &(index.bytes.len() as u64))?;
    let mut expected: Vec<_> = platforms.iter().map(|name| (*name).to_owned()).collect();
    expected.sort();
    ensure_equal("platforms", &record.platforms, &expected)?;
    ensure_equal("names", &store.names()?, std::slice::from_ref(&index.image).to_vec().as_ref())?;
    // The index, and of each platform a manifest, a config and a layer.
    ensure_equal("the number of blobs", &store.layout().blobs()?.len(), &(1 + 3 * platforms.len()))?;
    ensure_equal("the index", &store.layout().blob(&digest)?, &index.bytes)
}

fn host_platform(world: &World, index: &Index, name: &str) -> Result<()> {
    pull(world, index, name, &[], &[busybox::host()?.name])
}

fn arm64(world: &World, index: &Index, name: &str) -> Result<()> {
    pull(world, index, name, &["--platform", "linux/arm64"], &["linux/arm64"])
}

fn arm_v7(world: &World) -> Result<()> {
    pull(world, &world.fixture.oci, "arm-v7", &["--platform", "linux/arm/v7"], &["linux/arm/v7"])
}

fn all_platforms(world: &World, index: &Index, name: &str) -> Result<()> {
    let names: Vec<_> = PLATFORMS.iter().map(|platform| platform.name).collect();
    pull(world, index, name, &["--all-platforms"], &names)
}

/// A name with a digest instead of a tag is pulled and recorded as it is.
fn by_digest(world: &World) -> Result<()> {
    let index = &world.fixture.oci;
    let repository = world.registry.image(super::super::fixture::REPOSITORY);
    let store = world.store("by-digest")?;
    let finished = store.wharf(&["pull", &format!("{repository}@{}", index.digest)]).text()?;
    ensure(finished.ends_with(&format!("@{}", index.digest)), || format!("pull prints {finished:?}"))?;
    store.layout().verify()?;
    ensure_equal("the digest in the list", &store.record()?.digest, &index.digest)
}

/// A second pull for another platform adds to the first.
fn adds_a_platform(world: &World) -> Result<()> {
    let image = &world.fixture.oci.image;
    let store = world.store("adds")?;
    store.pull(image, &["--platform", "linux/s390x"])?;
    store.pull(image, &["--platform", "linux/ppc64le"])?;
    ensure_equal(
        "platforms",
        &store.record()?.platforms,
        &["linux/ppc64le", "linux/s390x"].map(str::to_owned).to_vec(),
    )?;
    let manifest = layout::parse(&store.layout().blob(&store.record()?.digest)?)?;
    ensure_equal("the media type", &text(&manifest, "mediaType")?.as_str(), &world.fixture.oci.media_type)
}

/// The second pull of the same thing asks, and takes nothing: the bytes that flow are no more than a few heads.
fn twice(world: &World) -> Result<()> {
    let proxy = Proxy::start(world.registry.port(), 0)?;
    let image = format!("127.0.0.1:{}/library/busybox:1.35", proxy.port());
    let store = world.store("twice")?;
    let first = store.pull(&image, &[])?;
    let before = proxy.sent();
    ensure(before > 500_000, || format!("the first pull took {before} bytes only"))?;
    ensure_equal("the digest of the second pull", &store.pull(&image, &[])?, &first)?;
    let more = proxy.sent() - before;
    ensure(more < 4096, || format!("the second pull took {more} bytes"))
}

/// What the registry was asked by the second pull of an unchanged image: whether it is unchanged. So it is for an index and
/// for an image without one.
fn one_request(world: &World) -> Result<()> {
    let registry = world.twin_registry("one-request", &Options::default())?;
    for (name, tag) in [("one-request-index", "library/busybox:1.35"), ("one-request-image", FIRST)] {
        let image = registry.image(tag);
        let store = world.store(name)?;
        let first = store.pull(&image, &[])?;
        let (second, asked) = registry.asked(|| store.pull(&image, &[]))?;
        ensure_equal("the digest of the second pull", &second, &first)?;
        let path = format!("/v2/{}", tag.replace(':', "/manifests/"));
        let expected = Request { method: "HEAD".to_owned(), path, status: 200 };
        ensure_equal("what the registry was asked", &asked, &vec![expected])?;
    }
    Ok(())
}

/// `WHARF_ROOT` is the root when there is no `--root`.
fn root_from_environment(world: &World) -> Result<()> {
    let store = world.store("environment")?;
    let image = &world.fixture.single;
    world.wharf.tool(&[]).env("WHARF_ROOT", store.root()).args(["pull", image]).success()?;
    ensure_equal("names", &store.names()?, &vec![image.clone()])
}
