//! The reader against what other programs write, and against what nobody should have written.

use proptest::prelude::*;
use tar::Header as Block;
use wharf_content::ErrorKind;

use super::*;

type Read = (Vec<u8>, Kind, Vec<u8>);

fn read(bytes: &[u8]) -> Result<Vec<Read>> {
    let mut tar = TarReader::new(bytes);
    let mut entries = Vec::new();
    while let Some(entry) = tar.next()? {
        let mut content = Vec::new();
        while let Some(chunk) = tar.chunk()? {
            content.extend_from_slice(&chunk);
        }
        assert_eq!(content.len() as u64, entry.size);
        entries.push((entry.name, entry.kind, content));
    }
    Ok(entries)
}

/// A header block and its content, filled up to whole blocks.
fn record(name: &str, flag: u8, content: &[u8]) -> Vec<u8> {
    let mut block = block(name, flag, content.len() as u64);
    block.extend_from_slice(content);
    block.resize(block.len().next_multiple_of(BLOCK_LEN), 0);
    block
}

fn block(name: &str, flag: u8, size: u64) -> Vec<u8> {
    changed(name, flag, size, |_| ())
}

fn changed(name: &str, flag: u8, size: u64, change: impl FnOnce(&mut Block)) -> Vec<u8> {
    let mut block = Block::new_ustar();
    block.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
    block.as_mut_bytes()[156] = flag;
    block.set_size(size);
    change(&mut block);
    block.set_cksum();
    block.as_bytes().to_vec()
}

fn pax(records: &[(&str, &str)]) -> Vec<u8> {
    let mut text = Vec::new();
    for (key, value) in records {
        let rest = format!(" {key}={value}\n");
        let mut len = rest.len() + 1;
        while len != rest.len() + len.to_string().len() {
            len = rest.len() + len.to_string().len();
        }
        text.extend(format!("{len}{rest}").into_bytes());
    }
    text
}

fn ended(parts: &[Vec<u8>]) -> Vec<u8> {
    let mut archive = parts.concat();
    archive.resize(archive.len() + 2 * BLOCK_LEN, 0);
    archive
}

fn file(name: &str, content: &[u8]) -> Read {
    (name.as_bytes().to_vec(), Kind::File, content.to_vec())
}

#[test]
fn what_headers_say_belongs_to_the_entry_after_them_and_to_no_other() {
    let long = "n".repeat(300);
    for (parts, expected) in [
        // A size in a pax header is that of the file, not of the long name between them (CVE-2025-62518).
        (
            vec![
                record("x", b'x', &pax(&[("size", "3")])),
                record("././@LongLink", b'L', format!("{long}\0").as_bytes()),
                block("cut", b'0', 0),
                b"abc".iter().copied().chain([0; 509]).collect(),
                record("next", b'0', b"d"),
            ],
            vec![file(&long, b"abc"), file("next", b"d")],
        ),
        (
            vec![record("x", b'x', &pax(&[("path", &long), ("mtime", "-1.5")])), record("cut", b'0', b"abc")],
            vec![file(&long, b"abc")],
        ),
        (vec![record("g", b'g', &pax(&[("comment", "x")])), record("a", b'0', b"")], vec![file("a", b"")]),
        (
            vec![changed("name", b'0', 0, |block| block.as_mut_bytes()[345..348].copy_from_slice(b"dir"))],
            vec![file("dir/name", b"")],
        ),
        (
            vec![record("dir/", 0, b""), record("old", 0, b"x"), record("contiguous", b'7', b"y")],
            vec![(b"dir/".to_vec(), Kind::Directory, vec![]), file("old", b"x"), file("contiguous", b"y")],
        ),
        (
            vec![
                changed("hard", b'1', 0, |block| block.set_link_name("a").expect("fits")),
                record("././@LongLink", b'K', long.as_bytes()),
                record("soft", b'2', b""),
                record("fifo", b'6', b""),
                record("unknown", b'Z', b"skipped"),
            ],
            vec![
                (b"hard".to_vec(), Kind::HardLink(b"a".to_vec()), vec![]),
                (b"soft".to_vec(), Kind::Symlink(long.clone().into_bytes()), vec![]),
                (b"fifo".to_vec(), Kind::Fifo, vec![]),
                (b"unknown".to_vec(), Kind::Unknown(b'Z'), b"skipped".to_vec()),
            ],
        ),
        (vec![], vec![]),
    ] {
        assert_eq!(read(&ended(&parts)).expect("reads"), expected);
    }
}

/// A header of the kind that a mark tells, with something where ustar has directories.
fn prefixed(mark: &[u8], prefix: &[u8]) -> Vec<u8> {
    changed("name", b'0', 0, |block| {
        block.as_mut_bytes()[257..265].copy_from_slice(mark);
        block.as_mut_bytes()[345..345 + prefix.len()].copy_from_slice(prefix);
    })
}

#[test]
fn headers_of_every_kind() {
    for (part, name) in [
        (prefixed(b"ustar\x0000", b"dir"), "dir/name"),
        (prefixed(b"ustar  \0", b""), "name"),
        (prefixed(b"\0\0\0\0\0\0\0\0", b""), "name"),
    ] {
        assert_eq!(read(&ended(&[part])).expect("reads"), vec![file(name, b"")]);
    }
}

#[test]
fn what_can_be_read_in_two_ways_is_refused() {
    let good = record("a", b'0', b"abc");
    let mut damaged = good.clone();
    damaged[0] ^= 1;
    let x = |records: &[(&str, &str)]| record("x", b'x', &pax(records));
    let huge = changed("a", b'0', 0, |block| block.as_mut_bytes()[124..136].fill(0xff));
    let sized =
        |size: &[u8; 12]| changed("a", b'0', 0, |block| block.as_mut_bytes()[124..136].copy_from_slice(size));
    for (parts, words) in [
        (vec![damaged], "checksum"),
        (vec![vec![b'x'; BLOCK_LEN]], "checksum"),
        (vec![x(&[("size", "-1")]), good.clone()], "size"),
        (vec![x(&[("size", "1e3")]), good.clone()], "size"),
        (vec![record("x", b'x', b"9 path"), good.clone()], "cannot be read"),
        (vec![x(&[("path", "b")]), x(&[("path", "c")]), good.clone()], "two pax headers"),
        (vec![x(&[("path", "a"), ("path", "")]), good.clone()], "empty name"),
        (vec![x(&[("path", "b")]), record("L", b'L', b"c"), good.clone()], "two names"),
        (vec![record("L", b'L', b"b"), record("L", b'L', b"c"), good.clone()], "two long names"),
        (vec![x(&[("path", "b")])], "belongs to another"),
        (vec![record("g", b'g', &pax(&[("path", "b")])), good.clone()], "global"),
        (vec![record("g", b'g', &pax(&[("size", "1")])), good.clone()], "global"),
        (vec![x(&[("GNU.sparse.realsize", "99")]), good.clone()], "sparse"),
        (vec![record("s", b'S', b"abc")], "sparse"),
        (vec![block("l", b'2', 512), vec![0; 512]], "with content"),
        (vec![block("d/", b'5', 512), vec![0; 512]], "with content"),
        // Python takes the content of an old directory for the next header.
        (vec![block("d/", 0, 512), good.clone()], "with content"),
        // GNU tar makes a directory of it, Python and Go a file.
        (vec![record("a/", b'0', b"abc")], "ends as that of a directory"),
        (vec![record("a/", b'7', b"abc")], "ends as that of a directory"),
        (vec![x(&[("path", "a/")]), good.clone()], "ends as that of a directory"),
        (vec![x(&[("path", "a/")]), record("a", 0, b"")], "by one of its names"),
        (vec![x(&[("path", "a")]), record("a/", 0, b"")], "by one of its names"),
        (vec![record("L", b'L', b"long/"), record("cut", 0, b"")], "by one of its names"),
        // Python takes for directories what is in the place of ustar's.
        (vec![prefixed(b"ustar  \0", b"dir")], "where ustar has directories"),
        (vec![prefixed(b"ustar  \0", b"14726746410\x0014726746410\0")], "where ustar has directories"),
        (vec![prefixed(b"\0\0\0\0\0\0\0\0", b"dir")], "where ustar has directories"),
        (vec![sized(b"\x0000000003\0\0\0")], "size"),
        (vec![sized(b"\0 0000003\0\0\0")], "size"),
        (vec![sized(b"0o3\0\0\0\0\0\0\0\0\0")], "size"),
        (vec![sized(b"+AAAAAAAAAA=")], "size"),
        (vec![huge], "negative or too large"),
        (vec![x(&[("path", &"n".repeat(4097))]), good.clone()], "4096"),
    ] {
        let error = read(&ended(&parts)).expect_err(words);
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
        assert!(error.to_string().contains(words) && error.to_string().contains("at byte "), "{error}");
    }
    let long = |len: usize| ended(&[record("L", b'L', &vec![b'n'; len]), good.clone()]);
    assert_eq!(read(&long(2 << 20)).expect_err("too long").kind(), ErrorKind::ResourceExhausted);
    // It claims GiB and has nothing.
    let claims = [block("x", b'x', 4 << 30), vec![0; 512]].concat();
    assert_eq!(read(&claims).expect_err("claims").kind(), ErrorKind::ResourceExhausted);
}

#[test]
fn an_archive_ends_where_it_ends() {
    let good = record("a", b'0', b"abc");
    let with = |tail: &[u8]| read(&[&good[..], tail].concat());
    for tail in [&[0; 512][..], &[0; 1024], &[0; 10240], &[0; 700]] {
        assert_eq!(with(tail).expect("ends").len(), 1, "{} zeros", tail.len());
    }
    for tail in [&b""[..], &[0; 511], b"x"] {
        assert_eq!(with(tail).expect_err("cut short").kind(), ErrorKind::DataLoss);
    }
    for junk in [&b"x"[..], &good] {
        for zeros in [512, 1024, 1100] {
            let error = with(&[&vec![0; zeros], junk].concat()).expect_err("junk");
            assert!(error.to_string().contains("behind its end"), "{error}");
        }
    }
}

fn entries() -> impl Strategy<Value = Vec<(String, Vec<u8>)>> {
    let name = prop_oneof!["[a-z]{1,12}(/[a-z.]{1,12}){0,3}", "[a-z/]{90,110}", "[a-zä]{1,400}"];
    prop::collection::vec((name, prop::collection::vec(any::<u8>(), 0..1200)), 0..6)
}

proptest! {
    #[test]
    fn what_the_tar_crate_writes_is_read(entries in entries(), cut in any::<prop::sample::Index>()) {
        let mut builder = tar::Builder::new(Vec::new());
        let mut expected = Vec::new();
        for (name, content) in &entries {
            let mut header = Block::new_gnu();
            // By the old flag of files a name that is cut after a slash would be that of a directory.
            header.set_entry_type(tar::EntryType::Regular);
            header.set_size(content.len() as u64);
            // It takes no path that begins or ends with a slash.
            let name = name.trim_matches('/');
            if name.is_empty() || builder.append_data(&mut header, name, &content[..]).is_err() {
                continue;
            }
            expected.push(content.clone());
        }
        let archive = builder.into_inner().expect("writing to memory");
        let found = read(&archive).expect("reads");
        let theirs: Vec<_> = tar::Archive::new(&archive[..])
            .entries()
            .expect("a tar")
            .map(|entry| entry.expect("an entry").path_bytes().into_owned())
            .collect();
        prop_assert_eq!(found.iter().map(|(name, ..)| name.clone()).collect::<Vec<_>>(), theirs);
        prop_assert_eq!(found.into_iter().map(|(.., content)| content).collect::<Vec<_>>(), expected);
        // Without its end mark it is not whole, wherever it is cut.
        let cut = cut.index(archive.len() - 1023);
        prop_assert_eq!(read(&archive[..cut]).expect_err("cut short").kind(), ErrorKind::DataLoss);
    }

    #[test]
    fn no_bytes_make_it_panic(
        entries in entries(),
        noise in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        flag in prop::sample::select(&b"0xgLKS12"[..]),
        tail in prop::collection::vec(any::<u8>(), 0..2000),
    ) {
        let parts: Vec<_> =
            entries.iter().map(|(_, content)| record("name", flag, content)).collect();
        let mut archive = parts.concat();
        for (at, byte) in noise {
            if !archive.is_empty() {
                let at = at.index(archive.len());
                archive[at] = byte;
            }
        }
        archive.extend(tail);
        drop(read(&archive));
        drop(read(&ended(&[archive])));
    }
}
