//! Redirects: what is for the registry stays with it, wherever they lead.

use std::sync::{Arc, OnceLock};

use wharf_content::{ErrorKind, MemoryStore};
use wharf_tests::{FakeServer, Reply, Request};

use super::{Honest, pull_from, pulled};

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

/// A registry that wants a token, and answers what it lets through as `answer` does; and who gives that token.
async fn demanding(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> (FakeServer, FakeServer) {
    let tokens = FakeServer::start(|_| Reply::new(200, &[], r#"{"token":"canary-token"}"#)).await;
    let challenge = format!("Bearer realm=\"http://{}/token\"", tokens.address());
    let registry = FakeServer::start(move |request| {
        if request.header("authorization") != Some("Bearer canary-token") {
            return Reply::new(401, &[("WWW-Authenticate", &challenge)], "");
        }
        answer(request)
    })
    .await;
    (registry, tokens)
}

#[tokio::test]
async fn a_redirect_within_the_registry_takes_the_token_along() {
    for status in [301, 302, 303, 307, 308] {
        for is_whole in [true, false] {
            let honest = Honest::new();
            let (registry, tokens) = demanding(move |request| {
                if !request.path.contains("/blobs/") || request.path.contains("?at=") {
                    return honest.answer(request);
                }
                let host = request.header("host").filter(|_| is_whole);
                let origin = host.map(|host| format!("http://{host}")).unwrap_or_default();
                Reply::new(status, &[("Location", &format!("{origin}{}?at=1", request.path))], "")
            })
            .await;
            pull_from(&registry, Arc::new(MemoryStore::new())).await.result.expect("pulls");
            assert_eq!(tokens.requests().len(), 1);
        }
    }
}

#[tokio::test]
async fn a_place_that_a_redirect_leads_to_gets_nothing_by_asking() {
    // It wants a token of its own, by every scheme; neither the registry's is given to it nor one fetched for it.
    let stolen = FakeServer::start(|_| Reply::new(200, &[], r#"{"token":"for the other"}"#)).await;
    let realm = format!("http://{}/token", stolen.address());
    for challenge in [format!("Bearer realm=\"{realm}\""), "Basic realm=\"x\"".to_owned()] {
        let evil = FakeServer::start(move |_| Reply::new(401, &[("WWW-Authenticate", &challenge)], "")).await;
        let (honest, elsewhere) = (Honest::new(), format!("http://{}", evil.address()));
        let (registry, tokens) = demanding(move |request| {
            if !request.path.contains("/blobs/") {
                return honest.answer(request);
            }
            Reply::new(307, &[("Location", &format!("{elsewhere}{}", request.path))], "")
        })
        .await;
        let pulled = pull_from(&registry, Arc::new(MemoryStore::new())).await;
        assert_eq!(pulled.error().kind(), ErrorKind::Unauthenticated, "{}", pulled.error().report());
        assert!(!evil.requests().is_empty());
        assert!(evil.requests().iter().all(|request| request.header("authorization").is_none()));
        assert_eq!(tokens.requests().len(), 1, "its 401 is not the registry's");
    }
    assert!(stolen.requests().is_empty());
}

#[tokio::test]
async fn who_was_led_away_and_back_comes_without_the_token() {
    // What the other origin has asked for must not be asked for in the name of the user.
    let home = Arc::new(OnceLock::<String>::new());
    let there = Arc::clone(&home);
    let elsewhere = FakeServer::start(move |_| {
        let location = format!("http://{}/v2/somebody/elses/blobs/x", there.get().expect("started"));
        Reply::new(307, &[("Location", &location)], "")
    })
    .await;
    let (honest, place) = (Honest::new(), format!("http://{}/away", elsewhere.address()));
    let (registry, tokens) = demanding(move |request| {
        if !request.path.contains("/blobs/") {
            return honest.answer(request);
        }
        Reply::new(307, &[("Location", &place)], "")
    })
    .await;
    home.set(registry.address()).expect("once");
    let pulled = pull_from(&registry, Arc::new(MemoryStore::new())).await;
    assert_eq!(pulled.error().kind(), ErrorKind::Unauthenticated, "{}", pulled.error().report());
    let back: Vec<_> =
        registry.requests().into_iter().filter(|asked| asked.path.contains("/elses/")).collect();
    assert!(!back.is_empty());
    assert!(back.iter().all(|request| request.header("authorization").is_none()), "{back:?}");
    assert_eq!(tokens.requests().len(), 1, "nor is another one fetched for it");
}

#[tokio::test]
async fn a_redirect_without_a_scheme_is_another_origin_all_the_same() {
    let honest = Honest::new();
    let twin = honest.clone();
    let cdn = FakeServer::start(move |request| twin.answer(request)).await;
    let elsewhere = format!("//{}", cdn.address());
    let (registry, _tokens) = demanding(move |request| {
        if !request.path.contains("/blobs/") {
            return honest.answer(request);
        }
        Reply::new(307, &[("Location", &format!("{elsewhere}{}", request.path))], "")
    })
    .await;
    pull_from(&registry, Arc::new(MemoryStore::new())).await.result.expect("pulls");
    assert_eq!(cdn.requests().len(), 2);
    assert!(cdn.requests().iter().all(|request| request.header("authorization").is_none()));
}
