//! An upstream that answers as a test says, piece by piece.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::Semaphore,
    task::JoinSet,
};
use wharf_content::Digest;

use crate::site::soon;

/// A request that came.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) path: String,
    head: String,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        lines.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }

    pub(crate) fn is(&self, method: &str, path: &str) -> bool {
        self.method == method && self.path == path
    }
}

/// What is answered.
#[derive(Clone, Debug)]
pub(crate) struct Given {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    has_length: bool,
    /// So many bytes of the body come before what lets the rest through, and without it nothing does.
    gate: Option<(usize, Arc<Semaphore>)>,
    /// What lets the head through.
    door: Option<Arc<Semaphore>>,
}

impl Given {
    pub(crate) fn status(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new(), has_length: true, gate: None, door: None }
    }

    /// Content, as a registry has it.
    pub(crate) fn content(media_type: &str, body: &[u8]) -> Self {
        let given = Self { body: body.to_vec(), ..Self::status(200) };
        given.with("Content-Type", media_type).with("Docker-Content-Digest", Digest::sha256(body).as_str())
    }

    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The part of its body that a request asks for.
    pub(crate) fn ranged(mut self, asked: &Asked) -> Self {
        let start = asked.header("range").and_then(|range| range.strip_prefix("bytes=")?.split('-').next());
        if let Some(start) = start.and_then(|start| start.parse::<usize>().ok()) {
            let len = self.body.len();
            self.body.drain(..start);
            self.status = 206;
            return self.with("Content-Range", &format!("bytes {start}-{}/{len}", len - 1));
        }
        self
    }

    pub(crate) fn without_length(mut self) -> Self {
        self.has_length = false;
        self
    }

    /// Stops after so many bytes until there is a permit.
    pub(crate) fn stopping(mut self, after: usize, gate: &Arc<Semaphore>) -> Self {
        self.gate = Some((after, Arc::clone(gate)));
        self
    }

    /// Says nothing until there is a permit.
    pub(crate) fn behind(mut self, door: &Arc<Semaphore>) -> Self {
        self.door = Some(Arc::clone(door));
        self
    }
}

/// The upstream. It ends when this is dropped.
pub(crate) struct Script {
    pub(crate) address: SocketAddr,
    log: Arc<Mutex<Vec<Asked>>>,
    _task: JoinSet<()>,
}

impl Script {
    pub(crate) async fn start(answer: impl Fn(&Asked) -> Given + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (log, answer) = (Arc::new(Mutex::new(Vec::new())), Arc::new(answer));
        let (noted, mut task) = (Arc::clone(&log), JoinSet::new());
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let (log, answer) = (Arc::clone(&noted), Arc::clone(&answer));
                connections.spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        head.push(stream.read_u8().await?);
                    }
                    let head = String::from_utf8_lossy(&head).into_owned();
                    let length = head
                        .to_lowercase()
                        .lines()
                        .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
                    stream.read_exact(&mut vec![0; length.unwrap_or(0)]).await?;
                    let mut words = head.split(' ').map(str::to_owned);
                    let (method, path) = (words.next().expect("a method"), words.next().expect("a path"));
                    let asked = Asked { method, path, head };
                    log.lock().unwrap_or_else(PoisonError::into_inner).push(asked.clone());
                    let given = answer(&asked);
                    if let Some(door) = &given.door {
                        door.acquire().await.expect("never closed").forget();
                    }
                    let mut told = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", given.status);
                    for (name, value) in &given.headers {
                        told.push_str(&format!("{name}: {value}\r\n"));
                    }
                    if given.has_length {
                        told.push_str(&format!("Content-Length: {}\r\n", given.body.len()));
                    }
                    told.push_str("\r\n");
                    stream.write_all(told.as_bytes()).await?;
                    if asked.method == "HEAD" {
                        return Ok(());
                    }
                    let Some((after, gate)) = given.gate else { return stream.write_all(&given.body).await };
                    stream.write_all(&given.body[..after]).await?;
                    gate.acquire().await.expect("never closed").forget();
                    stream.write_all(&given.body[after..]).await
                });
            }
        });
        Self { address, log, _task: task }
    }

    /// What was asked so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn count(&self, method: &str, path: &str) -> usize {
        self.asked().iter().filter(|asked| asked.is(method, path)).count()
    }

    /// Waits until something was asked so often.
    pub(crate) async fn wait_for(&self, method: &str, path: &str, count: usize) {
        soon(async || self.count(method, path) >= count).await;
    }
}
