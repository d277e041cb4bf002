//! The same tree by all of them: umoci's root file system, containerd's mount, and what wharf unpacks and mounts.

use std::fs;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use super::super::super::containerd::Containerd;
use super::super::super::layout;
use super::super::super::mounts::{self, SmallDisk};
use super::super::super::store::Store;
use super::super::super::tree::Tree;
use super::super::super::{Step, World};
use super::{expected, filled, pushed};
use crate::failure::{Context, Result, ensure, ensure_equal};

pub(super) const STEPS: &[Step] = &[
    ("debian-unpack-like-umoci", directory),
    ("debian-pull-unpack-mount-like-umoci", layers),
    ("debian-mount-like-ctr", ctr),
];

/// `unpack REF DIR`.
fn directory(world: &World) -> Result<()> {
    let root = world.dir("debian-directory")?.join("rootfs");
    let printed = filled(world)?.wharf(&["unpack", &pushed(world)?]).arg(&root).text()?;
    ensure_equal("what unpack prints", &printed, &root.display().to_string())?;
    Tree::read(&root)?.ensure_same("what wharf unpacks", &expected(world)?)
}

/// `pull --unpack` leaves nothing to do for `unpack`, and `mount` puts together what it has unpacked.
fn layers(world: &World) -> Result<()> {
    let (image, store) = (pushed(world)?, filled(world)?);
    let said = layout::parse(&store.wharf(&["unpack", "--format", "json", &image]).success()?.stdout)?;
    let layers = said["layers"].as_array().context("no layers")?;
    ensure_equal("the number of layers", &layers.len(), &5)?;
    ensure(layers.iter().all(|layer| layer["new"] == false), || {
        format!("`unpack` unpacks after `pull --unpack`: {said}")
    })?;
    let mounted = Mounted::new(world, "debian-layers")?;
    let directory = mounted.by_wharf(&store, &image)?;
    let outcome = Tree::read(&directory)?.ensure_same("what wharf mounts", &expected(world)?);
    // The next step shares the store.
    mounted.end(&store)?;
    outcome
}

/// What containerd mounts after a pull of its own. Two times are other ones there: containerd takes none before 1970, and
/// a directory that a layer writes into without having it as an entry gets the time of unpacking, where umoci and wharf
/// leave it the one from below.
fn ctr(world: &World) -> Result<()> {
    let image = pushed(world)?;
    let containerd = Containerd::start(&world.dir("debian-ctr")?)?;
    let started = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock")?.as_secs();
    containerd.pull_layers(&image)?;
    let mounted = Mounted::new(world, "debian-ctr-mounts")?;
    let theirs = mounted.disk.directory().join("ctr");
    mounted.make("ctr")?;
    containerd.mount(&image, &theirs, &mounted.disk.wrapper())?;
    let store = filled(world)?;
    let ours = Tree::read(&mounted.by_wharf(&store, &image)?)?;
    let theirs = Tree::read(&mounted.disk.seen().join("ctr"))?.amended(|path, node| {
        let is_of_now = node.kind == 'd' && u64::try_from(node.mtime.0).is_ok_and(|time| time >= started);
        let is_of_1970 = node.mtime == (0, 0);
        match ours.nodes.get(path) {
            Some(our) if is_of_now || (is_of_1970 && our.mtime.0 < 0) => node.mtime = our.mtime,
            _ => {}
        }
    });
    let outcome = ours.ensure_same("what wharf mounts", &theirs);
    mounted.end(&store)?;
    outcome
}

/// A mount namespace of a step's own.
pub(super) struct Mounted<'a> {
    world: &'a World,
    disk: SmallDisk,
}

impl<'a> Mounted<'a> {
    pub(super) fn new(world: &'a World, name: &str) -> Result<Self> {
        let directory = world.dir(name)?;
        Ok(Self { world, disk: SmallDisk::mount(&directory.join("disk"), "size=16m", &directory)? })
    }

    /// Makes a directory to mount on.
    fn make(&self, name: &str) -> Result<()> {
        let directory = self.disk.seen().join(name);
        fs::create_dir(&directory).context(directory.display())
    }

    /// The store as wharf sees it in the namespace.
    fn inside(&self, store: &Store<'_>) -> Store<'a> {
        Store::elsewhere(
            &self.world.wharf,
            store.root().to_owned(),
            self.disk.wrapper(),
            store.root().to_owned(),
        )
    }

    /// Mounts by wharf, and gives where that is seen.
    pub(super) fn by_wharf(&self, store: &Store<'_>, image: &str) -> Result<PathBuf> {
        self.make("wharf")?;
        let directory = self.disk.directory().join("wharf");
        let printed = self.inside(store).wharf(&["mount", image]).arg(&directory).text()?;
        ensure_equal("what mount prints", &printed, &directory.display().to_string())?;
        Ok(self.disk.seen().join("wharf"))
    }

    /// Ends wharf's mount: nothing is mounted there any more, and no lease is left.
    pub(super) fn end(&self, store: &Store<'_>) -> Result<()> {
        let directory = self.disk.directory().join("wharf");
        self.inside(store).wharf(&["unmount"]).arg(&directory).success()?;
        let left = fs::read_dir(self.disk.seen().join("wharf")).context(directory.display())?.count();
        ensure_equal("files where the image was mounted", &left, &0)?;
        ensure(mounts::below(self.world.scratch.path())?.is_empty(), || "a mount got out".to_owned())?;
        store.no_lease()
    }
}
