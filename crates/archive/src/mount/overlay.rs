//! One overlay of many layers, mounted by the system calls that take them one by one (Linux 6.8 and newer), and on older systems by the one
//! that takes all in a page, where each is named by a descriptor and so is short.

use std::{
    ffi::CString,
    path::{Path, PathBuf},
};

use rustix::{
    fd::OwnedFd,
    fs::{CWD, Mode, OFlags, getxattr, openat},
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, fsconfig_create,
        fsconfig_set_string, fsmount, fsopen, mount, move_mount,
    },
};
use wharf_content::{Error, ErrorKind, Result};

use crate::apply::itself;

/// The most layers that overlayfs takes (Linux: `fs/overlayfs/params.h`, `OVL_MAX_STACK`).
const MAX_LAYERS: usize = 500;
/// The most bytes of one parameter (Linux: `fsconfig(2)`).
const MAX_PARAMETER_LEN: usize = 255;
/// The most bytes of all options together (Linux: `mount(2)`, a page).
const MAX_OPTIONS_LEN: usize = 4095;

/// Where what is written goes.
#[derive(Clone, Debug)]
pub(super) struct Changes {
    pub(super) upper: PathBuf,
    pub(super) work: PathBuf,
}

/// An overlay that is to be mounted.
#[derive(Debug)]
pub(super) struct Overlay<'a> {
    /// The topmost first.
    layers: Vec<PathBuf>,
    changes: Option<&'a Changes>,
}

impl<'a> Overlay<'a> {
    /// Puts layers together. `empty` is a directory with nothing in it, as overlayfs wants two that are only read.
    ///
    /// # Errors
    /// `FailedPrecondition` for more than overlayfs takes.
    pub(super) fn new(
        topmost_first: Vec<PathBuf>,
        empty: &Path,
        changes: Option<&'a Changes>,
    ) -> Result<Self> {
        // Overlayfs does not look whether a layer's root hides all below it.
        let hides = |layer: &PathBuf| {
            let mut value = [0; 2];
            matches!(getxattr(layer, "trusted.overlay.opaque", &mut value[..]), Ok(1)) && value[0] == b'y'
        };
        let seen = topmost_first.iter().position(hides).map_or(topmost_first.len(), |at| at + 1);
        let mut layers = topmost_first;
        layers.truncate(seen);
        if layers.len() == 1 {
            layers.push(empty.to_owned());
        }
        if layers.len() > MAX_LAYERS {
            return Err(Error::failed_precondition(format!(
                "the image has {} layers, and overlayfs takes {MAX_LAYERS}: unpack it into a directory",
                layers.len()
            )));
        }
        Ok(Self { layers, changes })
    }

    /// Mounts it.
    pub(super) fn mount(&self, directory: &Path) -> Result<()> {
        let mounted = match self.one_by_one(directory) {
            // An older kernel does not know the calls, or not this parameter of overlayfs.
            Err(Errno::NOSYS | Errno::INVAL) => self.at_once(directory),
            mounted => mounted,
        };
        mounted.map_err(|error| match error {
            Errno::NODEV => Error::not_implemented("this system has no overlayfs: unpack the image into a directory"),
            Errno::PERM => Error::new(
                ErrorKind::PermissionDenied,
                "mounting is not allowed here: it takes the capability CAP_SYS_ADMIN; or unpack the image into a directory",
            ),
            Errno::NAMETOOLONG => Error::failed_precondition(format!(
                "the image has {} layers, more than this system can mount at once: unpack it into a directory",
                self.layers.len()
            )),
            error => Error::io(format!("cannot mount on {}", directory.display()), error.into()),
        })
    }

    fn one_by_one(&self, directory: &Path) -> Result<(), Errno> {
        let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        let mut names = Names::default();
        fsconfig_set_string(&context, "source", "wharf")?;
        for layer in &self.layers {
            fsconfig_set_string(&context, "lowerdir+", names.of(layer)?)?;
        }
        if let Some(changes) = self.changes {
            fsconfig_set_string(&context, "upperdir", names.of(&changes.upper)?)?;
            fsconfig_set_string(&context, "workdir", names.of(&changes.work)?)?;
        }
        fsconfig_create(&context)?;
        let attributes =
            if self.changes.is_some() { MountAttrFlags::empty() } else { MountAttrFlags::MOUNT_ATTR_RDONLY };
        let mounted = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
        move_mount(&mounted, "", CWD, directory, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
    }

    fn at_once(&self, directory: &Path) -> Result<(), Errno> {
        let mut names = Names::default();
        let layers = self.layers.iter().map(|layer| names.short(layer)).collect::<Result<Vec<_>, _>>()?;
        let mut options = format!("lowerdir={}", layers.join(":"));
        let mut flags = MountFlags::RDONLY;
        if let Some(changes) = self.changes {
            let (upper, work) = (names.short(&changes.upper)?, names.short(&changes.work)?);
            options.push_str(&format!(",upperdir={upper},workdir={work}"));
            flags = MountFlags::empty();
        }
        if options.len() > MAX_OPTIONS_LEN {
            return Err(Errno::NAMETOOLONG);
        }
        let options = CString::new(options).map_err(|_| Errno::INVAL)?;
        mount("wharf", directory, "overlay", flags, &*options)
    }
}

/// Names of directories that are short enough, for as long as this is there.
#[derive(Default)]
struct Names {
    open: Vec<OwnedFd>,
}

impl Names {
    /// The path, where that will do.
    fn of(&mut self, path: &Path) -> Result<String, Errno> {
        match path.to_str().filter(|path| path.len() <= MAX_PARAMETER_LEN) {
            Some(path) => Ok(path.to_owned()),
            None => self.short(path),
        }
    }

    fn short(&mut self, path: &Path) -> Result<String, Errno> {
        let fd = openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let name = itself(&fd);
        self.open.push(fd);
        Ok(name)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rustix::mount::{UnmountFlags, unmount};

    use super::*;

    /// Ends a mount, whatever the test does.
    struct Ended(PathBuf);

    impl Drop for Ended {
        fn drop(&mut self) {
            unmount(&self.0, UnmountFlags::DETACH).expect("unmounts");
        }
    }

    fn layers(dir: &Path, count: usize) -> Vec<PathBuf> {
        let make = |at: usize| {
            let layer = dir.join(format!("layer {at:03}:{}", "x".repeat(at % 40)));
            fs::create_dir(&layer).expect("makes");
            fs::write(layer.join(format!("f{at}")), at.to_string()).expect("writes");
            fs::write(layer.join("same"), at.to_string()).expect("writes");
            layer
        };
        (0..count).map(make).collect()
    }

    /// Many layers, by both ways, in a directory whose name alone is longer than a parameter may be.
    #[test]
    fn many_layers_are_mounted_and_too_many_are_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let long = dir.path().join("l".repeat(200)).join("o".repeat(100));
        fs::create_dir_all(&long).expect("makes");
        let is_root = rustix::process::geteuid().is_root();
        for (at, (place, count)) in [(dir.path(), 1), (dir.path(), 130), (&long, 130)].into_iter().enumerate()
        {
            let place = place.join(at.to_string());
            let (empty, target) = (place.join("empty"), place.join("target"));
            fs::create_dir_all(&empty).expect("makes");
            fs::create_dir_all(&target).expect("makes");
            let overlay = Overlay::new(layers(&place, count), &empty, None).expect("not too many");
            for mounted in [Overlay::one_by_one, Overlay::at_once] {
                let mounted = mounted(&overlay, &target);
                if !is_root {
                    assert_eq!(mounted, Err(Errno::PERM));
                    continue;
                }
                mounted.expect("mounts");
                let _ended = Ended(target.clone());
                assert_eq!(fs::read_dir(&target).expect("lists").count(), count + 1);
                assert_eq!(
                    fs::read_to_string(target.join("same")).expect("reads"),
                    "0",
                    "the topmost is seen"
                );
                assert!(fs::write(target.join("new"), "").is_err(), "it is read-only");
            }
        }
        let many = vec![dir.path().to_owned(); 501];
        let error = Overlay::new(many.clone(), dir.path(), None).expect_err("too many");
        assert!(error.to_string().contains("501 layers"), "{error}");
        let overlay = Overlay { layers: many, changes: None };
        assert_eq!(overlay.at_once(dir.path()), Err(Errno::NAMETOOLONG));
    }
}
