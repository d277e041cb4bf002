//! A registry behind a guard gives its images to who has a token for them, and asks for what it wants in words that are understood.

use std::{sync::Arc, time::Duration};

use wharf_content::{ErrorKind, MemoryStore};
use wharf_tests::{
    Demand, Guard, ImageFixture, Layer, TestRegistry, TokenOptions, TokenServer,
    fault_proxy::plan,
    token_server::{Grant, Scope},
};

use super::{origin, pull_into, push_from, settings};

fn image() -> ImageFixture {
    ImageFixture::new().with("linux/amd64", vec![Layer::noise("data", 300_000, 3)])
}

/// Anybody may pull from `open/`, and push to `drop/`.
async fn tokens() -> TokenServer {
    let scopes = [Scope::repository("open/*", &["pull"]), Scope::repository("drop/*", &["pull", "push"])];
    TokenServer::start(TokenOptions::new().with_anonymous(&scopes)).await
}

#[tokio::test]
async fn what_is_open_to_all_is_pulled_with_one_token() {
    let (registry, tokens) = (TestRegistry::start().await, tokens().await);
    for repository in ["open/app:1", "closed/app:1"] {
        registry.put(repository, &image()).await.expect("puts");
    }
    let guard = Guard::start(&registry.address(), Demand::bearer(&tokens)).await;
    pull_into(Arc::new(MemoryStore::new()), &guard.reference("open/app:1")).await.expect("pulls");
    let asked = tokens.requests();
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert_eq!(
        (asked[0].grant, asked[0].scopes.as_slice()),
        (Grant::Anonymous, &["repository:open/app:pull".to_owned()][..])
    );
    assert_eq!((guard.refused(), guard.admitted().len()), (1, 4));

    let error = pull_into(Arc::new(MemoryStore::new()), &guard.reference("closed/app:1")).await;
    let error = error.expect_err("not for everybody");
    assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{}", error.report());
    for secret in tokens.authority().secrets() {
        assert!(!error.report().contains(&secret), "{}", error.report());
    }
}

#[tokio::test]
async fn a_push_asks_for_what_it_needs() {
    let (registry, tokens) = (TestRegistry::start().await, tokens().await);
    let guard = Guard::start(&registry.address(), Demand::bearer(&tokens)).await;
    let (store, image) = origin(&image()).await;
    push_from(settings(), store.clone(), &image, &guard.reference("drop/app:1")).await.expect("pushes");
    let error = push_from(settings(), store, &image, &guard.reference("open/app:1"))
        .await
        .expect_err("only to be read");
    assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{}", error.report());
}

#[tokio::test]
async fn a_token_that_expires_in_the_middle_is_renewed() {
    let registry = TestRegistry::start().await;
    registry.put("open/app:1", &image()).await.expect("puts");
    let scopes = [Scope::repository("open/*", &["pull"])];
    let options =
        TokenOptions::new().with_anonymous(&scopes).with_lifetime(Some(3600), Duration::from_secs(3600));
    let tokens = TokenServer::start(options).await;
    let authority = tokens.authority();
    // After each break no token holds any longer, whatever was promised.
    let resets = plan::resets_every(100_000, 1);
    let plan = move |asked: &wharf_tests::fault_proxy::Asked| {
        let fault = asked.request.path.contains("/blobs/").then(|| resets(asked)).flatten();
        if fault.is_some() {
            authority.expire_all();
        }
        fault
    };
    let guard = Guard::start_with(&registry.address(), Demand::bearer(&tokens), plan).await;
    pull_into(Arc::new(MemoryStore::new()), &guard.reference("open/app:1")).await.expect("pulls");
    assert!(guard.proxy.faults().contains(&"reset-answer"));
    assert!(tokens.requests().len() >= 3, "{:?}", tokens.requests());
}

#[tokio::test]
async fn who_has_no_password_is_refused() {
    let registry = TestRegistry::start().await;
    registry.put("a:1", &image()).await.expect("puts");
    let guard = Guard::start(&registry.address(), Demand::basic("user", "canary")).await;
    let error =
        pull_into(Arc::new(MemoryStore::new()), &guard.reference("a:1")).await.expect_err("no password");
    assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{}", error.report());
    assert_eq!((guard.refused(), guard.admitted().len()), (1, 0));
}
