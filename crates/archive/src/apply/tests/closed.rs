//! Directories that their owner may not write to, or not even look into, where that is not root. Root may do all of it anyway, so that these
//! tests say most where another user runs them.

use super::*;

#[test]
fn who_is_not_root_writes_into_directories_that_are_read_only() {
    let place = Place::new(true);
    let root = place.root();
    fs::create_dir(root.join("ro")).expect("makes");
    fs::write(root.join("ro/old"), "x").expect("writes");
    fs::set_permissions(root.join("ro"), fs::Permissions::from_mode(0o555)).expect("chmod");
    let options = ApplyOptions::new().with_ownership(Ownership::User);
    place.apply_with(Layer::default().file("ro/new", "n").file("ro/.wh.old", ""), &options).expect("applies");
    assert_eq!(place.list(), ["ro/", "ro/new"]);
    assert_eq!(fs::metadata(root.join("ro")).expect("stat").mode() & 0o7777, 0o555);
    fs::set_permissions(root.join("ro"), fs::Permissions::from_mode(0o755)).expect("chmod");
}

/// Such directories are in images: caches of modules that are only read, and homes that are closed.
#[test]
fn who_is_not_root_hides_and_makes_what_is_in_directories_that_are_closed() {
    let lower = || {
        let closed =
            |layer: Layer, name: &str, mode| layer.with(name, b'5', b"", |header| header.set_mode(mode));
        let layer =
            Layer::default().dir("top").dir("ro").file("ro/old", "o").dir("ro/in").file("ro/in/old", "o");
        let layer = closed(layer.dir("ro/in/none"), "ro/in/none/shut", 0);
        let layer = closed(closed(layer, "ro/in", 0o555), "ro", 0o555);
        closed(layer.dir("x").dir("x/below"), "x", 0o111)
    };
    let mode =
        |place: &Place, path: &str| fs::metadata(place.root().join(path)).expect("stat").mode() & 0o7777;
    for has_openat2 in [true, false] {
        for (upper, left, modes) in [
            (Layer::default().file(".wh.ro", ""), "top/ x/ x/below/", &[("x", 0o111)][..]),
            (Layer::default().file("ro/.wh..wh..opq", ""), "ro/ top/ x/ x/below/", &[("ro", 0o555)]),
            (Layer::default().link("ro", "to").file(".wh.x", ""), "ro top/", &[]),
            // What the layer wrote stays, and what it stays in is closed as before.
            (
                Layer::default().file("ro/in/new", "n").file(".wh.ro", ""),
                "ro/ ro/in/ ro/in/new top/ x/ x/below/",
                &[("ro", 0o555), ("ro/in", 0o555)],
            ),
            (
                Layer::default().entry("ro/pipe", b'6', b"").file("ro/new/file", "").file(".wh.x", ""),
                "ro/ ro/in/ ro/in/none/ ro/in/none/shut/ ro/in/old ro/new/ ro/new/file ro/old ro/pipe top/",
                &[("ro", 0o555), ("ro/in/none/shut", 0)],
            ),
            (
                Layer::default()
                    .file("ro/in/none/shut/deep/new", "n")
                    .dir("x")
                    .file("top/.wh.no", "")
                    .file("ro/.wh.old", ""),
                "ro/ ro/in/ ro/in/none/ ro/in/none/shut/ ro/in/none/shut/deep/ ro/in/none/shut/deep/new ro/in/old top/ x/ \
                 x/below/",
                &[("ro/in/none/shut", 0), ("ro", 0o555), ("x", 0o755)],
            ),
        ] {
            let place = Place::of(has_openat2, Ownership::User);
            place.apply(lower()).expect("applies");
            place.apply(upper).unwrap_or_else(|error| panic!("{left}: {}", error.report()));
            for (path, expected) in modes {
                assert_eq!(mode(&place, path), *expected, "{left}: {path}");
            }
            // To be listed, and removed at the end, by who is not root.
            for path in ["ro", "ro/in", "ro/in/none/shut", "x"] {
                if place.root().join(path).symlink_metadata().is_ok_and(|found| found.is_dir()) {
                    fs::set_permissions(place.root().join(path), fs::Permissions::from_mode(0o755))
                        .expect("chmod");
                }
            }
            assert_eq!(place.list().join(" "), left);
        }
    }
}
