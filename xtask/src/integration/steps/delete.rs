//! `wharf delete` at a docker-registry that deletes and at one that does not.

use super::super::{Step, World};
use crate::failure::{Result, ensure, ensure_equal};
use crate::registry::{Options, Registry};

pub(super) const STEPS: &[Step] = &[
    ("delete-image", image),
    ("delete-tag", tag),
    ("delete-refused", refused),
    ("delete-what-is-not-there", nothing),
];

/// A registry with one image, and its full name.
fn with_image(world: &World, name: &str, options: &Options) -> Result<(Registry, String)> {
    let registry = world.empty_registry(name, options)?;
    let image = registry.image("team/box:1");
    let options = ["--all", "--preserve-digests"];
    world.skopeo.copy(
        &format!("docker://{}", world.fixture.oci.image),
        &format!("docker://{image}"),
        &options,
    )?;
    Ok((registry, image))
}

/// What was deleted is gone for everybody; a manifest that it listed is still there, for it was not named.
fn image(world: &World) -> Result<()> {
    let (registry, image) = with_image(world, "delete", &Options::default().with_delete())?;
    let store = world.store("delete")?;
    let one = store.wharf(&["digest", "--platform", "linux/s390x", &image]).text()?;
    let digest = store.wharf(&["digest", &image]).text()?;
    // docker-registry deletes by digest alone, so the tag's manifest is what must be named.
    let by_digest = registry.image(&format!("team/box@{digest}"));
    let (said, asked) = registry.asked(|| store.wharf(&["delete", &by_digest]).text())?;
    ensure_equal("what is printed", &said, &by_digest)?;
    let deleted = asked.iter().filter(|request| request.method == "DELETE" && request.status == 202).count();
    ensure_equal("deletions", &deleted, &1)?;
    store.fails(&["digest", &image], 2)?;
    ensure(world.skopeo.manifest(&format!("docker://{image}")).is_err(), || {
        "skopeo still finds what was deleted".to_owned()
    })?;
    let listed = registry.image(&format!("team/box@{one}"));
    ensure_equal("what it listed", &store.wharf(&["digest", &listed]).text()?, &one)
}

/// docker-registry 2.8 deletes no single tag. Then nothing is deleted: not the manifest, which may have other tags.
fn tag(world: &World) -> Result<()> {
    let (registry, image) = with_image(world, "delete-tag", &Options::default().with_delete())?;
    let store = world.store("delete-tag")?;
    let digest = store.wharf(&["digest", &image]).text()?;
    let finished = store.wharf(&["delete", &image]).run()?;
    ensure(finished.code != 0 && finished.stdout.is_empty(), || "a tag was deleted, it is said".to_owned())?;
    finished.expect_said(&["error", "delete", &registry.host()])?;
    ensure_equal("what is still there", &store.wharf(&["digest", &image]).text()?, &digest)?;
    // A name alone is not a tag that somebody chose.
    store.fails(&["delete", &registry.image("team/box")], 3).map(drop)
}

/// A registry that deletes nothing says so, and so do we; the image stays.
fn refused(world: &World) -> Result<()> {
    let (registry, image) = with_image(world, "delete-refused", &Options::default())?;
    let store = world.store("delete-refused")?;
    let digest = store.wharf(&["digest", &image]).text()?;
    let by_digest = registry.image(&format!("team/box@{digest}"));
    let finished = store.wharf(&["delete", &by_digest]).run()?;
    ensure((1..=8).contains(&finished.code) && finished.code != 6 && finished.stdout.is_empty(), || {
        format!("`{}` ends with {}:\n{}", finished.shown, finished.code, finished.stderr)
    })?;
    finished.expect_said(&["error", "delete", &registry.host()])?;
    ensure_equal("what is still there", &store.wharf(&["digest", &image]).text()?, &digest)
}

fn nothing(world: &World) -> Result<()> {
    let (registry, image) = with_image(world, "delete-nothing", &Options::default().with_delete())?;
    let store = world.store("delete-nothing")?;
    let absent = format!("{}@sha256:{}", registry.image("team/box"), "0".repeat(64));
    store.fails(&["delete", &absent], 2)?.expect_said(&["000000"])?;
    store.wharf(&["digest", &image]).success().map(drop)
}
