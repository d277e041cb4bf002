//! A forward proxy on loopback, as `HTTP_PROXY` and `HTTPS_PROXY` name one: the only one that knows where the hosts
//! are whose names end in `.test`, which is here. It keeps a list of who was asked for. One request per connection for
//! plain HTTP, tunnels for the rest.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::failure::{Context, Result};

/// The most that the head of a request may be.
const HEAD_CAP: usize = 64 * 1024;

/// How long one read or write may take.
const LIMIT: Duration = Duration::from_secs(20);

/// A running forward proxy.
#[derive(Debug)]
pub(crate) struct Forward {
    port: u16,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    asked: Mutex<Vec<String>>,
    stop: AtomicBool,
}

impl Forward {
    /// Starts one.
    pub(crate) fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen on loopback")?;
        listener.set_nonblocking(true).context("cannot listen on loopback")?;
        let port = listener.local_addr().context("cannot tell the port")?.port();
        let shared = Arc::new(Shared::default());
        let acceptor = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || accept(&listener, &shared))
        };
        Ok(Self { port, shared, acceptor: Some(acceptor) })
    }

    /// Its URL.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// For each request the method and the host with its port, such as `CONNECT registry.test:443`.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.shared.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(acceptor) = self.acceptor.take() {
            drop(acceptor.join());
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    while !shared.stop.load(Ordering::Relaxed) {
        match listener.accept() {
            // These threads end with their connections, and those with the programs that made them.
            Ok((client, _)) => {
                let shared = Arc::clone(shared);
                thread::spawn(move || drop(serve(client, &shared)));
            }
            Err(_) => thread::sleep(Duration::from_millis(2)),
        }
    }
}

fn serve(mut client: TcpStream, shared: &Shared) -> std::io::Result<()> {
    client.set_nonblocking(false)?;
    client.set_read_timeout(Some(LIMIT))?;
    client.set_write_timeout(Some(LIMIT))?;
    let (head, body) = read_head(&mut client)?;
    let Some(request) = forwarded(&head) else {
        return client
            .write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    };
    let line = format!("{} {}:{}", request.method, request.host, request.port);
    shared.asked.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    if request.host.rsplit('.').next() != Some("test") {
        return client
            .write_all(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    }
    let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, request.port))?;
    match &request.head {
        None => client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?,
        Some(head) => server.write_all(head.as_bytes())?,
    }
    server.write_all(&body)?;
    let (mut up_from, mut up_to) = (client.try_clone()?, server.try_clone()?);
    let up = thread::spawn(move || {
        drop(std::io::copy(&mut up_from, &mut up_to));
        drop(up_to.shutdown(Shutdown::Write));
    });
    let copied = std::io::copy(&mut server, &mut client);
    drop(client.shutdown(Shutdown::Both));
    drop(up.join());
    copied.map(drop)
}

/// Reads up to the empty line, and what has come after it already.
fn read_head(client: &mut TcpStream) -> std::io::Result<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let body = bytes.split_off(end + 4);
            return Ok((String::from_utf8_lossy(&bytes).into_owned(), body));
        }
        match client.read(&mut buffer)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            length if bytes.len() + length > HEAD_CAP => return Err(std::io::ErrorKind::InvalidData.into()),
            length => bytes.extend_from_slice(&buffer[..length]),
        }
    }
}

/// Where a request goes.
#[derive(Debug, PartialEq, Eq)]
struct Forwarded {
    method: String,
    host: String,
    port: u16,
    /// What is sent on; nothing for a tunnel.
    head: Option<String>,
}

/// Reads the head of a request to a proxy. What is sent on has the path alone, and ends the connection after the answer.
fn forwarded(head: &str) -> Option<Forwarded> {
    let (line, fields) = head.split_once("\r\n")?;
    let mut words = line.split(' ');
    let (method, target) = (words.next()?, words.next()?);
    if method == "CONNECT" {
        let (host, port) = target.rsplit_once(':')?;
        let port = port.parse().ok()?;
        return Some(Forwarded { method: method.to_owned(), host: host.to_owned(), port, head: None });
    }
    let rest = target.strip_prefix("http://")?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().ok()?),
        None => (authority, 80),
    };
    let path = if path.is_empty() { "/" } else { path };
    let kept = fields.split_inclusive("\r\n").filter(|field| {
        let name = field.split(':').next().unwrap_or_default().to_ascii_lowercase();
        !matches!(name.as_str(), "connection" | "proxy-connection" | "proxy-authorization")
    });
    let kept: String = kept.collect();
    let head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n{kept}");
    Some(Forwarded { method: method.to_owned(), host: host.to_owned(), port, head: Some(head) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_sent_on_without_what_was_meant_for_the_proxy() {
        let head = "GET http://a.test:81/v2/?x=y HTTP/1.1\r\nHost: a.test:81\r\nProxy-Connection: keep-alive\r\n\
            Connection: keep-alive\r\nAccept: */*\r\n\r\n";
        let request = forwarded(head).unwrap();
        assert_eq!((request.method.as_str(), request.host.as_str(), request.port), ("GET", "a.test", 81));
        assert_eq!(
            request.head.unwrap(),
            "GET /v2/?x=y HTTP/1.1\r\nConnection: close\r\nHost: a.test:81\r\nAccept: */*\r\n\r\n"
        );
        let bare = forwarded("HEAD http://a.test HTTP/1.1\r\n\r\n").unwrap();
        assert_eq!((bare.port, bare.head.unwrap().starts_with("HEAD / HTTP/1.1\r\n")), (80, true));
    }

    #[test]
    fn tunnels_are_recognised_and_other_things_refused() {
        let tunnel = forwarded("CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n").unwrap();
        assert_eq!((tunnel.host.as_str(), tunnel.port, tunnel.head), ("a.test", 443, None));
        for wrong in ["GET /v2/ HTTP/1.1\r\n\r\n", "CONNECT a.test HTTP/1.1\r\n\r\n", "GET\r\n\r\n", "x"] {
            assert_eq!(forwarded(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn only_names_of_the_test_domain_are_reached() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            read_head(&mut stream).unwrap();
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
        });
        let proxy = Forward::start().unwrap();
        for (host, status) in [("a.test", "204"), ("a.example", "502")] {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port)).unwrap();
            stream.write_all(format!("GET http://{host}:{port}/ HTTP/1.1\r\n\r\n").as_bytes()).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
        }
        server.join().unwrap();
        assert_eq!(proxy.asked(), [format!("GET a.test:{port}"), format!("GET a.example:{port}")]);
    }
}
