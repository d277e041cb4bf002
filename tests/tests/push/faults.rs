//! Registries with quirks and faults: what can be served is, the rest is refused with a clear error.

use std::{
    num::NonZeroU64,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use serde_json::Value;
use wharf_content::{Digest, ErrorKind, Labels, Manager, labels::DISTRIBUTION_SOURCE, read_blob};
use wharf_remotes::{PushOptions, RemoteError, registry::RegistrySettings};
use wharf_tests::{
    FakeServer, Reply, Request, ScriptedRegistry,
    scripted::{Contents, first, location},
};

use super::{Origin, one_layer, settings};

/// Every blob that is there has its digest.
#[track_caller]
pub(super) fn has_whole_blobs(registry: &ScriptedRegistry, count: usize) {
    let blobs = registry.contents.blobs();
    assert_eq!(blobs.len(), count);
    for (digest, bytes) in blobs.iter() {
        assert_eq!(*digest, Digest::sha256(bytes).to_string());
    }
}

fn chunked(bytes: u64) -> RegistrySettings {
    settings().with_upload_chunk(NonZeroU64::new(bytes).expect("not zero"))
}

#[tokio::test]
async fn the_honest_twin_takes_two_requests_for_a_blob() {
    let quirky = ScriptedRegistry::start(|_, _| None).await;
    let origin = Origin::new(&one_layer(50_000)).await;
    let pushed = origin.push(&quirky.reference("x:1")).await.expect("pushes");
    assert_eq!(pushed.sent, 3);
    has_whole_blobs(&quirky, 2);
    assert_eq!(
        (quirky.contents.count("HEAD"), quirky.contents.count("POST"), quirky.contents.count("PUT")),
        (3, 2, 3)
    );
    assert_eq!((quirky.contents.count("PATCH"), quirky.contents.count("GET")), (0, 0));
    let requests = quirky.contents.requests();
    assert!(
        requests.iter().all(|request| request.header("transfer-encoding").is_none()),
        "lengths are announced"
    );
}

#[tokio::test]
async fn chunks_are_sent_where_they_are_asked_for() {
    let origin = Origin::new(&one_layer(50_000)).await;
    let size = origin_layer_len(&origin).await;
    // By the user, by the registry, and by both, the larger one.
    for (settings, least, chunk) in [
        (chunked(20_000), None, 20_000),
        (settings(), Some("9000000"), size),
        (chunked(10_000), Some("16384"), 16_384),
    ] {
        let quirky = ScriptedRegistry::start(move |request, registry| {
            let least = least.filter(|_| request.method == "POST")?;
            let location = location(registry.begin(), 0);
            Some(Reply::new(202, &[("Location", &location), ("OCI-Chunk-Min-Length", least)], ""))
        })
        .await;
        origin.push_with(settings, &quirky.reference("x:1"), PushOptions::new()).await.expect("pushes");
        has_whole_blobs(&quirky, 2);
        let chunks = if chunk == size { 0 } else { size.div_ceil(chunk) };
        assert_eq!(quirky.contents.count("PATCH"), chunks);
        let requests = quirky.contents.requests();
        let patches = requests.iter().filter(|request| request.method == "PATCH");
        for (at, patch) in patches.enumerate() {
            let first = at * chunk;
            let last = (first + chunk).min(size) - 1;
            assert_eq!(patch.header("content-range"), Some(&*format!("{first}-{last}")));
        }
    }
}

async fn origin_layer_len(origin: &Origin) -> usize {
    let manifest = read_blob(origin.store.as_ref(), &origin.image.target, 1 << 20).await.expect("reads");
    let manifest: Value = serde_json::from_slice(&manifest).expect("JSON");
    usize::try_from(manifest["layers"][0]["size"].as_u64().expect("a size")).expect("small")
}

#[tokio::test]
async fn quirks_of_chunks() {
    type Bend = fn(&Request, &Contents) -> Option<Reply>;
    let bends: [(&str, Bend); 4] = [
        ("201 to PATCH, and no Location", |request, registry| {
            (request.method == "PATCH").then(|| {
                let (_, len) = registry.append(request, usize::MAX);
                Reply::new(201, &[("Range", &format!("bytes=0-{}", len - 1))], "")
            })
        }),
        ("no Range", |request, registry| {
            (request.method == "PATCH").then(|| {
                registry.append(request, usize::MAX);
                Reply::new(202, &[], "")
            })
        }),
        ("an absolute Location", |request, registry| {
            (request.method == "PATCH").then(|| {
                let (id, len) = registry.append(request, usize::MAX);
                let host = request.header("host").expect("a host");
                let location = format!("http://{host}{}", location(id, len));
                Reply::new(202, &[("Range", &format!("0-{}", len - 1)), ("Location", &location)], "")
            })
        }),
        ("no more than 7000 bytes of a chunk are taken", |request, registry| {
            (request.method == "PATCH").then(|| {
                let (_, len) = registry.append(request, 7000);
                Reply::new(202, &[("Range", &format!("0-{}", len - 1))], "")
            })
        }),
    ];
    for (what, bend) in bends {
        let quirky = ScriptedRegistry::start(bend).await;
        let origin = Origin::new(&one_layer(50_000)).await;
        let pushed = origin.push_with(chunked(20_000), &quirky.reference("x:1"), PushOptions::new()).await;
        pushed.unwrap_or_else(|error| panic!("{what}: {}", error.report()));
        has_whole_blobs(&quirky, 2);
    }
}

#[tokio::test]
async fn an_upload_that_breaks_goes_on_where_it_was() {
    for (settings, cut_at) in [(settings(), "PUT"), (chunked(400_000), "PATCH")] {
        let cut = AtomicUsize::new(0);
        let quirky = ScriptedRegistry::reading(
            move |request| {
                let large = request.content_length().is_some_and(|len| len > 300_000);
                if large && request.method == cut_at && cut.fetch_add(1, Ordering::SeqCst) == 0 {
                    return 250_000;
                }
                usize::MAX
            },
            |_, _| None,
        )
        .await;
        let origin = Origin::new(&one_layer(1_000_000)).await;
        origin.push_with(settings, &quirky.reference("x:1"), PushOptions::new()).await.expect("pushes");
        has_whole_blobs(&quirky, 2);
        let size = origin_layer_len(&origin).await;
        let requests = quirky.contents.requests();
        let moved: usize = requests.iter().map(|request| request.body.len()).sum();
        assert!((size..size + 2_000).contains(&moved), "nothing is sent twice: {moved} for {size}");
        assert!(
            requests
                .iter()
                .any(|request| request.header("content-range").is_some_and(|r| r.starts_with("250000-")))
        );
    }
}

#[tokio::test]
async fn a_registry_that_makes_a_mess_of_resuming_gets_it_whole() {
    let cut = AtomicUsize::new(0);
    let quirky = ScriptedRegistry::reading(
        move |request| {
            let large = request.content_length().is_some_and(|len| len > 300_000);
            if large && cut.fetch_add(1, Ordering::SeqCst) == 0 { 250_000 } else { usize::MAX }
        },
        // It loses a byte of what it took before the break.
        |request, registry| {
            if request.method == "PATCH" {
                let mut uploads = registry.uploads();
                uploads.values_mut().filter(|upload| !upload.is_empty()).for_each(|upload| upload[0] ^= 1);
            }
            None
        },
    )
    .await;
    let origin = Origin::new(&one_layer(1_000_000)).await;
    origin.push(&quirky.reference("x:1")).await.expect("pushes");
    has_whole_blobs(&quirky, 2);
}

#[tokio::test]
async fn failures_that_pass() {
    let unavailable = || Reply::new(503, &[("Retry-After", "0")], "");
    for (what, part, reply) in [
        ("POST", "/uploads/", unavailable as fn() -> Reply),
        ("PUT", "/uploads/", unavailable),
        ("PUT", "/manifests/", unavailable),
        ("HEAD", "/blobs/", unavailable),
        ("PUT", "/uploads/", || Reply::raw("")),
        ("PUT", "/manifests/", || Reply::raw("")),
        ("PUT", "/uploads/", || Reply::new(404, &[], r#"{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN"}]}"#)),
        ("PUT", "/uploads/", || Reply::new(416, &[], "")),
    ] {
        let fails = first(2, what, part, reply);
        let quirky = ScriptedRegistry::start(move |request, _| fails(request)).await;
        let origin = Origin::new(&one_layer(50_000)).await;
        let pushed = origin.push(&quirky.reference("x:1")).await;
        pushed.unwrap_or_else(|error| panic!("{what} {part}: {}", error.report()));
        has_whole_blobs(&quirky, 2);
    }
}

#[tokio::test]
async fn an_answer_that_was_lost_is_not_paid_for_again() {
    let fails = first(1, "PUT", "/uploads/", || Reply::raw(""));
    let quirky = ScriptedRegistry::start(move |request, registry| {
        let lost = fails(request)?;
        // It was done, and nobody heard of it.
        drop(registry.answer(request));
        Some(lost)
    })
    .await;
    let origin = Origin::new(&one_layer(50_000)).await;
    origin.push(&quirky.reference("x:1")).await.expect("pushes");
    has_whole_blobs(&quirky, 2);
    assert_eq!(quirky.contents.count("POST"), 2, "each blob was begun once");
}

#[tokio::test]
async fn too_much_at_once_is_sent_in_chunks() {
    let quirky = ScriptedRegistry::start(|request, _| {
        (request.body.len() > 8 << 20).then(|| Reply::new(413, &[], "too large"))
    })
    .await;
    let origin = Origin::new(&one_layer(9 << 20)).await;
    origin.push(&quirky.reference("x:1")).await.expect("pushes");
    has_whole_blobs(&quirky, 2);
    assert_eq!(quirky.contents.count("PATCH"), 2);
    // One that demands larger chunks than it takes cannot be served, and is not tried for ever.
    let quirky = ScriptedRegistry::start(|request, registry| match request.method.as_str() {
        "POST" => {
            let location = location(registry.begin(), 0);
            Some(Reply::new(202, &[("Location", &location), ("OCI-Chunk-Min-Length", "99999999")], ""))
        }
        _ => (request.body.len() > 8 << 20).then(|| Reply::new(413, &[], "too large")),
    })
    .await;
    let error = origin.push(&quirky.reference("x:1")).await.expect_err("impossible");
    assert!(error.report().contains("too many for the registry"), "{}", error.report());
}

#[tokio::test]
async fn a_token_that_was_asked_for_a_mount_is_not_needed_later() {
    // The registry wants more for a mount than the token server gives to anybody.
    let issuer = FakeServer::start(|request| {
        if request.path.contains("extra") {
            return Reply::new(403, &[], "");
        }
        Reply::new(200, &[], r#"{"token":"canary-token"}"#)
    })
    .await;
    let address = issuer.address();
    let quirky = ScriptedRegistry::start(move |request, _| {
        if request.header("authorization") == Some("Bearer canary-token") && !request.path.contains("from=") {
            return None;
        }
        let more = if request.path.contains("from=") { " repository:team/base:pull,extra" } else { "" };
        let realm = format!(
            r#"Bearer realm="http://{address}/token",service="s",scope="repository:team/app:pull,push{more}""#
        );
        Some(Reply::new(401, &[("WWW-Authenticate", &realm)], ""))
    })
    .await;
    let origin = Origin::new(&one_layer(5_000)).await;
    let host = quirky.address().split(':').next().expect("a host").to_owned();
    let manifest = read_blob(origin.store.as_ref(), &origin.image.target, 1 << 20).await.expect("reads");
    let manifest: Value = serde_json::from_slice(&manifest).expect("JSON");
    let key = format!("{DISTRIBUTION_SOURCE}{host}");
    let labels = Labels::from([(key.clone(), "team/base".to_owned())]);
    for part in [&manifest["config"], &manifest["layers"][0]] {
        let digest = part["digest"].as_str().and_then(|digest| digest.parse().ok()).expect("a digest");
        origin.store.update(&digest, &labels, &[&format!("labels.{key}")]).await.expect("labels");
    }
    let pushed = origin.push(&quirky.reference("team/app:1")).await.expect("pushes");
    assert_eq!((pushed.sent, pushed.mounted), (3, 0));
}

#[tokio::test]
async fn refusals_are_told_with_what_the_registry_says() {
    let body = r#"{"errors":[{"code":"SOMETHING_NEW","message":"in words"}]}"#;
    for (status, kind, requests, said) in [
        (401, ErrorKind::Unauthenticated, 1, "SOMETHING_NEW (in words)"),
        (403, ErrorKind::PermissionDenied, 1, "SOMETHING_NEW (in words)"),
        (404, ErrorKind::NotFound, 1, "SOMETHING_NEW (in words)"),
        (405, ErrorKind::PermissionDenied, 1, "is read-only"),
        (413, ErrorKind::FailedPrecondition, 1, "too many for the registry"),
        (429, ErrorKind::ResourceExhausted, 3, "SOMETHING_NEW (in words)"),
        (500, ErrorKind::Unavailable, 3, "SOMETHING_NEW (in words)"),
    ] {
        let quirky = ScriptedRegistry::start(move |request, _| {
            if request.method == "HEAD" { Some(Reply::new(status.min(404), &[], "")) } else { None }
                .filter(|_| status != 404)
                .or_else(|| (request.method == "POST").then(|| Reply::new(status, &[], body)))
        })
        .await;
        let options = PushOptions::new().with_concurrency(std::num::NonZeroUsize::MIN);
        let origin = Origin::new(&one_layer(100)).await;
        let error =
            origin.push_with(settings(), &quirky.reference("x:1"), options).await.expect_err("refused");
        let report = error.report();
        assert_eq!(error.kind(), kind, "{report}");
        assert!(report.contains(said) && report.contains("POST") && report.contains("127.0.0.1"), "{report}");
        let remote = RemoteError::of(&error).expect("a registry's error");
        assert_eq!(remote.status, Some(status), "{report}");
        assert_eq!(quirky.contents.count("POST"), requests, "{status}");
    }
}

#[tokio::test]
async fn another_digest_in_the_answer_is_refused() {
    let other = Digest::sha256(b"other").to_string();
    for (method, part, digest) in [
        ("PUT", "/uploads/", other.clone()),
        ("PUT", "/manifests/", other),
        ("PUT", "/manifests/", "nonsense".to_owned()),
    ] {
        let quirky = ScriptedRegistry::start(move |request, _| {
            let fits = request.method == method && request.path.contains(part);
            fits.then(|| Reply::new(201, &[("Docker-Content-Digest", &digest)], ""))
        })
        .await;
        let origin = Origin::new(&one_layer(100)).await;
        let error = origin.push(&quirky.reference("x:1")).await.expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{}", error.report());
        assert!(error.report().contains("igest"), "{}", error.report());
    }
}

#[tokio::test]
async fn a_redirected_upload_is_opened_again() {
    let target = ScriptedRegistry::start(|_, _| None).await;
    let address = target.address();
    let quirky = ScriptedRegistry::start(move |request, _| {
        let location = format!("http://{address}{}", request.path);
        (request.method == "PUT").then(|| Reply::new(307, &[("Location", &location)], ""))
    })
    .await;
    for id in 0..2 {
        target.contents.uploads().insert(id, Vec::new());
    }
    let origin = Origin::new(&one_layer(50_000)).await;
    origin.push(&quirky.reference("x:1")).await.expect("pushes");
    has_whole_blobs(&target, 2);
    assert_eq!(target.contents.manifests().len(), 2, "by tag and digest");
}

#[tokio::test]
async fn silence_in_the_middle_of_an_upload_ends() {
    let server = FakeServer::start_reading(
        |request| if request.method == "PUT" { 10_000 } else { usize::MAX },
        |request| match request.method.as_str() {
            "HEAD" => Reply::new(404, &[], ""),
            "POST" => Reply::new(202, &[("Location", "/v2/x/blobs/uploads/1")], ""),
            _ => Reply::raw("").stalling(),
        },
    )
    .await;
    let origin = Origin::new(&one_layer(20 << 20)).await;
    let mut settings = settings().with_retries(0, Duration::from_millis(1));
    settings.idle_timeout = Duration::from_millis(50);
    let name = format!("{}/x:1", server.address());
    let error = origin.push_with(settings, &name, PushOptions::new()).await.expect_err("nobody takes it");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.report());
    assert!(error.report().contains("stopped taking"), "{}", error.report());
}
