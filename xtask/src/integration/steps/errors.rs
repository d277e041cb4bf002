//! What cannot be done: the exit code, what is said, and that nothing is left in the store.

use super::super::busybox::PLATFORMS;
use super::super::store::Store;
use super::super::{Step, World};
use crate::failure::{Result, ensure, ensure_equal};
use crate::registry::{Registry, free_port};

pub(super) const STEPS: &[Step] = &[
    ("error-unknown-tag", unknown_tag),
    ("error-unknown-repository", unknown_repository),
    ("error-unknown-platform", unknown_platform),
    ("error-unreachable", unreachable),
    ("error-unauthenticated", unauthenticated),
    ("error-schema-1", schema1),
    ("error-usage", usage),
    ("error-not-in-the-store", not_in_the_store),
];

/// Fails to pull, and leaves no image behind.
fn pull_fails(store: &Store<'_>, arguments: &[&str], code: i32, says: &[&str]) -> Result<()> {
    store.fails(&[&["pull"], arguments].concat(), code)?.expect_said(says)?;
    if store.root().exists() {
        ensure_equal(
            "the list after a failure",
            &store.wharf(&["images", "ls", "-q"]).text()?.as_str(),
            &"",
        )?;
    }
    Ok(())
}

fn unknown_tag(world: &World) -> Result<()> {
    let image = world.registry.image("library/busybox:nowhere");
    pull_fails(&world.store("unknown-tag")?, &[&image], 2, &["nowhere"])
}

fn unknown_repository(world: &World) -> Result<()> {
    let image = world.registry.image("library/nobody:1");
    pull_fails(&world.store("unknown-repository")?, &[&image], 2, &["library/nobody"])
}

/// The platforms that there are are named.
fn unknown_platform(world: &World) -> Result<()> {
    for (index, name) in [(&world.fixture.oci, "platform-oci"), (&world.fixture.docker, "platform-docker")] {
        let mut says = vec!["linux/riscv64"];
        says.extend(PLATFORMS.iter().map(|platform| platform.name));
        pull_fails(&world.store(name)?, &[&index.image, "--platform", "linux/riscv64"], 2, &says)?;
    }
    Ok(())
}

fn unreachable(world: &World) -> Result<()> {
    let port = free_port()?;
    let host = format!("127.0.0.1:{port}");
    pull_fails(&world.store("unreachable")?, &[&format!("{host}/library/busybox:1")], 6, &[&host])
}

/// A registry that wants a name and a password.
fn unauthenticated(world: &World) -> Result<()> {
    let state = world.dir("unauthenticated")?;
    let registry = Registry::start_with_passwords(&state.join("data"), &state)?;
    let image = registry.image("library/busybox:1");
    pull_fails(&world.store("unauthenticated")?, &[&image], 4, &[&format!("127.0.0.1:{}", registry.port())])
}

/// Where it is not to be converted, that is said: this is neither a network error nor a crash.
fn schema1(world: &World) -> Result<()> {
    let store = world.store("schema-1")?;
    let finished = store.wharf(&["pull", "--no-convert-schema1", &world.fixture.schema1]).run()?;
    ensure((1..=8).contains(&finished.code) && finished.code != 6 && finished.stdout.is_empty(), || {
        format!("`{}` ends with {}:\n{}", finished.shown, finished.code, finished.stderr)
    })?;
    let said = finished.stderr.to_lowercase();
    ensure(said.contains("schema 1") || said.contains("schema1") || said.contains("prettyjws"), || {
        format!("schema 1 is not named:\n{said}")
    })?;
    ensure_equal("the list after a failure", &store.wharf(&["images", "ls", "-q"]).text()?.as_str(), &"")
}

/// What cannot be read is usage, before anything is asked or written.
fn usage(world: &World) -> Result<()> {
    let store = world.store("usage")?;
    let image = &world.fixture.single;
    for arguments in [
        &["pull"][..],
        &["pull", "127.0.0.1:1/UPPER/case:1"],
        &["pull", "a b"],
        &["pull", image, "--platform", "linux/amd64/v1/v2/v3"],
        &["no-such-command"],
        &["images", "ls", "--no-such-option"],
    ] {
        store.fails(arguments, 3)?;
    }
    Ok(())
}

fn not_in_the_store(world: &World) -> Result<()> {
    let store = world.store("not-in-the-store")?;
    let file = world.dir("not-in-the-store")?.join("export.tar");
    let file_name = file.to_string_lossy();
    let image = world.registry.image("library/busybox:nowhere");
    for arguments in
        [&["images", "rm", &image][..], &["export", &image, "-o", &file_name], &["manifest", &image]]
    {
        store.fails(arguments, 2)?.expect_said(&["nowhere"])?;
    }
    ensure(!file.exists(), || "a failed export leaves a file".to_owned())
}
