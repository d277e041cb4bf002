//! What a pull can be asked for beside an image: metadata, referrers, labels, handlers; and what a second pull costs.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};
use wharf_content::{
    Catalogue, Descriptor, Digest, ErrorKind, LocalStore, Manager, Provider, Store, gc::CollectOptions,
    read_blob,
};
use wharf_images::{
    Flow, Image, Role, Selection, collect, decode,
    handler::handler_fn,
    image::{check, platforms},
    image_store,
    labels::LabelKeys,
    media_types as types,
    progress::{Event, Sink},
    referrers::{ReferrersProvider, StoredReferrers},
};
use wharf_remotes::{
    PullOptions, pull,
    pull::MAX_REFERRERS,
    registry::{RegistryResolver, RegistrySettings},
};
use wharf_tests::{Client, FakeServer, ImageFixture, Layer, Reply, TestRegistry, image::put};

fn two_platforms() -> ImageFixture {
    ["linux/amd64", "linux/arm64"].into_iter().enumerate().fold(
        ImageFixture::new(),
        |image, (at, platform)| {
            image.with(
                platform,
                vec![Layer::noise("data", 10_000, at as u64), Layer::of("platform", platform)],
            )
        },
    )
}

fn best(platforms: &[&str]) -> PullOptions {
    let platforms = wharf_platforms::parse_all(platforms).expect("platforms");
    PullOptions::new().with_selection(Selection::best(&platforms))
}

/// Puts what refers to `subject`, of one blob.
async fn put_referrer(store: &dyn Store, subject: &Descriptor, text: &str) -> Descriptor {
    let config = put(store, types::OCI_EMPTY, b"{}".to_vec()).await.expect("puts");
    let blob = put(store, "application/x-signature", text.into()).await.expect("puts");
    let manifest = json!({
        "schemaVersion": 2, "mediaType": types::OCI_MANIFEST, "artifactType": "application/x-signature",
        "config": config, "layers": [blob], "subject": subject,
    });
    let referrer = put(store, types::OCI_MANIFEST, manifest.to_string().into_bytes()).await.expect("puts");
    // As a push does.
    let told = [
        (wharf_remotes::server::LABEL_SUBJECT, subject.digest.as_str()),
        (wharf_remotes::server::LABEL_MEDIA_TYPE, types::OCI_MANIFEST),
    ];
    for (key, value) in told {
        let labels = [(key.to_owned(), value.to_owned())].into();
        store.update(&referrer.digest, &labels, &[&format!("labels.{key}")]).await.expect("labels");
    }
    referrer
}

fn methods(registry: &TestRegistry) -> Vec<String> {
    registry.take_log().iter().map(|record| record.method.clone()).collect()
}

#[tokio::test]
async fn pulling_again_costs_one_head_whatever_was_asked_for() {
    let registry = TestRegistry::start().await;
    let index = registry.put("index:1", &two_platforms()).await.expect("puts");
    let single = ImageFixture::new().with("linux/amd64", vec![Layer::of("a", "b")]);
    let single = registry.put("single:1", &single).await.expect("puts");
    let docker = registry.put("docker:1", &two_platforms().docker()).await.expect("puts");
    let referred = registry.image(&index).await.expect("there").target;
    put_referrer(registry.store(), &referred, "signature").await;
    let pinned = format!("{}@{}", registry.reference("index"), referred.digest);
    let amd64 = || best(&["linux/amd64"]);
    for (what, name, options) in [
        ("one platform", &index, amd64()),
        ("two platforms", &index, best(&["linux/arm64", "linux/amd64"])),
        ("all platforms", &index, PullOptions::new().with_selection(Selection::all())),
        ("all metadata", &index, amd64().with_all_metadata()),
        ("strict types", &index, amd64().with_strict_types()),
        ("strict types of a manifest", &single, amd64().with_strict_types()),
        ("a manifest", &single, amd64()),
        ("Docker's types", &docker, amd64().with_strict_types().with_all_metadata()),
        ("a digest", &pinned, amd64()),
    ] {
        let dir = tempfile::tempdir().expect("temporary directory");
        let mut targets = Vec::new();
        for attempt in 0..3 {
            // As by another process: the store and the resolver are new ones.
            let store: Arc<dyn Store> =
                Arc::new(LocalStore::open(dir.path().join("store")).await.expect("opens"));
            let images = image_store(store.as_ref()).expect("opens");
            let resolver = RegistryResolver::new(RegistrySettings::new());
            registry.take_log();
            let pulled = pull(store, images.as_ref(), &resolver, name, options.clone()).await.expect("pulls");
            let asked = methods(&registry);
            assert_eq!(asked == ["HEAD"], attempt > 0, "{what}: {asked:?}");
            if attempt == 1 {
                // Another name for the same does not change that.
                images.create(Image::new("other:1", pulled.target.clone())).await.expect("tags");
                images.delete(&pulled.name, None).await.expect("deletes");
            }
            targets.push(pulled.target);
        }
        targets.dedup();
        assert_eq!(targets.len(), 1, "{what}");
    }
}

#[tokio::test]
async fn metadata_of_all_platforms_come_without_their_layers() {
    let registry = TestRegistry::start().await;
    let name = registry.put("a:1", &two_platforms()).await.expect("puts");
    for (options, blobs) in [(best(&["linux/arm64"]), 5), (best(&["linux/arm64"]).with_all_metadata(), 7)] {
        let client = Client::new().await;
        let image = client.pull(&name, options).await.expect("pulls");
        assert_eq!(client.blobs().await.len(), blobs);
        let store = client.store.clone();
        let report = check(store.clone(), &image.target, &Selection::all(), Catalogue::linked()).await;
        assert!(!report.expect("checks").is_complete(), "the layers of the other are not here");
        let arm64 = wharf_platforms::parse("linux/arm64").expect("a platform");
        let report =
            check(store.clone(), &image.target, &Selection::best([&arm64]), Catalogue::linked()).await;
        assert!(report.expect("checks").is_complete());
        assert_eq!(
            platforms(store.as_ref(), &image.target, Catalogue::linked()).await.expect("reads").len(),
            2
        );
        collect(store.as_ref(), &CollectOptions::new()).await.expect("collects");
        assert_eq!(client.blobs().await.len(), blobs, "all of it is held");
        // The rest comes when it is asked for, and only that.
        registry.take_log();
        client.pull(&name, PullOptions::new().with_selection(Selection::all())).await.expect("pulls");
        assert_eq!(client.blobs().await.len(), 9);
        assert_eq!(methods(&registry).len(), 1 + 9 - blobs);
    }
}

#[tokio::test]
async fn referrers_come_along_where_they_are_asked_for_and_stay() {
    let registry = TestRegistry::start().await;
    let name = registry.put("a:1", &two_platforms()).await.expect("puts");
    let index = registry.image(&name).await.expect("there").target;
    let decoded = decode(registry.store(), &index, Catalogue::linked()).await.expect("reads").expect("known");
    let [amd64, arm64] = decoded.descriptors().try_into().expect("two platforms");
    let signature = put_referrer(registry.store(), &index, "of the index").await;
    let bill = put_referrer(registry.store(), &arm64, "of arm64").await;
    let signed_bill = put_referrer(registry.store(), &bill, "of the bill").await;
    let other = put_referrer(registry.store(), &amd64, "of amd64").await;

    let client = Client::new().await;
    client.pull(&name, best(&["linux/arm64"])).await.expect("pulls");
    assert_eq!(client.blobs().await.len(), 5, "nobody asked for them");
    let client = Client::new().await;
    let options = best(&["linux/arm64"]).with_referrers();
    let image = client.pull(&name, options.clone()).await.expect("pulls");
    assert_eq!(image.target, index, "the record is the image's");
    collect(client.store.as_ref(), &CollectOptions::new()).await.expect("collects");
    let blobs = client.blobs().await;
    for (referrer, is_here) in [(&signature, true), (&bill, true), (&signed_bill, true), (&other, false)] {
        assert_eq!(blobs.contains(&referrer.digest), is_here, "{}", referrer.digest);
    }
    assert_eq!(blobs.len(), 5 + 3 * 2 + 1, "a manifest and a blob each, and one empty config");
    let stored = StoredReferrers::gather(client.store.as_ref(), Catalogue::linked()).await.expect("gathers");
    let found: Vec<Digest> =
        stored.referrers(&arm64).await.expect("lists").into_iter().map(|found| found.digest).collect();
    assert_eq!(found, [bill.digest]);

    // Again, they are looked for, and nothing is fetched: the index, the manifest, and three that refer to them.
    registry.take_log();
    client.pull(&name, options).await.expect("pulls");
    let log = registry.take_log();
    // And cosign's three tags of the index and of the manifest, none of which is there.
    assert_eq!((log.len(), log[0].method.as_str()), (1 + 5 + 6, "HEAD"));
    assert!(log[1..6].iter().all(|record| record.path.contains("/referrers/")), "{log:?}");
    assert!(log[6..].iter().all(|record| record.method == "HEAD" && record.status == 404), "{log:?}");
}

#[tokio::test]
async fn keys_handlers_and_wrapper_are_the_caller_s() {
    let registry = TestRegistry::start().await;
    let name = registry.put("a:1", &two_platforms()).await.expect("puts");
    let client = Client::new().await;
    let keys = LabelKeys::new(|child| vec![format!("containerd.io/gc.ref.content.x.{}.", child.size)]);
    let (seen, wrapped) = (Arc::new(Mutex::new(0)), Arc::new(Mutex::new(0)));
    let (count, wrapper_count) = (Arc::clone(&seen), Arc::clone(&wrapped));
    let handler = handler_fn(move |_| {
        *count.lock().expect("no panic") += 1;
        async { Ok(Flow::leaf()) }
    });
    let options = best(&["linux/amd64"])
        .with_label_keys(keys)
        .with_handler(Arc::new(handler))
        .with_wrapper(Arc::new(move |inner| {
            *wrapper_count.lock().expect("no panic") += 1;
            inner
        }))
        .with_labels([("team".to_owned(), "a".to_owned())].into());
    let image = client.pull(&name, options).await.expect("pulls");
    assert_eq!(image.labels["team"], "a");
    assert_eq!((*seen.lock().expect("no panic"), *wrapped.lock().expect("no panic")), (5, 1));
    let labels = client.store.info(&image.target.digest).await.expect("there").labels;
    let keys: Vec<&String> = labels.keys().filter(|key| key.starts_with("containerd.io/gc.")).collect();
    assert_eq!(keys.len(), 2);
    assert!(keys.iter().all(|key| key.starts_with("containerd.io/gc.ref.content.x.")), "{keys:?}");
    collect(client.store.as_ref(), &CollectOptions::new()).await.expect("collects");
    assert_eq!(client.blobs().await.len(), 5);
}

#[derive(Debug, Default)]
struct Told(Mutex<Vec<String>>);

impl Sink for Told {
    fn event(&self, event: &Event<'_>) {
        let text = match event {
            Event::Warning { text } => (*text).to_owned(),
            Event::UnknownType { descriptor } => format!("unknown {}", descriptor.media_type),
            _ => return,
        };
        self.0.lock().expect("no panic").push(text);
    }
}

/// An image of one platform whose config has a type of the caller's choice.
async fn with_config_type(registry: &TestRegistry, docker: bool, media_type: &str) -> Descriptor {
    let image = ImageFixture::new().with("linux/amd64", vec![Layer::of("a", "b")]);
    let image = if docker { image.docker() } else { image };
    let target = image.write(registry.store()).await.expect("writes");
    let bytes = read_blob(registry.store(), &target, 1 << 20).await.expect("reads");
    let mut manifest: Value = serde_json::from_slice(&bytes).expect("JSON");
    manifest["config"]["mediaType"] = json!(media_type);
    manifest["com.example.more"] = json!([1.50]);
    put(registry.store(), &target.media_type, manifest.to_string().into_bytes()).await.expect("puts")
}

#[tokio::test]
async fn the_old_type_of_a_config_is_replaced() {
    for docker in [true, false] {
        let registry = TestRegistry::start().await;
        let target = with_config_type(&registry, docker, "application/octet-stream").await;
        let name = registry.reference("old:1");
        registry.record(Image::new(&*name, target.clone())).await.expect("records");
        let client = Client::new().await;
        let told = Arc::new(Told::default());
        let options = best(&["linux/amd64"]).with_strict_types().with_sink(told.clone());
        let image = client.pull(&name, options.clone()).await.expect("pulls");
        assert_eq!(image.target.media_type, target.media_type);
        let [before, after] = {
            let here = read_blob(client.store.as_ref(), &image.target, 1 << 20).await.expect("reads");
            let there = read_blob(registry.store(), &target, 1 << 20).await.expect("reads");
            [there, here].map(|bytes| String::from_utf8(bytes.to_vec()).expect("text"))
        };
        assert_eq!(after, before.replace("application/octet-stream", types::DOCKER_CONFIG));
        let events = told.0.lock().expect("no panic").clone();
        assert!(matches!(&events[..], [one] if one.contains(image.target.digest.as_str())), "{events:?}");

        collect(client.store.as_ref(), &CollectOptions::new()).await.expect("collects");
        assert_eq!(client.blobs().await.len(), 4, "both manifests, the config and the layer");
        registry.take_log();
        assert_eq!(client.pull(&name, options).await.expect("pulls").target, image.target);
        assert_eq!(methods(&registry), ["HEAD"]);
        // What was made here is at no registry.
        let labels = client.store.info(&image.target.digest).await.expect("there").labels;
        assert!(!labels.keys().any(|key| key.contains("distribution.source")), "{labels:?}");

        // Nor can it be fetched when it is damaged: it is made again.
        let path = client.blob(&image.target.digest);
        std::fs::remove_file(&path).expect("removes");
        std::fs::write(&path, "damage").expect("writes");
        let done = client.repair().await;
        assert!(done.failed.is_empty() && done.left.is_clean() && done.quarantined.len() == 1, "{done:?}");
        assert!(client.verify().await.is_clean());

        // Another platform is refused as for any other image.
        let error = Client::new().await.pull(&name, best(&["linux/s390x"])).await.expect_err("not there");
        assert_eq!(error.kind(), ErrorKind::NotFound, "{}", error.report());
    }
}

#[tokio::test]
async fn no_other_type_of_a_config_and_no_index_is_touched() {
    let registry = TestRegistry::start().await;
    let old = with_config_type(&registry, true, "application/octet-stream").await;
    let platform = wharf_platforms::parse("linux/amd64").expect("a platform");
    let list = json!({ "schemaVersion": 2, "manifests": [old.with_platform(platform)] });
    let list = put(registry.store(), types::DOCKER_LIST, list.to_string().into_bytes()).await.expect("puts");
    let usual = with_config_type(&registry, true, types::DOCKER_CONFIG).await;
    let other = with_config_type(&registry, false, "application/x-config").await;
    for (at, target) in [list, usual, other].into_iter().enumerate() {
        let name = registry.reference(&format!("other:{at}"));
        registry.record(Image::new(&*name, target.clone())).await.expect("records");
        let client = Client::new().await;
        let options = PullOptions::new().with_selection(Selection::all());
        let image = client.pull(&name, options).await.expect("pulls");
        assert_eq!(image.target, target);
        let decoded = decode(client.store.as_ref(), &target, Catalogue::linked()).await.expect("reads");
        for child in decoded.expect("known").children {
            assert!(matches!(child.role, Role::Config | Role::Layer | Role::Manifest));
            assert!(client.store.reader(&child.descriptor).await.is_ok());
        }
    }
}

#[tokio::test]
async fn more_referrers_than_anybody_needs_are_refused() {
    let registry = TestRegistry::start().await;
    let image = ImageFixture::new().with("linux/amd64", vec![Layer::of("a", "b")]);
    let subject = image.write(registry.store()).await.expect("writes");
    for (count, is_pulled) in [(0, true), (3, true), (MAX_REFERRERS + 1, false)] {
        // As another registry than wharf's may answer.
        let listed: Vec<Descriptor> =
            (0..count).map(|at| Descriptor::of(types::OCI_MANIFEST, at.to_string().as_bytes())).collect();
        let server = forwarding(registry.store(), &subject, listed).await;
        let client = Client::new().await;
        let name = format!("{}/a:1", server.address());
        let all = PullOptions::new().with_selection(Selection::all());
        let outcome = client.pull(&name, all.clone().with_referrers()).await;
        if is_pulled && count > 0 {
            // They are listed, and not there.
            assert_eq!(outcome.expect_err("absent").kind(), ErrorKind::NotFound);
        } else if is_pulled {
            outcome.expect("pulls");
        } else {
            assert_eq!(outcome.expect_err("too many").kind(), ErrorKind::ResourceExhausted);
        }
        client.pull(&name, all).await.expect("nobody asks for them");
    }
}

/// A registry that has one image, and lists what it is told to list.
async fn forwarding(store: &dyn Store, image: &Descriptor, listed: Vec<Descriptor>) -> FakeServer {
    let mut content =
        HashMap::from([(image.digest.to_string(), read_blob(store, image, 1 << 20).await.expect("reads"))]);
    let decoded = decode(store, image, Catalogue::linked()).await.expect("reads").expect("known");
    for part in decoded.descriptors() {
        content.insert(part.digest.to_string(), read_blob(store, &part, 1 << 20).await.expect("reads"));
    }
    let (root, media_type) = (image.digest.to_string(), image.media_type.clone());
    FakeServer::start(move |request| {
        let (rest, name) = request.path.rsplit_once('/').unwrap_or_default();
        if rest.ends_with("/referrers") {
            let referrers = if name == root { &listed[..] } else { &[] };
            let index = json!({ "schemaVersion": 2, "mediaType": types::OCI_INDEX, "manifests": referrers });
            return Reply::new(200, &[("Content-Type", types::OCI_INDEX)], index.to_string());
        }
        let name = if name == "1" { &root } else { name };
        let Some(bytes) = content.get(name) else { return Reply::new(404, &[], "") };
        let length = bytes.len().to_string();
        let headers =
            [("Content-Type", &*media_type), ("Docker-Content-Digest", name), ("Content-Length", &*length)];
        Reply::new(200, &headers, if request.method == "HEAD" { &[][..] } else { &bytes[..] })
    })
    .await
}
