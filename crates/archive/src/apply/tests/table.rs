//! What is left of the table of attacks, each with what must go on working.

use super::*;

#[test]
fn modes_are_not_set_through_links() {
    for name in ["foo", "foo/", "foo/.", "./foo//."] {
        both(|place| {
            let wide = |name: &str| {
                Layer::default().with(name, b'5', b"", |header| header.set_mode(0o777)).file("after", "x")
            };
            // In the same layer, and in the next one.
            let same = Layer::default().link("foo", &place.outside());
            let same = Layer([same.0, wide(name).0].concat());
            place.apply(same).expect("a directory takes the link's place");
            assert!(fs::symlink_metadata(place.root().join("foo")).expect("stat").is_dir());
            place.apply(Layer::default().file(".wh.foo", "").link("foo", &place.outside())).expect("applies");
            place.apply(wide(name)).expect("a directory takes the link's place");
            let foo = fs::symlink_metadata(place.root().join("foo")).expect("stat");
            assert!(foo.is_dir() && foo.mode() & 0o7777 == 0o777);
        });
    }
}

#[test]
fn links_in_many_steps_stay_inside() {
    both(|place| {
        let mut chain = Layer::default().link("l0", &place.outside());
        for at in 1..39 {
            chain = chain.link(&format!("l{at}"), &format!("l{}", at - 1));
        }
        let chain = chain.link("up", "../../..").link("d", "up/up/l3").link("loop", "loop/x");
        place.apply(chain).expect("links may say what they want");
        let layer = Layer::default()
            .file("l38/victim", "inside")
            .hard("l2/again", "l5/victim")
            .dir("d/dir")
            .file("up/up/top", "x");
        place.apply(layer).expect("applies");
        let inside = place.outside().trim_start_matches('/').to_owned();
        assert_eq!(place.text(&format!("{inside}/victim")).as_deref(), Some("inside"));
        assert_eq!(place.text(&format!("{inside}/again")).as_deref(), Some("inside"));
        assert_eq!(place.text("top").as_deref(), Some("x"));
        let error = place.apply(Layer::default().file("loop/x", "")).expect_err("a circle");
        assert!(error.report().contains("loop"), "{}", error.report());
    });
}

#[test]
fn a_hard_link_is_not_to_a_file_of_the_process_s_directory() {
    let here = fs::read_dir(".").expect("lists").map(|entry| entry.expect("lists"));
    let file = here.into_iter().find(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()));
    let name = file.expect("there are files where tests run").file_name().into_string().expect("a text");
    both(|place| {
        for target in [name.clone(), format!("./{name}"), format!("/{name}")] {
            let error = place.apply(Layer::default().hard("stolen", &target)).expect_err("not there");
            assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{target}");
        }
        place.apply(Layer::default().file(&name, "own").hard("fine", &name)).expect("the twin");
        assert_eq!(place.text("fine").as_deref(), Some("own"));
    });
}

#[test]
fn links_keep_their_text() {
    both(|place| {
        let targets = ["/bin/busybox", "../../x", "/", ".", "a//b/./c/", "/proc/self/exe"];
        let mut layer = Layer::default();
        for (at, target) in targets.iter().enumerate() {
            layer = layer.link(&format!("bin/{at}"), target);
        }
        place.apply(layer).expect("applies");
        for (at, target) in targets.iter().enumerate() {
            let found = fs::read_link(place.root().join(format!("bin/{at}"))).expect("a link");
            assert_eq!(found, Path::new(target));
        }
        // What the last one leads to is what runs the test, and is not what is written to.
        place.apply(Layer::default().file("bin/5", "mine")).expect("replaces the link");
        assert_eq!(place.text("bin/5").as_deref(), Some("mine"));
        let error = place.apply(Layer::default().link("m", "/proc/self/cwd").file("m/x", "")).map(drop);
        error.expect("a directory below the root, whatever it is called");
        assert_eq!(place.text("proc/self/cwd/x").as_deref(), Some(""));
    });
}

#[test]
fn numbers_of_devices_setuid_and_attributes() {
    both(|place| {
        let numbers = |major: &'static [u8], minor: &'static [u8]| {
            move |header: &mut tar::Header| {
                header.as_mut_bytes()[329..329 + major.len()].copy_from_slice(major);
                header.as_mut_bytes()[337..337 + minor.len()].copy_from_slice(minor);
            }
        };
        for (major, minor) in [
            (&b"\xff\xff\xff\xff\xff\xff\xff\xff"[..], &b"0000000\0"[..]),
            (b"0000000\0", b"\xff\xff\xff\xff\xff\xff\xff\xff"),
            (b"\x80\0\0\x01\0\0\0\0", b"0000000\0"),
            (b"0000000\0", b"\x80\0\0\x01\0\0\0\0"),
            (b"0010000\0", b"0000000\0"),
            (b"0000000\0", b"4000000\0"),
        ] {
            for flag in [b'3', b'4'] {
                let layer = Layer::default().with("bad", flag, b"", numbers(major, minor));
                let error = place.apply(layer).expect_err("out of range");
                assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{major:?} {minor:?}: {error}");
                assert_eq!(place.list(), [""; 0]);
            }
        }
        // Numbers of what is no device are nobody's business, and the largest that there are are fine.
        let layer = Layer::default()
            .with("pipe", b'6', b"", numbers(b"0010000\0", b"4000000\0"))
            .with("largest", b'4', b"", numbers(b"0007777\0", b"3777777\0"))
            .with("su", b'0', b"x", |header| header.set_mode(0o6755));
        let applied = place.apply(layer).expect("applies");
        assert!(fs::symlink_metadata(place.root().join("pipe")).expect("stat").file_type().is_fifo());
        let su = fs::metadata(place.root().join("su")).expect("stat");
        assert_eq!(su.mode() & 0o7777, 0o6755, "a program that runs as another user still does");
        let is_made = fs::symlink_metadata(place.root().join("largest")).is_ok();
        let is_told = applied.left_out.iter().any(|left| left.omission == Omission::Device);
        assert_ne!(is_made, is_told);
        assert!(!is_made || (is_root() && place.ownership == Ownership::Image));
    });
}

/// Directories so deep that no path leads to the end, and no process may have all of them open.
fn deep(depth: usize) -> Layer {
    let mut layer = Layer::default().dir("top/0");
    for at in 0..depth / 30 {
        // Each link leads to where the one before it ends.
        layer = layer
            .file(&format!("top/{at}/{}f", "d/".repeat(30)), "")
            .link(&format!("top/{}", at + 1), &format!("{at}/{}", "d/".repeat(30)));
    }
    layer
}

#[test]
fn directories_below_each_other_are_not_without_end() {
    both(|place| {
        place.apply(deep(600)).expect("deep enough for anybody");
        let hidden = place.apply(Layer::default().file("top/.wh..wh..opq", ""));
        let error = hidden.expect_err("too deep to look for what is to be hidden");
        assert!(error.report().contains("too long"), "{}", error.report());
        place.apply(Layer::default().file("top", "")).expect("is replaced");
        assert_eq!(place.list(), ["top"]);
        place.apply(deep(300)).expect_err("a file is in the way");
        place.apply(Layer::default().file(".wh.top", "")).expect("hides");
        place.apply(deep(300)).expect("applies");
        place.apply(Layer::default().file("top/new", "").file("top/.wh..wh..opq", "")).expect("hides");
        assert_eq!(place.list(), ["top/", "top/new"]);
    });
}

#[test]
fn what_is_deeper_than_files_can_be_open_is_removed_all_the_same() {
    let place = Place::new(true);
    let mut at = rustix::fs::open(place.root(), rustix::fs::OFlags::PATH, Mode::empty()).expect("opens");
    for depth in 0..5_000 {
        rustix::fs::mkdirat(&at, "d", Mode::RWXU).expect("makes");
        for name in ["w", ".wharf-0"] {
            if depth % 100 == 0 {
                rustix::fs::mkdirat(&at, name, Mode::RWXU).expect("makes");
            }
        }
        at = rustix::fs::openat(&at, "d", rustix::fs::OFlags::PATH, Mode::empty()).expect("opens");
    }
    drop(at);
    place.apply(Layer::default().file("d", "x")).expect("is replaced");
    assert_eq!(place.text("d").as_deref(), Some("x"));
    remove_tree(&place.root()).expect("removes");
    fs::create_dir(place.root()).expect("makes it again");
    place.check_outside();
}

#[test]
fn a_directory_that_its_owner_may_not_enter_is_removed() {
    both(|place| {
        if place.ownership == Ownership::Image && !is_root() {
            // Who is not root and does not take the files over is closed out before the times are set.
            return;
        }
        let closed = |name: &str| Layer::default().with(name, b'5', b"", |header| header.set_mode(0));
        place.apply(Layer::default().file("d/e/f", "x")).expect("applies");
        place.apply(closed("d/e")).expect("applies");
        place.apply(closed("d")).expect("applies");
        place.apply(Layer::default().link("d", "elsewhere")).expect("is replaced");
        assert_eq!(place.list(), ["d"]);
    });
}

/// How often what is below a directory was looked at is no matter of how often it is hidden.
#[test]
fn each_directory_is_hidden_once() {
    let count = 2_000;
    for (has_openat2, ownership) in [(true, Ownership::Image), (false, Ownership::User)] {
        let place = Place::of(has_openat2, ownership);
        place.apply(Layer::default().file("d/old", "").file("d/sub/old", "")).expect("applies");
        let mut layer = Layer::default();
        for at in 0..count {
            layer = layer.file(&format!("d/{at}"), "");
        }
        for _ in 0..count {
            layer = layer.file("d/.wh..wh..opq", "");
        }
        let mut apply = Apply::new(Tree::open(&place.root()).expect("opens"), place.options());
        let bytes = layer.bytes();
        let mut tar = TarReader::of_layer(&bytes[..]);
        while let Some(entry) = tar.next().expect("reads") {
            apply.entry(&entry, &mut tar).expect("applies");
        }
        assert_eq!(apply.written.listed, 2, "each directory once");
        apply.finish().expect("finishes");
        assert_eq!(place.list().len(), count + 1);
    }
}
