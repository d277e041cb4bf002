//! Logging in to registries: challenges, tokens, helpers, and what happens to credentials where somebody wants them who must not have them.

#[path = "auth/helpers.rs"]
mod helpers;
#[path = "auth/origins.rs"]
mod origins;
#[path = "auth/transfers.rs"]
mod transfers;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use futures_util::future::join_all;
use wharf_content::{Digest, Error, ErrorKind, Result};
use wharf_images::{
    media_types as types,
    transport::{Resolved, Resolver},
};
use wharf_remotes::{
    RemoteError,
    credentials::{Credential, CredentialSource, Given, Sources},
    registry::{Clock, RegistryResolver, RegistrySettings},
};
use wharf_tests::{FakeServer, Reply, Request};

const CANARY: &str = "canary-51c2";
const MANIFEST: &[u8] = br#"{"schemaVersion":2,"config":{},"layers":[]}"#;

fn settings() -> RegistrySettings {
    RegistrySettings::new().with_retries(1, Duration::from_millis(1))
}

fn sources(source: impl CredentialSource) -> Sources {
    Sources::none().with("test", Arc::new(source))
}

/// Settings with a credential for a server.
fn knowing(server: &FakeServer, credential: Credential) -> RegistrySettings {
    settings().with_credentials(sources(Given::new(&server.address(), credential)))
}

fn user() -> Credential {
    Credential::password("user", CANARY)
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

async fn bounded<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), work).await.expect("bounded in time")
}

async fn resolve(server: &FakeServer, settings: RegistrySettings) -> Result<Resolved> {
    let resolver = RegistryResolver::new(settings);
    bounded(resolver.resolve(&format!("{}/a/b:1", server.address()))).await
}

/// What a registry has for everybody who is let in.
fn manifest(request: &Request) -> Reply {
    let (digest, len) = (Digest::sha256(MANIFEST).to_string(), MANIFEST.len().to_string());
    let headers = [
        ("Content-Type", types::OCI_MANIFEST),
        ("Docker-Content-Digest", &*digest),
        ("Content-Length", &*len),
    ];
    Reply::new(200, &headers, if request.method == "HEAD" { &[] } else { MANIFEST })
}

fn challenge(text: &str) -> Reply {
    Reply::new(401, &[("WWW-Authenticate", text)], "")
}

/// A registry that wants a token of the server at `realm`, and takes those that begin with `good`.
async fn registry(realm: String) -> FakeServer {
    let wanted = format!("Bearer realm=\"{realm}\",service=\"test\",scope=\"repository:a/b:pull\"");
    FakeServer::start(move |request| match request.header("authorization") {
        Some(value) if value.starts_with("Bearer good") => manifest(request),
        _ => challenge(&wanted),
    })
    .await
}

fn realm(tokens: &FakeServer) -> String {
    format!("http://{}/token", tokens.address())
}

fn form(request: &Request) -> String {
    String::from_utf8_lossy(&request.body).into_owned()
}

fn authorizations(server: &FakeServer) -> Vec<Option<String>> {
    server.requests().iter().map(|request| request.header("authorization").map(str::to_owned)).collect()
}

#[tokio::test]
async fn basic_is_answered_and_remembered() {
    let wanted = basic("user", CANARY);
    let server = FakeServer::start(move |request| match request.header("authorization") {
        Some(value) if value == wanted => manifest(request),
        _ => challenge("Basic realm=\"registry\""),
    })
    .await;
    let resolver = RegistryResolver::new(knowing(&server, user()));
    for _ in 0..2 {
        bounded(resolver.resolve(&format!("{}/a/b:1", server.address()))).await.expect("resolves");
    }
    let right = Some(basic("user", CANARY));
    assert_eq!(authorizations(&server), [None, right.clone(), right]);

    for (credential, requests) in [(Some(Credential::password("user", "wrong")), 2), (None, 1)] {
        let before = server.requests().len();
        let settings = credential.map_or_else(settings, |credential| knowing(&server, credential));
        let error = resolve(&server, settings).await.expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{}", error.report());
        assert_eq!(server.requests().len() - before, requests, "no loop");
    }
}

#[tokio::test]
async fn a_token_is_asked_for_by_a_form_where_there_is_a_secret_and_by_get_where_there_is_none() {
    for (credential, expected) in [
        (Some(user()), "grant_type=password&username=user&password=canary-51c2"),
        (Some(Credential::identity_token(CANARY)), "grant_type=refresh_token&refresh_token=canary-51c2"),
        (None, ""),
    ] {
        let tokens =
            FakeServer::start(|_| Reply::new(200, &[], r#"{"access_token":"good","token":"bad"}"#)).await;
        let server = registry(realm(&tokens)).await;
        let settings = credential.map_or_else(settings, |credential| knowing(&server, credential));
        resolve(&server, settings).await.expect("resolves");
        let asked = &tokens.requests()[..];
        assert_eq!(asked.len(), 1);
        if expected.is_empty() {
            assert_eq!(asked[0].path, "/token?service=test&scope=repository%3Aa%2Fb%3Apull");
            assert_eq!((&*asked[0].method, asked[0].header("authorization")), ("GET", None));
        } else {
            assert_eq!((&*asked[0].method, &*asked[0].path), ("POST", "/token"));
            assert_eq!(asked[0].header("content-type"), Some("application/x-www-form-urlencoded"));
            let form = form(&asked[0]);
            let fixed = "client_id=wharf&scope=repository%3Aa%2Fb%3Apull&service=test&";
            assert_eq!(form, format!("{fixed}{expected}"));
        }
    }
}

#[tokio::test]
async fn a_server_that_knows_no_form_is_asked_by_get() {
    for status in [400, 401, 404, 405] {
        let tokens = FakeServer::start(move |request| match request.method.as_str() {
            "POST" => Reply::new(status, &[], ""),
            _ if request.header("authorization") == Some(&*basic("user", CANARY)) => {
                Reply::new(200, &[], r#"{"token":"good"}"#)
            }
            _ => Reply::new(401, &[], ""),
        })
        .await;
        let server = registry(realm(&tokens)).await;
        resolve(&server, knowing(&server, user())).await.expect("resolves");
        let methods: Vec<_> = tokens.requests().iter().map(|request| request.method.clone()).collect();
        assert_eq!(methods, ["POST", "GET"], "{status}");

        let wrong = Credential::password("user", "wrong");
        let error = resolve(&server, knowing(&server, wrong)).await.expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{}", error.report());
        let failed = RemoteError::of(&error).expect("of the token server");
        assert_eq!((failed.host.clone(), failed.registry()), (tokens.address(), &*server.address()));
    }
    // What is wrong with the server itself is no reason to show it the password in another way.
    let tokens = FakeServer::start(|_| Reply::new(403, &[], "")).await;
    let server = registry(realm(&tokens)).await;
    resolve(&server, knowing(&server, user())).await.expect_err("refused");
    assert_eq!(tokens.requests().len(), 1);
}

#[tokio::test]
async fn a_registry_token_is_used_as_it_is() {
    let tokens = FakeServer::start(|_| Reply::new(200, &[], r#"{"token":"good"}"#)).await;
    let server = registry(realm(&tokens)).await;
    resolve(&server, knowing(&server, Credential::registry_token("good-one"))).await.expect("resolves");
    assert_eq!(authorizations(&server), [None, Some("Bearer good-one".into())]);
    let error =
        resolve(&server, knowing(&server, Credential::registry_token("bad"))).await.expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Unauthenticated);
    let error =
        resolve(&server, knowing(&server, Credential::registry_token("a\nb"))).await.expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{}", error.report());
    assert_eq!(tokens.requests().len(), 0);
}

/// A clock that a test puts forward.
fn clock() -> (Clock, Arc<Mutex<SystemTime>>) {
    let time = Arc::new(Mutex::new(SystemTime::now()));
    let told = Arc::clone(&time);
    (Clock::new(move || *told.lock().expect("no panic")), time)
}

fn pass(time: &Mutex<SystemTime>, seconds: u64) {
    *time.lock().expect("no panic") += Duration::from_secs(seconds);
}

#[tokio::test]
async fn a_refresh_token_of_an_answer_is_used_for_the_next_and_the_password_when_it_is_refused() {
    let tokens = FakeServer::start(|request| {
        let form = form(request);
        if form.contains("refresh_token=revoked") {
            Reply::new(400, &[], r#"{"error":"invalid_grant"}"#)
        } else if form.contains("refresh_token=first") {
            Reply::new(200, &[], r#"{"access_token":"good-2","refresh_token":"revoked"}"#)
        } else {
            Reply::new(200, &[], r#"{"access_token":"good-1","refresh_token":"first","expires_in":300}"#)
        }
    })
    .await;
    let server = registry(realm(&tokens)).await;
    let (clock, time) = clock();
    let resolver = RegistryResolver::new(knowing(&server, user()).with_clock(clock));
    let name = format!("{}/a/b:1", server.address());
    for wait in [289, 2, 60, 0] {
        bounded(resolver.resolve(&name)).await.expect("resolves");
        pass(&time, wait);
    }
    let grants: Vec<String> = tokens.requests().iter().map(form).collect();
    let kinds: Vec<bool> = grants.iter().map(|form| form.contains("grant_type=password")).collect();
    assert_eq!(kinds, [true, false, false, true], "{grants:?}");
    let sent: Vec<_> = authorizations(&server).into_iter().flatten().collect();
    assert_eq!(sent, ["Bearer good-1", "Bearer good-1", "Bearer good-2", "Bearer good-1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_requests_at_once_fetch_one_token() {
    let tokens = FakeServer::start(|_| {
        std::thread::sleep(Duration::from_millis(50));
        Reply::new(200, &[], r#"{"token":"good"}"#)
    })
    .await;
    let server = registry(realm(&tokens)).await;
    let resolver = RegistryResolver::new(knowing(&server, user()));
    let name = format!("{}/a/b:1", server.address());
    let all = bounded(join_all((0..16).map(|_| resolver.resolve(&name)))).await;
    assert!(all.iter().all(Result::is_ok));
    assert_eq!(tokens.requests().len(), 1);
    // Another scope is another token.
    bounded(resolver.resolve(&format!("{}/c/d:1", server.address()))).await.expect("resolves");
    assert_eq!(tokens.requests().len(), 2);
    assert!(
        form(&tokens.requests()[1]).contains("scope=repository%3Aa%2Fb%3Apull+repository%3Ac%2Fd%3Apull")
    );
}

#[tokio::test]
async fn a_failure_is_not_remembered() {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let tokens = FakeServer::start(move |_| match counted.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::new(404, &[], r#"{"errors":[{"code":"DENIED","message":"not yet"}]}"#),
        1 => Reply::new(200, &[], "{}"),
        2 => Reply::new(503, &[], ""),
        _ => Reply::new(200, &[], r#"{"token":"good"}"#),
    })
    .await;
    let server = registry(realm(&tokens)).await;
    let resolver = RegistryResolver::new(settings());
    let name = format!("{}/a/b:1", server.address());
    for said in ["DENIED (not yet)", "neither access_token nor token"] {
        let error = bounded(resolver.resolve(&name)).await.expect_err("no token");
        assert_eq!(error.kind(), ErrorKind::Unauthenticated);
        assert!(error.report().contains(said), "{}", error.report());
    }
    // The third answer may pass, and the same call goes on.
    bounded(resolver.resolve(&name)).await.expect("resolves");
    assert_eq!(count.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn bearer_goes_before_basic() {
    let tokens = FakeServer::start(|_| Reply::new(200, &[], r#"{"token":"good"}"#)).await;
    let both = format!("Basic realm=\"x\", Bearer realm={};service=test,", realm(&tokens));
    let server = FakeServer::start(move |request| match request.header("authorization") {
        Some("Bearer good") => manifest(request),
        _ => challenge(&both),
    })
    .await;
    resolve(&server, knowing(&server, user())).await.expect("resolves");
    assert_eq!(authorizations(&server), [None, Some("Bearer good".into())]);
}

#[tokio::test]
async fn credentials_of_a_repository() {
    let server = FakeServer::start(|request| match request.header("authorization") {
        Some(value) if value == basic("ab", "p") && request.path.starts_with("/v2/a/b/") => manifest(request),
        Some(value) if value == basic("all", "p") && request.path.starts_with("/v2/c/") => manifest(request),
        _ => challenge("Basic realm=x"),
    })
    .await;
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("auth.json");
    let (host, entry) = (server.address(), |user| STANDARD.encode(format!("{user}:p")));
    let (ab, all) = (entry("ab"), entry("all"));
    let json = format!(r#"{{"auths":{{"{host}":{{"auth":"{all}"}},"{host}/a/b":{{"auth":"{ab}"}}}}}}"#);
    std::fs::write(&path, json).expect("writes");
    let environment = wharf_remotes::credentials::Environment::of([("REGISTRY_AUTH_FILE", &path)]);
    let files = wharf_remotes::credentials::AuthFiles::new(&environment);
    let resolver = RegistryResolver::new(settings().with_credentials(sources(files)));
    for name in ["a/b", "c/d"] {
        bounded(resolver.resolve(&format!("{host}/{name}:1"))).await.expect(name);
    }
}

/// Whether anything of an error shows the canary.
fn is_silent(error: &Error) -> bool {
    !format!("{} {error:?} {error:#?}", error.report()).contains(CANARY)
}
