//! An answer: its head, and its body as it comes.
//!
//! Reading fails when the other side is silent or too slow. The place at the host is held until the body has been read or the answer is
//! dropped; answers without a body, and those that are no success, hold none.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use reqwest::{Method, Response, StatusCode, Url, header::HeaderMap};
use tokio::time::{Instant, timeout, timeout_at};

use super::{failure, limits::Permit, secrets::Secrets, throughput::Pace, trace::Exchange};
use crate::error::RemoteError;

/// The most bytes of an answer that is no success that are read (containerd: `core/remotes/errors/errors.go`).
const MAX_ERROR_LEN: usize = 64_000;

/// What a request was answered with.
#[derive(Debug)]
pub(super) struct Answer {
    response: Response,
    /// The request as it is shown.
    request: String,
    secrets: Secrets,
    /// What is left of the body, where all that is wanted of it was read.
    read: Option<Bytes>,
    permit: Option<Arc<Permit>>,
    idle: Duration,
    pace: Pace,
    exchange: Exchange,
}

impl Answer {
    /// Takes the head. What is no success is read here, as far as anybody wants it, since whoever is told so may ask the same host for
    /// something else first.
    pub(super) async fn new(
        method: &Method,
        (request, secrets): (String, Secrets),
        response: Response,
        permit: Arc<Permit>,
        (idle, pace): (Duration, Pace),
        exchange: Exchange,
    ) -> Self {
        let mut answer =
            Self { response, request, secrets, read: None, permit: Some(permit), idle, pace, exchange };
        let status = answer.status();
        if *method == Method::HEAD
            || status == StatusCode::NO_CONTENT
            || answer.response.content_length() == Some(0)
        {
            answer.read = Some(Bytes::new());
        } else if !status.is_success() {
            let mut body = BytesMut::new();
            // A body that breaks or takes too long says what came of it.
            let reading = async {
                while body.len() < MAX_ERROR_LEN
                    && let Ok(Some(chunk)) = answer.chunk().await
                {
                    body.extend_from_slice(&chunk);
                }
            };
            drop(timeout(idle, reading).await);
            body.truncate(MAX_ERROR_LEN);
            answer.read = Some(body.freeze());
        }
        match &answer.permit {
            Some(_) if answer.read.is_some() => answer.permit = None,
            // Whoever is given it may leave it for later.
            Some(permit) => permit.rest(),
            None => {}
        }
        answer
    }

    pub(super) fn status(&self) -> StatusCode {
        self.response.status()
    }

    pub(super) fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// Where it came from.
    pub(super) fn url(&self) -> &Url {
        self.response.url()
    }

    /// The request as it is shown.
    pub(super) fn request(&self) -> &str {
        &self.request
    }

    /// What was sent and must not be quoted.
    pub(super) fn secrets(&self) -> &Secrets {
        &self.secrets
    }

    /// How fast the body came so far.
    pub(super) fn pace(&self) -> &Pace {
        &self.pace
    }

    /// Goes on with the pace of an answer before this one: what the same work waited for there counts here, too.
    pub(super) fn keep_pace(&mut self, pace: Pace) {
        self.pace = pace;
    }

    /// The next bytes of the body; `None` after the last.
    ///
    /// # Errors
    /// That of a connection that broke, was silent, or was too slow.
    ///
    /// # Cancellation
    /// No bytes are lost.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, RemoteError> {
        if let Some(read) = &mut self.read {
            let read = std::mem::take(read);
            return Ok((!read.is_empty()).then_some(read));
        }
        let permit = self.permit.clone();
        if let Some(permit) = &permit {
            permit.resume().await;
        }
        // Also where whoever reads loses interest while this waits.
        let _rests = Rests(permit.as_deref());
        let silent_at = Instant::now() + self.idle;
        let mut counted = Instant::now();
        loop {
            let judged_at = self.pace.left().map_or(silent_at, |left| counted + left);
            let outcome = timeout_at(judged_at.min(silent_at), self.response.chunk()).await;
            let waited = counted.elapsed();
            counted += waited;
            let broken = |message: String| {
                RemoteError::new(failure::host(self.response.url()), &*self.request)
                    .with_retryable()
                    .with_message(message)
            };
            let chunk = match outcome {
                Ok(Ok(Some(chunk))) => Some(chunk),
                Ok(Ok(None)) => {
                    self.read = Some(Bytes::new());
                    self.permit = None;
                    return Ok(None);
                }
                Ok(Err(error)) => return Err(failure::transport(self.response.url(), &self.request, &error)),
                Err(_) if counted >= silent_at => {
                    return Err(broken(format!("nothing more came for {:.1} s", self.idle.as_secs_f64())));
                }
                Err(_) => None,
            };
            let len = chunk.as_ref().map_or(0, Bytes::len);
            self.pace.add(len as u64, waited);
            let judged = self.pace.check();
            if let Err(slow) = judged {
                return Err(broken(format!("the body comes too slowly: {slow}")).with_slow());
            }
            if chunk.is_some() {
                self.exchange.read(len);
                return Ok(chunk);
            }
        }
    }
}

/// Lets a permit rest when it is dropped.
struct Rests<'a>(Option<&'a Permit>);

impl Drop for Rests<'_> {
    fn drop(&mut self) {
        if let Some(permit) = self.0 {
            permit.rest();
        }
    }
}
