//! A server that answers whatever a test tells it to, byte for byte.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
    task::JoinHandle,
};

/// A request as the server saw it.
#[derive(Clone, Debug)]
pub struct Request {
    /// The first line and the headers.
    pub head: String,
    /// The method.
    pub method: String,
    /// The path with its query.
    pub path: String,
    /// What was read of the body.
    pub body: Vec<u8>,
}

impl Request {
    pub(crate) fn parse(head: String) -> Self {
        let mut words = head.split(' ');
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        Self { method: method.to_owned(), path: path.to_owned(), head, body: Vec::new() }
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// How long the body says that it is.
    pub fn content_length(&self) -> Option<usize> {
        self.header("content-length")?.parse().ok()
    }
}

/// An answer, written as it is; then the connection is closed.
#[derive(Clone, Debug)]
pub struct Reply {
    bytes: Vec<u8>,
    ending: Ending,
    /// How many bytes at a time, and how long is waited after each of them.
    drip: Option<(usize, Duration)>,
}

/// What comes after the bytes.
#[derive(Clone, Debug)]
enum Ending {
    Close,
    Stall,
    /// These, again and again.
    Repeat(Vec<u8>),
}

impl Reply {
    /// Bytes of the test's own, head and all.
    pub fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self { bytes: bytes.into(), ending: Ending::Close, drip: None }
    }

    /// A status with headers and a body in chunks of `piece` that ends when the client has enough of it.
    pub fn endless(status: u16, headers: &[(&str, &str)], piece: impl AsRef<[u8]>) -> Self {
        let piece = piece.as_ref();
        let head = Self::new(status, &[headers, &[("Transfer-Encoding", "chunked")]].concat(), "");
        let chunk = [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat();
        Self { ending: Ending::Repeat(chunk), ..head }
    }

    /// A status with headers and a body, whose length is announced unless the headers do it.
    pub fn new(status: u16, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref();
        let mut head = format!("HTTP/1.1 {status} Status\r\nConnection: close\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let announced = headers.iter().any(|(name, _)| {
            name.eq_ignore_ascii_case("content-length") || name.eq_ignore_ascii_case("transfer-encoding")
        });
        if !announced {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(body);
        Self::raw(bytes)
    }

    /// Keeps the connection open after the last byte, and silent, until the server ends.
    #[must_use]
    pub fn stalling(mut self) -> Self {
        self.ending = Ending::Stall;
        self
    }

    /// The status that it begins with, where it begins with one.
    pub(crate) fn status(&self) -> Option<u16> {
        let first = self.bytes.split(|byte| *byte == b' ').nth(1)?;
        std::str::from_utf8(first).ok()?.parse().ok()
    }

    /// Sends it all.
    ///
    /// # Errors
    /// When the client has seen enough.
    pub(crate) async fn send(&self, stream: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        let (len, every) = self.drip.unwrap_or((self.bytes.len().max(1), Duration::ZERO));
        for piece in self.bytes.chunks(len) {
            stream.write_all(piece).await?;
            if !every.is_zero() {
                tokio::time::sleep(every).await;
            }
        }
        stream.flush().await?;
        match &self.ending {
            Ending::Close => Ok(()),
            Ending::Stall => std::future::pending().await,
            Ending::Repeat(piece) => loop {
                stream.write_all(piece).await?;
            },
        }
    }

    /// Writes so many bytes at a time, and waits after each of them.
    #[must_use]
    pub fn dripping(mut self, len: usize, every: Duration) -> Self {
        self.drip = Some((len.max(1), every));
        self
    }
}

/// The server. It ends when this is dropped.
#[derive(Debug)]
pub struct FakeServer {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    finished: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl FakeServer {
    /// Listens on a free loopback port and answers each request by `answer`.
    ///
    /// # Panics
    /// When there is no loopback.
    pub async fn start(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_reading(|_| usize::MAX, answer).await
    }

    /// As [`FakeServer::start`], but reads of each body no more than `most` says before it answers.
    ///
    /// # Panics
    /// When there is no loopback.
    pub async fn start_reading(
        most: impl Fn(&Request) -> usize + Send + Sync + 'static,
        answer: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
        Self::serve(listener, most, answer)
    }

    /// As [`FakeServer::start_reading`], where it is told.
    ///
    /// # Panics
    /// When the listener has no address.
    pub fn serve(
        listener: TcpListener,
        most: impl Fn(&Request) -> usize + Send + Sync + 'static,
        answer: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let address = listener.local_addr().expect("bound");
        let requests = Arc::new(Mutex::new(Vec::new()));
        let finished = Arc::new(AtomicUsize::new(0));
        let (log, most, answer) = (Arc::clone(&requests), Arc::new(most), Arc::new(answer));
        let count = Arc::clone(&finished);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (log, most, answer) = (Arc::clone(&log), Arc::clone(&most), Arc::clone(&answer));
                let count = Arc::clone(&count);
                tokio::spawn(async move {
                    if answer_one(stream, &log, most.as_ref(), answer.as_ref()).await {
                        count.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        });
        Self { address, requests, finished, task }
    }

    /// The address as it stands in a reference.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// The requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many answers were taken by the client, or its system, to their last byte.
    pub fn finished(&self) -> usize {
        self.finished.load(Ordering::SeqCst)
    }
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Reads one request, answers it and closes the connection; whether the whole answer was taken.
async fn answer_one<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    log: &Mutex<Vec<Request>>,
    most: &(dyn Fn(&Request) -> usize + Send + Sync),
    answer: &(dyn Fn(&Request) -> Reply + Send + Sync),
) -> bool {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < 64 * 1024 {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return false,
        }
    }
    let mut request = Request::parse(String::from_utf8_lossy(&head).into_owned());
    let wanted = request.content_length().unwrap_or(0).min(most(&request));
    if (&mut stream).take(wanted as u64).read_to_end(&mut request.body).await.is_err() {
        return false;
    }
    log.lock().unwrap_or_else(PoisonError::into_inner).push(request.clone());
    if answer(&request).send(&mut stream).await.is_err() {
        // The client has seen enough before the end.
        return false;
    }
    drop(stream.shutdown().await);
    true
}
