//! Random trees: whatever two there are, the layer between them makes the one of the other.

use std::{
    collections::{BTreeMap, HashMap},
    ffi::OsStr,
    fs,
    os::unix::{
        ffi::OsStrExt,
        fs::{PermissionsExt, chown, symlink},
    },
    path::{Path, PathBuf},
};

use proptest::{collection::btree_map, prelude::*, sample::select};
use rustix::fs::{CWD, FileType, Mode, XattrFlags, lsetxattr, makedev, mknodat};
use wharf_archive::{Diff, apply, apply::Whiteouts, diff::RootEntry};

use super::trees::{is_root, layer, options, set_time, snapshot};

/// What may be in a directory. Everything is told by a number, so that two trees often have the same.
#[derive(Clone, Debug)]
enum Node {
    /// By itself.
    Leaf(u8),
    /// One of the files of the tree that have several names.
    Linked(usize),
    Directory(u8, Children),
}

type Children = BTreeMap<&'static [u8], Node>;

#[derive(Clone, Debug)]
struct Tree {
    root: u8,
    children: Children,
    /// What the files with several names are.
    linked: [u8; 3],
}

const NAMES: [&[u8]; 6] = [b"a", b"b", b"c", b".x", "ä b\n".as_bytes(), b"\xff\xfe"];
const LEAVES: u8 = 14;
const DIRECTORIES: u8 = 4;

fn tree() -> impl Strategy<Value = Tree> {
    let leaf = prop_oneof![2 => (0..LEAVES).prop_map(Node::Leaf), 1 => (0..3_usize).prop_map(Node::Linked)];
    let node = leaf.prop_recursive(3, 24, 4, |node| {
        let children = btree_map(select(&NAMES[..]), node, 0..4);
        (0..DIRECTORIES, children).prop_map(|(kind, children)| Node::Directory(kind, children))
    });
    // The root cannot be replaced by one that lacks an attribute.
    (select(&[0, 1, 3][..]), btree_map(select(&NAMES[..]), node, 0..6), [0..LEAVES, 0..LEAVES, 0..LEAVES])
        .prop_map(|(root, children, linked)| Tree { root, children, linked })
}

impl Tree {
    fn build(&self, at: &Path) {
        let mut linked = HashMap::new();
        directory(at, self.root, &self.children, self.linked, &mut linked);
    }
}

fn directory(at: &Path, kind: u8, children: &Children, kinds: [u8; 3], linked: &mut HashMap<usize, PathBuf>) {
    fs::create_dir(at).expect("makes");
    for (name, node) in children {
        let path = at.join(OsStr::from_bytes(name));
        match node {
            Node::Leaf(kind) => leaf(&path, *kind),
            Node::Linked(which) => {
                if let Some(first) = linked.get(which) {
                    fs::hard_link(first, &path).expect("links");
                } else {
                    leaf(&path, kinds[*which]);
                    linked.insert(*which, path);
                }
            }
            Node::Directory(kind, children) => directory(&path, *kind, children, kinds, linked),
        }
    }
    let mode = [0o755, 0o700, 0o755, 0o2775][usize::from(kind)];
    if kind == 2 {
        lsetxattr(at, "user.directory", b"", XattrFlags::empty()).expect("sets");
    }
    fs::set_permissions(at, fs::Permissions::from_mode(mode)).expect("sets");
    // A time of its own does not make a directory another one.
    set_time(at, 2_000 + i64::from(kind), i64::from(kind));
}

fn leaf(path: &Path, kind: u8) {
    let (mut mode, mut time) = (0o644, (1_000, 0));
    match kind {
        5 => symlink("t1", path).expect("links"),
        6 => symlink("t2", path).expect("links"),
        7 => symlink("long/".repeat(60), path).expect("links"),
        8 | 9 => {
            let (what, device) = match kind {
                9 if is_root() => (FileType::CharacterDevice, makedev(1, 3)),
                _ => (FileType::Fifo, 0),
            };
            mknodat(CWD, path, what, Mode::RWXU, device).expect("makes");
        }
        1 => fs::write(path, "bb").expect("writes"),
        3 => fs::write(path, "").expect("writes"),
        4 => fs::write(path, "large".repeat(70_000)).expect("writes"),
        _ => fs::write(path, "aa").expect("writes"),
    }
    match kind {
        2 => time = (1_000, 500),
        4 => (mode, time) = (0o4755, (-5, 250_000_000)),
        10 => lsetxattr(path, "user.note", b"a\0=\n", XattrFlags::empty()).expect("sets"),
        11 => lsetxattr(path, "user.note", &[b'n'; 2_000], XattrFlags::empty()).expect("sets"),
        12 if is_root() => chown(path, Some(70_000_000), Some(3_000_000)).expect("sets"),
        12 => mode = 0o600,
        13 => mode = 0o1666,
        _ => {}
    }
    if !(5..=7).contains(&kind) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("sets");
    }
    set_time(path, time.0, time.1);
}

fn with_root(diff: Diff) -> Vec<u8> {
    layer(&diff.with_root(RootEntry::Written))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_layer_makes_one_tree_of_the_other(lower in tree(), upper in tree()) {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        for copy in ["lower", "applied", "by-overlay"] {
            lower.build(&at(copy));
        }
        for copy in ["upper", "again"] {
            upper.build(&at(copy));
        }
        let expected = snapshot(&at("upper"));

        let changes = with_root(Diff::between(Some(&at("lower")), &at("upper")));
        apply(&changes[..], &at("applied"), &options()).expect("applies");
        prop_assert_eq!(&snapshot(&at("applied")), &expected);

        // The same bytes from another copy, and none where nothing changed.
        let again = with_root(Diff::between(Some(&at("lower")), &at("again")));
        prop_assert!(changes == again);
        let nothing = with_root(Diff::between(Some(&at("upper")), &at("again")));
        prop_assert!(nothing == [0; 1024], "{} bytes", nothing.len());
        let nothing = with_root(Diff::between(Some(&at("upper")), &at("upper")));
        prop_assert!(nothing == [0; 1024], "{} bytes", nothing.len());

        // All of it.
        let all = with_root(Diff::between(None, &at("upper")));
        fs::create_dir(at("all")).expect("makes");
        apply(&all[..], &at("all"), &options()).expect("applies");
        prop_assert_eq!(&snapshot(&at("all")), &expected);

        // By way of a directory of an overlay.
        fs::create_dir(at("overlay")).expect("makes");
        let alone = options().with_whiteouts(Whiteouts::UserOverlay);
        apply(&changes[..], &at("overlay"), &alone).expect("applies");
        // Where nothing changed the root has no entry to be made from, and that a directory lost an attribute is nothing that overlayfs
        // notes.
        let is_replaced = changes.windows(12).any(|name| name == b".wh..wh..opq");
        if changes != [0; 1024] && !is_replaced {
            let of_overlay = with_root(Diff::of_overlay(&at("overlay")));
            apply(&of_overlay[..], &at("by-overlay"), &options()).expect("applies");
            prop_assert_eq!(&snapshot(&at("by-overlay")), &expected);
        }
    }
}
