//! Registries that demand tokens, and token servers, of every kind. What takes credentials is tested where they are.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use wharf_content::{ErrorKind, MemoryStore};
use wharf_tests::{FakeServer, Reply};

use super::{Honest, pull_from};

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
async fn token_servers_elsewhere() {
    let evil = FakeServer::start(|_| Reply::new(200, &[], r#"{"token":"canary-token"}"#)).await;
    let location = format!("http://{}/token", evil.address());
    let redirecting = FakeServer::start(move |_| Reply::new(307, &[("Location", &location)], "")).await;
    for realm in [
        format!("http://{}/token", redirecting.address()),
        format!("http://user:pass@{}/token", evil.address()),
        "file:///etc/passwd".to_owned(),
        "ftp://127.0.0.1/token".to_owned(),
        "/token".to_owned(),
        "http://[".to_owned(),
    ] {
        let challenge = format!("Bearer realm=\"{realm}\"");
        let registry =
            FakeServer::start(move |_| Reply::new(401, &[("WWW-Authenticate", &challenge)], "")).await;
        let pulled = pull_from(&registry, Arc::new(MemoryStore::new())).await;
        let kind = pulled.error().kind();
        assert!(matches!(kind, ErrorKind::Unauthenticated | ErrorKind::PermissionDenied), "{realm}: {kind}");
        assert!(!pulled.error().report().contains("pass@"), "{}", pulled.error().report());
        assert_eq!(registry.requests().len(), 1, "{realm}");
    }
    assert_eq!(redirecting.requests().len(), 1, "it was asked, and what it said was not followed");
    assert!(evil.requests().is_empty());
    // On another port, as on another host, it is normal.
    let (registry, tokens) = with_tokens(r#"{"token":"canary-token"}"#).await;
    pull_from(&registry, Arc::new(MemoryStore::new())).await.result.expect("pulls");
    assert_eq!(tokens.requests().len(), 1);
}

/// Answers every request without the token by the lines of `refusal`, in which `REALM` stands for where the token is.
async fn refusing(refusal: &str) -> (FakeServer, FakeServer) {
    let tokens = FakeServer::start(|_| Reply::new(200, &[], r#"{"token":"canary-token"}"#)).await;
    let (realm, honest) = (format!("http://{}/token", tokens.address()), Honest::new());
    let head = refusal.replace("REALM", &realm);
    let registry = FakeServer::start(move |request| {
        if request.header("authorization") == Some("Bearer canary-token") {
            return honest.answer(request);
        }
        Reply::raw(format!("HTTP/1.1 401 No\r\nConnection: close\r\nContent-Length: 0\r\n{head}\r\n\r\n"))
    })
    .await;
    (registry, tokens)
}

#[tokio::test]
async fn challenges_in_careless_spelling() {
    for refusal in [
        r#"WWW-Authenticate: Bearer realm="REALM",service="s",scope="repository:library/image:pull""#,
        r#"www-authenticate: bearer REALM="REALM""#.replace("REALM=", "Realm=").as_str(),
        "WWW-Authenticate: Bearer realm=REALM,service=s",
        r#"WWW-Authenticate: Bearer realm="REALM"; service="s","#,
        r#"WWW-Authenticate: Bearer realm="REALM" service="s""#,
        r#"WWW-Authenticate: Bearer realm="REALM"#,
        r#"WWW-Authenticate: "Bearer" realm="REALM""#,
        "WWW-Authenticate: Basic realm=\"x\"\r\nWWW-Authenticate: Bearer realm=\"REALM\"",
        r#"WWW-Authenticate: Negotiate, Bearer realm="REALM""#,
    ] {
        let (registry, tokens) = refusing(refusal).await;
        let pulled = pull_from(&registry, Arc::new(MemoryStore::new())).await;
        pulled.result.unwrap_or_else(|error| panic!("{refusal}: {}", error.report()));
        assert_eq!(tokens.requests().len(), 1, "{refusal}");
    }
}

#[tokio::test]
async fn challenges_that_cannot_be_met() {
    let long = format!("WWW-Authenticate: Bearer realm=\"REALM{}\"", "x".repeat(1 << 20));
    let many = vec![r#"WWW-Authenticate: Bearer realm="REALM""#; 5_000].join("\r\n");
    for refusal in [
        "X: y",
        "WWW-Authenticate:",
        "WWW-Authenticate: Bearer",
        "WWW-Authenticate: Bearer realm=",
        "WWW-Authenticate: Bearer service=\"s\"",
        "WWW-Authenticate: ,,,=,\"",
        "WWW-Authenticate: Basic realm=\"REALM\"",
        "WWW-Authenticate: Negotiate",
        "WWW-Authenticate: Bearer\r\n realm=\"REALM\"",
        "WWW-Authenticate: Bearer realm=\"\u{1b}]52;c;\"",
        long.as_str(),
        many.as_str(),
    ] {
        let (registry, tokens) = refusing(refusal).await;
        let pulled = pull_from(&registry, Arc::new(MemoryStore::new())).await;
        let shown = &refusal[..refusal.len().min(60)];
        let error = pulled.error();
        assert!(
            matches!(
                error.kind(),
                ErrorKind::Unauthenticated | ErrorKind::Unavailable | ErrorKind::PermissionDenied
            ),
            "{shown}: {}",
            error.report()
        );
        assert!(!error.report().contains('\u{1b}') && error.report().len() < 2_000, "{shown}");
        assert!(registry.requests().len() <= 3, "{shown}: {}", registry.requests().len());
        assert!(tokens.requests().is_empty(), "{shown}");
    }
}
