//! Executables that have a say before anything of an image is fetched.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::super::{Step, World, layout};
use crate::failure::{Context, Result, ensure, ensure_equal};
use crate::registry::Options;

pub(super) const STEPS: &[Step] = &[("verifiers-accept", accept), ("verifiers-reject", reject)];

/// Puts an executable into a directory.
fn install(directory: &Path, name: &str, script: &str) -> Result<()> {
    let file = directory.join(name);
    fs::write(&file, script).context(file.display())?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).context(file.display())
}

/// A directory for verifiers, and the file into which they write what they are told.
fn directory(world: &World, name: &str) -> Result<(PathBuf, PathBuf)> {
    Ok((world.scratch.dir(&format!("steps/{name}/verifiers"))?, world.dir(name)?.join("told")))
}

/// Each is told name, digest and descriptor, in the order of their names, before the first blob is asked for.
fn accept(world: &World) -> Result<()> {
    let (verifiers, told) = directory(world, "verifiers-accept")?;
    let input = told.with_extension("json");
    let (told_shown, input_shown) = (told.display(), input.display());
    let first = format!("#!/bin/sh\necho \"first $*\" >> '{told_shown}'\ncat > '{input_shown}'\n");
    install(&verifiers, "10-first", &first)?;
    // One that does not read its input is as good.
    install(&verifiers, "20-second", &format!("#!/bin/sh\necho \"second $*\" >> '{told_shown}'\n"))?;
    let store = world.store("verifiers-accept")?;
    let index = &world.fixture.oci;
    let shown = verifiers.to_str().context("a path that is no text")?;
    ensure_equal("the digest", &store.pull(&index.image, &["--verifier-dir", shown])?, &index.digest)?;
    let said = fs::read_to_string(&told).context(told.display())?;
    let arguments = format!(
        "-name {} -digest {} -stdin-media-type application/vnd.oci.descriptor.v1+json",
        index.image, index.digest
    );
    ensure_equal("what they are told", &said, &format!("first {arguments}\nsecond {arguments}\n"))?;
    let descriptor = layout::parse(&fs::read(&input).context(input.display())?)?;
    ensure_equal("the digest", &descriptor["digest"].as_str(), &Some(index.digest.as_str()))?;
    ensure_equal("the media type", &descriptor["mediaType"].as_str(), &Some(index.media_type))?;
    ensure_equal("the size", &descriptor["size"].as_u64(), &Some(index.bytes.len() as u64))
}

/// One that rejects is enough; its reason is told, no blob was asked for, nothing is recorded.
fn reject(world: &World) -> Result<()> {
    let registry = world.twin_registry("verifiers-reject", &Options::default())?;
    let image = registry.image("library/busybox:1.35");
    let (verifiers, _) = directory(world, "verifiers-reject")?;
    install(&verifiers, "10-good", "#!/bin/sh\nexit 0\n")?;
    install(&verifiers, "20-bad", "#!/bin/sh\necho 'signed by nobody'\nexit 1\n")?;
    let store = world.store("verifiers-reject")?;
    let shown = verifiers.to_str().context("a path that is no text")?;
    let pull = ["pull", "--verifier-dir", shown, &image];
    let (finished, asked) = registry.asked(|| store.fails(&pull, 5))?;
    finished.expect_said(&["20-bad", "signed by nobody"])?;
    let blobs = asked.iter().filter(|request| request.takes_blob()).count();
    ensure_equal("blobs that were fetched", &blobs, &0)?;
    ensure_equal("the list", &store.wharf(&["images", "ls", "-q"]).text()?.as_str(), &"")?;
    // Without that one it comes.
    let bad = verifiers.join("20-bad");
    fs::remove_file(&bad).context(bad.display())?;
    store.pull(&image, &["--verifier-dir", shown])?;
    ensure(!store.names()?.is_empty(), || "nothing was recorded".to_owned())
}
