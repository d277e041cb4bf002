//! Pushes: into docker-registry, and what skopeo and wharf itself read back there.

use serde_json::Value;

use super::super::busybox::{self, PLATFORMS};
use super::super::fixture::Index;
use super::super::layout::{self, text};
use super::super::store::Store;
use super::super::{Step, World, digest};
use crate::failure::{Context, Result, ensure, ensure_equal};
use crate::registry::{Registry, free_port};

pub(super) const STEPS: &[Step] = &[
    ("push-all-platforms-oci", |world| all_platforms(world, &world.fixture.oci, "push-oci")),
    ("push-all-platforms-docker", |world| all_platforms(world, &world.fixture.docker, "push-docker")),
    ("push-mounts", mounts),
    ("push-one-platform", one_platform),
    ("push-several-platforms", several_platforms),
    ("push-big-in-chunks", big),
    ("push-errors", errors),
];

/// A docker-registry of the step's own, with nothing in it.
fn registry(world: &World, name: &str) -> Result<Registry> {
    let state = world.dir(name)?;
    Registry::start(&state.join("data"), &state)
}

/// Pushes, and gives what `--format json` says of it.
fn push(store: &Store<'_>, name: &str, destination: &str, options: &[&str]) -> Result<Value> {
    let arguments = [&["push", "--format", "json", name, destination], options].concat();
    let said = layout::parse(&store.wharf(&arguments).success()?.stdout)?;
    ensure_equal("the name", &text(&said, "name")?.as_str(), &destination)?;
    Ok(said)
}

fn count(said: &Value, field: &str) -> Result<u64> {
    said[field].as_u64().context(format_args!("no {field} in {said}"))
}

/// skopeo and wharf read what was pushed, with every digest as it was.
fn reads_back(world: &World, image: &str, index: &Index, name: &str) -> Result<()> {
    let url = format!("docker://{image}");
    ensure_equal("the index at the registry", &world.skopeo.manifest(&url)?, &index.bytes)?;
    let copy = world.dir(name)?.join("copy");
    world.skopeo.copy(&url, &format!("dir:{}", copy.display()), &["--all", "--preserve-digests"])?;
    ensure_equal("the digest of the copy", &digest::of_file(&copy.join("manifest.json"))?, &index.digest)?;
    let other = world.store(&format!("{name}-back"))?;
    ensure_equal("the digest of a pull", &other.pull(image, &["--all-platforms"])?, &index.digest)?;
    ensure_equal("the number of blobs", &other.layout().blobs()?.len(), &(1 + 3 * PLATFORMS.len()))
}

/// Everything arrives, and a second push sends nothing.
fn all_platforms(world: &World, index: &Index, name: &str) -> Result<()> {
    let registry = registry(world, name)?;
    let store = world.store(name)?;
    store.pull(&index.image, &["--all-platforms"])?;
    let image = registry.image("team/box:1");
    let printed = store.wharf(&["push", &index.image, &image]).text()?;
    ensure_equal("what is printed", &printed, &format!("{image}@{}", index.digest))?;
    reads_back(world, &image, index, name)?;
    let again = push(&store, &index.image, &image, &[])?;
    ensure_equal("what is sent again", &count(&again, "sent")?, &0)?;
    ensure_equal("what is there", &count(&again, "existing")?, &(1 + 3 * PLATFORMS.len() as u64))?;
    store.layout().verify()
}

/// Into another repository of the registry that the image came from no blob is sent.
fn mounts(world: &World) -> Result<()> {
    let index = &world.fixture.oci;
    let store = world.store("push-mounts")?;
    store.pull(&index.image, &["--all-platforms"])?;
    let image = world.registry.image("mounted/box:1");
    let said = push(&store, &index.image, &image, &[])?;
    let (mounted, sent) = (count(&said, "mounted")?, count(&said, "sent")?);
    ensure_equal("mounted blobs", &mounted, &(2 * PLATFORMS.len() as u64))?;
    ensure_equal("what is sent: manifests", &sent, &(1 + PLATFORMS.len() as u64))?;
    reads_back(world, &image, index, "push-mounts")
}

/// The manifest of one platform takes the place of the index, and nothing else need be in the store.
fn one_platform(world: &World) -> Result<()> {
    let registry = registry(world, "push-one")?;
    let index = &world.fixture.docker;
    let host = busybox::host()?;
    let store = world.store("push-one")?;
    store.pull(&index.image, &[])?;
    let image = registry.image("team/one:1");
    let refused = store.fails(&["push", &index.image, &image], 2)?;
    refused.expect_said(&["--platform", host.name, "linux/s390x", "sha256:"])?;
    let said = push(&store, &index.image, &image, &["--platform", host.name])?;
    ensure_equal("what is sent", &count(&said, "sent")?, &3)?;
    let url = format!("docker://{image}");
    let manifest = world.skopeo.manifest(&url)?;
    ensure_equal("the digest", &text(&said["target"], "digest")?, &digest::of(&manifest)?)?;
    ensure(
        index.bytes.windows(71).any(|part| part == digest::of(&manifest).unwrap_or_default().as_bytes()),
        || "the manifest is not one of the index".to_owned(),
    )?;
    let seen = layout::parse(world.skopeo.inspect(&url)?.as_bytes())?;
    ensure_equal("the architecture", &text(&seen, "Architecture")?.as_str(), &host.architecture)?;
    world.store("push-one-back")?.pull(&image, &[]).map(drop)
}

/// docker-registry takes no index without all that it lists, and that is said.
fn several_platforms(world: &World) -> Result<()> {
    let registry = registry(world, "push-several")?;
    let index = &world.fixture.oci;
    let store = world.store("push-several")?;
    store.pull(&index.image, &["--platform", "linux/amd64,linux/arm64"])?;
    let image = registry.image("team/two:1");
    let arguments = ["push", &index.image, &image, "--platform", "linux/amd64,linux/arm64"];
    let finished = store.wharf(&arguments).run()?;
    ensure(finished.code != 0, || "docker-registry has taken an index without its manifests".to_owned())?;
    finished.expect_said(&["MANIFEST", "PUT "]).map(drop)
}

/// A layer of 100 MB in chunks, and once more whole into another repository.
fn big(world: &World) -> Result<()> {
    let registry = registry(world, "push-big")?;
    let store = world.store("push-big")?;
    let source = world.registry.image(world.fixture.big);
    let pulled = store.pull(&source, &[])?;
    for (name, options) in [("chunked/big:1", &["--chunk-size", "9MB"][..]), ("whole/big:1", &[])] {
        let image = registry.image(name);
        let said = push(&store, &source, &image, options)?;
        ensure_equal("what is sent", &count(&said, "sent")?, &3)?;
        ensure_equal("the digest", &text(&said["target"], "digest")?, &pulled)?;
        let copy = world.dir("push-big")?.join(name.replace('/', "-"));
        world.skopeo.copy(&format!("docker://{image}"), &format!("dir:{}", copy.display()), &[])?;
        ensure_equal("the digest of the copy", &digest::of_file(&copy.join("manifest.json"))?, &pulled)?;
    }
    Ok(())
}

/// What is not in the store, what is no destination, who lets nobody in, and who is not there.
fn errors(world: &World) -> Result<()> {
    let store = world.store("push-errors")?;
    let image = &world.fixture.single;
    let there = world.registry.image("team/x:1");
    store.fails(&["push", image, &there], 2)?.expect_said(&["there is no image", image])?;
    store.pull(image, &[])?;
    store.fails(&["push", image, "127.0.0.1:1/UPPER/case:1"], 3)?;
    store.fails(&["push", image, &there, "--chunk-size", "0"], 3)?;
    let gone = format!("127.0.0.1:{}/team/x:1", free_port()?);
    store.fails(&["push", image, &gone, "--retry-times", "0"], 6)?.expect_said(&[&gone])?;
    let state = world.dir("push-denied")?;
    let closed = Registry::start_with_passwords(&state.join("data"), &state)?;
    let denied = closed.image("team/x:1");
    store.fails(&["push", image, &denied], 4)?.expect_said(&["UNAUTHORIZED", "POST "]).map(drop)
}
