//! A TCP proxy on loopback that counts what flows to the client and can hold it to a rate, so that a pull can
//! be caught in its middle and a resumed one be told from a new one. It knows nothing of HTTP.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::failure::{Context, Result};

/// How often a waiting thread looks whether it is still wanted.
const PULSE: Duration = Duration::from_millis(20);

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
    /// Bytes per second to the client on each connection; 0 for no limit.
    rate: AtomicU64,
    /// Bytes sent to the client.
    sent: AtomicU64,
    /// Set when every thread is to end.
    stop: AtomicBool,
}

impl Proxy {
    /// Starts one in front of a port on loopback, with a limit in bytes per second (0 for none).
    pub(crate) fn start(upstream: u16, rate: u64) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen on loopback")?;
        listener.set_nonblocking(true).context("cannot listen on loopback")?;
        let port = listener.local_addr().context("cannot tell the port")?.port();
        let shared = Arc::new(Shared {
            upstream: SocketAddr::from((Ipv4Addr::LOCALHOST, upstream)),
            rate: AtomicU64::new(rate),
            sent: AtomicU64::new(0),
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

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut connections = Vec::new();
    while !shared.stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((client, _)) => {
                let shared = Arc::clone(shared);
                connections.push(thread::spawn(move || drop(serve(client, &shared))));
            }
            Err(_) => thread::sleep(Duration::from_millis(2)),
        }
    }
    for connection in connections {
        drop(connection.join());
    }
}

fn serve(client: TcpStream, shared: &Arc<Shared>) -> std::io::Result<()> {
    client.set_nonblocking(false)?;
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
    let rate = shared.rate.load(Ordering::Relaxed);
    pump(server, client, shared, Some(rate));
    drop(up.join());
    Ok(())
}

/// Copies one direction until either side ends. With a `rate`, bytes are counted, and held to it unless it is 0.
fn pump(mut from: TcpStream, mut to: TcpStream, shared: &Shared, rate: Option<u64>) {
    let mut buffer = vec![0; 64 * 1024];
    let started = Instant::now();
    let mut copied = 0_u64;
    while !shared.stop.load(Ordering::Relaxed) {
        let length = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
            Err(_) => break,
        };
        // Counted first, so that whoever has received something finds it counted.
        if rate.is_some() {
            shared.sent.fetch_add(length as u64, Ordering::Relaxed);
        }
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
        if let Some(rate) = rate {
            copied += length as u64;
            if let Some(due) = (copied * 1000).checked_div(rate).map(Duration::from_millis) {
                thread::sleep(due.saturating_sub(started.elapsed()).min(Duration::from_secs(1)));
            }
        }
    }
    // Either side may be gone already.
    drop(to.shutdown(Shutdown::Write));
    drop(from.shutdown(Shutdown::Read));
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
            stream.write_all(&vec![7; length]).unwrap();
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
    }

    #[test]
    fn a_rate_takes_its_time() {
        let proxy = Proxy::start(sender(400_000), 1_000_000).unwrap();
        let started = Instant::now();
        assert_eq!(receive(proxy.port()), 400_000);
        assert!(started.elapsed() > Duration::from_millis(250), "{:?}", started.elapsed());
    }
}
