//! What the official conformance suite sends, request by request, and what it accepts for an answer.
//!
//! The suite is a program in Go (`conformance` in the specification's repository). This is its level `1.1+dev` with nothing disabled: tag
//! parameters, sparse manifests, cancelled uploads and digest headers, by sha256 and sha512. Where it takes several answers, the one is
//! asked for that counts as supported.

use serde_json::{Value, json};
use wharf_content::{Algorithm, Descriptor, Digest};
use wharf_images::media_types;

use crate::{
    bytes,
    conformance_data::{Data, everything},
    site::{Answer, Site, each},
};

const REPO: &str = "conformance/repo1";
const OTHER: &str = "conformance/repo2";
const OCTETS: (&str, &str) = ("Content-Type", "application/octet-stream");
/// The suite's chunks are no smaller than this, unless the registry says so.
const CHUNK: usize = 1024;

/// The ways in which a blob is uploaded.
#[derive(Clone, Copy, Debug)]
enum How {
    /// All in the `POST`.
    Post,
    /// A `POST`, and all in the `PUT`.
    PostPut,
    /// A `PATCH` without length or range.
    Stream,
    /// Chunks with ranges, the last one in a `PATCH` as well or in the `PUT`, before each one that is out of order or not.
    Chunks { put: bool, disorder: bool },
}

const WAYS: [How; 7] = [
    How::Post,
    How::PostPut,
    How::Stream,
    How::Chunks { put: false, disorder: false },
    How::Chunks { put: true, disorder: false },
    How::Chunks { put: false, disorder: true },
    How::Chunks { put: true, disorder: true },
];

/// Bytes that nothing else here has.
pub(crate) fn unique(len: usize, seed: usize) -> Vec<u8> {
    let mut blob = bytes(len);
    for (byte, own) in blob.iter_mut().zip(format!("{seed:08}").bytes()) {
        *byte = own;
    }
    blob
}

/// Begins an upload as the suite does, with the number of its least chunk, if the registry has one.
async fn begin(site: &Site, repository: &str) -> String {
    let answer = site.send("POST", &format!("/v2/{repository}/blobs/uploads/"), &[], b"").await;
    assert_eq!(answer.status, 202, "{answer:?}");
    assert_eq!(answer.header("oci-chunk-min-length"), None, "chunks of any size are taken");
    location(&answer)
}

fn location(answer: &Answer) -> String {
    answer.header("location").unwrap_or_else(|| panic!("no location: {answer:?}")).to_owned()
}

fn with_digest(location: &str, digest: &Digest) -> String {
    // As the suite encodes it.
    format!("{location}?digest={}", digest.as_str().replace(':', "%3A"))
}

/// Uploads `body` as what has `digest`, and gives the last answer.
async fn upload(site: &Site, how: How, repository: &str, digest: &Digest, body: &[u8]) -> Answer {
    match how {
        How::Post => {
            let path = with_digest(&format!("/v2/{repository}/blobs/uploads/"), digest);
            site.send("POST", &path, &[OCTETS], body).await
        }
        How::PostPut => {
            let path = with_digest(&begin(site, repository).await, digest);
            site.send("PUT", &path, &[OCTETS], body).await
        }
        How::Stream => {
            let path = begin(site, repository).await;
            let patch = site.send_streamed("PATCH", &path, &[OCTETS], body).await;
            assert_eq!(patch.status, 202, "{patch:?}");
            site.send("PUT", &with_digest(&location(&patch), digest), &[OCTETS], b"").await
        }
        How::Chunks { put, disorder } => chunks(site, repository, digest, body, put, disorder).await,
    }
}

async fn chunks(
    site: &Site,
    repository: &str,
    digest: &Digest,
    body: &[u8],
    put: bool,
    disorder: bool,
) -> Answer {
    let mut path = begin(site, repository).await;
    let size = (body.len() / 3 + 1).max(CHUNK).min(body.len());
    let mut sent = 0;
    while sent < body.len() {
        let send = async |path: &str, start: usize| {
            let end = (start + size).min(body.len());
            let range = format!("{start}-{}", end - 1);
            let headers = [OCTETS, ("Content-Range", range.as_str())];
            if put && end == body.len() {
                (site.send("PUT", &with_digest(path, digest), &headers, &body[start..end]).await, end)
            } else {
                (site.send("PATCH", path, &headers, &body[start..end]).await, end)
            }
        };
        if disorder {
            let ahead = if sent + size < body.len() { sent + size } else { 0 };
            // With one chunk only, there is no other place than the right one.
            if ahead != sent {
                let (refused, _) = send(&path, ahead).await;
                refused.refuses(416, "BLOB_UPLOAD_INVALID");
                let status = site.get(&path).await;
                assert_eq!((status.status, status.body.len()), (204, 0), "{status:?}");
                assert_eq!(status.header("range"), Some(format!("0-{}", sent.max(1) - 1).as_str()));
                assert_eq!(location(&status), path);
            }
        }
        let (answer, end) = send(&path, sent).await;
        sent = end;
        if put && end == body.len() {
            return answer;
        }
        assert_eq!(answer.status, 202, "{answer:?}");
        assert_eq!(answer.header("range"), Some(format!("0-{}", end - 1).as_str()));
        path = location(&answer);
    }
    site.send("PUT", &with_digest(&path, digest), &[OCTETS], b"").await
}

/// Checks that an upload ended well: the blob is where the answer says.
async fn uploaded(site: &Site, answer: &Answer, digest: &Digest, body: &[u8], context: &str) {
    assert_eq!(answer.status, 201, "{context}: {answer:?}");
    assert_eq!(answer.header("docker-content-digest"), Some(digest.as_str()), "{context}");
    let got = site.get(&location(answer)).await;
    assert_eq!(got.status, 200, "{context}");
    assert!(got.body == body, "{context}");
}

async fn readable(site: &Site, repository: &str, digest: &Digest, body: &[u8]) {
    let path = format!("/v2/{repository}/blobs/{digest}");
    let len = body.len().to_string();
    for method in ["HEAD", "GET"] {
        let answer = site.send(method, &path, &[], b"").await;
        assert_eq!(answer.status, 200, "{method} {path}: {answer:?}");
        assert_eq!(answer.header("content-length"), Some(len.as_str()));
        assert_eq!(answer.header("docker-content-digest"), Some(digest.as_str()));
        assert!(answer.body == if method == "GET" { body } else { b"" }, "{method} {path}");
    }
}

/// Deletes what was there, and what was not, and finds it gone at once.
async fn delete(site: &Site, path: &str) {
    let answer = site.send("DELETE", path, &[], b"").await;
    assert!([202, 404].contains(&answer.status), "{path}: {answer:?}");
    assert_eq!(site.send("HEAD", path, &[], b"").await.status, 404, "{path}");
}

async fn delete_blob(site: &Site, repository: &str, digest: &Digest) {
    delete(site, &format!("/v2/{repository}/blobs/{digest}")).await;
}

#[tokio::test]
async fn an_empty_registry() {
    each(async |site: &Site| {
        assert_eq!(site.get("/v2/").await.status, 200);
        let referrers = site.get(&format!("/v2/{REPO}/referrers/{}", Digest::sha256(b"none"))).await;
        assert_eq!(referrers.status, 200);
        assert_eq!(referrers.header("content-type"), Some(media_types::OCI_INDEX));
        let index = json!({ "schemaVersion": 2, "mediaType": media_types::OCI_INDEX, "manifests": [] });
        assert_eq!(referrers.json(), index);
        site.get(&format!("/v2/{REPO}/tags/list")).await.refuses(404, "NAME_UNKNOWN");
    })
    .await;
}

#[tokio::test]
async fn blobs() {
    each(async |site: &Site| {
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            for (number, how) in WAYS.into_iter().enumerate() {
                let context = format!("{algorithm} {how:?}");
                // One chunk, three, nothing, and the least document.
                for body in [unique(512, number), unique(3 * CHUNK - 5, number), vec![], b"{}".to_vec()] {
                    let digest = algorithm.digest(&body);
                    let path = format!("/v2/{REPO}/blobs/{digest}");
                    site.get(&path).await.refuses(404, "BLOB_UNKNOWN");
                    let answer = upload(site, how, REPO, &digest, &body).await;
                    uploaded(site, &answer, &digest, &body, &context).await;
                    readable(site, REPO, &digest, &body).await;
                    delete_blob(site, REPO, &digest).await;
                }
                // The digest of other bytes.
                let body = unique(3 * CHUNK - 5, 100 + number);
                let wrong = algorithm.digest(&body);
                let corrupt = [&body[..], b"oh no"].concat();
                upload(site, how, REPO, &wrong, &corrupt).await.refuses(400, "DIGEST_INVALID");
                site.get(&format!("/v2/{REPO}/blobs/{wrong}")).await.refuses(404, "BLOB_UNKNOWN");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn mounts_and_cancelled_uploads() {
    each(async |site: &Site| {
        for (number, algorithm) in [Algorithm::Sha256, Algorithm::Sha512].into_iter().enumerate() {
            let body = unique(512, 200 + number);
            let digest = algorithm.digest(&body);
            let mount = format!("/v2/{REPO}/blobs/uploads/?mount={}", digest.as_str().replace(':', "%3A"));
            for from in [format!("&from={}", OTHER.replace('/', "%2F")), String::new()] {
                upload(site, How::PostPut, OTHER, &digest, &body).await;
                let answer = site.send("POST", &format!("{mount}{from}"), &[], b"").await;
                uploaded(site, &answer, &digest, &body, "mounted").await;
                readable(site, REPO, &digest, &body).await;
                delete_blob(site, REPO, &digest).await;
                delete_blob(site, OTHER, &digest).await;
            }
            // What is nowhere is uploaded instead.
            let body = unique(512, 210 + number);
            let digest = algorithm.digest(&body);
            let mount = format!("/v2/{REPO}/blobs/uploads/?mount={digest}&from={OTHER}");
            let answer = site.send("POST", &mount, &[], b"").await;
            assert_eq!(answer.status, 202, "{answer:?}");
            let put = site.send("PUT", &with_digest(&location(&answer), &digest), &[OCTETS], &body).await;
            uploaded(site, &put, &digest, &body, "not mounted").await;

            let path = begin(site, REPO).await;
            let answer = site.send("DELETE", &path, &[], b"").await;
            assert_eq!((answer.status, answer.body.len()), (204, 0));
            site.get(&path).await.refuses(404, "BLOB_UPLOAD_UNKNOWN");
        }
    })
    .await;
}

#[tokio::test]
async fn ranges_by_every_algorithm() {
    each(async |site: &Site| {
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let body = unique(2048, 300);
            let digest = algorithm.digest(&body);
            upload(site, How::Post, REPO, &digest, &body).await;
            let path = format!("/v2/{REPO}/blobs/{digest}");
            for (range, start, end) in [
                ("bytes=500-1499", 500, 1500),
                ("bytes=500-", 500, 2048),
                ("bytes=-500", 1548, 2048),
                ("bytes=2000-5000", 2000, 2048),
            ] {
                let answer = site.send("GET", &path, &[("Range", range)], b"").await;
                assert_eq!(answer.status, 206, "{range}");
                assert!(answer.body == body[start..end], "{range}");
                let len = (end - start).to_string();
                assert_eq!(answer.header("content-length"), Some(len.as_str()));
                let told = format!("bytes {start}-{}/2048", end - 1);
                assert_eq!(answer.header("content-range"), Some(told.as_str()));
            }
            for range in ["bytes=500-0", "bytes=5000-10000"] {
                site.send("GET", &path, &[("Range", range)], b"").await.refuses(416, "SIZE_INVALID");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn data_of_every_kind() {
    each(async |site: &Site| {
        for data in everything() {
            push(site, &data).await;
            list_tags(site, &data).await;
            pull(site, &data).await;
            for subject in &data.subjects {
                referrers(site, &data, subject).await;
            }
            for (tag, _) in &data.tags {
                delete(site, &format!("/v2/{REPO}/manifests/{tag}")).await;
            }
            for manifest in data.manifests.iter().rev() {
                delete(site, &format!("/v2/{REPO}/manifests/{}", manifest.digest)).await;
            }
            for blob in &data.blobs {
                delete_blob(site, REPO, &data.algorithm.digest(blob)).await;
            }
        }
    })
    .await;
}

async fn push(site: &Site, data: &Data) {
    for (blob, how) in data.blobs.iter().zip(WAYS.into_iter().cycle()) {
        let digest = data.algorithm.digest(blob);
        let answer = upload(site, how, REPO, &digest, blob).await;
        uploaded(site, &answer, &digest, blob, data.name).await;
    }
    let accept = format!("{}, {}", media_types::OCI_INDEX, media_types::OCI_MANIFEST);
    let put = async |path: &str, manifest: &crate::conformance_data::Manifest| {
        // The suite does not say how long a manifest is.
        let headers = [("Content-Type", manifest.media_type)];
        let answer = site.send_streamed("PUT", path, &headers, &manifest.bytes).await;
        assert_eq!(answer.status, 201, "{} {path}: {answer:?}", data.name);
        assert_eq!(
            answer.header("oci-subject"),
            manifest.subject.as_ref().map(Digest::as_str),
            "{}",
            data.name
        );
        let got = site.send("GET", &location(&answer), &[("Accept", &accept)], b"").await;
        assert_eq!((got.status, got.header("content-type")), (200, Some(manifest.media_type)));
        assert!(got.body == manifest.bytes, "{}", data.name);
        answer
    };
    for (number, manifest) in data.manifests.iter().enumerate() {
        let own = data.tags.iter().filter(|(_, of)| *of == number).map(|(tag, _)| tag.as_str());
        let own: Vec<&str> = own.filter(|_| data.tags_are_parameters).collect();
        let query = own.iter().map(|tag| format!("tag={tag}")).collect::<Vec<_>>().join("&");
        let answer = put(&format!("/v2/{REPO}/manifests/{}?{query}", manifest.digest), manifest).await;
        assert_eq!(answer.header("docker-content-digest"), Some(manifest.digest.as_str()));
        let told: Vec<&str> = answer
            .headers
            .iter()
            .filter(|(name, _)| name == "oci-tag")
            .map(|(_, tag)| tag.as_str())
            .collect();
        assert_eq!(told, own, "{}", data.name);
        assert_eq!(answer.header("warning").is_some(), manifest.is_sparse, "{}: {answer:?}", data.name);
    }
    for (tag, number) in data.tags.iter().filter(|_| !data.tags_are_parameters) {
        put(&format!("/v2/{REPO}/manifests/{tag}"), &data.manifests[*number]).await;
    }
}

async fn list_tags(site: &Site, data: &Data) {
    let path = format!("/v2/{REPO}/tags/list");
    let listed = async |query: &str| {
        let answer = site.get(&format!("{path}{query}")).await;
        let tags = answer.json()["tags"].as_array().cloned().unwrap_or_default();
        tags.iter().map(|tag| tag.as_str().expect("a tag").to_owned()).collect::<Vec<_>>()
    };
    let all = listed("").await;
    let mut expected: Vec<&String> = data.tags.iter().map(|(tag, _)| tag).collect();
    expected.sort();
    assert_eq!(all.iter().collect::<Vec<_>>(), expected, "{}", data.name);
    if let Some(half) = all.len().checked_div(2).filter(|half| *half > 0) {
        assert_eq!(listed(&format!("?last={}", all[half - 1])).await, all[half..], "{}", data.name);
    }
}

async fn pull(site: &Site, data: &Data) {
    let by_digest = data.manifests.iter().map(|manifest| (manifest.digest.to_string(), manifest));
    let by_tag = data.tags.iter().map(|(tag, number)| (tag.clone(), &data.manifests[*number]));
    for (reference, manifest) in by_digest.chain(by_tag) {
        let path = format!("/v2/{REPO}/manifests/{reference}");
        let len = manifest.bytes.len().to_string();
        for method in ["HEAD", "GET"] {
            let headers = [("Accept", media_types::OCI_INDEX), ("Accept", media_types::OCI_MANIFEST)];
            let answer = site.send(method, &path, &headers, b"").await;
            assert_eq!(answer.status, 200, "{} {method} {path}", data.name);
            assert_eq!(answer.header("content-type"), Some(manifest.media_type));
            assert_eq!(answer.header("content-length"), Some(len.as_str()));
            assert_eq!(answer.header("docker-content-digest"), Some(manifest.digest.as_str()));
            assert!(answer.body == if method == "GET" { &manifest.bytes[..] } else { b"" }, "{}", data.name);
        }
    }
    for blob in &data.blobs {
        readable(site, REPO, &data.algorithm.digest(blob), blob).await;
    }
}

async fn referrers(site: &Site, data: &Data, subject: &Digest) {
    let path = format!("/v2/{REPO}/referrers/{subject}");
    let expected: Vec<Value> = data
        .manifests
        .iter()
        .filter(|manifest| manifest.subject.as_ref() == Some(subject))
        .map(|manifest| {
            let descriptor =
                Descriptor::new(manifest.media_type, manifest.digest.clone(), manifest.bytes.len() as u64);
            let mut entry = serde_json::to_value(descriptor).expect("serialises");
            entry["artifactType"] = json!(manifest.artifact_type);
            if manifest.annotations != json!({}) {
                entry["annotations"] = manifest.annotations.clone();
            }
            entry
        })
        .collect();
    assert!(!expected.is_empty(), "{}", data.name);
    let listed = async |query: &str, filter: Option<&str>, expected: &[&Value]| {
        let answer = site.get(&format!("{path}{query}")).await;
        assert_eq!((answer.status, answer.header("content-type")), (200, Some(media_types::OCI_INDEX)));
        assert_eq!(answer.header("oci-filters-applied"), filter);
        let index = answer.json();
        assert_eq!(
            (&index["mediaType"], &index["schemaVersion"]),
            (&json!(media_types::OCI_INDEX), &json!(2))
        );
        let found = index["manifests"].as_array().expect("manifests");
        assert_eq!(found.len(), expected.len(), "{} {query}: {index}", data.name);
        assert!(expected.iter().all(|entry| found.contains(entry)), "{} {query}: {index}", data.name);
    };
    listed("", None, &expected.iter().collect::<Vec<_>>()).await;
    for entry in &expected {
        let wanted = entry["artifactType"].as_str().expect("a type");
        let query = format!("?artifactType={}", wanted.replace('/', "%2F").replace('+', "%2B"));
        let of_type: Vec<&Value> = expected.iter().filter(|other| other["artifactType"] == wanted).collect();
        listed(&query, Some("artifactType"), &of_type).await;
    }
}

#[tokio::test]
async fn manifests_that_are_wrong_or_missing() {
    each(async |site: &Site| {
        let path = |reference: &str| format!("/v2/{REPO}/manifests/{reference}");
        site.get(&path(Digest::sha256(b"missing").as_str())).await.refuses(404, "MANIFEST_UNKNOWN");
        site.get(&path("missing-abcdefghijklmnopqrst")).await.refuses(404, "MANIFEST_UNKNOWN");
        site.get(&path("sha256:baddigeststring")).await.refuses(400, "DIGEST_INVALID");
        let data = &everything()[0];
        push(site, data).await;
        let manifest = &data.manifests[0];
        let headers = [("Content-Type", manifest.media_type)];
        let put = site.send_streamed("PUT", &path("sha256:baddigeststring"), &headers, &manifest.bytes).await;
        put.refuses(400, "DIGEST_INVALID");
        // The same document with other bytes.
        let spaced = [&manifest.bytes[..], b"  "].concat();
        let put = site.send_streamed("PUT", &path(manifest.digest.as_str()), &headers, &spaced).await;
        put.refuses(400, "DIGEST_INVALID");
        assert_eq!(site.get(&path(manifest.digest.as_str())).await.body, manifest.bytes);
    })
    .await;
}
