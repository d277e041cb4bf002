//! Everything about the wire: hostile heads, refusals, many clients, shutdown, the observer.

use std::{sync::Arc, time::Duration};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::Instant,
};
use wharf_content::{CommitOptions, Descriptor, Digest, MemoryStore, filter::FilterSet, write_blob};
use wharf_remotes::server::{Registry, RegistryOptions};

use crate::{
    ABSENT, bytes,
    site::{Answer, Site, local},
};

#[tokio::test]
async fn refusals_are_answered_on_the_wire() {
    let site = Site::memory(RegistryOptions::default()).await;
    for (method, path, status, code) in [
        ("GET", "/", 404, "UNSUPPORTED"),
        ("GET", "/v2/_catalogue", 404, "UNSUPPORTED"),
        ("POST", "/v2/_catalog", 405, "UNSUPPORTED"),
        ("GET", "/v2/_catalog?n=x", 400, "UNSUPPORTED"),
        ("POST", "/v2/a/manifests/x", 405, "UNSUPPORTED"),
        ("GET", "/v2/../../etc/passwd/tags/list", 400, "NAME_INVALID"),
        ("GET", "/v2/%2e%2e/tags/list", 400, "NAME_INVALID"),
        ("GET", "/v2/a/blobs/sha256:%2e%2e%2f%2e%2e%2fx", 400, "DIGEST_INVALID"),
        ("GET", "/v2/a/blobs/uploads/%2e%2e", 404, "BLOB_UPLOAD_UNKNOWN"),
        ("PATCH", "/v2/a/blobs/uploads/00000000000000000000000000000000", 404, "BLOB_UPLOAD_UNKNOWN"),
    ] {
        site.send(method, path, &[], b"").await.refuses(status, code);
    }
    let head = site.send("HEAD", &format!("/v2/a/blobs/{ABSENT}"), &[], b"").await;
    assert_eq!((head.status, head.body.len()), (404, 0));
    site.stop().await;
}

#[tokio::test]
async fn hostile_heads_are_bounded() {
    let options = RegistryOptions::default()
        .with_header_timeout(Duration::from_millis(300))
        .with_body_timeout(Duration::from_millis(300));
    let site = Site::memory(options).await;
    let flood = format!("GET /v2/ HTTP/1.1\r\nHost: x\r\n{}\r\n", "X-Flood: 0123456789\r\n".repeat(50_000));
    let answer = site.raw(flood.as_bytes()).await;
    assert!(
        answer.is_empty() || Answer::parse(&answer).status == 431,
        "{}",
        String::from_utf8_lossy(&answer)
    );
    let long = format!("GET /v2/{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(1_000_000));
    let answer = site.raw(long.as_bytes()).await;
    assert!(answer.is_empty() || [414, 431].contains(&Answer::parse(&answer).status));

    let began = Instant::now();
    let mut slow = site.connect().await;
    slow.write_all(b"GET /v2/ HTTP/1.1\r\nHost:").await.expect("sent");
    let mut rest = Vec::new();
    slow.read_to_end(&mut rest).await.expect("closed by the registry");
    assert!(began.elapsed() < Duration::from_secs(5));

    let location = site.begin("a").await;
    let head = format!("PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhello");
    Answer::parse(&site.raw(head.as_bytes()).await).refuses(408, "SIZE_INVALID");
    assert_eq!(site.get(&location).await.header("range"), Some("0-4"));
    assert_eq!(site.get("/v2/").await.status, 200);
    site.stop().await;
}

#[tokio::test]
async fn read_only() {
    let writable = Site::memory(RegistryOptions::default()).await;
    let pushed = writable.push_image("a", "x", b"layer").await;
    let location = writable.begin("a").await;
    let site = Site::start(Arc::clone(&writable.store), RegistryOptions::default().with_read_only()).await;
    for (method, path) in [
        ("POST", "/v2/a/blobs/uploads/"),
        ("PATCH", &location),
        ("DELETE", &location),
        ("PUT", "/v2/a/manifests/y"),
        ("DELETE", "/v2/a/manifests/x"),
        ("DELETE", &format!("/v2/a/manifests/{}", Digest::sha256(&pushed))),
        ("DELETE", &format!("/v2/a/blobs/{}", Digest::sha256(b"layer"))),
    ] {
        let answer = site.send(method, path, &[("Content-Type", "a/b")], b"x").await;
        answer.refuses(405, "UNSUPPORTED");
        assert_eq!(answer.header("allow"), Some("GET, HEAD"));
    }
    assert_eq!(site.get(&format!("/v2/a/manifests/{}", Digest::sha256(&pushed))).await.body, pushed);
    site.stop().await;
    writable.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once() {
    let root = TempDir::new().expect("a directory");
    let site = Arc::new(Site::start(local(&root).await, RegistryOptions::default()).await);
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..32 {
        let site = Arc::clone(&site);
        clients.spawn(async move {
            // Some push what others push as well.
            let layer = bytes(200_000 + client % 8);
            let pushed = site.push_image("shared/app", &format!("v{client}"), &layer).await;
            let answer = site.get(&format!("/v2/shared/app/manifests/v{client}")).await;
            assert_eq!(answer.body, pushed);
            assert!(
                site.get(&format!("/v2/shared/app/blobs/{}", Digest::sha256(&layer))).await.body == layer
            );
        });
    }
    while let Some(client) = clients.join_next().await {
        client.expect("every client succeeds");
    }
    assert_eq!(site.get("/v2/shared/app/tags/list").await.json()["tags"].as_array().map(Vec::len), Some(32));
    assert_eq!(site.store.list_statuses(&FilterSet::all()).await.expect("lists"), []);

    // Two that write to one upload: one after the other, and every byte counts.
    let location = site.begin("a").await;
    let (a, b) =
        tokio::join!(site.send("PATCH", &location, &[], b"x"), site.send("PATCH", &location, &[], b"x"));
    assert_eq!((a.status, b.status), (202, 202));
    assert_eq!(site.get(&location).await.header("range"), Some("0-1"));
}

#[tokio::test]
async fn requests_are_observed() {
    let site = Site::memory(RegistryOptions::default()).await;
    let digest = site.push_blob("a", &bytes(1000)).await;
    let path = format!("/v2/a/blobs/{digest}");
    site.send("GET", &path, &[("Range", "bytes=10-19")], b"").await;
    site.send("HEAD", &path, &[], b"").await;
    let records = site.records(3).await;
    let seen: Vec<_> =
        records.iter().map(|r| (r.method.as_str(), r.path.as_str(), r.status, r.bytes)).collect();
    assert_eq!(
        seen,
        [("POST", "/v2/a/blobs/uploads/", 201, 0), ("GET", &path, 206, 10), ("HEAD", &path, 200, 0)]
    );
    assert_eq!(records[1].range.as_deref(), Some("bytes=10-19"));
    site.stop().await;
}

#[tokio::test]
async fn shutdown_waits_for_requests_and_not_for_idle_connections() {
    let site = Site::memory(RegistryOptions::default().with_shutdown_grace(Duration::from_secs(20))).await;
    let mut idle = site.connect().await;
    idle.write_all(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("sent");
    let mut first = [0; 15];
    idle.read_exact(&mut first).await.expect("answered");
    let location = site.begin("a").await;
    let mut busy = site.connect().await;
    let head = format!("PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhello");
    busy.write_all(head.as_bytes()).await.expect("sent");
    tokio::time::sleep(Duration::from_millis(100)).await;
    let began = Instant::now();
    let stopping = tokio::spawn(site.stop());
    tokio::time::sleep(Duration::from_millis(100)).await;
    busy.write_all(b"world").await.expect("still served");
    let mut answer = Vec::new();
    busy.read_to_end(&mut answer).await.expect("answered");
    assert_eq!(Answer::parse(&answer).header("range"), Some("0-9"));
    stopping.await.expect("stopped");
    assert!(began.elapsed() < Duration::from_secs(10));
}

/// A client that asks for a blob and takes it in pieces of 64 KiB, with a pause before each; how many bytes came before the connection
/// ended.
async fn take(pauses: impl Iterator<Item = Duration>) -> usize {
    let (store, blob) = (Arc::new(MemoryStore::new()), bytes(1024 * 1024));
    let descriptor = Descriptor::of("x", &blob);
    write_blob(store.as_ref(), "x", &descriptor, blob.into(), CommitOptions::default())
        .await
        .expect("writes");
    let images = wharf_images::image_store(store.as_ref()).expect("records");
    let options = RegistryOptions::default().with_write_timeout(Duration::from_secs(60));
    let registry = Registry::with_options(store, images, options);
    let (mut client, server) = tokio::io::duplex(64 * 1024);
    let server = tokio::spawn(async move { registry.serve_connection(server).await });
    let request =
        format!("GET /v2/a/blobs/{} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", descriptor.digest);
    client.write_all(request.as_bytes()).await.expect("sent");
    let (mut taken, mut piece) = (Vec::new(), vec![0; 64 * 1024]);
    for pause in pauses {
        tokio::time::sleep(pause).await;
        match client.read(&mut piece).await {
            Ok(0) | Err(_) => break,
            Ok(read) => taken.extend_from_slice(&piece[..read]),
        }
    }
    server.await.expect("no panic");
    Answer::parse(&taken).body.len()
}

#[tokio::test(start_paused = true)]
async fn who_takes_nothing_is_let_go_and_who_is_slow_is_not() {
    let (slow, silent) = (Duration::from_secs(59), Duration::from_secs(61));
    assert_eq!(take(std::iter::repeat(slow)).await, 1024 * 1024);
    let taken = take([slow, slow, silent].into_iter().chain(std::iter::repeat(slow))).await;
    assert!((64 * 1024..1024 * 1024).contains(&taken), "{taken}");
}

#[tokio::test]
async fn connections_of_any_kind_are_served() {
    let store = Arc::new(MemoryStore::new());
    let images = wharf_images::image_store(store.as_ref()).expect("records");
    let registry = Registry::new(store, images);
    let (mut client, server) = tokio::io::duplex(1024);
    let server = async move { registry.serve_connection(server).await };
    let talk = async move {
        client.write_all(b"GET /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.expect("sent");
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.expect("answered");
        assert_eq!(Answer::parse(&answer).status, 200);
    };
    tokio::join!(server, talk);
}
