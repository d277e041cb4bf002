//! Access records: one for each request, when all of its answer was handed to the connection or given up.
//!
//! Nothing is written anywhere here; the observer decides what becomes of a record.

use std::{
    fmt,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{StatusCode, header, request::Parts};

use super::{Registry, metrics::NO_ENDPOINT, route::Call};

/// Is told of each finished request.
pub type Observer = Arc<dyn Fn(&AccessRecord) + Send + Sync>;

/// The status of a request whose client went away before there was an answer; no HTTP status, but widely used in logs.
const CLIENT_GONE: u16 = 499;

/// What a finished request was.
///
/// # Security
/// Method, path and range are as the client sent them: escape them before they are printed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AccessRecord {
    /// The method.
    pub method: String,
    /// The path, still percent-encoded, without the query.
    pub path: String,
    /// The `Range` header.
    pub range: Option<String>,
    /// Where the client is, unless the connection was accepted elsewhere.
    pub peer: Option<SocketAddr>,
    /// The user, where the registry has passwords and was shown a right one.
    pub user: Option<String>,
    /// The status that was answered; 499 where the client went away before.
    pub status: u16,
    /// How many bytes of the answer's body were handed to the connection.
    pub bytes: u64,
    /// How long it took from the head of the request to the end of the answer.
    pub elapsed: Duration,
}

/// A request that has not finished yet. Dropping it finishes it.
pub(super) struct Access {
    registry: Registry,
    record: AccessRecord,
    endpoint: &'static str,
    began: Instant,
}

impl Access {
    pub(super) fn begin(registry: &Registry, head: &Parts, peer: Option<SocketAddr>) -> Self {
        if let Some(metrics) = registry.metrics() {
            metrics.in_flight.inc();
        }
        let range = head.headers.get(header::RANGE);
        let record = AccessRecord {
            method: head.method.to_string(),
            path: head.uri.path().to_owned(),
            range: range.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()),
            peer,
            user: None,
            status: CLIENT_GONE,
            bytes: 0,
            elapsed: Duration::ZERO,
        };
        Self { registry: registry.clone(), record, endpoint: NO_ENDPOINT, began: Instant::now() }
    }

    /// The user was admitted.
    pub(super) fn admitted(&mut self, user: String) {
        self.record.user = Some(user);
    }

    /// It was found out what the client wants.
    pub(super) fn understood(&mut self, call: &Call) {
        self.endpoint = call.endpoint();
    }

    pub(super) fn answered(&mut self, status: StatusCode) {
        self.record.status = status.as_u16();
    }

    pub(super) fn sent(&mut self, bytes: u64) {
        self.record.bytes += bytes;
    }
}

impl Drop for Access {
    fn drop(&mut self) {
        let record = &mut self.record;
        record.elapsed = self.began.elapsed();
        if let Some(metrics) = self.registry.metrics() {
            metrics.in_flight.dec();
            metrics.finished(&record.method, self.endpoint, record.status, record.bytes, record.elapsed);
        }
        if let Some(observer) = &self.registry.options().observer {
            observer(record);
        }
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").field("began", &self.began).finish_non_exhaustive()
    }
}
