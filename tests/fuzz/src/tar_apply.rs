//! Layers: whatever is applied to a directory, nothing outside it is touched, and the same layer makes the same tree.
//!
//! ```text
//! a directory of its own
//! ├── outside            the working directory meanwhile, so that a path that is not taken from the root leads here
//! │   ├── file
//! │   └── dir/inner
//! └── root               what the layer is applied to, with links of all kinds that lead to `outside`
//! ```

use std::{
    collections::BTreeMap,
    env, fs,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink},
    path::{Component, Path, PathBuf},
    time::{Duration, SystemTime},
};

use wharf_archive::{
    ApplyOptions, apply,
    apply::{Ownership, Whiteouts},
};

use crate::{
    Outcome, Seed,
    tarball::{Tarball, repair},
};

/// What must stay as it is.
const SECRET: &str = "nobody's business";

/// The length of a record, of which every entry has one at least.
const RECORD: usize = 512;

/// Of the first byte: the sums of headers are left as they are.
const UNREPAIRED: u8 = 1;
/// Of the first byte: files belong to the user.
const TO_USER: u8 = 2;
/// Of the first byte: what is hidden is marked for overlayfs.
const OVERLAY: u8 = 4;
/// Of the first byte, with [`OVERLAY`]: without privileges.
const USER_OVERLAY: u8 = 8;

/// Applies the input, without its first byte, which says how.
///
/// # Panics
/// Where something outside was touched, or where two trees come out.
pub fn check(data: &[u8]) -> Outcome {
    let Some((&how, layer)) = data.split_first() else { return Outcome::Refused };
    let mut layer = layer.to_vec();
    if how & UNREPAIRED == 0 {
        repair(&mut layer);
    }
    let whiteouts = match (how & OVERLAY, how & USER_OVERLAY) {
        (0, _) => Whiteouts::Remove,
        (_, 0) => Whiteouts::Overlay,
        _ => Whiteouts::UserOverlay,
    };
    // Nobody but root can give files away.
    let to_user = how & TO_USER != 0 || !is_root();
    let ownership = if to_user { Ownership::User } else { Ownership::Image };
    let options = ApplyOptions::new().with_whiteouts(whiteouts).with_ownership(ownership);
    let first = Place::new().apply(&layer, &options);
    let second = Place::new().apply(&layer, &options);
    assert_eq!(first, second, "one layer makes two trees");
    Outcome::of(&first)
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// A root, and beside it what must never change.
struct Place {
    directory: tempfile::TempDir,
}

/// What is known of a file: all but when it was looked at.
#[derive(Debug, PartialEq, Eq)]
struct Facts {
    mode: u32,
    owner: (u32, u32),
    links: u64,
    device: u64,
    /// Of plain files alone: some directories, links and whiteouts are described by no entry.
    time: Option<(i64, i64)>,
    content: Content,
}

#[derive(Debug, PartialEq, Eq)]
enum Content {
    Link(PathBuf),
    Len(u64),
    Text(Vec<u8>),
    Nothing,
}

type Tree = BTreeMap<PathBuf, Facts>;

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("there is room for a directory");
        let place = Self { directory };
        place.furnish().expect("there is room for a few files");
        place
    }

    fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    fn outside(&self) -> PathBuf {
        self.directory.path().join("outside")
    }

    fn furnish(&self) -> std::io::Result<()> {
        let (root, outside) = (self.root(), self.outside());
        fs::create_dir_all(outside.join("dir"))?;
        fs::write(outside.join("file"), SECRET)?;
        fs::write(outside.join("dir/inner"), SECRET)?;
        // Long ago, so that any change of the time is seen.
        let past = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        for name in ["file", "dir/inner", "dir", ""] {
            fs::File::open(outside.join(name))?.set_modified(past)?;
        }
        fs::create_dir_all(root.join("etc"))?;
        fs::write(root.join("etc/passwd"), "root")?;
        fs::File::open(root.join("etc/passwd"))?.set_modified(past)?;
        symlink("../outside", root.join("up"))?;
        symlink("../../../outside/file", root.join("etc/far"))?;
        symlink(&outside, root.join("abs"))?;
        symlink("etc", root.join("in"))
    }

    /// Applies a layer; the tree, or an error.
    fn apply(&self, layer: &[u8], options: &ApplyOptions) -> Result<Tree, String> {
        let (root, outside) = (self.root(), self.outside());
        let before = facts(&outside);
        let back = env::current_dir().expect("there is a working directory");
        env::set_current_dir(&outside).expect("it was made");
        let applied = apply(layer, &root, options);
        env::set_current_dir(back).expect("it was there");
        assert_eq!(facts(&outside), before, "something outside was touched");
        let mut names: Vec<_> = fs::read_dir(self.directory.path())
            .expect("it can be listed")
            .map(|entry| entry.expect("it can be listed").file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["outside", "root"], "something was put beside the root");
        assert!(fs::symlink_metadata(&root).expect("the root is there").is_dir(), "the root was replaced");
        let applied = applied.map_err(|error| error.kind().to_string())?;
        let most = layer.len() / RECORD;
        assert!(applied.entries <= most as u64, "{} entries in {most} records", applied.entries);
        assert!(applied.bytes <= layer.len() as u64, "{} bytes of {}", applied.bytes, layer.len());
        // Where this place is differs: what the absolute link says, and what was written by way of it, below the root as it must be.
        let own = self.directory.path().file_name();
        let called = |part: Component<'_>| match part {
            Component::Normal(name) if Some(name) == own => "place".into(),
            other => other.as_os_str().to_owned(),
        };
        let tree = facts(&root).into_iter().map(|(path, mut facts)| {
            if facts.content == Content::Link(outside.clone()) {
                facts.content = Content::Nothing;
            }
            (path.components().map(called).collect(), facts)
        });
        Ok(tree.collect())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Directories that their owner may not write to are in the way of who is not root.
        if !is_root() {
            open_up(self.directory.path());
        }
    }
}

fn open_up(directory: &Path) {
    let _ = fs::set_permissions(directory, fs::Permissions::from_mode(0o700));
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            open_up(&entry.path());
        }
    }
}

/// Everything below a directory, and the directory itself.
fn facts(directory: &Path) -> Tree {
    let mut found = Tree::new();
    let mut left = vec![directory.to_owned()];
    while let Some(path) = left.pop() {
        // What has a longer path than the kernel takes cannot be looked at in this way.
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        let kind = metadata.file_type();
        let content = if kind.is_symlink() {
            fs::read_link(&path).map_or(Content::Nothing, Content::Link)
        } else if kind.is_file() && metadata.len() < 1 << 20 {
            fs::read(&path).map_or(Content::Len(metadata.len()), Content::Text)
        } else if kind.is_file() {
            Content::Len(metadata.len())
        } else {
            Content::Nothing
        };
        let is_device = kind.is_block_device() || kind.is_char_device();
        if kind.is_dir() {
            left.extend(fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()));
        }
        let facts = Facts {
            mode: metadata.mode(),
            owner: (metadata.uid(), metadata.gid()),
            links: metadata.nlink(),
            device: if is_device { metadata.rdev() } else { 0 },
            time: kind.is_file().then(|| (metadata.mtime(), metadata.mtime_nsec())),
            content,
        };
        found.insert(path.strip_prefix(directory).unwrap_or(&path).to_owned(), facts);
    }
    found
}

fn how(bits: u8, layer: Tarball) -> Vec<u8> {
    [vec![bits], layer.finish()].concat()
}

/// Layers as they are made, one of each kind of header, and such as lead outwards.
pub fn seeds() -> Vec<Seed> {
    let long = "long/".repeat(30) + "name";
    let plain = || Tarball::new().dir("dir").file("dir/file", "content").symlink("link", "dir/file");
    let accepted = [
        ("plain", how(0, plain())),
        ("plain-user", how(TO_USER, plain())),
        ("nothing", how(0, Tarball::new())),
        ("root", how(0, Tarball::new().dir("./"))),
        ("hard-links", how(0, plain().hard_link("hard", "dir/file").hard_link("to-link", "link"))),
        ("devices", how(TO_USER, Tarball::new().entry("null", b'3', "", b"").entry("disk", b'4', "", b""))),
        ("fifo", how(0, Tarball::new().entry("fifo", b'6', "", b""))),
        (
            "pax",
            how(
                0,
                Tarball::new()
                    .pax_global(&[("comment", "for all")])
                    .pax(&[("path", &long), ("mtime", "1000.5"), ("size", "3")])
                    .file("short", "abc")
                    .pax(&[("SCHILY.xattr.user.own", "value"), ("uid", "0"), ("gid", "0")])
                    .file("attributes", "")
                    .pax(&[("linkpath", &long)])
                    .symlink("pax-link", "short"),
            ),
        ),
        (
            "gnu-long",
            how(
                0,
                Tarball::new().long(b'L', &long).file("short", "x").long(b'K', &long).symlink("link", "x"),
            ),
        ),
        ("gnu-sparse", how(0, gnu_sparse())),
        ("pax-sparse", how(0, pax_sparse())),
        ("whiteouts", how(0, Tarball::new().file("etc/.wh.passwd", "").file("in/.wh..wh..opq", ""))),
        (
            "whiteouts-user-overlay",
            how(
                TO_USER | OVERLAY | USER_OVERLAY,
                Tarball::new().dir("a").file("a/.wh..wh..opq", "").file("a/b", ""),
            ),
        ),
        ("meta", how(0, Tarball::new().dir(".wh..wh.plnk").file(".wh..wh.aufs", ""))),
        ("replaces", how(0, Tarball::new().file("up", "a file now").dir("abs").file("abs/file", "inside"))),
        ("down-a-link", how(0, Tarball::new().file("in/new", "in etc"))),
        // A link's target is taken from the root, wherever it leads.
        ("through-links", how(0, Tarball::new().dir("outside").file("up/new", "inside").file("in/far", "x"))),
        ("unrepaired", how(UNREPAIRED, plain())),
    ];
    let refused = [
        ("upwards", how(0, Tarball::new().file("../outside/file", "gone"))),
        ("hard-link-upwards", how(0, Tarball::new().hard_link("stolen", "../outside/file"))),
        ("hard-link-to-nothing", how(0, Tarball::new().hard_link("stolen", "up/file"))),
        ("below-a-file", how(0, Tarball::new().file("etc/passwd/x", ""))),
        ("unknown-type", how(0, Tarball::new().entry("what", b'?', "", b""))),
        ("no-layer", [&[0][..], b"this is no tar"].concat()),
        ("cut-short", [vec![0], plain().finish()[..700].to_vec()].concat()),
        (
            "wrong-sum",
            how(UNREPAIRED, plain()).into_iter().map(|byte| if byte == b'd' { b'e' } else { byte }).collect(),
        ),
    ];
    let accepted = accepted.into_iter().map(|(name, bytes)| Seed::accepted(name, bytes));
    accepted.chain(refused.into_iter().map(|(name, bytes)| Seed::refused(name, bytes))).collect()
}

/// A file of GNU's old sparse format: data at 1024, and 2048 bytes in all.
fn gnu_sparse() -> Tarball {
    Tarball::new().with("sparse", b'S', "", &[b'x'; 512], |header| {
        header[257..265].copy_from_slice(b"ustar  \0");
        header[386..398].copy_from_slice(b"00000002000\0");
        header[398..410].copy_from_slice(b"00000001000\0");
        header[483..495].copy_from_slice(b"00000004000\0");
    })
}

/// The same in the format of PAX, version 1.0, where the map stands before the data.
fn pax_sparse() -> Tarball {
    let mut content = b"1\n1024\n512\n".to_vec();
    content.resize(512, 0);
    content.extend([b'x'; 512]);
    Tarball::new()
        .pax(&[
            ("GNU.sparse.major", "1"),
            ("GNU.sparse.minor", "0"),
            ("GNU.sparse.name", "sparse"),
            ("GNU.sparse.realsize", "2048"),
        ])
        .file("GNUSparseFile.0/sparse", content)
}
