//! The bodies of requests: read piece by piece, never faster than they are used, and never waited for without end.
//!
//! Small pieces are gathered, so that a body that comes byte by byte costs no more than one that does not.

use std::{mem, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{StatusCode, header, request::Parts};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};

use super::refusal::{Code, Refusal};

/// Pieces from this size on are handed on as they are.
const LARGE: usize = 32 * 1024;
/// Smaller ones are gathered up to this size.
const GATHERED: usize = 64 * 1024;
/// How many bytes of an unwanted body are read so that its sender comes to see the answer; more, and the connection is closed.
const SETTLE_LEN: usize = 8 * 1024 * 1024;
/// How long such a body is read.
const SETTLE_TIME: Duration = Duration::from_secs(2);

/// The body of a request.
pub(super) struct RequestBody {
    incoming: Incoming,
    timeout: Duration,
    /// The client sends nothing until it is told to, and nothing was read yet.
    withheld: bool,
    failure: Option<Refusal>,
    failed: bool,
    taken: u64,
}

impl RequestBody {
    pub(super) fn new(head: &Parts, incoming: Incoming, timeout: Duration) -> Self {
        let withheld = head.headers.contains_key(header::EXPECT);
        Self { incoming, timeout, withheld, failure: None, failed: false, taken: 0 }
    }

    /// The length that the client declared; `None` where the body comes in chunks, and less once some was read.
    pub(super) fn declared_len(&self) -> Option<u64> {
        self.incoming.size_hint().exact()
    }

    /// How many bytes came so far.
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    /// The next piece; `None` at the end. What came before a failure is given before it.
    ///
    /// # Cancellation
    /// Pieces that were gathered are lost.
    pub(super) async fn piece(&mut self) -> Result<Option<Bytes>, Refusal> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        let mut gathered = BytesMut::new();
        while gathered.len() < GATHERED {
            match self.frame().await {
                Ok(Some(bytes)) if gathered.is_empty() && bytes.len() >= LARGE => return Ok(Some(bytes)),
                Ok(Some(bytes)) => gathered.extend_from_slice(&bytes),
                Ok(None) => break,
                Err(failure) if gathered.is_empty() => return Err(failure),
                Err(failure) => {
                    self.failure = Some(failure);
                    break;
                }
            }
        }
        Ok((!gathered.is_empty()).then(|| gathered.freeze()))
    }

    /// The whole body, if it has at most `limit` bytes.
    pub(super) async fn whole(&mut self, limit: u64) -> Result<Bytes, Refusal> {
        let too_large =
            || Refusal::too_large(format!("the body is larger than the {limit} bytes that are taken"));
        if self.declared_len().is_some_and(|len| len > limit) {
            return Err(too_large());
        }
        let mut whole = BytesMut::new();
        while let Some(bytes) = self.piece().await? {
            if (whole.len() + bytes.len()) as u64 > limit {
                return Err(too_large());
            }
            whole.extend_from_slice(&bytes);
        }
        Ok(whole.freeze())
    }

    /// Reads on for a while if the body was not read to its end, so that the client gets to see the answer.
    pub(super) async fn settle(&mut self) {
        if self.withheld || self.failed {
            return;
        }
        let mut left = SETTLE_LEN;
        let rest = async {
            while let Ok(Some(bytes)) = self.frame().await {
                left = left.saturating_sub(bytes.len());
                if left == 0 {
                    break;
                }
            }
        };
        // In time or not, the answer is sent.
        let _ = tokio::time::timeout(SETTLE_TIME, rest).await;
    }

    async fn frame(&mut self) -> Result<Option<Bytes>, Refusal> {
        self.withheld = false;
        loop {
            let frame = match tokio::time::timeout(self.timeout, self.incoming.frame()).await {
                Ok(None) => return Ok(None),
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(error))) => {
                    tracing::debug!(%error, "a request's body broke off");
                    self.failed = true;
                    return Err(Refusal::bad(Code::SizeInvalid, "the body broke off before its end"));
                }
                Err(_) => {
                    self.failed = true;
                    let message = format!("nothing came of the body for {} s", self.timeout.as_secs());
                    return Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, Code::SizeInvalid, message)
                        .with_header(header::CONNECTION, "close"));
                }
            };
            // Trailers mean nothing here.
            if let Ok(mut bytes) = frame.into_data()
                && !bytes.is_empty()
            {
                self.taken += bytes.len() as u64;
                return Ok(Some(mem::take(&mut bytes)));
            }
        }
    }
}
