//! Heads of HTTP/1.1 messages, as a proxy reads and changes them. Names keep their case and their order, and nothing is checked.

use std::io;

use tokio::io::{AsyncBufRead, AsyncReadExt};

/// The most bytes of a head.
const MAX_LEN: usize = 64 * 1024;

/// A first line and headers.
#[derive(Clone, Debug)]
pub(super) struct Head {
    first: String,
    headers: Vec<(String, String)>,
}

impl Head {
    pub(super) fn parse(text: &str) -> Self {
        let mut lines = text.lines();
        let first = lines.next().unwrap_or_default().to_owned();
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect();
        Self { first, headers }
    }

    /// The status of an answer.
    pub(super) fn status(&self) -> u16 {
        self.first.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default()
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// Puts a header in the place of all of its name; `None` only takes them out.
    pub(super) fn set(&mut self, name: &str, value: Option<&str>) {
        self.headers.retain(|(key, _)| !key.eq_ignore_ascii_case(name));
        if let Some(value) = value {
            self.headers.push((name.to_owned(), value.to_owned()));
        }
    }

    pub(super) fn content_length(&self) -> Option<u64> {
        self.header("content-length")?.parse().ok()
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut text = format!("{}\r\n", self.first);
        for (name, value) in &self.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        text.into_bytes()
    }
}

/// Reads up to the empty line; `None` where the connection ends before it.
pub(super) async fn read(stream: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<String>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= MAX_LEN {
            return Err(io::Error::other("a head without an end"));
        }
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    Ok(Some(String::from_utf8_lossy(&head).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn read_changed_and_written() {
        let mut stream = &b"HTTP/1.1 206 Partial Content\r\nContent-Length: 3\r\nX: y\r\n\r\nabc"[..];
        let mut head = Head::parse(&read(&mut stream).await.expect("reads").expect("a head"));
        assert_eq!((head.status(), head.content_length(), stream), (206, Some(3), &b"abc"[..]));
        head.set("x", None);
        head.set("content-length", Some("4"));
        assert_eq!(head.bytes(), b"HTTP/1.1 206 Partial Content\r\ncontent-length: 4\r\n\r\n");
        assert_eq!(read(&mut &b"HTTP/1.1 200"[..]).await.expect("no error"), None);
        assert!(read(&mut vec![b'x'; MAX_LEN + 1].as_slice()).await.is_err());
    }
}
