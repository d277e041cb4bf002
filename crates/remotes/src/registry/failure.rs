//! Turning answers and broken connections into errors, and reading bodies that may never end.

use std::error::Error as StdError;

use bytes::{Bytes, BytesMut};
use reqwest::{Response, Url};
use serde::Deserialize;
use wharf_content::Result;

use super::host::redacted;
use crate::error::RemoteError;

/// The most bytes of an error's body that are read (containerd: `core/remotes/errors/errors.go`).
const MAX_ERROR_LEN: u64 = 64_000;
/// How many of the registry's own errors are told.
const MAX_DETAILS: usize = 8;

/// A request as it is shown.
pub(super) fn describe(method: &str, url: &Url) -> String {
    format!("{method} {}", redacted(url))
}

pub(super) fn host(url: &Url) -> String {
    let name = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| name.to_owned(), |port| format!("{name}:{port}"))
}

/// The error of a connection that failed or broke.
pub(super) fn transport(url: &Url, request: &str, error: &reqwest::Error) -> RemoteError {
    let tls = tls_message(error);
    let message = match &tls {
        Some(message) => format!("TLS failed: {message}"),
        None if error.is_connect() => format!("cannot connect: {}", innermost(error)),
        None if error.is_timeout() => "timed out".to_owned(),
        None => format!("the connection broke: {}", innermost(error)),
    };
    let mut failed = RemoteError::new(host(url), request).with_message(message);
    failed.is_tls = tls.is_some();
    if failed.is_tls { failed } else { failed.with_retryable() }
}

/// The last error of the chain says what happened; those before it name layers of the client. None of them is asked for a URL.
fn innermost(error: &reqwest::Error) -> String {
    let mut last: &dyn StdError = error;
    while let Some(next) = last.source() {
        last = next;
    }
    last.to_string()
}

/// The error of TLS in a chain. An I/O error hides what it carries from its sources, so that it is looked into.
fn tls_message(error: &(dyn StdError + 'static)) -> Option<String> {
    if let Some(tls) = error.downcast_ref::<rustls::Error>() {
        return Some(tls.to_string());
    }
    let carried = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    match carried {
        Some(carried) => tls_message(carried),
        None => tls_message(error.source()?),
    }
}

#[derive(Deserialize)]
struct Body {
    #[serde(default)]
    errors: Vec<Entry>,
}

/// One error of a registry. The code is any text: an unknown one must not hide the message.
#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// The error of an answer whose status is one, with what its body says.
pub(super) async fn of_response(response: Response, request: &str) -> RemoteError {
    let mut failed = RemoteError::new(host(response.url()), request).with_status(response.status().as_u16());
    if let Ok(body) = read_prefix(response, MAX_ERROR_LEN).await
        && let Ok(Body { errors }) = serde_json::from_slice(&body)
    {
        failed.details =
            errors.into_iter().take(MAX_DETAILS).map(|entry| (cut(entry.code), cut(entry.message))).collect();
    }
    failed
}

fn cut(text: String) -> String {
    const MOST: usize = 1000;
    if text.chars().count() <= MOST { text } else { text.chars().take(MOST).chain(['…']).collect() }
}

async fn read_prefix(mut response: Response, limit: u64) -> Result<Bytes, reqwest::Error> {
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await? {
        body.extend_from_slice(&chunk);
        if body.len() as u64 >= limit {
            break;
        }
    }
    Ok(body.freeze())
}

/// Reads a whole body.
///
/// # Errors
/// `FailedPrecondition` for one of more than `limit` bytes; `Unavailable` for one that breaks.
pub(super) async fn read_body(mut response: Response, limit: u64, request: &str) -> Result<Bytes> {
    let url = response.url().clone();
    let mut body = BytesMut::new();
    loop {
        let chunk = response.chunk().await.map_err(|error| {
            transport(&url, request, &error).into_error(format!("cannot read the answer of {}", host(&url)))
        })?;
        let Some(chunk) = chunk else { return Ok(body.freeze()) };
        body.extend_from_slice(&chunk);
        if body.len() as u64 > limit {
            let failed = RemoteError::new(host(&url), request)
                .with_status(response.status().as_u16())
                .with_message(format!("the body is larger than the {limit} bytes that are read of it"));
            return Err(wharf_content::Error::failed_precondition(format!(
                "the answer of {} is too large",
                host(&url)
            ))
            .with_source(failed));
        }
    }
}
