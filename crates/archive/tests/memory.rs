//! How much memory an import takes. The only test of its process, which is what is measured.

mod fixtures;

use std::{
    io::{Cursor, Read},
    sync::Arc,
};

use fixtures::{Events, tarball::Into};
use wharf_archive::{ImportOptions, import};

/// The layer's length.
const LEN: u64 = 512 << 20;

/// What an import may take beyond what the process had before, in KiB.
const MAX_KIB: u64 = 32 << 10;

/// A tar with a layer of zeros, made while it is read.
fn zeros() -> impl Read + Send + 'static {
    let mut header = tar::Header::new_gnu();
    header.set_path("layer.tar").expect("fits");
    header.set_size(LEN);
    header.set_cksum();
    Cursor::new(header.as_bytes().to_vec()).chain(std::io::repeat(0).take(LEN + 1024))
}

/// The most memory that this process has had, in KiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("it is told");
    line.split_whitespace().nth(1).expect("a number").parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_passes_in_small_pieces() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let into = Into::local(&dir.path().join("store")).await;
    let events = Arc::new(Events::default());
    let options = ImportOptions::new().with_sink(events.clone());
    let before = peak();
    let error = import(into.store(), into.images.as_ref(), zeros(), &options).await.expect_err("no image");
    assert!(error.to_string().contains("neither"), "{error}");
    assert_eq!(events.with("done").len(), 1, "the layer is in the store");
    let grown = peak() - before;
    assert!(grown < MAX_KIB, "{grown} KiB more than before");
}
