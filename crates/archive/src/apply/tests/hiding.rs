//! What a layer hides of those below, and how it is marked for overlayfs.

use super::*;

fn lower() -> Layer {
    Layer::default()
        .dir("d")
        .file("d/old", "o")
        .dir("d/sub")
        .file("d/sub/old", "o")
        .dir("e/f")
        .file("e/f/old", "o")
        .file("gone", "o")
}

#[test]
fn what_a_layer_hides_is_gone_and_what_it_wrote_stays() {
    for (layer, left) in [
        (Layer::default().file(".wh.gone", ""), "d/ d/old d/sub/ d/sub/old e/ e/f/ e/f/old"),
        (Layer::default().file("/./.wh.d", ""), "e/ e/f/ e/f/old gone"),
        (Layer::default().file("d/.wh..wh..opq", ""), "d/ e/ e/f/ e/f/old gone"),
        (
            Layer::default().file("d/new", "n").file("d/sub/new", "n").file("d/.wh..wh..opq", ""),
            "d/ d/new d/sub/ d/sub/new e/ e/f/ e/f/old gone",
        ),
        (
            Layer::default().file("d/.wh..wh..opq", "").file("d/new", "n").file("d/sub/new", "n"),
            "d/ d/new d/sub/ d/sub/new e/ e/f/ e/f/old gone",
        ),
        // The inner one first, and each twice.
        (
            Layer::default()
                .file("d/sub/new", "n")
                .file("d/sub/.wh..wh..opq", "")
                .file("d/.wh..wh..opq", "")
                .file("d/sub/.wh..wh..opq", "")
                .file("d/.wh..wh..opq", ""),
            "d/ d/sub/ d/sub/new e/ e/f/ e/f/old gone",
        ),
        // What is left of a directory that nobody wrote is nothing, in either order.
        (Layer::default().file("e/f/.wh..wh..opq", "").file(".wh.e", ""), "d/ d/old d/sub/ d/sub/old gone"),
        (Layer::default().file(".wh.e", "").file("e/f/.wh..wh..opq", ""), "d/ d/old d/sub/ d/sub/old gone"),
        // Hidden and written: in either order it is the new one.
        (
            Layer::default().file("gone", "n").file(".wh.gone", ""),
            "d/ d/old d/sub/ d/sub/old e/ e/f/ e/f/old gone",
        ),
        (
            Layer::default().file(".wh.gone", "").file("gone", "n"),
            "d/ d/old d/sub/ d/sub/old e/ e/f/ e/f/old gone",
        ),
        (Layer::default().dir("d").file("d/new", "n").file(".wh.d", ""), "d/ d/new e/ e/f/ e/f/old gone"),
        (Layer::default().file(".wh.d", "").dir("d").file("d/new", "n"), "d/ d/new e/ e/f/ e/f/old gone"),
        // A second name of a file from below spares only itself.
        (
            Layer::default().hard("d/again", "d/old").file("d/.wh..wh..opq", ""),
            "d/ d/again e/ e/f/ e/f/old gone",
        ),
        (
            Layer::default().file("no/.wh.such", "").file("no/.wh..wh..opq", "").file(".wh..wh.plnk", ""),
            "d/ d/old d/sub/ d/sub/old e/ e/f/ e/f/old gone",
        ),
    ] {
        both(|place| {
            place.apply(lower()).expect("applies");
            place.apply(layer.clone()).expect("applies");
            assert_eq!(place.list().join(" "), left);
        });
    }
}

#[test]
fn whiteouts_reach_nothing_outside() {
    both(|place| {
        let outside = place.outside();
        place
            .apply(Layer::default().link("l", &outside).link("v", &format!("{outside}/victim")))
            .expect("applies");
        let layer = Layer::default().file("l/.wh.victim", "").file("l/.wh..wh..opq", "").file(".wh.v", "");
        place.apply(layer).expect("applies");
        assert_eq!(place.list(), ["l"]);
        for bad in [".wh.", ".wh..", ".wh...", "l/.wh..."] {
            let error = place.apply(Layer::default().file(bad, "")).expect_err(bad);
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{bad}");
        }
    });
}

#[test]
fn a_layer_of_its_own_is_marked_for_overlayfs() {
    both(|place| {
        let layer = Layer::default()
            .file("d/.wh.gone", "")
            .file("e/.wh..wh..opq", "")
            .dir("both")
            .file(".wh.both", "")
            .file(".wh.again", "")
            .dir("again")
            .file(".wh.file", "")
            .file("file", "n");
        let options = ApplyOptions::new().with_whiteouts(Whiteouts::UserOverlay);
        place.apply_with(layer, &options).expect("applies");
        assert_eq!(place.list(), ["again/", "both/", "d/", "d/gone", "e/", "file"]);
        let hidden = fs::symlink_metadata(place.root().join("d/gone")).expect("stat");
        assert!(hidden.file_type().is_char_device() && hidden.rdev() == 0);
        for (path, is_opaque) in [("e", true), ("both", true), ("again", true), ("d", false)] {
            let mut value = [0; 4];
            let found = lgetxattr(place.root().join(path), "user.overlay.opaque", &mut value[..]);
            assert_eq!(found.is_ok_and(|len| &value[..len] == b"y"), is_opaque, "{path}");
        }
        assert_eq!(place.text("file").as_deref(), Some("n"));
    });
}

#[test]
fn a_directory_that_a_layer_does_not_describe_keeps_its_time() {
    both(|place| {
        let below = ["d", "e", "f"]
            .into_iter()
            .fold(Layer::default(), |layer, name| layer.dir(name).file(&format!("{name}/a"), ""));
        place.apply(below).expect("applies");
        let above = Layer::default().file("d/b", "").file("e/.wh.a", "").file("f/.wh..wh..opq", "");
        place.apply(above).expect("applies");
        assert_eq!(place.list(), ["d/", "d/a", "d/b", "e/", "f/"]);
        let mtime = |name: &str| fs::metadata(place.root().join(name)).expect("there").mtime();
        assert_eq!(["d", "e", "f"].map(mtime), [1_000_000; 3]);
        let described = Layer::default().file("d/c", "").with("d", b'5', b"", |header| header.set_mtime(7));
        place.apply(described).expect("applies");
        assert_eq!(mtime("d"), 7);
    });
}

#[test]
fn a_directory_is_found_again_when_the_link_to_it_is_gone() {
    both(|place| {
        let below = ["d", "e"]
            .into_iter()
            .fold(Layer::default(), |layer, name| layer.dir(name).file(&format!("{name}/a"), ""))
            .link("old", "e");
        place.apply(below).expect("applies");
        // By way of a link of this layer that is replaced, and of one from below that is hidden.
        let above = Layer::default()
            .link("way", "d")
            .with("way/new", b'5', b"", |header| {
                header.set_mtime(7);
                header.set_mode(0o711);
            })
            .file("way/new/b", "")
            .file("way/b", "")
            .file("old/b", "")
            .file("way", "")
            .file(".wh.old", "");
        place.apply(above).expect("applies");
        assert_eq!(place.list(), ["d/", "d/a", "d/b", "d/new/", "d/new/b", "e/", "e/a", "e/b", "way"]);
        let seen = |name: &str| {
            let found = fs::metadata(place.root().join(name)).expect("there");
            (found.mtime(), found.mode() & 0o7777)
        };
        assert_eq!(seen("d/new"), (7, 0o711));
        assert_eq!(["d", "e"].map(seen), [(1_000_000, 0o755); 2]);
    });
}

#[test]
fn in_a_layer_of_its_own_nothing_stays_that_only_stood_for_something_below() {
    for (layer, left, opaque) in [
        // Linked to, and then hidden with all else.
        (Layer::default().hard("new", "d/old").file("d/.wh..wh..opq", ""), "d/ new", "d"),
        (Layer::default().hard("new", "d/sub/old").file("d/.wh..wh..opq", ""), "d/ new", "d"),
        (
            Layer::default().hard("new", "d/old").file("/d/./.wh..wh..opq", "").file("d/a", ""),
            "d/ d/a new",
            "d",
        ),
        (Layer::default().hard("d/new", "d/old").file("d/.wh..wh..opq", ""), "d/ d/new", "d"),
        (
            Layer::default().hard("new", "d/old").hard("d/old", "new").file("d/.wh..wh..opq", ""),
            "d/ d/old new",
            "d",
        ),
        (Layer::default().hard("new", "d/old").link("l", "d").file("l/.wh..wh..opq", ""), "d/ l new", "d"),
        (Layer::default().hard("new", "d/old").file(".wh..wh..opq", ""), "new", ""),
        // The directory is hidden, and is written to again or not.
        (Layer::default().hard("new", "d/old").file(".wh.d", ""), "d new", ""),
        (Layer::default().hard("new", "d/old").file(".wh.d", "").file("d/a", ""), "d/ d/a new", "d"),
        (Layer::default().hard("new", "d/old").file("d/a", "").file(".wh.d", ""), "d/ d/a new", "d"),
        // Whiteouts in what is hidden as a whole.
        (Layer::default().file("d/sub/.wh.old", "").file("d/.wh..wh..opq", ""), "d/", "d"),
        (Layer::default().file("d/.wh..wh..opq", "").file("d/sub/.wh.old", ""), "d/", "d"),
        (Layer::default().file("d/sub/.wh.old", "").file(".wh.d", ""), "d", ""),
        (Layer::default().file(".wh.d", "").file("d/sub/.wh.old", "").file("d/.wh..wh..opq", ""), "d", ""),
        // A directory that is no longer the one below.
        (Layer::default().file("d", "").dir("d"), "d/", "d"),
    ] {
        both(|place| {
            let options = ApplyOptions::new().with_whiteouts(Whiteouts::UserOverlay);
            place.apply_with(layer.clone(), &options).expect("applies");
            assert_eq!(place.list().join(" "), left);
            for name in ["", "d"] {
                let path = place.root().join(name);
                let found = lgetxattr(&path, "user.overlay.opaque", &mut [0; 4][..]).is_ok();
                assert_eq!(found, name == opaque && (!name.is_empty() || left == "new"), "{left}: {name:?}");
            }
        });
    }
    // What is hidden already is not there to be linked to.
    for layer in [
        Layer::default().file("d/.wh..wh..opq", "").hard("new", "d/old"),
        Layer::default().file("d/.wh..wh..opq", "").hard("new", "d/sub/old"),
        Layer::default().file("d/.wh..wh..opq", "").dir("d/sub").hard("new", "d/sub/old"),
        Layer::default().file(".wh.d", "").hard("new", "d/old"),
        Layer::default().file(".wh..wh..opq", "").hard("new", "d/old"),
    ] {
        both(|place| {
            let options = ApplyOptions::new().with_whiteouts(Whiteouts::UserOverlay);
            let error = place.apply_with(layer.clone(), &options).expect_err("hidden");
            assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{error}");
            assert!(error.report().contains("not there"), "{}", error.report());
        });
    }
}
