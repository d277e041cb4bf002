//! What is told of it all: warnings once each, and nothing secret to anybody.

use super::*;

#[tokio::test]
async fn warnings_are_told_once_each() {
    let server = FakeServer::start(|request| {
        let mut headers = vec![
            ("Warning", "299 - \"The énd is near\""),
            ("Warning", "110 cache \"stale\""),
            (
                "Docker-Content-Digest",
                "sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881",
            ),
            ("Content-Type", types::OCI_MANIFEST),
        ];
        if request.path.contains("second") {
            headers.push(("Warning", "299 - \"Another one\""));
        }
        Reply::new(200, &headers, "x")
    })
    .await;
    let (settings, told) = settings();
    let resolver = RegistryResolver::new(settings);
    for repository in ["first", "second", "second"] {
        bounded(resolver.resolve(&format!("{}/{repository}:1", server.address()))).await.expect("resolves");
    }
    let says = |text: &str| format!("warning the registry {} says: {text}", server.address());
    assert_eq!(told.all(), [says("The énd is near"), says("Another one")]);
}

/// Where the log of this process goes.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no panic").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn nothing_secret_is_told_to_anybody() {
    let log = Log::default();
    let writer = log.clone();
    let _logging = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::TRACE)
        .with_writer(move || writer.clone())
        .set_default();
    let server = FakeServer::start(|request| {
        let (path, host) = (request.path.as_str(), request.header("host").expect("a host"));
        let cookie = ("Set-Cookie", "session=canary-cookie; Path=/");
        let warning = ("Warning", "299 - \"canary-token expires\"");
        if path.starts_with("/token") {
            assert!(path.starts_with("/token?key=canary-realm"), "{path}");
            return Reply::new(200, &[cookie], TOKEN);
        }
        if request.header("authorization") != Some("Bearer canary-token") {
            let challenge = format!("Bearer realm=\"http://{host}/token?key=canary-realm\"");
            return Reply::new(401, &[("WWW-Authenticate", &challenge), cookie], "");
        }
        match path {
            "/v2/a/tags/list?n=1000" => {
                let link = ("Link", "</v2/a/tags/list?page=canary-link>; rel=\"next\"");
                Reply::new(200, &[link, cookie, warning, ("X-Secret", "canary-header")], "{}")
            }
            "/v2/a/tags/list?page=canary-link" => Reply::new(200, &[], r#"{"tags":["x"]}"#),
            _ if path.starts_with("/v2/") => {
                Reply::new(307, &[("Location", "/cdn/x?X-Amz-Signature=canary%2Dsignature#canary")], "")
            }
            _ => {
                let body = r#"{"errors":[{"code":"canary-token","message":"canary-signature of canary%2Dsignature with Bearer canary-token"}]}"#;
                Reply::new(403, &[], body)
            }
        }
    })
    .await;
    let (settings, told) = settings();
    let settings = settings.with_trace(told.clone());
    let resolver = RegistryResolver::new(settings.clone());
    assert_eq!(bounded(resolver.tags(&format!("{}/a", server.address()))).await.expect("lists"), ["x"]);
    let error: Error = fetch(settings, &server.address(), &blob(b"x")).await.expect_err("denied");
    let log = String::from_utf8(log.0.lock().expect("no panic").clone()).expect("text");
    let report = error.report();
    for text in [&log, &report, &format!("{error:?}"), &told.all().join("\n")] {
        assert!(!text.contains("canary"), "{text}");
    }
    // What is not secret is there.
    assert!(report.contains("REDACTED of REDACTED"), "{report}");
    let trace = told.all().join("\n");
    for expected in [
        "GET http://",
        "authorization: REDACTED",
        "set-cookie: REDACTED",
        "location: http://",
        "x-secret: REDACTED",
        "?X-Amz-Signature=REDACTED",
        "link: </v2/a/tags/list?REDACTED>; rel=\"next\"",
        "200 OK after",
        "14 bytes of body after",
        "403 Forbidden",
        "says: REDACTED expires",
        "/token?REDACTED",
    ] {
        assert!(trace.contains(expected), "{expected}: {trace}");
    }
    assert!(log.contains("wharf_remotes::http") && log.contains("set-cookie: REDACTED"), "{log}");
}
