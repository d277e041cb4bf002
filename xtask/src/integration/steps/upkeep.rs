//! The commands that look after a store: what `wharf gc` prints and takes, that a pull leaves no lease, and that
//! nobody else can read the store whatever the umask.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use super::super::small::{FIRST, SECOND};
use super::super::store::Store;
use super::super::{Step, World};
use crate::failure::{Context, Result, ensure, ensure_equal};
use crate::process::{Daemon, Signal};

pub(super) const STEPS: &[Step] = &[("gc", gc), ("leases", leases), ("modes", modes)];

/// A dry run says what a collection then takes: the blobs that only the removed image had.
fn gc(world: &World) -> Result<()> {
    let store = world.store("gc")?;
    let (image, other) = (world.registry.image(FIRST), world.registry.image(SECOND));
    store.pull(&other, &[])?;
    let before = store.layout().blobs()?;
    store.pull(&image, &[])?;
    ensure_equal("what gc finds while all is needed", &store.gc(&[])?, &Vec::new())?;
    store.wharf(&["images", "rm", &image]).success()?;
    let all = store.layout().blobs()?;
    let own: Vec<_> = all.iter().filter(|blob| !before.contains(blob)).cloned().collect();
    ensure_equal("the blobs that are the image's own", &own.len(), &3)?;

    let mut planned = store.gc(&["--dry-run"])?;
    planned.sort_by(|a, b| a.name.cmp(&b.name));
    let digests: Vec<_> = planned.iter().map(|blob| blob.name.replacen("sha256:", "", 1)).collect();
    ensure_equal("what a dry run names", &digests, &own)?;
    for blob in &planned {
        let length = store.layout().blob(&blob.name)?.len() as u64;
        ensure_equal(&format!("the size of {}", blob.name), &blob.size, &length)?;
    }
    ensure_equal("the blobs after a dry run", &store.layout().blobs()?, &all)?;

    let mut taken = store.gc(&[])?;
    taken.sort_by(|a, b| a.name.cmp(&b.name));
    ensure_equal("what gc takes", &taken, &planned)?;
    ensure_equal("the blobs after gc", &store.layout().blobs()?, &before)?;
    ensure_equal("what a second gc takes", &store.gc(&[])?, &Vec::new())?;
    store.verify()?;
    store.only_needed()
}

/// A pull that succeeds leaves no lease.
fn leases(world: &World) -> Result<()> {
    let store = world.store("leases")?;
    store.pull(&world.registry.image(FIRST), &[])?;
    store.no_lease()?;
    store.only_needed()
}

/// With a umask that takes nothing away, the root is 0700 and the database 0600, its log and its index too, which
/// are there as long as somebody has the store open.
fn modes(world: &World) -> Result<()> {
    let wrapper = ["sh", "-c", "umask 000; exec \"$@\"", "sh"].map(Into::into).to_vec();
    let root = world.scratch.path().join("stores/modes");
    let store = Store::elsewhere(&world.wharf, root.clone(), wrapper, root.clone());
    let tool = store.wharf(&["serve", "--addr", "127.0.0.1:0"]);
    let mut server = Daemon::start("wharf-serve", tool, &world.dir("modes")?)?;
    server.ready(Duration::from_secs(20), |daemon| daemon.stdout().ends_with('\n').then_some(()))?;
    store.pull(&world.registry.image(FIRST), &[])?;
    store.wharf(&["images", "ls"]).success()?;
    let databases = ["metadata.db", "metadata.db-wal", "metadata.db-shm"].map(|name| root.join(name));
    for database in &databases {
        private(database, 0o600)?;
    }
    private(&root, 0o700)?;
    let mut blobs = store.layout().blobs()?;
    let blob = blobs.pop().context("no blob")?;
    private(&root.join("blobs/sha256").join(blob), 0o444)?;
    server.stop(Signal::Terminate)?;
    private(&root, 0o700)?;
    private(&databases[0], 0o600)
}

/// Fails unless the file has exactly this mode.
fn private(path: &Path, expected: u32) -> Result<()> {
    let mode = fs::metadata(path).context(path.display())?.permissions().mode() & 0o7777;
    ensure(mode == expected, || format!("{} has mode {mode:04o}, not {expected:04o}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn modes_are_compared_exactly() {
        let scratch = Scratch::new("modes").unwrap();
        let file = scratch.path().join("file");
        fs::write(&file, "").unwrap();
        for (mode, fine) in [(0o600, true), (0o644, false), (0o400, false), (0o4600, false)] {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(private(&file, 0o600).is_ok(), fine, "{mode:o}");
        }
    }
}
