//! Bodies that break, change or come slowly, and what is made of the rest.

use std::{sync::Arc, time::Duration};

use wharf_content::{Digest, ErrorKind, MemoryStore};
use wharf_tests::{
    FakeServer, Fault, FaultProxy, Reply,
    fault_proxy::{Asked, Splice},
};

use super::{Honest, Pulled, pull_from, pull_named, pulled};

/// Pulls from a registry that keeps to the rules, through faults in how the layer comes.
async fn pulled_through(
    layer: impl Fn(&Asked) -> Option<Fault> + Send + Sync + 'static,
) -> (Pulled, FaultProxy) {
    let honest = Honest::new();
    let digest = honest.layer_digest();
    let server = FakeServer::start(move |request| ranged(&honest, request)).await;
    let plan = move |asked: &Asked| asked.request.path.ends_with(&digest).then(|| layer(asked)).flatten();
    let proxy = FaultProxy::start(&server.address(), plan).await;
    let name = proxy.reference("library/image:1");
    (pull_named(&name, Arc::new(MemoryStore::new())).await, proxy)
}

/// As the registry answers that gives parts.
fn ranged(honest: &Honest, request: &wharf_tests::Request) -> Reply {
    let first = request.header("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-'));
    let (Some(first), Some(content)) = (first, honest.content(&request.path)) else {
        return honest.answer(request);
    };
    let (first, len): (usize, usize) = (first.parse().expect("a number"), content.len());
    let range = format!("bytes {first}-{}/{len}", len - 1);
    Reply::new(206, &[("Content-Range", &range)], &content[first..])
}

#[tokio::test]
async fn a_broken_body_goes_on_where_it_broke() {
    for honours_ranges in [true, false] {
        let honest = Honest::new();
        let layer = Digest::sha256(&honest.layer).to_string();
        let (pulled, server) = pulled(move |request| {
            if !request.path.ends_with(&layer) {
                return honest.answer(request);
            }
            let (whole, len) = (&honest.layer, honest.layer.len());
            let from =
                request.header("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-'));
            let from: usize = from.map_or(0, |from| from.parse().expect("a number"));
            let announced = if honours_ranges { len - from } else { len };
            let announced = announced.to_string();
            let range = format!("bytes {from}-{}/{len}", len - 1);
            let start = if honours_ranges { from } else { 0 };
            // Each connection breaks 60,000 bytes further on.
            let end = (from + 60_000).min(len);
            let body = &whole[start..end];
            if from > 0 && honours_ranges {
                Reply::new(206, &[("Content-Length", &announced), ("Content-Range", &range)], body)
            } else {
                Reply::new(200, &[("Content-Length", &announced)], body)
            }
        })
        .await;
        pulled.result.expect("pulls");
        let ranges: Vec<String> = server
            .requests()
            .iter()
            .filter_map(|request| request.header("range").map(str::to_owned))
            .collect();
        assert_eq!(ranges, ["bytes=60000-", "bytes=120000-", "bytes=180000-"]);
    }
}

#[tokio::test]
async fn a_body_that_breaks_at_once_again_and_again_is_given_up_and_resumed_by_the_next_pull() {
    let honest = Honest::new();
    let layer = Digest::sha256(&honest.layer).to_string();
    let twin = honest.clone();
    let (pulled, server) = pulled(move |request| {
        if !request.path.ends_with(&layer) {
            return honest.answer(request);
        }
        let len = honest.layer.len().to_string();
        match request.header("range") {
            None => Reply::new(200, &[("Content-Length", &len)], &honest.layer[..50_000]),
            Some(_) => Reply::raw("HTTP/1.1 206 Partial\r\nContent-Range: bytes 50000-199999/200000\r\nContent-Length: 150000\r\n\r\n"),
        }
    })
    .await;
    assert_eq!(pulled.error().kind(), ErrorKind::Unavailable, "{}", pulled.error().report());
    assert!(server.requests().len() < 12, "bounded");
    assert_eq!(pulled.ingests, 50_000, "what came is kept");

    let server = FakeServer::start(move |request| match request.header("range") {
        Some("bytes=50000-") => {
            let range = "bytes 50000-199999/200000";
            Reply::new(206, &[("Content-Range", range)], &twin.layer[50_000..])
        }
        Some(other) => panic!("asked for {other}"),
        None => twin.answer(request),
    })
    .await;
    pull_from(&server, pulled.store).await.result.expect("goes on");
}

#[tokio::test]
async fn a_body_that_breaks_after_a_few_bytes_each_time_is_given_up() {
    // 200,000 requests would bring it all; nobody is asked as often as that.
    for (bytes, finishes) in [(1, false), (1000, false), (40_000, true)] {
        let (pulled, proxy) = pulled_through(move |_| Some(Fault::ResetAnswer(bytes))).await;
        let breaks = proxy.faults().len();
        if finishes {
            pulled.result.expect("each connection brings something");
            assert!(breaks >= 4, "{breaks}");
        } else {
            assert_eq!(pulled.error().kind(), ErrorKind::Unavailable, "{}", pulled.error().report());
            assert_eq!(breaks, 4, "three breaks in a row are borne");
            assert_eq!(pulled.ingests, bytes * 4, "what came is kept");
        }
    }
}

#[tokio::test]
async fn a_wrong_splice_is_refused() {
    for range in
        ["bytes 49999-199999/200000", "bytes 50000-199998/200000", "bytes 50000-199999/200001", "junk"]
    {
        let honest = Honest::new();
        let layer = Digest::sha256(&honest.layer).to_string();
        let (pulled, _server) = pulled(move |request| {
            if !request.path.ends_with(&layer) {
                return honest.answer(request);
            }
            let len = honest.layer.len().to_string();
            match request.header("range") {
                None => Reply::new(200, &[("Content-Length", &len)], &honest.layer[..50_000]),
                Some(_) => Reply::new(206, &[("Content-Range", range)], &honest.layer[50_000..]),
            }
        })
        .await;
        assert_eq!(pulled.error().kind(), ErrorKind::FailedPrecondition, "{range}");
    }
}

#[tokio::test]
async fn parts_that_are_called_something_else() {
    for splice in [Splice::First, Splice::Last, Splice::Total, Splice::Junk, Splice::Missing] {
        let (pulled, proxy) = pulled_through(move |asked| {
            Some(if asked.nth == 0 { Fault::ResetAnswer(70_000) } else { Fault::Splice(splice) })
        })
        .await;
        assert_eq!(proxy.faults(), ["reset-answer", "splice"], "{splice:?}");
        assert_eq!(pulled.error().kind(), ErrorKind::FailedPrecondition, "{splice:?}");
    }
}

#[tokio::test]
async fn content_that_changes_in_the_middle() {
    // The rest is that of something else, its range is right, and only the digest of the whole can tell.
    let (pulled, proxy) = pulled_through(|asked| {
        Some(if asked.nth == 0 { Fault::ResetAnswer(70_000) } else { Fault::Flip(1_000) })
    })
    .await;
    assert_eq!(proxy.faults(), ["reset-answer", "flip"]);
    assert_eq!(pulled.error().kind(), ErrorKind::FailedPrecondition, "{}", pulled.error().report());
    assert_eq!(pulled.ingests, 0, "no part of it is kept");
}

#[tokio::test]
async fn a_part_that_is_refused_ends_the_transfer() {
    let (pulled, proxy) = pulled_through(|asked| {
        let refusal = Reply::new(416, &[("Content-Range", "bytes */5")], "");
        Some(if asked.nth == 0 { Fault::ResetAnswer(70_000) } else { Fault::Answer(refusal) })
    })
    .await;
    assert_eq!(proxy.faults(), ["reset-answer", "answer"], "asked once");
    assert_eq!(pulled.error().kind(), ErrorKind::OutOfRange, "{}", pulled.error().report());
}

#[tokio::test]
async fn the_last_byte_that_comes_later() {
    for first in [Fault::Truncate(199_999), Fault::ResetAnswer(199_999)] {
        let (pulled, proxy) = pulled_through(move |asked| (asked.nth == 0).then(|| first.clone())).await;
        pulled.result.expect("pulls");
        let asked = proxy.passed();
        let range = asked.iter().filter_map(|passed| passed.request.header("range")).collect::<Vec<_>>();
        assert_eq!(range, ["bytes=199999-"]);
        assert_eq!(asked.last().map(|passed| passed.served), Some(1));
    }
}

#[tokio::test]
async fn the_last_byte_that_never_comes() {
    let (pulled, proxy) = pulled_through(|asked| {
        Some(if asked.nth == 0 { Fault::Truncate(199_999) } else { Fault::Truncate(0) })
    })
    .await;
    assert_eq!(pulled.error().kind(), ErrorKind::Unavailable, "{}", pulled.error().report());
    assert!(proxy.passed().len() < 12, "bounded");
    assert_eq!(pulled.ingests, 199_999, "what came is kept");
}

#[tokio::test]
async fn slow_and_steady() {
    let (pulled, proxy) = pulled_through(|_| Some(Fault::Drip(20_000, Duration::from_millis(3)))).await;
    pulled.result.expect("pulls");
    assert_eq!(proxy.faults(), ["drip"]);
}
