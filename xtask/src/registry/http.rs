//! As much HTTP/1.1 as it takes to ask a registry on loopback: one request per connection, no TLS, no redirects.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use crate::failure::{Context, Failure, Result, ensure};

/// How long connecting, one read or one write may take.
const LIMIT: Duration = Duration::from_secs(20);

/// What the server answered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Response {
    /// The status code.
    pub(crate) status: u16,
    /// The bytes after the head.
    pub(crate) body: Vec<u8>,
}

/// Asks for a path.
pub(crate) fn get(port: u16, path: &str) -> Result<Response> {
    request(port, "GET", path, None, &[])
}

/// Asks what there is at a path.
pub(crate) fn head(port: u16, path: &str) -> Result<Response> {
    request(port, "HEAD", path, None, &[])
}

/// Puts `body` at a path.
pub(crate) fn put(port: u16, path: &str, media_type: &str, body: &[u8]) -> Result<Response> {
    request(port, "PUT", path, Some(("Content-Type", media_type)), body)
}

/// Posts `body` to a path.
pub(crate) fn post(port: u16, path: &str, media_type: &str, body: &[u8]) -> Result<Response> {
    request(port, "POST", path, Some(("Content-Type", media_type)), body)
}

/// Asks for a manifest of OCI's kind; registries give what is accepted, and some give schema 1 when nothing is.
pub(crate) fn get_manifest(port: u16, repository: &str, tag: &str) -> Result<Vec<u8>> {
    let accept = ("Accept", "application/vnd.oci.image.manifest.v1+json");
    let response = request(port, "GET", &format!("/v2/{repository}/manifests/{tag}"), Some(accept), &[])?;
    ensure(response.status == 200, || format!("{repository}:{tag}: status {}", response.status))?;
    Ok(response.body)
}

/// Asks for an index of OCI's kind; nothing, where there is none of that tag.
pub(crate) fn get_index(port: u16, repository: &str, tag: &str) -> Result<Option<Vec<u8>>> {
    let accept = ("Accept", "application/vnd.oci.image.index.v1+json");
    let response = request(port, "GET", &format!("/v2/{repository}/manifests/{tag}"), Some(accept), &[])?;
    match response.status {
        200 => Ok(Some(response.body)),
        404 => Ok(None),
        status => Err(Failure::new(format!("{repository}:{tag}: status {status}"))),
    }
}

fn request(
    port: u16,
    method: &str,
    path: &str,
    field: Option<(&str, &str)>,
    body: &[u8],
) -> Result<Response> {
    let doing = format!("{method} http://127.0.0.1:{port}{path}");
    let answer =
        exchange(port, &request_head(port, method, path, field, body.len()), body).context(&doing)?;
    parse(&answer).context(format_args!("{doing}: not an HTTP response"))
}

fn exchange(port: u16, head: &str, body: &[u8]) -> std::io::Result<Vec<u8>> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}

fn request_head(port: u16, method: &str, path: &str, field: Option<(&str, &str)>, length: usize) -> String {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n");
    if let Some((name, value)) = field {
        head.extend([name, ": ", value, "\r\n"]);
    }
    head + &format!("Content-Length: {length}\r\n\r\n")
}

/// Takes an answer apart. Chunked bodies are put together again.
fn parse(answer: &[u8]) -> Option<Response> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let status = head.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok()?;
    let body = &answer[end + 4..];
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    let body = if chunked { unchunk(body)? } else { body.to_vec() };
    Some(Response { status, body })
}

fn unchunk(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = rest.windows(2).position(|window| window == b"\r\n")?;
        let length = std::str::from_utf8(&rest[..line]).ok()?.split(';').next()?.trim();
        let length = usize::from_str_radix(length, 16).ok()?;
        rest = &rest[line + 2..];
        if length == 0 {
            return Some(body);
        }
        body.extend_from_slice(rest.get(..length)?);
        rest = rest.get(length + 2..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_taken_apart() {
        let plain = b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\nok";
        assert_eq!(parse(plain), Some(Response { status: 201, body: b"ok".to_vec() }));
        let chunked =
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n";
        assert_eq!(parse(chunked), Some(Response { status: 200, body: b"abcde".to_vec() }));
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        for broken in [
            &b"SSH-2.0-OpenSSH\r\n\r\n"[..],
            b"HTTP/1.1 abc\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nabc\r\n",
        ] {
            assert_eq!(parse(broken), None);
        }
    }

    #[test]
    fn heads_are_complete() {
        assert_eq!(
            request_head(80, "PUT", "/v2/a/manifests/b", Some(("Content-Type", "x/y")), 3),
            "PUT /v2/a/manifests/b HTTP/1.1\r\nHost: 127.0.0.1:80\r\nConnection: close\r\nContent-Type: x/y\r\n\
             Content-Length: 3\r\n\r\n"
        );
    }
}
