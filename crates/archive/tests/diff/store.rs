//! Layers put into stores.

use std::{io::Read, sync::Arc};

use wharf_archive::{Diff, options::ArchiveCompression};
use wharf_content::{
    Catalogue, Digest, ErrorKind, IngestManager, LocalStore, Manager, MemoryStore, Store, filter::FilterSet,
};
use wharf_images::{
    diff_id::{LABEL_UNCOMPRESSED, computed},
    layer::{LayerOptions, open},
    media_types as types,
};

use super::trees::{self, Place};

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_in_a_store_is_what_was_written() {
    let place = Place::new();
    // Several chunks, which no compression makes one of.
    let noise: String =
        (0..600_000_u32).map(|at| char::from(33 + (at.wrapping_mul(0x9E37_79B9) >> 26) as u8)).collect();
    place.file("upper/d/noise", &noise);
    place.file("upper/other", "x");
    let diff = Diff::between(None, &place.path("upper"));
    let plain = trees::layer(&diff);
    let local = LocalStore::open(place.path("store")).await.expect("opens");
    let stores: [Arc<dyn Store>; 2] = [Arc::new(MemoryStore::new()), Arc::new(local)];
    for store in stores {
        for (compression, media_type) in [
            (ArchiveCompression::None, types::OCI_LAYER),
            (ArchiveCompression::Gzip, types::OCI_LAYER_GZIP),
            (ArchiveCompression::Zstd, types::OCI_LAYER_ZSTD),
        ] {
            let layer = diff.store(store.as_ref(), compression).await.expect("stores");
            assert_eq!(layer.descriptor.media_type, media_type);
            assert_eq!(layer.diff_id, Digest::sha256(&plain), "{media_type}");
            assert_eq!((layer.diffed.len, layer.diffed.entries), (plain.len() as u64, 3));
            let info = store.info(&layer.descriptor.digest).await.expect("there");
            assert_eq!(info.size, layer.descriptor.size);
            let is_compressed = compression != ArchiveCompression::None;
            let expected = is_compressed.then(|| layer.diff_id.to_string());
            assert_eq!(info.labels.get(LABEL_UNCOMPRESSED).cloned(), expected, "{media_type}");
            assert_eq!(layer.descriptor.size < plain.len() as u64, is_compressed, "{media_type}");

            let options = LayerOptions::default();
            let catalogue = Catalogue::linked();
            let found = computed(store.as_ref(), &layer.descriptor, catalogue, &options).await;
            assert_eq!(found.expect("decodes"), layer.diff_id);
            let mut stream =
                open(store.as_ref(), &layer.descriptor, catalogue, &options).await.expect("opens").stream;
            let read = tokio::task::spawn_blocking(move || {
                let mut bytes = Vec::new();
                stream.read_to_end(&mut bytes).map(|_| bytes)
            });
            assert!(read.await.expect("no panic").expect("reads") == plain, "{media_type}");

            // Once more: the same blob, and its label is put right.
            let path = format!("labels.{LABEL_UNCOMPRESSED}");
            let digest = &layer.descriptor.digest;
            store.update(digest, &wharf_content::Labels::new(), &[&path]).await.expect("takes it off");
            let again = diff.store(store.as_ref(), compression).await.expect("it is there");
            assert_eq!(again, layer);
            let labels = store.info(digest).await.expect("there").labels;
            assert_eq!(labels.get(LABEL_UNCOMPRESSED).cloned(), expected, "{media_type}");
        }
        assert_eq!(store.list_statuses(&FilterSet::default()).await.expect("lists").len(), 0);
    }
}

#[tokio::test]
async fn a_layer_that_cannot_be_made_leaves_nothing() {
    let place = Place::new();
    place.file("upper/a", &"x".repeat(3 << 20));
    place.file("upper/b/.wh.c", "x");
    let store = MemoryStore::new();
    for compression in [ArchiveCompression::None, ArchiveCompression::Gzip, ArchiveCompression::Zstd] {
        let error = Diff::between(None, &place.path("upper")).store(&store, compression).await;
        let error = error.expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{}", error.report());
        assert!(error.to_string().contains("b/.wh.c"), "{error}");
        assert_eq!(store.list_statuses(&FilterSet::default()).await.expect("lists").len(), 0);
        let mut blobs = 0;
        let mut count = |_| {
            blobs += 1;
            Ok(())
        };
        store.walk(&FilterSet::default(), &mut count).await.expect("walks");
        assert_eq!(blobs, 0);
    }
}
