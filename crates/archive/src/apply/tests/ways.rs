//! Links that make the way to a directory long, so that a small layer costs much time or memory.

use super::*;

/// A chain of links of which each goes by some two thousand names, by way of the one before it, and as many directories at its end.
fn round_about(directories: usize) -> Layer {
    const LINKS: usize = 38;
    let mut layer = Layer::default().dir("end");
    for at in 0..LINKS {
        let to = if at == 0 { "end".to_owned() } else { format!("l{}", at - 1) };
        let target = format!("{}{to}", "./".repeat(2_000));
        layer = layer.pax(&[("linkpath", target.as_bytes())]).link(&format!("l{at}"), "");
    }
    for at in 0..directories {
        layer = layer.file(&format!("l{}/{at}/f", LINKS - 1), "");
    }
    layer
}

#[test]
fn a_layer_s_links_may_go_a_long_way_round_together_but_not_without_end() {
    both(|place| {
        place.apply(round_about(5)).expect("an odd layer, but not a long way");
        assert_eq!(place.text("end/4/f").as_deref(), Some(""));
        // Each layer has as much again.
        place.apply(round_about(5)).expect("an odd layer, but not a long way");
        let error = place.apply(round_about(20)).expect_err("a million names");
        assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
        assert!(error.report().contains("a longer way round"), "{}", error.report());
    });
}

/// Directories with a path of some 150 KiB, to which short names lead.
fn deep(directories: usize) -> Layer {
    const LINKS: usize = 38;
    let names = format!("{}/", "n".repeat(255)).repeat(15);
    let mut layer = Layer::default().dir("0");
    for at in 0..LINKS {
        let inside = format!("{at}/{names}");
        layer = layer.pax(&[("path", format!("{inside}f").as_bytes())]).file("", "");
        layer = layer.pax(&[("linkpath", inside.as_bytes())]).link(&(at + 1).to_string(), "");
    }
    for at in 0..directories {
        layer = layer.dir(&format!("{LINKS}/d{at}"));
    }
    layer
}

#[test]
fn paths_that_are_kept_do_not_fill_memory() {
    for ownership in [Ownership::Image, Ownership::User] {
        let place = Place::of(true, ownership);
        place.apply(deep(20)).expect("deeper than anybody needs, but few");
        let error = place.apply(deep(600)).expect_err("a hundred megabytes of paths");
        assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
        assert!(error.report().contains("more and deeper directories"), "{}", error.report());
        remove_tree(&place.root()).expect("removes");
    }
}
