//! Sending the bytes of one blob: begun or mounted, sent whole or in chunks, gone on with where it broke (distribution specification,
//! "Pushing blobs"; containerd: `core/remotes/docker/pusher.go`, which begins again).
//!
//! ```text
//! POST uploads/?mount=&from= ── 201 ─> mounted
//!    │ 202, Location
//!    ├─ PUT Location&digest=  all bytes ── 2xx ─> sent
//!    └─ PATCH Location  a chunk ── 2xx, Range ─> next chunk … PUT Location&digest=  no bytes ── 2xx ─> sent
//! broken, 416, 5xx: GET Location ── Range: how much is there ─> on with PATCH
//! forgotten (404): look whether the blob is there, else POST again
//! ```
//!
//! Distribution 2.8 forgets an upload as soon as a request for it breaks off; there a break always means to begin again.
//!
//! Every answer may name another Location, on another host too, and each is used as it is, query and all.

use reqwest::{
    Method, StatusCode, Url,
    header::{HeaderMap, HeaderName, LOCATION, RANGE},
};
use wharf_content::{Digest, ErrorKind, Result};
use wharf_images::transport::{Delivery, Shipment};

use super::{
    answer::Answer,
    client::{Ask, Client},
    failure,
    host::may_lead_to,
    payload::Payload,
    pusher::check_digest,
    retries::{Failed, Retries},
};
use crate::error::RemoteError;

/// The least that a chunk of this registry must have, but for the last one.
const OCI_CHUNK_MIN_LENGTH: HeaderName = HeaderName::from_static("oci-chunk-min-length");
/// The size of chunks where only the registry wants them, or refuses more at once: below what proxies in front of registries let pass.
const DEFAULT_CHUNK: u64 = 8 * 1024 * 1024;

/// The upload of one blob.
pub(super) struct Upload<'a> {
    client: &'a Client,
    path: &'a str,
    scope: &'a str,
    shipment: &'a Shipment,
    retries: Retries<'a>,
    /// How many bytes the registry has ever had, so that it is seen whether a try brought anything.
    reached: u64,
    /// A registry that made something wrong of what was sent in parts gets it in one.
    may_resume: bool,
    /// The chunks that the user asked for or the registry was seen to need.
    chunk: Option<u64>,
}

/// An upload as the registry has it.
#[derive(Debug)]
struct Session {
    location: Url,
    offset: u64,
    chunk: Option<u64>,
    is_resumed: bool,
}

enum Begun {
    Mounted,
    At(Session),
}

impl<'a> Upload<'a> {
    pub(super) fn new(client: &'a Client, path: &'a str, scope: &'a str, shipment: &'a Shipment) -> Self {
        let (retries, chunk) =
            (client.retries().about(&shipment.descriptor), client.settings().upload_chunk.map(Into::into));
        Self { client, path, scope, shipment, retries, reached: 0, may_resume: true, chunk }
    }

    /// Uploads, or has the registry take the blob from `origin`. `head` asks whether the blob is there.
    pub(super) async fn run(mut self, head: &Ask, origin: Option<&str>) -> Result<Delivery> {
        let begun = match origin {
            Some(origin) => self.mount(origin).await?,
            None => None,
        };
        let mut session = match (begun, origin) {
            (Some(Begun::Mounted), Some(origin)) => return Ok(Delivery::Mounted(origin.to_owned())),
            (Some(Begun::At(session)), _) => session,
            _ => self.begin().await?,
        };
        loop {
            match self.step(&mut session).await {
                Ok(true) => return Ok(Delivery::Sent),
                Ok(false) => self.note_progress(session.offset),
                Err(failed) => match self.recover(session, failed, head).await? {
                    Some(next) => session = next,
                    None => return Ok(Delivery::Sent),
                },
            }
        }
    }

    fn digest(&self) -> &Digest {
        &self.shipment.descriptor.digest
    }

    fn size(&self) -> u64 {
        self.shipment.descriptor.size
    }

    fn note_progress(&mut self, offset: u64) {
        if offset > self.reached {
            self.reached = offset;
            self.retries.advanced();
        }
    }

    /// Asks to take the blob from another repository; `None` where that must not or cannot be, and a plain upload may be.
    async fn mount(&self, origin: &str) -> Result<Option<Begun>> {
        let mut url = self.client.url(&format!("{}/blobs/uploads/", self.path))?;
        url.query_pairs_mut().append_pair("mount", self.digest().as_str()).append_pair("from", origin);
        let scope = format!("{} repository:{origin}:pull", self.scope);
        match self.client.send(&Ask::new(Method::POST, url.as_str(), scope)).await {
            Ok(response) if response.status() == StatusCode::CREATED => {
                check_digest(response.headers(), &failure::host(response.url()), |_| self.digest().clone())?;
                Ok(Some(Begun::Mounted))
            }
            Ok(response) => Ok(self.session(&response).ok().map(Begun::At)),
            Err(error) if matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::ResourceExhausted) => {
                Err(error)
            }
            Err(error) => {
                tracing::debug!(error = %error.report(), origin, "the blob is not mounted but sent");
                Ok(None)
            }
        }
    }

    async fn begin(&self) -> Result<Session> {
        let ask = Ask::new(Method::POST, format!("{}/blobs/uploads/", self.path), self.scope);
        let response = self.client.send(&ask).await?;
        self.session(&response).map_err(|failed| failed.into_error("the registry begins no upload"))
    }

    /// Reads the answer that begins an upload.
    fn session(&self, response: &Answer) -> Result<Session, RemoteError> {
        let location =
            self.location(response)?.ok_or_else(|| refused(response, "an upload without a Location"))?;
        let least =
            header(response.headers(), &OCI_CHUNK_MIN_LENGTH).and_then(|text| text.parse::<u64>().ok());
        let chunk = match (self.chunk, least.filter(|least| *least > 0)) {
            (None, None) => None,
            (asked, least) => Some(asked.unwrap_or(DEFAULT_CHUNK).max(least.unwrap_or(1))),
        };
        // What fits into one chunk is sent whole, which is one request less.
        let chunk = chunk.filter(|chunk| *chunk < self.size());
        Ok(Session { location, offset: 0, chunk, is_resumed: false })
    }

    /// Where the upload is gone on with, where the answer says so.
    fn location(&self, response: &Answer) -> Result<Option<Url>, RemoteError> {
        let Some(value) = response.headers().get(LOCATION) else { return Ok(None) };
        let joined = value.to_str().ok().and_then(|location| response.url().join(location.trim()).ok());
        let mut url = joined.ok_or_else(|| refused(response, "a Location that is no URL"))?;
        if !may_lead_to(self.client.base(), &url) {
            return Err(refused(response, "a Location away from HTTPS, where nothing is sent to"));
        }
        // Both fail only for URLs without a host, which may not be led to.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        url.set_fragment(None);
        Ok(Some(url))
    }

    /// Sends what is next; true when it was the last.
    async fn step(&self, session: &mut Session) -> Result<bool, Failed> {
        let source = || std::sync::Arc::clone(&self.shipment.source);
        let left = self.size() - session.offset;
        let is_whole = session.offset == 0 && session.chunk.is_none();
        if is_whole || left == 0 {
            let mut url = session.location.clone();
            url.query_pairs_mut().append_pair("digest", self.digest().as_str());
            let mut ask = Ask::new(Method::PUT, url, self.scope);
            ask.payload = Some(Payload::whole(source(), if is_whole { left } else { 0 }, OCTET_STREAM));
            let response = self.client.send_once(&ask).await?;
            check_digest(response.headers(), &failure::host(response.url()), |_| self.digest().clone())
                .map_err(Failed::Final)?;
            return Ok(true);
        }
        let len = session.chunk.unwrap_or(left).min(left);
        let mut ask = Ask::new(Method::PATCH, session.location.as_str(), self.scope);
        ask.payload = Some(Payload::chunk(source(), session.offset, len));
        let response = self.client.send_once(&ask).await?;
        if let Some(location) = self.location(&response)? {
            session.location = location;
        }
        let end = session.offset + len;
        // What does not say how much it took has taken it all.
        let there = header(response.headers(), &RANGE).and_then(taken).unwrap_or(end);
        let there = if there == 0 && end == 1 { 1 } else { there };
        if there > end {
            return Err(refused(&response, "more bytes taken than were sent").into());
        }
        if there <= session.offset {
            return Err(refused(&response, "nothing of a chunk taken").with_retryable().into());
        }
        session.offset = there;
        Ok(false)
    }

    /// Finds out how the upload goes on after a failure; `None` where the blob turns out to be there.
    async fn recover(&mut self, session: Session, failed: Failed, head: &Ask) -> Result<Option<Session>> {
        let status = failed.status();
        let was_whole = session.chunk.is_none() && !session.is_resumed;
        let may_shrink = self.size() > DEFAULT_CHUNK && self.chunk.is_none_or(|chunk| chunk > DEFAULT_CHUNK);
        if status == Some(413) && was_whole && may_shrink {
            tracing::debug!(digest = %self.digest(), "the registry takes no more at once, so that it is sent in chunks");
            self.chunk = Some(DEFAULT_CHUNK);
            return self.begin().await.map(Some);
        }
        let is_muddled = session.is_resumed && matches!(status, Some(400 | 409 | 412 | 422));
        let failed = match failed {
            Failed::Remote(failed, wait) if is_muddled || matches!(status, Some(404 | 416)) => {
                Failed::Remote(Box::new(failed.with_retryable()), wait)
            }
            failed => failed,
        };
        self.retries.wait(failed).await?;
        if is_muddled {
            self.may_resume = false;
        }
        let there =
            if self.may_resume && status != Some(404) { self.ask_status(&session).await? } else { None };
        // A registry that refuses to go on where it says that it is cannot be gone on with.
        let stuck = |there: &Session| status == Some(416) && there.offset == session.offset;
        if let Some(there) = there.filter(|there| !stuck(there)) {
            self.note_progress(there.offset);
            return Ok(Some(there));
        }
        // The answer to the last request may be all that was lost.
        if self.client.send(head).await.is_ok() {
            return Ok(None);
        }
        self.begin().await.map(Some)
    }

    /// Asks how much of the upload is there; `None` where it is not to be gone on with.
    async fn ask_status(&self, session: &Session) -> Result<Option<Session>> {
        let ask = Ask::new(Method::GET, session.location.as_str(), self.scope);
        let response = match self.client.send(&ask).await {
            Ok(response) => response,
            Err(error) if matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::ResourceExhausted) => {
                return Err(error);
            }
            Err(_) => return Ok(None),
        };
        let there = header(response.headers(), &RANGE).and_then(taken);
        let Some(offset) = there.filter(|offset| (1..=self.size()).contains(offset)) else { return Ok(None) };
        let Ok(location) = self.location(&response) else { return Ok(None) };
        let location = location.unwrap_or_else(|| session.location.clone());
        tracing::debug!(digest = %self.digest(), offset, "the upload goes on");
        Ok(Some(Session { location, offset, chunk: session.chunk, is_resumed: true }))
    }
}

const OCTET_STREAM: &str = "application/octet-stream";

fn header<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

/// How many bytes a `Range` of an answer says are there. One byte and none look the same and are taken for none.
fn taken(range: &str) -> Option<u64> {
    let range = range.strip_prefix("bytes").unwrap_or(range).trim_start_matches(['=', ' ']);
    let (first, last) = range.split_once('-')?;
    match (first.parse::<u64>().ok()?, last.parse::<u64>().ok()?) {
        (0, 0) => Some(0),
        (0, last) => last.checked_add(1),
        _ => None,
    }
}

/// An answer that makes no sense.
fn refused(response: &Answer, what: &str) -> RemoteError {
    RemoteError::new(failure::host(response.url()), failure::describe("upload to", response.url()))
        .with_status(response.status().as_u16())
        .with_message(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_in_every_form() {
        for (range, expected) in [
            ("0-9", Some(10)),
            ("bytes=0-9", Some(10)),
            ("bytes 0-9", Some(10)),
            ("0-0", Some(0)),
            ("5-9", None),
            ("0-18446744073709551615", None),
            ("0--1", None),
            ("", None),
            ("junk", None),
        ] {
            assert_eq!(taken(range), expected, "{range:?}");
        }
    }
}
