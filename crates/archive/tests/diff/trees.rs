//! Trees on a disk, and all that there is to be known of one.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, lgetxattr, llistxattr, utimensat};
use wharf_archive::{ApplyOptions, Diff, Diffed, apply::Ownership};

/// A lower and an upper tree.
pub(crate) struct Place(tempfile::TempDir);

impl Place {
    pub(crate) fn new() -> Self {
        let place = Self(tempfile::tempdir().expect("a directory"));
        for tree in ["lower", "upper"] {
            fs::create_dir(place.path(tree)).expect("makes");
        }
        place
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    /// Makes a file, of one and the same time, so that its content tells it from others.
    pub(crate) fn file(&self, path: &str, content: &str) {
        fs::create_dir_all(self.path(path).parent().expect("it has one")).expect("makes");
        fs::write(self.path(path), content).expect("writes");
        self.touch(path, 1_000, 0);
    }

    pub(crate) fn touch(&self, path: &str, seconds: i64, nanoseconds: i64) {
        set_time(&self.path(path), seconds, nanoseconds);
    }

    pub(crate) fn between(&self) -> Diff {
        Diff::between(Some(&self.path("lower")), &self.path("upper"))
    }

    pub(crate) fn diff(&self) -> (Vec<u8>, Diffed) {
        let mut layer = Vec::new();
        let diffed = self.between().write(&mut layer).expect("writes");
        (layer, diffed)
    }
}

pub(crate) fn layer(diff: &Diff) -> Vec<u8> {
    let mut layer = Vec::new();
    diff.write(&mut layer).expect("writes");
    layer
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Those who run the tests need not be root.
pub(crate) fn options() -> ApplyOptions {
    ApplyOptions::new().with_ownership(if is_root() { Ownership::Image } else { Ownership::User })
}

pub(crate) fn set_time(path: &Path, seconds: i64, nanoseconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).expect("sets");
}

pub(crate) fn mtime(path: &Path) -> (i64, i64) {
    let metadata = fs::symlink_metadata(path).expect("stat");
    (metadata.mtime(), metadata.mtime_nsec())
}

/// All of one node that a layer can say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, i64),
    device: u64,
    content: Vec<u8>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The first name of the same file.
    first_name: Vec<u8>,
}

/// All of a tree, the root under no name.
pub(crate) fn snapshot(root: &Path) -> BTreeMap<Vec<u8>, Seen> {
    let mut paths = vec![root.to_owned()];
    let mut at = 0;
    while let Some(path) = paths.get(at).cloned() {
        at += 1;
        if fs::symlink_metadata(&path).expect("stat").is_dir() {
            paths.extend(fs::read_dir(&path).expect("lists").map(|entry| entry.expect("lists").path()));
        }
    }
    paths.sort();
    let mut first_names = HashMap::new();
    let mut seen = BTreeMap::new();
    for path in paths {
        let name = path.strip_prefix(root).expect("below").as_os_str().as_bytes().to_vec();
        let metadata = fs::symlink_metadata(&path).expect("stat");
        let content = if metadata.is_symlink() {
            fs::read_link(&path).expect("reads").into_os_string().as_bytes().to_vec()
        } else if metadata.is_file() {
            fs::read(&path).expect("reads")
        } else {
            Vec::new()
        };
        let first_name = first_names.entry(metadata.ino()).or_insert_with(|| name.clone()).clone();
        let one = Seen {
            mode: metadata.mode(),
            owner: (metadata.uid(), metadata.gid()),
            mtime: (metadata.mtime(), metadata.mtime_nsec()),
            device: metadata.rdev(),
            content,
            xattrs: xattrs(&path),
            first_name,
        };
        seen.insert(name, one);
    }
    seen
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut buffer = vec![0; 65_536];
    let len = llistxattr(path, &mut buffer[..]).unwrap_or(0);
    let names: Vec<_> = buffer[..len].split(|byte| *byte == 0).map(<[u8]>::to_vec).collect();
    let names = names.into_iter().filter(|name| name.starts_with(b"user."));
    names
        .map(|name| {
            let len = lgetxattr(path, &name[..], &mut buffer[..]).expect("reads");
            (name, buffer[..len].to_vec())
        })
        .collect()
}
