//! Registries that misbehave: each is refused with a clear error, and its honest twin works.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use wharf_content::{Catalogue, Digest, Error, ErrorKind, MemoryStore, Result, Store, filter::FilterSet};
use wharf_images::{Image, ImageStore, MemoryImages, media_types as types};
use wharf_remotes::{
    PullOptions, RemoteError, pull,
    registry::{RegistryResolver, RegistrySettings},
};
use wharf_tests::{FakeServer, Reply, Request, image::noise};

/// An image of one layer, and the answers of an honest registry that has it.
#[derive(Clone)]
struct Honest {
    manifest: Vec<u8>,
    config: Vec<u8>,
    layer: Vec<u8>,
}

impl Honest {
    fn new() -> Self {
        let config =
            br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#.to_vec();
        let layer = noise(200_000, 1);
        let manifest = serde_json::to_vec(&serde_json::json!({
            "schemaVersion": 2,
            "mediaType": types::OCI_MANIFEST,
            "config": { "mediaType": types::OCI_CONFIG, "digest": Digest::sha256(&config), "size": config.len() },
            "layers": [{ "mediaType": types::OCI_LAYER, "digest": Digest::sha256(&layer), "size": layer.len() }],
        }));
        Self { manifest: manifest.expect("JSON"), config, layer }
    }

    fn with_manifest(manifest: &str) -> Self {
        Self { manifest: manifest.as_bytes().to_vec(), ..Self::new() }
    }

    fn content(&self, path: &str) -> Option<&[u8]> {
        let path = path.split('?').next()?;
        let parts = [&self.config, &self.layer];
        if path.ends_with("/manifests/1") || path.ends_with(Digest::sha256(&self.manifest).as_str()) {
            return Some(&self.manifest);
        }
        parts.into_iter().find(|part| path.ends_with(Digest::sha256(part).as_str())).map(Vec::as_slice)
    }

    fn answer(&self, request: &Request) -> Reply {
        let Some(content) = self.content(&request.path) else {
            return Reply::new(404, &[], r#"{"errors":[{"code":"BLOB_UNKNOWN","message":"no"}]}"#);
        };
        let is_manifest = request.path.contains("/manifests/");
        let media_type = if is_manifest { types::OCI_MANIFEST } else { "application/octet-stream" };
        let (digest, len) = (Digest::sha256(content).to_string(), content.len().to_string());
        let headers = [
            ("Content-Type", media_type),
            ("Docker-Content-Digest", digest.as_str()),
            ("Content-Length", len.as_str()),
        ];
        if request.method == "HEAD" {
            Reply::new(200, &headers, "")
        } else {
            Reply::new(200, &headers, content)
        }
    }
}

struct Pulled {
    result: Result<Image>,
    blobs: usize,
    ingests: u64,
    store: Arc<MemoryStore>,
}

impl Pulled {
    fn error(&self) -> &Error {
        self.result.as_ref().expect_err("must fail")
    }
}

fn settings() -> RegistrySettings {
    RegistrySettings::new().with_retries(2, Duration::from_millis(1))
}

async fn pull_from(server: &FakeServer, store: Arc<MemoryStore>) -> Pulled {
    let images = MemoryImages::new();
    let resolver = RegistryResolver::new(settings());
    let name = format!("{}/library/image:1", server.address());
    let dynamic: Arc<dyn Store> = store.clone();
    let work = pull(dynamic, &images, &resolver, &name, PullOptions::new());
    let result = tokio::time::timeout(Duration::from_secs(30), work).await.expect("bounded in time");
    let recorded = images.list(&FilterSet::all()).await.expect("lists").len();
    assert_eq!(recorded, usize::from(result.is_ok()), "a record exactly where the pull succeeded");
    let mut blobs = 0;
    let mut visit = |_| {
        blobs += 1;
        Ok(())
    };
    wharf_content::Manager::walk(store.as_ref(), &FilterSet::all(), &mut visit).await.expect("walks");
    let statuses = wharf_content::IngestManager::list_statuses(store.as_ref(), &FilterSet::all()).await;
    let ingests = statuses.expect("lists").iter().map(|status| status.offset).sum();
    Pulled { result, blobs, ingests, store }
}

async fn pulled(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> (Pulled, FakeServer) {
    let server = FakeServer::start(answer).await;
    let pulled = pull_from(&server, Arc::new(MemoryStore::new())).await;
    (pulled, server)
}

#[tokio::test]
async fn the_honest_twin_works() {
    let honest = Honest::new();
    let (pulled, server) = pulled(move |request| honest.answer(request)).await;
    pulled.result.expect("pulls");
    assert_eq!((pulled.blobs, pulled.ingests), (3, 0));
    let asked: Vec<String> = server.requests().iter().map(|request| request.method.clone()).collect();
    assert_eq!(asked, ["HEAD", "GET", "GET", "GET"]);
    assert!(server.requests().iter().all(|request| request.header("range").is_none()));
}

#[tokio::test]
async fn statuses_are_told_apart_and_only_passing_ones_are_retried() {
    for (status, kind, requests) in [
        (401, ErrorKind::Unauthenticated, 1),
        // HEAD has no body to tell why, so GET is asked once.
        (403, ErrorKind::PermissionDenied, 2),
        (404, ErrorKind::NotFound, 1),
        (429, ErrorKind::ResourceExhausted, 3),
        (500, ErrorKind::Unavailable, 3),
        (503, ErrorKind::Unavailable, 3),
        (418, ErrorKind::FailedPrecondition, 1),
    ] {
        let body = r#"{"errors":[{"code":"SOMETHING_NEW","message":"in words"}]}"#;
        let (pulled, server) = pulled(move |request| match request.method.as_str() {
            "HEAD" => Reply::new(status, &[("Content-Length", "0")], ""),
            _ => Reply::new(status, &[], body),
        })
        .await;
        let error = pulled.error();
        assert_eq!(error.kind(), kind, "{}", error.report());
        let remote = RemoteError::of(error).expect("a registry's error");
        assert_eq!(remote.status, Some(status));
        assert_eq!(server.requests().len(), requests, "{status}");
        if status == 403 {
            assert!(error.report().contains("SOMETHING_NEW (in words)"), "{}", error.report());
        }
    }
}

#[tokio::test]
async fn a_burst_of_failures_is_survived() {
    let (honest, count) = (Honest::new(), AtomicUsize::new(0));
    let (pulled, _server) = pulled(move |request| match count.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::new(503, &[("Retry-After", "0")], ""),
        1 => Reply::raw(""),
        4 => Reply::new(429, &[("Retry-After", "junk")], ""),
        _ => honest.answer(request),
    })
    .await;
    pulled.result.expect("pulls");
}

#[tokio::test]
async fn a_long_retry_after_is_capped() {
    let server = FakeServer::start(|_| Reply::new(503, &[("Retry-After", "86400")], "")).await;
    let mut settings = settings();
    settings.max_retry_delay = Duration::from_millis(20);
    let resolver = RegistryResolver::new(settings);
    let name = format!("{}/a:1", server.address());
    let work = wharf_images::transport::Resolver::resolve(&resolver, &name);
    let result = tokio::time::timeout(Duration::from_secs(5), work).await.expect("does not wait a day");
    assert_eq!(result.expect_err("gives up").kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn nobody_listens() {
    let server = FakeServer::start(|_| Reply::raw("")).await;
    let address = server.address();
    drop(server);
    let resolver = RegistryResolver::new(settings());
    let result = wharf_images::transport::Resolver::resolve(&resolver, &format!("{address}/a:1")).await;
    let error = result.expect_err("unreachable");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.report().contains(&address), "{}", error.report());
}

#[tokio::test]
async fn content_that_is_not_what_was_promised_is_refused_and_leaves_nothing() {
    type Tamper = fn(&Honest, &[u8]) -> Reply;
    let cases: [(&str, ErrorKind, Tamper); 6] = [
        ("one bit differs", ErrorKind::FailedPrecondition, |_, content| {
            let mut content = content.to_vec();
            content[100] ^= 1;
            Reply::new(200, &[], content)
        }),
        ("longer than promised", ErrorKind::FailedPrecondition, |_, content| {
            Reply::new(200, &[], [content, b"!"].concat())
        }),
        ("longer, and no length announced", ErrorKind::FailedPrecondition, |_, content| {
            let head = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n".to_vec();
            Reply::raw([&head, content, b"!"].concat())
        }),
        ("shorter, as announced", ErrorKind::FailedPrecondition, |_, content| {
            Reply::new(200, &[], &content[..content.len() - 1])
        }),
        ("something else altogether", ErrorKind::FailedPrecondition, |_, _| {
            Reply::new(200, &[("Content-Type", "text/html")], "<html>Please log in</html>")
        }),
        ("a part where the whole was asked for", ErrorKind::FailedPrecondition, |_, content| {
            Reply::new(206, &[("Content-Range", "bytes 0-99/200000")], &content[..100])
        }),
    ];
    for (what, kind, tamper) in cases {
        let honest = Honest::new();
        let layer = Digest::sha256(&honest.layer).to_string();
        let twin = honest.clone();
        let (pulled, _server) = pulled(move |request| match honest.content(&request.path) {
            Some(content) if request.path.ends_with(&layer) => tamper(&honest, content),
            _ => honest.answer(request),
        })
        .await;
        assert_eq!(pulled.error().kind(), kind, "{what}: {}", pulled.error().report());
        assert!(pulled.blobs <= 2, "{what}");
        assert_eq!(pulled.ingests, 0, "{what}: nothing wrong is kept");
        let server = FakeServer::start(move |request| twin.answer(request)).await;
        pull_from(&server, pulled.store).await.result.expect("the honest registry mends it");
    }
}

#[tokio::test]
async fn a_broken_body_goes_on_where_it_broke() {
    for honours_ranges in [true, false] {
        let honest = Honest::new();
        let layer = Digest::sha256(&honest.layer).to_string();
        let (pulled, server) = pulled(move |request| {
            if !request.path.ends_with(&layer) {
                return honest.answer(request);
            }
            let (whole, len) = (&honest.layer, honest.layer.len());
            let from =
                request.header("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-'));
            let from: usize = from.map_or(0, |from| from.parse().expect("a number"));
            let announced = if honours_ranges { len - from } else { len };
            let announced = announced.to_string();
            let range = format!("bytes {from}-{}/{len}", len - 1);
            let start = if honours_ranges { from } else { 0 };
            // Each connection breaks 60,000 bytes further on.
            let end = (from + 60_000).min(len);
            let body = &whole[start..end];
            if from > 0 && honours_ranges {
                Reply::new(206, &[("Content-Length", &announced), ("Content-Range", &range)], body)
            } else {
                Reply::new(200, &[("Content-Length", &announced)], body)
            }
        })
        .await;
        pulled.result.expect("pulls");
        let ranges: Vec<String> = server
            .requests()
            .iter()
            .filter_map(|request| request.header("range").map(str::to_owned))
            .collect();
        assert_eq!(ranges, ["bytes=60000-", "bytes=120000-", "bytes=180000-"]);
    }
}

#[tokio::test]
async fn a_body_that_breaks_at_once_again_and_again_is_given_up_and_resumed_by_the_next_pull() {
    let honest = Honest::new();
    let layer = Digest::sha256(&honest.layer).to_string();
    let twin = honest.clone();
    let (pulled, server) = pulled(move |request| {
        if !request.path.ends_with(&layer) {
            return honest.answer(request);
        }
        let len = honest.layer.len().to_string();
        match request.header("range") {
            None => Reply::new(200, &[("Content-Length", &len)], &honest.layer[..50_000]),
            Some(_) => Reply::raw("HTTP/1.1 206 Partial\r\nContent-Range: bytes 50000-199999/200000\r\nContent-Length: 150000\r\n\r\n"),
        }
    })
    .await;
    assert_eq!(pulled.error().kind(), ErrorKind::Unavailable, "{}", pulled.error().report());
    assert!(server.requests().len() < 12, "bounded");
    assert_eq!(pulled.ingests, 50_000, "what came is kept");

    let server = FakeServer::start(move |request| match request.header("range") {
        Some("bytes=50000-") => {
            let range = "bytes 50000-199999/200000";
            Reply::new(206, &[("Content-Range", range)], &twin.layer[50_000..])
        }
        Some(other) => panic!("asked for {other}"),
        None => twin.answer(request),
    })
    .await;
    pull_from(&server, pulled.store).await.result.expect("goes on");
}

#[tokio::test]
async fn a_wrong_splice_is_refused() {
    for range in
        ["bytes 49999-199999/200000", "bytes 50000-199998/200000", "bytes 50000-199999/200001", "junk"]
    {
        let honest = Honest::new();
        let layer = Digest::sha256(&honest.layer).to_string();
        let (pulled, _server) = pulled(move |request| {
            if !request.path.ends_with(&layer) {
                return honest.answer(request);
            }
            let len = honest.layer.len().to_string();
            match request.header("range") {
                None => Reply::new(200, &[("Content-Length", &len)], &honest.layer[..50_000]),
                Some(_) => Reply::new(206, &[("Content-Range", range)], &honest.layer[50_000..]),
            }
        })
        .await;
        assert_eq!(pulled.error().kind(), ErrorKind::FailedPrecondition, "{range}");
    }
}

#[tokio::test]
async fn manifests_that_lie() {
    let config =
        format!(r#"{{"mediaType":"{}","digest":"{}","size":2}}"#, types::OCI_CONFIG, Digest::sha256(b"{}"));
    for (what, manifest, kind) in [
        (
            "manifest and index",
            format!(r#"{{"config":{config},"manifests":[]}}"#),
            ErrorKind::InvalidArgument,
        ),
        (
            "calls itself an index",
            format!(r#"{{"mediaType":"{}","config":{config}}}"#, types::OCI_INDEX),
            ErrorKind::InvalidArgument,
        ),
        (
            "layers twice",
            format!(r#"{{"config":{config},"layers":[],"layers":[]}}"#),
            ErrorKind::InvalidArgument,
        ),
        (
            "layers in another case",
            format!(r#"{{"config":{config},"Layers":[]}}"#),
            ErrorKind::InvalidArgument,
        ),
        (
            "a digest that is a path",
            r#"{"config":{"mediaType":"x","digest":"sha256:../../etc/passwd","size":2}}"#.into(),
            ErrorKind::InvalidArgument,
        ),
        ("no JSON", "<html>".into(), ErrorKind::InvalidArgument),
        ("schema 1", r#"{"schemaVersion":1,"fsLayers":[]}"#.into(), ErrorKind::InvalidArgument),
    ] {
        let honest = Honest::with_manifest(&manifest);
        let (pulled, _server) = pulled(move |request| honest.answer(request)).await;
        assert_eq!(pulled.error().kind(), kind, "{what}: {}", pulled.error().report());
    }
}

#[tokio::test]
async fn a_malformed_schema_1_says_so_under_every_content_type() {
    for content_type in [
        types::DOCKER_SCHEMA1,
        types::DOCKER_SCHEMA1_UNSIGNED,
        "application/json",
        "text/plain; charset=utf-8",
    ] {
        let (pulled, _server) = pulled(move |request| {
            let body = r#"{"schemaVersion":1,"fsLayers":[]}"#;
            let headers = [("Content-Type", content_type)];
            if request.method == "HEAD" {
                Reply::new(200, &headers, "")
            } else {
                Reply::new(200, &headers, body)
            }
        })
        .await;
        let error = pulled.error();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{content_type}: {}", error.report());
        assert!(error.report().contains("schema 1"), "{}", error.report());
    }
}

#[tokio::test]
async fn headers_that_lie() {
    let wrong = Digest::sha256(b"other").to_string();
    for (what, digest, kind) in [
        ("the digest of something else", wrong.as_str(), ErrorKind::FailedPrecondition),
        ("no digest", "sha256:../../x", ErrorKind::InvalidArgument),
    ] {
        let (honest, digest) = (Honest::new(), digest.to_owned());
        let (pulled, _server) = pulled(move |request| {
            if !request.path.contains("/manifests/") {
                return honest.answer(request);
            }
            let len = honest.manifest.len().to_string();
            let headers = [
                ("Content-Type", types::OCI_MANIFEST),
                ("Docker-Content-Digest", digest.as_str()),
                ("Content-Length", len.as_str()),
            ];
            let body = if request.method == "HEAD" { &[][..] } else { &honest.manifest };
            Reply::new(200, &headers, body)
        })
        .await;
        assert_eq!(pulled.error().kind(), kind, "{what}: {}", pulled.error().report());
    }
}

#[tokio::test]
async fn a_registry_without_head_or_digests_is_read_by_get() {
    for head in [405, 200] {
        let honest = Honest::new();
        let (pulled, _server) = pulled(move |request| match request.method.as_str() {
            "HEAD" => Reply::new(head, &[("Content-Length", "0")], ""),
            _ if request.path.contains("/manifests/") => {
                Reply::new(200, &[("Content-Type", types::OCI_MANIFEST)], &honest.manifest)
            }
            _ => honest.answer(request),
        })
        .await;
        pulled.result.expect("pulls");
    }
}

#[tokio::test]
async fn endless_manifests_end() {
    let (pulled, _server) = pulled(|request| match request.method.as_str() {
        "HEAD" => Reply::new(405, &[], ""),
        _ => Reply::new(200, &[("Content-Type", types::OCI_MANIFEST)], vec![b' '; 6 << 20]),
    })
    .await;
    assert_eq!(pulled.error().kind(), ErrorKind::FailedPrecondition);
    assert!(pulled.error().report().contains("larger than"), "{}", pulled.error().report());
}

/// A registry that wants a token for everything, which its token server gives.
async fn with_tokens(token_body: &'static str) -> (FakeServer, FakeServer) {
    let tokens = FakeServer::start(move |_| Reply::new(200, &[], token_body)).await;
    let realm = format!("http://{}/token", tokens.address());
    let honest = Honest::new();
    let registry = FakeServer::start(move |request| {
        if request.header("authorization") == Some("Bearer canary-token") {
            return honest.answer(request);
        }
        let challenge =
            format!(r#"Bearer realm="{realm}",service="test",scope="repository:library/image:pull""#);
        Reply::new(401, &[("WWW-Authenticate", &challenge)], "")
    })
    .await;
    (registry, tokens)
}

#[tokio::test]
async fn anonymous_tokens_are_fetched_once() {
    for body in
        [r#"{"token":"canary-token"}"#, r#"{"access_token":"canary-token","token":"x","expires_in":300}"#]
    {
        let (registry, tokens) = with_tokens(body).await;
        pull_from(&registry, Arc::new(MemoryStore::new())).await.result.expect("pulls");
        let asked = tokens.requests();
        assert_eq!(asked.len(), 1);
        assert_eq!(asked[0].path, "/token?service=test&scope=repository%3Alibrary%2Fimage%3Apull");
        assert_eq!(registry.requests().iter().filter(|r| r.header("authorization").is_none()).count(), 1);
    }
}

#[tokio::test]
async fn token_servers_that_misbehave() {
    let endless: &'static str =
        Box::leak(format!(r#"{{"token":"{}"}}"#, "x".repeat(100_000)).into_boxed_str());
    for body in ["{}", "<html>canary", r#"{"token":""}"#, "{\"token\":\"canary\\r\\nX: y\"}", endless] {
        let (registry, _tokens) = with_tokens(body).await;
        let pulled = pull_from(&registry, Arc::new(MemoryStore::new())).await;
        let report = pulled.error().report();
        assert!(!report.contains("canary"), "{report}");
    }
    // A token that the registry never takes.
    let (registry, tokens) = with_tokens(r#"{"token":"not-enough"}"#).await;
    let pulled = pull_from(&registry, Arc::new(MemoryStore::new())).await;
    assert_eq!(pulled.error().kind(), ErrorKind::Unauthenticated);
    assert!(registry.requests().len() <= 3 && tokens.requests().len() <= 2, "no loop");
}

#[tokio::test]
async fn a_registry_that_asks_for_more_and_more_is_left() {
    let tokens = FakeServer::start(|_| Reply::new(200, &[], r#"{"token":"t"}"#)).await;
    let realm = format!("http://{}/token", tokens.address());
    let count = AtomicUsize::new(0);
    let registry = FakeServer::start(move |_| {
        let scope = count.fetch_add(1, Ordering::SeqCst);
        let challenge = format!(r#"Bearer realm="{realm}",scope="repository:x{scope}:pull""#);
        Reply::new(401, &[("WWW-Authenticate", &challenge)], "")
    })
    .await;
    let pulled = pull_from(&registry, Arc::new(MemoryStore::new())).await;
    assert_eq!(pulled.error().kind(), ErrorKind::Unauthenticated);
    assert!(registry.requests().len() <= 5, "{}", registry.requests().len());
}

#[tokio::test]
async fn a_redirect_works_and_takes_no_token_along() {
    let honest = Honest::new();
    let twin = honest.clone();
    let cdn = FakeServer::start(move |request| twin.answer(request)).await;
    let tokens = FakeServer::start(|_| Reply::new(200, &[], r#"{"token":"canary-token"}"#)).await;
    let (realm, elsewhere) =
        (format!("http://{}/token", tokens.address()), format!("http://{}", cdn.address()));
    let registry = FakeServer::start(move |request| {
        if request.header("authorization") != Some("Bearer canary-token") {
            return Reply::new(401, &[("WWW-Authenticate", &format!("Bearer realm=\"{realm}\""))], "");
        }
        if request.path.contains("/blobs/") {
            let location = format!("{elsewhere}{}?signature=canary", request.path);
            return Reply::new(307, &[("Location", &location)], "");
        }
        honest.answer(request)
    })
    .await;
    pull_from(&registry, Arc::new(MemoryStore::new())).await.result.expect("pulls");
    assert_eq!(cdn.requests().len(), 2);
    assert!(cdn.requests().iter().all(|request| request.header("authorization").is_none()));
}

#[tokio::test]
async fn redirects_that_lead_nowhere() {
    let evil = FakeServer::start(|_| {
        Reply::new(401, &[("WWW-Authenticate", "Bearer realm=\"http://127.0.0.1:1/token\"")], "")
    })
    .await;
    let elsewhere = format!("http://{}/x?secret=canary", evil.address());
    for location in [
        None,
        Some("http://"),
        Some("file:///etc/passwd"),
        Some("ftp://127.0.0.1/x"),
        Some("/v2/loop"),
        Some(&*elsewhere),
    ] {
        let location = location.map(str::to_owned);
        let (pulled, server) = pulled(move |_| match &location {
            None => Reply::new(302, &[], ""),
            Some(location) => Reply::new(302, &[("Location", location)], ""),
        })
        .await;
        assert!(!pulled.error().report().contains("canary"), "{}", pulled.error().report());
        assert!(server.requests().len() <= 11, "{}", server.requests().len());
    }
    // The token server that it named was not asked: the challenge was not the registry's.
    assert!(evil.requests().iter().all(|request| request.header("authorization").is_none()));
}

#[tokio::test]
async fn nothing_is_fetched_from_urls_in_a_manifest() {
    let elsewhere = FakeServer::start(|_| Reply::new(200, &[], "x")).await;
    let url = format!("http://{}/layer", elsewhere.address());
    let honest = Honest::new();
    let manifest = serde_json::json!({
        "config": { "mediaType": types::OCI_CONFIG, "digest": Digest::sha256(&honest.config), "size": honest.config.len() },
        "layers": [{
            "mediaType": types::OCI_LAYER, "digest": Digest::sha256(b"x"), "size": 1, "urls": [url, "file:///etc/passwd"],
        }],
    });
    let honest = Honest::with_manifest(&manifest.to_string());
    let (pulled, _server) = pulled(move |request| honest.answer(request)).await;
    assert_eq!(pulled.error().kind(), ErrorKind::NotFound);
    assert!(elsewhere.requests().is_empty());
}

#[tokio::test]
async fn the_catalogue_has_the_transport() {
    let keys = Catalogue::linked().keys::<wharf_images::transport::Transports>();
    assert!(keys.contains(&"docker".to_owned()), "{keys:?}");
}
