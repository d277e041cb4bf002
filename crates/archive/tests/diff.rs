//! Layers made of trees: applied to the one tree they give the other one, exactly, and what cannot be said is refused.

#![cfg(target_os = "linux")]

#[path = "diff/trees.rs"]
mod trees;

#[path = "diff/random.rs"]
mod random;

#[path = "diff/store.rs"]
mod store;

use std::{
    fs,
    io::{self, Read, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{PermissionsExt, symlink},
        net::UnixListener,
    },
    path::Path,
};

use rustix::fs::{CWD, FileType, Mode, XattrFlags, lsetxattr, makedev, mkdirat, mknodat};
use trees::{Place, set_time};
use wharf_archive::{ApplyOptions, Diff, apply, apply::Whiteouts, diff::RootEntry};
use wharf_content::{Digest, Error, ErrorKind};

/// What is in a layer, by another reader: type, name, target, size, time.
fn listed(layer: &[u8]) -> Vec<String> {
    let mut archive = tar::Archive::new(layer);
    let mut lines = Vec::new();
    for entry in archive.entries().expect("a tar") {
        let entry = entry.expect("an entry");
        let target = entry.link_name_bytes().map(|name| format!(" -> {}", String::from_utf8_lossy(&name)));
        lines.push(format!(
            "{} {}{} {}",
            char::from(entry.header().entry_type().as_byte()),
            String::from_utf8_lossy(&entry.path_bytes()),
            target.unwrap_or_default(),
            entry.size()
        ));
    }
    lines
}

fn refused(diff: &Diff, kind: ErrorKind, words: &[&str]) -> Error {
    let error = diff.write(io::sink()).expect_err("refused");
    assert_eq!(error.kind(), kind, "{}", error.report());
    for word in words {
        assert!(error.report().contains(word), "{word:?} in {}", error.report());
    }
    error
}

#[test]
fn no_change_is_the_empty_layer() {
    let place = Place::new();
    place.file("lower/etc/passwd", "root");
    place.file("upper/etc/passwd", "root");
    place.touch("upper/etc", 77, 0);
    let (layer, diffed) = place.diff();
    assert_eq!((diffed.entries, diffed.len), (0, 1024), "a directory that only has another time is the same");
    // Two blocks of zeros: printf of 1024 of them | sha256sum, by coreutils.
    let expected = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef";
    assert_eq!(Digest::sha256(&layer).as_str(), expected);
}

#[test]
fn what_is_the_same_is_told_by_times_and_where_they_may_be_rounded_by_contents() {
    for (nanoseconds, expected) in [((0, 0), &["0 file 1"][..]), ((7, 7), &[]), ((0, 7), &["0 file 1"])] {
        let place = Place::new();
        for (tree, nanoseconds) in [("lower", nanoseconds.0), ("upper", nanoseconds.1)] {
            place.file(&format!("{tree}/file"), &tree[..1]);
            place.touch(&format!("{tree}/file"), 1_000, nanoseconds);
        }
        assert_eq!(listed(&place.diff().0), expected, "{nanoseconds:?}");
    }
}

/// What is applied to a directory that is there adds attributes to it; to lose one it must become another directory.
#[test]
fn a_directory_that_lost_an_attribute_is_replaced() {
    let place = Place::new();
    for tree in ["lower", "upper"] {
        place.file(&format!("{tree}/d/same"), "same");
        place.file(&format!("{tree}/e"), "same");
    }
    place.file("lower/d/gone", "x");
    lsetxattr(place.path("lower/d"), "user.note", b"x", XattrFlags::empty()).expect("sets");
    let (layer, diffed) = place.diff();
    assert_eq!(listed(&layer), ["0 .wh.d 0", "5 d/ 0", "0 d/.wh..wh..opq 0", "0 d/same 4"]);
    assert_eq!(diffed.whiteouts, 2);
    apply(&layer[..], &place.path("lower"), &trees::options()).expect("applies");
    assert_eq!(place.diff().1.entries, 0);
    lsetxattr(place.path("lower"), "user.note", b"x", XattrFlags::empty()).expect("sets");
    assert_eq!(place.diff().1.entries, 0);
    let diff = place.between().with_root(RootEntry::Written);
    refused(&diff, ErrorKind::InvalidArgument, &["lower", "user.note"]);
}

#[test]
fn entries_are_sorted_and_follow_their_directories() {
    let place = Place::new();
    for tree in ["lower", "upper"] {
        place.file(&format!("{tree}/d/e/same"), "same");
        place.file(&format!("{tree}/d-/same"), "same");
        place.file(&format!("{tree}/changed"), tree);
    }
    place.file("lower/d/e/gone", "x");
    place.file("lower/gone/a/b", "x");
    place.file("lower/was-dir/a", "x");
    place.file("lower/was-file", "x");
    place.file("upper/was-dir", "y");
    place.file("upper/was-file/a", "y");
    symlink("../d", place.path("upper/link")).expect("links");
    UnixListener::bind(place.path("upper/d/socket")).expect("binds");
    let (layer, diffed) = place.diff();
    let expected = [
        "0 changed 5",
        "5 d/ 0",
        "5 d/e/ 0",
        "0 d/e/.wh.gone 0",
        "0 .wh.gone 0",
        "2 link -> ../d 0",
        "0 was-dir 1",
        "5 was-file/ 0",
        "0 was-file/a 1",
    ];
    assert_eq!(listed(&layer), expected);
    assert_eq!((diffed.entries, diffed.whiteouts, diffed.sockets), (9, 2, 1));
    assert_eq!(diffed.len, layer.len() as u64);
    for entry in tar::Archive::new(&layer[..]).entries().expect("a tar") {
        let entry = entry.expect("an entry");
        let is_whiteout = String::from_utf8_lossy(&entry.path_bytes()).contains(".wh.");
        let (header, zero) = (entry.header(), (0, 0, 0, 0));
        let of = |header: &tar::Header| {
            Ok::<_, io::Error>((header.mtime()?, header.uid()?, header.gid()?, header.mode()?))
        };
        assert_eq!(of(header).expect("numbers") == zero, is_whiteout);
    }
}

#[test]
fn a_file_with_several_names_is_written_once_and_with_all_of_them() {
    let place = Place::new();
    for tree in ["lower", "upper"] {
        place.file(&format!("{tree}/a/one"), "content");
        fs::hard_link(place.path(&format!("{tree}/a/one")), place.path(&format!("{tree}/c"))).expect("links");
    }
    assert_eq!(place.diff().1.entries, 0);
    // A new name: that of the file below would be of another file.
    fs::hard_link(place.path("upper/c"), place.path("upper/b")).expect("links");
    let (layer, _) = place.diff();
    assert_eq!(listed(&layer), ["0 b 7", "5 a/ 0", "1 a/one -> b 0", "1 c -> b 0"]);
    // One that goes is one that goes.
    fs::remove_file(place.path("upper/b")).expect("removes");
    fs::remove_file(place.path("upper/c")).expect("removes");
    assert_eq!(listed(&place.diff().0), ["0 .wh.c 0"]);
    // Two files where there was one: nothing but the inode tells them apart.
    place.file("upper/c", "content");
    assert_eq!(listed(&place.diff().0), ["0 c 7"]);
}

#[test]
fn trees_that_share_files_are_compared_by_inode() {
    let place = Place::new();
    place.file("lower/same", "same");
    place.file("lower/other", "x");
    fs::hard_link(place.path("lower/same"), place.path("upper/same")).expect("links");
    place.file("upper/other", "y");
    assert_eq!(listed(&place.diff().0), ["0 other 1"]);
    fs::hard_link(place.path("lower/same"), place.path("upper/again")).expect("links");
    assert_eq!(listed(&place.diff().0), ["0 again 4", "0 other 1", "1 same -> again 0"]);
}

#[test]
fn times_are_exact_and_no_later_than_asked() {
    let place = Place::new();
    for (name, seconds, nanoseconds) in
        [("a", -2, 500_000_000), ("b", 5, 0), ("c", 5, 1), ("d", 6, 0), ("e", 20_000_000_000, 0)]
    {
        place.file(&format!("upper/{name}"), name);
        place.touch(&format!("upper/{name}"), seconds, nanoseconds);
    }
    let times = |diff: &Diff| {
        let mut layer = Vec::new();
        diff.write(&mut layer).expect("writes");
        let into = tempfile::tempdir().expect("a directory");
        apply(&layer[..], into.path(), &trees::options()).expect("applies");
        ["a", "b", "c", "d", "e"].map(|name| trees::mtime(&into.path().join(name)))
    };
    let diff = Diff::between(None, &place.path("upper"));
    let exact = [(-2, 500_000_000), (5, 0), (5, 1), (6, 0), (20_000_000_000, 0)];
    // A file system may have no times so late.
    let exact = exact
        .map(|(seconds, nanoseconds)| (seconds.min(trees::mtime(&place.path("upper/e")).0), nanoseconds));
    assert_eq!(times(&diff), exact);
    assert_eq!(times(&diff.clone().with_max_mtime(5)), [(-2, 500_000_000), (5, 0), (5, 0), (5, 0), (5, 0)]);
}

#[test]
fn the_root_is_said_when_it_is_asked_for() {
    let place = Place::new();
    fs::set_permissions(place.path("upper"), fs::Permissions::from_mode(0o711)).expect("sets");
    assert_eq!(place.diff().1.entries, 0);
    let diff = place.between().with_root(RootEntry::Written);
    let mut layer = Vec::new();
    diff.write(&mut layer).expect("writes");
    assert_eq!(listed(&layer), ["5 ./ 0"]);
    apply(&layer[..], &place.path("lower"), &trees::options()).expect("applies");
    assert_eq!(fs::metadata(place.path("lower")).expect("stat").permissions().mode() & 0o7777, 0o711);
    assert_eq!(diff.write(io::sink()).expect("writes").entries, 0);
}

#[test]
fn what_a_layer_cannot_say_is_refused() {
    let place = Place::new();
    let of_upper = Diff::between(None, &place.path("upper"));
    for (lower, upper) in [("x", "d/.wh.x"), ("d/.wh.x", "x"), ("x", "d/.wh..wh..opq"), ("x", "d/.wh.x/in")] {
        let place = Place::new();
        place.file(&format!("lower/{lower}"), "x");
        place.file(&format!("upper/{upper}"), "x");
        fs::create_dir_all(place.path("lower/d")).expect("makes");
        fs::create_dir_all(place.path("upper/d")).expect("makes");
        refused(&place.between(), ErrorKind::InvalidArgument, &["d/.wh.", "rename"]);
    }
    // What neither is written nor hidden need not be said.
    let same = Place::new();
    same.file("lower/.wh.x", "x");
    same.file("upper/.wh.x", "x");
    assert_eq!(same.diff().1.entries, 0);

    place.file("upper/noted", "x");
    lsetxattr(place.path("upper/noted"), "user.a=b", b"x", XattrFlags::empty()).expect("sets");
    refused(&of_upper, ErrorKind::InvalidArgument, &["noted", "user.a=b"]);
    fs::remove_file(place.path("upper/noted")).expect("removes");

    let device = FileType::CharacterDevice;
    mknodat(CWD, place.path("upper/hidden"), device, Mode::empty(), makedev(0, 0)).expect("makes");
    refused(&of_upper, ErrorKind::InvalidArgument, &["hidden", "overlay"]);
    fs::remove_file(place.path("upper/hidden")).expect("removes");

    // As deep as no path reaches.
    let mut at = fs::File::open(place.path("upper")).expect("opens");
    for _ in 0..20 {
        let name = "n".repeat(250);
        mkdirat(&at, &*name, Mode::RWXU).expect("makes");
        let flags = rustix::fs::OFlags::DIRECTORY;
        at = rustix::fs::openat(&at, &*name, flags, Mode::empty()).expect("opens").into();
    }
    refused(&of_upper, ErrorKind::InvalidArgument, &["4096 bytes", "nnn"]);

    refused(&Diff::between(None, &place.path("nowhere")), ErrorKind::NotFound, &["nowhere"]);
    refused(
        &Diff::between(Some(&place.path("nowhere")), &place.path("lower")),
        ErrorKind::NotFound,
        &["nowhere"],
    );
}

#[test]
fn links_are_not_followed() {
    let place = Place::new();
    place.file("outside/secret", "secret");
    symlink("../outside", place.path("upper/up")).expect("links");
    symlink(place.path("outside/secret"), place.path("upper/abs")).expect("links");
    place.file("lower/up/secret", "x");
    let (layer, _) = place.diff();
    let abs = place.path("outside/secret");
    assert_eq!(listed(&layer), [format!("2 abs -> {} 0", abs.display()), "2 up -> ../outside 0".to_owned()]);
    assert!(
        !layer.windows(6).any(|bytes| bytes == b"secret" && !abs.as_os_str().as_bytes().ends_with(bytes))
    );
}

/// An output that does something when bytes come.
struct Meddler<F>(Option<F>);

impl<F: FnOnce()> Write for Meddler<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(meddle) = self.0.take() {
            meddle();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

type Change = fn(&Path);

#[test]
fn what_changes_while_it_is_read_is_an_error() {
    let large = "x".repeat(1 << 20);
    let grow = |path: &Path| fs::write(path.join("d/file"), "x".repeat(2 << 20)).expect("writes");
    let shrink = |path: &Path| fs::write(path.join("d/file"), "x").expect("writes");
    let exchange = |path: &Path| {
        fs::remove_file(path.join("e/later")).expect("removes");
        symlink("/etc/passwd", path.join("e/later")).expect("links");
    };
    let add = |path: &Path| fs::write(path.join("d/new"), "x").expect("writes");
    let remove = |path: &Path| fs::remove_file(path.join("d/last")).expect("removes");
    let nothing = |_: &Path| ();
    for (what, change, shown) in [
        ("grow", grow as Change, "d/file"),
        ("shrink", shrink, "d/file"),
        // Not listed yet: it is read as it is then.
        ("exchange", exchange, ""),
        ("add", add, "/d\""),
        ("remove", remove, "d/last"),
        ("nothing", nothing, ""),
    ] {
        let place = Place::new();
        place.file("upper/d/file", &large);
        place.file("upper/d/last", "x");
        place.file("upper/e/later", "x");
        // Clocks of file systems may be coarse.
        place.touch("upper/d", 1_000, 0);
        let upper = place.path("upper");
        let written = Diff::between(None, &upper).write(Meddler(Some(|| change(&upper))));
        if shown.is_empty() {
            written.expect(what);
            continue;
        }
        let error = written.expect_err(what);
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{what}: {}", error.report());
        assert!(
            error.to_string().contains(shown) && error.to_string().contains("changed while"),
            "{what}: {error}"
        );
    }
}

/// An output that takes so many bytes and no more.
struct Short(Vec<u8>, usize);

impl Write for Short {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(self.1 - self.0.len());
        self.0.extend_from_slice(&bytes[..count]);
        if count == 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(count) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_huge_file_has_its_size_in_both_headers() {
    let place = Place::new();
    place.file("upper/huge", "");
    let len = (8 << 30) + 5;
    fs::File::options()
        .write(true)
        .open(place.path("upper/huge"))
        .expect("opens")
        .set_len(len)
        .expect("sets");
    let mut output = Short(Vec::new(), 8192);
    let error = Diff::between(None, &place.path("upper")).write(&mut output).expect_err("no room");
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{}", error.report());
    let pax = String::from_utf8_lossy(&output.0[512..1024]).into_owned();
    assert!(pax.contains(&format!("19 size={len}\n")), "{pax}");
    let header = tar::Header::from_byte_slice(&output.0[1024..1536]);
    assert_eq!(header.entry_size().expect("a size"), len);
}

/// The changes of an overlay: what was unpacked from a layer becomes a layer that does the same.
#[test]
fn a_directory_of_an_overlay_becomes_its_layer_again() {
    let place = Place::new();
    for name in ["d/old", "d/sub/old", "e/f/old", "gone", "replaced/old", "file"] {
        place.file(&format!("base/{name}"), name);
    }
    let base = trees::layer(&Diff::between(None, &place.path("base")));
    let mut builder = tar::Builder::new(Vec::new());
    for (name, kind) in [
        ("d/", '5'),
        ("d/.wh.old", '0'),
        ("d/sub/", '5'),
        ("d/sub/.wh..wh..opq", '0'),
        ("d/sub/new", '0'),
        ("e/f/.wh.old", '0'),
        (".wh.gone", '0'),
        (".wh.replaced", '0'),
        ("replaced/", '5'),
        ("replaced/new", '0'),
        ("file/", '5'),
        ("file/in", '0'),
        ("linked", '0'),
    ] {
        let mut header = tar::Header::new_ustar();
        header.set_path(name).expect("fits");
        header.set_entry_type(tar::EntryType::new(kind as u8));
        header.set_mode(0o755);
        header.set_mtime(1_000);
        header.set_uid(rustix::process::geteuid().as_raw().into());
        header.set_gid(rustix::process::getegid().as_raw().into());
        header.set_size(0);
        header.set_cksum();
        builder.append(&header, io::empty()).expect("writes");
    }
    let changes = builder.into_inner().expect("writes");
    let is_root = rustix::process::geteuid().is_root();
    let kinds = [Some(Whiteouts::UserOverlay), is_root.then_some(Whiteouts::Overlay)];
    for whiteouts in kinds.into_iter().flatten() {
        let dir = tempfile::tempdir_in(place.path("")).expect("a directory");
        apply(&changes[..], dir.path(), &trees::options().with_whiteouts(whiteouts)).expect("applies");
        let again = trees::layer(&Diff::of_overlay(dir.path()));
        let trees = [&changes, &again].map(|layer| {
            let flat = tempfile::tempdir().expect("a directory");
            apply(&base[..], flat.path(), &trees::options()).expect("applies");
            apply(&layer[..], flat.path(), &trees::options()).expect("applies");
            // Those that no entry describes have the time of the moment.
            for path in ["", "e", "e/f"] {
                set_time(&flat.path().join(path), 0, 0);
            }
            trees::snapshot(flat.path())
        });
        assert_eq!(trees[0], trees[1], "{whiteouts:?}");
        assert!(listed(&again).contains(&"0 d/sub/.wh..wh..opq 0".to_owned()), "{:?}", listed(&again));

        lsetxattr(dir.path().join("linked"), "user.overlay.metacopy", b"", XattrFlags::empty())
            .expect("sets");
        refused(&Diff::of_overlay(dir.path()), ErrorKind::FailedPrecondition, &["linked", "metacopy"]);
    }
}

#[test]
fn layers_are_read_to_their_ends_by_others() {
    let place = Place::new();
    let long = format!("{}/{}", "d".repeat(120), "ä".repeat(60));
    place.file(&format!("upper/{long}"), "content");
    symlink("t".repeat(300), place.path("upper/link")).expect("links");
    let layer = trees::layer(&Diff::between(None, &place.path("upper")));
    let mut archive = tar::Archive::new(&layer[..]);
    let mut names = Vec::new();
    for entry in archive.entries().expect("a tar") {
        let mut entry = entry.expect("an entry");
        let mut content = String::new();
        entry.read_to_string(&mut content).expect("reads");
        names.push((entry.path().expect("a name").display().to_string(), content));
    }
    let parent = format!("{}/", "d".repeat(120));
    assert_eq!(
        names,
        [(parent, String::new()), (long, "content".to_owned()), ("link".to_owned(), String::new())]
    );
    assert_eq!(listed(&layer)[2], format!("2 link -> {} 0", "t".repeat(300)));
    let options = ApplyOptions::new();
    assert!(apply(&layer[..], Path::new("/nowhere/at/all"), &options).is_err());
}
