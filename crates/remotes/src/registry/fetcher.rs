//! Content by descriptor, going on where a connection broke. Which host is asked when is in [`failover`](super::failover).

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream;
use reqwest::{
    Method, StatusCode,
    header::{CONTENT_LENGTH, CONTENT_RANGE},
};
use wharf_content::{ByteStream, Catalogue, Descriptor, Digest, Error, Result};
use wharf_images::{Reference, decode, progress::Event, transport::Fetcher};

use super::{
    answer::Answer,
    client::{Ask, Client},
    failover::{self, Open, Sources},
    failure,
    hosts::Site,
    resolver::{ACCEPT, pull_scope},
};
use crate::error::RemoteError;

/// After so many broken connections in a row without a byte between them a transfer is given up.
const MAX_BREAKS: u32 = 3;

/// Fetches the content of one repository.
#[derive(Debug)]
pub(super) struct RegistryFetcher {
    sources: Arc<Sources>,
    repository: String,
    catalogue: Catalogue,
}

impl RegistryFetcher {
    pub(super) fn new(sites: Vec<Site>, reference: &Reference, catalogue: Catalogue) -> Self {
        let repository = reference.repository().to_owned();
        Self { sources: Arc::new(Sources::new(sites)), repository, catalogue }
    }

    /// The endpoints that may have the content, the likelier first. What nobody decodes may be either.
    fn endpoints(&self, descriptor: &Descriptor) -> Result<&'static [&'static str]> {
        Ok(match decode::kind(&descriptor.media_type, &self.catalogue)? {
            Some(kind) if kind.is_manifest() => &["manifests", "blobs"],
            Some(_) => &["blobs"],
            None => &["blobs", "manifests"],
        })
    }
}

#[async_trait]
impl Fetcher for RegistryFetcher {
    async fn fetch(&self, descriptor: &Descriptor, offset: u64) -> Result<ByteStream> {
        if offset > descriptor.size {
            let Descriptor { digest, size, .. } = descriptor;
            return Err(Error::out_of_range(format!(
                "offset {offset} is outside {digest}, which has {size} bytes"
            )));
        }
        if offset > 0 && offset == descriptor.size {
            // A request for no bytes is one that cannot be answered.
            return Ok(Box::pin(stream::empty()));
        }
        let endpoints = self.endpoints(descriptor)?;
        let descriptor = descriptor.clone();
        let open: Open = Box::new(move |client, path, offset| {
            Box::pin(open_at(client, path, endpoints, descriptor.clone(), offset))
        });
        Arc::clone(&self.sources).open(offset, open).await
    }

    async fn size(&self, digest: &Digest, _: &str) -> Result<u64> {
        failover::first(self.sources.sites(), |client, path| size_at(client, path, digest)).await
    }

    fn repository(&self) -> Option<&str> {
        Some(&self.repository)
    }
}

/// The size of a blob, as one host tells it.
async fn size_at(client: Arc<Client>, path: Arc<str>, digest: &Digest) -> Result<u64> {
    let blob = format!("{path}/blobs/{digest}");
    let ask = |method| Ask { accept: Some("*/*"), ..Ask::new(method, &*blob, pull_scope(&path)) };
    let response = match client.send(&ask(Method::HEAD)).await {
        // Some registries do not do HEAD, and some places that they lead to were told of GET only. Its body is left where it is.
        Err(error)
            if RemoteError::of(&error).is_some_and(|error| matches!(error.status, Some(403 | 405))) =>
        {
            client.send(&ask(Method::GET)).await?
        }
        response => response?,
    };
    let length = response.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    length.and_then(|value| value.parse().ok()).ok_or_else(|| {
        let host = failure::host(client.base());
        Error::failed_precondition(format!("{host} does not tell the size of {digest}"))
    })
}

/// Opens content at one host, by the first of its endpoints that has it.
async fn open_at(
    client: Arc<Client>,
    path: Arc<str>,
    endpoints: &'static [&'static str],
    descriptor: Descriptor,
    offset: u64,
) -> Result<ByteStream> {
    let mut absent = None;
    for endpoint in endpoints {
        let transfer = Transfer {
            client: Arc::clone(&client),
            descriptor: descriptor.clone(),
            path: format!("{path}/{endpoint}/{}", descriptor.digest),
            is_manifest: *endpoint == "manifests",
            scope: pull_scope(&path),
            size: descriptor.size,
            at: offset,
            breaks: 0,
            slow: 0,
        };
        match transfer.open().await {
            Ok(response) => return Ok(transfer.stream(response)),
            Err(error) if RemoteError::of(&error).is_some_and(|error| error.status == Some(404)) => {
                absent = absent.or(Some(error));
            }
            Err(error) => return Err(error),
        }
    }
    Err(absent.unwrap_or_else(|| Error::not_found(format!("content {} was not found", descriptor.digest))))
}

/// One transfer and how far it is.
struct Transfer {
    client: Arc<Client>,
    descriptor: Descriptor,
    path: String,
    is_manifest: bool,
    scope: String,
    size: u64,
    at: u64,
    breaks: u32,
    /// How often it was too slow, whatever it brought.
    slow: u32,
}

/// An answer, and how many of its bytes are there already.
struct Opened {
    response: Answer,
    discard: u64,
}

impl Transfer {
    /// Asks for the content from where the transfer is.
    async fn open(&self) -> Result<Opened> {
        let ask = Ask {
            method: Method::GET,
            path: self.path.clone(),
            accept: Some(if self.is_manifest { ACCEPT } else { "*/*" }),
            from_byte: self.at,
            scope: self.scope.clone(),
            payload: None,
        };
        let response = self.client.send(&ask).await?;
        let refuse = |message: String| {
            let request = failure::describe("GET", response.url());
            let failed = RemoteError::new(failure::host(response.url()), request)
                .with_status(response.status().as_u16())
                .with_message(message);
            Err(Error::failed_precondition("the registry's answer does not fit the request")
                .with_source(failed))
        };
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        let discard = match response.status() {
            // A whole answer to a request for the rest: what is there already is read over.
            StatusCode::OK => self.at,
            StatusCode::PARTIAL_CONTENT if self.at > 0 => {
                let range = header(CONTENT_RANGE).unwrap_or_default();
                if !continues_at(range, self.at, self.size) {
                    return refuse(format!(
                        "bytes from {} of {} were asked for and {range:?} came",
                        self.at, self.size
                    ));
                }
                0
            }
            status => return refuse(format!("a status that is no answer to it: {status}")),
        };
        let expected = self.size - self.at + discard;
        match header(CONTENT_LENGTH).and_then(|value| value.parse::<u64>().ok()) {
            Some(length) if length != expected => {
                refuse(format!("size mismatch: {expected} bytes were expected and {length} were announced"))
            }
            _ => Ok(Opened { response, discard }),
        }
    }

    /// The bytes, over as many connections as it takes.
    fn stream(self, opened: Opened) -> ByteStream {
        Box::pin(stream::unfold(Some((self, Some(opened))), |state| async move {
            let (mut transfer, mut opened) = state?;
            match transfer.next(&mut opened).await {
                Ok(Some(chunk)) => Some((Ok(chunk), Some((transfer, opened)))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        }))
    }

    async fn next(&mut self, opened: &mut Option<Opened>) -> Result<Option<Bytes>> {
        loop {
            let current = match opened {
                Some(current) => current,
                None => opened.insert(self.open().await?),
            };
            let broken = match current.response.chunk().await {
                Ok(Some(chunk)) => {
                    let skip = usize::try_from(current.discard).unwrap_or(usize::MAX).min(chunk.len());
                    current.discard -= skip as u64;
                    let chunk = chunk.slice(skip..);
                    if chunk.is_empty() {
                        continue;
                    }
                    self.at += chunk.len() as u64;
                    self.breaks = 0;
                    return Ok(Some(chunk));
                }
                Ok(None) if self.at >= self.size => return Ok(None),
                Ok(None) => None,
                Err(error) => Some(error),
            };
            let mut failed = broken.unwrap_or_else(|| {
                RemoteError::new(failure::host(current.response.url()), current.response.request())
                    .with_retryable()
                    .with_message(format!("the body ended after {} of {} bytes", self.at, self.size))
            });
            self.breaks += 1;
            self.slow += u32::from(failed.is_slow());
            if self.breaks.max(self.slow) > MAX_BREAKS || !failed.is_retryable() {
                failed.attempts = self.breaks.max(self.slow);
                return Err(failed.into_error("the transfer broke"));
            }
            tracing::debug!(error = %failed, at = self.at, "the transfer goes on over a new connection");
            let error = failed.into_error("the transfer broke");
            self.client.sink().event(&Event::Retried { descriptor: &self.descriptor, error: &error });
            *opened = None;
        }
    }
}

/// Whether a Content-Range is exactly the rest from `first` (RFC 9110, 14.4). The total may be left open.
fn continues_at(range: &str, first: u64, size: u64) -> bool {
    let Some((bytes, total)) = range.trim().strip_prefix("bytes ").and_then(|rest| rest.split_once('/'))
    else {
        return false;
    };
    let Some((from, to)) = bytes.split_once('-') else { return false };
    from.parse() == Ok(first)
        && to.parse::<u64>().is_ok_and(|to| to.checked_add(1) == Some(size))
        && (total == "*" || total.parse() == Ok(size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_rest_continues() {
        assert!(continues_at("bytes 5-9/10", 5, 10));
        assert!(continues_at("bytes 5-9/*", 5, 10));
        for bad in [
            "",
            "bytes 4-9/10",
            "bytes 5-8/10",
            "bytes 5-9/11",
            "bytes 5-9",
            "5-9/10",
            "bytes */10",
            "bytes -5/10",
        ] {
            assert!(!continues_at(bad, 5, 10), "{bad}");
        }
    }
}
