//! Pulling from wharf's own registry into a store on disk.

use std::{
    path::Path,
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};
// The layer decoders, by which the validator tells diff ids.
use wharf_archive as _;
use wharf_content::{
    Catalogue, Descriptor, Digest, Error, ErrorKind, LocalStore, Manager, Provider, Result, Store,
    filter::FilterSet, plugin::Registration, read_blob,
};
use wharf_images::{
    Child, Decoded, Image, Kind, ManifestDecoder, Role, Selection, decode,
    decode::ManifestDecoders,
    image::{self, check},
    image_store, media_types as types,
    progress::{Event, Sink},
    validate::{Manifests, ValidateOptions, Validation, validate},
};
use wharf_remotes::{PullOptions, pull, registry::RegistrySettings};
use wharf_tests::{Client, ImageFixture, Layer, TestRegistry, image::put};

/// What the validator says of an image that was pulled.
async fn validation(client: &Client, target: &Descriptor, manifests: Manifests) -> Validation {
    let options = ValidateOptions::new().with_manifests(manifests);
    let report = validate(client.store.clone(), target, &options).await.expect("validates");
    assert!(report.is_complete(), "{report:?}");
    report
}

fn view(client: &Client) -> Value {
    let bytes = std::fs::read(client.store.root().join("index.json")).expect("reads");
    serde_json::from_slice(&bytes).expect("JSON")
}

fn six_platforms() -> ImageFixture {
    ["linux/amd64", "linux/arm64", "linux/arm/v7", "linux/386", "linux/ppc64le", "linux/s390x"]
        .into_iter()
        .enumerate()
        .fold(ImageFixture::new(), |image, (at, platform)| {
            image.with(
                platform,
                vec![Layer::noise("data", 10_000, at as u64), Layer::of("platform", platform)],
            )
        })
}

fn best(platforms: &[&str]) -> PullOptions {
    let platforms = wharf_platforms::parse_all(platforms).expect("platforms");
    PullOptions::new().with_selection(Selection::best(&platforms))
}

#[tokio::test]
async fn platforms_are_chosen_and_everything_of_them_is_there() {
    let registry = TestRegistry::start().await;
    for image in [six_platforms(), six_platforms().docker()] {
        let name = registry.put("library/busybox:1", &image).await.expect("puts");
        for (options, platforms) in [
            (best(&["linux/arm64"]), vec!["linux/arm64"]),
            (best(&["linux/arm/v7", "linux/s390x"]), vec!["linux/arm/v7", "linux/s390x"]),
            (PullOptions::new(), vec![]),
            (
                PullOptions::new().with_selection(Selection::all()),
                vec![
                    "linux/amd64",
                    "linux/arm64",
                    "linux/arm/v7",
                    "linux/386",
                    "linux/ppc64le",
                    "linux/s390x",
                ],
            ),
        ] {
            let client = Client::new().await;
            let pulled = client.pull(&name, options).await.expect("pulls");
            let expected = if platforms.is_empty() {
                vec![wharf_platforms::format(&wharf_platforms::default_spec())]
            } else {
                platforms.into_iter().map(str::to_owned).collect()
            };
            let present =
                image::present_platforms(client.store.as_ref(), &pulled.target, Catalogue::linked())
                    .await
                    .expect("reads");
            assert_eq!(present.iter().map(wharf_platforms::format).collect::<Vec<_>>(), expected);
            // The index, and a manifest, a config and two layers for each.
            assert_eq!(client.blobs().await.len(), 1 + 4 * expected.len());
            let wanted = Selection::best(&present);
            let found = check(client.store.clone(), &pulled.target, &wanted, Catalogue::linked()).await;
            assert!(found.expect("checks").is_complete());
            let report = validation(&client, &pulled.target, Manifests::Present).await;
            let report = report.into_result().expect("valid");
            assert_eq!((report.absent.len(), report.layers), (6 - expected.len(), 2 * expected.len() as u64));
            let all = validation(&client, &pulled.target, Manifests::All).await;
            assert_eq!(
                all.findings.len(),
                6 - expected.len(),
                "what was not pulled is missing from the whole"
            );
        }
    }
}

async fn read_json(store: &dyn Store, descriptor: &Descriptor) -> Value {
    let bytes = read_blob(store, descriptor, 1 << 20).await.expect("reads");
    serde_json::from_slice(&bytes).expect("JSON")
}

/// Writes an image whose config and manifest are changed, and gives an index that lists it for linux/amd64.
async fn put_tampered(store: &dyn Store, change: fn(&mut Value, &mut Value)) -> Descriptor {
    let layers = vec![Layer::noise("data", 10_000, 1), Layer::of("hello", "world")];
    let good = ImageFixture::new().with("linux/amd64", layers).write(store).await.expect("writes");
    let mut manifest = read_json(store, &good).await;
    let config: Descriptor = serde_json::from_value(manifest["config"].clone()).expect("a descriptor");
    let mut config = read_json(store, &config).await;
    change(&mut manifest, &mut config);
    let config = put(store, types::OCI_CONFIG, config.to_string().into_bytes()).await.expect("puts");
    manifest["config"] = json!(config);
    let manifest = put(store, types::OCI_MANIFEST, manifest.to_string().into_bytes()).await.expect("puts");
    let platform = wharf_platforms::parse("linux/amd64").expect("a platform");
    let index = json!({ "schemaVersion": 2, "manifests": [manifest.with_platform(platform)] });
    put(store, types::OCI_INDEX, index.to_string().into_bytes()).await.expect("puts")
}

fn last(array: &mut Value) -> &mut Value {
    array.as_array_mut().and_then(|array| array.last_mut()).expect("not empty")
}

#[tokio::test]
async fn what_a_pull_cannot_see_the_validator_does() {
    type Change = fn(&mut Value, &mut Value);
    let cases: [(&str, Change, &[&str]); 6] = [
        ("nothing", |_, _| {}, &[]),
        (
            "a wrong diff id",
            |_, config| *last(&mut config["rootfs"]["diff_ids"]) = json!(Digest::sha256(b"another")),
            &["diff-id"],
        ),
        (
            "the digest of the stored layer as its diff id",
            |manifest, config| {
                *last(&mut config["rootfs"]["diff_ids"]) = last(&mut manifest["layers"])["digest"].clone();
            },
            &["diff-id"],
        ),
        (
            "one diff id too few",
            |_, config| drop(config["rootfs"]["diff_ids"].as_array_mut().expect("an array").pop()),
            &["layer-count"],
        ),
        ("another platform", |_, config| config["architecture"] = json!("arm64"), &["platform"]),
        (
            "a layer of another compression than its type says",
            |manifest, _| last(&mut manifest["layers"])["mediaType"] = json!(types::OCI_LAYER_ZSTD),
            &["layer"],
        ),
    ];
    let registry = TestRegistry::start().await;
    for (what, change, expected) in cases {
        let target = put_tampered(registry.store(), change).await;
        let name = registry.reference("tampered:1");
        registry.record(Image::new(&*name, target)).await.expect("records");
        let client = Client::new().await;
        let options = PullOptions::new().with_selection(Selection::all());
        let pulled = client.pull(&name, options).await.expect("every byte is that of its digest");
        let report = validation(&client, &pulled.target, Manifests::All).await;
        let flaws: Vec<_> = report.findings.iter().map(|finding| finding.flaw.as_str()).collect();
        assert_eq!(flaws, expected, "{what}: {:?}", report.findings);
    }
}

#[tokio::test]
async fn what_a_store_lost_or_a_manifest_miscounts_the_validator_tells() {
    let client = Client::new().await;
    let store = client.store.as_ref();
    let off_by_one = put_tampered(store, |manifest, _| {
        let layer = last(&mut manifest["layers"]);
        layer["size"] = json!(layer["size"].as_u64().expect("a size") + 1);
    });
    let report = validation(&client, &off_by_one.await, Manifests::All).await;
    assert_eq!(report.findings.len(), 1);
    assert_eq!(report.findings[0].flaw.as_str(), "size");

    let good = put_tampered(store, |_, _| {}).await;
    assert!(validation(&client, &good, Manifests::All).await.is_clean());
    let layer = report.findings[0].descriptor.digest.clone();
    store.delete(&layer).await.expect("deletes");
    let report = validation(&client, &good, Manifests::All).await;
    let found: Vec<_> =
        report.findings.iter().map(|finding| (&finding.descriptor.digest, finding.flaw.as_str())).collect();
    assert_eq!(found, [(&layer, "missing")]);
}

#[tokio::test]
async fn bytes_and_names_are_those_of_the_registry() {
    let registry = TestRegistry::start().await;
    let name = registry.put("a/b:1", &six_platforms()).await.expect("puts");
    let client = Client::new().await;
    let pulled =
        client.pull(&name, PullOptions::new().with_selection(Selection::all())).await.expect("pulls");
    assert_eq!(pulled.name, name);
    for digest in client.blobs().await {
        let size = registry.store().info(&digest).await.expect("has it").size;
        let descriptor = Descriptor::new("x", digest, size);
        let there = read_blob(registry.store(), &descriptor, 1 << 20).await.expect("reads");
        assert_eq!(read_blob(client.store.as_ref(), &descriptor, 1 << 20).await.expect("reads"), there);
    }
    let by_digest = format!("{}@{}", registry.reference("a/b"), pulled.target.digest);
    assert_eq!(client.pull(&by_digest, PullOptions::new()).await.expect("pulls").target, pulled.target);
}

#[tokio::test]
async fn the_root_is_an_image_layout_after_every_change() {
    let registry = TestRegistry::start().await;
    let client = Client::new().await;
    assert_eq!(view(&client)["manifests"], serde_json::json!([]));
    let mut names = Vec::new();
    for tag in ["b:2", "a:1"] {
        let name = registry.put(tag, &six_platforms()).await.expect("puts");
        client.pull(&name, PullOptions::new()).await.expect("pulls");
        names.push(name);
    }
    names.sort();
    let index = view(&client);
    assert_eq!(index["schemaVersion"], 2);
    assert_eq!(index["mediaType"], types::OCI_INDEX);
    let listed = index["manifests"].as_array().expect("an array");
    let named: Vec<&str> = listed
        .iter()
        .map(|entry| entry["annotations"]["org.opencontainers.image.ref.name"].as_str().expect("a name"))
        .collect();
    assert_eq!(named, names);
    client.images.delete(&names[0], None).await.expect("deletes");
    assert_eq!(view(&client)["manifests"].as_array().expect("an array").len(), 1);
    let layout = std::fs::read_to_string(client.store.root().join("oci-layout")).expect("reads");
    assert_eq!(layout, r#"{"imageLayoutVersion":"1.0.0"}"#);
}

#[tokio::test]
async fn pulling_again_costs_one_head() {
    let registry = TestRegistry::start().await;
    let name = registry.put("a:1", &six_platforms()).await.expect("puts");
    let client = Client::new().await;
    client.pull(&name, PullOptions::new()).await.expect("pulls");
    registry.take_log();
    client.pull(&name, PullOptions::new()).await.expect("pulls");
    let asked: Vec<String> = registry.take_log().iter().map(|record| record.method.clone()).collect();
    assert_eq!(asked, ["HEAD"]);
}

#[tokio::test]
async fn a_platform_that_is_missing_is_named_with_those_there_are() {
    let registry = TestRegistry::start().await;
    let many = registry.put("many:1", &six_platforms()).await.expect("puts");
    let one = ImageFixture::new().with("linux/s390x", vec![Layer::noise("data", 100_000, 7)]);
    let one = registry.put("one:1", &one).await.expect("puts");
    for (name, has) in [(many, "linux/ppc64le"), (one, "has linux/s390x")] {
        let client = Client::new().await;
        let error = client.pull(&name, best(&["linux/riscv64"])).await.expect_err("missing");
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(
            error.report().contains("linux/riscv64") && error.report().contains(has),
            "{}",
            error.report()
        );
        assert!(client.images.list(&FilterSet::all()).await.expect("lists").is_empty());
        assert!(client.blobs().await.len() <= 2, "no layer was fetched");
    }
}

#[tokio::test]
async fn children_are_held_by_labels() {
    let registry = TestRegistry::start().await;
    let name = registry.put("a:1", &six_platforms()).await.expect("puts");
    let client = Client::new().await;
    let pulled = client.pull(&name, best(&["linux/amd64"])).await.expect("pulls");
    let index = client.store.info(&pulled.target.digest).await.expect("there").labels;
    assert_eq!(index.keys().filter(|key| key.starts_with("containerd.io/gc.ref.content.m.")).count(), 6);
    let selection = Selection::best(&wharf_platforms::parse_all(["linux/amd64"]).expect("a platform"));
    let manifest = image::manifest(client.store.as_ref(), &pulled.target, &selection, Catalogue::linked())
        .await
        .expect("there");
    let labels = client.store.info(&manifest.descriptor.digest).await.expect("there").labels;
    let keys: Vec<&str> =
        labels.keys().map(String::as_str).filter(|key| key.starts_with("containerd.io/gc.")).collect();
    assert_eq!(
        keys,
        [
            "containerd.io/gc.ref.content.config",
            "containerd.io/gc.ref.content.l.0",
            "containerd.io/gc.ref.content.l.1"
        ]
    );
}

#[derive(Debug, Default)]
struct Recorded(Mutex<Vec<String>>);

impl Sink for Recorded {
    fn event(&self, event: &Event<'_>) {
        let text = match event {
            Event::Resolved { .. } => "resolved".to_owned(),
            Event::Started { .. } => "started".to_owned(),
            Event::Done { .. } => "done".to_owned(),
            Event::Exists { .. } => "exists".to_owned(),
            Event::UnknownType { descriptor } => format!("unknown {}", descriptor.media_type),
            _ => return,
        };
        self.0.lock().expect("no panic").push(text);
    }
}

impl Recorded {
    fn count(&self, wanted: &str) -> usize {
        self.0.lock().expect("no panic").iter().filter(|text| *text == wanted).count()
    }
}

const BILL: &str = "application/vnd.example.bill.v1+json";

#[derive(Debug)]
struct Bill;

impl ManifestDecoder for Bill {
    fn kind(&self) -> Kind {
        Kind::Manifest
    }

    fn decode(&self, _: &Descriptor, bytes: &[u8]) -> Result<Decoded> {
        let parts: Vec<Descriptor> = serde_json::from_slice(bytes)
            .map_err(|error| Error::invalid_argument("not a bill").with_source(error))?;
        let children = parts.into_iter().map(|descriptor| Child { descriptor, role: Role::Other });
        Ok(Decoded::new(children.collect()))
    }
}

/// Puts a bill of two parts of an unknown type into the registry.
async fn put_bill(registry: &TestRegistry) -> String {
    let mut parts = Vec::new();
    for part in ["one", "two"] {
        parts.push(put(registry.store(), "application/x-part", part.into()).await.expect("puts"));
    }
    let bill = put(registry.store(), BILL, serde_json::to_vec(&parts).expect("JSON")).await.expect("puts");
    let name = registry.reference("bill:1");
    registry.record(Image::new(&*name, bill)).await.expect("records");
    name
}

#[tokio::test]
async fn a_type_that_nobody_decodes_is_kept_whole_and_reported_once() {
    let registry = TestRegistry::start().await;
    let name = put_bill(&registry).await;
    let client = Client::new().await;
    let sink = Arc::new(Recorded::default());
    let pulled = client.pull(&name, PullOptions::new().with_sink(sink.clone())).await.expect("pulls");
    assert_eq!(pulled.target.media_type, BILL);
    assert_eq!(client.blobs().await, std::slice::from_ref(&pulled.target.digest));
    assert_eq!(sink.count(&format!("unknown {BILL}")), 1);
}

#[tokio::test]
async fn a_manifest_that_claims_to_be_huge_is_not_fetched() {
    let registry = TestRegistry::start().await;
    let noise = Layer::noise("d", 5 << 20, 1);
    let name =
        registry.put("a:1", &ImageFixture::new().with("linux/amd64", vec![noise])).await.expect("puts");
    let manifest = registry.image(&name).await.expect("there").target;
    let decoded =
        decode(registry.store(), &manifest, Catalogue::linked()).await.expect("reads").expect("known");
    // The layer is larger than any manifest, and here it is called one.
    let layer = decoded.child(Role::Layer).expect("a layer");
    let lie = Descriptor { media_type: types::OCI_MANIFEST.into(), ..layer.clone() };
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [lie] });
    let index = serde_json::to_vec(&index).expect("JSON");
    let index = put(registry.store(), types::OCI_INDEX, index).await.expect("puts");
    let name = registry.reference("a:huge");
    registry.record(Image::new(&*name, index)).await.expect("records");
    for options in [PullOptions::new(), PullOptions::new().with_strict_types()] {
        let client = Client::new().await;
        registry.take_log();
        let error = client.pull(&name, options).await.expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{}", error.report());
        assert!(registry.take_log().iter().all(|record| record.bytes < 10_000), "it was not fetched");
    }
}

#[tokio::test]
async fn a_decoder_makes_a_type_whole() {
    let registry = TestRegistry::start().await;
    let name = put_bill(&registry).await;
    let client = Client::new().await;
    let decoder: Arc<dyn ManifestDecoder> = Arc::new(Bill);
    let entry = Registration::<ManifestDecoders>::shared("bill", [BILL.into()], 0, module_path!(), decoder);
    let sink = Arc::new(Recorded::default());
    let options =
        PullOptions::new().with_catalogue(Catalogue::linked().clone().with(entry)).with_sink(sink.clone());
    client.pull(&name, options).await.expect("pulls");
    assert_eq!(client.blobs().await.len(), 3);
    assert_eq!(sink.count("unknown application/x-part"), 1, "two parts of one type, one report");
    assert_eq!((sink.count("started"), sink.count("done")), (3, 3));
}

#[tokio::test]
async fn eight_handles_pull_one_image_at_the_cost_of_one() {
    let registry = TestRegistry::start().await;
    let image =
        ImageFixture::new().with("linux/amd64", (0..3).map(|i| Layer::noise("d", 300_000, i)).collect());
    let name = registry.put("big:1", &image).await.expect("puts");
    let dir = tempfile::tempdir().expect("temporary directory");
    let root = dir.path().join("store");
    let pulls = (0..8).map(|_| {
        let (root, name) = (root.clone(), name.clone());
        tokio::spawn(async move { pull_into(&root, &name).await })
    });
    for pulled in pulls.collect::<Vec<_>>() {
        pulled.await.expect("no panic").expect("pulls");
    }
    let bytes: u64 = registry.take_log().iter().map(|record| record.bytes).sum();
    assert!(bytes < 1_100_000, "{bytes} bytes for an image of 900 kB");
}

async fn pull_into(root: &Path, name: &str) -> Result<Image> {
    let store: Arc<dyn Store> = Arc::new(LocalStore::open(root).await?);
    let images = image_store(store.as_ref())?;
    let resolver = wharf_remotes::registry::RegistryResolver::new(RegistrySettings::new());
    pull(store, images.as_ref(), &resolver, name, PullOptions::new()).await
}

#[tokio::test]
async fn content_of_another_size_than_the_manifest_says_is_refused_though_it_is_there() {
    let registry = TestRegistry::start().await;
    let layer = put(registry.store(), types::OCI_LAYER, b"layer".to_vec()).await.expect("puts");
    let config = put(registry.store(), types::OCI_CONFIG, b"{}".to_vec()).await.expect("puts");
    let lie = Descriptor { size: 4, ..layer.clone() };
    let manifest = serde_json::json!({ "schemaVersion": 2, "config": config, "layers": [lie] });
    let bytes = serde_json::to_vec(&manifest).expect("JSON");
    let manifest = put(registry.store(), types::OCI_MANIFEST, bytes).await.expect("puts");
    let name = registry.reference("lie:1");
    registry.record(Image::new(&*name, manifest)).await.expect("records");
    let client = Client::new().await;
    put(client.store.as_ref(), types::OCI_LAYER, b"layer".to_vec()).await.expect("puts");
    let error = client.pull(&name, PullOptions::new()).await.expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{}", error.report());
    assert!(client.store.reader(&layer).await.is_ok(), "what was there stays");
}
