//! What wharf says of an image that is there: raw bytes, its own views of them, and removing it.

use super::super::layout::{self, text};
use super::super::{Step, World};
use crate::failure::{Context, Result, ensure, ensure_equal};

pub(super) const STEPS: &[Step] = &[
    ("manifest-and-config-are-raw", raw),
    ("inspect", inspect),
    ("tree", tree),
    ("images-ls-text", list),
    ("images-rm", remove),
    ("plugins", plugins),
    ("version", version),
];

/// `manifest` and `config` give the bytes that skopeo sees in the registry.
fn raw(world: &World) -> Result<()> {
    let store = world.store("raw")?;
    let index = &world.fixture.oci;
    store.pull(&index.image, &[])?;
    ensure_equal("manifest", &store.wharf(&["manifest", &index.image]).success()?.stdout, &index.bytes)?;
    let single = &world.fixture.single;
    store.pull(single, &[])?;
    let remote = format!("docker://{single}");
    ensure_equal(
        "the manifest of a single image",
        &store.wharf(&["manifest", single]).success()?.stdout,
        &world.skopeo.manifest(&remote)?,
    )?;
    let config = world.skopeo.config(&remote)?;
    for image in [single, &index.image] {
        ensure_equal(image, &store.wharf(&["config", image]).success()?.stdout, &config)?;
    }
    Ok(())
}

fn inspect(world: &World) -> Result<()> {
    let store = world.store("inspect")?;
    let index = &world.fixture.oci;
    store.pull(&index.image, &[])?;
    let page = store.wharf(&["inspect", &index.image, "--format", "json"]).success()?;
    layout::parse(&page.stdout)?;
    let json = page.text()?;
    for part in [&index.image, &index.digest] {
        ensure(json.contains(part.as_str()), || format!("inspect does not tell {part}:\n{json}"))?;
    }
    let page = store.wharf(&["inspect", &index.image]).text()?;
    ensure(page.contains(&index.digest), || format!("inspect does not tell the digest:\n{page}"))
}

/// The tree names every node of the graph that is there, and the manifests that are not.
fn tree(world: &World) -> Result<()> {
    let store = world.store("tree")?;
    let index = &world.fixture.docker;
    store.pull(&index.image, &[])?;
    let tree = store.wharf(&["tree", &index.image]).text()?;
    let document = layout::parse(&index.bytes)?;
    let manifests = document["manifests"].as_array().context("no manifests")?;
    let digests = manifests.iter().map(|entry| text(entry, "digest")).collect::<Result<Vec<_>>>()?;
    for digest in digests.iter().chain([&index.digest]) {
        // A tree may show digests shortened.
        let short = digest.get(..19).unwrap_or(digest);
        ensure(tree.contains(short), || format!("tree does not tell {digest}:\n{tree}"))?;
    }
    Ok(())
}

/// The table has a row for the image, and `-q` before the command is the same as after it.
fn list(world: &World) -> Result<()> {
    let store = world.store("list")?;
    ensure_equal("the list of an empty store", &store.wharf(&["images", "ls", "-q"]).text()?.as_str(), &"")?;
    let image = &world.fixture.single;
    store.pull(image, &[])?;
    let table = store.wharf(&["images", "ls"]).text()?;
    ensure(table.lines().any(|line| line.starts_with(image.as_str())), || {
        format!("no row of {image}:\n{table}")
    })?;
    for arguments in [&["-q", "images", "ls"][..], &["images", "ls", "-q"]] {
        ensure_equal("the list of names", &store.wharf(arguments).text()?, image)?;
    }
    Ok(())
}

fn remove(world: &World) -> Result<()> {
    let store = world.store("remove")?;
    let (image, other) = (&world.fixture.single, &world.fixture.oci.image);
    store.pull(image, &[])?;
    store.pull(other, &[])?;
    store.wharf(&["images", "rm", image]).success()?;
    ensure_equal("names", &store.names()?, &vec![other.clone()])?;
    store.layout().verify()?;
    store.fails(&["images", "rm", image], 2)?.expect_said(&[image])?;
    store.pull(image, &[])?;
    ensure_equal("the number of names", &store.names()?.len(), &2)
}

fn plugins(world: &World) -> Result<()> {
    let text = world.store("plugins")?.wharf(&["plugins"]).text()?;
    for word in ["docker", "application/vnd.oci.image.index.v1+json", "wharf_"] {
        ensure(text.contains(word), || format!("plugins does not tell {word}:\n{text}"))?;
    }
    Ok(())
}

fn version(world: &World) -> Result<()> {
    let text = world.store("version")?.wharf(&["version"]).text()?;
    ensure(text.contains(env!("CARGO_PKG_VERSION")), || format!("version prints {text:?}"))
}
