//! A client that costs as little as one can: it asks over plain HTTP/1.1, and has the kernel throw bodies away unread.
//!
//! Whoever is measured with it shares the machine with it. It knows statuses and lengths, and no other header.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::ops::Range;
use std::time::Duration;

use rustix::net::{RecvFlags, recv};

use crate::failure::{Context, Result, ensure};

/// How long connecting, one read or one write may take.
const LIMIT: Duration = Duration::from_secs(60);

/// The most bytes that are taken at a time.
const WINDOW: usize = 4 << 20;

/// The longest head of an answer, in bytes.
const MAX_HEAD: usize = 16 << 10;

/// A connection to a server on loopback, for one request after the other.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    host: String,
    /// What bodies are thrown away through is never written to, and so takes no memory.
    window: Vec<u8>,
}

impl Connection {
    pub(super) fn open(port: u16) -> Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let open = || -> std::io::Result<TcpStream> {
            let stream = TcpStream::connect_timeout(&address, LIMIT)?;
            stream.set_read_timeout(Some(LIMIT))?;
            stream.set_write_timeout(Some(LIMIT))?;
            stream.set_nodelay(true)?;
            Ok(stream)
        };
        let stream = open().context(address)?;
        Ok(Self { stream, host: address.to_string(), window: vec![0; WINDOW] })
    }

    /// The bytes of a request, which may be sent any number of times.
    pub(super) fn request(&self, method: &str, path: &str) -> Vec<u8> {
        let accept = "application/vnd.oci.image.manifest.v1+json";
        format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nAccept: {accept}\r\n\r\n", self.host).into_bytes()
    }

    /// Sends a request and throws the body of the answer away, whose length it gives.
    pub(super) fn discard(&mut self, request: &[u8]) -> Result<u64> {
        let receive = |stream: &TcpStream, window: &mut [u8]| Ok(recv(stream, window, RecvFlags::TRUNC)?.1);
        self.ask(request, receive, |_| Ok(()))
    }

    /// Sends a request and gives the parts of the answer's body to `see`.
    pub(super) fn read(&mut self, request: &[u8], see: impl FnMut(&[u8]) -> Result<()>) -> Result<u64> {
        self.ask(request, |mut stream, window| stream.read(window), see)
    }

    fn ask(
        &mut self,
        request: &[u8],
        receive: impl Fn(&TcpStream, &mut [u8]) -> std::io::Result<usize>,
        mut see: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<u64> {
        self.stream.write_all(request).context("cannot send")?;
        let (head, first) = self.head()?;
        let length = if request.starts_with(b"HEAD ") { 0 } else { length(&head)? };
        see(&self.window[first.clone()])?;
        let mut taken = first.len() as u64;
        while taken < length {
            let wanted = usize::try_from(length - taken).unwrap_or(WINDOW).min(WINDOW);
            let found = receive(&self.stream, &mut self.window[..wanted]).context("cannot receive")?;
            ensure(found > 0, || format!("an answer ended after {taken} of {length} bytes"))?;
            see(&self.window[..found])?;
            taken += found as u64;
        }
        ensure(taken == length, || format!("an answer of {length} bytes has {taken}"))?;
        Ok(length)
    }

    /// The head of an answer that is a success, and where in the window is what came with it.
    fn head(&mut self) -> Result<(String, Range<usize>)> {
        let mut filled = 0;
        loop {
            let found = self.stream.read(&mut self.window[filled..MAX_HEAD]).context("cannot receive")?;
            ensure(found > 0, || "there is no answer, or its head has no end".to_owned())?;
            filled += found;
            let head = &self.window[..filled];
            if let Some(end) = head.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                let text = String::from_utf8_lossy(&head[..end]).into_owned();
                ensure(text.starts_with("HTTP/1.1 200 "), || format!("not what was asked for: {text}"))?;
                return Ok((text, end + 4..filled));
            }
        }
    }
}

fn length(head: &str) -> Result<u64> {
    let mut fields = head.lines().filter_map(|line| line.split_once(':'));
    let field = fields.find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    field.and_then(|(_, value)| value.trim().parse().ok()).context(format_args!("no length in {head}"))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// Answers each request on one connection with the next of these.
    fn answering(answers: &'static [&'static [u8]]) -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            let mut stream = listener.accept().unwrap().0;
            for answer in answers {
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    stream.read_exact(&mut byte).unwrap();
                    request.extend(byte);
                }
                stream.write_all(answer).unwrap();
            }
        });
        port
    }

    #[test]
    fn answers_follow_each_other() {
        const WHOLE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
        let port = answering(&[WHOLE, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", WHOLE]);
        let mut connection = Connection::open(port).unwrap();
        let (get, head) = (connection.request("GET", "/"), connection.request("HEAD", "/"));
        assert_eq!(connection.discard(&get).unwrap(), 5);
        assert_eq!(connection.discard(&head).unwrap(), 0);
        assert_eq!(connection.discard(&get).unwrap(), 5);
    }

    #[test]
    fn what_is_no_whole_success_is_told() {
        for (answer, told) in [
            (&b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"[..], "404"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello", "ended after 5 of 6"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhello", "of 4 bytes has 5"),
            (b"HTTP/1.1 200 OK\r\n\r\n", "no length"),
            (b"HTTP/1.1 200 OK\r\n", "no end"),
        ] {
            let port = answering(Box::leak(Box::new([answer])));
            let mut connection = Connection::open(port).unwrap();
            let request = connection.request("GET", "/");
            let error = connection.discard(&request).unwrap_err().to_string();
            assert!(error.contains(told), "{told}: {error}");
        }
    }
}
