//! Who is let in, and what is counted.

use base64::{Engine, engine::general_purpose::STANDARD};
use tokio::io::AsyncWriteExt;
use wharf_remotes::server::{Passwords, RegistryOptions};

use crate::site::{Site, soon};

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

#[tokio::test]
async fn nothing_is_answered_to_who_is_not_known() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("htpasswd");
    let hash = bcrypt::hash("right", 4).expect("hashes");
    std::fs::write(&path, format!("ann:{hash}\n")).expect("writes");
    let passwords = Passwords::open(&path).expect("opens");
    let site = Site::memory(RegistryOptions::default().with_passwords(passwords)).await;
    let location = "/v2/a/blobs/uploads/00000000000000000000000000000000";
    for (method, path) in [
        ("GET", "/v2/"),
        ("GET", "/metrics"),
        ("GET", "/v2/a/tags/list"),
        ("POST", "/v2/a/blobs/uploads/"),
        ("DELETE", location),
        ("GET", "/nothing"),
    ] {
        let wrong = [
            basic("ann", "wrong"),
            basic("bob", "right"),
            basic("ann", ""),
            "Basic x".to_owned(),
            "Bearer x".to_owned(),
        ];
        for header in wrong.iter().map(Some).chain([None]) {
            let header: Vec<_> = header.iter().map(|value| ("Authorization", value.as_str())).collect();
            let answer = site.send(method, path, &header, b"").await;
            answer.refuses(401, "UNAUTHORIZED");
            assert!(answer.header("www-authenticate").is_some_and(|value| value.starts_with("Basic realm=")));
        }
    }
    let right = basic("ann", "right");
    for _ in 0..2 {
        let answer = site.send("GET", "/v2/", &[("Authorization", &right)], b"").await;
        assert_eq!(answer.status, 200);
    }
    let records = site.records(38).await;
    assert_eq!(records.iter().filter(|record| record.user.as_deref() == Some("ann")).count(), 2);
    assert!(records.iter().all(|record| record.peer.is_some()));
    site.stop().await;
}

#[tokio::test]
async fn what_was_done_is_counted() {
    let site = Site::memory(RegistryOptions::default()).await;
    site.push_image("a", "x", b"layer").await;
    site.get("/v2/a/manifests/absent").await;
    site.send("BREW", "/v2/", &[], b"").await;
    site.send("GET", "/coffee", &[], b"").await;
    let answer = site.get("/metrics").await;
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let text = String::from_utf8(answer.body).expect("text");
    for line in [
        "# TYPE wharf_registry_requests_total counter",
        "wharf_registry_requests_total{endpoint=\"manifests\",method=\"GET\",status=\"404\"} 1",
        "wharf_registry_requests_total{endpoint=\"manifests\",method=\"PUT\",status=\"201\"} 1",
        "wharf_registry_requests_total{endpoint=\"uploads\",method=\"POST\",status=\"201\"} 2",
        "wharf_registry_requests_total{endpoint=\"none\",method=\"other\",status=\"405\"} 1",
        "wharf_registry_requests_total{endpoint=\"none\",method=\"GET\",status=\"404\"} 1",
        "wharf_registry_requests_in_flight 1",
        "wharf_registry_request_seconds_count 6",
        "# TYPE wharf_registry_received_bytes_total counter",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}: {text}");
    }
    assert_eq!(site.send("POST", "/metrics", &[], b"").await.status, 405);
    site.stop().await;
}

#[tokio::test]
async fn what_came_is_counted_whatever_came_of_it() {
    let site = Site::memory(RegistryOptions::default()).await;
    let received = async || {
        let text = String::from_utf8(site.get("/metrics").await.body).expect("text");
        let count = text.lines().find_map(|line| line.strip_prefix("wharf_registry_received_bytes_total "));
        count.expect("counted").parse::<usize>().expect("a number")
    };
    let before = received().await;
    let location = site.begin("a").await;
    let mut stream = site.connect().await;
    let head = format!("PATCH {location} HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello");
    stream.write_all(head.as_bytes()).await.expect("sent");
    drop(stream);
    soon(async || received().await == before + 5).await;
    site.stop().await;
}
