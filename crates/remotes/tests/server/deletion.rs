//! Content management: what is deleted is gone in its repository, and in no other.

use wharf_content::{Descriptor, Digest, filter::FilterSet, gc::CollectOptions};
use wharf_images::{Image, media_types};
use wharf_remotes::server::RegistryOptions;

use crate::{
    ABSENT,
    site::{CONFIG, Site, each, index, local, manifest},
};

async fn delete(site: &Site, path: &str) -> crate::site::Answer {
    site.send("DELETE", path, &[], b"").await
}

#[tokio::test]
async fn a_tag() {
    each(async |site: &Site| {
        let pushed = site.push_image("a", "x", b"layer").await;
        site.push_image("a", "y", b"layer").await;
        let answer = delete(site, "/v2/a/manifests/x").await;
        assert_eq!((answer.status, answer.body.len()), (202, 0));
        site.get("/v2/a/manifests/x").await.refuses(404, "MANIFEST_UNKNOWN");
        delete(site, "/v2/a/manifests/x").await.refuses(404, "MANIFEST_UNKNOWN");
        // The manifest, and what else is called after it, stay.
        let digest = Digest::sha256(&pushed);
        assert_eq!(site.get(&format!("/v2/a/manifests/{digest}")).await.body, pushed);
        assert_eq!(site.get("/v2/a/tags/list").await.json()["tags"], serde_json::json!(["y"]));
        assert_eq!(site.get("/v2/a/manifests/y").await.status, 200);
    })
    .await;
}

#[tokio::test]
async fn the_last_tag() {
    each(async |site: &Site| {
        let pushed = site.push_image("a", "x", b"layer").await;
        site.push_image("b", "x", b"layer").await;
        let empty = serde_json::json!({ "name": "a", "tags": [] });
        assert_eq!(delete(site, "/v2/a/manifests/x").await.status, 202);
        assert_eq!(site.get("/v2/a/tags/list").await.json(), empty);
        assert_eq!(delete(site, &format!("/v2/b/manifests/{}", Digest::sha256(&pushed))).await.status, 202);
        assert_eq!(site.get("/v2/b/tags/list").await.status, 200);
        site.get("/v2/c/tags/list").await.refuses(404, "NAME_UNKNOWN");
        // A name is found whole.
        site.get("/v2/a/b/tags/list").await.refuses(404, "NAME_UNKNOWN");
    })
    .await;
}

#[tokio::test]
async fn a_tag_that_several_records_stand_for() {
    each(async |site: &Site| {
        let pushed = site.push_image("o/p", "1", b"layer").await;
        let target = Descriptor::of(media_types::OCI_MANIFEST, &pushed);
        for name in ["quay.io/o/p:1", "docker.io/o/p:1", "quay.io/o/p:2", "quay.io/o/other:1"] {
            site.images.create(Image::new(name, target.clone())).await.expect("creates");
        }
        assert_eq!(delete(site, "/v2/o/p/manifests/1").await.status, 202);
        site.get("/v2/o/p/manifests/1").await.refuses(404, "MANIFEST_UNKNOWN");
        delete(site, "/v2/o/p/manifests/1").await.refuses(404, "MANIFEST_UNKNOWN");
        assert_eq!(site.get("/v2/o/p/manifests/2").await.status, 200);
        assert_eq!(site.get("/v2/o/other/manifests/1").await.status, 200);
        assert_eq!(site.get("/v2/o/p/tags/list").await.json()["tags"], serde_json::json!(["2"]));
        // What was pushed here is gone, and what was pulled from others is the store's as before.
        let images = site.images.list(&FilterSet::all()).await.expect("lists");
        let names: Vec<&str> = images.iter().map(|image| image.name.as_str()).collect();
        assert_eq!(names, ["docker.io/o/p:1", "quay.io/o/other:1", "quay.io/o/p:1", "quay.io/o/p:2"]);

        // By another name, or with another target, it is served again; so is what is pushed.
        let hidden = site.images.get("docker.io/o/p:1").await.expect("it is there");
        let again = Image::new(format!("{}/o/p:1", site.address), target.clone()).with_labels(hidden.labels);
        site.images.create(again).await.expect("creates");
        assert_eq!(site.get("/v2/o/p/manifests/1").await.body, pushed);
        assert_eq!(delete(site, "/v2/o/p/manifests/1").await.status, 202);
        site.get("/v2/o/p/manifests/1").await.refuses(404, "MANIFEST_UNKNOWN");
        let other = site.push_image("elsewhere", "1", b"another").await;
        let moved = Image::new("quay.io/o/p:1", Descriptor::of(media_types::OCI_MANIFEST, &other));
        site.images.update(moved, &["target"]).await.expect("updates");
        assert_eq!(site.get("/v2/o/p/manifests/1").await.body, other);
        site.push_image("o/p", "1", b"layer").await;
        assert_eq!(site.get("/v2/o/p/manifests/1").await.body, pushed);
    })
    .await;
}

#[tokio::test]
async fn a_registry_that_is_called_in_several_ways() {
    each(async |site: &Site| {
        let put = async |host: &str| {
            let headers = [("Host", host), ("Content-Type", media_types::OCI_INDEX)];
            site.send("PUT", "/v2/o/p/manifests/1", &headers, &index(&[])).await.status
        };
        let names = async || {
            let images = site.images.list(&FilterSet::all()).await.expect("lists");
            images.into_iter().map(|image| image.name).collect::<Vec<_>>()
        };
        assert_eq!(put("one.example").await, 201);
        let pushed = site.images.get("one.example/o/p:1").await.expect("recorded");
        // The labels go along.
        let other = Image::new("quay.io/o/p:1", pushed.target).with_labels(pushed.labels);
        site.images.create(other).await.expect("creates");
        assert_eq!(delete(site, "/v2/o/p/manifests/1").await.status, 202);
        assert_eq!(names().await, ["quay.io/o/p:1"], "it was pushed under another name of this registry");
        assert_eq!(put("one.example").await, 201);
        let by_digest = format!("/v2/o/p/manifests/{}", Digest::sha256(&index(&[])));
        assert_eq!(delete(site, &by_digest).await.status, 202);
        assert_eq!(names().await, ["quay.io/o/p:1"]);
        site.get("/v2/o/p/manifests/1").await.refuses(404, "MANIFEST_UNKNOWN");
    })
    .await;
}

#[tokio::test]
async fn images_of_other_registries_by_their_own_names() {
    each(async |site: &Site| {
        let pushed = site.push_image("mine", "1", b"layer").await;
        let target = Descriptor::of(media_types::OCI_MANIFEST, &pushed);
        let digest = Digest::sha256(&pushed);
        let name = "ghcr.io/team/app:1";
        site.images.create(Image::new(name, target.clone())).await.expect("creates");
        let ours = [("Content-Type", media_types::OCI_MANIFEST)];
        let theirs = [("Host", "ghcr.io"), ours[0]];
        for (path, headers) in [("ghcr.io/team/app", &ours[..]), ("team/app", &theirs)] {
            let by_tag = format!("/v2/{path}/manifests/1");
            for reference in ["1".to_owned(), digest.to_string()] {
                let there = format!("/v2/{path}/manifests/{reference}");
                assert_eq!(site.send("GET", &by_tag, headers, b"").await.body, pushed, "{there}");
                assert_eq!(site.send("DELETE", &there, headers, b"").await.status, 202, "{there}");
                site.send("GET", &by_tag, headers, b"").await.refuses(404, "MANIFEST_UNKNOWN");
                let kept = site.images.get(name).await.expect("it is the store's");
                assert_eq!(kept.target, target);
                // Who pushes it again sees it again, though it has the same target.
                assert_eq!(site.send("PUT", &by_tag, headers, &pushed).await.status, 201);
                let tags = site.send("GET", &format!("/v2/{path}/tags/list"), headers, b"").await;
                assert_eq!(tags.json()["tags"], serde_json::json!(["1"]), "{there}");
                // As it was before, which has been pushed by now.
                site.images.delete(name, None).await.expect("deletes");
                site.images.create(Image::new(name, target.clone())).await.expect("creates");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_name_that_was_pushed_and_got_another_image() {
    each(async |site: &Site| {
        site.push_image("a", "1", b"layer").await;
        let other = Descriptor::of(media_types::OCI_MANIFEST, &site.push_image("b", "1", b"other").await);
        let name = format!("{}/a:1", site.address);
        // By somebody who works on the store: the labels stay.
        let moved = Image::new(&name, other.clone());
        site.images.update(moved, &["target"]).await.expect("updates");
        assert_eq!(delete(site, "/v2/a/manifests/1").await.status, 202);
        site.get("/v2/a/manifests/1").await.refuses(404, "MANIFEST_UNKNOWN");
        assert_eq!(site.images.get(&name).await.expect("it was not pushed").target, other);
    })
    .await;
}

#[tokio::test]
async fn a_manifest() {
    each(async |site: &Site| {
        let pushed = site.push_image("a", "x", b"layer").await;
        site.push_image("a", "y", b"layer").await;
        site.push_image("b", "x", b"layer").await;
        let by_digest = format!("/v2/a/manifests/{}", Digest::sha256(&pushed));
        assert_eq!(delete(site, &by_digest).await.status, 202);
        for gone in [&by_digest, "/v2/a/manifests/x", "/v2/a/manifests/y"] {
            site.get(gone).await.refuses(404, "MANIFEST_UNKNOWN");
            assert_eq!(site.send("HEAD", gone, &[], b"").await.status, 404, "{gone}");
        }
        delete(site, &by_digest).await.refuses(404, "MANIFEST_UNKNOWN");
        // Another repository has it still, and its blobs are nobody's but the store's.
        assert_eq!(site.get("/v2/b/manifests/x").await.body, pushed);
        assert_eq!(site.get(&by_digest.replace("/a/", "/b/")).await.body, pushed);
        assert_eq!(site.get(&format!("/v2/a/blobs/{}", Digest::sha256(b"layer"))).await.status, 200);
        // Pushed again it is there again.
        site.push_image("a", "z", b"layer").await;
        assert_eq!(site.get(&by_digest).await.body, pushed);
    })
    .await;
}

#[tokio::test]
async fn a_blob() {
    each(async |site: &Site| {
        site.push_image("a", "x", b"layer").await;
        let digest = Digest::sha256(b"layer");
        let path = format!("/v2/a/blobs/{digest}");
        let gone = async || {
            assert_eq!(delete(site, &path).await.status, 202);
            site.get(&path).await.refuses(404, "BLOB_UNKNOWN");
            assert_eq!(site.send("HEAD", &path, &[], b"").await.status, 404);
            delete(site, &path).await.refuses(404, "BLOB_UNKNOWN");
            assert_eq!(site.get(&format!("/v2/b/blobs/{digest}")).await.body, b"layer");
        };
        gone().await;
        site.push_blob("a", b"layer").await;
        assert_eq!(site.get(&path).await.body, b"layer");
        gone().await;
        let mounted = site.send("POST", &format!("/v2/a/blobs/uploads/?mount={digest}"), &[], b"").await;
        assert_eq!(mounted.status, 201);
        assert_eq!(site.get(&path).await.body, b"layer");
        gone().await;
        // A manifest that names it, of a client that did not ask.
        let bytes = manifest(&[Descriptor::of(media_types::OCI_LAYER, b"layer")]);
        let put = site.put_manifest("/v2/a/manifests/again", media_types::OCI_MANIFEST, &bytes).await;
        assert_eq!(put.status, 201);
        assert_eq!(site.get(&path).await.body, b"layer");
    })
    .await;
}

#[tokio::test]
async fn what_is_not_there() {
    each(async |site: &Site| {
        for path in ["/v2/a/manifests/x", &format!("/v2/a/manifests/{ABSENT}")] {
            delete(site, path).await.refuses(404, "MANIFEST_UNKNOWN");
        }
        delete(site, &format!("/v2/a/blobs/{ABSENT}")).await.refuses(404, "BLOB_UNKNOWN");
        delete(site, "/v2/a/blobs/sha256:x").await.refuses(400, "DIGEST_INVALID");
        delete(site, "/v2/a/tags/list").await.refuses(405, "UNSUPPORTED");
    })
    .await;
}

#[tokio::test]
async fn a_referrer() {
    each(async |site: &Site| {
        let subject = site.push_image("a", "x", b"layer").await;
        let mut document: serde_json::Value = serde_json::from_slice(&subject).expect("JSON");
        document["subject"] =
            serde_json::to_value(Descriptor::of(media_types::OCI_MANIFEST, &subject)).expect("serialises");
        let bytes = document.to_string().into_bytes();
        let path = format!("/v2/a/manifests/{}", Digest::sha256(&bytes));
        assert_eq!(site.put_manifest(&path, media_types::OCI_MANIFEST, &bytes).await.status, 201);
        let listed = async |repository: &str| {
            let path = format!("/v2/{repository}/referrers/{}", Digest::sha256(&subject));
            site.get(&path).await.json()["manifests"].as_array().map(Vec::len)
        };
        assert_eq!(listed("a").await, Some(1));
        assert_eq!(delete(site, &path).await.status, 202);
        assert_eq!((listed("a").await, listed("b").await), (Some(0), Some(1)));
    })
    .await;
}

#[tokio::test]
async fn what_nothing_holds_any_more_is_collected() {
    let root = tempfile::tempdir().expect("temporary directory");
    let options = RegistryOptions::default().with_upload_grace(std::time::Duration::ZERO);
    let site = Site::start(local(&root).await, options).await;
    let pushed = site.push_image("a", "x", b"layer").await;
    let referrers = index(&[]);
    let collect = async || {
        let collected = wharf_images::collect(site.store.as_ref(), &CollectOptions::default()).await;
        collected.expect("collects").iter().filter(|found| found.size > 0).count()
    };
    assert_eq!(collect().await, 0);
    let put = site.put_manifest("/v2/a/manifests/i", media_types::OCI_INDEX, &referrers).await;
    assert_eq!(put.status, 201);
    assert_eq!(delete(&site, &format!("/v2/a/manifests/{}", Digest::sha256(&pushed))).await.status, 202);
    assert_eq!(collect().await, 3, "manifest, config and layer");
    site.get(&format!("/v2/b/blobs/{}", Digest::sha256(CONFIG))).await.refuses(404, "BLOB_UNKNOWN");
    assert_eq!(site.get("/v2/a/manifests/i").await.body, referrers);
    site.stop().await;
}
