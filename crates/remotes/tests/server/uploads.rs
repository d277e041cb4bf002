//! Uploads in every way, and what must not come of those that go wrong.

use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use wharf_content::{Algorithm, Digest, filter::FilterSet};
use wharf_remotes::server::RegistryOptions;

use crate::{
    ABSENT, bytes,
    site::{Answer, Site, each, local},
};

#[tokio::test]
async fn uploads_in_every_way() {
    each(async |site: &Site| {
        let blob = bytes(200_000);
        let digest = Digest::sha256(&blob);
        // In chunks, the last one with the end.
        let location = site.begin("a").await;
        let patch = site.send("PATCH", &location, &[("Content-Range", "0-99999")], &blob[..100_000]).await;
        assert_eq!((patch.status, patch.header("range")), (202, Some("0-99999")));
        assert_eq!(patch.header("location"), Some(location.as_str()));
        let status = site.get(&location).await;
        assert_eq!((status.status, status.header("range")), (204, Some("0-99999")));
        site.get(&format!("/v2/a/blobs/{digest}")).await.refuses(404, "BLOB_UNKNOWN");
        let end = format!("{location}?digest={digest}");
        let put = site.send("PUT", &end, &[("Content-Range", "100000-199999")], &blob[100_000..]).await;
        assert_eq!(put.status, 201, "{put:?}");
        assert_eq!(put.header("location"), Some(format!("/v2/a/blobs/{digest}").as_str()));
        assert_eq!(put.header("docker-content-digest"), Some(digest.as_str()));
        assert!(site.get(&format!("/v2/a/blobs/{digest}")).await.body == blob);
        site.get(&location).await.refuses(404, "BLOB_UPLOAD_UNKNOWN");

        // Again, though it is there; and by every algorithm, of which the upload knows nothing until its end.
        for digest in Algorithm::ALL.map(|algorithm| algorithm.digest(&blob)) {
            let location = site.begin("b").await;
            assert_eq!(site.send("PATCH", &location, &[], &blob).await.status, 202);
            let put = site.send("PUT", &format!("{location}?digest={digest}"), &[], b"").await;
            assert_eq!(put.status, 201, "{put:?}");
            assert!(site.get(&format!("/v2/b/blobs/{digest}")).await.body == blob);
        }

        // Nothing at all is a blob, too.
        let empty = site.push_blob("a", b"").await;
        let answer = site.get(&format!("/v2/a/blobs/{empty}")).await;
        assert_eq!((answer.status, answer.header("content-length")), (200, Some("0")));

        // Mounted or begun, with and without the repository that it comes from.
        for from in ["", "&from=a"] {
            let mount =
                site.send("POST", &format!("/v2/c/blobs/uploads/?mount={digest}{from}"), &[], b"").await;
            assert_eq!(mount.status, 201);
            assert_eq!(mount.header("location"), Some(format!("/v2/c/blobs/{digest}").as_str()));
        }
        let mount = site.send("POST", &format!("/v2/c/blobs/uploads/?mount={ABSENT}&from=a"), &[], b"").await;
        assert_eq!(mount.status, 202);
        let location = mount.header("location").expect("an upload instead");
        assert_eq!(site.send("DELETE", location, &[], b"").await.status, 204);
        site.send("DELETE", location, &[], b"").await.refuses(404, "BLOB_UPLOAD_UNKNOWN");
        site.send("PATCH", location, &[], b"x").await.refuses(404, "BLOB_UPLOAD_UNKNOWN");
    })
    .await;
}

#[tokio::test]
async fn a_body_without_a_length_is_streamed() {
    each(async |site: &Site| {
        let blob = bytes(100_000);
        let location = site.begin("a").await;
        let mut request = format!(
            "PATCH {location} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        .into_bytes();
        // Tiny pieces and large ones.
        for piece in blob[..500].chunks(1).chain(blob[500..].chunks(40_000)) {
            request.extend(format!("{:x}\r\n", piece.len()).bytes());
            request.extend(piece);
            request.extend(b"\r\n");
        }
        request.extend(b"0\r\n\r\n");
        let patch = Answer::parse(&site.raw(&request).await);
        assert_eq!((patch.status, patch.header("range")), (202, Some("0-99999")));
        let put = site.send("PUT", &format!("{location}?digest={}", Digest::sha256(&blob)), &[], b"").await;
        assert_eq!(put.status, 201);
    })
    .await;
}

#[tokio::test]
async fn chunks_out_of_order_change_nothing() {
    each(async |site: &Site| {
        let blob = bytes(300);
        let location = site.begin("a").await;
        assert_eq!(
            site.send("PATCH", &location, &[("Content-Range", "0-99")], &blob[..100]).await.status,
            202
        );
        for (method, range) in [("PATCH", "200-299"), ("PATCH", "0-99"), ("PUT", "200-299")] {
            let path = format!("{location}?digest={}", Digest::sha256(&blob));
            let answer = site.send(method, &path, &[("Content-Range", range)], &blob[200..]).await;
            answer.refuses(416, "BLOB_UPLOAD_INVALID");
            assert_eq!(answer.header("range"), Some("0-99"));
            assert_eq!(answer.header("location"), Some(location.as_str()));
        }
        for (range, status, code) in [
            ("100-198", 400, "SIZE_INVALID"),
            ("x", 400, "BLOB_UPLOAD_INVALID"),
            ("199-100", 400, "BLOB_UPLOAD_INVALID"),
        ] {
            let answer = site.send("PATCH", &location, &[("Content-Range", range)], &blob[100..200]).await;
            answer.refuses(status, code);
        }
        assert_eq!(site.get(&location).await.header("range"), Some("0-99"));
        assert_eq!(
            site.send("PATCH", &location, &[("Content-Range", "100-299")], &blob[100..]).await.status,
            202
        );
        let put = site.send("PUT", &format!("{location}?digest={}", Digest::sha256(&blob)), &[], b"").await;
        assert_eq!(put.status, 201);
    })
    .await;
}

#[tokio::test]
async fn a_wrong_digest_commits_and_loses_nothing() {
    each(async |site: &Site| {
        let location = site.begin("a").await;
        let wrong = format!("{location}?digest={ABSENT}");
        site.send("PUT", &wrong, &[], b"hello").await.refuses(400, "DIGEST_INVALID");
        site.get(&format!("/v2/a/blobs/{ABSENT}")).await.refuses(404, "BLOB_UNKNOWN");
        assert_eq!(site.get(&location).await.header("range"), Some("0-4"));
        site.send("PUT", &location, &[], b"").await.refuses(400, "DIGEST_INVALID");
        let right = format!("{location}?digest={}", Digest::sha256(b"hello"));
        assert_eq!(site.send("PUT", &right, &[], b"").await.status, 201);

        let path = format!("/v2/a/blobs/uploads/?digest={ABSENT}");
        site.send("POST", &path, &[], b"hello").await.refuses(400, "DIGEST_INVALID");
        assert_eq!(site.store.list_statuses(&FilterSet::all()).await.expect("lists"), []);
    })
    .await;
}

#[tokio::test]
async fn uploads_outlive_the_registry() {
    let root = TempDir::new().expect("a directory");
    let blob = bytes(3_000_000);
    let site = Site::start(local(&root).await, RegistryOptions::default()).await;
    let location = site.begin("a").await;
    // A client that announces everything and goes away in the middle.
    let mut stream = site.connect().await;
    let head = format!("PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", blob.len());
    stream.write_all(head.as_bytes()).await.expect("sent");
    stream.write_all(&blob[..2_000_000]).await.expect("sent");
    drop(stream);
    site.records(2).await;
    site.stop().await;

    let site = Site::start(local(&root).await, RegistryOptions::default()).await;
    let status = site.get(&location).await;
    assert_eq!((status.status, status.header("range")), (204, Some("0-1999999")));
    // On with a chunk, another end of the registry, and the last chunk.
    let chunk = &blob[2_000_000..2_500_000];
    let patch = site.send("PATCH", &location, &[("Content-Range", "2000000-2499999")], chunk).await;
    assert_eq!((patch.status, patch.header("range")), (202, Some("0-2499999")));
    site.stop().await;
    let site = Site::start(local(&root).await, RegistryOptions::default()).await;
    let end = format!("{location}?digest={}", Digest::sha256(&blob));
    let put = site.send("PUT", &end, &[("Content-Range", "2500000-2999999")], &blob[2_500_000..]).await;
    assert_eq!(put.status, 201, "{put:?}");
    assert!(site.get(&format!("/v2/a/blobs/{}", Digest::sha256(&blob))).await.body == blob);
    site.stop().await;
}
