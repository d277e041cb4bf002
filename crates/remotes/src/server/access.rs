//! Access records: one for each request, when all of its answer was handed to the connection or given up.
//!
//! Nothing is written anywhere here; the observer decides what becomes of a record.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{StatusCode, header, request::Parts};

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
    /// The status that was answered; 499 where the client went away before.
    pub status: u16,
    /// How many bytes of the answer's body were handed to the connection.
    pub bytes: u64,
    /// How long it took from the head of the request to the end of the answer.
    pub elapsed: Duration,
}

/// A request that has not finished yet. Dropping it finishes it.
pub(super) struct Access {
    observed: Option<(Observer, AccessRecord)>,
    began: Instant,
}

impl Access {
    pub(super) fn begin(observer: Option<&Observer>, head: &Parts) -> Self {
        let observed = observer.map(|observer| {
            let range = head.headers.get(header::RANGE);
            let record = AccessRecord {
                method: head.method.to_string(),
                path: head.uri.path().to_owned(),
                range: range.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()),
                status: CLIENT_GONE,
                bytes: 0,
                elapsed: Duration::ZERO,
            };
            (Arc::clone(observer), record)
        });
        Self { observed, began: Instant::now() }
    }

    pub(super) fn answered(&mut self, status: StatusCode) {
        if let Some((_, record)) = &mut self.observed {
            record.status = status.as_u16();
        }
    }

    pub(super) fn sent(&mut self, bytes: u64) {
        if let Some((_, record)) = &mut self.observed {
            record.bytes += bytes;
        }
    }
}

impl Drop for Access {
    fn drop(&mut self) {
        if let Some((observer, mut record)) = self.observed.take() {
            record.elapsed = self.began.elapsed();
            observer(&record);
        }
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").field("began", &self.began).finish_non_exhaustive()
    }
}
