//! Somebody who may write below the root exchanges directories and links there while layers are applied. What another process does, as
//! the integration step `exchange` has it, a thread does as well.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::*;

/// How many times they change places for each way of finding directories.
const SWAPS: u32 = 100_000;

fn layer() -> Layer {
    let mut layer = Layer::default()
        .file("d/x", "x")
        .with("d/dir", b'5', b"", |header| header.set_mode(0o777))
        .with("d/victim", b'0', b"x", |header| header.set_mode(0o4777))
        .link("d/link", "victim")
        .hard("d/dir/again", "d/victim")
        .entry("d/pipe", b'6', b"");
    for at in 0..20 {
        layer = layer.file(&format!("d/dir/{at}"), "x");
    }
    layer.file("d/dir/.wh.victim", "").file("d/.wh.victim", "").file("d/.wh..wh..opq", "")
}

#[test]
fn nobody_gets_out_by_exchanging_directories_and_links() {
    for has_openat2 in [true, false] {
        let place = Place::new(has_openat2);
        let root = place.root();
        fs::create_dir(root.join("d")).expect("makes");
        symlink(place.outside(), root.join("l")).expect("links");
        let (done, swaps) = (AtomicBool::new(false), AtomicU32::new(0));
        let mut applied = 0;
        std::thread::scope(|scope| {
            let attacker = scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    renameat_with(CWD, root.join("d"), CWD, root.join("l"), RenameFlags::EXCHANGE)
                        .expect("exchanges");
                    swaps.fetch_add(1, Ordering::Relaxed);
                }
            });
            while swaps.load(Ordering::Relaxed) < SWAPS && !attacker.is_finished() {
                // It may fail: what it looks at is not there any more. That nothing is outside is looked at each time.
                applied += u32::from(place.apply(layer()).is_ok());
            }
            done.store(true, Ordering::Relaxed);
        });
        assert!(applied > 0 && swaps.into_inner() >= SWAPS);
    }
}
