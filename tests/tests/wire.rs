//! What every request goes through: time-outs of each part of it, waits that registries ask for, limits of each host, and what is told of it
//! all. Each misbehaviour has a twin that is slow but honest, and works.

use std::{
    future::Future,
    num::{NonZeroU64, NonZeroUsize},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, future::join_all};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tracing_subscriber::{filter::LevelFilter, util::SubscriberInitExt};
use wharf_content::{ByteStream, Descriptor, Digest, Error, ErrorKind, Result, copying::Source};
use wharf_images::{
    media_types as types,
    progress::{Event, Sink},
    transport::{Delivery, Fetcher, Place, Resolver, Shipment},
};
use wharf_remotes::{
    RemoteError,
    registry::{HttpEvent, HttpTrace, RegistryResolver, RegistrySettings},
};
use wharf_tests::{FakeServer, Reply, Request, ScriptedRegistry, image::noise, scripted::first};

/// Everything that was told, as text.
#[derive(Debug, Default)]
struct Told(Mutex<Vec<String>>);

impl Told {
    fn add(&self, text: String) {
        self.0.lock().expect("no panic").push(text);
    }

    fn all(&self) -> Vec<String> {
        self.0.lock().expect("no panic").clone()
    }

    fn of(&self, what: &str) -> Vec<String> {
        self.all().into_iter().filter(|text| text.starts_with(what)).collect()
    }
}

impl Sink for Told {
    fn event(&self, event: &Event<'_>) {
        match event {
            Event::Retried { error, descriptor } => {
                self.add(format!("retried {}: {}", descriptor.size, error.report()));
            }
            Event::Throttled { wait, .. } => self.add(format!("throttled {}", wait.as_millis())),
            Event::Warning { text } => self.add(format!("warning {text}")),
            _ => {}
        }
    }
}

impl HttpTrace for Told {
    fn http(&self, event: &HttpEvent<'_>) {
        self.add(event.to_string());
    }
}

const MS: Duration = Duration::from_millis(1);

/// Waits of milliseconds, and a sink.
fn settings() -> (RegistrySettings, Arc<Told>) {
    let told = Arc::new(Told::default());
    let settings = RegistrySettings::new().with_retries(2, MS).with_sink(told.clone());
    (settings, told)
}

/// At least ten thousand bytes per second, over a tenth of a second.
fn hurried() -> (RegistrySettings, Arc<Told>) {
    let (settings, told) = settings();
    (settings.with_min_throughput(NonZeroU64::new(10_000), MS * 100), told)
}

async fn bounded<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), work).await.expect("bounded in time")
}

fn fetch(
    settings: RegistrySettings,
    address: &str,
    descriptor: &Descriptor,
) -> impl Future<Output = Result<Vec<u8>>> + use<> {
    let (resolver, descriptor) = (RegistryResolver::new(settings), descriptor.clone());
    let name = format!("{address}/a:1");
    bounded(async move {
        let fetcher = resolver.fetcher(&name).await?;
        read(fetcher.fetch(&descriptor, 0).await?).await
    })
}

async fn read(stream: ByteStream) -> Result<Vec<u8>> {
    stream
        .try_fold(Vec::new(), |mut all, chunk| async move {
            all.extend_from_slice(&chunk);
            Ok(all)
        })
        .await
}

fn blob(bytes: &[u8]) -> Descriptor {
    Descriptor::of(types::OCI_LAYER, bytes)
}

/// A server whose answers take their time: each connection is handed over with the head that was read from it.
struct Slow {
    address: String,
    heads: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Slow {
    async fn start<F: Future<Output = ()> + Send>(
        answer: impl Fn(usize, String, TcpStream) -> F + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
        let address = listener.local_addr().expect("bound").to_string();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let (log, answer) = (Arc::clone(&heads), Arc::new(answer));
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (log, answer) = (Arc::clone(&log), Arc::clone(&answer));
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") && head.len() < 64 * 1024 {
                        let Ok(byte) = stream.read_u8().await else { return };
                        head.push(byte);
                    }
                    let head = String::from_utf8_lossy(&head).into_owned();
                    let number = {
                        let mut log = log.lock().expect("no panic");
                        log.push(head.clone());
                        log.len()
                    };
                    answer(number, head, stream).await;
                });
            }
        });
        Self { address, heads, task }
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().expect("no panic").clone()
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn head(status: &str, len: usize, more: &str) -> String {
    format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {len}\r\n{more}\r\n")
}

/// Sends a byte after each pause, until nobody reads.
async fn drip(stream: &mut TcpStream, bytes: &[u8], pause: Duration) {
    for byte in bytes {
        tokio::time::sleep(pause).await;
        if stream.write_all(&[*byte]).await.is_err() {
            return;
        }
    }
}

async fn send(mut stream: TcpStream, head: String, body: &[u8]) {
    drop(stream.write_all(head.as_bytes()).await);
    drop(stream.write_all(body).await);
    drop(stream.shutdown().await);
}

/// Drips the first `drips` answers, which break off in the end, and gives the rest at once.
async fn dripping(drips: usize, bytes: &'static [u8], pause: Duration) -> Slow {
    Slow::start(move |number, asked, mut stream| async move {
        let from = asked
            .lines()
            .find_map(|line| line.to_lowercase().strip_prefix("range: bytes=").map(str::to_owned));
        let from: usize = from.map_or(0, |from| from.trim_end_matches('-').parse().expect("a number"));
        let rest = &bytes[from..];
        let range = format!("Content-Range: bytes {from}-{}/{}\r\n", bytes.len() - 1, bytes.len());
        let head =
            if from == 0 { head("200 OK", rest.len(), "") } else { head("206 Part", rest.len(), &range) };
        if number <= drips {
            drop(stream.write_all(head.as_bytes()).await);
            drip(&mut stream, rest, pause).await;
        } else {
            send(stream, head, rest).await;
        }
    })
    .await
}

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

/// A registry that wants a token of a server that is reached through it: the same host, where `token` answers.
async fn with_token_of_its_own(
    token: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    answer: impl Fn(&Request) -> Reply + Send + Sync + 'static,
) -> FakeServer {
    FakeServer::start(move |request| {
        if request.path.starts_with("/token") {
            return token(request);
        }
        if request.header("authorization") == Some("Bearer canary-token") {
            return answer(request);
        }
        let challenge = format!("Bearer realm=\"http://{}/token\"", request.header("host").expect("a host"));
        Reply::new(401, &[("WWW-Authenticate", &challenge)], r#"{"errors":[{"code":"UNAUTHORIZED"}]}"#)
    })
    .await
}

const TOKEN: &str = r#"{"token":"canary-token"}"#;

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

async fn push(settings: RegistrySettings, name: &str, content: &Arc<Bytes>) -> Result<Delivery> {
    let pusher = RegistryResolver::new(settings).pusher(name).await?;
    let source: Arc<dyn Source> = Arc::clone(content) as Arc<dyn Source>;
    bounded(pusher.push(&Shipment::new(blob(content), Place::Blob, source))).await
}

/// Takes uploads, the body of the first `slow` of them by `taking`.
async fn taking<F: Future<Output = ()> + Send>(
    slow: usize,
    content: usize,
    taking: impl Fn(TcpStream) -> F + Send + Sync + 'static,
) -> Slow {
    let (taking, count) = (Arc::new(taking), Arc::new(AtomicUsize::new(0)));
    Slow::start(move |_, asked, mut stream| {
        let (taking, count) = (Arc::clone(&taking), Arc::clone(&count));
        async move {
            match asked.split(' ').next() {
                Some("POST") => {
                    send(stream, head("202 Go", 0, "Location: /v2/a/blobs/uploads/1\r\n"), b"").await;
                }
                Some("PUT") if count.fetch_add(1, Ordering::SeqCst) < slow => taking(stream).await,
                Some("PUT") => {
                    let mut body = Vec::new();
                    let read = (&mut stream).take(content as u64).read_to_end(&mut body).await;
                    assert_eq!(read.expect("reads"), content);
                    send(stream, head("201 There", 0, ""), b"").await;
                }
                _ => send(stream, head("404 Not", 0, ""), b"").await,
            }
        }
    })
    .await
}

#[tokio::test]
async fn an_upload_that_nobody_takes_is_begun_again() {
    let content = Arc::new(Bytes::from(noise(16 << 20, 9)));
    let silent = |stream: TcpStream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    };
    let server = taking(1, content.len(), silent).await;
    let (settings, told) = settings();
    let settings = settings.with_timeouts(Duration::from_secs(5), MS * 300);
    let pushed = push(settings, &format!("{}/a:1", server.address), &content).await.expect("pushes");
    assert_eq!(pushed, Delivery::Sent);
    let retried = told.of("retried");
    assert!(retried.len() == 1 && retried[0].contains("stopped taking what is sent"), "{:?}", told.all());
}

#[tokio::test]
async fn an_upload_that_is_taken_too_slowly_is_begun_again_unless_it_may_be() {
    let content = Arc::new(Bytes::from(noise(16 << 20, 9)));
    let len = content.len();
    let sip = |pause: Duration| {
        move |mut stream: TcpStream| async move {
            let (mut buffer, mut left) = (vec![0; 256 << 10], 16 << 20);
            while left > 0 {
                tokio::time::sleep(pause).await;
                match stream.read(&mut buffer).await {
                    Ok(read) if read > 0 => left -= read,
                    _ => return,
                }
            }
            send(stream, head("201 There", 0, ""), b"").await;
        }
    };
    // Some 5 MB per second, of which 50 are wanted.
    let server = taking(1, len, sip(MS * 50)).await;
    let (settings, told) = settings();
    let wanting = settings.with_min_throughput(NonZeroU64::new(50_000_000), MS * 300);
    push(wanting, &format!("{}/a:1", server.address), &content).await.expect("pushes");
    let retried = told.of("retried");
    assert!(retried.len() == 1 && retried[0].contains("takes what is sent too slowly"), "{:?}", told.all());

    let server = taking(1, len, sip(MS * 10)).await;
    let (settings, told) = self::settings();
    let patient = settings.with_min_throughput(None, MS * 300);
    push(patient, &format!("{}/a:1", server.address), &content).await.expect("pushes");
    assert_eq!(told.all(), [""; 0]);
}

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
