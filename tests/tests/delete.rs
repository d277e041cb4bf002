//! Deleting at registries that can, that cannot, and that can only by digest.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use wharf_content::{Descriptor, Digest, ErrorKind, Manager, MemoryStore, Store};
use wharf_images::{Image, MemoryImages, media_types as types, referrers::fallback_tag, transport::Resolver};
use wharf_remotes::{
    PushOptions, RemoteError, StoreResolver, push,
    registry::{RegistryResolver, RegistrySettings},
};
use wharf_tests::{
    ImageFixture, Layer, Reply, Request, ScriptedRegistry, TestRegistry, image::put, scripted::Contents,
};

fn resolver() -> RegistryResolver {
    RegistryResolver::new(RegistrySettings::new().with_retries(1, Duration::from_millis(1)))
}

/// A registry that deletes as the specification says.
fn deletes(request: &Request, contents: &Contents) -> Option<Reply> {
    let object = request.path.split_once("/manifests/").map(|(_, object)| object.to_owned())?;
    if request.method != "DELETE" {
        return None;
    }
    let mut manifests = contents.manifests();
    let gone = manifests.remove(&object);
    if object.starts_with("sha256:") {
        manifests.retain(|_, (_, bytes)| Digest::sha256(bytes).as_str() != object);
    }
    Some(if gone.is_some() { Reply::new(202, &[], "") } else { Reply::new(404, &[], "") })
}

fn one_layer() -> ImageFixture {
    ImageFixture::new().with("linux/amd64", vec![Layer::noise("data", 1_000, 7)])
}

async fn pushed(registry: &ScriptedRegistry, tags: &[&str]) -> (Arc<MemoryStore>, Descriptor) {
    let store = Arc::new(MemoryStore::new());
    let target = one_layer().write(store.as_ref()).await.expect("writes");
    let image = Image::new("localhost/x:1", target.clone());
    for tag in tags {
        let name = registry.reference(&format!("x:{tag}"));
        let dynamic: Arc<dyn Store> = store.clone();
        push(dynamic, &image, &resolver(), &name, &PushOptions::new()).await.expect("pushes");
    }
    (store, target)
}

#[tokio::test]
async fn a_tag_goes_alone_and_a_digest_with_all_its_tags() {
    let registry = ScriptedRegistry::start(deletes).await;
    let (_, target) = pushed(&registry, &["1", "2", "3"]).await;
    resolver().delete(&registry.reference("x:1")).await.expect("deletes");
    assert!(resolver().resolve(&registry.reference("x:1")).await.is_err());
    assert!(resolver().resolve(&registry.reference("x:2")).await.is_ok());
    let again = resolver().delete(&registry.reference("x:1")).await.expect_err("it is gone");
    assert_eq!(again.kind(), ErrorKind::NotFound, "{}", again.report());
    let pinned = registry.reference(&format!("x@{}", target.digest));
    resolver().delete(&pinned).await.expect("deletes");
    assert!(registry.contents.manifests().is_empty());
    let again = resolver().delete(&pinned).await.expect_err("it is gone");
    assert_eq!(again.kind(), ErrorKind::NotFound, "{}", again.report());
    let before = registry.contents.requests().len();
    let bare = resolver().delete(&registry.reference("x")).await.expect_err("which tag?");
    assert_eq!(bare.kind(), ErrorKind::InvalidArgument, "{}", bare.report());
    assert_eq!(registry.contents.requests().len(), before, "nothing was asked");
}

#[tokio::test]
async fn refusals_say_what_can_be_done_and_delete_nothing_else() {
    for status in [400, 405, 501] {
        let registry = ScriptedRegistry::start(move |request, _| {
            let body = r#"{"errors":[{"code":"UNSUPPORTED","message":"no"}]}"#;
            (request.method == "DELETE").then(|| Reply::new(status, &[], body))
        })
        .await;
        let (_, target) = pushed(&registry, &["1"]).await;
        let tag = resolver().delete(&registry.reference("x:1")).await.expect_err("refused");
        assert_eq!(tag.kind(), ErrorKind::NotImplemented, "{}", tag.report());
        let wanted = format!("{}/x@{}", registry.address(), target.digest);
        assert!(tag.report().contains(&wanted) && tag.report().contains("every tag"), "{}", tag.report());
        assert_eq!(registry.contents.count("DELETE"), 1, "the manifest was not deleted in the tag's place");
        let pinned = registry.reference(&format!("x@{}", target.digest));
        let digest = resolver().delete(&pinned).await.expect_err("refused");
        assert_eq!(digest.kind(), ErrorKind::NotImplemented, "{}", digest.report());
        assert!(digest.report().contains("does not allow deletion"), "{}", digest.report());
        assert_eq!(RemoteError::of(&digest).and_then(|error| error.status), Some(status));
        let absent = resolver().delete(&registry.reference("x:absent")).await.expect_err("it is not there");
        assert_eq!(absent.kind(), ErrorKind::NotFound, "{}", absent.report());
    }
    let denied =
        ScriptedRegistry::start(|request, _| (request.method == "DELETE").then(|| Reply::new(403, &[], "")));
    let denied = denied.await;
    pushed(&denied, &["1"]).await;
    let error = resolver().delete(&denied.reference("x:1")).await.expect_err("denied");
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{}", error.report());
    // wharf's own registry deletes a tag alone.
    let registry = TestRegistry::start().await;
    let (name, other) = (registry.put("x:1", &one_layer()).await.expect("puts"), registry.reference("x:2"));
    registry.put("x:2", &one_layer()).await.expect("puts");
    resolver().delete(&name).await.expect("deletes");
    let gone = resolver().resolve(&name).await.expect_err("it was deleted");
    assert_eq!(gone.kind(), ErrorKind::NotFound, "{}", gone.report());
    resolver().resolve(&other).await.expect("it is there");
}

#[tokio::test]
async fn a_referrer_is_taken_off_the_list_under_the_tag() {
    for lists in [false, true] {
        let registry = ScriptedRegistry::start(move |request, contents| {
            let index = json!({ "schemaVersion": 2, "mediaType": types::OCI_INDEX, "manifests": [] });
            let is_list = lists && request.path.contains("/referrers/");
            let list = || Reply::new(200, &[("Content-Type", types::OCI_INDEX)], index.to_string());
            is_list.then(list).or_else(|| deletes(request, contents))
        })
        .await;
        let (store, target) = pushed(&registry, &["1"]).await;
        let mut bills = Vec::new();
        for artifact_type in ["application/x-one", "application/x-two"] {
            let manifest = json!({
                "schemaVersion": 2, "mediaType": types::OCI_MANIFEST, "artifactType": artifact_type, "layers": [],
                "config": put(store.as_ref(), types::OCI_EMPTY, b"{}".to_vec()).await.expect("puts"),
                "subject": target,
            });
            let bytes = manifest.to_string().into_bytes();
            let bill = put(store.as_ref(), types::OCI_MANIFEST, bytes).await.expect("puts");
            let name = registry.reference(&format!("x@{}", bill.digest));
            let image = Image::new("localhost/bill:1", bill.clone());
            let dynamic: Arc<dyn Store> = store.clone();
            push(dynamic, &image, &resolver(), &name, &PushOptions::new()).await.expect("pushes");
            bills.push(bill);
        }
        let before = registry.contents.count("PUT");
        let name = registry.reference(&format!("x@{}", bills[0].digest));
        resolver().delete(&name).await.expect("deletes");
        let (_, list) = registry.contents.manifests()[&fallback_tag(&target.digest)].clone();
        let list: Value = serde_json::from_slice(&list).expect("JSON");
        let left: Vec<_> = list["manifests"].as_array().expect("a list").iter().collect();
        if lists {
            assert_eq!(
                (left.len(), registry.contents.count("PUT")),
                (2, before),
                "it is the registry's to do"
            );
        } else {
            assert_eq!(left.len(), 1);
            assert_eq!(left[0]["digest"], bills[1].digest.as_str());
        }
    }
}

#[tokio::test]
async fn of_a_store_records_go() {
    let (store, images) = (Arc::new(MemoryStore::new()), Arc::new(MemoryImages::new()));
    let resolver = StoreResolver::new(store.clone(), images.clone());
    let image = one_layer().record(store.as_ref(), images.as_ref(), "my image").await.expect("records");
    one_layer().record(store.as_ref(), images.as_ref(), "docker.io/library/x:1").await.expect("records");
    resolver.delete("my image").await.expect("a name of any text");
    resolver.delete("x:1").await.expect("as Docker reads it");
    assert_eq!(resolver.delete("x:1").await.expect_err("gone").kind(), ErrorKind::NotFound);
    assert!(store.info(&image.target.digest).await.is_ok(), "content goes with the next collection");
}
