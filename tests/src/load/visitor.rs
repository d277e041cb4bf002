//! One client's connection: a request at a time, each with a limit, so that what hangs is told by its name.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{HeaderMap, Request, client::conn::http1, client::conn::http1::SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::Result;

/// How long a request may take, from the connection to the last byte of the answer. Seconds are a lot, but the machine is shared by
/// everybody in the load.
const LIMIT: Duration = Duration::from_secs(45);

/// A client.
#[derive(Debug)]
pub(super) struct Visitor {
    registry: SocketAddr,
    connection: Option<SendRequest<Full<Bytes>>>,
}

/// An answer that came whole.
#[derive(Debug)]
pub(super) struct Answer {
    /// The request, for messages.
    asked: String,
    /// The status.
    pub(super) status: u16,
    /// The headers.
    pub(super) headers: HeaderMap,
    /// The body.
    pub(super) body: Bytes,
}

impl Visitor {
    pub(super) fn new(registry: SocketAddr) -> Self {
        Self { registry, connection: None }
    }

    /// Makes the next request one on a connection of its own.
    pub(super) fn reconnect(&mut self) {
        self.connection = None;
    }

    pub(super) async fn get(&mut self, path: &str) -> Result<Answer> {
        self.ask("GET", path, &[], Bytes::new()).await
    }

    pub(super) async fn ask(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Answer> {
        let asked = format!("{method} {path}");
        let mut request =
            Request::builder().method(method).uri(path).header("Host", self.registry.to_string());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body)).map_err(|error| format!("{asked}: {error}"))?;
        match tokio::time::timeout(LIMIT, self.exchange(request)).await {
            Ok(Ok((status, headers, body))) => Ok(Answer { asked, status, headers, body }),
            Ok(Err(error)) => Err(format!("{asked}: {error}")),
            Err(_) => Err(format!("{asked}: not answered within {} s", LIMIT.as_secs())),
        }
    }

    async fn exchange(&mut self, request: Request<Full<Bytes>>) -> Result<(u16, HeaderMap, Bytes)> {
        let open = match self.connection.take() {
            Some(mut open) => open.ready().await.is_ok().then_some(open),
            None => None,
        };
        let mut sender = match open {
            Some(open) => open,
            None => connect(self.registry).await?,
        };
        let answer = sender.send_request(request).await.map_err(|error| said(&error))?;
        let (head, body) = answer.into_parts();
        let body = body.collect().await.map_err(|error| said(&error))?.to_bytes();
        self.connection = Some(sender);
        Ok((head.status.as_u16(), head.headers, body))
    }
}

async fn connect(registry: SocketAddr) -> Result<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(registry).await.map_err(|error| format!("cannot connect: {error}"))?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| said(&error))?;
    // What goes wrong with it, the request is told as well.
    tokio::spawn(connection);
    Ok(sender)
}

/// An error with what is behind it.
fn said(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text += &format!(": {error}");
        source = error.source();
    }
    text
}

impl Answer {
    /// Fails unless the status is this one.
    pub(super) fn expect(self, status: u16) -> Result<Self> {
        if self.status == status {
            return Ok(self);
        }
        let body = String::from_utf8_lossy(&self.body);
        Err(format!("{}: {} and not {status}: {}", self.asked, self.status, body.trim_end()))
    }

    /// The value of a header that must be there.
    pub(super) fn header(&self, name: &str) -> Result<&str> {
        let value = self.headers.get(name).and_then(|value| value.to_str().ok());
        value.ok_or_else(|| format!("{}: the answer has no {name}", self.asked))
    }
}
