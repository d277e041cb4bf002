//! What a user sees of what goes over the wire: progress, traces, warnings, and how long is waited.

mod support;

use serde_json::Value;
use wharf_content::{Descriptor, Digest};
use wharf_images::media_types as types;
use wharf_tests::{FakeServer, Reply, Request, ScriptedRegistry, TestRegistry, scripted::first};

use support::{Wharf, three_platforms};

fn events(json_lines: &str) -> Vec<Value> {
    json_lines.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

fn of<'a>(events: &'a [Value], what: &str) -> Vec<&'a Value> {
    events.iter().filter(|event| event["event"] == what).collect()
}

static LAYER: [u8; 30_000] = [5; 30_000];
static CONFIG: &[u8] = br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"]}}"#;

/// A registry with an image of one layer, whose first answer to a request for that is `spoil`.
async fn spoiled(spoil: fn() -> Reply) -> (FakeServer, Descriptor) {
    let described = Descriptor::of(types::OCI_LAYER, &LAYER);
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": types::OCI_MANIFEST,
        "config": Descriptor::of(types::OCI_CONFIG, CONFIG), "layers": [described],
    });
    let manifest = manifest.to_string().into_bytes();
    let digest = Digest::sha256(&manifest).to_string();
    let first = first(1, "GET", described.digest.as_str().to_owned().leak(), spoil);
    let server = FakeServer::start(move |request| {
        first(request).unwrap_or_else(|| match request.header("range") {
            Some("bytes=10000-") => {
                Reply::new(206, &[("Content-Range", "bytes 10000-29999/30000")], &LAYER[10_000..])
            }
            _ if request.path.contains("/manifests/") => manifest_reply(request, &digest, &manifest),
            _ if request.path.ends_with(Digest::sha256(CONFIG).as_str()) => Reply::new(200, &[], CONFIG),
            _ => Reply::new(200, &[], LAYER),
        })
    });
    (server.await, described)
}

fn manifest_reply(request: &Request, digest: &str, manifest: &[u8]) -> Reply {
    let len = manifest.len().to_string();
    let headers = [
        ("Content-Type", types::OCI_MANIFEST),
        ("Docker-Content-Digest", digest),
        ("Content-Length", &len),
        ("Warning", "299 - \"this registry moves \u{202e}\""),
    ];
    Reply::new(200, &headers, if request.method == "HEAD" { &[] } else { manifest })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_that_is_taken_up_again_is_shown_and_summed_up() {
    let broken = || Reply::new(200, &[("Content-Length", "30000")], &LAYER[..10_000]);
    let (server, layer) = spoiled(broken).await;
    let name = format!("{}/a:1", server.address());
    let done = Wharf::new().run(&["pull", "--all-platforms", "--progress", "json", &name]).await;
    let told = events(&done.err());
    let retried = of(&told, "retried");
    assert!(retried.len() == 1 && retried[0]["digest"] == layer.digest.as_str(), "{told:?}");
    let finished = told.last().expect("the last");
    let sum: u64 = of(&told, "bytes").iter().map(|event| event["count"].as_u64().expect("a number")).sum();
    assert_eq!((&finished["event"], &finished["success"]), (&"finished".into(), &true.into()));
    assert!(finished["bytes"] == sum && sum > 30_000 && finished["bytesPerSecond"].is_u64(), "{told:?}");
    let warnings = of(&told, "warning");
    assert!(
        warnings.len() == 1 && warnings[0]["text"].as_str().expect("text").contains("this registry moves")
    );
    done.succeeded();

    let (server, _) = spoiled(broken).await;
    let name = format!("{}/a:1", server.address());
    let done = Wharf::new().run(&["pull", "--all-platforms", "--progress", "plain", &name]).await;
    for expected in ["retrying", "received", "warning: the registry", "this registry moves \\u{202e}"] {
        assert!(done.err().contains(expected), "{expected}: {}", done.err());
    }
    // Nobody asked for progress, and a warning is none.
    let silent = Wharf::new().run(&["digest", &name]).await;
    assert_eq!(silent.err().lines().count(), 1, "{}", silent.err());
    silent.succeeded();
    let quiet = Wharf::new().run(&["digest", "-q", &name]).await;
    assert_eq!(quiet.err(), "");
    quiet.succeeded();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_asks_to_wait_is_named() {
    let (server, _) = spoiled(|| Reply::new(429, &[("Retry-After", "1")], "")).await;
    let name = format!("{}/a:1", server.address());
    let done = Wharf::new().run(&["pull", "--all-platforms", "--progress", "plain", &name]).await;
    let expected = format!("waiting   {} asks to be left alone for 1.0 s", server.address());
    assert!(done.err().contains(&expected), "{}", done.err());
    done.succeeded();

    let limited = FakeServer::start(|_| Reply::new(429, &[], "")).await;
    let name = format!("{}/a:1", limited.address());
    let arguments = ["pull", "--progress", "json", "--retry-times", "2", "--retry-delay", "0.05", &name];
    let error = Wharf::new().run(&arguments).await.failed(6);
    assert!(error.contains("429") && error.contains("after 3 tries and 0."), "{error}");
    assert!(
        error.contains("\"success\":false") && error.contains("hint: the registry limits requests"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_out_is_said() {
    let registry = TestRegistry::start().await;
    let name = registry.put("a/b:1", &three_platforms()).await.expect("puts");
    let wharf = Wharf::new();
    let one = ["pull", "--progress", "json", "--platform", "linux/amd64", &name];
    let done = wharf.run(&one).await;
    let told = events(&done.err());
    let skipped = of(&told, "skipped");
    assert!(skipped.len() == 2 && skipped.iter().all(|event| event["why"] == "other-platform"), "{told:?}");
    done.succeeded();
    let plain = wharf.run(&["pull", "--progress", "plain", "--platform", "linux/amd64", &name]).await;
    assert!(plain.err().contains("skipped") && plain.err().contains("(other-platform)"), "{}", plain.err());
    let all = wharf.run(&["pull", "--progress", "json", "--all-platforms", &name]).await;
    assert!(of(&events(&all.err()), "skipped").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn traces_show_heads_and_no_secrets() {
    let token = |request: &Request| request.path.starts_with("/token");
    let server = FakeServer::start(move |request| {
        let host = request.header("host").expect("a host");
        if token(request) {
            return Reply::new(200, &[("Set-Cookie", "canary-cookie")], r#"{"token":"canary-token"}"#);
        }
        if request.header("authorization") != Some("Bearer canary-token") {
            let challenge = format!("Bearer realm=\"http://{host}/token?x=canary-realm\"");
            return Reply::new(401, &[("WWW-Authenticate", &challenge)], "");
        }
        if request.path.starts_with("/v2/") {
            return Reply::new(307, &[("Location", "/cdn?signature=canary-signature")], "");
        }
        Reply::new(403, &[], r#"{"errors":[{"code":"canary-token","message":"canary-signature"}]}"#)
    })
    .await;
    let name = format!("{}/a:1", server.address());
    let wharf = Wharf::new();
    let mut command = wharf.command(&["-vv", "pull", "--http-trace", &name]);
    command.env("WHARF_LOG", "trace");
    let output =
        tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").expect("runs");
    let error = String::from_utf8(output.stderr).expect("text");
    assert_eq!((output.status.code(), output.stdout.len()), (Some(4), 0), "{error}");
    assert!(!error.contains("canary"), "{error}");
    for expected in [
        "> #1 HEAD http://",
        "401 Unauthorized after",
        "authorization: REDACTED",
        "signature=REDACTED",
        "REDACTED (REDACTED)",
    ] {
        assert!(error.contains(expected), "{expected}: {error}");
    }
    let quiet = wharf.run(&["pull", &name]).await.failed(4);
    assert!(!quiet.contains("HEAD http://") || !quiet.contains("> #"), "{quiet}");
    let json =
        wharf.run(&["tags", "--progress", "json", "--http-trace", &format!("{}/a", server.address())]).await;
    let objects = json.err();
    let told =
        events(objects.lines().filter(|line| line.starts_with('{')).collect::<Vec<_>>().join("\n").as_str());
    let texts: Vec<&str> =
        of(&told, "http").iter().map(|event| event["text"].as_str().expect("text")).collect();
    assert!(
        texts.iter().any(|text| text.starts_with("> #1 GET") && text.contains("/tags/list?n=1")),
        "{texts:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limits_of_the_flags_are_kept() {
    let registry = ScriptedRegistry::start(|request, _| {
        request.path.contains("/tags/list").then(|| Reply::new(200, &[], r#"{"tags":["x"]}"#))
    })
    .await;
    let name = registry.reference("a");
    let wharf = Wharf::new();
    for good in [
        &["--request-rate", "0.5"][..],
        &["--request-rate", "1000"],
        &["--min-throughput", "0"],
        &["--min-throughput", "10KiB"],
    ] {
        assert_eq!(wharf.run(&[&["tags", &name], good].concat()).await.succeeded(), "x\n");
    }
    for bad in ["0", "-1", "NaN", "inf", "x", "1e9"] {
        let rate = format!("--request-rate={bad}");
        assert!(wharf.run(&["tags", &rate, &name]).await.failed(3).contains("requests per second"), "{bad}");
    }
    assert!(wharf.run(&["tags", "--min-throughput", "x", &name]).await.failed(3).contains("min-throughput"));
}
