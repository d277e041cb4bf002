//! Waits that registries ask for, and how many requests a host is sent at once and in a time.

use super::*;

#[tokio::test]
async fn retry_after_in_every_form_is_honoured_and_capped() {
    for (status, retry_after, expected) in [
        (429, Some("0"), None),
        (429, Some("1"), Some(60)),
        (503, Some("86400"), Some(60)),
        (429, Some("-1"), None),
        (429, Some("junk"), None),
        (429, Some("99999999999999999999999"), None),
        (503, None, None),
        (429, Some("Tue, 01 Dec 2099 00:00:00 GMT"), Some(60)),
        (429, Some("Sun, 06 Nov 1994 08:49:37 GMT"), None),
        // It is asked of everybody, but not honoured where it is no sign of a limit.
        (500, Some("1"), None),
    ] {
        let spoiled = first(1, "GET", "", move || {
            let headers: Vec<_> = retry_after.map(|value| ("Retry-After", value)).into_iter().collect();
            Reply::new(status, &headers, "")
        });
        let server = FakeServer::start(move |request| {
            spoiled(request).unwrap_or_else(|| Reply::new(200, &[], "content"))
        })
        .await;
        let (mut settings, told) = settings();
        settings.max_retry_delay = MS * 60;
        let began = Instant::now();
        let fetched = fetch(settings, &server.address(), &blob(b"content")).await;
        assert_eq!(fetched.expect("comes"), b"content", "{retry_after:?}");
        let throttled: Vec<_> = expected.map(|wait| format!("throttled {wait}")).into_iter().collect();
        assert_eq!(told.all(), throttled, "{status} {retry_after:?}");
        assert!(expected.is_none() || began.elapsed() >= MS * 60);
        assert_eq!(server.requests().len(), 2);
    }
}

#[tokio::test]
async fn bursts_of_failures_end_in_an_error_that_says_how_long_it_was_tried() {
    for (status, kind) in [(503, ErrorKind::Unavailable), (429, ErrorKind::ResourceExhausted)] {
        let server = FakeServer::start(move |_| Reply::new(status, &[("Retry-After", "1")], "")).await;
        let (mut settings, _) = settings();
        settings.max_retry_delay = MS * 120;
        let error = fetch(settings, &server.address(), &blob(b"x")).await.expect_err("gives up");
        assert_eq!((error.kind(), server.requests().len()), (kind, 3));
        assert!(error.report().contains("(after 3 tries and 0.2 s of waiting)"), "{}", error.report());
    }
}

#[tokio::test]
async fn all_requests_to_a_host_wait_when_it_asks_one_to() {
    let arrivals = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&arrivals);
    let server = FakeServer::start(move |request| {
        let mut log = log.lock().expect("no panic");
        log.push((request.path.clone(), Instant::now()));
        if log.len() == 1 { Reply::new(429, &[("Retry-After", "9")], "") } else { Reply::new(200, &[], "x") }
    })
    .await;
    let (mut settings, _) = settings();
    settings.max_retry_delay = MS * 400;
    let limited = fetch(settings.clone(), &server.address(), &blob(b"x"));
    let others = async {
        tokio::time::sleep(MS * 100).await;
        // Other resolvers of the same settings.
        join_all((0..3).map(|_| fetch(settings.clone(), &server.address(), &blob(b"x")))).await
    };
    let (limited, others) = tokio::join!(limited, others);
    assert!(limited.is_ok() && others.iter().all(Result::is_ok), "{limited:?} {others:?}");
    let arrivals = arrivals.lock().expect("no panic").clone();
    assert_eq!(arrivals.len(), 5);
    for (path, at) in &arrivals[1..] {
        assert!(
            at.duration_since(arrivals[0].1) >= MS * 395,
            "{path} after {:?}",
            at.duration_since(arrivals[0].1)
        );
    }
}

#[tokio::test]
async fn no_more_requests_at_once_than_the_limit() {
    let (inside, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (counted, highest) = (Arc::clone(&inside), Arc::clone(&most));
    let server = Slow::start(move |_, _, mut stream| {
        let (inside, most) = (Arc::clone(&counted), Arc::clone(&highest));
        async move {
            most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            let head = head("200 OK", 2, "");
            drop(stream.write_all(format!("{head}x").as_bytes()).await);
            tokio::time::sleep(MS * 20).await;
            inside.fetch_sub(1, Ordering::SeqCst);
            drop(stream.write_all(b"y").await);
        }
    })
    .await;
    let settings = settings().0.with_host_concurrency(NonZeroUsize::new(4).expect("not zero"));
    let all = join_all((0..30).map(|_| fetch(settings.clone(), &server.address, &blob(b"xy")))).await;
    assert!(all.iter().all(Result::is_ok));
    assert_eq!(most.load(Ordering::SeqCst), 4);
}

fn one_at_once() -> RegistrySettings {
    settings().0.with_host_concurrency(NonZeroUsize::MIN)
}

#[tokio::test]
async fn tokens_and_redirects_at_the_same_host_need_no_second_place() {
    let answer = |request: &Request| match request.path.strip_prefix("/elsewhere") {
        Some(_) => Reply::new(200, &[], "content"),
        None => Reply::new(307, &[("Location", &format!("/elsewhere{}", request.path))], "this way"),
    };
    let server = with_token_of_its_own(|_| Reply::new(200, &[], TOKEN), answer).await;
    let settings = one_at_once();
    let content = blob(b"content");
    let all = join_all((0..5).map(|_| fetch(settings.clone(), &server.address(), &content))).await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");
}

#[tokio::test]
async fn a_body_that_nobody_reads_keeps_nobody_waiting_for_ever() {
    let content: &'static [u8] = Box::leak(noise(8 << 20, 5).into_boxed_slice());
    let server = FakeServer::start(move |_| Reply::new(200, &[], content)).await;
    let resolver = RegistryResolver::new(one_at_once());
    let fetcher = resolver.fetcher(&format!("{}/a:1", server.address())).await.expect("makes one");
    let first = fetcher.fetch(&blob(content), 0).await.expect("opens");
    let second = bounded(fetcher.fetch(&blob(content), 0)).await.expect("opens");
    let (second, first) = (bounded(read(second)).await, bounded(read(first)).await);
    assert!(first.expect("comes") == content && second.expect("comes") == content);
}

/// Content of a registry, read anew each time.
#[derive(Debug)]
struct Remote(Arc<dyn Fetcher>, Descriptor);

#[async_trait::async_trait]
impl Source for Remote {
    async fn open(&self, offset: u64) -> Result<ByteStream> {
        self.0.fetch(&self.1, offset).await
    }
}

#[tokio::test]
async fn from_a_host_to_itself_with_one_request_at_once() {
    let content = noise(3 << 20, 6);
    let registry = ScriptedRegistry::start(|_, _| None).await;
    let descriptor = blob(&content);
    let source = {
        let (content, descriptor) = (content.clone(), descriptor.clone());
        // Breaks in the middle of the upload that reads it, so that it is opened again.
        Slow::start(move |number, _, stream| {
            let (content, len) = (content.clone(), descriptor.size);
            async move {
                let from = if number == 1 { 0 } else { 1 << 20 };
                let range = format!("Content-Range: bytes {from}-{}/{len}\r\n", len - 1);
                let end = if number == 1 { 1 << 20 } else { content.len() };
                let head =
                    head(if number == 1 { "200 OK" } else { "206 Part" }, content.len() - from, &range);
                send(stream, head, &content[from..end]).await;
            }
        })
        .await
    };
    // What is at the other address is asked for by way of this host, so that both count as one.
    let via = source.address.clone();
    let contents = Arc::clone(&registry.contents);
    let front = FakeServer::start(move |request| {
        if request.method == "GET" && request.path.contains("/from/") {
            return Reply::new(307, &[("Location", &format!("http://{via}{}", request.path))], "");
        }
        contents.answer(request)
    })
    .await;
    let resolver = RegistryResolver::new(one_at_once());
    let fetcher = resolver.fetcher(&format!("{}/from:1", front.address())).await.expect("makes one");
    let pusher = resolver.pusher(&format!("{}/x:1", front.address())).await.expect("makes one");
    let shipment =
        Shipment::new(descriptor.clone(), Place::Blob, Arc::new(Remote(fetcher, descriptor.clone())));
    assert_eq!(bounded(pusher.push(&shipment)).await.expect("pushes"), Delivery::Sent);
    assert!(registry.contents.blobs()[descriptor.digest.as_str()] == content);
    assert_eq!(source.heads().len(), 2);
}

#[tokio::test]
async fn the_rate_of_requests_is_kept() {
    let server = FakeServer::start(|_| Reply::new(200, &[], "x")).await;
    let settings = settings().0.with_request_interval(MS * 40);
    let began = Instant::now();
    let all = join_all((0..6).map(|_| fetch(settings.clone(), &server.address(), &blob(b"x")))).await;
    assert!(all.iter().all(Result::is_ok));
    assert!(began.elapsed() >= MS * 200, "{:?}", began.elapsed());
}
