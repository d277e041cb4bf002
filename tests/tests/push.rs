//! Pushing to wharf's own registry, and to registries with quirks and faults.

#[path = "push/faults.rs"]
mod faults;
#[path = "push/locations.rs"]
mod locations;

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use serde_json::{Value, json};
use wharf_content::{
    Algorithm, CommitOptions, Descriptor, Digest, Error, ErrorKind, IngestOptions, Ingester, LocalStore,
    Manager, MemoryStore, Result, Store, copy,
    gc::{CollectOptions, Collected},
    read_blob, write_blob,
};
use wharf_images::{
    Image, MemoryImages, Selection, collect, image_store, media_types as types,
    progress::{Event, Sink},
    transport::{Delivery, Fetcher, Place, Pusher, Resolved, Resolver, Shipment},
};
use wharf_platforms::parse_all;
use wharf_remotes::{
    Portion, PullOptions, PushOptions, Pushed, pull, push,
    registry::{RegistryResolver, RegistrySettings},
};
use wharf_tests::{
    ImageFixture, Layer, Reply, Request, ScriptedRegistry, TestRegistry,
    image::{noise, put},
};

fn settings() -> RegistrySettings {
    RegistrySettings::new().with_retries(2, Duration::from_millis(1))
}

/// A store in memory with one image.
struct Origin {
    store: Arc<MemoryStore>,
    image: Image,
}

impl Origin {
    async fn new(fixture: &ImageFixture) -> Self {
        let store = Arc::new(MemoryStore::new());
        let target = fixture.write(store.as_ref()).await.expect("writes");
        Self { store, image: Image::new("localhost/image:1", target) }
    }

    /// An artifact: a manifest of these fields, over the empty config and one blob.
    async fn artifact(blob: &[u8], more: Value) -> Self {
        let store = Arc::new(MemoryStore::new());
        let config = put(store.as_ref(), types::OCI_EMPTY, b"{}".to_vec()).await.expect("puts");
        let layer = put(store.as_ref(), "application/x-part", blob.to_vec()).await.expect("puts");
        let mut manifest = json!({
            "schemaVersion": 2, "mediaType": types::OCI_MANIFEST, "config": config, "layers": [layer],
        });
        for (key, value) in more.as_object().expect("an object") {
            manifest[key] = value.clone();
        }
        let bytes = serde_json::to_vec_pretty(&manifest).expect("JSON");
        let target = put(store.as_ref(), types::OCI_MANIFEST, bytes).await.expect("puts");
        Self { store, image: Image::new("localhost/artifact:1", target) }
    }

    async fn push_with(
        &self,
        settings: RegistrySettings,
        name: &str,
        options: PushOptions,
    ) -> Result<Pushed> {
        let resolver = RegistryResolver::new(settings);
        let store: Arc<dyn Store> = self.store.clone();
        let work = push(store, &self.image, &resolver, name, &options);
        tokio::time::timeout(Duration::from_secs(30), work).await.expect("bounded in time")
    }

    async fn push(&self, name: &str) -> Result<Pushed> {
        self.push_with(settings(), name, PushOptions::new()).await
    }
}

fn one_layer(len: usize) -> ImageFixture {
    ImageFixture::new().with("linux/amd64", vec![Layer::noise("data", len, 7)])
}

fn two_platforms() -> ImageFixture {
    ["linux/amd64", "linux/arm64"].into_iter().fold(ImageFixture::new(), |image, platform| {
        image.with(platform, vec![Layer::noise("data", 9_000, 1), Layer::of("platform", platform)])
    })
}

fn selection(platforms: &[&str]) -> Selection {
    Selection::best(&parse_all(platforms).expect("platforms"))
}

/// Pulls everything into an empty store.
async fn pulled(name: &str) -> (Arc<MemoryStore>, Image) {
    let store = Arc::new(MemoryStore::new());
    let dynamic: Arc<dyn Store> = store.clone();
    let options = PullOptions::new().with_selection(Selection::all());
    let image = pull(dynamic, &MemoryImages::new(), &RegistryResolver::new(settings()), name, options).await;
    (store, image.expect("pulls"))
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
async fn whole_images_arrive_with_every_digest_and_a_second_push_only_looks() {
    for (fixture, parts) in [
        (one_layer(50_000), 3),
        (one_layer(50_000).docker(), 3),
        // One layer is in both platforms.
        (two_platforms(), 1 + 2 + 2 + 3),
        (two_platforms().docker(), 1 + 2 + 2 + 3),
    ] {
        let registry = TestRegistry::start().await;
        let origin = Origin::new(&fixture).await;
        let name = registry.reference("team/image:1");
        let first = origin.push(&name).await.expect("pushes");
        assert_eq!((first.sent, first.mounted, first.existing, first.skipped), (parts, 0, 0, 0));
        assert_eq!(first.target, origin.image.target);
        registry.take_log();
        let second = origin.push(&name).await.expect("pushes");
        assert_eq!((second.sent, second.existing), (0, parts));
        assert_eq!(methods(&registry), counted(&[("HEAD", parts)]));

        let (store, image) = pulled(&name).await;
        assert_eq!(image.target.digest, origin.image.target.digest);
        let here = read_blob(store.as_ref(), &image.target, 1 << 20).await.expect("reads");
        let there = read_blob(origin.store.as_ref(), &origin.image.target, 1 << 20).await.expect("reads");
        assert_eq!(here, there, "the original bytes");
        assert_eq!(image.target.media_type, origin.image.target.media_type);
    }
}

#[tokio::test]
async fn children_come_before_their_parents_and_the_name_comes_last() {
    let registry = TestRegistry::start().await;
    let origin = Origin::new(&two_platforms()).await;
    // An index of an index.
    let inner = json!([{ "mediaType": types::OCI_INDEX, "digest": origin.image.target.digest, "size": origin.image.target.size }]);
    let outer = json!({ "schemaVersion": 2, "mediaType": types::OCI_INDEX, "manifests": inner });
    let outer = serde_json::to_vec(&outer).expect("JSON");
    let target = put(origin.store.as_ref(), types::OCI_INDEX, outer).await.expect("puts");
    let nested =
        Origin { store: origin.store.clone(), image: Image::new("localhost/nested:1", target.clone()) };
    nested.push(&registry.reference("nested:1")).await.expect("pushes");
    let put: Vec<String> = registry
        .take_log()
        .into_iter()
        .filter(|record| record.method == "PUT" && record.path.contains("/manifests/"))
        .map(|record| record.path)
        .collect();
    assert_eq!(put.len(), 4);
    assert!(put[2].ends_with(origin.image.target.digest.as_str()), "{put:?}");
    assert!(put[3].ends_with("/manifests/1"), "{put:?}");
    assert_eq!(pulled(&registry.reference("nested:1")).await.1.target.digest, target.digest);
}

#[tokio::test]
async fn by_digest_and_pinned() {
    let registry = TestRegistry::start().await;
    let origin = Origin::new(&one_layer(100)).await;
    let digest = &origin.image.target.digest;
    for name in [format!("a@{digest}"), format!("b:tag@{digest}")] {
        let name = registry.reference(&name);
        assert_eq!(origin.push(&name).await.expect("pushes").target.digest, *digest);
        assert_eq!(pulled(&name).await.1.target.digest, *digest);
    }
    assert_eq!(pulled(&registry.reference("b:tag")).await.1.target.digest, *digest);
    registry.take_log();
    let other = registry.reference(&format!("a@{}", Digest::sha256(b"other")));
    let error = origin.push(&other).await.expect_err("pinned");
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{}", error.report());
    assert!(registry.take_log().is_empty(), "found out before anything is asked");
}

#[tokio::test]
async fn platforms() {
    let registry = TestRegistry::start().await;
    let origin = Origin::new(&two_platforms()).await;
    let push = async |portion, name: &str| {
        let options = PushOptions::new().with_portion(portion);
        origin.push_with(settings(), &registry.reference(name), options).await
    };
    let best = push(Portion::Best(selection(&["linux/arm64"])), "best:1").await.expect("pushes");
    assert_eq!((best.target.media_type.as_str(), best.sent), (types::OCI_MANIFEST, 4));
    assert_eq!(pulled(&registry.reference("best:1")).await.1.target.digest, best.target.digest);

    let sparse = push(Portion::Sparse(selection(&["linux/arm64"])), "sparse:1").await.expect("pushes");
    assert_eq!(sparse.target.digest, origin.image.target.digest);
    assert_eq!((sparse.sent, sparse.existing), (1, 4));

    let error =
        push(Portion::Best(selection(&["linux/riscv64"])), "none:1").await.expect_err("there is none");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.report().contains("linux/arm64"), "{}", error.report());
    // What is no index has the platform that its config tells.
    let single = Origin::new(&one_layer(10)).await;
    for (platform, fits) in [("linux/amd64", true), ("linux/arm64", false)] {
        let options = PushOptions::new().with_portion(Portion::Best(selection(&[platform])));
        let pushed = single.push_with(settings(), &registry.reference("single:1"), options).await;
        assert_eq!(pushed.is_ok(), fits, "{platform}");
    }
}

#[tokio::test]
async fn what_is_missing_is_named_before_anything_is_asked() {
    let registry = TestRegistry::start().await;
    let name = registry.put("image:1", &two_platforms()).await.expect("puts");
    let store = Arc::new(MemoryStore::new());
    let dynamic: Arc<dyn Store> = store.clone();
    let options = PullOptions::new().with_selection(selection(&["linux/arm64"]));
    let resolver = RegistryResolver::new(settings());
    let image = pull(dynamic, &MemoryImages::new(), &resolver, &name, options).await.expect("pulls");
    let origin = Origin { store, image };
    let copy = registry.reference("copy:1");
    registry.take_log();
    let error = origin.push(&copy).await.expect_err("half of it is missing");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let report = error.report();
    assert!(report.contains("sha256:") && report.contains("(linux/amd64)"), "{report}");
    assert!(report.contains("--platform what is complete here: linux/arm64"), "{report}");
    assert!(registry.take_log().is_empty());
    let options = PushOptions::new().with_portion(Portion::Best(selection(&["linux/arm64"])));
    let pushed = origin.push_with(settings(), &copy, options).await.expect("pushes");
    assert_eq!((pushed.sent, pushed.existing, pushed.mounted), (1, 3, 0), "one registry, one store");
}

#[tokio::test]
async fn layers_that_may_not_be_distributed() {
    let store = Arc::new(MemoryStore::new());
    let config = put(store.as_ref(), types::OCI_CONFIG, b"{}".to_vec()).await.expect("puts");
    let foreign =
        put(store.as_ref(), types::DOCKER_LAYER_FOREIGN_GZIP, b"foreign".to_vec()).await.expect("puts");
    let manifest = json!({ "schemaVersion": 2, "config": config, "layers": [foreign] });
    let manifest = serde_json::to_vec(&manifest).expect("JSON");
    let target = put(store.as_ref(), types::OCI_MANIFEST, manifest).await.expect("puts");
    let origin = Origin { store, image: Image::new("localhost/foreign:1", target) };
    let registry = TestRegistry::start().await;
    let name = registry.reference("foreign:1");
    let pushed = origin.push(&name).await.expect("pushes");
    assert_eq!((pushed.sent, pushed.skipped), (2, 1));
    assert!(registry.store().reader(&foreign).await.is_err());
    let options = PushOptions::new().allowing_non_distributable();
    let pushed = origin.push_with(settings(), &name, options).await.expect("pushes");
    assert_eq!((pushed.sent, pushed.existing, pushed.skipped), (1, 2, 0));
    assert!(registry.store().reader(&foreign).await.is_ok());
    // Left out, it need not be here.
    origin.store.delete(&foreign.digest).await.expect("deletes");
    origin.push(&name).await.expect("pushes");
}

#[tokio::test]
async fn sha512_and_empty_layers() {
    let store = Arc::new(MemoryStore::new());
    let config = put(store.as_ref(), types::OCI_CONFIG, b"{}".to_vec()).await.expect("puts");
    let empty = put(store.as_ref(), types::OCI_LAYER, Vec::new()).await.expect("puts");
    let long = noise(600_000, 3);
    let mut layers = vec![empty];
    let manifest = |layers: &[Descriptor]| {
        serde_json::to_vec(&json!({ "schemaVersion": 2, "config": config, "layers": layers })).expect("JSON")
    };
    let put512 = async |media_type: &str, bytes: Vec<u8>| {
        let descriptor = Descriptor::new(media_type, Algorithm::Sha512.digest(&bytes), bytes.len() as u64);
        let written =
            write_blob(store.as_ref(), "x", &descriptor, bytes.into(), CommitOptions::default()).await;
        written.expect("writes");
        descriptor
    };
    layers.push(put512(types::OCI_LAYER, long).await);
    let target = put512(types::OCI_MANIFEST, manifest(&layers)).await;
    let origin = Origin { store: store.clone(), image: Image::new("localhost/long:1", target.clone()) };
    let registry = TestRegistry::start().await;
    let name = registry.reference("long:1");
    assert_eq!(origin.push(&name).await.expect("pushes").sent, 4);
    for layer in &layers {
        assert!(registry.store().reader(layer).await.is_ok());
    }
    assert_eq!(registry.image(&name).await.expect("recorded").target.digest, target.digest);
    let again = origin.push(&name).await.expect("pushes");
    assert_eq!((again.sent, again.existing), (0, 4));
}

#[tokio::test]
async fn unknown_types_are_pushed_whole_as_what_they_are_to_their_parent() {
    let store = Arc::new(MemoryStore::new());
    let strange = put(store.as_ref(), "application/vnd.example.bill.v1+json", br#"{"a":1}"#.to_vec()).await;
    let index =
        json!({ "schemaVersion": 2, "mediaType": types::OCI_INDEX, "manifests": [strange.expect("puts")] });
    let index = serde_json::to_vec(&index).expect("JSON");
    let target = put(store.as_ref(), types::OCI_INDEX, index).await.expect("puts");
    let origin = Origin { store, image: Image::new("localhost/strange:1", target) };
    let quirky = ScriptedRegistry::start(|_, _| None).await;
    origin.push(&quirky.reference("strange:1")).await.expect("pushes");
    let kept = quirky.contents.manifests();
    assert_eq!(kept.len(), 3, "the index by its tag and its digest, the other by its digest");
    let types: Vec<&str> = kept.values().map(|(media_type, _)| media_type.as_str()).collect();
    assert!(types.contains(&"application/vnd.example.bill.v1+json"), "{types:?}");
    assert!(quirky.contents.blobs().is_empty());
}

#[tokio::test]
async fn mounted_from_the_repository_that_the_label_names() {
    #[derive(Debug, Default)]
    struct Mounts(Mutex<Vec<String>>);
    impl Sink for Mounts {
        fn event(&self, event: &Event<'_>) {
            if let Event::Mounted { from, .. } = event {
                self.0.lock().expect("no panic").push((*from).to_owned());
            }
        }
    }
    let quirky = ScriptedRegistry::start(|request, _| {
        // It has the same blobs and manifests in every repository, and here only one has any.
        (request.method == "HEAD" && !request.path.starts_with("/v2/team/base/"))
            .then(|| Reply::new(404, &[], ""))
    })
    .await;
    let origin = Origin::new(&one_layer(5_000)).await;
    origin.push(&quirky.reference("team/base:1")).await.expect("pushes");
    let (store, image) = pulled(&quirky.reference("team/base:1")).await;
    let origin = Origin { store, image };
    for (name, scattered, mounted) in [("team/app:1", false, 2), ("team/other:1", true, 0)] {
        let from = quirky.contents.requests().len();
        if scattered {
            quirky.contents.mount_nothing();
        }
        let sink = Arc::new(Mounts::default());
        let options = PushOptions::new().with_sink(sink.clone());
        let pushed = origin.push_with(settings(), &quirky.reference(name), options).await.expect("pushes");
        assert_eq!((pushed.mounted, pushed.sent), (mounted, 3 - mounted), "{name}");
        assert_eq!(*sink.0.lock().expect("no panic"), vec!["team/base"; mounted]);
        let requests = quirky.contents.requests().split_off(from);
        let posts: Vec<&Request> = requests.iter().filter(|request| request.method == "POST").collect();
        assert_eq!(posts.len(), 2, "what is not mounted is uploaded to where the answer leads");
        assert!(
            posts.iter().all(
                |post| post.path.contains("?mount=sha256%3A") && post.path.ends_with("&from=team%2Fbase")
            )
        );
    }
}

#[tokio::test]
async fn referrers_are_listed_by_the_registry_or_under_a_tag() {
    let subject = Origin::new(&one_layer(10)).await.image.target;
    let tag = format!("sha256-{}", subject.digest.hex());
    let artifacts =
        [json!({ "subject": subject, "artifactType": "application/x-sbom" }), json!({ "subject": subject })];
    for lists in [true, false] {
        let quirky = ScriptedRegistry::start(move |request, _| {
            (lists && request.method == "PUT" && request.path.contains("/manifests/"))
                .then(|| Reply::new(201, &[("OCI-Subject", "sha256:x")], ""))
        })
        .await;
        for (at, artifact) in artifacts.iter().enumerate() {
            let origin = Origin::artifact(b"part", artifact.clone()).await;
            for _ in 0..2 {
                origin.push(&quirky.reference(&format!("x:{at}"))).await.expect("pushes");
            }
        }
        let manifests = quirky.contents.manifests();
        let list = manifests.get(&tag);
        assert_eq!(list.is_none(), lists);
        if let Some((media_type, bytes)) = list {
            let index: Value = serde_json::from_slice(bytes).expect("JSON");
            assert_eq!(media_type, types::OCI_INDEX);
            let types: Vec<_> =
                index["manifests"].as_array().expect("a list").iter().map(|m| &m["artifactType"]).collect();
            assert_eq!(types, ["application/x-sbom", types::OCI_EMPTY], "each once");
        }
    }
    // wharf's own registry lists them itself.
    let registry = TestRegistry::start().await;
    let origin = Origin::artifact(b"part", artifacts[0].clone()).await;
    origin.push(&registry.reference("x:1")).await.expect("pushes");
    assert!(registry.take_log().iter().all(|record| !record.path.contains(&tag)));
}

/// Notifies of each piece that is done.
#[derive(Debug)]
struct Count(tokio::sync::Notify);
impl Sink for Count {
    fn event(&self, event: &Event<'_>) {
        if let Event::Done { .. } = event {
            self.0.notify_one();
        }
    }
}

#[tokio::test]
async fn a_killed_push_is_gone_on_with() {
    let registry = TestRegistry::start().await;
    let fixture = ImageFixture::new()
        .with("linux/amd64", (0..6).map(|seed| Layer::noise("data", 200_000, seed)).collect());
    let origin = Origin::new(&fixture).await;
    let name = registry.reference("x:1");
    let sink = Arc::new(Count(tokio::sync::Notify::new()));
    let options = PushOptions::new().with_sink(sink.clone()).with_concurrency(std::num::NonZeroUsize::MIN);
    tokio::select! {
        _ = origin.push_with(settings(), &name, options) => panic!("it must not be that fast"),
        () = async { for _ in 0..3 { sink.0.notified().await } } => {}
    }
    assert!(registry.image(&name).await.is_err(), "the name comes last");
    let pushed = origin.push(&name).await.expect("pushes");
    assert!(pushed.existing >= 3 && pushed.sent <= 5, "{pushed:?}");
    assert_eq!(pulled(&name).await.1.target.digest, origin.image.target.digest);
}

#[tokio::test]
async fn damage_in_the_store_is_told_and_reaches_nobody() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let store = Arc::new(LocalStore::open(dir.path().join("store")).await.expect("opens"));
    let target = one_layer(300_000).write(store.as_ref()).await.expect("writes");
    let manifest = read_blob(store.as_ref(), &target, 1 << 20).await.expect("reads");
    let manifest: Value = serde_json::from_slice(&manifest).expect("JSON");
    let layer = manifest["layers"][0]["digest"].as_str().expect("a digest").to_owned();
    let path: PathBuf = store.root().join("blobs").join(layer.replace(':', "/"));
    let mut bytes = std::fs::read(&path).expect("reads");
    bytes[200_000] ^= 1;
    std::fs::remove_file(&path).expect("removes");
    std::fs::write(&path, bytes).expect("writes");
    let quirky = ScriptedRegistry::start(|_, _| None).await;
    let image = Image::new("localhost/image:1", target);
    let store: Arc<dyn Store> = store;
    let resolver = RegistryResolver::new(settings());
    let pushed = push(store, &image, &resolver, &quirky.reference("x:1"), &PushOptions::new()).await;
    let error: Error = pushed.expect_err("damaged");
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    assert!(
        error.report().contains(&format!("{layer} ")) && error.report().contains(" is damaged: "),
        "{}",
        error.report()
    );
    assert!(!quirky.contents.blobs().contains_key(&layer));
    assert!(quirky.contents.manifests().is_empty());
}

/// A place in memory, which collects the store that it is pushed from before it takes anything.
#[derive(Debug)]
struct Greedy {
    store: Arc<LocalStore>,
    taken: Mutex<Vec<(Digest, Place)>>,
    collected: Mutex<Vec<Collected>>,
}

#[async_trait]
impl Pusher for Greedy {
    async fn push(&self, shipment: &Shipment) -> Result<Delivery> {
        let collected = collect(self.store.as_ref(), &CollectOptions::default()).await?;
        self.collected.lock().expect("no panic").extend(collected);
        let descriptor = &shipment.descriptor;
        let mut writer =
            MemoryStore::new().writer(IngestOptions::new("x").with_descriptor(descriptor)).await?;
        copy(writer.as_mut(), shipment.source.as_ref(), descriptor, CommitOptions::default()).await?;
        self.taken.lock().expect("no panic").push((descriptor.digest.clone(), shipment.place));
        Ok(Delivery::Sent)
    }
}

#[derive(Debug)]
struct Anywhere(Arc<Greedy>);

#[async_trait]
impl Resolver for Anywhere {
    async fn resolve(&self, name: &str) -> Result<Resolved> {
        Err(Error::not_found(format!("there is no {name}")))
    }

    async fn fetcher(&self, name: &str) -> Result<Arc<dyn Fetcher>> {
        Err(Error::not_found(format!("there is no {name}")))
    }

    async fn pusher(&self, _: &str) -> Result<Arc<dyn Pusher>> {
        Ok(Arc::clone(&self.0) as Arc<dyn Pusher>)
    }
}

#[tokio::test]
async fn collection_removes_nothing_that_is_being_pushed() {
    let registry = TestRegistry::start().await;
    let name = registry.put("x:1", &one_layer(1_000)).await.expect("puts");
    let dir = tempfile::tempdir().expect("temporary directory");
    let store = Arc::new(LocalStore::open(dir.path().join("store")).await.expect("opens"));
    let images = image_store(store.as_ref()).expect("opens");
    let dynamic: Arc<dyn Store> = store.clone();
    let options = PullOptions::new().with_selection(Selection::all());
    let resolver = RegistryResolver::new(settings());
    let image = pull(dynamic.clone(), images.as_ref(), &resolver, &name, options).await.expect("pulls");
    images.delete(&name, None).await.expect("deletes");

    let greedy = Greedy { store: store.clone(), taken: Mutex::default(), collected: Mutex::default() };
    let greedy = Arc::new(greedy);
    let resolver = Anywhere(greedy.clone());
    let pushed =
        push(dynamic.clone(), &image, &resolver, "anywhere", &PushOptions::new()).await.expect("pushes");
    assert_eq!(pushed.sent, 3);
    assert_eq!(*greedy.collected.lock().expect("no panic"), []);
    assert_eq!(
        greedy.taken.lock().expect("no panic").last(),
        Some(&(image.target.digest.clone(), Place::Root))
    );
    let removed = collect(store.as_ref(), &CollectOptions::default()).await.expect("collects");
    assert_eq!(removed.len(), 3, "the lease ended with the push");
}
