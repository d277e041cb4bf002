//! Copying between registries, memory and stores.

#[path = "copy/faults.rs"]
mod faults;
#[path = "copy/referrers.rs"]
mod referrers;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use wharf_content::{
    CommitOptions, Descriptor, Digest, ErrorKind, Info, LocalStore, Manager, MemoryStore, Result, Store,
    filter::FilterSet, gc::CollectOptions, read_blob, write_blob,
};
use wharf_images::{
    Image, ImageStore, MemoryImages, Selection, collect, image_store, media_types as types,
    transport::{MemoryRegistry, Resolver},
};
use wharf_remotes::{
    CopyOptions, Portion, PullOptions, PushOptions, Pushed, StoreResolver, copy, pull, push,
    registry::{RegistryResolver, RegistrySettings},
};
use wharf_tests::{ImageFixture, Layer, Reply, ScriptedRegistry, TestRegistry};

fn resolver() -> RegistryResolver {
    RegistryResolver::new(RegistrySettings::new().with_retries(2, Duration::from_millis(1)))
}

async fn copied_with(
    source: &dyn Resolver,
    from: &str,
    destination: &dyn Resolver,
    to: &str,
    options: CopyOptions,
) -> Result<Pushed> {
    let work = copy(source, from, destination, to, &options);
    tokio::time::timeout(Duration::from_secs(30), work).await.expect("bounded in time")
}

/// Whoever has a runtime of several threads spawns these.
#[test]
fn what_moves_images_may_move_between_threads() {
    fn is_send<T: Send>(_: T) {}
    let (resolver, images): (RegistryResolver, MemoryImages) = (resolver(), MemoryImages::new());
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let image = Image::new("a", Descriptor::of(types::OCI_MANIFEST, b"{}"));
    is_send(push(Arc::clone(&store), &image, &resolver, "a", &PushOptions::new()));
    is_send(pull(store, &images, &resolver, "a", PullOptions::new()));
    is_send(copy(&resolver, "a", &resolver, "b", &CopyOptions::new()));
}

/// Copies between registries.
async fn copied(from: &str, to: &str, options: CopyOptions) -> Result<Pushed> {
    copied_with(&resolver(), from, &resolver(), to, options).await
}

fn two_platforms() -> ImageFixture {
    ["linux/amd64", "linux/arm64"].into_iter().fold(ImageFixture::new(), |image, platform| {
        image.with(platform, vec![Layer::noise("data", 90_000, 1), Layer::of("platform", platform)])
    })
}

fn one_layer(len: usize) -> ImageFixture {
    ImageFixture::new().with("linux/amd64", vec![Layer::noise("data", len, 7)])
}

fn selection(platforms: &[&str]) -> Selection {
    Selection::best(&wharf_platforms::parse_all(platforms).expect("platforms"))
}

/// Every digest of a store.
async fn digests(store: &dyn Store) -> BTreeSet<Digest> {
    let mut digests = BTreeSet::new();
    let mut visit = |info: Info| {
        digests.insert(info.digest);
        Ok(())
    };
    store.walk(&FilterSet::all(), &mut visit).await.expect("walks");
    digests
}

/// Methods of the requests so far, sorted and counted.
fn methods(registry: &TestRegistry) -> Vec<(String, usize)> {
    let mut counts: HashMap<String, usize> = HashMap::new();
    for record in registry.take_log() {
        *counts.entry(record.method).or_default() += 1;
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort();
    counts
}

fn counted(pairs: &[(&str, usize)]) -> Vec<(String, usize)> {
    pairs.iter().map(|(method, count)| ((*method).to_owned(), *count)).collect()
}

#[tokio::test]
async fn every_digest_arrives_and_a_second_copy_only_looks() {
    for (fixture, parts, second_source, second_destination) in [
        (one_layer(50_000), 3, &[("HEAD", 1)][..], &[("HEAD", 1)][..]),
        (one_layer(50_000).docker(), 3, &[("HEAD", 1)], &[("HEAD", 1)]),
        // Of the index its manifests are looked for; one layer is in both.
        (two_platforms(), 8, &[("GET", 1), ("HEAD", 1)], &[("HEAD", 3)]),
        (two_platforms().docker(), 8, &[("GET", 1), ("HEAD", 1)], &[("HEAD", 3)]),
    ] {
        let (source, destination) = (TestRegistry::start().await, TestRegistry::start().await);
        let from = source.put("team/image:1", &fixture).await.expect("puts");
        let to = destination.reference("mirror/image:1");
        source.take_log();
        let first = copied(&from, &to, CopyOptions::new()).await.expect("copies");
        assert_eq!((first.sent, first.mounted, first.existing, first.skipped), (parts, 0, 0, 0));
        assert_eq!(first.target.digest, source.image(&from).await.expect("there").target.digest);
        let gets = source.take_log().into_iter().filter(|record| record.method == "GET").count();
        assert_eq!(gets, parts, "each part is fetched once");
        assert_eq!(digests(destination.store()).await, digests(source.store()).await);
        let there = destination.image(&to).await.expect("recorded").target;
        assert_eq!(there, first.target);
        let here = read_blob(source.store(), &first.target, 1 << 20).await.expect("reads");
        assert_eq!(read_blob(destination.store(), &there, 1 << 20).await.expect("reads"), here);

        destination.take_log();
        let second = copied(&from, &to, CopyOptions::new()).await.expect("copies");
        assert_eq!((second.sent, second.mounted), (0, 0));
        assert_eq!(methods(&source), counted(second_source));
        assert_eq!(methods(&destination), counted(second_destination));
    }
}

#[tokio::test]
async fn only_what_is_missing_is_moved() {
    let (source, destination) = (TestRegistry::start().await, TestRegistry::start().await);
    let base = ImageFixture::new().with("linux/amd64", vec![Layer::noise("data", 90_000, 1)]);
    let above = ImageFixture::new()
        .with("linux/amd64", vec![Layer::noise("data", 90_000, 1), Layer::noise("more", 20_000, 2)]);
    destination.put("x:base", &base).await.expect("puts");
    let from = source.put("x:1", &above).await.expect("puts");
    source.take_log();
    let pushed = copied(&from, &destination.reference("x:1"), CopyOptions::new()).await.expect("copies");
    assert_eq!((pushed.sent, pushed.existing), (3, 1), "one layer was there");
    let fetched: u64 = source.take_log().iter().map(|record| record.bytes).sum();
    assert!(fetched < 40_000, "{fetched} bytes");
    // A name more costs no blob, and no document but the root.
    let again = copied(&from, &destination.reference("x:2"), CopyOptions::new()).await.expect("copies");
    assert_eq!((again.sent, again.existing), (1, 0));
}

#[tokio::test]
async fn within_one_registry_blobs_are_mounted_and_not_moved() {
    let quirky = ScriptedRegistry::start(|request, _| {
        // It has the same content in every repository, and here the destination seems to have none.
        let is_there = !request.path.starts_with("/v2/team/app/") || request.method != "HEAD";
        (!is_there).then(|| Reply::new(404, &[], ""))
    })
    .await;
    let memory = MemoryRegistry::new();
    let registry = TestRegistry::start().await;
    let name = registry.put("x:1", &one_layer(60_000)).await.expect("puts");
    copied_with(&resolver(), &name, &memory, "m.example/x:1", CopyOptions::new()).await.expect("copies");
    let base = quirky.reference("team/base:1");
    copied_with(&memory, "m.example/x:1", &resolver(), &base, CopyOptions::new()).await.expect("copies");
    let before = quirky.contents.requests().len();
    let both = resolver();
    let to = quirky.reference("team/app:1");
    let pushed = copied_with(&both, &base, &both, &to, CopyOptions::new()).await.expect("copies");
    assert_eq!((pushed.mounted, pushed.sent), (2, 1));
    let requests = quirky.contents.requests().split_off(before);
    let posts: Vec<_> = requests.iter().filter(|request| request.method == "POST").collect();
    assert!(posts.iter().all(|post| post.path.ends_with("&from=team%2Fbase")), "{posts:?}");
    let blobs = requests.iter().filter(|request| request.method == "GET" && request.path.contains("/blobs/"));
    assert_eq!(blobs.count(), 0, "no blob was fetched");
    // In memory too.
    let twin = copied_with(&memory, "m.example/x:1", &memory, "m.example/y:1", CopyOptions::new())
        .await
        .expect("copies");
    assert_eq!((twin.mounted, twin.sent), (2, 1));
}

#[tokio::test]
async fn platforms() {
    let (source, destination) = (TestRegistry::start().await, TestRegistry::start().await);
    let from = source.put("x:1", &two_platforms()).await.expect("puts");
    let index = source.image(&from).await.expect("there").target.digest;
    let copy = async |portion, tag: &str| {
        let options = CopyOptions::new().with_portion(portion);
        copied(&from, &destination.reference(&format!("x:{tag}")), options).await
    };
    let best = copy(Portion::Best(selection(&["linux/arm64"])), "best").await.expect("copies");
    assert_eq!((best.target.media_type.as_str(), best.sent), (types::OCI_MANIFEST, 4));
    assert_eq!(best.target.platform.map(|platform| platform.architecture).as_deref(), Some("arm64"));
    let sparse = copy(Portion::Sparse(selection(&["linux/arm64"])), "sparse").await.expect("copies");
    assert_eq!((&sparse.target.digest, sparse.sent), (&index, 1), "that manifest is there");
    // A sparse index that is there does not hide what it lacks.
    let whole = copy(Portion::Whole, "sparse").await.expect("copies");
    assert_eq!(
        (&whole.target.digest, whole.sent),
        (&index, 3),
        "the manifest, config and layer of the other"
    );
    assert_eq!(digests(destination.store()).await, digests(source.store()).await);
    let none = copy(Portion::Best(selection(&["linux/riscv64"])), "none").await.expect_err("there is none");
    assert_eq!(none.kind(), ErrorKind::NotFound);
    assert!(none.report().contains("linux/arm64"), "{}", none.report());
}

#[tokio::test]
async fn layers_that_may_not_be_distributed() {
    let (memory, there) = (MemoryRegistry::new(), MemoryRegistry::new());
    let store = Arc::new(MemoryStore::new());
    let put = async |media_type: &str, bytes: &[u8]| {
        wharf_tests::image::put(store.as_ref(), media_type, bytes.to_vec()).await.expect("puts")
    };
    let config = put(types::OCI_CONFIG, b"{}").await;
    let foreign = put(types::DOCKER_LAYER_FOREIGN_GZIP, b"foreign").await;
    let manifest = serde_json::json!({ "schemaVersion": 2, "config": config, "layers": [foreign] });
    let target = put(types::OCI_MANIFEST, manifest.to_string().as_bytes()).await;
    let images = Arc::new(MemoryImages::new());
    images.create(Image::new("m.example/x:1", target)).await.expect("records");
    let source = StoreResolver::new(store, images);
    let all = CopyOptions::new().allowing_non_distributable();
    copied_with(&source, "m.example/x:1", &memory, "m.example/x:1", all.clone()).await.expect("copies");
    for (options, sent, existing, skipped) in [(CopyOptions::new(), 2, 0, 1), (all, 1, 2, 0)] {
        let pushed = copied_with(&memory, "m.example/x:1", &there, "m.example/x:1", options).await;
        let pushed = pushed.expect("copies");
        assert_eq!((pushed.sent, pushed.existing, pushed.skipped), (sent, existing, skipped));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn round_trips_keep_every_digest_and_what_is_stored_is_held() {
    let registry = TestRegistry::start().await;
    let name = registry.put("team/x:1", &two_platforms()).await.expect("puts");
    let expected = digests(registry.store()).await;
    let dir = tempfile::tempdir().expect("temporary directory");
    let store = Arc::new(LocalStore::open(dir.path().join("store")).await.expect("opens"));
    let images = image_store(store.as_ref()).expect("opens");
    let stored = StoreResolver::new(store.clone(), Arc::clone(&images));
    let memory = MemoryRegistry::new();

    let into = copied_with(&resolver(), &name, &memory, "m.example/x:1", CopyOptions::new()).await;
    assert_eq!(into.expect("copies").sent, 8);
    let pushed = copied_with(&resolver(), &name, &stored, "local.example/x:1", CopyOptions::new()).await;
    let pushed = pushed.expect("copies");
    assert_eq!(digests(store.as_ref()).await, expected);
    let image = images.get("local.example/x:1").await.expect("recorded");
    assert_eq!(image.target.digest, pushed.target.digest);
    assert!(store.leases().expect("has").list_leases(&FilterSet::all()).await.expect("lists").is_empty());
    assert_eq!(
        collect(store.as_ref(), &CollectOptions::new()).await.expect("collects"),
        [],
        "labels hold it"
    );
    let labels = store.info(&image.target.digest).await.expect("there").labels;
    let source = labels.iter().find(|(key, _)| key.starts_with("containerd.io/distribution.source."));
    assert_eq!(source.map(|(_, value)| value.as_str()), Some("team/x"));
    let again = copied_with(&memory, "m.example/x:1", &stored, "local.example/x:1", CopyOptions::new()).await;
    let again = again.expect("copies");
    assert_eq!((again.sent, again.mounted), (0, 0));

    let back = TestRegistry::start().await;
    let to = back.reference("back/x:1");
    let pushed = copied_with(&stored, "local.example/x:1", &resolver(), &to, CopyOptions::new()).await;
    assert_eq!(pushed.expect("copies").sent, 8);
    assert_eq!(digests(back.store()).await, expected);
    assert!(store.leases().expect("has").list_leases(&FilterSet::all()).await.expect("lists").is_empty());
    // Whoever knows a digest alone is told the size, as schema 1 needs it.
    for (place, name) in [(&memory as &dyn Resolver, "m.example/x:1"), (&stored, "local.example/x:1")] {
        let fetcher = place.fetcher(name).await.expect("is there");
        let size = async |digest: &Digest| fetcher.size(digest, "x").await.map_err(|error| error.kind());
        assert_eq!(size(&image.target.digest).await, Ok(image.target.size));
        assert_eq!(size(&Digest::sha256(b"absent")).await, Err(ErrorKind::NotFound));
    }
    // A pull from a store lets go of it as well.
    let (again, records) = (Arc::new(MemoryStore::new()), MemoryImages::new());
    let options = PullOptions::new().with_selection(Selection::all());
    pull(again, &records, &stored, "local.example/x:1", options).await.expect("pulls");
    assert!(store.leases().expect("has").list_leases(&FilterSet::all()).await.expect("lists").is_empty());
    // What was copied is what a pull gives.
    let (pulled, records) = (Arc::new(MemoryStore::new()), MemoryImages::new());
    let options = PullOptions::new().with_selection(Selection::all());
    pull(pulled.clone(), &records, &resolver(), &to, options).await.expect("pulls");
    assert_eq!(digests(pulled.as_ref()).await, expected);
}

#[tokio::test]
async fn a_manifest_in_the_store_without_its_parts_is_not_taken_for_an_image() {
    let registry = TestRegistry::start().await;
    let name = registry.put("x:1", &one_layer(30_000)).await.expect("puts");
    let target = registry.image(&name).await.expect("there").target;
    let (store, images) = (Arc::new(MemoryStore::new()), Arc::new(MemoryImages::new()));
    let bytes = read_blob(registry.store(), &target, 1 << 20).await.expect("reads");
    write_blob(store.as_ref(), "x", &target, bytes, CommitOptions::default()).await.expect("writes");
    images.create(Image::new("local.example/x:1", target)).await.expect("records");
    let stored = StoreResolver::new(store.clone(), images);
    let pushed = copied_with(&resolver(), &name, &stored, "local.example/x:1", CopyOptions::new()).await;
    assert_eq!(pushed.expect("copies").sent, 2);
    assert_eq!(digests(store.as_ref()).await, digests(registry.store()).await);
}

#[tokio::test]
async fn names_that_mean_nothing_or_another_thing() {
    let registry = TestRegistry::start().await;
    let name = registry.put("x:1", &one_layer(100)).await.expect("puts");
    let memory = MemoryRegistry::new();
    let pinned = format!("m.example/x@{}", Digest::sha256(b"other"));
    let absent = registry.reference("x:absent");
    for (from, to, kind) in [
        (name.as_str(), pinned.as_str(), ErrorKind::FailedPrecondition),
        (&absent, "m.example/x:1", ErrorKind::NotFound),
        (&name, "m.example/x:1:2", ErrorKind::InvalidArgument),
    ] {
        let error = copied_with(&resolver(), from, &memory, to, CopyOptions::new()).await.expect_err(to);
        assert_eq!(error.kind(), kind, "{}", error.report());
    }
    let target: Descriptor = registry.image(&name).await.expect("there").target;
    let right = format!("m.example/x:1@{}", target.digest);
    copied_with(&resolver(), &name, &memory, &right, CopyOptions::new()).await.expect("copies");
    assert_eq!(memory.resolve("m.example/x:1").await.expect("there").descriptor.digest, target.digest);
}
