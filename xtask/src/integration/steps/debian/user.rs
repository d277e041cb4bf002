//! Without root: another user unpacks the image and owns all of it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use super::super::super::layout;
use super::super::super::store::{Store, Wharf};
use super::super::super::tree::{Node, Tree};
use super::super::super::{Step, World};
use super::{expected, pushed};
use crate::failure::{Context, Result, ensure, ensure_equal};
use crate::scratch::Scratch;

pub(super) const STEPS: &[Step] = &[("debian-unpack-rootless", unpack)];

/// The number of a user and of a group that have no names.
const ID: u32 = 54_321;

/// A user with a directory and a copy of the program of their own.
pub(super) struct Other {
    place: Scratch,
    wharf: Wharf,
}

impl Other {
    /// Makes the directory, where others may go.
    pub(super) fn new(world: &World) -> Result<Self> {
        let place = Scratch::new("other")?;
        let program = place.path().join("wharf");
        fs::copy(world.wharf.program(), &program).context(program.display())?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).context(program.display())?;
        let home = place.dir("home")?;
        for path in [place.path(), home.as_path()] {
            chown(path, Some(ID), Some(ID)).context(path.display())?;
        }
        Ok(Self { wharf: Wharf::new(program, home), place })
    }

    /// The user's store.
    pub(super) fn store(&self) -> Store<'_> {
        let root = self.place.path().join("store");
        let id = ID.to_string();
        // Who may write to this machine's directory for temporary files is its own affair.
        let temporary = format!("TMPDIR={}", self.place.path().display());
        let wrapper = ["setpriv", "--reuid", &id, "--regid", &id, "--clear-groups", "--", "env", &temporary];
        let wrapper = wrapper.map(Into::into);
        Store::elsewhere(&self.wharf, root.clone(), wrapper.to_vec(), root)
    }

    /// Where the user may make files.
    pub(super) fn directory(&self) -> &Path {
        self.place.path()
    }
}

/// What a user makes of a file of the image: it is theirs, and attributes that are not a user's are left out.
fn owned(_: &Path, node: &mut Node) {
    (node.uid, node.gid) = (ID, ID);
    node.attributes.retain(|name, _| name.starts_with("user."));
}

fn is_device(node: &Node) -> bool {
    matches!(node.kind, 'b' | 'c')
}

/// All contents, modes and times, but no devices and no owners, and what is left out is told and counted.
fn unpack(world: &World) -> Result<()> {
    let image = pushed(world)?;
    let other = Other::new(world)?;
    let store = other.store();
    store.wharf(&["pull", &image]).success()?;
    let root = other.directory().join("rootfs");
    let finished = store.wharf(&["unpack", "--format", "json", &image]).arg(&root).success()?;
    let said = layout::parse(&finished.stdout)?;
    let finished = finished.expect_said(&["left out", "device", "owner"])?;
    ensure(!finished.stderr.contains("error"), || finished.stderr.clone())?;
    let expected = expected(world)?;
    let told = said["leftOut"].as_array().context("nothing is left out")?;
    let count = |what: &str| {
        let about = told.iter().filter(|one| one["what"].as_str().is_some_and(|text| text.contains(what)));
        about.filter_map(|one| one["count"].as_u64()).sum::<u64>()
    };
    let devices = expected.nodes.values().filter(|node| is_device(node)).count() as u64;
    ensure_equal("the number of devices that are told", &count("device"), &devices)?;
    let expected = expected.amended(owned).without(|_, node| is_device(node));
    Tree::read(&root)?.ensure_same("what a user unpacks", &expected)
}
