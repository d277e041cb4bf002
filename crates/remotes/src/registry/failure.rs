//! Turning answers and broken connections into errors, and reading bodies that may never end.

use std::error::Error as StdError;

use bytes::{Bytes, BytesMut};
use reqwest::{
    Url,
    header::{ALLOW, HeaderMap},
};
use serde::Deserialize;
use wharf_content::{Error, Result};

use super::{answer::Answer, host::redacted};
use crate::error::RemoteError;

/// What the HTTP client says where an answer does not begin as one of HTTP, such as an alert of TLS.
const NO_HTTP: &str = "invalid HTTP version parsed";
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
    let tls = tls_error(error);
    let is_no_http = tls.is_none() && url.scheme() == "http" && innermost(error) == NO_HTTP;
    let message = match tls {
        _ if is_no_http => "what answers speaks no plain HTTP".to_owned(),
        Some(tls) => format!("TLS failed: {tls}"),
        None if error.is_connect() => format!("cannot connect: {}", innermost(error)),
        None if error.is_timeout() => "timed out".to_owned(),
        None => format!("the connection broke: {}", innermost(error)),
    };
    let mut failed = RemoteError::new(host(url), request).with_message(message);
    failed.is_tls = tls.is_some();
    match tls {
        Some(rustls::Error::InvalidMessage(_)) => failed.with_no_tls(),
        Some(_) => failed,
        // It speaks the same the next time.
        None if is_no_http => failed.with_wanted_tls(),
        None => failed.with_retryable(),
    }
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
fn tls_error<'e>(error: &'e (dyn StdError + 'static)) -> Option<&'e rustls::Error> {
    if let Some(tls) = error.downcast_ref::<rustls::Error>() {
        return Some(tls);
    }
    let carried = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    match carried {
        Some(carried) => tls_error(carried),
        None => tls_error(error.source()?),
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

/// The error of an answer whose status is one, with what its body says. What the registry quotes of the request's secrets is left out.
pub(super) async fn of_answer(mut answer: Answer) -> RemoteError {
    let status = answer.status().as_u16();
    let mut failed = RemoteError::new(host(answer.url()), answer.request()).with_status(status);
    if status == 405 && is_read_only(answer.headers()) {
        failed = failed.with_read_only();
    }
    if let Ok(Some(body)) = answer.chunk().await
        && let Ok(Body { errors }) = serde_json::from_slice(&body)
    {
        let told = |text: String| cut(answer.secrets().scrub(&text).into_owned());
        failed.details = errors
            .into_iter()
            .take(MAX_DETAILS)
            .map(|entry| (told(entry.code), told(entry.message)))
            .collect();
    }
    failed
}

/// Whether methods are allowed, and none of them changes anything.
fn is_read_only(headers: &HeaderMap) -> bool {
    let allowed: Vec<&str> = headers.get_all(ALLOW).iter().filter_map(|value| value.to_str().ok()).collect();
    let mut methods = allowed.iter().flat_map(|value| value.split(',')).map(str::trim);
    !allowed.is_empty() && methods.all(|method| matches!(method, "" | "GET" | "HEAD" | "OPTIONS"))
}

fn cut(text: String) -> String {
    const MOST: usize = 1000;
    if text.chars().count() <= MOST { text } else { text.chars().take(MOST).chain(['…']).collect() }
}

/// Why there is no whole body.
#[derive(Debug)]
pub(super) enum Unread {
    /// It broke, which another try may mend.
    Broken(RemoteError),
    /// It is too large.
    TooLarge(Error),
}

impl From<Unread> for Error {
    fn from(unread: Unread) -> Self {
        match unread {
            Unread::Broken(failed) => {
                let context = format!("cannot read the answer of {}", failed.host);
                failed.into_error(context)
            }
            Unread::TooLarge(error) => error,
        }
    }
}

/// Reads a whole body of at most `limit` bytes.
pub(super) async fn read_body(answer: &mut Answer, limit: u64) -> Result<Bytes, Unread> {
    let mut body = BytesMut::new();
    while let Some(chunk) = answer.chunk().await.map_err(Unread::Broken)? {
        body.extend_from_slice(&chunk);
        if body.len() as u64 > limit {
            let host = host(answer.url());
            let failed = RemoteError::new(&*host, answer.request())
                .with_status(answer.status().as_u16())
                .with_message(format!("the body is larger than the {limit} bytes that are read of it"));
            let error = Error::failed_precondition(format!("the answer of {host} is too large"));
            return Err(Unread::TooLarge(error.with_source(failed)));
        }
    }
    Ok(body.freeze())
}
