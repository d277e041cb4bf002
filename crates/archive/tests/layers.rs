//! Layers in a store, unwrapped by what this crate registers: their diff ids, and what is told of those that cannot be unwrapped.

use std::{io::Write, sync::Arc};

use flate2::{Compression, write::GzEncoder};
use wharf_archive as _;
use wharf_content::{
    Catalogue, CommitOptions, Descriptor, Digest, ErrorKind, LocalStore, Manager, MemoryStore, Store,
    write_blob,
};
use wharf_images::{
    diff_id::{LABEL_UNCOMPRESSED, chain_id, chain_ids, diff_id},
    layer::{LayerOptions, open, read_error},
    media_types as types,
};

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("writing to memory");
    encoder.finish().expect("writing to memory")
}

async fn put(store: &dyn Store, media_type: &str, bytes: Vec<u8>) -> Descriptor {
    let descriptor = Descriptor::of(media_type, &bytes);
    let name = descriptor.digest.to_string();
    let options = CommitOptions::default();
    write_blob(store, &name, &descriptor, bytes.into(), options).await.expect("writes");
    descriptor
}

/// More than is read from a store at once, and no multiple of anything.
fn plain(seed: u8) -> Vec<u8> {
    (0..1_000_003_u32).map(|at| (at.wrapping_mul(0x9E37_79B9) >> 24) as u8 ^ seed).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn diff_ids_are_those_of_the_tar_streams() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let local = LocalStore::open(dir.path().join("store")).await.expect("opens");
    let stores: [Arc<dyn Store>; 2] = [Arc::new(MemoryStore::new()), Arc::new(local)];
    for store in stores {
        let mut diff_ids = Vec::new();
        for (seed, media_type, wrap) in [
            (1, types::OCI_LAYER_GZIP, gzip as fn(&[u8]) -> Vec<u8>),
            (2, types::OCI_LAYER_ZSTD, |bytes| zstd::encode_all(bytes, 3).expect("writing to memory")),
            (3, types::DOCKER_LAYER_GZIP, gzip),
            (4, types::DOCKER_LAYER, gzip),
            (5, types::DOCKER_LAYER, <[u8]>::to_vec),
            (6, types::OCI_LAYER, <[u8]>::to_vec),
        ] {
            let layer = put(store.as_ref(), media_type, wrap(&plain(seed))).await;
            let options = LayerOptions::default();
            let found = diff_id(store.as_ref(), &layer, Catalogue::linked(), &options).await;
            let expected = Digest::sha256(&plain(seed));
            assert_eq!(found.expect("decodes"), expected, "{media_type}");
            let label = store.info(&layer.digest).await.expect("there").labels.remove(LABEL_UNCOMPRESSED);
            let is_kept = media_type != types::OCI_LAYER;
            assert_eq!(label, is_kept.then(|| expected.to_string()), "{media_type}");
            diff_ids.push(expected);
        }
        assert_eq!(chain_ids(&diff_ids).last(), chain_id(&diff_ids).as_ref());
    }
}

#[tokio::test]
async fn a_layer_that_is_damaged_or_a_bomb_keeps_no_label() {
    let store = MemoryStore::new();
    let good = gzip(&plain(1));
    let cut = put(&store, types::OCI_LAYER_GZIP, good[..good.len() - 9].to_vec()).await;
    let junk = put(&store, types::OCI_LAYER_GZIP, [&good[..], b"junk"].concat()).await;
    let bomb = put(&store, types::OCI_LAYER_GZIP, good).await;
    let small = LayerOptions::default().with_max_len(1_000_002);
    for (layer, options, kind) in [
        (&cut, LayerOptions::default(), ErrorKind::InvalidArgument),
        (&junk, LayerOptions::default(), ErrorKind::InvalidArgument),
        (&bomb, small, ErrorKind::ResourceExhausted),
    ] {
        let error = diff_id(&store, layer, Catalogue::linked(), &options).await.expect_err("refused");
        assert_eq!(error.kind(), kind, "{}", error.report());
        assert!(error.to_string().contains(layer.digest.as_str()), "{error}");
        assert_eq!(store.info(&layer.digest).await.expect("there").labels.len(), 0);
    }
    let fits = small.with_max_len(1_000_003);
    assert!(diff_id(&store, &bomb, Catalogue::linked(), &fits).await.is_ok());
}

#[tokio::test]
async fn a_layer_is_opened_and_read_on_a_blocking_thread() {
    let store = MemoryStore::new();
    let layer = put(&store, types::DOCKER_LAYER, gzip(&plain(1))).await;
    let opened = open(&store, &layer, Catalogue::linked(), &LayerOptions::default()).await.expect("opens");
    assert_eq!(opened.media_type, types::OCI_LAYER);
    let mut stream = opened.stream;
    let read = tokio::task::spawn_blocking(move || {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).map(|_| bytes).map_err(|error| read_error("cannot read", error))
    });
    assert!(read.await.expect("no panic").expect("reads") == plain(1));
    let gone = Descriptor::of(types::OCI_LAYER, b"gone");
    let error = open(&store, &gone, Catalogue::linked(), &LayerOptions::default()).await;
    assert_eq!(error.expect_err("gone").kind(), ErrorKind::NotFound);
}
