//! What refers to an image goes with it.

use std::sync::Mutex;

use async_trait::async_trait;
use serde_json::{Value, json};
use wharf_content::Error;
use wharf_images::{
    progress::{Event, Sink},
    referrers::{ReferrersProvider, fallback_tag},
    transport::{Fetcher, Pusher, Resolved},
};
use wharf_remotes::{PushOptions, push};
use wharf_tests::image::put;

use super::*;

/// Puts a manifest that refers to another one into a store.
async fn artifact(store: &dyn Store, subject: &Descriptor, artifact_type: &str) -> Descriptor {
    let config = put(store, types::OCI_EMPTY, b"{}".to_vec()).await.expect("puts");
    let part = put(store, "application/x-part", artifact_type.as_bytes().to_vec()).await.expect("puts");
    let manifest = json!({
        "schemaVersion": 2, "mediaType": types::OCI_MANIFEST, "artifactType": artifact_type,
        "config": config, "layers": [part], "subject": subject,
    });
    put(store, types::OCI_MANIFEST, manifest.to_string().into_bytes()).await.expect("puts")
}

/// A store with an image, a bill of the index, a signature of the bill, and a bill of one manifest.
async fn stored() -> (Arc<MemoryStore>, Image, [Descriptor; 3]) {
    let store = Arc::new(MemoryStore::new());
    let target = two_platforms().write(store.as_ref()).await.expect("writes");
    let index = read_blob(store.as_ref(), &target, 1 << 20).await.expect("reads");
    let index: Value = serde_json::from_slice(&index).expect("JSON");
    let manifest: Descriptor = serde_json::from_value(index["manifests"][0].clone()).expect("a descriptor");
    let plain = Descriptor::new(types::OCI_MANIFEST, manifest.digest, manifest.size);
    let bill = artifact(store.as_ref(), &target, "application/x-bill").await;
    let signature = artifact(store.as_ref(), &bill, "application/x-signature").await;
    let inner = artifact(store.as_ref(), &plain, "application/x-inner").await;
    (store, Image::new("localhost/x:1", target), [bill, signature, inner])
}

async fn listed(resolver: &dyn Resolver, name: &str, subject: &Descriptor) -> Vec<Digest> {
    let provider = resolver.referrers(name).await.expect("lists");
    let listed = provider.referrers(subject).await.expect("lists");
    listed.into_iter().map(|referrer| referrer.digest).collect()
}

#[tokio::test]
async fn they_go_with_push_and_copy_and_a_second_time_nothing_moves() {
    let (store, image, [bill, signature, inner]) = stored().await;
    let expected = digests(store.as_ref()).await;
    let (source, destination) = (TestRegistry::start().await, TestRegistry::start().await);
    let from = source.reference("x:1");
    let bare = push(store.clone(), &image, &resolver(), &from, &PushOptions::new()).await.expect("pushes");
    assert_eq!((bare.sent, bare.referrers), (8, 0), "not unless they are asked for");
    let options = PushOptions::new().with_referrers();
    let pushed = push(store.clone(), &image, &resolver(), &from, &options).await.expect("pushes");
    // Their manifests, three parts, and the config that all have.
    assert_eq!((pushed.referrers, pushed.sent), (3, 7));
    assert_eq!(digests(source.store()).await, expected);

    let to = destination.reference("y:1");
    let options = CopyOptions::new().with_referrers();
    let copied_all = copied(&from, &to, options.clone()).await.expect("copies");
    assert_eq!((copied_all.referrers, copied_all.sent), (3, 15));
    assert_eq!(digests(destination.store()).await, expected);
    assert_eq!(listed(&resolver(), &to, &image.target).await, std::slice::from_ref(&bill.digest));
    assert_eq!(listed(&resolver(), &to, &bill).await, [signature.digest]);
    destination.take_log();
    let again = copied(&from, &to, options).await.expect("copies");
    assert_eq!((again.referrers, again.sent, again.mounted), (3, 0, 0));
    let writes =
        destination.take_log().into_iter().filter(|record| !matches!(&*record.method, "GET" | "HEAD"));
    assert_eq!(writes.count(), 0);
    assert!(destination.store().reader(&inner).await.is_ok());
}

#[tokio::test]
async fn into_a_store_they_are_held_by_what_they_are_about() {
    let (store, image, [bill, signature, inner]) = stored().await;
    let images = Arc::new(MemoryImages::new());
    images.create(image).await.expect("records");
    let source = StoreResolver::new(store, images);
    let dir = tempfile::tempdir().expect("temporary directory");
    let local = Arc::new(LocalStore::open(dir.path().join("store")).await.expect("opens"));
    let records = image_store(local.as_ref()).expect("opens");
    let destination = StoreResolver::new(local.clone(), records);
    let options = CopyOptions::new().with_referrers();
    let pushed = copied_with(&source, "localhost/x:1", &destination, "localhost/y:1", options).await;
    assert_eq!(pushed.expect("copies").referrers, 3);
    assert_eq!(collect(local.as_ref(), &CollectOptions::new()).await.expect("collects"), []);
    for referrer in [&bill, &signature, &inner] {
        assert!(local.info(&referrer.digest).await.is_ok(), "{referrer:?}");
    }
}

#[tokio::test]
async fn registries_that_list_none_get_the_list_under_a_tag() {
    let (store, image, [bill, ..]) = stored().await;
    // It answers what it knows nothing of with 404, and keeps no list.
    let (source, destination) =
        (ScriptedRegistry::start(|_, _| None).await, ScriptedRegistry::start(|_, _| None).await);
    let from = source.reference("x:1");
    let options = PushOptions::new().with_referrers();
    push(store, &image, &resolver(), &from, &options).await.expect("pushes");
    let to = destination.reference("y:1");
    let pushed = copied(&from, &to, CopyOptions::new().with_referrers()).await.expect("copies");
    assert_eq!(pushed.referrers, 3);
    assert_eq!(listed(&resolver(), &to, &image.target).await, std::slice::from_ref(&bill.digest));
    let tag = fallback_tag(&image.target.digest);
    assert!(destination.contents.manifests().contains_key(&tag));
    let before = destination.contents.count("PUT");
    copied(&from, &to, CopyOptions::new().with_referrers()).await.expect("copies");
    assert_eq!(destination.contents.count("PUT"), before, "a second time nothing moves");
}

/// A source whose lists say what its owner likes.
#[derive(Debug)]
struct Claims {
    inner: MemoryRegistry,
    listed: Vec<Descriptor>,
}

#[async_trait]
impl Resolver for Claims {
    async fn resolve(&self, name: &str) -> Result<Resolved> {
        self.inner.resolve(name).await
    }

    async fn fetcher(&self, name: &str) -> Result<Arc<dyn Fetcher>> {
        self.inner.fetcher(name).await
    }

    async fn pusher(&self, name: &str) -> Result<Arc<dyn Pusher>> {
        self.inner.pusher(name).await
    }

    async fn referrers(&self, _: &str) -> Result<Arc<dyn ReferrersProvider>> {
        Ok(Arc::new(Listed(self.listed.clone())))
    }
}

#[derive(Debug, Default)]
struct Warnings(Mutex<Vec<String>>);

impl Sink for Warnings {
    fn event(&self, event: &Event<'_>) {
        if let Event::Warning { text } = event {
            self.0.lock().expect("no panic").push((*text).to_owned());
        }
    }
}

#[derive(Debug)]
struct Listed(Vec<Descriptor>);

#[async_trait]
impl ReferrersProvider for Listed {
    async fn referrers(&self, _: &Descriptor) -> Result<Vec<Descriptor>> {
        if self.0.is_empty() { Err(Error::unavailable("no lists today")) } else { Ok(self.0.clone()) }
    }
}

#[tokio::test]
async fn what_is_listed_and_does_not_refer_is_left_out() {
    let (store, image, [bill, signature, inner]) = stored().await;
    let images = Arc::new(MemoryImages::new());
    images.create(image.clone()).await.expect("records");
    let stored = StoreResolver::new(store, images);
    let memory = MemoryRegistry::new();
    let all = CopyOptions::new().with_referrers();
    copied_with(&stored, "localhost/x:1", &memory, "m.example/x:1", all.clone()).await.expect("copies");
    let absent = Descriptor::of(types::OCI_MANIFEST, b"absent");
    // To every question it answers with everything, and with what is not there.
    let liar = Claims {
        inner: memory.clone(),
        listed: vec![signature.clone(), absent.clone(), image.target.clone(), bill.clone(), inner.clone()],
    };
    let there = MemoryRegistry::new();
    let sink = Arc::new(Warnings::default());
    let told = all.clone().with_sink(sink.clone());
    let pushed = copied_with(&liar, "m.example/x:1", &there, "m.example/x:1", told).await.expect("copies");
    assert_eq!(pushed.referrers, 3, "each goes with what it is about, and with nothing else");
    assert_eq!(listed(&there, "m.example/x:1", &image.target).await, std::slice::from_ref(&bill.digest));
    assert_eq!(listed(&there, "m.example/x:1", &bill).await, [signature.digest]);
    let warned = sink.0.lock().expect("no panic").clone();
    let about_root = |digest: &Digest| {
        warned
            .iter()
            .any(|text| text.starts_with(digest.as_str()) && text.contains(image.target.digest.as_str()))
    };
    assert!(about_root(&inner.digest) && about_root(&absent.digest), "{warned:?}");
    assert!(!about_root(&bill.digest), "{warned:?}");
    let silent = Claims { inner: memory, listed: Vec::new() };
    let error =
        copied_with(&silent, "m.example/x:1", &there, "m.example/x:2", all).await.expect_err("no list");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.report());
}

/// Puts what cosign would about the index and about one manifest of an image of the repository x into a registry; gives their tags.
async fn sign(registry: &TestRegistry, target: &Descriptor) -> [String; 2] {
    let index = read_blob(registry.store(), target, 1 << 20).await.expect("reads");
    let index: Value = serde_json::from_slice(&index).expect("JSON");
    let manifest: Digest =
        index["manifests"][0]["digest"].as_str().and_then(|text| text.parse().ok()).expect("one");
    let tags = [format!("sha256-{}.sig", target.digest.hex()), format!("sha256-{}.att", manifest.hex())];
    for tag in &tags {
        let config = put(registry.store(), types::OCI_CONFIG, b"{}".to_vec()).await.expect("puts");
        let part = put(
            registry.store(),
            "application/vnd.dev.cosign.simplesigning.v1+json",
            tag.as_bytes().to_vec(),
        );
        let manifest = json!({
            "schemaVersion": 2, "mediaType": types::OCI_MANIFEST, "config": config, "layers": [part.await.expect("puts")],
        });
        let bytes = manifest.to_string().into_bytes();
        let signature = put(registry.store(), types::OCI_MANIFEST, bytes).await.expect("puts");
        registry
            .record(Image::new(registry.reference(&format!("x:{tag}")), signature))
            .await
            .expect("records");
    }
    tags
}

/// How many tags made of digests a registry was asked for.
fn tags_asked_for(registry: &TestRegistry) -> usize {
    let log = registry.take_log();
    log.iter().filter(|record| record.path.contains("/manifests/sha256-")).count()
}

#[tokio::test]
async fn what_is_under_the_tags_of_cosign_goes_to_the_same_tags() {
    let source = TestRegistry::start().await;
    let from = source.put("x:1", &two_platforms()).await.expect("puts");
    let target = source.image(&from).await.expect("there").target;
    let tags = sign(&source, &target).await;

    let bare = TestRegistry::start().await;
    copied(&from, &bare.reference("y:1"), CopyOptions::new()).await.expect("copies");
    assert_eq!(tags_asked_for(&source), 0, "not unless they are asked for");

    let destination = TestRegistry::start().await;
    let to = destination.reference("y:1");
    let options = CopyOptions::new().with_referrers();
    assert_eq!(copied(&from, &to, options.clone()).await.expect("copies").referrers, 2);
    // Three tags of the index and of each of its two manifests.
    assert_eq!(tags_asked_for(&source), 9);
    assert_same(&source, &destination, "y", &tags).await;
    let again = copied(&from, &to, options).await.expect("copies");
    assert_eq!((again.referrers, again.sent), (2, 0), "a second time nothing moves");

    // Through a store, from which they are pushed on.
    let client = wharf_tests::Client::new().await;
    let options = PullOptions::new().with_selection(Selection::all()).with_referrers();
    let image = client.pull(&from, options).await.expect("pulls");
    for tag in &tags {
        let name = source.reference(&format!("x:{tag}"));
        client.images.get(&name).await.expect("is recorded");
    }
    collect(client.store.as_ref(), &CollectOptions::new()).await.expect("collects");
    let third = TestRegistry::start().await;
    let options = PushOptions::new().with_referrers();
    let to = third.reference("z:1");
    let pushed = push(client.store(), &image, client.resolver.as_ref(), &to, &options).await.expect("pushes");
    assert_eq!(pushed.referrers, 2);
    assert_same(&source, &third, "z", &tags).await;
}

/// Fails unless these tags mean the same at both, and all of it is there.
async fn assert_same(source: &TestRegistry, other: &TestRegistry, repository: &str, tags: &[String]) {
    for tag in tags {
        let here = source.image(&source.reference(&format!("x:{tag}"))).await.expect("there").target;
        let there = other.image(&other.reference(&format!("{repository}:{tag}"))).await.expect("came").target;
        assert_eq!(here.digest, there.digest);
        let manifest = read_blob(other.store(), &there, 1 << 20).await.expect("reads");
        let manifest: Value = serde_json::from_slice(&manifest).expect("JSON");
        let part: Descriptor = serde_json::from_value(manifest["layers"][0].clone()).expect("a descriptor");
        assert_eq!(read_blob(other.store(), &part, 1 << 20).await.expect("reads"), tag.as_bytes());
    }
}

#[tokio::test]
async fn a_registry_that_does_not_say_whether_there_is_a_signature_fails_the_copy() {
    // Left out silently, they would be missed only when somebody verifies.
    let source = ScriptedRegistry::start(|request, _| {
        request.path.contains("/manifests/sha256-").then(|| Reply::new(403, &[], ""))
    })
    .await;
    let store = Arc::new(MemoryStore::new());
    let target = two_platforms().write(store.as_ref()).await.expect("writes");
    let image = Image::new("localhost/x:1", target);
    let from = source.reference("x:1");
    push(store, &image, &resolver(), &from, &PushOptions::new()).await.expect("pushes");
    let to = MemoryRegistry::new();
    let options = CopyOptions::new().with_referrers();
    let error = copied_with(&resolver(), &from, &to, "there.example/x:1", options).await.expect_err("denied");
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{}", error.report());
}
