//! One stream of bytes: the rest of a content from an offset, or one range of it, going on over a new connection where one broke.
//!
//! A connection that brought something is followed by the next one at once. One that brought next to nothing is followed after a wait,
//! and by a few more at most, so that a registry whose every answer breaks is not flooded with requests.

use std::{
    ops::Range,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use reqwest::{
    Method, StatusCode,
    header::{CONTENT_LENGTH, CONTENT_RANGE, ETAG},
};
use wharf_content::{Descriptor, Error, Result, backoff::Backoff};
use wharf_images::progress::Event;

use super::{
    super::{
        answer::Answer,
        client::{Ask, Client},
        failure,
        resolver::ACCEPT,
        throughput::Pace,
    },
    content_range,
};
use crate::error::RemoteError;

/// After so many broken connections in a row without progress between them a transfer is given up.
const MAX_BREAKS: u32 = 3;
/// What is progress, in bytes: less is not worth the request that it costs.
const PROGRESS: u64 = 32 << 10;

/// What is transferred, and from where.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) client: Arc<Client>,
    pub(super) path: String,
    pub(super) is_manifest: bool,
    pub(super) scope: String,
    pub(super) descriptor: Descriptor,
    /// The strong validator of the first answer (RFC 9110, 8.8.3), where it has one.
    pub(super) etag: OnceLock<String>,
}

/// One transfer and how far it is.
#[derive(Debug)]
pub(super) struct Transfer {
    content: Arc<Content>,
    at: u64,
    /// Where the range ends, if a range is asked for and not all that is left.
    end: Option<u64>,
    /// Connections that broke since there was progress, which was at `advanced_to`.
    breaks: u32,
    advanced_to: u64,
    /// The waits between those.
    backoff: Backoff,
    /// How fast the answers came so far, for the next one.
    pace: Option<Pace>,
    /// How often it was too slow, whatever it brought.
    slow: u32,
    opened: Option<Opened>,
    /// What came and lies behind where the last caller wanted to read to.
    left: Bytes,
}

/// An answer, and how many of its bytes are there already.
#[derive(Debug)]
struct Opened {
    response: Answer,
    discard: u64,
}

impl Transfer {
    /// Transfers all from `at` on.
    pub(super) fn rest(content: Arc<Content>, at: u64) -> Self {
        let backoff = backoff(&content);
        Self {
            content,
            at,
            end: None,
            breaks: 0,
            advanced_to: at,
            backoff,
            pace: None,
            slow: 0,
            opened: None,
            left: Bytes::new(),
        }
    }

    /// Transfers one range; the registry must answer with exactly that.
    pub(super) fn range(content: Arc<Content>, range: &Range<u64>) -> Self {
        Self { end: Some(range.end), ..Self::rest(content, range.start) }
    }

    /// The offset of the next byte.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    fn end(&self) -> u64 {
        self.end.unwrap_or(self.content.descriptor.size)
    }

    /// Asks for the content from where the transfer is.
    ///
    /// # Errors
    /// `FailedPrecondition` for an answer that is not what was asked for; those of the request.
    pub(super) async fn open(&mut self) -> Result<()> {
        let content = &self.content;
        let ask = Ask {
            accept: Some(if content.is_manifest { ACCEPT } else { "*/*" }),
            from_byte: self.at,
            end_byte: self.end,
            ..Ask::new(Method::GET, &*content.path, &*content.scope)
        };
        let mut response = content.client.send(&ask).await?;
        if let Some(pace) = self.pace.take() {
            response.keep_pace(pace);
        }
        let discard = self.fit(&response).map_err(|message| {
            let request = failure::describe("GET", response.url());
            let failed = RemoteError::new(failure::host(response.url()), request)
                .with_status(response.status().as_u16())
                .with_message(message);
            Error::failed_precondition("the registry's answer does not fit the request").with_source(failed)
        })?;
        if discard > 0 {
            content.client.ranges().refused();
        }
        self.opened = Some(Opened { response, discard });
        Ok(())
    }

    /// Whether an answer is what was asked for, and how many of its bytes are there already.
    fn fit(&self, response: &Answer) -> Result<u64, String> {
        let (content, wanted) = (&self.content, self.at..self.end());
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        let discard = match response.status() {
            // A whole answer to a request for the rest: what is there already is read over.
            StatusCode::OK if self.end.is_none() => self.at,
            StatusCode::OK => return Err("the whole where a range was asked for".into()),
            StatusCode::PARTIAL_CONTENT if self.at > 0 || self.end.is_some() => {
                let range = header(CONTENT_RANGE).unwrap_or_default();
                let fits = match self.end {
                    Some(_) => content_range::is_part(range, &wanted, content.descriptor.size),
                    None => content_range::continues(range, &wanted, content.descriptor.size),
                };
                if !fits {
                    let last = wanted.end - 1;
                    return Err(format!(
                        "bytes {} to {last} of {} were asked for and {range:?} came",
                        wanted.start, content.descriptor.size
                    ));
                }
                0
            }
            status => return Err(format!("a status that is no answer to it: {status}")),
        };
        let expected = wanted.end - wanted.start + discard;
        match header(CONTENT_LENGTH).and_then(|value| value.parse::<u64>().ok()) {
            Some(length) if length != expected => {
                return Err(format!(
                    "size mismatch: {expected} bytes were expected and {length} were announced"
                ));
            }
            _ => {}
        }
        // Weak ones (W/"…") do not promise equal bytes.
        if let Some(etag) = header(ETAG).filter(|etag| etag.starts_with('"')) {
            let first = content.etag.get_or_init(|| etag.to_owned());
            if self.end.is_some() && first != etag {
                return Err("a range of other content: the ETag is not that of the first answer".into());
            }
        }
        Ok(discard)
    }

    /// The next bytes before `stop`, over as many connections as it takes; `None` at `stop` and at the end.
    ///
    /// # Errors
    /// What broke the connection, after too many breaks in a row without progress between them; those of the request. One more chunk than
    /// was promised is given out where the registry sends more, so that the caller sees it.
    pub(super) async fn next(&mut self, stop: u64) -> Result<Option<Bytes>> {
        loop {
            if self.at >= stop {
                return Ok(None);
            }
            if !self.left.is_empty() {
                let room = usize::try_from(stop - self.at).unwrap_or(usize::MAX);
                let chunk = self.left.split_to(room.min(self.left.len()));
                self.at += chunk.len() as u64;
                return Ok(Some(chunk));
            }
            if self.opened.is_none() {
                self.open().await?;
            }
            let end = self.end();
            let Some(current) = &mut self.opened else { continue };
            let broken = match current.response.chunk().await {
                Ok(Some(mut chunk)) => {
                    let skip = usize::try_from(current.discard).unwrap_or(usize::MAX).min(chunk.len());
                    current.discard -= skip as u64;
                    self.left = chunk.split_off(skip);
                    continue;
                }
                Ok(None) if self.at >= end => return Ok(None),
                Ok(None) => None,
                Err(error) => Some(error),
            };
            let mut failed = broken.unwrap_or_else(|| {
                RemoteError::new(failure::host(current.response.url()), current.response.request())
                    .with_retryable()
                    .with_message(format!("the body ended after {} of {end} bytes", self.at))
            });
            self.pace = Some(current.response.pace().clone());
            let has_advanced = self.at - self.advanced_to >= PROGRESS;
            if has_advanced {
                (self.breaks, self.advanced_to) = (0, self.at);
                self.backoff = backoff(&self.content);
            }
            self.breaks += 1;
            self.slow += u32::from(failed.is_slow());
            // Where there is another host, it is asked instead of waiting for this one.
            let is_left = !has_advanced && !self.content.client.settings().waits_for_hosts;
            if self.breaks.max(self.slow) > MAX_BREAKS || is_left || !failed.is_retryable() {
                failed.attempts = self.breaks.max(self.slow);
                return Err(failed.into_error("the transfer broke"));
            }
            tracing::debug!(error = %failed, at = self.at, "the transfer goes on over a new connection");
            let (content, error) = (&self.content, failed.into_error("the transfer broke"));
            content.client.sink().event(&Event::Retried { descriptor: &content.descriptor, error: &error });
            self.opened = None;
            if !has_advanced {
                // Who is dropped meanwhile has lost nothing: it is opened again by the next one who asks.
                tokio::time::sleep(self.backoff.wait_at_least_half()).await;
            }
        }
    }
}

/// The waits before connections that follow one that brought next to nothing.
fn backoff(content: &Content) -> Backoff {
    let settings = content.client.settings();
    Backoff::new(settings.retry_delay, settings.max_retry_delay)
}
