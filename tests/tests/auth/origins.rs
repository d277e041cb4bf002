//! To whom credentials are shown, and that they are seen nowhere else.

use std::io::Write;

use bytes::Bytes;
use tracing_subscriber::fmt::MakeWriter;
use wharf_content::Descriptor;
use wharf_images::transport::{Place, Shipment};
use wharf_remotes::registry::Login;
use wharf_tests::ScriptedRegistry;

use super::*;

#[tokio::test]
async fn a_redirect_takes_no_password_along() {
    let elsewhere = FakeServer::start(|request| match request.header("authorization") {
        None => manifest(request),
        // Whoever gets in with a password has been shown it.
        Some(_) => Reply::new(500, &[], ""),
    })
    .await;
    let (place, right) = (format!("http://{}/m", elsewhere.address()), basic("user", CANARY));
    let server = FakeServer::start(move |request| match request.header("authorization") {
        Some(value) if value == right => Reply::new(307, &[("Location", &place)], ""),
        _ => challenge("Basic realm=x"),
    })
    .await;
    resolve(&server, knowing(&server, user())).await.expect("resolves");
    assert_eq!(authorizations(&elsewhere), [None]);

    // And if it asks for one of its own, it is not told that of the registry.
    let greedy = FakeServer::start(|_| challenge("Basic realm=x")).await;
    let place = format!("http://{}/m", greedy.address());
    let server = FakeServer::start(move |request| match request.header("authorization") {
        Some(_) => Reply::new(307, &[("Location", &place)], ""),
        None => challenge("Basic realm=x"),
    })
    .await;
    let error = resolve(&server, knowing(&server, user())).await.expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Unauthenticated);
    assert_eq!(authorizations(&greedy), [None]);
}

#[tokio::test]
async fn an_upload_elsewhere_takes_no_password_along() {
    let elsewhere = FakeServer::start(|request| {
        let digest = Digest::sha256(&request.body).to_string();
        Reply::new(201, &[("Docker-Content-Digest", &*digest)], "")
    })
    .await;
    let (place, right) = (format!("http://{}/up", elsewhere.address()), basic("user", CANARY));
    let server = ScriptedRegistry::start(move |request, _| match request.header("authorization") {
        Some(value) if value == right && request.method == "POST" => {
            Some(Reply::new(202, &[("Location", &place)], ""))
        }
        Some(value) if value == right => None,
        _ => Some(challenge("Basic realm=x")),
    })
    .await;
    let given = Given::new(&server.address(), user());
    let resolver = RegistryResolver::new(settings().with_credentials(sources(given)));
    let pusher = resolver.pusher(&server.reference("x:1")).await.expect("a pusher");
    let bytes = Bytes::from_static(b"blob");
    let shipment =
        Shipment::new(Descriptor::of(types::OCI_LAYER, &bytes), Place::Blob, Arc::new(bytes.clone()));
    bounded(pusher.push(&shipment)).await.expect("pushes");
    assert_eq!(authorizations(&elsewhere), [None]);
    assert_eq!(elsewhere.requests()[0].body, bytes);
}

#[tokio::test]
async fn credentials_are_for_the_host_that_is_contacted() {
    let server = FakeServer::start(|request| match request.header("authorization") {
        Some(_) => Reply::new(500, &[], ""),
        None => challenge("Basic realm=x"),
    })
    .await;
    let port = server.address().rsplit_once(':').expect("a port").1.to_owned();
    for other in ["127.0.0.1", &format!("localhost:{port}"), "docker.io", &format!("127.0.0.1:{port}0")] {
        let settings = settings().with_credentials(sources(Given::new(other, user())));
        let error = resolve(&server, settings).await.expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{other}: {}", error.report());
    }
    assert!(authorizations(&server).iter().all(Option::is_none));
}

#[tokio::test]
async fn a_token_server_that_redirects_gets_nothing_sent_on() {
    let elsewhere = FakeServer::start(|_| Reply::new(200, &[], r#"{"token":"good"}"#)).await;
    for status in [301, 302, 307, 308] {
        let place = realm(&elsewhere);
        let tokens = FakeServer::start(move |_| Reply::new(status, &[("Location", &place)], "")).await;
        let server = registry(realm(&tokens)).await;
        let error = resolve(&server, knowing(&server, user())).await.expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{}", error.report());
        assert!(is_silent(&error), "{error:?}");
    }
    assert_eq!(elsewhere.requests().len(), 0);
}

#[tokio::test]
async fn logging_in_tries_the_credentials() {
    let tokens = FakeServer::start(|request| {
        let is_right = form(request).contains("username=user&password=canary-51c2");
        if is_right { Reply::new(200, &[], r#"{"token":"good"}"#) } else { Reply::new(401, &[], "") }
    })
    .await;
    let bearer = registry(realm(&tokens)).await;
    let right = basic("user", CANARY);
    let simple = FakeServer::start(move |request| match request.header("authorization") {
        Some(value) if value == right => Reply::new(200, &[], "{}"),
        _ => challenge("Basic realm=x"),
    })
    .await;
    let open = FakeServer::start(|_| Reply::new(200, &[], "{}")).await;
    for (server, expected) in
        [(&bearer, Login::Accepted), (&simple, Login::Accepted), (&open, Login::Unasked)]
    {
        let resolver = RegistryResolver::new(knowing(server, user()));
        assert_eq!(bounded(resolver.log_in(&server.address())).await.expect("logs in"), expected);
        assert!(server.requests().iter().all(|request| request.path == "/v2/"));
    }
    // A token for everybody says nothing of credentials that nobody was shown.
    let generous = FakeServer::start(|_| Reply::new(200, &[], r#"{"token":"good"}"#)).await;
    let server = registry(realm(&generous)).await;
    let logged_in = bounded(RegistryResolver::new(knowing(&simple, user())).log_in(&server.address())).await;
    assert_eq!(logged_in.expect("there is a token"), Login::Unasked);
    assert_eq!(
        bounded(RegistryResolver::new(settings()).log_in("ghcr")).await.expect_err("no host").kind(),
        ErrorKind::InvalidArgument
    );
    for server in [&bearer, &simple] {
        for settings in [knowing(server, Credential::password("user", "wrong")), settings()] {
            let error = bounded(RegistryResolver::new(settings).log_in(&server.address())).await;
            let error = error.expect_err("refused");
            assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{}", error.report());
            assert!(error.report().starts_with("cannot log in to "), "{}", error.report());
        }
    }
}

/// What is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no panic").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn no_secret_is_logged_or_told() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(log.clone())
        .with_ansi(false)
        .finish();
    // One thread runs this test and everything that it starts.
    let _guard = tracing::subscriber::set_default(subscriber);
    let credentials = [
        user(),
        Credential::password(CANARY, CANARY),
        Credential::identity_token(CANARY),
        Credential::registry_token(CANARY),
        Credential::registry_token(format!("{CANARY}\n")),
    ];
    let answers = [
        (200, format!(r#"{{"token":"good-{CANARY}","refresh_token":"{CANARY}"}}"#)),
        (200, format!(r#"{{"token":"{CANARY}"}}"#)),
        (200, format!(r#"{{"refresh_token":"{CANARY}"}}"#)),
        (200, format!(r#"{{"token":"{CANARY}\n"}}"#)),
        (200, format!("{CANARY} is no JSON")),
        (401, format!(r#"{{"token":"{CANARY}"}}"#)),
        (503, format!("{CANARY} in a page")),
    ];
    for credential in credentials {
        for (status, body) in answers.clone() {
            let tokens = FakeServer::start(move |_| Reply::new(status, &[], &body)).await;
            let server = registry(format!("{}?key={CANARY}", realm(&tokens))).await;
            let settings = knowing(&server, credential.clone());
            let resolver = RegistryResolver::new(settings.clone());
            let name = format!("{}/a/b:1", server.address());
            for _ in 0..2 {
                if let Err(error) = bounded(resolver.resolve(&name)).await {
                    assert!(is_silent(&error), "{error:?}");
                }
            }
            let shown = format!("{resolver:?} {settings:#?} {credential:?}");
            assert!(!shown.contains(&format!("password: \"{CANARY}")), "{shown}");
            let user = credential.user().unwrap_or_default();
            assert!(user == CANARY || !shown.contains(CANARY), "{shown}");
        }
    }
    let log = String::from_utf8_lossy(&log.0.lock().expect("no panic")).into_owned();
    assert!(
        log.contains("/a/b/manifests/1") && log.contains("credentials were found"),
        "something is logged"
    );
    let encoded = [STANDARD.encode(format!("user:{CANARY}")), STANDARD.encode(format!(":{CANARY}"))];
    for secret in encoded.iter().map(String::as_str).chain([CANARY]) {
        let line = log.lines().find(|line| line.contains(secret));
        assert_eq!(line, None);
    }
}
