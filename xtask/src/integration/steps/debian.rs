//! The Debian image, as other programs see it: umoci and containerd say which files are in it, runc runs it, skopeo,
//! umoci and containerd read what wharf exports, and wharf what they do.

mod archives;
mod kills;
mod listing;
mod running;
mod trees;
mod user;

use super::super::fixture::umoci_unpack;
use super::super::layout::{self, Layout};
use super::super::store::Store;
use super::super::tree::Tree;
use super::super::{Step, World};
use crate::debian;
use crate::failure::{Context, Result, ensure, ensure_equal};
use crate::registry::http;

/// The repository of the image in the registry.
const REPOSITORY: &str = "library/debian";

/// All steps of the group.
pub(super) fn all() -> Vec<Step> {
    let mut steps = Vec::new();
    for group in [running::STEPS, archives::STEPS, kills::STEPS, listing::STEPS, trees::STEPS, user::STEPS] {
        steps.extend_from_slice(group);
    }
    steps.push(("debian-image", image));
    steps
}

/// The layout that has it.
fn layout(world: &World) -> Result<Layout> {
    Ok(Layout::new(debian::image(&world.workspace.target)?))
}

/// The name of the image in the registry, where it is put by skopeo.
pub(super) fn pushed(world: &World) -> Result<String> {
    let image = world.registry.image(&format!("{REPOSITORY}:{}", debian::TAG));
    let path = format!("/v2/{REPOSITORY}/manifests/{}", debian::TAG);
    if http::get(world.registry.port(), &path)?.status != 200 {
        let source = format!("oci:{}", layout(world)?.image(debian::TAG));
        world.skopeo.copy(&source, &format!("docker://{image}"), &["--preserve-digests"])?;
    }
    Ok(image)
}

/// The digest of its manifest.
pub(super) fn digest(world: &World) -> Result<String> {
    let names = layout(world)?.names()?;
    names.into_iter().find(|(name, _)| name == debian::TAG).map(|(_, digest)| digest).context("no such tag")
}

/// The files of the image, as umoci unpacks it.
fn expected(world: &World) -> Result<Tree> {
    let bundle = world.scratch.path().join("debian-umoci");
    if !bundle.exists() {
        umoci_unpack(&layout(world)?.image(debian::TAG), &bundle)?;
    }
    Tree::read(&bundle.join("rootfs"))
}

/// The store that steps share which only read it: with the image, and its layers unpacked.
fn filled(world: &World) -> Result<Store<'_>> {
    let root = world.scratch.path().join("stores/debian");
    let is_new = !root.exists();
    let store = Store::new(&world.wharf, root);
    if is_new {
        store.pull(&pushed(world)?, &["--unpack"])?;
    }
    Ok(store)
}

/// The image is what the other steps and the benchmarks count on.
fn image(world: &World) -> Result<()> {
    let layout = layout(world)?;
    layout.verify()?;
    let manifest = layout::parse(&layout.blob(&digest(world)?)?)?;
    let layers = manifest["layers"].as_array().context("the manifest has no layers")?;
    ensure_equal("the number of layers", &layers.len(), &5)?;
    let bytes: u64 = layers.iter().filter_map(|layer| layer["size"].as_u64()).sum();
    ensure((300_000_000..450_000_000).contains(&bytes), || format!("the layers have {bytes} bytes"))?;
    let files = expected(world)?.nodes;
    ensure(files.len() >= 15_000, || format!("the image has {} files only", files.len()))?;
    let kinds: std::collections::BTreeSet<char> = files.values().map(|node| node.kind).collect();
    ensure_equal("the types of its files", &kinds.iter().collect::<String>().as_str(), &"bcdflp")?;
    let some = |what: &str, has: bool| ensure(has, || format!("the image has no {what}"));
    some("capability", files.values().any(|node| node.attributes.contains_key("security.capability")))?;
    some("hard link", files.values().any(|node| node.names > 1))?;
    some("set-uid program", files.values().any(|node| node.mode & 0o4000 != 0))?;
    println!("  {} files, {bytes} bytes in {} layers", files.len(), layers.len());
    Ok(())
}
