//! Layers that people make, and layers that nobody should have made. Each runs with the kernel's resolution and with our own, with the owners
//! of the image and rootless; the integration step `tar-table` runs them all as another user, too.

use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink},
    path::PathBuf,
};

use rustix::fs::{Mode, lgetxattr};
use wharf_content::ErrorKind;

use super::*;

mod closed;
mod exchange;
mod hiding;
mod sparse;
mod table;
mod ways;

/// A layer in the making.
#[derive(Clone, Default)]
struct Layer(Vec<u8>);

impl Layer {
    fn entry(self, name: &str, flag: u8, content: &[u8]) -> Self {
        self.with(name, flag, content, |_| ())
    }

    fn with(mut self, name: &str, flag: u8, content: &[u8], change: impl FnOnce(&mut tar::Header)) -> Self {
        let mut header = tar::Header::new_ustar();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.as_mut_bytes()[156] = flag;
        header.set_size(content.len() as u64);
        header.set_mode(if flag == b'5' { 0o755 } else { 0o644 });
        header.set_mtime(1_000_000);
        // Those who run the tests need not be root.
        header.set_uid(rustix::process::geteuid().as_raw().into());
        header.set_gid(rustix::process::getegid().as_raw().into());
        change(&mut header);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, name: &str, content: &str) -> Self {
        self.entry(name, b'0', content.as_bytes())
    }

    fn dir(self, name: &str) -> Self {
        self.entry(name, b'5', b"")
    }

    fn link(self, name: &str, target: &str) -> Self {
        self.with(name, b'2', b"", |header| header.set_link_name_literal(target).expect("fits"))
    }

    fn hard(self, name: &str, target: &str) -> Self {
        self.with(name, b'1', b"", |header| header.set_link_name_literal(target).expect("fits"))
    }

    fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut text = Vec::new();
        for (key, value) in records {
            let rest = [b" ", key.as_bytes(), b"=", *value, b"\n"].concat();
            let mut len = rest.len() + 1;
            while len != rest.len() + len.to_string().len() {
                len = rest.len() + len.to_string().len();
            }
            text.extend(len.to_string().into_bytes());
            text.extend(rest);
        }
        self.entry("pax", b'x', &text)
    }

    fn bytes(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

/// A root, and beside it what must never change.
struct Place {
    dir: tempfile::TempDir,
    has_openat2: bool,
    ownership: Ownership,
    outside: Vec<Seen>,
}

/// What can be seen of a file outside. Whatever is done to one changes the last of it, the time of its last change.
type Seen = (PathBuf, u64, u32, u64, u32, u32, u64, (i64, i64), (i64, i64));

fn see(root: &Path) -> Vec<Seen> {
    let mut seen = Vec::new();
    let mut left = vec![root.to_owned()];
    while let Some(path) = left.pop() {
        let found = fs::symlink_metadata(&path).expect("is there");
        if found.is_dir() {
            left.extend(fs::read_dir(&path).expect("lists").map(|entry| entry.expect("lists").path()));
        }
        let times = ((found.mtime(), found.mtime_nsec()), (found.ctime(), found.ctime_nsec()));
        let (owner, links) = ((found.uid(), found.gid()), found.nlink());
        seen.push((path, found.ino(), found.mode(), links, owner.0, owner.1, found.len(), times.0, times.1));
    }
    seen.sort();
    seen
}

const SECRET: &str = "nobody's business";

impl Place {
    fn new(has_openat2: bool) -> Self {
        Self::of(has_openat2, Ownership::Image)
    }

    fn of(has_openat2: bool, ownership: Ownership) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir(dir.path().join("root")).expect("makes");
        let outside = dir.path().join("outside");
        fs::create_dir_all(outside.join("dir")).expect("makes");
        fs::write(outside.join("victim"), SECRET).expect("writes");
        fs::write(outside.join("dir/victim"), SECRET).expect("writes");
        symlink("victim", outside.join("link")).expect("links");
        let outside = see(&outside);
        Self { dir, has_openat2, ownership, outside }
    }

    /// Nothing outside was made, changed or removed.
    fn check_outside(&self) {
        assert_eq!(see(&self.dir.path().join("outside")), self.outside);
        let there = fs::read_dir(self.dir.path()).expect("lists").count();
        assert_eq!(there, 2, "something was put beside the root");
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    fn outside(&self) -> String {
        self.dir.path().join("outside").display().to_string()
    }

    fn apply_with(&self, layer: Layer, options: &ApplyOptions) -> Result<Applied> {
        let tree = Tree::open(&self.root())?;
        let tree = if self.has_openat2 { tree } else { tree.without_openat2() };
        let applied = apply_to(tree, &layer.bytes()[..], options);
        self.check_outside();
        applied
    }

    fn apply(&self, layer: Layer) -> Result<Applied> {
        self.apply_with(layer, &self.options())
    }

    fn options(&self) -> ApplyOptions {
        ApplyOptions::new().with_ownership(self.ownership)
    }

    fn text(&self, path: &str) -> Option<String> {
        let metadata = fs::symlink_metadata(self.root().join(path)).ok()?;
        assert!(metadata.is_file(), "{path} is no file");
        Some(fs::read_to_string(self.root().join(path)).expect("reads"))
    }

    /// All that is there, directories with a slash.
    fn list(&self) -> Vec<String> {
        fn add(at: &Path, prefix: &str, names: &mut Vec<String>) {
            for entry in fs::read_dir(at).expect("lists") {
                let entry = entry.expect("lists");
                let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
                if entry.file_type().expect("a type").is_dir() {
                    names.push(format!("{name}/"));
                    add(&entry.path(), &format!("{name}/"), names);
                } else {
                    names.push(name);
                }
            }
        }
        let mut names = Vec::new();
        add(&self.root(), "", &mut names);
        names.sort();
        names
    }
}

/// By the kernel and by component, with the owners of the image and as a user.
fn both(check: impl Fn(Place)) {
    for ownership in [Ownership::Image, Ownership::User] {
        check(Place::of(true, ownership));
        check(Place::of(false, ownership));
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn what_entries_say_is_what_is_made() {
    both(|place| {
        let layer = Layer::default()
            .with("./", b'5', b"", |header| header.set_mode(0o750))
            .with("etc/", b'5', b"", |header| {
                header.set_mode(0o2555);
                header.set_mtime(77);
            })
            .file("etc/hosts", "localhost")
            .with("bin/busybox", b'0', b"binary", |header| header.set_mode(0o4755))
            .link("bin/sh", "/bin/busybox")
            .hard("bin/ls", "./bin/busybox")
            .pax(&[("mtime", b"-1.5"), ("SCHILY.xattr.user.note", b"a\0b=\n")])
            .file("etc/noted", "x")
            .entry("pipe", b'6', b"")
            .entry("empty", b'0', b"");
        let applied = place.apply(layer).expect("applies");
        assert_eq!((applied.entries, applied.bytes, applied.left_out.len()), (9, 9 + 6 + 1, 0));
        let of = |path: &str| fs::symlink_metadata(place.root().join(path)).expect(path);
        assert_eq!(place.text("etc/hosts").as_deref(), Some("localhost"));
        assert_eq!((of("").mode() & 0o7777, of("").mtime()), (0o750, 1_000_000));
        assert_eq!((of("etc").mode() & 0o7777, of("etc").mtime()), (0o2555, 77));
        assert_eq!((of("bin").mode() & 0o7777, of("bin/busybox").mode() & 0o7777), (0o755, 0o4755));
        assert_eq!((of("bin/busybox").nlink(), of("bin/busybox").ino()), (2, of("bin/ls").ino()));
        assert_eq!(fs::read_link(place.root().join("bin/sh")).expect("a link"), Path::new("/bin/busybox"));
        assert_eq!(of("bin/sh").mtime(), 1_000_000);
        assert_eq!((of("etc/noted").mtime(), of("etc/noted").mtime_nsec()), (-2, 500_000_000));
        let mut value = [0; 16];
        let len = lgetxattr(place.root().join("etc/noted"), "user.note", &mut value[..]).expect("set");
        assert_eq!(&value[..len], b"a\0b=\n");
        assert!(of("pipe").file_type().is_fifo() && of("pipe").mode() & 0o7777 == 0o644);
        assert_eq!(of("empty").len(), 0);
    });
}

#[test]
fn links_lead_to_places_below_the_root_only() {
    both(|place| {
        let outside = place.outside();
        let lower = Layer::default()
            .link("abs", &outside)
            .link("up", "../../../../../../../../etc")
            .dir("real")
            .link("one", "two")
            .link("two", "/real")
            .link("lib", "usr/lib")
            .link("top", "/");
        place.apply(lower).expect("links may say what they want");
        let layer = Layer::default()
            .file("abs/victim", "mine")
            .file("up/passwd", "mine")
            .file("one/file", "hops")
            .file("lib/x.so", "missing directories are made")
            .file("top/at-the-top", "x");
        place.apply(layer).expect("applies");
        let inside = format!("{}/victim", outside.trim_start_matches('/'));
        assert_eq!(place.text(&inside).as_deref(), Some("mine"));
        assert_eq!(place.text("etc/passwd").as_deref(), Some("mine"));
        assert_eq!(place.text("real/file").as_deref(), Some("hops"));
        assert_eq!(place.text("usr/lib/x.so").as_deref(), Some("missing directories are made"));
        assert_eq!(place.text("at-the-top").as_deref(), Some("x"));
    });
}

#[test]
fn what_stands_in_the_way_is_replaced_and_links_are_not_followed() {
    both(|place| {
        let outside = place.outside();
        let lower = Layer::default()
            .link("dir", &outside)
            .link("file", &format!("{outside}/victim"))
            .dir("kept")
            .file("kept/old", "old")
            .dir("deep/er")
            .file("deep/er/file", "x")
            .file("was-file", "x")
            .hard("linked", "was-file");
        place.apply(lower).expect("applies");
        let layer = Layer::default()
            .with("dir", b'5', b"", |header| header.set_mode(0o777))
            .with("file", b'0', b"new", |header| header.set_mode(0o777))
            .with("kept/", b'5', b"", |header| header.set_mode(0o700))
            .file("deep", "a file now")
            .dir("was-file")
            .file("was-file/inside", "y")
            .file("linked", "another");
        place.apply(layer).expect("applies");
        assert_eq!(
            place.list(),
            ["deep", "dir/", "file", "kept/", "kept/old", "linked", "was-file/", "was-file/inside"]
        );
        assert_eq!(place.text("file").as_deref(), Some("new"));
        assert_eq!(fs::metadata(place.root().join("kept")).expect("stat").mode() & 0o7777, 0o700);
        assert_eq!(place.text("linked").as_deref(), Some("another"));
    });
}

#[test]
fn the_root_stays_a_directory() {
    for name in ["", ".", "/", "./", "//"] {
        both(|place| {
            let outside = place.outside();
            for layer in [Layer::default().link(name, &outside), Layer::default().file(name, "x")] {
                assert_eq!(place.apply(layer).expect_err(name).kind(), ErrorKind::InvalidArgument);
            }
            assert!(fs::symlink_metadata(place.root()).expect("stat").is_dir());
            place.apply(Layer::default().dir(name)).expect("its metadata may be set");
        });
    }
}

#[test]
fn hard_links_lead_to_files_of_the_tree_only() {
    both(|place| {
        let outside = place.outside();
        place
            .apply(Layer::default().file("a", "x").link("l", &outside).link("s", "a").dir("d"))
            .expect("applies");
        for (target, kind) in [
            ("victim", ErrorKind::FailedPrecondition),
            ("l/victim", ErrorKind::FailedPrecondition),
            (&format!("{outside}/victim"), ErrorKind::FailedPrecondition),
            ("../outside/victim", ErrorKind::InvalidArgument),
            ("", ErrorKind::InvalidArgument),
            ("/", ErrorKind::InvalidArgument),
            ("d", ErrorKind::InvalidArgument),
        ] {
            let error = place.apply(Layer::default().hard("new", target)).expect_err(target);
            assert_eq!(error.kind(), kind, "{target}: {}", error.report());
            assert!(!place.root().join("new").exists(), "{target}");
        }
        place
            .apply(Layer::default().hard("d/new", "/a").hard("a", "a").hard("of-a-link", "s"))
            .expect("applies");
        assert_eq!(place.text("d/new").as_deref(), Some("x"));
        assert_eq!(place.text("a").as_deref(), Some("x"), "a link to itself loses nothing");
        assert!(fs::symlink_metadata(place.root().join("of-a-link")).expect("stat").is_symlink());
    });
}

#[test]
fn what_must_not_be_made_is_left_out_and_told() {
    both(|place| {
        let device = |major: u32, minor: u32| {
            move |header: &mut tar::Header| {
                header.set_device_major(major).expect("ustar");
                header.set_device_minor(minor).expect("ustar");
            }
        };
        let layer = Layer::default()
            .with("null", b'3', b"", device(1, 3))
            .with("hidden", b'3', b"", device(0, 0))
            .pax(&[
                ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
                ("SCHILY.xattr.user.overlay.redirect", b"/etc"),
                ("SCHILY.xattr.user.fine", b"y"),
            ])
            .file("file", "x");
        let options = ApplyOptions::new().with_ownership(Ownership::User);
        let applied = place.apply_with(layer.clone(), &options).expect("applies");
        let told: Vec<_> = applied.left_out.iter().map(|left| (left.omission, left.count)).collect();
        assert_eq!(
            told,
            [(Omission::Device, 1), (Omission::WhiteoutDevice, 1), (Omission::OverlayAttribute, 2)]
        );
        assert_eq!(place.list(), ["file"]);
        let mut value = [0; 4];
        assert!(lgetxattr(place.root().join("file"), "user.overlay.redirect", &mut value[..]).is_err());
        assert!(lgetxattr(place.root().join("file"), "user.fine", &mut value[..]).is_ok());
        if is_root() {
            place.apply_with(layer, &ApplyOptions::new()).expect("applies");
            let null = fs::symlink_metadata(place.root().join("null"));
            // Root of a user namespace makes none either.
            assert!(null.is_err() || null.is_ok_and(|null| null.rdev() == rustix::fs::makedev(1, 3)));
        }
        let raw = |bytes: &'static [u8]| {
            move |header: &mut tar::Header| {
                header.as_mut_bytes()[329..329 + bytes.len()].copy_from_slice(bytes);
            }
        };
        for bad in
            [&b"7777777\0"[..], b"\x80\0\0\x01\0\0\0\0", b"\xff\xff\xff\xff\xff\xff\xff\xff", b"junk\0\0\0\0"]
        {
            let layer = Layer::default().with("bad", b'4', b"", raw(bad));
            let error = place.apply(layer).expect_err("out of range");
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{bad:?}: {error}");
        }
    });
}

#[test]
fn what_is_out_of_range_or_unknown_is_refused() {
    both(|place| {
        for (layer, words) in [
            (Layer::default().pax(&[("uid", b"4294967295")]).file("a", ""), "user"),
            (Layer::default().pax(&[("gid", b"4294967296")]).file("a", ""), "group"),
            (Layer::default().pax(&[("uid", b"-1")]).file("a", ""), "user"),
            (Layer::default().pax(&[("mtime", b"soon")]).file("a", ""), "time"),
            (Layer::default().with("a", b'0', b"", |header| header.as_mut_bytes()[100] = b'9'), "mode"),
            (Layer::default().entry("a", b'Z', b""), "unknown type"),
            (Layer::default().file("../a", ""), "upwards"),
            (Layer::default().file("a/../../b", ""), "upwards"),
            (Layer::default().link("a", ""), "link"),
        ] {
            let error = place.apply(layer).expect_err(words);
            assert!(error.report().contains(words), "{words}: {}", error.report());
            assert_eq!(place.list(), [""; 0], "{words}");
        }
        let error = place.apply(Layer::default().file("a", "").file("a/b", "")).expect_err("a file");
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{error}");
        let (mut around, mut cut) =
            (Layer::default().link("a", "b").link("b", "a"), Layer::default().file("c", "content"));
        around = around.file("a/x", "");
        assert!(place.apply(around).is_err(), "links in a circle");
        cut.0.truncate(515);
        let error = apply(&cut.0[..], &place.root(), &ApplyOptions::new()).expect_err("cut short");
        assert_eq!(error.kind(), ErrorKind::DataLoss, "{error}");
    });
}

#[test]
fn a_directory_gives_way_to_a_link_to_itself() {
    both(|place| {
        place.apply(Layer::default().dir("a").link("a", "a").file("b", "x")).expect("applies");
        assert_eq!(place.list(), ["a", "b"]);
    });
}

#[test]
fn what_stands_behind_the_end_is_read_over() {
    let place = Place::new(true);
    let mut stream = Layer::default().file("a", "x").bytes();
    stream.extend_from_slice(b"junk of another program");
    let mut rest = &stream[..];
    apply(&mut rest, &place.root(), &ApplyOptions::new()).expect("applies");
    assert!(rest.is_empty(), "all of it was read, so that it was hashed");
    // Neither filled up nor marked as ended, as umoci leaves a layer.
    let mut open = Layer::default().file("c", "content").0;
    open.truncate(512 + "content".len());
    apply(&open[..], &place.root(), &ApplyOptions::new()).expect("applies");
    assert_eq!(place.text("c").as_deref(), Some("content"));
    open.truncate(512 + "cont".len());
    let error = apply(&open[..], &place.root(), &ApplyOptions::new()).expect_err("cut short");
    assert_eq!(error.kind(), ErrorKind::DataLoss, "{error}");
    // One block of zeros and then an entry: some programs end there and some go on.
    let mut two = Layer::default().file("a", "x").0;
    two.resize(two.len() + 512, 0);
    two.extend(Layer::default().file("b", "y").bytes());
    let error = apply(&two[..], &place.root(), &ApplyOptions::new()).expect_err("ambiguous");
    assert!(error.to_string().contains("behind its end"), "{error}");
}
