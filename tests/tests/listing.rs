//! Listing tags and referrers: from wharf's own registry, and from registries that answer oddly or with malice.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use serde_json::json;
use wharf_content::{Descriptor, Digest, Error, ErrorKind, Result};
use wharf_images::{
    Image,
    labels::ANNOTATION_SUBJECT,
    media_types as types,
    referrers::fallback_tag,
    transport::{Fetcher, Resolved, Resolver},
};
use wharf_remotes::registry::{RegistryResolver, RegistrySettings};
use wharf_tests::{FakeServer, Reply, Request, TestRegistry};

fn resolver() -> RegistryResolver {
    RegistryResolver::new(RegistrySettings::new().with_retries(1, Duration::from_millis(1)))
}

/// A server of pages, whose answer is told its own address and what the request asked for.
async fn server(answer: impl Fn(&str, &Request) -> Reply + Send + Sync + 'static) -> FakeServer {
    FakeServer::start(move |request| answer(request.header("host").unwrap_or_default(), request)).await
}

async fn tags_of(server: &FakeServer) -> Result<Vec<String>> {
    resolver().tags(&format!("{}/a/b", server.address())).await
}

fn page(tags: &[&str], link: Option<&str>) -> Reply {
    let body = json!({ "name": "a/b", "tags": tags }).to_string();
    match link {
        Some(link) => Reply::new(200, &[("Link", link)], body),
        None => Reply::new(200, &[], body),
    }
}

#[tokio::test]
async fn every_page_of_a_large_repository() {
    let registry = TestRegistry::start().await;
    let target = Descriptor::of(types::OCI_MANIFEST, b"{}");
    let expected: Vec<String> = (0..2300).map(|at| format!("t{at:04}")).collect();
    for tag in &expected {
        let name = registry.reference(&format!("a/b:{tag}"));
        registry.record(Image::new(name, target.clone())).await.expect("records");
    }
    registry.record(Image::new(registry.reference("a/c:other"), target)).await.expect("records");
    let found = resolver().tags(&registry.reference("a/b")).await.expect("lists");
    assert!(found == expected, "{} tags", found.len());
    let log = registry.take_log();
    assert_eq!(log.len(), 3, "a thousand at once: {log:?}");
    assert!(log.iter().all(|record| record.path == "/v2/a/b/tags/list"), "{log:?}");

    let error = resolver().tags(&registry.reference("a/missing")).await.expect_err("there is none");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.report().contains("/a/missing"), "{}", error.report());
    for name in ["a/b:t0001", &format!("a/b@{}", Digest::sha256(b"x"))] {
        let error = resolver().tags(&registry.reference(name)).await.expect_err("is an image");
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.report().contains("without a tag or digest"), "{}", error.report());
    }
}

#[tokio::test]
async fn links_of_every_form_and_lists_of_none() {
    for form in ["/v2/a/b/tags/list?n=2&last=z", "list?n=2&last=z", "http://HOST/v2/a/b/tags/list?n=2&last=z"]
    {
        let server = server(move |host, request| {
            if request.path.contains("last=") {
                return page(&["b", "A"], None);
            }
            page(&["z", "a"], Some(&format!("<{}>; rel=\"next\"", form.replace("HOST", host))))
        })
        .await;
        assert_eq!(tags_of(&server).await.expect(form), ["z", "a", "b", "A"], "the order is the registry's");
        let asked: Vec<String> = server.requests().into_iter().map(|request| request.path).collect();
        assert_eq!(asked, ["/v2/a/b/tags/list?n=1000", "/v2/a/b/tags/list?n=2&last=z"]);
    }
    for body in [r#"{"name":"a/b","tags":null}"#, r#"{"name":"a/b"}"#, r#"{"tags":[]}"#] {
        let server = server(move |_, _| Reply::new(200, &[], body)).await;
        assert_eq!(tags_of(&server).await.expect(body), [""; 0]);
    }
    let server = server(|_, _| page(&["ok", "../x", "\u{1b}]52;c", "", "a b", &"x".repeat(129)], None)).await;
    assert_eq!(tags_of(&server).await.expect("lists"), ["ok"], "what is no tag names nothing");
}

#[tokio::test]
async fn lists_that_lead_astray_are_refused() {
    let other = FakeServer::start(|_| page(&["stolen"], None)).await;
    let elsewhere = format!("<http://{}/v2/a/b/tags/list>; rel=next", other.address());
    for (link, kind, said) in [
        (elsewhere.as_str(), ErrorKind::FailedPrecondition, "at another place"),
        ("<https://169.254.169.254/x>; rel=next", ErrorKind::FailedPrecondition, "at another place"),
        ("</v2/a/b/tags/list?n=1000>; rel=next", ErrorKind::FailedPrecondition, "circle"),
        ("/v2/a/b/tags/list?last=a", ErrorKind::FailedPrecondition, "cannot be read"),
        ("<http://[>; rel=next", ErrorKind::FailedPrecondition, "cannot be read"),
    ] {
        let answered = link.to_owned();
        let server = server(move |_, _| page(&["a"], Some(&answered))).await;
        let error = tags_of(&server).await.expect_err(link);
        assert_eq!(error.kind(), kind, "{}", error.report());
        assert!(error.report().contains(said), "{link}: {}", error.report());
        assert_eq!(server.requests().len(), 1, "{link}");
    }
    assert!(other.requests().is_empty());
    // A circle of two, and a page that is gone: never a part of the list for the whole.
    let circle = server(|_, request| {
        let last = if request.path.ends_with("last=b") { "c" } else { "b" };
        page(&["a"], Some(&format!("</v2/a/b/tags/list?last={last}>; rel=next")))
    })
    .await;
    assert!(tags_of(&circle).await.expect_err("a circle").report().contains("circle"));
    assert_eq!(circle.requests().len(), 3);
    let gone = server(|_, request| {
        if request.path.contains("last") {
            return Reply::new(404, &[], "");
        }
        page(&["a"], Some("<?last=a>; rel=next"))
    })
    .await;
    assert_eq!(tags_of(&gone).await.expect_err("gone").kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn what_is_no_list_of_tags_is_said_to_be_none() {
    for (reply, kind, said) in [
        (Reply::new(200, &[], "<html>"), ErrorKind::FailedPrecondition, "no list of tags"),
        (Reply::new(200, &[], r#"{"tags":[1]}"#), ErrorKind::FailedPrecondition, "no list of tags"),
        (Reply::new(200, &[], vec![b' '; 9 << 20]), ErrorKind::FailedPrecondition, "larger than"),
        (Reply::new(403, &[], ""), ErrorKind::PermissionDenied, "403"),
        (Reply::new(500, &[], ""), ErrorKind::Unavailable, "500"),
    ] {
        let server = server(move |_, _| reply.clone()).await;
        let error = tags_of(&server).await.expect_err(said);
        assert_eq!(error.kind(), kind, "{}", error.report());
        assert!(error.report().contains(said), "{}", error.report());
        assert!(error.report().contains("cannot list the tags of"), "{}", error.report());
    }
    let many: Vec<String> = (0..1_000_001).map(|at| format!("{at:x}")).collect();
    let page = Arc::new(json!({ "tags": many[..500_001] }).to_string());
    let server = server(move |_, request| {
        let next = if request.path.contains("n=1000") { "2" } else { "3" };
        Reply::new(200, &[("Link", &format!("<?page={next}>; rel=next"))], &*page)
    })
    .await;
    let error = tags_of(&server).await.expect_err("too many");
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{}", error.report());
    assert_eq!(server.requests().len(), 2);
}

/// A referrer of a type.
fn referrer(artifact_type: &str) -> Descriptor {
    let mut referrer = Descriptor::of(types::OCI_MANIFEST, artifact_type.as_bytes());
    referrer.artifact_type = Some(artifact_type.into());
    referrer
}

fn index(referrers: &[Descriptor], headers: &[(&str, &str)]) -> Reply {
    let body = json!({ "schemaVersion": 2, "mediaType": types::OCI_INDEX, "manifests": referrers });
    Reply::new(200, &[&[("Content-Type", types::OCI_INDEX)], headers].concat(), body.to_string())
}

async fn referrers_of(
    server: &FakeServer,
    subject: &Descriptor,
    artifact_type: Option<&str>,
) -> Result<Vec<Descriptor>> {
    let provider = resolver().referrers(&format!("{}/a/b:1", server.address())).await?;
    match artifact_type {
        Some(artifact_type) => provider.referrers_of_type(subject, artifact_type).await,
        None => provider.referrers(subject).await,
    }
}

#[tokio::test]
async fn referrers_in_pages_are_filtered_here_whatever_the_registry_says() {
    let subject = Descriptor::of(types::OCI_MANIFEST, b"subject");
    let (sbom, signature) = (referrer("application/spdx+json"), referrer("application/x-sig"));
    for filters in [None, Some(("OCI-Filters-Applied", "artifactType"))] {
        let listed = [sbom.clone(), signature.clone()];
        // Nobody is to believe what they say of whom they are about.
        let forged = |referrer: Descriptor| referrer.with_annotation(ANNOTATION_SUBJECT, "sha256:forged");
        let answered = listed.clone().map(forged);
        let server = server(move |_, request| {
            let mut headers: Vec<(&str, &str)> = filters.into_iter().collect();
            if request.path.contains("last=") {
                // The second page repeats what the first one had.
                return index(&answered, &headers);
            }
            headers.push(("Link", "<?last=x>; rel=\"next\""));
            index(&answered[..1], &headers)
        })
        .await;
        assert_eq!(referrers_of(&server, &subject, None).await.expect("lists"), listed);
        let one = referrers_of(&server, &subject, Some("application/spdx+json")).await.expect("lists");
        assert_eq!(one, listed[..1]);
        assert_eq!(referrers_of(&server, &subject, Some("none/such")).await.expect("lists"), []);
        let asked: Vec<String> = server.requests().into_iter().map(|request| request.path).collect();
        let path = format!("/v2/a/b/referrers/{}", subject.digest);
        assert_eq!(asked[0], path);
        assert_eq!(asked[2], format!("{path}?artifactType=application%2Fspdx%2Bjson"));
        assert_eq!(server.requests()[0].header("accept"), Some(types::OCI_INDEX));
    }
}

#[tokio::test]
async fn registries_of_before_are_asked_for_the_tag() {
    let subject = Descriptor::of(types::OCI_MANIFEST, b"subject");
    let tag = fallback_tag(&subject.digest);
    let html = Reply::new(200, &[("Content-Type", "text/html")], "<html>");
    let unknown = [400, 404, 405, 406].map(|status| Reply::new(status, &[], ""));
    for refusal in unknown.into_iter().chain([html]) {
        let (sbom, signature) = (referrer("application/spdx+json"), referrer("application/x-sig"));
        let (listed, asked_for) = ([sbom.clone(), signature], tag.clone());
        let server = server(move |_, request| {
            if request.path.ends_with(&format!("/manifests/{asked_for}")) {
                return index(&listed, &[]);
            }
            refusal.clone()
        })
        .await;
        assert_eq!(referrers_of(&server, &subject, None).await.expect("lists").len(), 2);
        let one = referrers_of(&server, &subject, Some("application/spdx+json")).await.expect("lists");
        assert_eq!(one, [sbom]);
    }
    let nothing = server(|_, _| Reply::new(404, &[], "")).await;
    assert_eq!(referrers_of(&nothing, &subject, None).await.expect("is no error"), []);
    assert_eq!(nothing.requests().len(), 2);
}

#[tokio::test]
async fn referrers_that_cannot_be_listed_are_no_empty_list() {
    let subject = Descriptor::of(types::OCI_MANIFEST, b"subject");
    let taken = Reply::new(200, &[("Content-Type", types::OCI_MANIFEST)], "{}");
    let broken = Reply::new(200, &[("Content-Type", types::OCI_INDEX)], "{}");
    let foreign = index(&[], &[("Link", "<http://127.0.0.1:1/x>; rel=next")]);
    let own = index(&[], &[("Link", "<?last=x>; rel=next")]);
    // What answers to the request, to the tag and to the second page.
    let missing = Reply::new(404, &[], "");
    for (request_, tag, second, kind) in [
        (missing.clone(), taken, missing.clone(), ErrorKind::FailedPrecondition),
        (missing.clone(), Reply::new(405, &[], ""), missing.clone(), ErrorKind::NotImplemented),
        (broken, missing.clone(), missing.clone(), ErrorKind::FailedPrecondition),
        (foreign, missing.clone(), missing.clone(), ErrorKind::FailedPrecondition),
        (own.clone(), missing.clone(), missing.clone(), ErrorKind::NotFound),
        (own.clone(), missing.clone(), own, ErrorKind::FailedPrecondition),
        (Reply::new(401, &[], ""), missing.clone(), missing.clone(), ErrorKind::Unauthenticated),
        (Reply::new(500, &[], ""), missing.clone(), missing, ErrorKind::Unavailable),
    ] {
        let server = server(move |_, request| {
            let reply = match () {
                () if request.path.contains("/manifests/") => &tag,
                () if request.path.contains("last=") => &second,
                () => &request_,
            };
            reply.clone()
        })
        .await;
        let error = referrers_of(&server, &subject, None).await.expect_err("is no list");
        assert_eq!(error.kind(), kind, "{}", error.report());
        assert!(error.report().contains(subject.digest.as_str()), "{}", error.report());
    }
}

/// A place that only resolves.
#[derive(Debug)]
struct Bare;

#[async_trait]
impl Resolver for Bare {
    async fn resolve(&self, name: &str) -> Result<Resolved> {
        Err(Error::not_found(format!("there is no {name}")))
    }

    async fn fetcher(&self, name: &str) -> Result<Arc<dyn Fetcher>> {
        Err(Error::not_found(format!("there is no {name}")))
    }
}

#[tokio::test]
async fn a_transport_that_lists_nothing_says_so() {
    assert_eq!(Bare.tags("x").await.expect_err("cannot").kind(), ErrorKind::NotImplemented);
    let error = Bare.referrers("x").await.expect_err("cannot");
    assert_eq!(error.kind(), ErrorKind::NotImplemented);
}
