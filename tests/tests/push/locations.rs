//! Where a registry says that an upload goes on: followed as it stands, with the token where that is the registry's, without it
//! elsewhere, and not at all where it is no place to send something to.

use wharf_content::ErrorKind;
use wharf_tests::{FakeServer, Reply, ScriptedRegistry, TokenOptions, TokenServer, token_server::Scope};

use super::{Origin, faults::has_whole_blobs, one_layer};

#[tokio::test]
async fn a_location_elsewhere_gets_the_bytes_and_no_token() {
    let storage = FakeServer::start(|_| Reply::new(201, &[], "")).await;
    let elsewhere = format!("http://{}/store?sig=canary%2F", storage.address());
    let issuer = FakeServer::start(|_| Reply::new(200, &[], r#"{"token":"canary-token"}"#)).await;
    let realm = format!(r#"Bearer realm="http://{}/token",service="s""#, issuer.address());
    let quirky = ScriptedRegistry::start(move |request, _| {
        if request.header("authorization") != Some("Bearer canary-token") {
            return Some(Reply::new(401, &[("WWW-Authenticate", &realm)], ""));
        }
        (request.method == "POST").then(|| Reply::new(202, &[("Location", &elsewhere)], ""))
    })
    .await;
    let origin = Origin::new(&one_layer(5_000)).await;
    origin.push(&quirky.reference("team/x:1")).await.expect("pushes");
    let scopes: Vec<String> = issuer.requests().into_iter().map(|request| request.path).collect();
    assert!(
        scopes.iter().all(|path| path.contains("scope=repository%3Ateam%2Fx%3Apull%2Cpush")),
        "{scopes:?}"
    );
    let stored = storage.requests();
    assert_eq!(stored.len(), 2);
    for request in stored {
        assert!(request.path.starts_with("/store?sig=canary%2F&digest=sha256%3A"), "{}", request.path);
        assert_eq!(request.header("authorization"), None);
        assert_eq!(request.content_length(), Some(request.body.len()));
    }
}

#[tokio::test]
async fn locations_that_lead_nowhere_are_refused() {
    for location in [None, Some("ftp://127.0.0.1/x"), Some("http://[bad"), Some("file:///etc/passwd")] {
        let quirky = ScriptedRegistry::start(move |request, _| {
            let headers: Vec<_> = location.map(|location| ("Location", location)).into_iter().collect();
            (request.method == "POST").then(|| Reply::new(202, &headers, ""))
        })
        .await;
        let error =
            Origin::new(&one_layer(10)).await.push(&quirky.reference("x:1")).await.expect_err("refused");
        assert!(error.report().contains("Location"), "{}", error.report());
        assert_eq!(quirky.contents.count("PUT"), 0);
    }
}

/// A registry that wants a token, and begins uploads where `location` says; the token's server.
async fn demanding(
    location: impl Fn(&str, usize) -> String + Send + Sync + 'static,
) -> (ScriptedRegistry, TokenServer) {
    let allowed = [Scope::repository("x", &["pull", "push"])];
    let tokens = TokenServer::start(TokenOptions::new().with_anonymous(&allowed)).await;
    let demand = wharf_tests::Demand::bearer(&tokens);
    let registry = ScriptedRegistry::start(move |request, contents| {
        if let Some(refusal) = demand.refusal(request) {
            return Some(refusal);
        }
        let host = request.header("host").unwrap_or_default();
        (request.method == "POST")
            .then(|| Reply::new(202, &[("Location", &location(host, contents.begin()))], ""))
    })
    .await;
    (registry, tokens)
}

#[tokio::test]
async fn locations_of_every_form_within_the_registry() {
    type Location = fn(&str, usize) -> String;
    let forms: [Location; 6] = [
        |host, id| format!("http://{host}/v2/x/blobs/uploads/{id}?_state=a%2Bb"),
        |host, id| format!("//{host}/v2/x/blobs/uploads/{id}?_state=a%2Bb"),
        |host, id| format!("http://somebody:canary@{host}/v2/x/blobs/uploads/{id}?_state=a%2Bb#there"),
        |_, id| format!("/v2/x/blobs/uploads/{id}?_state=a%2Bb"),
        |_, id| format!("{id}?_state=a%2Bb"),
        |_, id| format!("../uploads/{id}?_state=a%2Bb"),
    ];
    for (at, form) in forms.into_iter().enumerate() {
        let (registry, tokens) = demanding(form).await;
        let origin = Origin::new(&one_layer(5_000)).await;
        let pushed = origin.push(&registry.reference("x:1")).await;
        pushed.unwrap_or_else(|error| panic!("form {at}: {}", error.report()));
        has_whole_blobs(&registry, 2);
        let sent = registry.contents.requests();
        let mut sent = sent.iter().filter(|request| request.method == "PUT");
        // What is in the Location is nobody's password.
        assert!(sent.all(|request| {
            request.header("authorization").is_some_and(|value| value.starts_with("Bearer "))
        }));
        assert_eq!(tokens.requests().len(), 1, "it is good for all of it");
    }
}

#[tokio::test]
async fn locations_elsewhere_get_no_token_in_any_form() {
    for form in ["http://ADDRESS/store", "//ADDRESS/store", "http://somebody:canary@ADDRESS/store"] {
        for answer in [201, 401] {
            let own = r#"Bearer realm="http://127.0.0.1:1/token""#;
            let storage =
                FakeServer::start(move |_| Reply::new(answer, &[("WWW-Authenticate", own)], "")).await;
            let location = form.replace("ADDRESS", &storage.address());
            let (registry, tokens) = demanding(move |_, _| location.clone()).await;
            let origin = Origin::new(&one_layer(5_000)).await;
            let pushed = origin.push(&registry.reference("x:1")).await;
            match pushed {
                Ok(_) => assert_eq!(answer, 201),
                Err(error) => {
                    assert_eq!(
                        (answer, error.kind()),
                        (401, ErrorKind::Unauthenticated),
                        "{}",
                        error.report()
                    );
                    assert!(!error.report().contains("canary"), "{}", error.report());
                }
            }
            assert!(!storage.requests().is_empty(), "{form}");
            assert!(
                storage.requests().iter().all(|request| request.header("authorization").is_none()),
                "{form}"
            );
            assert_eq!(tokens.requests().len(), 1, "no token is fetched for somebody else");
        }
    }
}

#[tokio::test]
async fn an_answer_that_says_more_than_it_should_is_not_listened_to() {
    // The body of an answer to an upload tells nothing, however long it is.
    let registry = ScriptedRegistry::start(|request, contents| {
        let is_blob = request.method == "PUT" && request.path.contains("/blobs/");
        is_blob.then(|| {
            contents.answer(request);
            Reply::endless(201, &[], vec![b' '; 1 << 16])
        })
    })
    .await;
    let origin = Origin::new(&one_layer(5_000)).await;
    origin.push(&registry.reference("x:1")).await.expect("pushes");
    has_whole_blobs(&registry, 2);
}
