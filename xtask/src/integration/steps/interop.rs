//! Others push and wharf pulls, wharf pushes and others pull: every digest is the same everywhere.

use super::super::busybox::{self, PLATFORMS};
use super::super::containerd::Containerd;
use super::super::fixture::Index;
use super::super::small::FIRST;
use super::super::{Step, World, digest};
use crate::failure::{Context, Result, ensure_equal};
use crate::registry::{Options, http};

pub(super) const STEPS: &[Step] = &[
    ("interop-skopeo-pushes-oci", |world| skopeo_pushes(world, &world.fixture.oci, "skopeo-oci")),
    ("interop-skopeo-pushes-docker", |world| skopeo_pushes(world, &world.fixture.docker, "skopeo-docker")),
    ("interop-ctr-pulls-oci", |world| ctr_pulls(world, &world.fixture.oci, "ctr-pulls-oci")),
    ("interop-ctr-pulls-docker", |world| ctr_pulls(world, &world.fixture.docker, "ctr-pulls-docker")),
    ("interop-there-and-back", there_and_back),
];

/// skopeo pushes what it has into an empty registry; wharf pulls it from there by tag and by digest.
fn skopeo_pushes(world: &World, index: &Index, name: &str) -> Result<()> {
    let registry = world.empty_registry(name, &Options::default())?;
    let image = registry.image("skopeo/box:1");
    let options = ["--all", "--preserve-digests"];
    world.skopeo.copy(&format!("docker://{}", index.image), &format!("docker://{image}"), &options)?;
    let store = world.store(name)?;
    ensure_equal("the digest", &store.pull(&image, &["--all-platforms"])?, &index.digest)?;
    ensure_equal("the number of blobs", &store.layout().blobs()?.len(), &(1 + 3 * PLATFORMS.len()))?;
    ensure_equal("the index", &store.layout().blob(&index.digest)?, &index.bytes)
}

/// wharf pushes into an empty registry; containerd pulls it from there.
fn ctr_pulls(world: &World, index: &Index, name: &str) -> Result<()> {
    let registry = world.empty_registry(name, &Options::default())?;
    let image = registry.image("team/box:1");
    let store = world.store(name)?;
    store.pull(&index.image, &["--all-platforms"])?;
    store.wharf(&["push", &index.image, &image]).success()?;
    let containerd = Containerd::start(&world.dir(&format!("{name}-c"))?)?;
    containerd.pull(&image)?;
    let images = containerd.images()?;
    let found = images.iter().find(|[found, ..]| *found == image);
    let [_, media_type, found] = found.context(format_args!("containerd has no {image}: {images:?}"))?;
    ensure_equal("the digest in containerd", found, &index.digest)?;
    ensure_equal("the media type in containerd", &media_type.as_str(), &index.media_type)
}

/// wharf → registry → skopeo → another registry → wharf: an image without an index, of several layers.
fn there_and_back(world: &World) -> Result<()> {
    let [first, second] =
        ["there", "back"].map(|name| world.empty_registry(&format!("interop-{name}"), &Options::default()));
    let (first, second) = (first?, second?);
    let source = world.registry.image(FIRST);
    let store = world.store("interop-there")?;
    let pulled = store.pull(&source, &[])?;
    let there = first.image("team/there:1");
    store.wharf(&["push", &source, &there]).success()?;
    let back = second.image("team/back:1");
    let urls = [&there, &back].map(|image| format!("docker://{image}"));
    world.skopeo.copy(&urls[0], &urls[1], &["--preserve-digests"])?;
    let other = world.store("interop-back")?;
    ensure_equal("the digest at the end", &other.pull(&back, &[])?, &pulled)?;
    ensure_equal("the blobs", &other.layout().blobs()?, &store.layout().blobs()?)?;
    let manifest = http::get_manifest(first.port(), "team/there", "1")?;
    ensure_equal("the digest on the way", &digest::of(&manifest)?, &pulled)?;
    let said = world.skopeo.inspect(&urls[1])?;
    let seen = super::super::layout::parse(said.as_bytes())?;
    ensure_equal("the digest as skopeo says it", &seen["Digest"].as_str(), &Some(pulled.as_str()))?;
    let architecture = busybox::host()?.architecture;
    ensure_equal("the architecture", &seen["Architecture"].as_str(), &Some(architecture))
}
