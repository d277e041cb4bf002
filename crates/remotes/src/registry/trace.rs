//! What goes over the wire, told to whoever wants to see it: heads of requests and answers, and how long bodies were, with every secret
//! left out. Bodies themselves are never told.
//!
//! Of headers only those are shown whose values are known to be harmless: what a registry or a configuration calls its own may be a key.
//! The same is told by `tracing` under the target `wharf_remotes::http`, at the level `trace`.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use reqwest::{
    StatusCode, Url,
    header::{HeaderMap, LINK, LOCATION, WWW_AUTHENTICATE},
};
use tokio::time::Instant;

use super::{
    host::redacted,
    secrets::{REDACTED, Secrets},
};

/// Headers whose values are shown, but for what of them is a secret of the request.
const SHOWN: [&str; 40] = [
    "accept",
    "accept-ranges",
    "age",
    "allow",
    "api-version",
    "cache-control",
    "connection",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "date",
    "docker-content-digest",
    "docker-distribution-api-version",
    "docker-ratelimit-source",
    "docker-upload-uuid",
    "etag",
    "expires",
    "host",
    "keep-alive",
    "last-modified",
    "oci-chunk-min-length",
    "oci-filters-applied",
    "oci-subject",
    "oci-tag",
    "range",
    "ratelimit-limit",
    "ratelimit-remaining",
    "ratelimit-reset",
    "retry-after",
    "server",
    "strict-transport-security",
    "transfer-encoding",
    "user-agent",
    "vary",
    "via",
    "warning",
    "x-cache",
    "x-ratelimit-limit",
    "x-ratelimit-remaining",
];

/// Takes what goes over the wire. Called by every request: it must not block for long.
pub trait HttpTrace: fmt::Debug + Send + Sync + 'static {
    /// Takes one event. What it says comes from strangers: escape it before it reaches a terminal.
    fn http(&self, event: &HttpEvent<'_>);
}

/// One thing that went over the wire. `Display` writes it on one line or several.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum HttpEvent<'a> {
    /// A request is sent.
    Request {
        /// Counts requests, and pairs what belongs together.
        number: u64,
        /// The method.
        method: &'a str,
        /// The URL, redacted.
        url: &'a str,
        /// The headers, redacted, but for those that the HTTP client adds.
        headers: &'a [(String, String)],
    },
    /// The head of an answer came.
    Answer {
        /// That of the request.
        number: u64,
        /// The status.
        status: u16,
        /// How long it took from the request on.
        elapsed: Duration,
        /// The headers, redacted.
        headers: &'a [(String, String)],
    },
    /// No answer came.
    Failed {
        /// That of the request.
        number: u64,
        /// Why.
        why: &'a str,
        /// How long it took from the request on.
        elapsed: Duration,
    },
    /// A body was read, or no more of it was wanted.
    Ended {
        /// That of the request.
        number: u64,
        /// How many bytes of it came.
        bytes: u64,
        /// How long it took from the request on.
        elapsed: Duration,
    },
}

impl fmt::Display for HttpEvent<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let heads = |f: &mut fmt::Formatter<'_>, mark: &str, headers: &[(String, String)]| {
            headers.iter().try_for_each(|(name, value)| write!(f, "\n{mark}   {name}: {value}"))
        };
        match self {
            Self::Request { number, method, url, headers } => {
                write!(f, "> #{number} {method} {url}")?;
                heads(f, ">", headers)
            }
            Self::Answer { number, status, elapsed, headers } => {
                let reason = StatusCode::from_u16(*status).ok().and_then(|status| status.canonical_reason());
                write!(f, "< #{number} {status} {} after {} ms", reason.unwrap_or("?"), elapsed.as_millis())?;
                heads(f, "<", headers)
            }
            Self::Failed { number, why, elapsed } => {
                write!(f, "< #{number} no answer after {} ms: {why}", elapsed.as_millis())
            }
            Self::Ended { number, bytes, elapsed } => {
                write!(f, "< #{number} {bytes} bytes of body after {} ms", elapsed.as_millis())
            }
        }
    }
}

/// One request and its answer while they are traced. That the body ended is told when this is dropped.
#[derive(Debug)]
pub(super) struct Exchange {
    to: Option<Arc<dyn HttpTrace>>,
    number: u64,
    began: Instant,
    bytes: u64,
    is_answered: bool,
}

impl Exchange {
    /// Begins with a request.
    pub(super) fn begin(
        to: Option<Arc<dyn HttpTrace>>,
        method: &str,
        url: &Url,
        headers: &HeaderMap,
        secrets: &Secrets,
    ) -> Self {
        static NUMBERS: AtomicU64 = AtomicU64::new(1);
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let exchange = Self { to, number, began: Instant::now(), bytes: 0, is_answered: false };
        if exchange.is_wanted() {
            let headers = shown(headers, url, secrets);
            exchange.tell(&HttpEvent::Request { number, method, url: &redacted(url), headers: &headers });
        }
        exchange
    }

    fn is_wanted(&self) -> bool {
        self.to.is_some() || tracing::enabled!(target: "wharf_remotes::http", tracing::Level::TRACE)
    }

    fn tell(&self, event: &HttpEvent<'_>) {
        tracing::trace!(target: "wharf_remotes::http", "{event}");
        if let Some(to) = &self.to {
            to.http(event);
        }
    }

    pub(super) fn answered(&mut self, status: u16, url: &Url, headers: &HeaderMap, secrets: &Secrets) {
        self.is_answered = true;
        if self.is_wanted() {
            let headers = shown(headers, url, secrets);
            let (number, elapsed) = (self.number, self.began.elapsed());
            self.tell(&HttpEvent::Answer { number, status, elapsed, headers: &headers });
        }
    }

    pub(super) fn failed(&self, why: &str) {
        self.tell(&HttpEvent::Failed { number: self.number, why, elapsed: self.began.elapsed() });
    }

    /// Counts bytes of the body.
    pub(super) fn read(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if self.is_answered {
            let (number, bytes, elapsed) = (self.number, self.bytes, self.began.elapsed());
            self.tell(&HttpEvent::Ended { number, bytes, elapsed });
        }
    }
}

/// The headers of a message from or to `url`, as they may be shown.
fn shown(headers: &HeaderMap, url: &Url, secrets: &Secrets) -> Vec<(String, String)> {
    let show = |(name, value): (&reqwest::header::HeaderName, &reqwest::header::HeaderValue)| {
        let text = value.to_str().ok().filter(|_| !value.is_sensitive());
        let shown = match text {
            Some(text) if name == LOCATION => {
                url.join(text).map_or_else(|_| REDACTED.to_owned(), |location| redacted(&location))
            }
            Some(text) if name == LINK || name == WWW_AUTHENTICATE => without_queries(text),
            Some(text) if SHOWN.contains(&name.as_str()) => text.to_owned(),
            _ => REDACTED.to_owned(),
        };
        (name.to_string(), secrets.scrub(&shown).into_owned())
    };
    headers.iter().map(show).collect()
}

/// A text with links in it, without their queries and user information.
fn without_queries(text: &str) -> String {
    let ends = |c: char| c.is_whitespace() || matches!(c, '"' | '>' | '<' | ',');
    let mut shown = String::with_capacity(text.len());
    for word in text.split_inclusive(ends) {
        let (link, end) = match word.char_indices().next_back().filter(|(_, c)| ends(*c)) {
            Some((at, _)) => word.split_at(at),
            None => (word, ""),
        };
        let (link, query) = link.split_once('?').map_or((link, ""), |(link, _)| (link, "?REDACTED"));
        match link.split_once("://").and_then(|(scheme, rest)| {
            let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
            Some((scheme, authority.rsplit_once('@')?.1, path))
        }) {
            Some((scheme, host, path)) => shown.push_str(&format!("{scheme}://{host}{path}")),
            None => shown.push_str(link),
        }
        shown.push_str(query);
        shown.push_str(end);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_of_headers_are_left_out() {
        let url = Url::parse("https://r.example/v2/a/blobs/x").expect("a URL");
        for (name, value, expected) in [
            ("content-type", "text/plain", "text/plain"),
            ("docker-content-digest", "sha256:ab", "sha256:ab"),
            ("authorization", "Bearer canary", REDACTED),
            ("authorization", "Basic Y2FuYXJ5", REDACTED),
            ("proxy-authorization", "Basic Y2FuYXJ5", REDACTED),
            ("cookie", "a=canary", REDACTED),
            ("set-cookie", "a=canary; Path=/", REDACTED),
            ("x-api-key", "canary", REDACTED),
            (
                "location",
                "https://u:canary@cdn/x?Signature=canary#canary",
                "https://cdn/x?Signature=REDACTED",
            ),
            ("location", "/v2/x?_state=canary", "https://r.example/v2/x?_state=REDACTED"),
            ("location", "https://", REDACTED),
            ("link", "</v2/a?last=b&t=canary>; rel=\"next\"", "</v2/a?REDACTED>; rel=\"next\""),
            (
                "www-authenticate",
                "Bearer realm=\"https://u:canary@t/token?k=canary\",service=\"s\"",
                "Bearer realm=\"https://t/token?REDACTED\",service=\"s\"",
            ),
        ] {
            let mut headers = HeaderMap::new();
            let name = reqwest::header::HeaderName::from_bytes(name.as_bytes()).expect("a name");
            headers.insert(name.clone(), value.parse().expect("a value"));
            let found = shown(&headers, &url, &Secrets::default());
            assert_eq!(found, [(name.to_string(), expected.to_owned())]);
        }
    }

    #[test]
    fn events_are_lines() {
        let headers = [("accept".to_owned(), "*/*".to_owned())];
        let elapsed = Duration::from_millis(12);
        let (number, url) = (7, "https://r/v2/");
        for (event, expected) in [
            (
                HttpEvent::Request { number, method: "GET", url, headers: &headers },
                "> #7 GET https://r/v2/\n>   accept: */*",
            ),
            (
                HttpEvent::Answer { number, status: 404, elapsed, headers: &[] },
                "< #7 404 Not Found after 12 ms",
            ),
            (HttpEvent::Failed { number, why: "it broke", elapsed }, "< #7 no answer after 12 ms: it broke"),
            (HttpEvent::Ended { number, bytes: 9, elapsed }, "< #7 9 bytes of body after 12 ms"),
        ] {
            assert_eq!(event.to_string(), expected);
        }
    }
}
