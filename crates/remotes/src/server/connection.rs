//! Connections: accepting them, serving them over HTTP/1.1, and ending them in an orderly way.
//!
//! What goes wrong on a connection concerns that connection: it is traced and nothing more. A head of a request that is too large or
//! no HTTP is answered by the HTTP library, without the specification's JSON.

use std::{
    convert::Infallible, future::Future, io, net::SocketAddr, pin::Pin, pin::pin, sync::Arc, time::Duration,
};

use http::{HeaderName, HeaderValue, Request, Response};
use hyper::{body::Incoming, server::conn::http1, service};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinSet,
    time::Instant,
};
use tokio_rustls::server::TlsStream;
use wharf_content::Result;

use super::{
    Registry,
    access::Access,
    body::ResponseBody,
    refusal::Refusal,
    reply::Reply,
    request_body::RequestBody,
    sendfile::{Lane, Socket},
    tls::Tls,
    tuning::tune,
    write_timeout::WriteTimeout,
};

const API_VERSION: (HeaderName, HeaderValue) =
    (HeaderName::from_static("docker-distribution-api-version"), HeaderValue::from_static("registry/2.0"));

/// The most bytes of a request's head; more is answered with 431.
const MAX_HEAD_LEN: usize = 64 * 1024;
/// The most bytes that are read from a connection ahead of their use.
const READ_LEN: usize = 256 * 1024;
/// How long no connection is accepted after the system refused one, for want of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves `registry` to whoever connects to `listener`, until `shutdown` completes. Then no connection is accepted any more, idle ones
/// are closed, and the others have [`SHUTDOWN_GRACE`](super::SHUTDOWN_GRACE) to finish their request.
///
/// # Errors
/// None at present: trouble with single connections is traced.
///
/// # Cancellation
/// All connections are cut. Uploads remain and can be resumed; nothing half-committed remains.
pub async fn serve(
    registry: Registry,
    listener: TcpListener,
    shutdown: impl Future<Output = ()>,
) -> Result<()> {
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(registry.options().max_connections));
    let mut connections = JoinSet::new();
    let (ending, ended) = watch::channel(false);
    let mut shutdown = pin!(shutdown);
    loop {
        let next = async {
            // The semaphore is never closed.
            let place = Arc::clone(&places).acquire_owned().await.ok();
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            biased;
            () = &mut shutdown => break,
            next = next => next,
        };
        match accepted {
            Ok((stream, peer)) => {
                tune(&stream, peer);
                let (registry, watcher) = (registry.clone(), graceful.watcher());
                let mut ending = ended.clone();
                connections.spawn(async move {
                    let _place = place;
                    let ended = match &registry.options().tls {
                        None => watcher.watch(registry.socket(stream, peer)).await,
                        Some(tls) => {
                            let shaken = tokio::select! {
                                shaken = registry.handshake(tls, stream) => shaken,
                                // Nothing was asked on it.
                                _ = ending.wait_for(|is_ending| *is_ending) => None,
                            };
                            match shaken {
                                Some(stream) => {
                                    watcher.watch(registry.connection(stream, Some(peer), None)).await
                                }
                                None => Ok(()),
                            }
                        }
                    };
                    if let Err(error) = ended {
                        tracing::debug!(%peer, %error, "a connection ended early");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                if !matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
                {
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    ending.send_replace(true);
    let until = Instant::now() + registry.options().shutdown_grace;
    if tokio::time::timeout_at(until, graceful.shutdown()).await.is_err() {
        tracing::warn!(connections = connections.len(), "cutting connections that did not finish in time");
    }
    connections.shutdown().await;
    if tokio::time::timeout_at(until, registry.pushes_end()).await.is_err() {
        tracing::warn!("giving up manifests that were not taken in in time");
    }
    registry.inner.parking.release_all();
    Ok(())
}

impl Registry {
    /// Serves one connection to its end, for callers that accept connections themselves, with TLS in front for example.
    ///
    /// # Cancellation
    /// The connection is cut; uploads remain.
    pub async fn serve_connection<IO>(&self, io: IO)
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send,
    {
        if let Err(error) = self.connection(io, None, None).await {
            tracing::debug!(%error, "a connection ended early");
        }
    }

    /// Shakes hands. Who does not do it, or not in the time that the head of a request has, is let go.
    async fn handshake<IO>(&self, tls: &Tls, io: IO) -> Option<TlsStream<IO>>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let shake = async { tls.acceptor().await.accept(io).await };
        match tokio::time::timeout(self.options().header_timeout, shake).await {
            Ok(Ok(stream)) => Some(stream),
            Ok(Err(error)) => {
                tracing::debug!(%error, "a client and the registry do not agree on TLS");
                None
            }
            Err(_) => {
                tracing::debug!("a client does not begin with TLS");
                None
            }
        }
    }

    /// A connection that is a socket, to which the system sends files.
    fn socket(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
    ) -> http1::Connection<TokioIo<WriteTimeout<Socket>>, Service> {
        let socket = Socket::new(stream);
        let lane = socket.lane();
        self.connection(socket, Some(peer), lane)
    }

    fn connection<IO>(
        &self,
        io: IO,
        peer: Option<SocketAddr>,
        lane: Option<Lane>,
    ) -> http1::Connection<TokioIo<WriteTimeout<IO>>, Service>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send,
    {
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.options().header_timeout)
            .max_header_size(MAX_HEAD_LEN)
            .max_buf_size(READ_LEN)
            .serve_connection(
                TokioIo::new(WriteTimeout::new(io, self.options().write_timeout)),
                Service { registry: self.clone(), peer, lane, _open: Open::count(self) },
            )
    }

    async fn respond(
        self,
        request: Request<Incoming>,
        peer: Option<SocketAddr>,
        lane: Option<Lane>,
    ) -> Response<ResponseBody> {
        let (head, incoming) = request.into_parts();
        let mut access = Access::begin(&self, &head, peer);
        let mut body = RequestBody::new(&head, incoming, self.options().body_timeout, self.metrics());
        let answer = self.answer(&head, &mut body, &mut access).await;
        let answer = answer.map(|reply| reply.unless_known(&head.headers));
        let mut response = answer.map_or_else(Refusal::into_response, Reply::into_response);
        body.settle().await;
        response.headers_mut().insert(API_VERSION.0, API_VERSION.1);
        access.answered(response.status());
        response.map(|content| ResponseBody::new(content, access, lane))
    }
}

/// The registry as the HTTP library calls it.
struct Service {
    registry: Registry,
    peer: Option<SocketAddr>,
    lane: Option<Lane>,
    _open: Open,
}

/// Counts a connection for as long as it is there.
struct Open(Registry);

impl Open {
    fn count(registry: &Registry) -> Self {
        if let Some(metrics) = registry.metrics() {
            metrics.connections.inc();
        }
        Self(registry.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(metrics) = self.0.metrics() {
            metrics.connections.dec();
        }
    }
}

impl service::Service<Request<Incoming>> for Service {
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = std::result::Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let (registry, peer, lane) = (self.registry.clone(), self.peer, self.lane.clone());
        Box::pin(async move { Ok(registry.respond(request, peer, lane).await) })
    }
}
