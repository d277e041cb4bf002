//! Answers that never end are read up to a limit, and what is merely long is read.

use std::{sync::Arc, time::Duration};

use wharf_content::{Descriptor, Digest, ErrorKind, MemoryStore, Result};
use wharf_images::{media_types as types, transport::Resolver};
use wharf_remotes::{RemoteError, registry::RegistryResolver};
use wharf_tests::{FakeServer, Reply};

use super::{Honest, pull_from, pulled, settings};

/// More than sockets hold, so that a server sees when nobody reads on.
static PIECE: [u8; 1 << 16] = [b' '; 1 << 16];

/// What is read for ever is not waited for.
async fn bounded<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), work).await.expect("an end")
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

#[tokio::test]
async fn manifests_configs_and_layers_without_end() {
    let honest = Honest::new();
    let config_len = honest.config.len() as u64;
    let digests = [&honest.manifest, &honest.config, &honest.layer];
    for (at, part) in digests.map(|part| Digest::sha256(part).to_string()).into_iter().enumerate() {
        let is_config = at == 1;
        for begins_well in [true, false] {
            let (honest, part) = (honest.clone(), part.clone());
            let (pulled, _server) = pulled(move |request| {
                let is_it = request.method == "GET" && request.path.ends_with(&part);
                match honest.content(&request.path).filter(|_| is_it) {
                    // All of it, and then on and on.
                    Some(content) if begins_well => {
                        let media_type = [("Content-Type", types::OCI_MANIFEST)];
                        Reply::endless(200, &media_type, [content, &PIECE].concat())
                    }
                    Some(_) => Reply::endless(200, &[], PIECE),
                    None => honest.answer(request),
                }
            })
            .await;
            assert_eq!(pulled.error().kind(), ErrorKind::FailedPrecondition, "{}", pulled.error().report());
            // Of the layer, which was given up with the config, what came is kept.
            assert!(is_config || pulled.ingests <= config_len, "nothing of it is kept: {}", pulled.ingests);
        }
    }
    // By GET, where nobody has said how long it is.
    let (pulled, _server) = pulled(|request| match request.method.as_str() {
        "HEAD" => Reply::new(405, &[], ""),
        _ => Reply::endless(200, &[("Content-Type", types::OCI_MANIFEST)], PIECE),
    })
    .await;
    assert!(pulled.error().report().contains("larger than"), "{}", pulled.error().report());
}

#[tokio::test]
async fn errors_and_tokens_without_end() {
    for status in [403, 404, 418] {
        let (pulled, _server) = pulled(move |request| match request.method.as_str() {
            "HEAD" => Reply::new(405, &[], ""),
            _ => Reply::endless(status, &[], PIECE),
        })
        .await;
        let remote = RemoteError::of(pulled.error()).expect("a registry's error");
        assert_eq!((remote.status, remote.details.len()), (Some(status), 0));
    }
    let tokens = FakeServer::start(|request| match request.path.split('?').next() {
        Some("/good") => Reply::endless(200, &[], br#"{"token":"canary"}"#),
        _ => Reply::endless(401, &[], PIECE),
    })
    .await;
    for path in ["good", "bad"] {
        let challenge = format!("Bearer realm=\"http://{}/{path}\"", tokens.address());
        let registry =
            FakeServer::start(move |_| Reply::new(401, &[("WWW-Authenticate", &challenge)], "")).await;
        let pulled = pull_from(&registry, Arc::new(MemoryStore::new())).await;
        let report = pulled.error().report();
        assert!(report.contains("cannot get a token") || report.contains("too large"), "{report}");
        assert!(!report.contains("canary"), "{report}");
    }
}

/// Asks for what lists there are.
async fn lists(server: &FakeServer) -> [Result<usize>; 2] {
    let resolver = RegistryResolver::new(settings());
    let subject = Descriptor::of(types::OCI_MANIFEST, b"subject");
    let referrers = resolver.referrers(&format!("{}/a/b:1", server.address())).await.expect("lists");
    let tags = bounded(resolver.tags(&format!("{}/a/b", server.address()))).await;
    let referrers = bounded(referrers.referrers(&subject)).await;
    [tags.map(|tags| tags.len()), referrers.map(|referrers| referrers.len())]
}

#[tokio::test]
async fn lists_without_end() {
    let server =
        FakeServer::start(|_| Reply::endless(200, &[("Content-Type", types::OCI_INDEX)], PIECE)).await;
    for list in lists(&server).await {
        let error = list.expect_err("too large");
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{}", error.report());
        assert!(error.report().contains("larger than"), "{}", error.report());
    }
    // Each page is short, and there is always another: it is the trail's cap that ends it, tried beside it with fewer pages.
    let server = FakeServer::start(|request| {
        let page = request.path.split_once("?page=").and_then(|(_, page)| page.parse().ok()).unwrap_or(0_u32);
        let next = format!("<?page={}>; rel=next", if page < 40 { page + 1 } else { 3 });
        let body = r#"{"tags":["a"],"manifests":[]}"#;
        Reply::new(200, &[("Link", &next), ("Content-Type", types::OCI_INDEX)], body)
    })
    .await;
    for list in lists(&server).await {
        let error = list.expect_err("a circle of many");
        assert!(error.report().contains("circle"), "{}", error.report());
    }
    assert_eq!(server.requests().len(), 41 * 2);
}

#[tokio::test]
async fn a_large_list_and_a_long_error_are_read() {
    let tags: Vec<String> = (0..100_000).map(|at| format!("tag-{at:06}")).collect();
    let body = serde_json::json!({ "tags": tags, "manifests": [] }).to_string();
    assert!(body.len() > 1 << 20);
    let server =
        FakeServer::start(move |_| Reply::new(200, &[("Content-Type", types::OCI_INDEX)], &body)).await;
    let [tags, referrers] = lists(&server).await;
    assert_eq!((tags.expect("lists"), referrers.expect("lists")), (100_000, 0));

    let padding = " ".repeat(60_000);
    let body = format!(r#"{{"errors":[{{"code":"DENIED","message":"in words"}}]{padding}}}"#);
    let (pulled, _server) = pulled(move |request| match request.method.as_str() {
        "HEAD" => Reply::new(405, &[], ""),
        _ => Reply::new(403, &[], &body),
    })
    .await;
    assert!(pulled.error().report().contains("DENIED (in words)"), "{}", pulled.error().report());
}
