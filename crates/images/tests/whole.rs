//! Whole images: what they take, what refers to them, what their layers are, and whether they are right. Each thing that the validator
//! checks has a tampered twin.

use std::{
    io::Read,
    num::NonZeroUsize,
    sync::{Arc, Mutex},
    thread::{self, ThreadId},
};

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::{Value, json};
use wharf_content::{
    BlobReader, Catalogue, CommitOptions, Descriptor, Digest, Error, ErrorKind, Labels, LocalStore, Manager,
    MemoryStore, Provider, Result, Store, gc::CollectOptions, plugin::Registration, write_blob,
};
use wharf_images::{
    Children, Decoded, Image, Kind, Limits, ManifestDecoder, Selection, collect,
    decode::ManifestDecoders,
    diff_id::{LABEL_UNCOMPRESSED, diff_id},
    filters::SetChildrenLabels,
    image, image_store,
    layer::{LayerDecoder, LayerDecoders, LayerOptions, LayerStream, Unwrap},
    media_types as types,
    referrers::{ReferrersProvider, SetReferrers, StoredReferrers},
    usage::{Basis, UsageOptions, usage},
    validate::{Flaw, Manifests, ValidateOptions, Validation, validate},
    walk,
};
use wharf_platforms::Platform;

async fn put(store: &dyn Store, media_type: &str, bytes: impl Into<Bytes>) -> Descriptor {
    let bytes = bytes.into();
    let descriptor = Descriptor::of(media_type, &bytes);
    write_blob(store, descriptor.digest.as_str(), &descriptor, bytes, CommitOptions::default())
        .await
        .expect("writes");
    descriptor
}

/// A layer whose every byte is turned round: this crate has no compression of its own.
const TURNED: &str = "application/vnd.oci.image.layer.v1.tar+turned";

#[derive(Debug, Default)]
struct Turned {
    count: Arc<Mutex<usize>>,
}

struct Turn(LayerStream);

impl Read for Turn {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.0.read(buffer)?;
        buffer[..count].iter_mut().for_each(|byte| *byte = !*byte);
        Ok(count)
    }
}

impl LayerDecoder for Turned {
    fn decode(&self, media_type: &str, _: &Descriptor, stream: LayerStream) -> Result<Unwrap> {
        if media_type == types::OCI_LAYER {
            return Ok(Unwrap::Plain(stream));
        }
        *self.count.lock().expect("no panic") += 1;
        Ok(Unwrap::to(types::OCI_LAYER, Turn(stream)))
    }
}

fn turned(bytes: &str) -> Vec<u8> {
    bytes.bytes().map(|byte| !byte).collect()
}

/// What is linked and the layer type of this file, and how often it was decoded.
fn catalogue() -> (Catalogue, Arc<Mutex<usize>>) {
    let decoder = Turned::default();
    let count = Arc::clone(&decoder.count);
    let keys = [TURNED.to_owned(), types::OCI_LAYER.to_owned()];
    let entry = Registration::<LayerDecoders>::shared("turned", keys, 0, module_path!(), Arc::new(decoder));
    // Layers of this type are leaves.
    let leaf = Catalogue::linked()
        .find::<wharf_images::decode::ManifestDecoders>(types::OCI_LAYER)
        .expect("no conflict")
        .expect("linked");
    let leaf = Registration::<wharf_images::decode::ManifestDecoders>::shared(
        "turned",
        [TURNED.to_owned()],
        0,
        module_path!(),
        leaf,
    );
    (Catalogue::linked().clone().with(entry).with(leaf), count)
}

/// The parts of an image of one platform, each of which can be changed before it is written.
#[derive(Clone, Debug)]
struct Parts {
    config: Value,
    layers: Vec<Descriptor>,
    config_type: &'static str,
}

impl Parts {
    /// Two layers, one of them wrapped.
    async fn new(store: &dyn Store, name: &str, os: &str, architecture: &str) -> Self {
        let (one, two) = (format!("one {name}"), format!("two {name}"));
        let layers =
            vec![put(store, types::OCI_LAYER, one.clone()).await, put(store, TURNED, turned(&two)).await];
        let diff_ids = [one, two].map(|text| Digest::sha256(text.as_bytes()));
        let config = json!({
            "os": os, "architecture": architecture,
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
            "history": [{}, { "empty_layer": true }, { "empty_layer": false }],
        });
        Self { config, layers, config_type: types::OCI_CONFIG }
    }

    async fn write(&self, store: &dyn Store) -> Descriptor {
        let config = put(store, self.config_type, self.config.to_string()).await;
        let manifest = json!({ "schemaVersion": 2, "config": config, "layers": self.layers });
        put(store, types::OCI_MANIFEST, manifest.to_string()).await
    }
}

fn on(descriptor: &Descriptor, platform: &str) -> Descriptor {
    let mut parts = platform.split('/');
    let mut part = || parts.next().unwrap_or_default().to_owned();
    let platform = Platform::new(part(), part()).with_variant(part());
    descriptor.clone().with_platform(platform)
}

async fn put_index(store: &dyn Store, manifests: &[Descriptor]) -> Descriptor {
    put(store, types::OCI_INDEX, json!({ "schemaVersion": 2, "manifests": manifests }).to_string()).await
}

async fn valid(store: impl Provider, target: &Descriptor, manifests: Manifests) -> Validation {
    let options = ValidateOptions::new().with_catalogue(catalogue().0).with_manifests(manifests);
    validate(Arc::new(store), target, &options).await.expect("validates")
}

fn flaws(report: &Validation) -> Vec<&'static str> {
    report.findings.iter().map(|finding| finding.flaw.as_str()).collect()
}

#[tokio::test]
async fn an_image_that_is_right_has_no_findings() {
    let store = MemoryStore::new();
    let amd64 = Parts::new(&store, "a", "linux", "amd64").await.write(&store).await;
    let arm64 = Parts::new(&store, "b", "linux", "arm64").await.write(&store).await;
    let index = put_index(&store, &[on(&amd64, "linux/x86_64"), on(&arm64, "linux/arm64/v8")]).await;
    for manifests in [Manifests::Present, Manifests::All] {
        let report = valid(store.clone(), &index, manifests).await.into_result().expect("valid");
        assert_eq!((report.blobs, report.layers), (9, 4));
        assert!(report.is_complete() && report.absent.is_empty());
    }
    // What was never pulled is no fault, unless all is asked for.
    store.delete(&arm64.digest).await.expect("deletes");
    let report = valid(store.clone(), &index, Manifests::Present).await;
    assert_eq!((flaws(&report), report.absent.len(), report.blobs), (vec![], 1, 5));
    let report = valid(store.clone(), &index, Manifests::All).await;
    assert_eq!((flaws(&report), report.absent.len()), (vec!["missing"], 0));
    assert_eq!(report.findings[0].parent.as_ref(), Some(&index.digest));
    let error = report.into_result().expect_err("not valid");
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    assert!(error.to_string().contains(&format!("{} ({}) is missing", arm64.digest, types::OCI_MANIFEST)));
    store.delete(&amd64.digest).await.expect("deletes");
    assert_eq!(flaws(&valid(store.clone(), &index, Manifests::Present).await), ["empty"]);
}

/// Changes an image before it is written.
type Tamper = fn(&mut Parts);

#[tokio::test]
async fn tampered_twins_are_caught() {
    let cases: &[(&str, Tamper, &[&str])] = &[
        ("nothing", |_| {}, &[]),
        (
            "a wrong diff id",
            |parts| parts.config["rootfs"]["diff_ids"][1] = json!(Digest::sha256(b"")),
            &["diff-id"],
        ),
        (
            "the diff ids of other layers",
            |parts| {
                let diff_ids = parts.config["rootfs"]["diff_ids"].as_array_mut().expect("an array");
                diff_ids.swap(0, 1);
            },
            &["diff-id", "diff-id"],
        ),
        (
            "the digest of what is stored as a diff id",
            |parts| {
                parts.config["rootfs"]["diff_ids"][1] = json!(parts.layers[1].digest);
            },
            &["diff-id"],
        ),
        ("a size that is one too many", |parts| parts.layers[1].size += 1, &["size"]),
        ("a size that is one too few", |parts| parts.layers[0].size -= 1, &["size"]),
        ("a layer that is not there", |parts| parts.layers[0].digest = Digest::sha256(b"x"), &["missing"]),
        ("one layer too few", |parts| drop(parts.layers.pop()), &["layer-count", "history-count"]),
        (
            "one diff id too few",
            |parts| {
                drop(parts.config["rootfs"]["diff_ids"].as_array_mut().expect("an array").pop());
            },
            &["layer-count"],
        ),
        (
            "one entry of history too many",
            |parts| {
                parts.config["history"].as_array_mut().expect("an array").push(json!({}));
            },
            &["history-count"],
        ),
        ("no history", |parts| parts.config["history"] = json!([]), &[]),
        ("history that is null", |parts| parts.config["history"] = Value::Null, &[]),
        ("another architecture", |parts| parts.config["architecture"] = json!("arm64"), &["platform"]),
        ("another system", |parts| parts.config["os"] = json!("windows"), &["platform"]),
        ("another variant", |parts| parts.config["variant"] = json!("v3"), &["platform"]),
        ("no platform", |parts| parts.config["os"] = json!("unknown"), &["platform"]),
        ("another spelling of the platform", |parts| parts.config["architecture"] = json!("x86_64"), &[]),
        (
            "no file system",
            |parts| drop(parts.config.as_object_mut().expect("an object").remove("rootfs")),
            &["malformed"],
        ),
        (
            "a diff id that is none",
            |parts| parts.config["rootfs"]["diff_ids"][0] = json!("sha256:x"),
            &["malformed"],
        ),
        ("a config of another kind", |parts| parts.config_type = "application/x-config", &[]),
    ];
    for (what, tamper, expected) in cases {
        let store = MemoryStore::new();
        let mut parts = Parts::new(&store, "a", "linux", "amd64").await;
        tamper(&mut parts);
        let manifest = parts.write(&store).await;
        let index = put_index(&store, &[on(&manifest, "linux/amd64")]).await;
        let report = valid(store, &index, Manifests::All).await;
        assert_eq!(flaws(&report), *expected, "{what}: {:?}", report.findings);
        assert_eq!(report.clone().into_result().is_ok(), expected.is_empty(), "{what}");
        for finding in &report.findings {
            assert!(!finding.to_string().is_empty());
        }
    }
}

/// A store that gives other bytes for one blob.
#[derive(Debug)]
struct Lying {
    inner: MemoryStore,
    digest: Digest,
    bytes: Bytes,
}

#[async_trait]
impl Provider for Lying {
    async fn reader(&self, descriptor: &Descriptor) -> Result<Arc<dyn BlobReader>> {
        if descriptor.digest == self.digest {
            return Ok(Arc::new(self.bytes.clone()));
        }
        self.inner.reader(descriptor).await
    }
}

#[tokio::test]
async fn bytes_that_are_not_those_of_the_name_are_caught() {
    let store = MemoryStore::new();
    let parts = Parts::new(&store, "a", "linux", "amd64").await;
    let manifest = parts.write(&store).await;
    let config = Descriptor::of(types::OCI_CONFIG, parts.config.to_string().as_bytes());
    for blob in [&manifest, &config, &parts.layers[0], &parts.layers[1]] {
        let whole = usize::try_from(blob.size).expect("small");
        for (bytes, expected) in
            [(vec![b'x'; whole], "digest"), (vec![b'x'; whole - 1], "size"), (vec![], "size")]
        {
            let lying = Lying { inner: store.clone(), digest: blob.digest.clone(), bytes: bytes.into() };
            let report = valid(lying, &manifest, Manifests::All).await;
            assert_eq!(flaws(&report), [expected], "{}", blob.media_type);
            assert_eq!(report.findings[0].descriptor.digest, blob.digest);
        }
    }
}

#[tokio::test]
async fn layers_and_parts_that_nobody_knows_are_told_apart_from_wrong_ones() {
    let store = MemoryStore::new();
    let mut parts = Parts::new(&store, "a", "linux", "amd64").await;
    parts.layers[1].media_type = types::OCI_LAYER_ENCRYPTED.into();
    let encrypted = parts.write(&store).await;
    let report = valid(store.clone(), &encrypted, Manifests::All).await;
    assert_eq!((flaws(&report), report.layers, report.is_complete()), (vec![], 1, false));
    assert_eq!(report.unchecked, [parts.layers[1].clone()]);

    // BuildKit lists attestations as layers, with their own digests as diff ids.
    let statement = put(&store, types::IN_TOTO, "{}").await;
    parts.layers = vec![statement.clone()];
    parts.config["rootfs"]["diff_ids"] = json!([statement.digest]);
    parts.config["history"] = Value::Null;
    parts.config["os"] = json!("unknown");
    let attestation = parts.write(&store).await;
    let index = put_index(&store, &[on(&attestation, "unknown/unknown")]).await;
    let report = valid(store.clone(), &index, Manifests::All).await;
    assert_eq!((flaws(&report), report.layers, report.is_complete()), (vec![], 1, true));

    let odd = put(&store, "application/x-odd", "odd").await;
    let report = valid(store.clone(), &odd, Manifests::All).await;
    assert_eq!((flaws(&report), report.unknown), (vec![], vec![odd.clone()]));

    // What its artifact vouches for is known, where there is a decoder for artifacts of any type.
    let config = put(&store, types::OCI_EMPTY, "{}").await;
    let artifact = json!({ "artifactType": "application/x-thing", "config": config, "layers": [odd] });
    let artifact = put(&store, types::OCI_MANIFEST, artifact.to_string()).await;
    let report = valid(store.clone(), &artifact, Manifests::All).await;
    let unknown = if cfg!(feature = "artifacts") { vec![] } else { vec![odd] };
    assert_eq!((flaws(&report), report.unknown), (vec![], unknown));

    let malformed = put(&store, types::OCI_MANIFEST, "{}").await;
    assert_eq!(flaws(&valid(store.clone(), &malformed, Manifests::All).await), ["malformed"]);
    let gone = Descriptor::of(types::OCI_MANIFEST, b"gone");
    assert_eq!(
        flaws(&valid(store.clone(), &gone, Manifests::Present).await),
        ["missing"],
        "the image itself"
    );
}

#[tokio::test]
async fn every_descriptor_of_a_manifest_is_compared_with_its_config() {
    let store = MemoryStore::new();
    let manifest = Parts::new(&store, "a", "linux", "arm").await.write(&store).await;
    let platforms = ["linux/arm/v7", "linux/arm/v6", "linux/amd64", "linux/arm", "unknown/unknown"];
    let index = put_index(&store, &platforms.map(|platform| on(&manifest, platform))).await;
    let report = valid(store, &index, Manifests::All).await;
    // The config names no variant, and so is for whichever the index names.
    assert_eq!(flaws(&report), ["platform"]);
    assert!(
        matches!(&report.findings[0].flaw, Flaw::Platform { expected, .. } if expected.architecture == "amd64")
    );
    assert!(
        report.findings[0]
            .to_string()
            .ends_with("is listed for linux/amd64 and its config is for linux/arm/v7")
    );
    assert_eq!(report.layers, 2, "what costs is done once");
}

#[tokio::test]
async fn limits_hold_for_the_validator_too() {
    let store = MemoryStore::new();
    let mut inner = Parts::new(&store, "a", "linux", "amd64").await.write(&store).await;
    for _ in 0..40 {
        inner = put_index(&store, &[inner.clone(), inner]).await;
    }
    assert!(valid(store.clone(), &inner, Manifests::All).await.is_clean(), "a diamond is visited once");
    let options = ValidateOptions::new().with_limits(Limits::default().with_max_depth(10));
    let error = validate(Arc::new(store.clone()), &inner, &options).await.expect_err("too deep");
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
    let layers = LayerOptions::default().with_max_len(3);
    let options = ValidateOptions::new().with_catalogue(catalogue().0).with_layers(layers);
    let report = validate(Arc::new(store), &inner, &options).await.expect("validates");
    assert_eq!(flaws(&report), ["layer", "layer"]);
}

#[tokio::test]
async fn a_diff_id_is_found_once() {
    let store = MemoryStore::new();
    let (catalogue, count) = catalogue();
    let decoded = || *count.lock().expect("no panic");
    let layer = put(&store, TURNED, turned("layer")).await;
    let expected = Digest::sha256(b"layer");
    let of = async |layer: &Descriptor| diff_id(&store, layer, &catalogue, &LayerOptions::default()).await;
    let label = async |value: &str| {
        let labels = Labels::from([(LABEL_UNCOMPRESSED.to_owned(), value.to_owned())]);
        let info = store.update(&layer.digest, &labels, &[&format!("labels.{LABEL_UNCOMPRESSED}")]).await;
        info.expect("labels");
    };
    let labelled = async || {
        let info = store.info(&layer.digest).await.expect("there");
        info.labels.get(LABEL_UNCOMPRESSED).cloned()
    };
    assert_eq!(of(&layer).await.expect("decodes"), expected);
    assert_eq!((labelled().await, decoded()), (Some(expected.to_string()), 1));
    assert_eq!(of(&layer).await.expect("by its label"), expected);
    assert_eq!(decoded(), 1);
    let other = Digest::sha256(b"other");
    label(other.as_str()).await;
    assert_eq!(of(&layer).await.expect("by its label"), other);
    for malformed in ["sha256:x", "no", "../.."] {
        label(malformed).await;
        assert_eq!(of(&layer).await.expect("decodes"), expected, "{malformed}");
        assert_eq!(labelled().await, Some(expected.to_string()));
    }
    assert_eq!(decoded(), 4);

    for plain in [types::OCI_LAYER, types::OCI_LAYER_NON_DISTRIBUTABLE] {
        let plain = Descriptor::of(plain, b"not even there");
        assert_eq!(of(&plain).await.expect("its own"), plain.digest);
    }
    let gone = Descriptor::of(TURNED, b"not there");
    assert_eq!(of(&gone).await.expect_err("gone").kind(), ErrorKind::NotFound);
    let unknown = put(&store, types::OCI_LAYER_ENCRYPTED, "secret").await;
    assert_eq!(of(&unknown).await.expect_err("unknown").kind(), ErrorKind::NotImplemented);
    let lie = Descriptor { size: 4, media_type: TURNED.into(), ..put(&store, TURNED, turned("lied")).await };
    assert_eq!(of(&lie).await.expect("right"), Digest::sha256(b"lied"));
    let lie = Descriptor { size: 5, ..put(&store, TURNED, turned("lies")).await };
    assert_eq!(of(&lie).await.expect_err("wrong").kind(), ErrorKind::FailedPrecondition);
}

#[tokio::test]
async fn usage_counts_what_is_there_once() {
    let store = MemoryStore::new();
    let mut amd64 = Parts::new(&store, "a", "linux", "amd64").await;
    let arm64 = Parts::new(&store, "b", "linux", "arm64").await;
    // A layer that both share.
    amd64.layers[0] = arm64.layers[0].clone();
    let (amd64, arm64) = ((amd64.write(&store).await, amd64), (arm64.write(&store).await, arm64));
    let index = put_index(&store, &[on(&amd64.0, "linux/amd64"), on(&arm64.0, "linux/arm64")]).await;
    let of = |(manifest, parts): &(Descriptor, Parts)| {
        manifest.size + parts.config.to_string().len() as u64 + parts.layers[1].size
    };
    let shared = amd64.1.layers[0].size;
    let all = index.size + of(&amd64) + of(&arm64) + shared;
    let matcher = |platform: &str| {
        Arc::new(wharf_platforms::only(&wharf_platforms::parse(platform).expect("a platform")))
    };
    let count = async |options: UsageOptions| {
        let options = options.with_catalogue(catalogue().0);
        usage(Arc::new(store.clone()), &index, &options).await
    };
    let options = UsageOptions::new;
    let best = || options().with_manifest_limit(matcher("linux/arm64"), NonZeroUsize::new(1));
    let every = || options().with_manifest_limit(matcher("linux/arm64"), None);
    assert_eq!(count(options()).await.expect("counts"), all);
    assert_eq!(count(options().with_basis(Basis::Manifests)).await.expect("counts"), all);
    assert_eq!(count(best()).await.expect("counts"), index.size + of(&arm64) + shared);
    assert_eq!(count(every()).await.expect("counts"), all);

    // A layer is gone: manifests still tell its size.
    store.delete(&amd64.1.layers[1].digest).await.expect("deletes");
    let rest = all - amd64.1.layers[1].size;
    assert_eq!(count(options()).await.expect("counts"), rest);
    assert_eq!(count(every()).await.expect("a layer need not be there"), rest);
    assert_eq!(count(options().with_basis(Basis::Manifests)).await.expect("counts"), all);

    // A manifest is gone, and with it what would tell of its parts.
    store.delete(&amd64.0.digest).await.expect("deletes");
    let rest = index.size + of(&arm64) + shared;
    assert_eq!(count(options()).await.expect("counts"), rest);
    let by_manifests = count(options().with_basis(Basis::Manifests)).await.expect("counts");
    assert_eq!(by_manifests, rest + amd64.0.size, "the index tells its size, and nobody those of its parts");
    assert_eq!(count(every()).await.expect_err("required").kind(), ErrorKind::NotFound);
    assert_eq!(count(best()).await.expect("that one is there"), rest);
}

#[tokio::test]
async fn usage_that_overflows_is_an_error() {
    let store = MemoryStore::new();
    let mut parts = Parts::new(&store, "a", "linux", "amd64").await;
    parts.layers = ["1", "2", "3"]
        .map(|name| Descriptor::new(types::OCI_LAYER, Digest::sha256(name.as_bytes()), i64::MAX as u64))
        .to_vec();
    let manifest = parts.write(&store).await;
    let options = UsageOptions::new().with_basis(Basis::Manifests);
    let error = usage(Arc::new(store.clone()), &manifest, &options).await.expect_err("overflows");
    assert_eq!(error.kind(), ErrorKind::OutOfRange);
    assert!(usage(Arc::new(store), &manifest, &UsageOptions::new()).await.is_ok(), "none of it is there");
}

async fn put_referrer(store: &dyn Store, subject: &Descriptor, name: &str) -> (Descriptor, Descriptor) {
    let config = put(store, types::OCI_EMPTY, "{}").await;
    let blob = put(store, "application/x-signature", format!("signature {name}")).await;
    let text = json!({
        "schemaVersion": 2, "mediaType": types::OCI_MANIFEST, "artifactType": "application/x-signed",
        "config": config, "layers": [blob], "subject": subject,
        // Nobody is to believe this.
        "annotations": { "io.containerd.manifest.subject": "sha256:forged", "created.by": "tests" },
    });
    (put(store, types::OCI_MANIFEST, text.to_string()).await, blob)
}

#[tokio::test]
async fn referrers_are_found_among_everything_else() {
    let store = MemoryStore::new();
    let manifest = Parts::new(&store, "a", "linux", "amd64").await.write(&store).await;
    let (first, _) = put_referrer(&store, &manifest, "first").await;
    let (second, _) = put_referrer(&store, &manifest, "second").await;
    let (third, _) = put_referrer(&store, &first, "of a referrer").await;
    for noise in ["{", "{}", "", "[1]", r#"{"subject":{}}"#, r#"{"manifests":[],"config":{}}"#] {
        put(&store, "application/x-noise", noise).await;
    }
    let claim = json!({ "mediaType": "application/x-unheard-of", "subject": manifest });
    put(&store, "application/x-unheard-of", claim.to_string()).await;
    // The type of the config stands in for that of the artifact.
    let old =
        json!({ "config": put(&store, "application/x-old", "old").await, "layers": [], "subject": third });
    let old = put(&store, types::OCI_MANIFEST, format!(" \n\t{old}")).await;

    let found = StoredReferrers::gather(&store, Catalogue::linked()).await.expect("gathers");
    let of = async |subject: &Descriptor| found.referrers(subject).await.expect("looks");
    let mut expected = [first.clone(), second].map(|referrer| {
        let referrer = referrer.with_annotation("created.by", "tests");
        Descriptor { artifact_type: Some("application/x-signed".to_owned()), ..referrer }
    });
    expected.sort_by(|a, b| a.digest.cmp(&b.digest));
    assert_eq!(of(&manifest).await, expected);
    assert_eq!(of(&first).await.len(), 1);
    assert_eq!(of(&third).await[0].digest, old.digest);
    assert_eq!(of(&third).await[0].artifact_type.as_deref(), Some("application/x-old"));
    assert_eq!(of(&old).await, []);
}

#[tokio::test]
async fn referrers_survive_a_collection_with_all_below_them() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let store: Arc<LocalStore> = Arc::new(LocalStore::open(dir.path().join("store")).await.expect("opens"));
    let (catalogue, _) = catalogue();
    let manifest = Parts::new(store.as_ref(), "a", "linux", "amd64").await.write(store.as_ref()).await;
    let index = put_index(store.as_ref(), &[on(&manifest, "linux/amd64")]).await;
    let (of_manifest, signature) = put_referrer(store.as_ref(), &manifest, "m").await;
    let (of_index, _) = put_referrer(store.as_ref(), &index, "i").await;
    let (of_referrer, deepest) = put_referrer(store.as_ref(), &of_index, "r").await;
    let (_, stranger) = put_referrer(store.as_ref(), &Descriptor::of("m", b"elsewhere"), "x").await;
    let images = image_store(store.as_ref()).expect("opens");
    images.create(Image::new("image", index.clone())).await.expect("records");

    let gathered = StoredReferrers::gather(store.as_ref(), &catalogue).await.expect("gathers");
    let children = Children::new(store.clone()).with_catalogue(catalogue.clone());
    let handler = SetReferrers::new(children, Arc::new(gathered)).with_catalogue(catalogue);
    let handler = SetChildrenLabels::new(handler, store.clone());
    walk(&handler, std::slice::from_ref(&index), Limits::default()).await.expect("walks");
    let labels = store.info(&manifest.digest).await.expect("there").labels;
    let key = format!("containerd.io/gc.ref.content.referrer.sha256.{}", &of_manifest.digest.hex()[..12]);
    assert_eq!(labels[&key], of_manifest.digest.as_str());

    let options = CollectOptions::new();
    collect(store.as_ref(), &options).await.expect("collects");
    for kept in [&index, &manifest, &of_manifest, &signature, &of_index, &of_referrer, &deepest] {
        assert!(store.info(&kept.digest).await.is_ok(), "{}", kept.media_type);
    }
    assert!(store.info(&stranger.digest).await.is_err(), "what refers to nothing here is not held");
}

#[tokio::test]
async fn attestations_are_no_platforms() {
    let store = MemoryStore::new();
    let amd64 = Parts::new(&store, "a", "Linux", "x86_64").await.write(&store).await;
    let arm64 = Parts::new(&store, "b", "linux", "aarch64").await.write(&store).await;
    let mut attestation = Parts::new(&store, "c", "unknown", "unknown").await;
    attestation.config["rootfs"]["diff_ids"] = json!([]);
    let attestation = attestation.write(&store).await;
    let catalogue = catalogue().0;
    let names = |platforms: Vec<Platform>| platforms.iter().map(wharf_platforms::format).collect::<Vec<_>>();
    for (manifests, expected) in [
        (vec![on(&attestation, "unknown/unknown"), on(&amd64, "linux/amd64")], vec!["linux/amd64"]),
        (vec![on(&attestation, "linux/unknown"), on(&amd64, "unknown/amd64")], vec![]),
        // Without platforms in the index the configs tell, normalised.
        (vec![attestation.clone(), arm64.clone(), amd64.clone()], vec!["linux/arm64", "linux/amd64"]),
        (vec![on(&amd64, "linux/x86_64"), amd64.clone()], vec!["linux/amd64"]),
    ] {
        let index = put_index(&store, &manifests).await;
        let found = image::platforms(&store, &index, &catalogue).await.expect("reads");
        assert_eq!(names(found), expected);
    }

    // A candidate that its config disqualifies gives way to the next, and an attestation is never the one.
    let index = put_index(&store, &[on(&attestation, "unknown/unknown"), amd64.clone(), arm64.clone()]).await;
    for (platform, expected) in [("linux/arm64", &arm64), ("linux/amd64", &amd64)] {
        let wanted = Selection::best(&wharf_platforms::parse_all([platform]).expect("a platform"));
        let found = image::manifest(&store, &index, &wanted, &catalogue).await.expect("fits");
        assert_eq!(found.descriptor.digest, expected.digest, "{platform}");
    }
    let wanted = Selection::best(&wharf_platforms::parse_all(["linux/s390x"]).expect("a platform"));
    let error = image::manifest(&store, &index, &wanted, &catalogue).await.expect_err("none");
    assert!(error.to_string().ends_with("the image has linux/amd64, linux/arm64"), "{error}");
}

/// A decoder that waits, as a plugin does, and refuses where it is called.
#[derive(Debug)]
struct Waiting {
    kind: Kind,
    answer: Option<ErrorKind>,
    caller: ThreadId,
}

const WAITED: &str = "application/vnd.example.waited.v1+json";

impl ManifestDecoder for Waiting {
    fn kind(&self) -> Kind {
        self.kind
    }

    fn reads_content(&self) -> bool {
        true
    }

    fn blocks(&self) -> bool {
        true
    }

    fn decode(&self, descriptor: &Descriptor, bytes: &[u8]) -> Result<Decoded> {
        assert_ne!(thread::current().id(), self.caller, "it would hold up everything else");
        if let Some(kind) = self.answer {
            return Err(Error::new(kind, format!("no answer to {}", descriptor.digest)));
        }
        let view: Value = serde_json::from_slice(bytes).expect("JSON");
        let mut decoded = Decoded::default();
        decoded.subject = serde_json::from_value(view["subject"].clone()).ok();
        Ok(decoded)
    }
}

fn waiting(kind: Kind, answer: Option<ErrorKind>) -> Catalogue {
    let decoder = Arc::new(Waiting { kind, answer, caller: thread::current().id() });
    let keys = [WAITED.to_owned()];
    let entry = Registration::<ManifestDecoders>::shared("waiting", keys, 0, module_path!(), decoder);
    Catalogue::linked().clone().with(entry)
}

#[tokio::test]
async fn the_validator_lets_decoders_wait_and_passes_their_failures_on() {
    let store = MemoryStore::new();
    let blob = put(&store, WAITED, "{}").await;
    for kind in [Kind::Leaf, Kind::Manifest] {
        for (answer, expected) in [
            (None, Ok(false)),
            (Some(ErrorKind::InvalidArgument), Ok(true)),
            (Some(ErrorKind::ResourceExhausted), Err(ErrorKind::ResourceExhausted)),
            (Some(ErrorKind::Aborted), Err(ErrorKind::Aborted)),
        ] {
            let options = ValidateOptions::new().with_catalogue(waiting(kind, answer));
            let report = validate(Arc::new(store.clone()), &blob, &options).await;
            let is_malformed = report.map_err(|error| error.kind()).map(|report| {
                report.findings.iter().any(|finding| matches!(finding.flaw, Flaw::Malformed(_)))
            });
            assert_eq!(is_malformed, expected, "{kind:?} {answer:?}");
        }
    }
}

#[tokio::test]
async fn a_large_leaf_is_not_malformed() {
    let store = MemoryStore::new();
    let large = format!("{{\"predicate\":\"{}\"}}", "x".repeat(5 << 20));
    let statement = put(&store, "application/vnd.in-toto+json", large.clone()).await;
    // Not even what would refuse it is asked.
    let refused = put(&store, WAITED, large.clone()).await;
    let document = put(&store, types::OCI_MANIFEST, large).await;
    let options =
        ValidateOptions::new().with_catalogue(waiting(Kind::Leaf, Some(ErrorKind::InvalidArgument)));
    for (blob, is_fine) in [(&statement, true), (&refused, true), (&document, false)] {
        let report = validate(Arc::new(store.clone()), blob, &options).await.expect("validates");
        assert_eq!(report.blobs, 1);
        assert_eq!(report.clone().into_result().is_ok(), is_fine, "{}: {report:?}", blob.media_type);
    }
}

#[tokio::test]
async fn referrers_are_looked_for_with_decoders_that_wait() {
    let store = MemoryStore::new();
    let subject = put(&store, types::OCI_MANIFEST, "{}").await;
    let document = json!({ "mediaType": WAITED, "subject": subject });
    let referrer = put(&store, WAITED, document.to_string()).await;
    let gather = async |answer| {
        let gathered = StoredReferrers::gather(&store, &waiting(Kind::Manifest, answer)).await;
        gathered.map_err(|error| error.kind())
    };
    let found = gather(None).await.expect("gathers").referrers(&subject).await.expect("looks up");
    assert_eq!(found.iter().map(|found| &found.digest).collect::<Vec<_>>(), [&referrer.digest]);
    for passed_over in [ErrorKind::InvalidArgument, ErrorKind::NotImplemented] {
        let found = gather(Some(passed_over)).await.expect("gathers").referrers(&subject).await;
        assert_eq!(found.expect("looks up"), []);
    }
    for failure in [ErrorKind::ResourceExhausted, ErrorKind::Internal, ErrorKind::Aborted] {
        assert_eq!(gather(Some(failure)).await.expect_err("tells"), failure);
    }
}
