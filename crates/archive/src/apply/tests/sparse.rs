//! Sparse files in every form that archives have them.

use super::*;

#[test]
fn sparse_files_of_every_kind() {
    let mut expected = vec![0; 10_000];
    expected[100..612].fill(b'f');
    expected[9_000..9_006].copy_from_slice(b"second");
    let content = [&[b'f'; 512][..], b"second"].concat();
    let content = &content[..];
    let map = {
        let mut map = b"3\n100\n512\n9000\n6\n10000\n0\n".to_vec();
        map.resize(512, 0);
        map
    };
    let old = |goes_on: bool| {
        move |header: &mut tar::Header| {
            header.as_mut_bytes()[257..265].copy_from_slice(b"ustar  \0");
            header.as_mut_bytes()[345..].fill(0);
            let block = header.as_mut_bytes();
            block[386..410].copy_from_slice(b"00000000144\x0000000001000\0");
            if !goes_on {
                block[410..434].copy_from_slice(b"00000021450\x0000000000006\0");
            }
            block[482] = u8::from(goes_on);
            block[483..495].copy_from_slice(b"00000023420\0");
        }
    };
    let mut extended = Layer::default().with("s", b'S', b"", old(true));
    let mut block = [0; 512];
    block[..24].copy_from_slice(b"00000021450\x0000000000006\0");
    // The size in the header is that of the content behind the block.
    extended.0[124..136].copy_from_slice(b"00000001006\0");
    let sum: u32 =
        (0..512).map(|at| if (148..156).contains(&at) { 32 } else { u32::from(extended.0[at]) }).sum();
    extended.0[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    extended.0.extend_from_slice(&block);
    extended.0.extend_from_slice(content);
    extended.0.resize(extended.0.len().next_multiple_of(512), 0);
    let size = ("GNU.sparse.size", &b"10000"[..]);
    for (form, layer) in [
        ("old", Layer::default().with("s", b'S', content, old(false))),
        ("old, extended", extended),
        (
            "0.0",
            Layer::default()
                .pax(&[
                    size,
                    ("GNU.sparse.numblocks", b"2"),
                    ("GNU.sparse.offset", b"100"),
                    ("GNU.sparse.numbytes", b"512"),
                    ("GNU.sparse.offset", b"9000"),
                    ("GNU.sparse.numbytes", b"6"),
                ])
                .entry("s", b'0', content),
        ),
        (
            "0.1",
            Layer::default()
                .pax(&[size, ("GNU.sparse.map", b"100,512,9000,6"), ("GNU.sparse.name", b"s")])
                .entry("GNUSparseFile.1/s", b'0', content),
        ),
        (
            "1.0",
            Layer::default()
                .pax(&[
                    ("GNU.sparse.major", b"1"),
                    ("GNU.sparse.minor", b"0"),
                    ("GNU.sparse.name", b"s"),
                    ("GNU.sparse.realsize", b"10000"),
                ])
                .entry("GNUSparseFile.1/s", b'0', &[&map[..], content].concat()),
        ),
    ] {
        let place = Place::new(true);
        place.apply(layer.file("next", "n")).expect(form);
        assert_eq!(place.list(), ["next", "s"], "{form}");
        assert!(fs::read(place.root().join("s")).expect("reads") == expected, "{form}");
    }
    for (what, layer) in [
        (
            "behind its end",
            Layer::default().pax(&[size, ("GNU.sparse.map", b"9999,2")]).entry("s", b'0', b"ab"),
        ),
        (
            "whole blocks",
            Layer::default().pax(&[size, ("GNU.sparse.map", b"0,1,5,1")]).entry("s", b'0', b"ab"),
        ),
        ("as long as", Layer::default().pax(&[size, ("GNU.sparse.map", b"0,3")]).entry("s", b'0', b"ab")),
        ("sparse in two ways", Layer::default().pax(&[size]).with("s", b'S', content, old(false))),
        ("no file", Layer::default().pax(&[size]).dir("s")),
    ] {
        let error = Place::new(true).apply(layer).expect_err(what);
        assert!(error.to_string().contains(what), "{what}: {error}");
    }
}
