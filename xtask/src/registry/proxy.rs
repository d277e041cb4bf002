//! A TCP proxy on loopback that counts what flows to the client and can be a bad connection: hold it to a rate, reset
//! it every so many bytes, turn the first callers away, be far from it. So a pull can be caught in its middle, and one
//! that goes on be told from one that begins anew. It knows as much of HTTP as it takes to say "429".

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::net::sockopt::{set_socket_linger, set_socket_send_buffer_size};

use crate::failure::{Context, Result};

/// How often a waiting thread looks whether it is still wanted.
const PULSE: Duration = Duration::from_millis(20);

/// Bytes that the kernel may hold for a client whose connection is going to be reset: they are lost with it, and
/// counted all the same.
const HELD: usize = 64 * 1024;

/// How bad the connections are. By default they are good.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Options {
    rate: u64,
    reset_every: Option<u64>,
    turn_away: u64,
    /// How long it takes until an answer can come to a connection or to what was sent.
    round_trip: Duration,
}

impl Options {
    /// Lets so many bytes per second through to the client on each connection; 0 is no limit.
    pub(crate) fn with_rate(mut self, rate: u64) -> Self {
        self.rate = rate;
        self
    }

    /// Resets every connection after so many bytes to the client.
    pub(crate) fn with_resets(mut self, every: u64) -> Self {
        self.reset_every = Some(every);
        self
    }

    /// Answers the first request of each of the first `count` connections with 429 and `Retry-After: 1`.
    pub(crate) fn with_turned_away(mut self, count: u64) -> Self {
        self.turn_away = count;
        self
    }
}

/// A running proxy in front of one port.
#[derive(Debug)]
pub(crate) struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    upstream: SocketAddr,
    options: Options,
    /// Bytes per second to the client on each connection; 0 for no limit.
    rate: AtomicU64,
    /// Bytes sent to the client.
    sent: AtomicU64,
    /// Connections that were reset.
    resets: AtomicU64,
    /// When each connection came.
    accepted: Mutex<Vec<Instant>>,
    /// Set when every thread is to end.
    stop: AtomicBool,
}

impl Proxy {
    /// Starts one in front of a port on loopback, with a limit in bytes per second (0 for none).
    pub(crate) fn start(upstream: u16, rate: u64) -> Result<Self> {
        Self::start_with(upstream, Options::default().with_rate(rate))
    }

    /// Starts one that is as if it were far away: connecting takes a round trip, and so does each request that is
    /// sent in one piece.
    pub(crate) fn start_far(upstream: u16, round_trip: Duration) -> Result<Self> {
        Self::start_with(upstream, Options { round_trip, ..Options::default() })
    }

    /// Starts one in front of a port on loopback, as bad as `options` say.
    pub(crate) fn start_with(upstream: u16, options: Options) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen on loopback")?;
        listener.set_nonblocking(true).context("cannot listen on loopback")?;
        let port = listener.local_addr().context("cannot tell the port")?.port();
        let shared = Arc::new(Shared {
            upstream: SocketAddr::from((Ipv4Addr::LOCALHOST, upstream)),
            options,
            rate: AtomicU64::new(options.rate),
            sent: AtomicU64::new(0),
            resets: AtomicU64::new(0),
            accepted: Mutex::new(Vec::new()),
            stop: AtomicBool::new(false),
        });
        let acceptor = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || accept(&listener, &shared))
        };
        Ok(Self { port, shared, acceptor: Some(acceptor) })
    }

    /// The port it listens on.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// How many bytes went to the client so far.
    pub(crate) fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }

    /// How many connections were reset so far.
    pub(crate) fn resets(&self) -> u64 {
        self.shared.resets.load(Ordering::Relaxed)
    }

    /// When each connection came, in order.
    pub(crate) fn accepted(&self) -> Vec<Instant> {
        self.shared.accepted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets another limit, from the next connection on; 0 for none.
    pub(crate) fn set_rate(&self, rate: u64) {
        self.shared.rate.store(rate, Ordering::Relaxed);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(acceptor) = self.acceptor.take() {
            drop(acceptor.join());
        }
    }
}

impl Shared {
    /// Notes a new connection and gives its number, from 0.
    fn number(&self) -> u64 {
        let mut accepted = self.accepted.lock().unwrap_or_else(PoisonError::into_inner);
        accepted.push(Instant::now());
        accepted.len() as u64 - 1
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut connections = Vec::new();
    while !shared.stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((client, _)) => {
                let shared = Arc::clone(shared);
                let number = shared.number();
                connections.push(thread::spawn(move || drop(serve(client, number, &shared))));
            }
            Err(_) => thread::sleep(Duration::from_millis(2)),
        }
    }
    for connection in connections {
        drop(connection.join());
    }
}

fn serve(client: TcpStream, number: u64, shared: &Arc<Shared>) -> std::io::Result<()> {
    client.set_nonblocking(false)?;
    thread::sleep(shared.options.round_trip);
    if number < shared.options.turn_away {
        return turn_away(client);
    }
    if shared.options.reset_every.is_some() {
        set_socket_send_buffer_size(&client, HELD)?;
    }
    let server = TcpStream::connect(shared.upstream)?;
    for stream in [&client, &server] {
        stream.set_read_timeout(Some(PULSE))?;
        stream.set_write_timeout(Some(Duration::from_secs(30)))?;
        stream.set_nodelay(true)?;
    }
    let (up_from, up_to) = (client.try_clone()?, server.try_clone()?);
    let up = {
        let shared = Arc::clone(shared);
        thread::spawn(move || pump(up_from, up_to, &shared, None))
    };
    let limits = Limits { rate: shared.rate.load(Ordering::Relaxed), bytes: shared.options.reset_every };
    let reset = pump(server, client.try_clone()?, shared, Some(limits)) == End::Limit;
    if reset {
        // Counted first, so that whoever has seen it finds it counted.
        shared.resets.fetch_add(1, Ordering::Relaxed);
        // The kernel says RST in place of FIN when the last handle of the socket goes.
        set_socket_linger(&client, Some(Duration::ZERO))?;
        client.shutdown(Shutdown::Read)?;
    }
    drop(up.join());
    Ok(())
}

/// Reads the head of one request and says that there have been too many.
fn turn_away(mut client: TcpStream) -> std::io::Result<()> {
    client.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && head.len() < 16 * 1024 && client.read(&mut byte)? == 1 {
        head.push(byte[0]);
    }
    let answer =
        "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    client.write_all(answer.as_bytes())
}

/// What the way to the client is held to.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// Bytes per second; 0 for no limit.
    rate: u64,
    /// Bytes in all.
    bytes: Option<u64>,
}

/// Why bytes do not flow any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// One of the sides has ended.
    Side,
    /// As many bytes have flowed as there may.
    Limit,
}

/// Copies one direction until either side ends. With limits, which are those of the way to the client, bytes are counted.
fn pump(mut from: TcpStream, mut to: TcpStream, shared: &Shared, limits: Option<Limits>) -> End {
    let mut buffer = vec![0; 64 * 1024];
    let started = Instant::now();
    let mut copied = 0_u64;
    while !shared.stop.load(Ordering::Relaxed) {
        let left =
            limits.and_then(|limits| limits.bytes).map_or(u64::MAX, |bytes| bytes.saturating_sub(copied));
        if left == 0 {
            drop(from.shutdown(Shutdown::Both));
            return End::Limit;
        }
        let room = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let length = match from.read(&mut buffer[..room]) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
            Err(_) => break,
        };
        if limits.is_none() {
            thread::sleep(shared.options.round_trip);
        }
        // Counted first, so that whoever has received something finds it counted.
        if limits.is_some() {
            shared.sent.fetch_add(length as u64, Ordering::Relaxed);
        }
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
        copied += length as u64;
        let rate = limits.map_or(0, |limits| limits.rate);
        if let Some(due) = (copied * 1000).checked_div(rate).map(Duration::from_millis) {
            thread::sleep(due.saturating_sub(started.elapsed()).min(Duration::from_secs(1)));
        }
    }
    // Either side may be gone already.
    drop(to.shutdown(Shutdown::Write));
    drop(from.shutdown(Shutdown::Read));
    End::Side
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that sends `length` bytes to everybody once.
    fn sender(length: usize) -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            // Whoever listens may be cut off.
            drop(stream.write_all(&vec![7; length]));
        });
        port
    }

    fn receive(port: u16) -> usize {
        let mut bytes = Vec::new();
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap().read_to_end(&mut bytes).unwrap();
        bytes.len()
    }

    #[test]
    fn everything_passes_and_is_counted() {
        let proxy = Proxy::start(sender(300_000), 0).unwrap();
        assert_eq!(receive(proxy.port()), 300_000);
        assert_eq!(proxy.sent(), 300_000);
        assert_eq!((proxy.resets(), proxy.accepted().len()), (0, 1));
    }

    #[test]
    fn what_is_far_takes_a_round_trip() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut byte = [0];
            while stream.read_exact(&mut byte).is_ok() {
                stream.write_all(&byte).unwrap();
            }
        });
        let round_trip = Duration::from_millis(30);
        let proxy = Proxy::start_far(port, round_trip).unwrap();
        let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).unwrap();
        for turn in 1..4 {
            let started = Instant::now();
            client.write_all(&[turn]).unwrap();
            let mut byte = [0];
            client.read_exact(&mut byte).unwrap();
            assert_eq!(byte, [turn]);
            assert!(started.elapsed() >= round_trip, "{:?}", started.elapsed());
        }
    }

    #[test]
    fn a_rate_takes_its_time() {
        let proxy = Proxy::start(sender(400_000), 1_000_000).unwrap();
        let started = Instant::now();
        assert_eq!(receive(proxy.port()), 400_000);
        assert!(started.elapsed() > Duration::from_millis(250), "{:?}", started.elapsed());
    }

    #[test]
    fn connections_are_reset_not_closed() {
        let options = Options::default().with_resets(100_000);
        let proxy = Proxy::start_with(sender(3_000_000), options).unwrap();
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).unwrap();
        let mut bytes = Vec::new();
        let error = stream.read_to_end(&mut bytes).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        assert!(bytes.len() <= 100_000, "{}", bytes.len());
        assert_eq!((proxy.sent(), proxy.resets()), (100_000, 1));
        // What is shorter than that comes whole.
        let proxy = Proxy::start_with(sender(99_999), options).unwrap();
        assert_eq!((receive(proxy.port()), proxy.resets()), (99_999, 0));
    }

    #[test]
    fn the_first_are_turned_away() {
        let options = Options::default().with_turned_away(1);
        let proxy = Proxy::start_with(sender(10), options).unwrap();
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 429 ") && answer.contains("Retry-After: 1\r\n"), "{answer}");
        assert_eq!(receive(proxy.port()), 10);
    }
}
