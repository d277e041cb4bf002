//! Pushes of manifests that are to be what they say they are, or to replace only what their client knows.

use std::sync::Arc;

use tokio::task::JoinSet;
use wharf_content::{Descriptor, Digest, filter::FilterSet, gc::CollectOptions};
use wharf_images::media_types;
use wharf_remotes::server::RegistryOptions;

use crate::{
    ABSENT,
    site::{CONFIG, Site, index, local, manifest},
};

const TAG: &str = "/v2/a/manifests/x";

/// Manifests that differ, whose parts are there.
async fn manifests(site: &Site, count: u8) -> Vec<Vec<u8>> {
    site.push_blob("a", CONFIG).await;
    let mut manifests = Vec::new();
    for number in 0..count {
        site.push_blob("a", &[number]).await;
        manifests.push(manifest(&[Descriptor::of(media_types::OCI_LAYER, &[number])]));
    }
    manifests
}

fn tag_of(document: &[u8]) -> String {
    format!("\"{}\"", Digest::sha256(document))
}

async fn put(site: &Site, path: &str, document: &[u8], conditions: &[(&str, &str)]) -> u16 {
    let headers = [&[("Content-Type", media_types::OCI_MANIFEST)][..], conditions].concat();
    let answer = site.send("PUT", path, &headers, document).await;
    if answer.status != 201 {
        answer.refuses(412, "DENIED");
    }
    answer.status
}

#[tokio::test]
async fn a_push_replaces_what_its_client_knows_and_nothing_else() {
    let site = Site::memory(RegistryOptions::default()).await;
    let [first, second] = &manifests(&site, 2).await[..] else { panic!("two") };
    let (old, new) = (tag_of(first), tag_of(second));
    let weak = format!("W/{old}");
    let both = format!("\"sha256:0\", {old}");
    for (document, conditions, status) in [
        (first, &[("If-Match", "*")][..], 412),
        (first, &[("If-Match", old.as_str())], 412),
        (first, &[("If-None-Match", "*")], 201),
        (second, &[("If-None-Match", "*")], 412),
        (second, &[("If-None-Match", old.as_str())], 412),
        (second, &[("If-None-Match", weak.as_str())], 412),
        (second, &[("If-Match", weak.as_str())], 412),
        (second, &[("If-Match", new.as_str())], 412),
        (second, &[("If-Match", "")], 412),
        // The first decides where there are both.
        (second, &[("If-Match", new.as_str()), ("If-None-Match", new.as_str())], 412),
        (second, &[("If-Match", both.as_str()), ("If-None-Match", "*")], 201),
        (second, &[("If-Match", "*")], 201),
        (first, &[("If-None-Match", old.as_str())], 201),
    ] {
        let before = site.get(TAG).await.body;
        assert_eq!(put(&site, TAG, document, conditions).await, status, "{conditions:?}");
        let expected = if status == 201 { document } else { &before };
        assert_eq!(&site.get(TAG).await.body, expected, "{conditions:?}");
    }
    // By its digest a manifest is what it is, there or not; what was deleted is not.
    let path = format!("/v2/a/manifests/{}", Digest::sha256(first));
    assert_eq!(put(&site, &path, first, &[("If-None-Match", "*")]).await, 412);
    assert_eq!(put(&site, &path, first, &[("If-Match", &old)]).await, 201);
    assert_eq!(site.send("DELETE", &path, &[], b"").await.status, 202);
    assert_eq!(put(&site, &path, first, &[("If-Match", "*")]).await, 412);
    assert_eq!(site.get(&path).await.status, 404, "what is refused is not brought back");
    assert_eq!(put(&site, &path, first, &[("If-None-Match", "*")]).await, 201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_who_replace_the_same_one_does() {
    let root = tempfile::tempdir().expect("temporary directory");
    let site = Arc::new(Site::start(local(&root).await, RegistryOptions::default()).await);
    let all = manifests(&site, 17).await;
    assert_eq!(put(&site, TAG, &all[0], &[]).await, 201);
    let mut known = tag_of(&all[0]);
    for round in 0..2 {
        let mut clients = JoinSet::new();
        for document in &all[1 + 8 * round..][..8] {
            let (site, known, document) = (Arc::clone(&site), known.clone(), document.clone());
            clients.spawn(async move {
                (put(&site, TAG, &document, &[("If-Match", &known)]).await == 201).then_some(document)
            });
        }
        let done: Vec<Vec<u8>> = clients.join_all().await.into_iter().flatten().collect();
        assert_eq!(done.len(), 1);
        assert_eq!(site.get(TAG).await.body, done[0]);
        known = tag_of(&done[0]);
    }
}

#[tokio::test]
async fn a_manifest_is_not_called_what_it_is_not() {
    let root = tempfile::tempdir().expect("temporary directory");
    let options = RegistryOptions::default().with_upload_grace(std::time::Duration::ZERO);
    let site = Site::start(local(&root).await, options).await;
    let named = site.push_image("a", "x", b"layer").await;
    let mut document: serde_json::Value = serde_json::from_slice(&named).expect("JSON");
    let own = document["mediaType"].take();
    assert_eq!(own, media_types::OCI_MANIFEST);
    document.as_object_mut().expect("an object").remove("mediaType");
    let nameless = document.to_string().into_bytes();
    let list = index(&[]);
    for (document, declared, status) in [
        (&named, "text/plain", 400),
        (&named, "application/x-www-form-urlencoded", 400),
        (&named, media_types::DOCKER_MANIFEST, 400),
        (&named, media_types::OCI_INDEX, 400),
        (&named, "application/vnd.oci.image.Manifest.v1+json; charset=utf-8", 201),
        (&nameless, "text/plain", 400),
        (&nameless, media_types::DOCKER_MANIFEST, 201),
        (&nameless, media_types::OCI_MANIFEST, 201),
        (&list, "text/plain", 400),
        (&list, media_types::OCI_MANIFEST, 400),
        (&list, media_types::OCI_INDEX, 201),
        // What nobody knows is what its client says.
        (&b"{\"like\":\"nothing\"}".to_vec(), "application/vnd.acme.thing+json", 201),
        (&b"{\"mediaType\":\"a/b\"}".to_vec(), "a/c", 400),
        (&b"no JSON".to_vec(), "text/plain", 201),
    ] {
        let path = "/v2/other/manifests/y";
        let answer = site.put_manifest(path, declared, document).await;
        if status == 400 {
            answer.refuses(400, "MANIFEST_INVALID");
            let told = String::from_utf8_lossy(&answer.body).into_owned();
            assert!(told.contains(declared.split(';').next().unwrap_or_default()), "{told}");
        }
        assert_eq!(answer.status, status, "{declared}: {answer:?}");
    }
    // Other repositories have it as it was.
    let pinned = format!("/v2/a/manifests/{}", Digest::sha256(&named));
    for path in [TAG, &pinned] {
        assert_eq!(site.get(path).await.header("content-type"), Some(media_types::OCI_MANIFEST));
    }
    let leases = site.store.leases().expect("has leases");
    for lease in leases.list_leases(&FilterSet::all()).await.expect("lists") {
        leases.delete_lease(&lease.id).await.expect("removes");
    }
    wharf_images::collect(site.store.as_ref(), &CollectOptions::default()).await.expect("collects");
    let layer = Digest::sha256(b"layer");
    assert_eq!(site.get(&format!("/v2/a/blobs/{layer}")).await.body, b"layer");
    assert_eq!(site.get(&format!("/v2/a/blobs/{ABSENT}")).await.status, 404);
}
