//! Layers that go through links of those below: put together as overlayfs does, they are what unpacking all into one directory makes.

use std::{
    collections::BTreeMap,
    fs::{self, DirEntry},
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use wharf_archive::{UnpackOptions, apply::Ownership};
use wharf_content::{Descriptor, Provider, Result};

use super::{Place, Tar, ownerships};

/// What is there, by path.
type Tree = BTreeMap<String, String>;

/// A tree in which links lead to directories.
fn base() -> Tar {
    Tar::new()
        .dir("usr", 0o755)
        .dir("usr/bin", 0o751)
        .file("usr/bin/old", "old")
        .file("usr/bin/other", "other")
        .dir("usr/bin/dir", 0o710)
        .file("usr/bin/dir/a", "a")
        .dir("usr/lib", 0o750)
        .dir("etc", 0o711)
        .file("etc/conf", "conf")
        .dir("a", 0o755)
        .dir("d", 0o755)
        .link("bin", "usr/bin")
        .link("lib", "/usr/lib")
        .link("sbin", "./bin")
        .link("a/b", "../a/./../usr/lib/../bin")
        .link("up", "../../../../../../etc")
        .link("root", "/")
        .link("dangling", "var/none/deep")
        .link("file", "usr/bin/old")
        .link("loop", "./loop")
        .link("round", "about")
        .link("about", "round")
}

fn of(metadata: &fs::Metadata, path: &Path) -> String {
    let kind = metadata.file_type();
    // Directories that nobody describes are made now, or have something made in them.
    let time = if kind.is_dir() { 0 } else { metadata.mtime() };
    if kind.is_symlink() {
        return format!("-> {}", fs::read_link(path).expect("reads").display());
    }
    let content = if kind.is_file() { fs::read_to_string(path).expect("reads") } else { String::new() };
    format!("{:o} {}:{} {time} {content}", metadata.mode(), metadata.uid(), metadata.gid())
}

fn entries(directory: &Path) -> Vec<DirEntry> {
    fs::read_dir(directory).expect("lists").map(|entry| entry.expect("lists")).collect()
}

fn is_opaque(directory: &Path) -> bool {
    ["trusted.overlay.opaque", "user.overlay.opaque"].iter().any(|name| {
        let mut value = [0; 2];
        matches!(rustix::fs::lgetxattr(directory, *name, &mut value), Ok(1)) && value[0] == b'y'
    })
}

/// Puts directories together as overlayfs does; the topmost is the first.
fn merge(layers: &[PathBuf], name: &str, tree: &mut Tree) {
    let metadata = fs::symlink_metadata(&layers[0]).expect("is there");
    tree.insert(name.to_owned(), of(&metadata, &layers[0]));
    let mut shown = BTreeMap::<String, Vec<PathBuf>>::new();
    let mut is_done = Vec::new();
    for layer in layers {
        for entry in entries(layer) {
            let base = entry.file_name().into_string().expect("text");
            if is_done.contains(&base) {
                continue;
            }
            let metadata = entry.metadata().expect("is there");
            let is_whiteout = metadata.file_type().is_char_device() && metadata.rdev() == 0;
            let is_first = !shown.contains_key(&base);
            if !is_whiteout && (is_first || metadata.is_dir()) {
                shown.entry(base.clone()).or_default().push(entry.path());
            }
            if !metadata.is_dir() || is_opaque(&entry.path()) {
                is_done.push(base);
            }
        }
        if is_opaque(layer) {
            break;
        }
    }
    for (base, paths) in shown {
        let name = format!("{name}/{base}");
        if fs::symlink_metadata(&paths[0]).expect("is there").is_dir() {
            merge(&paths, &name, tree);
        } else {
            tree.insert(name, of(&fs::symlink_metadata(&paths[0]).expect("is there"), &paths[0]));
        }
    }
}

fn options(ownership: Ownership) -> UnpackOptions {
    UnpackOptions::new().with_ownership(ownership).with_selection(wharf_images::Selection::all())
}

/// All layers in one directory.
async fn flat(place: &Place, target: &Descriptor, ownership: Ownership) -> Result<Tree> {
    let directory = place.dir.path().join("flat");
    let provider: Arc<dyn Provider> = Arc::clone(&place.fixture.store) as _;
    wharf_archive::unpack(provider, target, &directory, &options(ownership)).await?;
    let mut tree = Tree::new();
    merge(&[directory], "", &mut tree);
    Ok(tree)
}

/// Each layer by itself, then put together.
async fn layered(place: &Place, target: &Descriptor, ownership: Ownership) -> Result<Tree> {
    let unpacked = place.unpack(target, ownership).await?;
    let layers: Vec<_> = unpacked.layers.iter().rev().map(|layer| layer.directory.clone()).collect();
    let mut tree = Tree::new();
    merge(&layers, "", &mut tree);
    Ok(tree)
}

/// What the layers make both ways, which is the same.
async fn both(layers: Vec<Vec<u8>>, what: &str) -> Tree {
    let mut found = Tree::new();
    // What is there before is looked at as well as what is unpacked with it.
    for (ownership, is_there) in ownerships().into_iter().cycle().zip([false, true]) {
        let place = Place::new().await;
        if is_there {
            let below = place.image("below", layers[..layers.len() - 1].to_vec(), None).await;
            place.unpack(&below.target, ownership).await.expect("unpacks");
        }
        let image = place.image("a", layers.clone(), None).await;
        let expected = flat(&place, &image.target, ownership).await.expect(what);
        found = layered(&place, &image.target, ownership).await.expect(what);
        assert_eq!(found, expected, "{what}");
        assert_eq!(place.names().iter().filter(|name| name.starts_with(".new-")).count(), 0, "{what}");
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_a_link_is_where_it_leads() {
    let file = |name: &'static str| Tar::new().file(name, "new");
    for (top, expected) in [
        (file("bin/x"), "/usr/bin/x"),
        (file("./bin/x"), "/usr/bin/x"),
        (file("bin/old"), "/usr/bin/old"),
        (file("lib/deep/er/x"), "/usr/lib/deep/er/x"),
        (file("sbin/dir/x"), "/usr/bin/dir/x"),
        (file("a/b/x"), "/usr/bin/x"),
        (file("up/x"), "/etc/x"),
        (file("root/root/up/x"), "/etc/x"),
        (file("dangling/x"), "/var/none/deep/x"),
        (Tar::new().dir("bin/x", 0o700).file("bin/x/y", "new"), "/usr/bin/x/y"),
        (Tar::new().dir("bin/dir", 0o700).file("bin/dir/x", "new"), "/usr/bin/dir/x"),
        // The later one counts.
        (Tar::new().file("usr/bin/x", "first").file("bin/x", "new"), "/usr/bin/x"),
        (Tar::new().file("bin/x", "first").file("usr/bin/x", "new"), "/usr/bin/x"),
        (Tar::new().link("usr/bin/x", "y").file("sbin/x", "new"), "/usr/bin/x"),
        (Tar::new().dir("bin/x", 0o755).file("bin/x/y", "").file("usr/bin/x", "new"), "/usr/bin/x"),
        // Its own links, which lead through those below.
        (Tar::new().link("own", "bin").file("own/x", "new"), "/usr/bin/x"),
        (Tar::new().link("own", "sbin/../up").file("own/x", "new"), "/usr/up/x"),
        (Tar::new().link("usr/lib/own", "../../up").file("lib/own/x", "new"), "/etc/x"),
        // Its own directory is in the place of the link, from then on.
        (Tar::new().file("bin/x", "new").dir("bin", 0o755).file("bin/y", "y"), "/usr/bin/x"),
        (Tar::new().dir("bin", 0o755).file("bin/x", "new"), "/bin/x"),
        (Tar::new().dir("bin", 0o755).file("bin/sub/x", "new"), "/bin/sub/x"),
        (Tar::new().file("bin/x", "new").file("bin", "b"), "/usr/bin/x"),
        (Tar::new().file("bin/x", "new").link("bin", "etc").file("bin/y", "y"), "/usr/bin/x"),
        // What is hidden afterwards.
        (Tar::new().file("bin/x", "new").file(".wh.bin", ""), "/usr/bin/x"),
        (
            Tar::new().dir("usr", 0o755).dir("usr/bin", 0o755).file("bin/x", "new").file(".wh..wh..opq", ""),
            "/usr/bin/x",
        ),
        (Tar::new().file("bin/x", "new").file("bin/.wh..wh..opq", ""), "/usr/bin/x"),
        (Tar::new().file("bin/.wh..wh..opq", "").file("bin/x", "new"), "/usr/bin/x"),
        (Tar::new().file("usr/.wh..wh..opq", "").file("bin/x", "new"), "/usr/bin/x"),
        (Tar::new().file(".wh..wh..opq", "").file("bin/x", "new"), "/bin/x"),
        // Nothing is hidden in a file.
        (Tar::new().file("f", "new").file("f/.wh.x", "").file("f/.wh..wh..opq", ""), "/f"),
    ] {
        let tree = both(vec![base().bytes(), top.bytes()], expected).await;
        assert!(tree.get(expected).is_some_and(|found| found.ends_with(" new")), "{expected}: {tree:#?}");
        assert!(!tree.contains_key("/usr/bin/old") || tree["/etc"].contains("711"), "{tree:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_takes_the_place_of_what_the_layer_has_hidden_has_nothing_of_it() {
    let top = Tar::new().file(".wh.etc", "").file("etc/x", "new").file("etc/deep/x", "new");
    let tree = both(vec![base().bytes(), top.bytes()], "etc").await;
    assert!(!tree["/etc"].contains("711") && !tree.contains_key("/etc/conf"), "{tree:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_hidden_in_a_link_is_hidden_where_it_leads() {
    let file = |name: &'static str| Tar::new().file(name, "");
    for (top, gone, kept) in [
        (file("bin/.wh.old"), "/usr/bin/old", "/usr/bin/other"),
        (file("sbin/.wh.dir"), "/usr/bin/dir", "/usr/bin/other"),
        (file("a/b/dir/.wh.a"), "/usr/bin/dir/a", "/usr/bin/dir"),
        (file("bin/dir/.wh..wh..opq"), "/usr/bin/dir/a", "/usr/bin/dir"),
        (file("bin/.wh..wh..opq"), "/usr/bin/old", "/usr/bin"),
        (file("up/.wh.conf"), "/etc/conf", "/etc"),
        (file("root/.wh.bin"), "/bin", "/sbin"),
        // Nothing is made where there is nothing to hide.
        (file("dangling/.wh.x"), "/var", "/dangling"),
        (file("dangling/.wh..wh..opq").file("bin/x", ""), "/var", "/usr/bin/x"),
        (file("file/.wh.x"), "/x", "/usr/bin/old"),
        (file("file/.wh.x").file("bin/x", ""), "/x", "/usr/bin/old"),
    ] {
        let tree = both(vec![base().bytes(), top.bytes()], gone).await;
        assert!(!tree.contains_key(gone) && tree.contains_key(kept), "{gone}: {tree:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_linked_to_through_links() {
    for (top, name) in [
        (Tar::new().hard("x", "bin/old"), "/x"),
        (Tar::new().hard("bin/x", "usr/bin/old"), "/usr/bin/x"),
        (Tar::new().hard("sbin/x", "a/b/old"), "/usr/bin/x"),
        (Tar::new().file("bin/y", "old").hard("x", "usr/bin/y"), "/x"),
        (Tar::new().file("usr/bin/y", "old").hard("x", "bin/y"), "/x"),
        (Tar::new().file("usr/bin/y", "old").hard("x", "a/b/y"), "/x"),
        (Tar::new().link("own", "usr/bin").hard("x", "own/old"), "/x"),
        (Tar::new().link("own", "sbin").hard("own/x", "own/old"), "/usr/bin/x"),
    ] {
        let tree = both(vec![base().bytes(), top.bytes()], name).await;
        assert!(tree[name].ends_with(" old"), "{name}: {tree:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn links_of_any_layer_below_count_as_they_are_seen() {
    let file = |name: &'static str| Tar::new().file(name, "new").bytes();
    for (layers, expected) in [
        // Several that go through links, each above the ones before.
        (vec![file("bin/x"), file("sbin/y"), Tar::new().file("bin/.wh.x", "").bytes()], "/usr/bin/y"),
        // The link goes, or comes, or leads elsewhere.
        (vec![Tar::new().file(".wh.bin", "").bytes(), file("bin/x")], "/bin/x"),
        (vec![Tar::new().dir("bin", 0o700).bytes(), file("bin/x")], "/bin/x"),
        (vec![Tar::new().file(".wh.usr", "").bytes(), file("bin/x")], "/usr/bin/x"),
        (vec![Tar::new().file("usr/.wh..wh..opq", "").bytes(), file("bin/x")], "/usr/bin/x"),
        (vec![Tar::new().link("d", "etc").bytes(), file("d/x")], "/etc/x"),
        (vec![Tar::new().link("usr/bin", "../etc").bytes(), file("sbin/x")], "/etc/x"),
        (vec![Tar::new().link("bin", "up").bytes(), file("bin/x")], "/etc/x"),
    ] {
        let layers = [vec![base().bytes()], layers].concat();
        let tree = both(layers, expected).await;
        assert!(tree.get(expected).is_some_and(|found| found.ends_with(" new")), "{expected}: {tree:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_link_leads_outside() {
    let outside = tempfile::tempdir().expect("a directory");
    let text = outside.path().to_str().expect("text").to_owned();
    let up = format!("../../../../../../../../../..{text}");
    // They do not fit into one header together.
    let below =
        Tar::new().link("absolute", &text).link("up", &up).dir("d", 0o755).link("d/proc", "/proc/self/root");
    let top = Tar::new().file("absolute/x", "new").file("up/y", "new").file("d/proc/etc/z", "new");
    let tree = both(vec![below.bytes(), top.bytes()], "outside").await;
    for name in [format!("{text}/x"), format!("{text}/y"), "/proc/self/root/etc/z".to_owned()] {
        assert!(tree.get(&name).is_some_and(|found| found.ends_with(" new")), "{name}: {tree:#?}");
    }
    assert_eq!(entries(outside.path()).len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_place_is_refused_both_ways() {
    for (top, what) in [
        (Tar::new().file("loop/x", ""), "loop/x"),
        (Tar::new().file("about/x", ""), "about"),
        (Tar::new().file("file/x", ""), "no directory"),
        (Tar::new().file("bin/old/x", ""), "no directory"),
        (Tar::new().file("usr/bin/old/x", ""), "no directory"),
        (Tar::new().hard("x", "bin/none"), "not there"),
        (Tar::new().hard("x", "dangling/none"), "not there"),
    ] {
        let top = top.bytes();
        for ownership in ownerships() {
            let place = Place::new().await;
            let image = place.image("a", vec![base().bytes(), top.clone()], None).await;
            flat(&place, &image.target, ownership).await.expect_err(what);
            let error = layered(&place, &image.target, ownership).await.expect_err(what);
            let told = error.report();
            assert!(told.contains("sha256:") && told.contains(what.trim_end_matches("/x")), "{told}");
            assert_eq!(place.names(), [""; 0]);
        }
    }
}
