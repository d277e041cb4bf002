//! What was pushed, as it is read again: manifests, blobs, ranges, referrers.

use std::sync::Arc;

use serde_json::{Value, json};
use wharf_content::{
    Algorithm, Catalogue, CommitOptions, Descriptor, Digest, Error, Result, filter::FilterSet,
    labels::GC_REF_CONTENT, plugin::Registration,
};
use wharf_images::{
    Image, Kind, ManifestDecoder,
    decode::{Decoded, ManifestDecoders},
    media_types,
};
use wharf_remotes::server::{LABEL_MEDIA_TYPE, RegistryOptions};

use crate::{
    ABSENT, bytes,
    site::{Answer, CONFIG, Site, each, index, manifest},
};

#[tokio::test]
async fn what_is_pushed_is_pulled_byte_for_byte() {
    each(async |site: &Site| {
        assert_eq!(site.get("/v2/").await.json(), json!({}));
        let layer = bytes(3_000_000);
        let pushed = site.push_image("team/app", "v1", &layer).await;
        let digest = Digest::sha256(&pushed);

        for reference in ["v1", digest.as_str()] {
            let path = format!("/v2/team/app/manifests/{reference}");
            let answer = site.get(&path).await;
            assert_eq!((answer.status, &answer.body), (200, &pushed));
            assert_eq!(answer.header("content-type"), Some(media_types::OCI_MANIFEST));
            assert_eq!(answer.header("docker-content-digest"), Some(digest.as_str()));
            let head = site.send("HEAD", &path, &[], b"").await;
            same_headers(&head, &answer);
        }
        let path = format!("/v2/team/app/blobs/{}", Digest::sha256(&layer));
        let answer = site.get(&path).await;
        assert_eq!(answer.status, 200);
        assert!(answer.body == layer);
        same_headers(&site.send("HEAD", &path, &[], b"").await, &answer);

        // The push is an image of the store, and its children are held.
        let image = site.images.get(&format!("{}/team/app:v1", site.address)).await.expect("recorded");
        assert_eq!(
            image.target,
            Descriptor::new(media_types::OCI_MANIFEST, digest.clone(), pushed.len() as u64)
        );
        let labels = site.store.info(&digest).await.expect("stored").labels;
        assert_eq!(labels[&format!("{GC_REF_CONTENT}.l.0")], Digest::sha256(&layer).as_str());
        assert_eq!(labels[&format!("{GC_REF_CONTENT}.config")], Digest::sha256(CONFIG).as_str());
        assert_eq!(labels[LABEL_MEDIA_TYPE], media_types::OCI_MANIFEST);
    })
    .await;
}

fn same_headers(head: &Answer, answer: &Answer) {
    let headers = |answer: &Answer| {
        let mut headers = answer.headers.clone();
        headers.retain(|(name, _)| name != "date");
        headers.sort();
        headers
    };
    assert_eq!((head.status, headers(head)), (answer.status, headers(answer)));
    assert_eq!(head.body, b"");
}

#[tokio::test]
async fn ranges() {
    each(async |site: &Site| {
        let blob = bytes(600_000);
        let path = format!("/v2/a/blobs/{}", site.push_blob("a", &blob).await);
        for (range, start, end) in [
            ("bytes=0-0", 0, 1),
            ("bytes=500-1499", 500, 1500),
            ("bytes=500-", 500, 600_000),
            ("bytes=-500", 599_500, 600_000),
            ("bytes=599000-700000", 599_000, 600_000),
        ] {
            let answer = site.send("GET", &path, &[("Range", range)], b"").await;
            assert_eq!(answer.status, 206, "{range}");
            assert!(answer.body == blob[start..end], "{range}");
            let expected = format!("bytes {start}-{}/600000", end - 1);
            assert_eq!(answer.header("content-range"), Some(expected.as_str()));
            assert_eq!(answer.header("accept-ranges"), Some("bytes"));
        }
        for range in ["bytes=600000-", "bytes=500-0", "bytes=-0", "bytes=x", "bytes"] {
            let answer = site.send("GET", &path, &[("Range", range)], b"").await;
            answer.refuses(416, "SIZE_INVALID");
            assert_eq!(answer.header("content-range"), Some("bytes */600000"), "{range}");
        }
        for headers in [
            &[("Range", "bytes=0-1,5-6")][..],
            &[("Range", "lines=0-1")],
            &[("Range", "bytes=0-1"), ("If-Range", "\"other\"")],
        ] {
            assert_eq!(site.send("GET", &path, headers, b"").await.body.len(), blob.len(), "{headers:?}");
        }
        let etag = site.get(&path).await.header("etag").expect("an entity tag").to_owned();
        let answer = site.send("GET", &path, &[("Range", "bytes=0-1"), ("If-Range", &etag)], b"").await;
        assert_eq!(answer.status, 206);
        assert_eq!(site.send("HEAD", &path, &[("Range", "bytes=0-1")], b"").await.status, 200);
    })
    .await;
}

#[tokio::test]
async fn what_the_client_has_is_not_sent_again() {
    each(async |site: &Site| {
        let manifest = site.push_image("a", "x", b"layer").await;
        let digest = Digest::sha256(&manifest);
        for path in [
            "/v2/a/manifests/x".to_owned(),
            format!("/v2/a/manifests/{digest}"),
            format!("/v2/a/blobs/{}", Digest::sha256(b"layer")),
        ] {
            let whole = site.get(&path).await;
            let etag = whole.header("etag").expect("an entity tag");
            let among = format!("\"other\" , W/{etag}");
            for known in [etag, among.as_str(), "*"] {
                for headers in [
                    &[("If-None-Match", known)][..],
                    &[("If-None-Match", known), ("Range", "bytes=1-2")],
                    &[("If-None-Match", known), ("Range", "bytes=9000-")],
                ] {
                    for method in ["GET", "HEAD"] {
                        let answer = site.send(method, &path, headers, b"").await;
                        assert_eq!((answer.status, answer.body.len()), (304, 0), "{path}: {headers:?}");
                        assert_eq!(answer.header("etag"), Some(etag));
                        assert_eq!(
                            answer.header("docker-content-digest"),
                            whole.header("docker-content-digest")
                        );
                        assert_eq!(answer.header("content-length"), None);
                    }
                }
            }
            for other in ["\"other\"", "", digest.hex()] {
                let answer = site.send("GET", &path, &[("If-None-Match", other)], b"").await;
                assert_eq!((answer.status, answer.body), (200, whole.body.clone()), "{other}");
            }
        }
        site.send("GET", "/v2/a/manifests/none", &[("If-None-Match", "*")], b"")
            .await
            .refuses(404, "MANIFEST_UNKNOWN");
    })
    .await;
}

#[tokio::test]
async fn manifests_that_are_refused() {
    each(async |site: &Site| {
        let put = async |path: &str, media_type: &str, bytes: &[u8]| {
            site.put_manifest(path, media_type, bytes).await
        };
        site.push_blob("a", CONFIG).await;
        let whole = manifest(&[]);
        for (path, media_type, bytes, status, code) in [
            (
                format!("/v2/a/manifests/{ABSENT}"),
                media_types::OCI_MANIFEST,
                &whole[..],
                400,
                "DIGEST_INVALID",
            ),
            (
                format!("/v2/a/manifests/x?digest={ABSENT}"),
                media_types::OCI_MANIFEST,
                &whole,
                400,
                "DIGEST_INVALID",
            ),
            ("/v2/a/manifests/x".into(), media_types::OCI_INDEX, &whole, 400, "MANIFEST_INVALID"),
            ("/v2/a/manifests/x".into(), media_types::OCI_CONFIG, CONFIG, 400, "MANIFEST_INVALID"),
            ("/v2/a/manifests/x".into(), media_types::OCI_MANIFEST, b"{", 400, "MANIFEST_INVALID"),
            ("/v2/a/manifests/x".into(), media_types::OCI_MANIFEST, b"", 400, "MANIFEST_INVALID"),
            ("/v2/a/manifests/x".into(), "nonsense", &whole, 400, "MANIFEST_INVALID"),
            ("/v2/a/manifests/x".into(), media_types::DOCKER_SCHEMA1, b"{}", 400, "UNSUPPORTED"),
            ("/v2/A/manifests/x".into(), media_types::OCI_MANIFEST, &whole, 400, "NAME_INVALID"),
        ] {
            put(&path, media_type, bytes).await.refuses(status, code);
        }
        assert_eq!(site.images.list(&FilterSet::all()).await.expect("lists"), []);
    })
    .await;
}

#[tokio::test]
async fn manifests_whose_blobs_are_missing() {
    let incomplete = manifest(&[Descriptor::of(media_types::OCI_LAYER, b"absent")]);
    let path = "/v2/a/manifests/x";
    each(async |site: &Site| {
        site.push_blob("a", CONFIG).await;
        let answer = site.put_manifest(path, media_types::OCI_MANIFEST, &incomplete).await;
        let told = "299 - \"1 of the blobs that the manifest names are not in the registry\"";
        assert_eq!((answer.status, answer.header("warning")), (201, Some(told)));
        assert_eq!(site.get(path).await.body, incomplete);
        // It may come later.
        let layer = site.push_blob("a", b"absent").await;
        assert_eq!(site.get(&format!("/v2/a/blobs/{layer}")).await.status, 200);
        let answer = site.put_manifest(path, media_types::OCI_MANIFEST, &incomplete).await;
        assert_eq!((answer.status, answer.header("warning")), (201, None));
    })
    .await;

    let site = Site::memory(RegistryOptions::default().with_complete_manifests()).await;
    site.push_blob("a", CONFIG).await;
    let answer = site.put_manifest(path, media_types::OCI_MANIFEST, &incomplete).await;
    answer.refuses(404, "MANIFEST_BLOB_UNKNOWN");
    assert_eq!(answer.json()["errors"][0]["detail"]["digests"], json!([Digest::sha256(b"absent").as_str()]));
    site.get(path).await.refuses(404, "MANIFEST_UNKNOWN");
    assert_eq!(site.put_manifest(path, media_types::OCI_INDEX, &index(&[])).await.status, 201);
    site.stop().await;
}

#[tokio::test]
async fn manifests_that_are_too_large() {
    let site = Site::memory(RegistryOptions::default()).await;
    let large = bytes(4 * 1024 * 1024 + 1);
    let path = "/v2/a/manifests/x";
    site.put_manifest(path, "application/x-any", &large).await.refuses(413, "SIZE_INVALID");
    assert_eq!(site.put_manifest(path, "application/x-any", &large[1..]).await.status, 201);
    assert!(site.get(path).await.body == large[1..]);
    // Without a length, and without an end.
    let mut request =
        format!("PUT {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: a/b\r\nTransfer-Encoding: chunked\r\n\r\n")
            .into_bytes();
    for piece in large.chunks(100_000) {
        request.extend(format!("{:x}\r\n", piece.len()).bytes());
        request.extend(piece);
        request.extend(b"\r\n");
    }
    request.extend(b"0\r\n\r\n");
    Answer::parse(&site.raw(&request).await).refuses(413, "SIZE_INVALID");
    // A client that waits to be told is told before it sends.
    let head =
        format!("PUT {path} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 99999999\r\n\r\n");
    Answer::parse(&site.raw(head.as_bytes()).await).refuses(413, "SIZE_INVALID");
    site.stop().await;
}

#[tokio::test]
async fn manifests_of_every_kind() {
    each(async |site: &Site| {
        // Sparse: an index may come before what it lists, and name what never comes.
        let listed = manifest(&[]);
        let sparse = index(&[Descriptor::of(media_types::OCI_MANIFEST, &listed)]);
        let answer = site.put_manifest("/v2/a/manifests/index", media_types::OCI_INDEX, &sparse).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        // Layers that stay where they are need not be here.
        site.push_blob("a", CONFIG).await;
        let foreign =
            manifest(&[Descriptor::of(media_types::OCI_LAYER_NON_DISTRIBUTABLE_GZIP, b"elsewhere")]);
        assert_eq!(
            site.put_manifest("/v2/a/manifests/foreign", media_types::OCI_MANIFEST, &foreign).await.status,
            201
        );
        // Types that nobody decodes; parameters of a type are ignored.
        let path = "/v2/a/manifests/other";
        assert_eq!(site.put_manifest(path, "application/x-own; charset=utf-8", b"own").await.status, 201);
        assert_eq!(site.get(path).await.header("content-type"), Some("application/x-own"));

        // By digest, of another algorithm and with tags as parameters.
        let digest = Algorithm::Sha512.digest(&foreign);
        let path = format!("/v2/a/manifests/{digest}?tag=one&tag=two");
        let answer = site.put_manifest(&path, media_types::OCI_MANIFEST, &foreign).await;
        assert_eq!(answer.status, 201);
        let tags: Vec<_> =
            answer.headers.iter().filter(|(name, _)| name == "oci-tag").map(|(_, tag)| tag).collect();
        assert_eq!(tags, ["one", "two"]);
        let answer = site.get("/v2/a/manifests/two").await;
        assert_eq!((answer.header("docker-content-digest"), &answer.body), (Some(digest.as_str()), &foreign));
        let answer = site.get(&format!("/v2/a/manifests/{digest}")).await;
        assert_eq!(answer.header("content-type"), Some(media_types::OCI_MANIFEST));
    })
    .await;
}

#[tokio::test]
async fn content_that_was_not_pushed_says_what_it_is() {
    let site = Site::memory(RegistryOptions::default()).await;
    let store = |bytes: Vec<u8>| {
        let store = Arc::clone(&site.store);
        async move {
            let descriptor = Descriptor::of("x", &bytes);
            let done = wharf_content::write_blob(
                store.as_ref(),
                "t",
                &descriptor,
                bytes.into(),
                CommitOptions::default(),
            );
            done.await.expect("stored");
            descriptor.digest
        }
    };
    let config = Descriptor::of(media_types::OCI_CONFIG, CONFIG);
    let shaped = json!({ "config": config, "layers": [] }).to_string().into_bytes();
    let unknown = json!({ "mediaType": "application/vnd.example.thing+json" }).to_string().into_bytes();
    for (bytes, expected) in [
        (manifest(&[]), media_types::OCI_MANIFEST),
        (index(&[]), media_types::OCI_INDEX),
        (shaped, media_types::OCI_MANIFEST),
        // As a part of an index may be of which this registry knows nothing.
        (unknown, "application/vnd.example.thing+json"),
        (json!({ "schemaVersion": 1, "fsLayers": [] }).to_string().into_bytes(), media_types::DOCKER_SCHEMA1),
    ] {
        let digest = store(bytes.clone()).await;
        let answer = site.get(&format!("/v2/any/manifests/{digest}")).await;
        assert_eq!((answer.header("content-type"), &answer.body), (Some(expected), &bytes));
    }
    // What a record points at is one, whatever it looks like.
    for (tag, bytes, recorded, expected) in [
        (1, &br#"{"manifests":[],"x":1}"#[..], media_types::DOCKER_LIST, media_types::DOCKER_LIST),
        (2, b"of any type", "application/x-own", "application/x-own"),
        (3, b"of none", "none", "application/octet-stream"),
    ] {
        let digest = store(bytes.to_vec()).await;
        let target = Descriptor::new(recorded, digest.clone(), bytes.len() as u64);
        site.images.create(Image::new(format!("quay.io/o/p:{tag}"), target)).await.expect("recorded");
        let answer = site.get(&format!("/v2/any/manifests/{digest}")).await;
        assert_eq!((answer.header("content-type"), &answer.body[..]), (Some(expected), bytes));
    }
    site.stop().await;
}

#[tokio::test]
async fn blobs_are_no_manifests() {
    each(async |site: &Site| {
        let whole = json!({
            "architecture": "amd64", "os": "linux", "config": { "Env": ["A=b"] },
            "rootfs": { "type": "layers", "diff_ids": [] },
        });
        let named = json!({ "mediaType": media_types::OCI_CONFIG });
        let shaped = json!({ "config": {}, "layers": [] });
        let documents =
            [whole, named, shaped, json!({}), json!([])].map(|json| json.to_string().into_bytes());
        for blob in [CONFIG.to_vec(), b"a layer".to_vec(), bytes(100_000)].into_iter().chain(documents) {
            let digest = site.push_blob("a", &blob).await;
            let path = format!("/v2/a/manifests/{digest}");
            let shown = String::from_utf8_lossy(&blob[..blob.len().min(100)]).into_owned();
            assert_eq!(site.send("HEAD", &path, &[], b"").await.status, 404, "{shown}");
            for method in ["GET", "DELETE"] {
                site.send(method, &path, &[], b"").await.refuses(404, "MANIFEST_UNKNOWN");
            }
            let path = format!("/v2/a/blobs/{digest}");
            assert_eq!(site.get(&path).await.body, blob, "{shown}");
            assert_eq!(site.send("DELETE", &path, &[], b"").await.status, 202, "{shown}");
        }
        // Until somebody pushes it as one.
        let digest = site.push_blob("a", b"of any type").await;
        let path = format!("/v2/a/manifests/{digest}");
        assert_eq!(site.put_manifest(&path, "application/x-own", b"of any type").await.status, 201);
        assert_eq!(site.get(&path).await.header("content-type"), Some("application/x-own"));
        assert_eq!(site.send("DELETE", &path, &[], b"").await.status, 202);
        site.get(&path).await.refuses(404, "MANIFEST_UNKNOWN");
    })
    .await;
}

/// A document that is read by a field of its own.
#[derive(Debug)]
struct Thing {
    kind: Kind,
    blocks: bool,
}

impl ManifestDecoder for Thing {
    fn kind(&self) -> Kind {
        self.kind
    }

    fn blocks(&self) -> bool {
        self.blocks
    }

    fn decode(&self, descriptor: &Descriptor, bytes: &[u8]) -> Result<Decoded> {
        let document: Value = serde_json::from_slice(bytes).unwrap_or_default();
        match document["thing"].as_u64() {
            Some(_) => Ok(Decoded::default()),
            None => Err(Error::invalid_argument(format!("{} is no thing", descriptor.digest))),
        }
    }
}

#[tokio::test]
async fn which_documents_are_manifests_is_told_by_the_decoders_of_the_catalogue() {
    let mut catalogue = Catalogue::linked().clone();
    for (name, kind, blocks) in
        [("leaf", Kind::Leaf, false), ("index", Kind::Index, false), ("program", Kind::Manifest, true)]
    {
        let decoder = Arc::new(Thing { kind, blocks }) as Arc<dyn ManifestDecoder>;
        let keys = [format!("application/x-{name}")];
        catalogue = catalogue.with(Registration::<ManifestDecoders>::shared(name, keys, 0, "test", decoder));
    }
    let site = Site::memory(RegistryOptions::default().with_catalogue(catalogue)).await;
    for (kind, field, status) in [
        ("index", "thing", 200),
        ("index", "other", 404),
        ("leaf", "thing", 404),
        // It is not run for each request: what calls itself so is taken for one.
        ("program", "other", 200),
    ] {
        let document = json!({ "mediaType": format!("application/x-{kind}"), field: 1 }).to_string();
        let digest = site.push_blob("a", document.as_bytes()).await;
        let answer = site.get(&format!("/v2/a/manifests/{digest}")).await;
        assert_eq!(answer.status, status, "{document}");
        if status == 200 {
            let expected = format!("application/x-{kind}");
            assert_eq!(
                (answer.header("content-type"), &*answer.body),
                (Some(&*expected), document.as_bytes())
            );
        }
    }
    site.stop().await;
}

#[tokio::test]
async fn referrers() {
    each(async |site: &Site| {
        let subject = site.push_image("a", "x", b"layer").await;
        let subject = Descriptor::of(media_types::OCI_MANIFEST, &subject);
        let path = format!("/v2/a/referrers/{}", subject.digest);
        assert_eq!(site.get(&path).await.json()["manifests"], json!([]));
        site.push_blob("a", b"{}").await;
        let empty = Descriptor::of(media_types::OCI_EMPTY, b"{}");
        for (artifact_type, expected) in [(Some("application/x-sbom"), "application/x-sbom"), (None, media_types::OCI_EMPTY)] {
            let bytes = json!({
                "schemaVersion": 2, "mediaType": media_types::OCI_MANIFEST, "artifactType": artifact_type,
                "config": empty, "layers": [], "subject": subject, "annotations": { "k": expected },
            });
            let bytes = bytes.to_string().into_bytes();
            let answer = site
                .put_manifest(
                    &format!("/v2/a/manifests/{}", Digest::sha256(&bytes)),
                    media_types::OCI_MANIFEST,
                    &bytes,
                )
                .await;
            assert_eq!((answer.status, answer.header("oci-subject")), (201, Some(subject.digest.as_str())));
            let filtered = site.get(&format!("{path}?artifactType={}", expected.replace('/', "%2F"))).await;
            assert_eq!(filtered.header("oci-filters-applied"), Some("artifactType"));
            assert_eq!(
                filtered.json()["manifests"],
                json!([{
                    "mediaType": media_types::OCI_MANIFEST, "digest": Digest::sha256(&bytes).as_str(), "size": bytes.len(),
                    "artifactType": expected, "annotations": { "k": expected },
                }])
            );
        }
        let all = site.get(&path).await;
        assert_eq!(all.header("content-type"), Some(media_types::OCI_INDEX));
        assert_eq!(all.header("oci-filters-applied"), None);
        assert_eq!(all.json()["manifests"].as_array().map(Vec::len), Some(2));
    })
    .await;
}
