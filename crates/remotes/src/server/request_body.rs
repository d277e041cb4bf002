//! The bodies of requests: read piece by piece, never faster than they are used, and never waited for without end: each piece has a time limit,
//! and all of them together a pace that they must keep up.
//!
//! Small pieces are gathered, so that a body that comes byte by byte costs no more than one that does not.

use std::{mem, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{StatusCode, header, request::Parts};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use tokio::time::Instant;

use super::{
    metrics::Metrics,
    refusal::{Code, Refusal},
    room::{FREE_LEN, Place, Room},
};

/// Pieces from this size on are handed on as they are.
const LARGE: usize = 32 * 1024;
/// Smaller ones are gathered up to this size.
const GATHERED: usize = 64 * 1024;
/// How many bytes of an unwanted body are read so that its sender comes to see the answer; more, and the connection is closed.
const SETTLE_LEN: usize = 8 * 1024 * 1024;
/// How long such a body is read.
const SETTLE_TIME: Duration = Duration::from_secs(2);

/// The fewest bytes per second that a body comes at, once the time for a single piece has passed.
const PACE: u32 = 500;
/// The same where the body has room in memory that others wait for.
const ROOM_PACE: u32 = 16 * 1024;

/// The body of a request. What came of it is counted when it is dropped.
pub(super) struct RequestBody {
    incoming: Incoming,
    timeout: Duration,
    pace: u32,
    /// How long was waited for all of it.
    waited: Duration,
    /// The client sends nothing until it is told to, and nothing was read yet.
    withheld: bool,
    failure: Option<Refusal>,
    failed: bool,
    taken: u64,
    metrics: Option<Metrics>,
}

/// A body that was read to its end, and its place in memory.
pub(super) struct Whole {
    pub(super) bytes: Bytes,
    _place: Option<Place>,
}

impl RequestBody {
    pub(super) fn new(
        head: &Parts,
        incoming: Incoming,
        timeout: Duration,
        metrics: Option<&Metrics>,
    ) -> Self {
        Self {
            incoming,
            timeout,
            pace: PACE,
            waited: Duration::ZERO,
            withheld: head.headers.contains_key(header::EXPECT),
            failure: None,
            failed: false,
            taken: 0,
            metrics: metrics.cloned(),
        }
    }

    /// The length that the client declared; `None` where the body comes in chunks, and less once some was read.
    pub(super) fn declared_len(&self) -> Option<u64> {
        self.incoming.size_hint().exact()
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

    /// The whole body, if it has at most `limit` bytes. One that is not small waits for its place in `room` before it is read on.
    pub(super) async fn whole(&mut self, limit: u64, room: &Room) -> Result<Whole, Refusal> {
        let too_large =
            || Refusal::too_large(format!("the body is larger than the {limit} bytes that are taken"));
        let most = self.declared_len().unwrap_or(limit);
        if most > limit {
            return Err(too_large());
        }
        let mut place = None;
        let mut whole = BytesMut::new();
        loop {
            // Of one without a length it shows only when it is there that it is not small.
            let is_small = self.declared_len().map_or(whole.len() as u64, |_| most) <= FREE_LEN;
            if place.is_none() && !is_small {
                place = Some(room.take(most, self.timeout).await?);
                self.pace = ROOM_PACE;
            }
            let Some(bytes) = self.piece().await? else { break };
            if (whole.len() + bytes.len()) as u64 > limit {
                return Err(too_large());
            }
            whole.extend_from_slice(&bytes);
        }
        Ok(Whole { bytes: whole.freeze(), _place: place })
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
            let began = Instant::now();
            let patience = self.patience();
            let frame = tokio::time::timeout(patience, self.incoming.frame()).await;
            self.waited += began.elapsed();
            let frame = match frame {
                Ok(None) => return Ok(None),
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(error))) => {
                    tracing::debug!(%error, "a request's body broke off");
                    self.failed = true;
                    return Err(Refusal::bad(Code::SizeInvalid, "the body broke off before its end"));
                }
                Err(_) => {
                    self.failed = true;
                    let message = if patience < self.timeout {
                        format!("{} bytes of the body came in {} s", self.taken, self.waited.as_secs())
                    } else {
                        format!("nothing came of the body for {} s", self.timeout.as_secs())
                    };
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

    /// How long the next piece is waited for: no longer than for any, and only while all that came so far came fast enough.
    fn patience(&self) -> Duration {
        let earned = Duration::from_secs(self.taken / u64::from(self.pace));
        (self.timeout + earned).saturating_sub(self.waited).min(self.timeout)
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if let Some(metrics) = &self.metrics {
            metrics.received(self.taken);
        }
    }
}
