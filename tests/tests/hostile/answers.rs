//! Answers that are none: statuses, silence, and requests to come again later.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use wharf_content::{Catalogue, ErrorKind, MemoryStore};
use wharf_remotes::{RemoteError, registry::RegistryResolver};
use wharf_tests::{
    FakeServer, FaultProxy, Reply,
    fault_proxy::{RETRY_AFTER, retry_after},
};

use super::{Honest, pull_with, pulled, settings};

#[tokio::test]
async fn statuses_are_told_apart_and_only_passing_ones_are_retried() {
    for (status, kind, requests) in [
        (401, ErrorKind::Unauthenticated, 1),
        // HEAD has no body to tell why, so GET is asked once.
        (403, ErrorKind::PermissionDenied, 2),
        (404, ErrorKind::NotFound, 1),
        (429, ErrorKind::ResourceExhausted, 3),
        (500, ErrorKind::Unavailable, 3),
        (503, ErrorKind::Unavailable, 3),
        (418, ErrorKind::FailedPrecondition, 1),
    ] {
        let body = r#"{"errors":[{"code":"SOMETHING_NEW","message":"in words"}]}"#;
        let (pulled, server) = pulled(move |request| match request.method.as_str() {
            "HEAD" => Reply::new(status, &[("Content-Length", "0")], ""),
            _ => Reply::new(status, &[], body),
        })
        .await;
        let error = pulled.error();
        assert_eq!(error.kind(), kind, "{}", error.report());
        let remote = RemoteError::of(error).expect("a registry's error");
        assert_eq!(remote.status, Some(status));
        assert_eq!(server.requests().len(), requests, "{status}");
        if status == 403 {
            assert!(error.report().contains("SOMETHING_NEW (in words)"), "{}", error.report());
        }
    }
}

#[tokio::test]
async fn a_burst_of_failures_is_survived() {
    let (honest, count) = (Honest::new(), AtomicUsize::new(0));
    let (pulled, _server) = pulled(move |request| match count.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::new(503, &[("Retry-After", "0")], ""),
        1 => Reply::raw(""),
        4 => Reply::new(429, &[("Retry-After", "junk")], ""),
        _ => honest.answer(request),
    })
    .await;
    pulled.result.expect("pulls");
}

#[tokio::test]
async fn a_long_retry_after_is_capped() {
    let server = FakeServer::start(|_| Reply::new(503, &[("Retry-After", "86400")], "")).await;
    let mut settings = settings();
    settings.max_retry_delay = Duration::from_millis(20);
    let resolver = RegistryResolver::new(settings);
    let name = format!("{}/a:1", server.address());
    let work = wharf_images::transport::Resolver::resolve(&resolver, &name);
    let result = tokio::time::timeout(Duration::from_secs(5), work).await.expect("does not wait a day");
    assert_eq!(result.expect_err("gives up").kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn retry_after_in_every_form() {
    let honest = Honest::new();
    let server = FakeServer::start(move |request| honest.answer(request)).await;
    for (form, value) in RETRY_AFTER.iter().enumerate() {
        for status in [429, 503] {
            // Every request is put off once.
            let plan = move |asked: &wharf_tests::fault_proxy::Asked| {
                (asked.nth == 0).then(|| retry_after(status, form))
            };
            let proxy = FaultProxy::start(&server.address(), plan).await;
            let mut settings = settings();
            settings.max_retry_delay = Duration::from_millis(5);
            let store = Arc::new(MemoryStore::new());
            let pulled = pull_with(settings, &proxy.reference("library/image:1"), store).await;
            pulled.result.unwrap_or_else(|error| panic!("{value:?}: {}", error.report()));
            assert_eq!(proxy.faults().len(), 4, "{value:?}");
        }
    }
}

#[tokio::test]
async fn nobody_listens() {
    let server = FakeServer::start(|_| Reply::raw("")).await;
    let address = server.address();
    drop(server);
    let resolver = RegistryResolver::new(settings());
    let result = wharf_images::transport::Resolver::resolve(&resolver, &format!("{address}/a:1")).await;
    let error = result.expect_err("unreachable");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.report().contains(&address), "{}", error.report());
}

#[tokio::test]
async fn the_catalogue_has_the_transport() {
    let keys = Catalogue::linked().keys::<wharf_images::transport::Transports>();
    assert!(keys.contains(&"docker".to_owned()), "{keys:?}");
}
