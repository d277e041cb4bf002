//! What no honest client sends. Each is answered with the code of the specification or not at all, and nothing is lost by it: the next
//! request is served, every blob is what its name says, and nothing is left of what was refused.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use wharf_content::{Digest, Info, filter::FilterSet, verify};
use wharf_images::media_types;
use wharf_remotes::server::RegistryOptions;

use crate::{
    bytes,
    site::{Answer, Site, each, index, soon},
};

/// How long clients here may take in the tests of that.
const SHORT: Duration = Duration::from_millis(400);

/// Checks that the registry goes on, holds nothing damaged, and has `uploads` that wait to be gone on with.
async fn unharmed(site: &Site, uploads: usize) {
    let blob = bytes(1000);
    let digest = site.push_blob("unharmed", &blob).await;
    assert!(site.get(&format!("/v2/unharmed/blobs/{digest}")).await.body == blob);
    let statuses = site.store.list_statuses(&FilterSet::all()).await.expect("lists");
    assert_eq!(statuses.len(), uploads, "{statuses:?}");
    let mut digests = Vec::new();
    let all = FilterSet::all();
    let mut visit = |info: Info| {
        digests.push(info.digest);
        Ok(())
    };
    site.store.walk(&all, &mut visit).await.expect("walks");
    let mut check = |checked: verify::Checked| {
        assert_eq!(checked.damage, None, "{checked:?}");
        Ok(())
    };
    let options = verify::VerifyOptions::default();
    verify::verify(site.store.as_ref(), digests, &options, &mut check).await.expect("verifies");
}

/// How many answers there are in what a connection gave.
fn answers(bytes: &[u8]) -> usize {
    bytes.windows(9).filter(|window| *window == b"HTTP/1.1 ").count()
}

#[tokio::test]
async fn heads_that_are_no_requests() {
    each(async |site: &Site| {
        site.push_image("a", "x", b"layer").await;
        let long = "a".repeat(300);
        for (request, status) in [
            ("GET /v2/ HTTP/1.1\r\n\r\n".to_owned(), 400),
            ("GET /v2/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".to_owned(), 400),
            ("GET /v2/ HTTP/1.1\r\nHost: ../../etc\r\n\r\n".to_owned(), 400),
            ("GET /v2/ HTTP/1.1\r\nHost : a\r\n\r\n".to_owned(), 400),
            ("GET /v2/ HTTP/1.1\r\nHost: a\r\n folded: b\r\n\r\n".to_owned(), 400),
            ("GET /v2/ HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n".to_owned(), 400),
            ("GET /v2/\0 HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 400),
            ("nonsense\r\n\r\n".to_owned(), 400),
            ("GET /v2/ HTTP/9.9\r\nHost: a\r\n\r\n".to_owned(), 400),
            ("POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n".to_owned(), 400),
            ("POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: a\r\nContent-Length: 1e1\r\n\r\n".to_owned(), 400),
            (
                "POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"
                    .to_owned(),
                400,
            ),
            (
                "POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, x\r\n\r\n".to_owned(),
                400,
            ),
            (
                "POST /v2/a/blobs/uploads/ HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
                    .to_owned(),
                400,
            ),
            ("BREW /v2/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".to_owned(), 405),
            ("delete /v2/a/manifests/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".to_owned(), 405),
            ("OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".to_owned(), 404),
            ("CONNECT a:1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".to_owned(), 404),
            (format!("GET /v2/{long}/tags/list HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"), 400),
            (format!("GET /v2/ HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(150)), 431),
        ] {
            // Those that are well formed are closed by us: an answer is all that is waited for.
            let request = request.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
            let answer = site.raw(request.as_bytes()).await;
            assert_eq!(Answer::parse(&answer).status, status, "{request:?}");
            assert_eq!(answers(&answer), 1, "{request:?}");
        }
        // HTTP/1.0 knows no Host.
        assert_eq!(Answer::parse(&site.raw(b"GET /v2/ HTTP/1.0\r\n\r\n").await).status, 200);
        assert_eq!(site.get("/v2/a/manifests/x").await.status, 200);
        unharmed(site, 0).await;
    })
    .await;
}

#[tokio::test]
async fn a_request_that_is_two() {
    each(async |site: &Site| {
        site.push_image("a", "x", b"layer").await;
        let inner = "DELETE /v2/a/manifests/x HTTP/1.1\r\nHost: a\r\n\r\n";
        let chunks = "0\r\n\r\n";
        for headers in [
            format!("Content-Length: {}\r\nTransfer-Encoding: chunked\r\n", chunks.len() + inner.len()),
            format!("Transfer-Encoding: chunked\r\nContent-Length: {}\r\n", chunks.len() + inner.len()),
            format!("Content-Length: {}\r\nTransfer-Encoding: \tchunked\r\n", chunks.len() + inner.len()),
        ] {
            let request =
                format!("POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: a\r\n{headers}\r\n{chunks}{inner}");
            // The connection ends with the first answer, without anybody asking for it.
            let answer = site.raw(request.as_bytes()).await;
            assert_eq!(answers(&answer), 1, "{headers}: {}", String::from_utf8_lossy(&answer));
            let answer = Answer::parse(&answer);
            assert_eq!(answer.status, 202, "{headers}");
            let location = answer.header("location").expect("a location");
            assert_eq!(site.send("DELETE", location, &[], b"").await.status, 204);
        }
        assert_eq!(site.get("/v2/a/manifests/x").await.status, 200);
        unharmed(site, 0).await;
    })
    .await;
}

#[tokio::test]
async fn a_target_that_names_its_host() {
    each(async |site: &Site| {
        let body = String::from_utf8(index(&[])).expect("text");
        let request = format!(
            "PUT http://reg.example/v2/a/manifests/x HTTP/1.1\r\nHost: other.example\r\nConnection: close\r\n\
             Content-Type: {}\r\nContent-Length: {}\r\n\r\n{body}",
            media_types::OCI_INDEX,
            body.len()
        );
        assert_eq!(Answer::parse(&site.raw(request.as_bytes()).await).status, 201);
        assert!(site.images.get("reg.example/a:x").await.is_ok());
        unharmed(site, 0).await;
    })
    .await;
}

#[tokio::test]
async fn places_of_chunks_that_are_none() {
    each(async |site: &Site| {
        let location = site.begin("a").await;
        for (range, status, code) in [
            ("", 400, "BLOB_UPLOAD_INVALID"),
            ("-", 400, "BLOB_UPLOAD_INVALID"),
            ("0-", 400, "BLOB_UPLOAD_INVALID"),
            ("-4", 400, "BLOB_UPLOAD_INVALID"),
            ("4-0", 400, "BLOB_UPLOAD_INVALID"),
            ("0 - 4", 400, "BLOB_UPLOAD_INVALID"),
            ("+0-4", 400, "BLOB_UPLOAD_INVALID"),
            ("0x0-0x4", 400, "BLOB_UPLOAD_INVALID"),
            ("bytes=0-4", 400, "BLOB_UPLOAD_INVALID"),
            ("0-4,5-9", 400, "BLOB_UPLOAD_INVALID"),
            ("0-99999999999999999999999", 400, "BLOB_UPLOAD_INVALID"),
            ("0-3", 400, "SIZE_INVALID"),
            ("0-5", 400, "SIZE_INVALID"),
            ("1-5", 416, "BLOB_UPLOAD_INVALID"),
            ("99999999999999999999-99999999999999999999", 416, "BLOB_UPLOAD_INVALID"),
        ] {
            let headers = [("Content-Range", range)];
            site.send("PATCH", &location, &headers, b"hello").await.refuses(status, code);
        }
        let two = [("Content-Range", "0-4"), ("Content-Range", "5-9")];
        site.send("PATCH", &location, &two, b"hello").await.refuses(400, "BLOB_UPLOAD_INVALID");
        // Without a length it shows late that the body is too long: what fits was there.
        let short = [("Content-Range", "0-3")];
        site.send_streamed("PATCH", &location, &short, b"").await.refuses(400, "SIZE_INVALID");
        assert_eq!(site.get(&location).await.header("range"), Some("0-0"));
        // A chunk of nothing is nothing, wherever it is.
        let nothing = site.send("PATCH", &location, &[("Content-Range", "7-7")], b"").await;
        assert_eq!((nothing.status, nothing.header("range")), (202, Some("0-0")));
        let patch = site.send("PATCH", &location, &[("Content-Range", "0-4")], b"hello").await;
        assert_eq!((patch.status, patch.header("range")), (202, Some("0-4")));
        let end = format!("{location}?digest={}", Digest::sha256(b"hello"));
        assert_eq!(site.send("PUT", &end, &[], b"").await.status, 201);
        unharmed(site, 0).await;
    })
    .await;
}

#[tokio::test]
async fn bodies_that_break_off_or_are_none() {
    each(async |site: &Site| {
        let blob = b"hello, world";
        for broken in [
            // Announced and not sent; cut within a chunk, behind one, and by garbage.
            "Content-Length: 12\r\n\r\nhello",
            "Transfer-Encoding: chunked\r\n\r\nc\r\nhello",
            "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
            "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n, world\r\n0\r\n\r\n",
            "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n-1\r\n",
            "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nffffffffffffffffff\r\n",
        ] {
            let location = site.begin("a").await;
            let mut stream = site.connect().await;
            let request = format!("PATCH {location} HTTP/1.1\r\nHost: a\r\n{broken}");
            stream.write_all(request.as_bytes()).await.expect("sent");
            stream.shutdown().await.expect("the client has no more to say");
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            if !answer.is_empty() {
                Answer::parse(&answer).refuses(400, "SIZE_INVALID");
            }
            // What came is there, and the rest can be sent.
            let status = site.get(&location).await;
            assert_eq!((status.status, status.header("range")), (204, Some("0-4")), "{broken:?}");
            let patch = site.send("PATCH", &location, &[("Content-Range", "5-11")], &blob[5..]).await;
            assert_eq!(patch.status, 202, "{broken:?}: {patch:?}");
            let end = format!("{location}?digest={}", Digest::sha256(blob));
            assert_eq!(site.send("PUT", &end, &[], b"").await.status, 201, "{broken:?}");
        }
        // Longer than it was announced: what comes after it is another request, and none.
        let location = site.begin("a").await;
        let request =
            format!("PATCH {location} HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello, world\r\n\r\n");
        let answer = site.raw(request.as_bytes()).await;
        assert_eq!((Answer::parse(&answer).status, answers(&answer)), (202, 2));
        assert_eq!(site.get(&location).await.header("range"), Some("0-4"));
        assert_eq!(site.send("DELETE", &location, &[], b"").await.status, 204);
        // Nobody can go on with an upload whose number was never told.
        let path = format!("/v2/a/blobs/uploads/?digest={}", Digest::sha256(b"never whole"));
        // Little enough to be in memory still, and so much that some is being written.
        for len in [5, 3_000_000] {
            let head = format!("POST {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n");
            let request = format!("{head}Content-Length: {}\r\n\r\n", len + 1);
            let mut stream = site.connect().await;
            stream.write_all(&[request.as_bytes(), &bytes(len)].concat()).await.expect("sent");
            stream.shutdown().await.expect("the client has no more to say");
            let _ = stream.read_to_end(&mut Vec::new()).await;
            unharmed(site, 0).await;
        }
    })
    .await;
}

#[tokio::test]
async fn who_leaves_before_the_answer_leaves_nothing_that_has_no_name() {
    each(async |site: &Site| {
        let body = bytes(3_000_000);
        let path = format!("/v2/a/blobs/uploads/?digest={}", Digest::sha256(b"another"));
        let head = format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
        for _ in 0..5 {
            let mut stream = site.connect().await;
            stream.write_all(head.as_bytes()).await.expect("sent");
            stream.write_all(&body).await.expect("sent");
            drop(stream);
        }
        site.deserted().await;
        soon(async || site.store.list_statuses(&FilterSet::all()).await.expect("lists").is_empty()).await;
        unharmed(site, 0).await;
    })
    .await;
}

#[tokio::test]
async fn uploads_of_another_repository() {
    each(async |site: &Site| {
        let own = site.begin("a").await;
        let foreign = own.replacen("/v2/a/", "/v2/b/", 1);
        let end = format!("?digest={}", Digest::sha256(b"hello"));
        for (method, query) in [("GET", ""), ("PATCH", ""), ("PUT", end.as_str()), ("DELETE", "")] {
            let answer = site.send(method, &format!("{foreign}{query}"), &[], b"hello").await;
            answer.refuses(404, "BLOB_UPLOAD_UNKNOWN");
        }
        assert_eq!(site.get(&own).await.header("range"), Some("0-0"));
        assert_eq!(site.send("PUT", &format!("{own}{end}"), &[], b"hello").await.status, 201);
        unharmed(site, 0).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_race_for_an_upload() {
    each(async |site: &Site| {
        for round in 0..8_u8 {
            let blob = [&[round][..], &bytes(300_000)].concat();
            let location = site.begin("a").await;
            let patch = || site.send("PATCH", &location, &[("Content-Range", "0-300000")], &blob);
            let (one, two) = tokio::join!(patch(), patch());
            let mut statuses = [one.status, two.status];
            statuses.sort_unstable();
            assert_eq!(statuses, [202, 416], "one of two that belong at the same place");
            let end = format!("{location}?digest={}", Digest::sha256(&blob));
            let put = || site.send("PUT", &end, &[], b"");
            let (one, two) = tokio::join!(put(), put());
            let mut statuses = [one.status, two.status];
            statuses.sort_unstable();
            assert_eq!(statuses, [201, 404], "one of two that finish: {one:?} {two:?}");
            let cancelled = site.begin("a").await;
            let end = end.replace(&location, &cancelled);
            let (cancel, put) =
                tokio::join!(site.send("DELETE", &cancelled, &[], b""), site.send("PUT", &end, &[], &blob));
            assert!([204, 404, 503].contains(&cancel.status), "{cancel:?}");
            assert!([201, 404].contains(&put.status), "{put:?}");
        }
        unharmed(site, 0).await;
    })
    .await;
}

#[tokio::test]
async fn manifests_without_an_end_leave_nothing() {
    each(async |site: &Site| {
        let large = bytes(4 * 1024 * 1024 + 1);
        let headers = [("Content-Type", "application/x-own")];
        for reference in ["x".to_owned(), Digest::sha256(&large).to_string()] {
            let path = format!("/v2/a/manifests/{reference}");
            site.send("PUT", &path, &headers, &large).await.refuses(413, "SIZE_INVALID");
            site.send_streamed("PUT", &path, &headers, &large).await.refuses(413, "SIZE_INVALID");
            site.get(&path).await.refuses(404, "MANIFEST_UNKNOWN");
        }
        assert_eq!(site.images.list(&FilterSet::all()).await.expect("lists"), []);
        unharmed(site, 0).await;
    })
    .await;
}

#[tokio::test]
async fn queries_without_an_end() {
    each(async |site: &Site| {
        site.push_image("a", "x", b"layer").await;
        let many = |parameter: &str| {
            (0..5000).map(|number| format!("{parameter}{number}")).collect::<Vec<_>>().join("&")
        };
        let path = format!("/v2/a/manifests/{}", Digest::sha256(b"{}"));
        let put = site.send("PUT", &format!("{path}?{}", many("tag=t")), &[], b"{}").await;
        put.refuses(414, "UNSUPPORTED");
        assert_eq!(site.get(&format!("/v2/a/tags/list?{}", "&".repeat(60_000))).await.status, 200);
        assert_eq!(site.get(&format!("/v2/a/tags/list?{}", many("x"))).await.status, 200);
        let last = format!("/v2/a/tags/list?last={}", "%00".repeat(10_000));
        assert_eq!(site.get(&last).await.json()["tags"], serde_json::json!(["x"]));
        let filter = format!("/v2/a/referrers/{}?artifactType={}", Digest::sha256(b"x"), "y".repeat(50_000));
        assert_eq!(site.get(&filter).await.json()["manifests"], serde_json::json!([]));
        unharmed(site, 0).await;
    })
    .await;
}

#[tokio::test]
async fn clients_that_wait_to_be_told() {
    each(async |site: &Site| {
        let location = site.begin("a").await;
        let mut stream = site.connect().await;
        let head = format!(
            "PATCH {location} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.expect("sent");
        let told = b"HTTP/1.1 100 Continue\r\n\r\n";
        let mut answer = vec![0; told.len()];
        stream.read_exact(&mut answer).await.expect("told");
        assert_eq!(answer, told);
        stream.write_all(b"hello").await.expect("sent");
        answer.clear();
        stream.read_to_end(&mut answer).await.expect("answered");
        assert_eq!(Answer::parse(&answer).header("range"), Some("0-4"));
        // Who would be refused is not asked for the body.
        let refused = head.replace(&location, "/v2/a/blobs/uploads/00000000000000000000000000000000");
        Answer::parse(&site.raw(refused.as_bytes()).await).refuses(404, "BLOB_UPLOAD_UNKNOWN");
        assert_eq!(site.send("DELETE", &location, &[], b"").await.status, 204);
        unharmed(site, 0).await;
    })
    .await;
}

#[tokio::test]
async fn clients_that_are_slow() {
    let options = RegistryOptions::default().with_header_timeout(SHORT).with_body_timeout(SHORT);
    let site = Site::memory(options).await;
    // Slow and steady: each piece comes in time, and all of it takes much longer.
    let location = site.begin("a").await;
    let patch = |len: usize| {
        format!("PATCH {location} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {len}\r\n\r\n")
    };
    let mut stream = site.connect().await;
    stream.write_all(patch(16 * 512).as_bytes()).await.expect("sent");
    for _ in 0..16 {
        stream.write_all(&[b'x'; 512]).await.expect("sent");
        tokio::time::sleep(SHORT / 5).await;
    }
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("answered");
    let answer = Answer::parse(&answer);
    assert_eq!((answer.status, answer.header("range")), (202, Some("0-8191")));

    // Steady, and so slow that it would never end.
    let mut stream = site.connect().await;
    stream.write_all(patch(1000).as_bytes()).await.expect("sent");
    let (mut reader, mut writer) = stream.split();
    let drip = async {
        for _ in 0..1000 {
            if writer.write_all(b"x").await.is_err() {
                break;
            }
            tokio::time::sleep(SHORT / 5).await;
        }
    };
    let mut answer = Vec::new();
    tokio::select! {
        () = drip => panic!("all of it was taken"),
        read = reader.read_to_end(&mut answer) => drop(read.expect("answered")),
    }
    Answer::parse(&answer).refuses(408, "SIZE_INVALID");
    let kept = site.get(&location).await;
    let kept: usize =
        kept.header("range").and_then(|range| range.strip_prefix("0-")?.parse().ok()).expect("a range");
    assert!((8192..8292).contains(&kept), "{kept}");

    // A head that comes byte by byte, and a connection on which nothing comes any more, end.
    for begun in [&b"G"[..], b"", b"GET /v2/ HTTP/1.1\r\nHost: a\r\n\r\n"] {
        let mut stream = site.connect().await;
        stream.write_all(begun).await.expect("sent");
        let mut answer = Vec::new();
        let ended = tokio::time::timeout(SHORT * 20, stream.read_to_end(&mut answer)).await;
        assert!(ended.is_ok(), "{begun:?}: the connection is held for ever");
    }
    // A body that stops.
    let head = format!("PATCH {location} HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello");
    Answer::parse(&site.raw(head.as_bytes()).await).refuses(408, "SIZE_INVALID");
    assert_eq!(site.get(&location).await.header("range"), Some(format!("0-{}", kept + 5).as_str()));
    assert_eq!(site.send("DELETE", &location, &[], b"").await.status, 204);
    unharmed(&site, 0).await;
    site.stop().await;
}

#[tokio::test]
async fn large_manifests_that_share_too_little_memory() {
    const LEN: usize = 4 * 1024 * 1024;
    let options = RegistryOptions::default().with_body_timeout(SHORT).with_manifest_memory(LEN as u64);
    let site = &Site::memory(options).await;
    let headers = [("Content-Type", "application/x-own")];
    let (small, medium) = (bytes(64 * 1024), bytes(64 * 1024 + 1));
    let mut stream = site.connect().await;
    let head = format!(
        "PUT /v2/a/manifests/x HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-own\r\nContent-Length: {LEN}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.expect("sent");
    // So much that it may take a while for the rest.
    stream.write_all(&bytes(LEN / 2)).await.expect("sent");
    let held = tokio::spawn(async move {
        while stream.write_all(b"x").await.is_ok() {
            tokio::time::sleep(SHORT / 5).await;
        }
    });
    // Room is for what is not small, whether it tells its length or not.
    for tag in ["small", "streamed"] {
        assert_eq!(site.send("PUT", &format!("/v2/a/manifests/{tag}"), &headers, &small).await.status, 201);
    }
    let path = "/v2/a/manifests/medium";
    site.send("PUT", path, &headers, &medium).await.refuses(503, "UNAVAILABLE");
    site.send_streamed("PUT", path, &headers, &medium).await.refuses(503, "UNAVAILABLE");
    held.abort();
    assert!(held.await.is_err_and(|error| error.is_cancelled()), "it was not held to the end");
    for put in [
        site.send("PUT", path, &headers, &medium).await,
        site.send_streamed("PUT", path, &headers, &bytes(LEN)).await,
    ] {
        assert_eq!(put.status, 201, "{put:?}");
    }
    assert_eq!(site.images.list(&FilterSet::all()).await.expect("lists").len(), 3);
    unharmed(site, 0).await;
}

#[tokio::test]
async fn pages_on_the_web() {
    each(async |site: &Site| {
        let before = site.push_image("a", "x", b"layer").await;
        let here = format!("http://{}", site.address);
        let digest = Digest::sha256(b"y");
        for origin in ["http://evil.example", "null", &here] {
            let headers = [("Origin", origin), ("Content-Type", media_types::OCI_MANIFEST)];
            for (method, path) in [
                ("POST", "/v2/a/blobs/uploads/".to_owned()),
                ("POST", format!("/v2/a/blobs/uploads/?digest={digest}")),
                ("PUT", "/v2/a/manifests/x".to_owned()),
                ("DELETE", "/v2/a/manifests/x".to_owned()),
            ] {
                site.send(method, &path, &headers, b"y").await.refuses(403, "DENIED");
            }
            let read = site.send("GET", "/v2/a/manifests/x", &headers[..1], b"").await;
            assert_eq!((read.status, &read.body), (200, &before));
        }
        unharmed(site, 0).await;
    })
    .await;
}
