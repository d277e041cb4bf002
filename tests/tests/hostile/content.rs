//! Content that is not what its descriptor, its headers or its type say.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use wharf_content::{Algorithm, Digest, ErrorKind, MemoryStore};
use wharf_images::media_types as types;
use wharf_tests::{FakeServer, Reply};

use super::{Honest, pull_from, pull_named, pulled};

#[tokio::test]
async fn the_honest_twin_works() {
    let honest = Honest::new();
    let (pulled, server) = pulled(move |request| honest.answer(request)).await;
    pulled.result.expect("pulls");
    assert_eq!((pulled.blobs, pulled.ingests), (3, 0));
    let asked: Vec<String> = server.requests().iter().map(|request| request.method.clone()).collect();
    assert_eq!(asked, ["HEAD", "GET", "GET", "GET"]);
    assert!(server.requests().iter().all(|request| request.header("range").is_none()));
}

#[tokio::test]
async fn content_that_is_not_what_was_promised_is_refused_and_leaves_nothing() {
    type Tamper = fn(&Honest, &[u8]) -> Reply;
    let cases: [(&str, ErrorKind, Tamper); 6] = [
        ("one bit differs", ErrorKind::FailedPrecondition, |_, content| {
            let mut content = content.to_vec();
            content[100] ^= 1;
            Reply::new(200, &[], content)
        }),
        ("longer than promised", ErrorKind::FailedPrecondition, |_, content| {
            Reply::new(200, &[], [content, b"!"].concat())
        }),
        ("longer, and no length announced", ErrorKind::FailedPrecondition, |_, content| {
            let head = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n".to_vec();
            Reply::raw([&head, content, b"!"].concat())
        }),
        ("shorter, as announced", ErrorKind::FailedPrecondition, |_, content| {
            Reply::new(200, &[], &content[..content.len() - 1])
        }),
        ("something else altogether", ErrorKind::FailedPrecondition, |_, _| {
            Reply::new(200, &[("Content-Type", "text/html")], "<html>Please log in</html>")
        }),
        ("a part where the whole was asked for", ErrorKind::FailedPrecondition, |_, content| {
            Reply::new(206, &[("Content-Range", "bytes 0-99/200000")], &content[..100])
        }),
    ];
    for (what, kind, tamper) in cases {
        let honest = Honest::new();
        let layer = Digest::sha256(&honest.layer).to_string();
        let twin = honest.clone();
        let (pulled, _server) = pulled(move |request| match honest.content(&request.path) {
            Some(content) if request.path.ends_with(&layer) => tamper(&honest, content),
            _ => honest.answer(request),
        })
        .await;
        assert_eq!(pulled.error().kind(), kind, "{what}: {}", pulled.error().report());
        assert!(pulled.blobs <= 2, "{what}");
        assert_eq!(pulled.ingests, 0, "{what}: nothing wrong is kept");
        let server = FakeServer::start(move |request| twin.answer(request)).await;
        pull_from(&server, pulled.store).await.result.expect("the honest registry mends it");
    }
}

#[tokio::test]
async fn manifests_that_lie() {
    let config =
        format!(r#"{{"mediaType":"{}","digest":"{}","size":2}}"#, types::OCI_CONFIG, Digest::sha256(b"{}"));
    for (what, manifest, kind) in [
        (
            "manifest and index",
            format!(r#"{{"config":{config},"manifests":[]}}"#),
            ErrorKind::InvalidArgument,
        ),
        (
            "calls itself an index",
            format!(r#"{{"mediaType":"{}","config":{config}}}"#, types::OCI_INDEX),
            ErrorKind::InvalidArgument,
        ),
        (
            "layers twice",
            format!(r#"{{"config":{config},"layers":[],"layers":[]}}"#),
            ErrorKind::InvalidArgument,
        ),
        (
            "layers in another case",
            format!(r#"{{"config":{config},"Layers":[]}}"#),
            ErrorKind::InvalidArgument,
        ),
        (
            "a digest that is a path",
            r#"{"config":{"mediaType":"x","digest":"sha256:../../etc/passwd","size":2}}"#.into(),
            ErrorKind::InvalidArgument,
        ),
        ("no JSON", "<html>".into(), ErrorKind::InvalidArgument),
        ("schema 1", r#"{"schemaVersion":1,"fsLayers":[]}"#.into(), ErrorKind::InvalidArgument),
    ] {
        let honest = Honest::with_manifest(&manifest);
        let (pulled, _server) = pulled(move |request| honest.answer(request)).await;
        assert_eq!(pulled.error().kind(), kind, "{what}: {}", pulled.error().report());
    }
}

#[tokio::test]
async fn a_malformed_schema_1_says_so_under_every_content_type() {
    for content_type in [
        types::DOCKER_SCHEMA1,
        types::DOCKER_SCHEMA1_UNSIGNED,
        "application/json",
        "text/plain; charset=utf-8",
    ] {
        let (pulled, _server) = pulled(move |request| {
            let body = r#"{"schemaVersion":1,"fsLayers":[]}"#;
            let headers = [("Content-Type", content_type)];
            if request.method == "HEAD" {
                Reply::new(200, &headers, "")
            } else {
                Reply::new(200, &headers, body)
            }
        })
        .await;
        let error = pulled.error();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{content_type}: {}", error.report());
        assert!(error.report().contains("schema 1"), "{}", error.report());
    }
}

#[tokio::test]
async fn headers_that_lie() {
    let wrong = Digest::sha256(b"other").to_string();
    for (what, digest, kind) in [
        ("the digest of something else", wrong.as_str(), ErrorKind::FailedPrecondition),
        ("no digest", "sha256:../../x", ErrorKind::InvalidArgument),
    ] {
        let (honest, digest) = (Honest::new(), digest.to_owned());
        let (pulled, _server) = pulled(move |request| {
            if !request.path.contains("/manifests/") {
                return honest.answer(request);
            }
            let len = honest.manifest.len().to_string();
            let headers = [
                ("Content-Type", types::OCI_MANIFEST),
                ("Docker-Content-Digest", digest.as_str()),
                ("Content-Length", len.as_str()),
            ];
            let body = if request.method == "HEAD" { &[][..] } else { &honest.manifest };
            Reply::new(200, &headers, body)
        })
        .await;
        assert_eq!(pulled.error().kind(), kind, "{what}: {}", pulled.error().report());
    }
}

#[tokio::test]
async fn a_registry_without_head_or_digests_is_read_by_get() {
    for head in [405, 200] {
        let honest = Honest::new();
        let (pulled, _server) = pulled(move |request| match request.method.as_str() {
            "HEAD" => Reply::new(head, &[("Content-Length", "0")], ""),
            _ if request.path.contains("/manifests/") => {
                Reply::new(200, &[("Content-Type", types::OCI_MANIFEST)], &honest.manifest)
            }
            _ => honest.answer(request),
        })
        .await;
        pulled.result.expect("pulls");
    }
}

#[tokio::test]
async fn nothing_is_fetched_from_urls_in_a_manifest() {
    let elsewhere = FakeServer::start(|_| Reply::new(200, &[], "x")).await;
    let url = format!("http://{}/layer", elsewhere.address());
    let honest = Honest::new();
    let manifest = serde_json::json!({
        "config": { "mediaType": types::OCI_CONFIG, "digest": Digest::sha256(&honest.config), "size": honest.config.len() },
        "layers": [{
            "mediaType": types::OCI_LAYER, "digest": Digest::sha256(b"x"), "size": 1, "urls": [url, "file:///etc/passwd"],
        }],
    });
    let honest = Honest::with_manifest(&manifest.to_string());
    let (pulled, _server) = pulled(move |request| honest.answer(request)).await;
    assert_eq!(pulled.error().kind(), ErrorKind::NotFound);
    assert!(elsewhere.requests().is_empty());
}

#[tokio::test]
async fn a_pinned_digest_wins_over_every_header() {
    let honest = Honest::new();
    let (pinned, other) =
        (Digest::sha256(&honest.manifest).to_string(), Honest::with_manifest("{}").manifest);
    let other_digest = Digest::sha256(&other).to_string();
    for claimed in [Some(pinned.as_str()), Some(other_digest.as_str()), Some(""), None] {
        for is_honest in [true, false] {
            let claimed = claimed.map(str::to_owned);
            let (honest, other) = (honest.clone(), other.clone());
            let is_wrong_claim = claimed.as_deref() == Some(other_digest.as_str());
            let server = FakeServer::start(move |request| {
                if !request.path.contains("/manifests/") {
                    return honest.answer(request);
                }
                let body = if is_honest { &honest.manifest } else { &other };
                let len = body.len().to_string();
                let mut headers =
                    vec![("Content-Type", types::OCI_MANIFEST), ("Content-Length", len.as_str())];
                headers.extend(claimed.as_deref().map(|claimed| ("Docker-Content-Digest", claimed)));
                Reply::new(200, &headers, if request.method == "HEAD" { &[][..] } else { body })
            })
            .await;
            let name = format!("{}/library/image@{pinned}", server.address());
            let pulled = pull_named(&name, Arc::new(MemoryStore::new())).await;
            if is_honest && !is_wrong_claim {
                assert_eq!(pulled.result.expect("pulls").target.digest.as_str(), pinned);
            } else {
                assert_eq!(
                    pulled.error().kind(),
                    ErrorKind::FailedPrecondition,
                    "{}",
                    pulled.error().report()
                );
                assert_eq!((pulled.blobs, pulled.ingests), (0, 0));
            }
        }
    }
}

#[tokio::test]
async fn sizes_that_lie() {
    let honest = Honest::new();
    let len = honest.layer.len();
    let (more, less) = ((len + 1).to_string(), (len - 1).to_string());
    for (size, kind) in [
        (len.to_string().as_str(), None),
        (&more, Some(ErrorKind::FailedPrecondition)),
        (&less, Some(ErrorKind::FailedPrecondition)),
        ("0", Some(ErrorKind::FailedPrecondition)),
        ("9223372036854775807", Some(ErrorKind::FailedPrecondition)),
        ("-1", Some(ErrorKind::InvalidArgument)),
        ("99999999999999999999", Some(ErrorKind::InvalidArgument)),
        ("2e5", Some(ErrorKind::InvalidArgument)),
        ("\"200000\"", Some(ErrorKind::InvalidArgument)),
        ("null", Some(ErrorKind::InvalidArgument)),
    ] {
        let manifest = String::from_utf8(honest.manifest.clone()).expect("JSON");
        let told = format!("\"size\":{len}");
        assert!(manifest.contains(&told), "{manifest}");
        let lying = Honest::with_manifest(&manifest.replace(&told, &format!("\"size\":{size}")));
        // Announced or not.
        for announces in [true, false] {
            let (lying, digest) = (lying.clone(), lying.layer_digest());
            let (pulled, _server) = pulled(move |request| {
                if announces || !request.path.ends_with(&digest) {
                    return lying.answer(request);
                }
                let head = &b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"[..];
                Reply::raw([head, &lying.layer].concat())
            })
            .await;
            match kind {
                None => drop(pulled.result.expect("the honest size")),
                // What ends early could have broken off, where nobody said how long it is.
                Some(_) if !announces && (size == more || size.starts_with("92")) => {
                    assert_eq!(pulled.error().kind(), ErrorKind::Unavailable, "{size}");
                }
                Some(kind) => {
                    assert_eq!(pulled.error().kind(), kind, "{size}: {}", pulled.error().report());
                    assert_eq!(pulled.ingests, 0, "{size}");
                }
            }
        }
    }
}

#[tokio::test]
async fn embedded_data_counts_only_where_it_fits() {
    let config = Honest::new().config;
    let fits = STANDARD.encode(&config);
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        for (data, is_used) in [(fits.as_str(), true), ("W10=", false), ("no base64", false)] {
            let digest = algorithm.digest(&config);
            let manifest = serde_json::json!({
                "schemaVersion": 2, "mediaType": types::OCI_MANIFEST, "layers": [],
                "config": { "mediaType": types::OCI_CONFIG, "digest": digest, "size": config.len(), "data": data },
            });
            let honest = Honest::with_manifest(&manifest.to_string());
            let (path, body) = (format!("/blobs/{digest}"), config.clone());
            let (pulled, server) = pulled(move |request| {
                if request.path.ends_with(&path) {
                    return Reply::new(200, &[], &body);
                }
                honest.answer(request)
            })
            .await;
            pulled.result.expect("pulls");
            let asked = server.requests().iter().filter(|request| request.path.contains("/blobs/")).count();
            assert_eq!(asked, usize::from(!is_used), "{algorithm:?} {data}");
        }
    }
}
