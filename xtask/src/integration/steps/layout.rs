//! The root of a store is an OCI image layout: skopeo and umoci read it as it is.

use std::fs;

use super::super::digest;
use super::super::fixture::umoci_unpack;
use super::super::layout::{self, Layout, text};
use super::super::{Step, World};
use crate::failure::{Context, Result, ensure, ensure_equal};
use crate::process::Tool;

pub(super) const STEPS: &[Step] = &[
    ("layout-skopeo-inspect", inspect),
    ("layout-skopeo-copy", copy),
    ("layout-skopeo-copy-all", copy_all),
    ("layout-umoci-list", umoci_list),
    ("layout-umoci-unpack", umoci_unpacks),
];

fn inspect(world: &World) -> Result<()> {
    let index = &world.fixture.oci;
    let store = world.store("layout-inspect")?;
    store.pull(&index.image, &[])?;
    let image = format!("oci:{}", store.layout().image(&index.image));
    ensure_equal("the index as skopeo sees it", &world.skopeo.manifest(&image)?, &index.bytes)?;
    let view = layout::parse(world.skopeo.inspect(&image)?.as_bytes())?;
    ensure_equal("the system as skopeo sees it", &text(&view, "Os")?.as_str(), &"linux")
}

/// skopeo copies the host's platform out of a store that has no other.
fn copy(world: &World) -> Result<()> {
    let index = &world.fixture.oci;
    let store = world.store("layout-copy")?;
    store.pull(&index.image, &[])?;
    let copy = world.dir("layout-copy")?.join("copy");
    let source = format!("oci:{}", store.layout().image(&index.image));
    world.skopeo.copy(&source, &format!("dir:{}", copy.display()), &["--preserve-digests"])?;
    let file = copy.join("manifest.json");
    let found = fs::read(&file).context(file.display())?;
    let expected = world.skopeo.manifest(&format!("docker://{}", world.fixture.single))?;
    ensure_equal("the manifest that skopeo copied", &found, &expected)
}

/// skopeo copies all six, with every digest as it was. In a layout it only looks at entries of OCI's media types,
/// so this is for the OCI index alone.
fn copy_all(world: &World) -> Result<()> {
    let index = &world.fixture.oci;
    let store = world.store("layout-all")?;
    store.pull(&index.image, &["--all-platforms"])?;
    let copy = world.dir("layout-all")?.join("copy");
    let source = format!("oci:{}", store.layout().image(&index.image));
    world.skopeo.copy(&source, &format!("dir:{}", copy.display()), &["--all", "--preserve-digests"])?;
    ensure_equal("the digest of the copy", &digest::of_file(&copy.join("manifest.json"))?, &index.digest)
}

/// umoci lists what is there, of either kind.
fn umoci_list(world: &World) -> Result<()> {
    let images = [&world.fixture.oci.image, &world.fixture.docker.image, &world.fixture.single];
    let store = world.store("layout-umoci-list")?;
    for image in images {
        store.pull(image, &[])?;
    }
    let list = Tool::new("umoci").args(["list", "--layout"]).arg(store.root()).text()?;
    let mut found: Vec<_> = list.lines().map(str::to_owned).collect();
    found.sort();
    ensure_equal("what umoci lists", &found, &store.names()?)?;
    ensure_equal("the number of images", &found.len(), &images.len())
}

/// umoci unpacks an image out of the store. It reads images without an index only.
fn umoci_unpacks(world: &World) -> Result<()> {
    let image = &world.fixture.single;
    let store = world.store("layout-umoci")?;
    store.pull(image, &[])?;
    let list = Tool::new("umoci").args(["list", "--layout"]).arg(store.root()).text()?;
    ensure(list.lines().any(|line| line == image), || format!("umoci list does not tell {image}:\n{list}"))?;
    let root =
        umoci_unpack(&Layout::new(store.root()).image(image), &world.dir("layout-umoci")?.join("bundle"))?;
    ensure(root.join("bin/busybox").is_file(), || "umoci unpacked no busybox".to_owned())?;
    ensure(store.names()? == [image.clone()], || "umoci changed the store".to_owned())?;
    store.layout().verify()
}
