//! Sending one request, whatever it is for and wherever it goes: within the host's limits, watched by the clock, traced, and its answer
//! looked at for what the host wants from everybody.
//!
//! Nothing here knows of credentials, redirects or tries; [`client`](super::client) does. Requests for tokens go this way too.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use reqwest::{
    Method, Request, RequestBuilder, Url,
    header::{DATE, HeaderMap, RETRY_AFTER, WARNING},
};
use wharf_images::progress::{Event, Sink};

use super::{
    answer::Answer,
    connections::Connections,
    failure,
    limits::{Gate, Limits},
    payload::Payload,
    retries::Failed,
    secrets::Secrets,
    settings::RegistrySettings,
    throughput::{Floor, Pace},
    trace::Exchange,
};
use crate::error::RemoteError;

/// The most characters of a warning that are told.
const MAX_WARNING_LEN: usize = 1000;
/// So much longer than a connection may take to be made its request has at least, so that what is wrong with connecting is what is told.
const CONNECTED: Duration = Duration::from_millis(250);

/// The way to hosts.
#[derive(Debug)]
pub(super) struct Wire {
    connections: Connections,
    settings: RegistrySettings,
}

impl Wire {
    pub(super) fn new(connections: Connections, settings: RegistrySettings) -> Self {
        Self { connections, settings }
    }

    fn limits(&self) -> &Limits {
        &self.settings.limits
    }

    fn sink(&self) -> &dyn Sink {
        self.settings.sink.as_ref()
    }

    /// Begins a request.
    pub(super) fn request(&self, method: Method, url: Url) -> RequestBuilder {
        self.connections.http(&url).request(method, url)
    }

    /// Sends a request that has no body, or one in memory.
    ///
    /// # Errors
    /// That of a connection that cannot be made, broke, or was silent.
    pub(super) async fn send(&self, request: RequestBuilder) -> Result<Answer, RemoteError> {
        let request = request.build().map_err(|error| {
            RemoteError::new("", "a request").with_message(format!("cannot be made: {}", error.without_url()))
        })?;
        self.exchange(request, None).await
    }

    /// Sends a request with a payload, which is opened already.
    pub(super) async fn upload(&self, request: Request, payload: &Payload) -> Result<Answer, Failed> {
        self.exchange(request, Some(payload)).await.map_err(|failed| match payload.take_error() {
            // A body that cannot be read is no fault of the registry or of the way to it.
            Some(error) => Failed::Final(error),
            None => failed.into(),
        })
    }

    async fn exchange(&self, request: Request, payload: Option<&Payload>) -> Result<Answer, RemoteError> {
        let (method, url) = (request.method().clone(), request.url().clone());
        let described = failure::describe(method.as_str(), &url);
        let secrets = Secrets::of(&request);
        let gate = self.limits().gate(&url, &self.settings);
        if let Some(left) = gate.quiet_for().filter(|_| !self.settings.waits_for_hosts) {
            let left = left.as_secs_f64();
            let message = format!("not asked: the host wants to be left alone for {left:.1} s more");
            return Err(RemoteError::new(failure::host(&url), described)
                .with_retryable()
                .with_message(message));
        }
        let permit = Arc::new(Arc::clone(&gate).enter().await);
        let trace = self.settings.trace.clone();
        let mut exchange = Exchange::begin(trace, method.as_str(), &url, request.headers(), &secrets);
        let pace = Pace::new(Floor::of(&self.settings));
        if let Some(payload) = payload {
            payload.flow_by(&permit, pace.clone());
        }
        let answer = tokio::select! {
            biased;
            answer = self.connections.http(&url).execute(request) => answer.map_err(|error| failure::transport(&url, &described, &error)),
            why = self.given_up(payload) => {
                Err(why(RemoteError::new(failure::host(&url), &*described).with_retryable()))
            }
        };
        let response = match answer {
            Ok(response) => response,
            Err(failed) => {
                exchange.failed(failed.message.as_deref().unwrap_or_default());
                return Err(failed);
            }
        };
        let status = response.status().as_u16();
        tracing::debug!(status, "{described}");
        exchange.answered(status, &url, response.headers(), &secrets);
        self.heed(&gate, &url, status, response.headers(), &secrets);
        let patience = (self.settings.idle_timeout, pace);
        Ok(Answer::new(&method, (described, secrets), response, permit, patience, exchange).await)
    }

    /// Ends when there is nothing to be waited for any more, and says why.
    async fn given_up(&self, payload: Option<&Payload>) -> impl FnOnce(RemoteError) -> RemoteError {
        let settings = &self.settings;
        let (message, is_slow) = match payload {
            None => {
                let limit = settings.header_timeout.max(settings.connect_timeout.saturating_add(CONNECTED));
                tokio::time::sleep(limit).await;
                (format!("no answer came for {:.1} s", limit.as_secs_f64()), false)
            }
            Some(payload) => match payload.stalled(settings.idle_timeout).await {
                Some(slow) => (format!("the registry takes what is sent too slowly: {slow}"), true),
                None => ("the registry stopped taking what is sent, and said nothing".to_owned(), false),
            },
        };
        move |failed| {
            let failed = failed.with_message(message);
            if is_slow { failed.with_slow() } else { failed }
        }
    }

    /// Does what the host wants of everybody who asks it, and passes on what it wants people to know.
    fn heed(&self, gate: &Gate, url: &Url, status: u16, headers: &HeaderMap, secrets: &Secrets) {
        let host = failure::host(url);
        if let (429 | 503, Some(wait)) = (status, retry_after(headers, SystemTime::now()))
            && !wait.is_zero()
        {
            let wait = wait.min(self.settings.max_retry_delay);
            gate.hold_off(wait);
            self.sink().event(&Event::Throttled { host: &host, wait });
        }
        for warning in headers.get_all(WARNING) {
            let Some(text) = warning_text(&String::from_utf8_lossy(warning.as_bytes())) else { continue };
            let text: String = secrets.scrub(&text).chars().take(MAX_WARNING_LEN).collect();
            let text = format!("the registry {host} says: {text}");
            if self.limits().is_new_warning(&text) {
                self.sink().event(&Event::Warning { text: &text });
            }
        }
    }
}

/// How long the server asks to wait: seconds or a date. What makes no sense is left out.
///
/// A date is one of the server's clock, so that the answer's own `Date` is what it is compared with, where there is one; else `now`.
pub(super) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let date = |text: &str| httpdate::parse_http_date(text.trim()).ok();
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let answered = headers.get(DATE).and_then(|value| date(value.to_str().ok()?));
    date(value)?.duration_since(answered.unwrap_or(now)).ok()
}

/// The text of a `Warning: 299 - "text"` (distribution specification 1.1, "Warnings"). Other codes and agents are those of caches.
fn warning_text(value: &str) -> Option<String> {
    let quoted =
        value.trim().strip_prefix("299")?.trim_start().strip_prefix('-')?.trim_start().strip_prefix('"')?;
    let mut text = String::new();
    let mut chars = quoted.chars();
    loop {
        match chars.next()? {
            '"' => return (!text.trim().is_empty()).then_some(text),
            '\\' => text.push(chars.next()?),
            c => text.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_in_every_form() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").expect("a date");
        for (value, date, expected) in [
            ("3", None, Some(3)),
            ("0", None, Some(0)),
            ("86400", None, Some(86400)),
            ("-1", None, None),
            ("1.5", None, None),
            ("junk", None, None),
            ("", None, None),
            ("99999999999999999999", None, None),
            ("Sun, 06 Nov 1994 08:49:47 GMT", None, Some(10)),
            ("Sun, 06 Nov 1994 08:49:27 GMT", None, None),
            // The server's clock is ahead, and it says so.
            ("Tue, 01 Dec 2099 00:00:10 GMT", Some("Tue, 01 Dec 2099 00:00:00 GMT"), Some(10)),
            ("Sun, 06 Nov 1994 08:49:47 GMT", Some("junk"), Some(10)),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, value.parse().expect("a header"));
            if let Some(date) = date {
                headers.insert(DATE, date.parse().expect("a header"));
            }
            assert_eq!(retry_after(&headers, now), expected.map(Duration::from_secs), "{value}");
        }
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, "Tue, 01 Dec 2099 00:00:00 GMT".parse().expect("a header"));
        assert!(
            retry_after(&headers, now).is_some_and(|wait| wait > Duration::from_secs(1_000_000)),
            "to be capped"
        );
    }

    #[test]
    fn warnings_of_registries() {
        for (value, expected) in [
            ("299 - \"Your token expires\"", Some("Your token expires")),
            ("299  -  \"a \\\"b\\\" \\\\\"", Some("a \"b\" \\")),
            ("299 - \"one\", 299 - \"two\"", Some("one")),
            ("299 proxy \"of a cache\"", None),
            ("110 - \"stale\"", None),
            ("299 - \"open", None),
            ("299 - \"open\\", None),
            ("299 - \"\"", None),
            ("299 - text", None),
            ("299", None),
            ("", None),
        ] {
            assert_eq!(warning_text(value).as_deref(), expected, "{value}");
        }
    }
}
