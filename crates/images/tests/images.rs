//! Questions about images, and their records where they meet content. What every store of records promises is in `conformance.rs`.

use std::sync::{Arc, Mutex};

use serde_json::json;
use wharf_content::{
    BlobReader, Catalogue, CommitOptions, Descriptor, Digest, ErrorKind, Labels, LocalStore, Manager,
    MemoryStore, Provider, Result, write_blob,
};
use wharf_images::{
    Image, ImageStore, MemoryImages, Selection, image, image_store, media_types as types, record,
};
use wharf_platforms::Platform;

async fn put(store: &MemoryStore, media_type: &str, bytes: Vec<u8>) -> Descriptor {
    let descriptor = Descriptor::of(media_type, &bytes);
    write_blob(store, descriptor.digest.as_str(), &descriptor, bytes.into(), CommitOptions::default())
        .await
        .expect("writes");
    descriptor
}

/// Writes a manifest whose config names the platform, and gives the descriptor without it.
async fn put_manifest(store: &MemoryStore, platform: &str) -> Descriptor {
    let (os, architecture) = platform.split_once('/').expect("os/architecture");
    let config = json!({
        "os": os, "architecture": architecture,
        "rootfs": { "type": "layers", "diff_ids": [Digest::sha256(platform.as_bytes())] },
    });
    let config = put(store, types::OCI_CONFIG, config.to_string().into_bytes()).await;
    let layer = put(store, types::OCI_LAYER, platform.as_bytes().to_vec()).await;
    let manifest = json!({ "schemaVersion": 2, "config": config, "layers": [layer] });
    put(store, types::OCI_MANIFEST, manifest.to_string().into_bytes()).await
}

fn on(descriptor: &Descriptor, platform: &str) -> Descriptor {
    let (os, architecture) = platform.split_once('/').expect("os/architecture");
    descriptor.clone().with_platform(Platform::new(os, architecture))
}

async fn put_index(store: &MemoryStore, manifests: &[Descriptor]) -> Descriptor {
    let index = json!({ "schemaVersion": 2, "manifests": manifests });
    put(store, types::OCI_INDEX, index.to_string().into_bytes()).await
}

fn wanting(platform: &str) -> Selection {
    Selection::best(&[wharf_platforms::parse(platform).expect("a platform")])
}

async fn find(store: &MemoryStore, target: &Descriptor, platform: &str) -> Result<Digest> {
    let found = image::manifest(store, target, &wanting(platform), Catalogue::linked()).await?;
    Ok(found.descriptor.digest)
}

#[tokio::test]
async fn the_manifest_that_fits_best() {
    let store = MemoryStore::new();
    let (amd64, arm64, s390x) = (
        put_manifest(&store, "linux/amd64").await,
        put_manifest(&store, "linux/arm64").await,
        put_manifest(&store, "linux/s390x").await,
    );
    let index = put_index(&store, &[on(&arm64, "linux/arm64"), on(&amd64, "linux/amd64")]).await;
    assert_eq!(find(&store, &index, "linux/amd64").await.expect("there"), amd64.digest);
    assert_eq!(find(&store, &amd64, "linux/arm64").await.expect("a manifest is itself"), amd64.digest);

    // Without platforms in the index the configs tell, and the first candidate need not be the one.
    let bare = put_index(&store, &[arm64.clone(), amd64.clone(), s390x.clone()]).await;
    assert_eq!(find(&store, &bare, "linux/s390x").await.expect("there"), s390x.digest);

    let nested = put_index(&store, &[on(&arm64, "linux/arm64"), index.clone()]).await;
    assert_eq!(find(&store, &nested, "linux/amd64").await.expect("below"), amd64.digest);

    let error = find(&store, &bare, "linux/riscv64").await.expect_err("none");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    for has in ["linux/amd64", "linux/arm64", "linux/s390x"] {
        assert!(error.to_string().contains(has), "{error}");
    }
}

#[tokio::test]
async fn a_candidate_that_is_not_in_the_store_gives_way() {
    let store = MemoryStore::new();
    let (one, other) = (put_manifest(&store, "linux/386").await, put_manifest(&store, "linux/amd64").await);
    let index = put_index(&store, &[on(&other, "linux/amd64"), on(&one, "linux/386")]).await;
    assert_eq!(find(&store, &index, "linux/amd64").await.expect("there"), other.digest);
    store.delete(&other.digest).await.expect("deletes");
    // amd64 runs 386 too.
    assert_eq!(find(&store, &index, "linux/amd64").await.expect("the next best"), one.digest);
    store.delete(&one.digest).await.expect("deletes");
    assert_eq!(find(&store, &index, "linux/amd64").await.expect_err("gone").kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn an_index_that_lists_itself_ends() {
    // No document can hold its own digest, so the cycle is one of names: two entries of one index, again and again.
    let store = MemoryStore::new();
    let mut inner = put_manifest(&store, "linux/amd64").await;
    for _ in 0..100 {
        inner = put_index(&store, &[inner.clone(), inner]).await;
    }
    let catalogue = Catalogue::linked();
    let deep = image::check(Arc::new(store.clone()), &inner, &Selection::all(), catalogue).await;
    assert_eq!(deep.expect_err("too deep").kind(), ErrorKind::ResourceExhausted);
    assert!(find(&store, &inner, "linux/amd64").await.is_err());
}

/// A store that remembers what was read of it.
#[derive(Debug)]
struct Counting {
    store: MemoryStore,
    read: Mutex<Vec<Digest>>,
}

impl Counting {
    /// What was read since this was asked, sorted.
    fn taken(&self) -> Vec<Digest> {
        let mut read = std::mem::take(&mut *self.read.lock().expect("no panic"));
        read.sort();
        read
    }
}

#[wharf_images::async_trait]
impl Provider for Counting {
    async fn reader(&self, descriptor: &Descriptor) -> Result<Arc<dyn BlobReader>> {
        self.read.lock().expect("no panic").push(descriptor.digest.clone());
        self.store.reader(descriptor).await
    }
}

#[tokio::test]
async fn a_manifest_that_is_named_often_is_read_once() {
    let store = MemoryStore::new();
    let (arm64, s390x) =
        (put_manifest(&store, "linux/arm64").await, put_manifest(&store, "linux/s390x").await);
    let absent = Descriptor::of(types::OCI_MANIFEST, b"{}");
    let mut named = vec![arm64.clone(); 1000];
    named.extend(vec![absent.clone(); 1000]);
    named.extend([s390x.clone(), on(&s390x, "linux/riscv64"), s390x.clone()]);
    let index = put_index(&store, &named).await;
    let config_of = async |manifest: &Descriptor| {
        let manifest = wharf_images::decode(&store, manifest, Catalogue::linked()).await.expect("reads");
        manifest
            .and_then(|decoded| decoded.child(wharf_images::Role::Config).cloned())
            .expect("has one")
            .digest
    };
    let mut parts = vec![
        index.digest.clone(),
        arm64.digest.clone(),
        config_of(&arm64).await,
        absent.digest.clone(),
        s390x.digest.clone(),
        config_of(&s390x).await,
    ];
    parts.sort();
    let counting = Counting { store, read: Mutex::default() };
    let catalogue = Catalogue::linked();

    let found =
        image::manifest(&counting, &index, &wanting("linux/s390x"), catalogue).await.expect("the last");
    assert_eq!(found.descriptor.digest, s390x.digest);
    assert_eq!(counting.taken(), parts);

    let none = image::manifest(&counting, &index, &wanting("linux/ppc64le"), catalogue).await;
    assert_eq!(none.expect_err("none fits").kind(), ErrorKind::NotFound);
    assert_eq!(counting.taken(), parts);

    // What its config refused is taken where the index names the platform.
    let found =
        image::manifest(&counting, &index, &wanting("linux/riscv64"), catalogue).await.expect("named");
    assert_eq!(found.descriptor.digest, s390x.digest);
    counting.taken();

    let named = image::manifests(&counting, &index, catalogue).await.expect("reads");
    assert_eq!(counting.taken(), parts);
    let told = |at: usize| (named[at].platform.as_ref().map(wharf_platforms::format), named[at].present);
    let on = |platform: &str| (Some(platform.to_owned()), true);
    assert_eq!(named.len(), 2003, "every entry is listed");
    assert_eq!((told(0), told(999)), (on("linux/arm64"), on("linux/arm64")));
    assert_eq!((told(1000), told(1999)), ((None, false), (None, false)));
    assert_eq!([told(2000), told(2001), told(2002)], ["linux/s390x", "linux/riscv64", "linux/s390x"].map(on));
}

#[tokio::test]
async fn manifests_that_share_a_config_read_it_once() {
    let store = MemoryStore::new();
    let config = put(&store, types::OCI_CONFIG, br#"{"os":"linux","architecture":"arm64"}"#.to_vec()).await;
    let mut named = Vec::new();
    for at in 0..100 {
        let manifest = json!({ "config": config, "layers": [], "annotations": { "at": at.to_string() } });
        named.push(put(&store, types::OCI_MANIFEST, manifest.to_string().into_bytes()).await);
    }
    let index = put_index(&store, &named).await;
    let counting = Counting { store, read: Mutex::default() };
    let catalogue = Catalogue::linked();
    assert!(image::manifest(&counting, &index, &wanting("linux/s390x"), catalogue).await.is_err());
    assert_eq!(counting.taken().iter().filter(|read| **read == config.digest).count(), 1);
    let named = image::manifests(&counting, &index, catalogue).await.expect("reads");
    assert!(named.len() == 100 && named.iter().all(|named| named.platform.is_some()));
    assert_eq!(counting.taken().iter().filter(|read| **read == config.digest).count(), 1);
}

#[tokio::test]
async fn what_is_there_and_what_is_missing() {
    let store = MemoryStore::new();
    let (amd64, arm64) =
        (put_manifest(&store, "linux/amd64").await, put_manifest(&store, "linux/arm64").await);
    let index = put_index(&store, &[on(&amd64, "linux/amd64"), on(&arm64, "linux/arm64")]).await;
    let (provider, catalogue) = (Arc::new(store.clone()), Catalogue::linked());
    let check = |selection: Selection| {
        let (provider, index) = (provider.clone(), index.clone());
        async move { image::check(provider, &index, &selection, catalogue).await.expect("checks") }
    };
    let all = check(Selection::all()).await;
    assert!(all.is_complete());
    assert_eq!((all.required.len(), all.missing.len()), (7, 0));
    let sum: u64 = all.required.iter().map(|part| part.size).sum();
    assert_eq!(all.required_size().expect("small"), sum);
    let size = image::size(provider.clone(), &index, &Selection::all(), catalogue).await;
    assert_eq!(size.expect("small"), sum);

    store.delete(&Digest::sha256(b"linux/arm64")).await.expect("deletes");
    let all = check(Selection::all()).await;
    assert_eq!((all.required.len(), all.present.len(), all.missing.len()), (7, 6, 1));
    assert!(!all.is_complete());
    assert!(check(wanting("linux/amd64")).await.is_complete());

    store.delete(&arm64.digest).await.expect("deletes");
    let names = |platforms: Vec<Platform>| platforms.iter().map(wharf_platforms::format).collect::<Vec<_>>();
    let claimed = image::platforms(&store, &index, catalogue).await.expect("reads");
    assert_eq!(names(claimed), ["linux/amd64", "linux/arm64"]);
    let present = image::present_platforms(&store, &index, catalogue).await.expect("reads");
    assert_eq!(names(present), ["linux/amd64"]);
}

#[tokio::test]
async fn sizes_that_overflow_are_an_error() {
    let store = MemoryStore::new();
    let config = put(&store, types::OCI_CONFIG, b"{}".to_vec()).await;
    let huge = |name: &str| json!({ "mediaType": types::OCI_LAYER, "digest": Digest::sha256(name.as_bytes()), "size": i64::MAX });
    let manifest = json!({ "config": config, "layers": [huge("1"), huge("2"), huge("3")] });
    let manifest = put(&store, types::OCI_MANIFEST, manifest.to_string().into_bytes()).await;
    let size = image::size(Arc::new(store), &manifest, &Selection::all(), Catalogue::linked()).await;
    assert_eq!(size.expect_err("overflows").kind(), ErrorKind::OutOfRange);
}

#[test]
fn configs() {
    let config = br#"{"os":"Linux","architecture":"x86_64","rootfs":{"type":"layers","diff_ids":null}}"#;
    let platform = image::platform_of_config(config).expect("says so");
    assert_eq!(wharf_platforms::format(&platform), "linux/amd64");
    assert_eq!(image::rootfs(config).expect("a config"), []);
    for other in ["{}", r#"{"os":"unknown","architecture":"unknown"}"#, "no", "[]"] {
        assert_eq!(image::platform_of_config(other.as_bytes()), None, "{other}");
    }
    assert!(image::rootfs(b"{}").is_err());
    assert!(image::rootfs(br#"{"rootfs":{"diff_ids":["sha256:../.."]}}"#).is_err());
}

#[tokio::test]
async fn putting_makes_or_replaces() {
    let images = MemoryImages::new();
    let (one, two) = (Descriptor::of("m", b"one"), Descriptor::of("m", b"two"));
    let made = record::put(&images, Image::new("a", one.clone())).await.expect("creates");
    let labels: Labels = [("k".to_owned(), "v".to_owned())].into();
    let replaced = record::put(&images, Image::new("a", two.clone()).with_labels(labels.clone()))
        .await
        .expect("replaces");
    assert_eq!((&replaced.target, &replaced.labels), (&two, &labels));
    assert_eq!(replaced.created_at, made.created_at);
    assert_eq!(images.get("a").await.expect("there"), replaced);
    let refused = record::put(&images, Image::new("", one)).await.expect_err("no name");
    assert_eq!(refused.kind(), ErrorKind::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_synchronous_delete_collects() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let store = LocalStore::open(dir.path().join("store")).await.expect("opens");
    let images = image_store(&store).expect("opens");
    let blob = Descriptor::of("application/octet-stream", b"content");
    let written = write_blob(&store, "x", &blob, b"content".to_vec().into(), CommitOptions::default());
    written.await.expect("writes");
    for name in ["a", "b"] {
        images.create(Image::new(name, blob.clone())).await.expect("creates");
    }
    let delete = async |name: &str, expected: &Descriptor| {
        record::delete_and_collect(&store, images.as_ref(), name, Some(expected)).await
    };
    let other = Descriptor::of("m", b"other");
    assert_eq!(delete("a", &other).await.expect_err("another target").kind(), ErrorKind::NotFound);
    assert_eq!(delete("a", &blob).await.expect("deletes").len(), 0, "the other image keeps it");
    store.info(&blob.digest).await.expect("kept");
    assert_eq!(delete("b", &blob).await.expect("deletes").len(), 1);
    assert_eq!(store.info(&blob.digest).await.expect_err("collected").kind(), ErrorKind::NotFound);
}
