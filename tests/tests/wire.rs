//! What every request goes through: time-outs of each part of it, waits that registries ask for, limits of each host, and what is told of it
//! all. Each misbehaviour has a twin that is slow but honest, and works.

#[path = "wire/limits.rs"]
mod limits;
#[path = "wire/slow.rs"]
mod slow;
#[path = "wire/told.rs"]
mod told;
#[path = "wire/uploads.rs"]
mod uploads;

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
