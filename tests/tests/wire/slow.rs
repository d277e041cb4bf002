//! Bodies that come slowly, late or not at all, and readers that are slow themselves.

use super::*;

#[tokio::test]
async fn a_blob_that_drips_goes_on_over_a_new_connection() {
    static CONTENT: [u8; 50_000] = [7; 50_000];
    let server = dripping(2, &CONTENT, MS * 10).await;
    let (settings, told) = hurried();
    assert_eq!(fetch(settings, &server.address, &blob(&CONTENT)).await.expect("comes"), CONTENT);
    let heads = server.heads();
    assert_eq!(heads.len(), 3);
    assert!(heads[1..].iter().all(|head| head.to_lowercase().contains("range: bytes=")), "{heads:?}");
    let retried = told.of("retried 50000");
    assert_eq!(retried.len(), 2, "{:?}", told.all());
    assert!(retried[0].contains("the body comes too slowly"), "{retried:?}");
}

#[tokio::test]
async fn a_blob_that_always_drips_is_given_up_though_it_brings_something_each_time() {
    static CONTENT: [u8; 50_000] = [7; 50_000];
    let server = dripping(usize::MAX, &CONTENT, MS * 10).await;
    let (settings, _) = hurried();
    let error = fetch(settings, &server.address, &blob(&CONTENT)).await.expect_err("gives up");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.report());
    assert!(
        error.report().contains("too slowly") && error.report().contains("after 4 tries"),
        "{}",
        error.report()
    );
    assert_eq!(server.heads().len(), 4);
}

#[tokio::test]
async fn a_blob_whose_every_answer_ends_before_it_is_judged_is_judged_all_the_same() {
    // 40 KB in 50 ms and then a break, again and again: progress each time, and no answer as long as the window.
    static CONTENT: [u8; 2_000_000] = [7; 2_000_000];
    let server = FakeServer::start(|request| {
        let from = request.header("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-'));
        let from: usize = from.map_or(0, |from| from.parse().expect("a number"));
        let left = (CONTENT.len() - from).to_string();
        let range = format!("bytes {from}-{}/{}", CONTENT.len() - 1, CONTENT.len());
        let headers = [("Content-Length", &*left), ("Content-Range", &range)];
        let end = CONTENT.len().min(from + 40_000);
        let status = if from == 0 { 200 } else { 206 };
        Reply::new(status, &headers, &CONTENT[from..end]).dripping(8000, MS * 10)
    })
    .await;
    let (settings, _) = settings();
    let settings = settings.with_min_throughput(NonZeroU64::new(10_000_000), MS * 200);
    let error = fetch(settings, &server.address(), &blob(&CONTENT)).await.expect_err("gives up");
    assert!(error.report().contains("too slowly"), "{}", error.report());
    assert!(server.requests().len() < 50, "it would have come in 50: {}", server.requests().len());
}

#[tokio::test]
async fn a_drip_may_be_allowed() {
    static CONTENT: [u8; 40] = [7; 40];
    let server = dripping(usize::MAX, &CONTENT, MS * 10).await;
    let (settings, told) = settings();
    let settings = settings.with_min_throughput(None, MS * 100);
    assert_eq!(fetch(settings, &server.address, &blob(&CONTENT)).await.expect("comes"), CONTENT);
    assert_eq!((server.heads().len(), told.all().len()), (1, 0));
}

#[tokio::test]
async fn a_reader_that_is_slow_is_not_taken_for_a_registry_that_is() {
    let content: &'static [u8] = Box::leak(noise(4 << 20, 3).into_boxed_slice());
    let server = FakeServer::start(move |_| Reply::new(200, &[], content)).await;
    let (settings, told) = hurried();
    let resolver = RegistryResolver::new(settings);
    let fetcher = resolver.fetcher(&format!("{}/a:1", server.address())).await.expect("makes one");
    let mut stream = fetcher.fetch(&blob(content), 0).await.expect("opens");
    let mut len = 0;
    for pause in [MS * 300, MS * 300, Duration::ZERO] {
        tokio::time::sleep(pause).await;
        len += stream.next().await.expect("more").expect("comes").len();
    }
    len += read(stream).await.expect("comes").len();
    assert_eq!((len, server.requests().len(), told.all().len()), (content.len(), 1, 0));
}

/// Drips the first answer to a GET of `path`, and gives it at once when it is asked for again.
async fn dripping_document(path: &'static str, body: &'static str, more: &'static str) -> Slow {
    let count = Arc::new(AtomicUsize::new(0));
    Slow::start(move |_, asked, mut stream| {
        let count = Arc::clone(&count);
        async move {
            if !asked.starts_with("GET") || !asked.contains(path) {
                return send(stream, head("405 No", 0, ""), b"").await;
            }
            let head = head("200 OK", body.len(), more);
            if count.fetch_add(1, Ordering::SeqCst) == 0 {
                drop(stream.write_all(head.as_bytes()).await);
                drip(&mut stream, body.as_bytes(), MS * 10).await;
            } else {
                send(stream, head, body.as_bytes()).await;
            }
        }
    })
    .await
}

#[tokio::test]
async fn small_answers_that_drip_are_asked_for_again() {
    let body: &'static str = Box::leak(format!("{:100}{{\"manifests\":[]}}", "").into_boxed_str());
    let manifest = "Content-Type: application/vnd.oci.image.index.v1+json\r\n";
    let server = dripping_document("/manifests/1", body, manifest).await;
    let resolver = RegistryResolver::new(hurried().0);
    let resolved = bounded(resolver.resolve(&format!("{}/a:1", server.address))).await.expect("resolves");
    assert_eq!(resolved.descriptor.digest, Digest::sha256(body.as_bytes()));

    let body: &'static str = Box::leak(format!("{:100}{{\"tags\":[\"x\"]}}", "").into_boxed_str());
    let server = dripping_document("/tags/list", body, "").await;
    let resolver = RegistryResolver::new(hurried().0);
    assert_eq!(bounded(resolver.tags(&format!("{}/a", server.address))).await.expect("lists"), ["x"]);
    assert_eq!(server.heads().len(), 2);
}

#[tokio::test]
async fn a_token_whose_answer_breaks_or_is_late_is_asked_for_again() {
    let broken = Reply::raw(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{{\"to", TOKEN.len()));
    let late = Reply::new(200, &[("Content-Length", "24")], &TOKEN[..5]).stalling();
    for fault in [Reply::new(503, &[], ""), Reply::new(429, &[("Retry-After", "1")], ""), broken, late] {
        let spoiled = first(1, "GET", "/token", move || fault.clone());
        let token = move |request: &Request| spoiled(request).unwrap_or_else(|| Reply::new(200, &[], TOKEN));
        let server = with_token_of_its_own(token, |_| Reply::new(200, &[], "content")).await;
        let (mut settings, _) = settings();
        (settings.max_retry_delay, settings.idle_timeout) = (MS * 50, MS * 200);
        assert_eq!(fetch(settings, &server.address(), &blob(b"content")).await.expect("comes"), b"content");
        assert_eq!(server.requests().iter().filter(|asked| asked.path.starts_with("/token")).count(), 2);
    }
}

#[tokio::test]
async fn an_error_whose_body_is_late_is_still_that_error() {
    let reply = Reply::new(403, &[("Content-Length", "100")], "{").stalling();
    let server = FakeServer::start(move |_| reply.clone()).await;
    let (settings, _) = settings();
    let settings = settings.with_timeouts(MS * 100, MS * 100);
    let error = fetch(settings, &server.address(), &blob(b"x")).await.expect_err("denied");
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{}", error.report());
}

#[tokio::test]
async fn silence_before_the_head_and_within_the_body_is_noticed() {
    let server = FakeServer::start(|_| Reply::raw("").stalling()).await;
    let (settings, _) = settings();
    let short = settings.with_timeouts(MS * 50, MS * 100);
    let error = fetch(short.clone(), &server.address(), &blob(b"x")).await.expect_err("silent");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let remote = RemoteError::of(&error).expect("a registry's");
    assert_eq!((remote.attempts, server.requests().len()), (3, 3));
    assert!(remote.waited() > Duration::ZERO);
    let report = error.report();
    assert!(report.contains("no answer came for 0.3 s (after 3 tries and 0.0 s of waiting)"), "{report}");

    // An answer that is late, but not that late.
    let server = Slow::start(|_, _, stream| async move {
        tokio::time::sleep(MS * 50).await;
        send(stream, head("200 OK", 1, ""), b"x").await;
    })
    .await;
    assert_eq!(fetch(short.clone(), &server.address, &blob(b"x")).await.expect("comes"), b"x");

    let content = noise(60_000, 4);
    let bytes = content.clone();
    let server = FakeServer::start(move |request| match request.header("range") {
        None => Reply::new(200, &[("Content-Length", "60000")], &bytes[..20_000]).stalling(),
        Some("bytes=20000-") => {
            Reply::new(206, &[("Content-Range", "bytes 20000-59999/60000")], &bytes[20_000..])
        }
        Some(other) => panic!("asked for {other}"),
    })
    .await;
    let (settings, told) = self::settings();
    let settings = settings.with_timeouts(MS * 50, MS * 100);
    assert_eq!(fetch(settings, &server.address(), &blob(&content)).await.expect("comes"), content);
    assert!(told.of("retried 60000")[0].contains("nothing more came for 0.1 s"), "{:?}", told.all());
}
