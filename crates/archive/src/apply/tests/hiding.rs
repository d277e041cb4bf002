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
