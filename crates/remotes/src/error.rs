//! What went wrong at a registry: the facts that a caller can act on, and never a secret.

use std::{error::Error as StdError, fmt, time::Duration};

use wharf_content::{Error, ErrorKind};

/// An error of a registry or of the way to it. It stands in the chain of sources of a [`wharf_content::Error`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RemoteError {
    /// The host and port that were contacted.
    pub host: String,
    /// What was asked, with the values of the URL's query left out.
    pub request: String,
    /// The status of the answer; `None` where there was none.
    pub status: Option<u16>,
    /// How many times the request was sent.
    pub attempts: u32,
    /// What the registry said, as pairs of code and message.
    pub details: Vec<(String, String)>,
    /// What failed on the way, where there was no answer or it made no sense.
    pub message: Option<String>,
    /// Whether TLS failed: an unknown certificate, or a server that speaks something else.
    pub is_tls: bool,
    retryable: bool,
    slow: bool,
    sign: Option<Sign>,
    /// Milliseconds, so that errors stay small.
    waited: u32,
    /// Boxed, so that errors stay small enough to be handed up by value.
    more: Option<Box<More>>,
}

/// What the failure is a sign of. One at most can be: it takes the least room, for errors stay small.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sign {
    /// HTTPS was spoken to what seems to speak plain HTTP.
    NoTls,
    /// Plain HTTP was spoken to what seems to speak HTTPS.
    WantsTls,
    /// Credentials were shown, and were not enough.
    RefusedCredentials,
    /// The registry is only read.
    ReadOnly,
}

/// What few errors have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct More {
    /// The registry that a token server was asked for.
    registry: Option<String>,
    retry_after: Option<Duration>,
}

impl RemoteError {
    /// Describes a request to `host` of which nothing more is known.
    pub fn new(host: impl Into<String>, request: impl Into<String>) -> Self {
        Self {
            host: host.into(),
            request: request.into(),
            status: None,
            attempts: 1,
            details: Vec::new(),
            message: None,
            is_tls: false,
            retryable: false,
            slow: false,
            sign: None,
            waited: 0,
            more: None,
        }
    }

    /// Sets the status of the answer, which decides whether another try can help.
    #[must_use]
    pub fn with_status(mut self, status: u16) -> Self {
        self.status = Some(status);
        self.retryable = is_retryable_status(status);
        self
    }

    /// Sets what failed on the way.
    #[must_use]
    pub fn with_message(mut self, message: impl Into<String>) -> Self {
        self.message = Some(message.into());
        self
    }

    /// Says that the connection failed or broke, so that another try can help.
    #[must_use]
    pub fn with_retryable(mut self) -> Self {
        self.retryable = true;
        self
    }

    /// Says that bytes flowed, but too few.
    #[must_use]
    pub fn with_slow(mut self) -> Self {
        self.slow = true;
        self
    }

    /// Whether bytes flowed, but too few. Then progress is no sign that another try helps.
    pub fn is_slow(&self) -> bool {
        self.slow
    }

    /// Says that TLS failed because what answered seems to speak none.
    #[must_use]
    pub fn with_no_tls(mut self) -> Self {
        (self.is_tls, self.sign) = (true, Some(Sign::NoTls));
        self
    }

    /// Whether TLS failed because what answered seems to speak none, as a server of plain HTTP does.
    pub fn speaks_no_tls(&self) -> bool {
        self.sign == Some(Sign::NoTls)
    }

    /// Says that what answered plain HTTP spoke something else, as a server of HTTPS does.
    #[must_use]
    pub fn with_wanted_tls(mut self) -> Self {
        self.sign = Some(Sign::WantsTls);
        self
    }

    /// Whether what was asked in plain HTTP seems to speak HTTPS: what it answered was no HTTP, or a status without an error of a registry.
    pub fn seems_to_want_tls(&self) -> bool {
        let is_plain = self.request.contains(" http://");
        self.sign == Some(Sign::WantsTls) || (is_plain && self.status == Some(400) && self.details.is_empty())
    }

    /// Says that the registry, or its token server, was shown credentials.
    #[must_use]
    pub fn with_refused_credentials(mut self) -> Self {
        self.sign = Some(Sign::RefusedCredentials);
        self
    }

    /// Whether credentials were shown, and this is what was answered to them.
    pub fn has_refused_credentials(&self) -> bool {
        self.sign == Some(Sign::RefusedCredentials)
    }

    /// Says that the registry allows no method that changes what was asked for.
    #[must_use]
    pub fn with_read_only(mut self) -> Self {
        self.sign = Some(Sign::ReadOnly);
        self
    }

    /// Whether the registry allows no method that changes what was asked for (`Allow` of a 405): there, nothing else is worth a try.
    pub fn is_read_only(&self) -> bool {
        self.sign == Some(Sign::ReadOnly)
    }

    /// Sets how long was waited between the tries.
    #[must_use]
    pub fn with_waited(mut self, waited: Duration) -> Self {
        self.waited = u32::try_from(waited.as_millis()).unwrap_or(u32::MAX);
        self
    }

    /// How long was waited between the tries.
    pub fn waited(&self) -> Duration {
        Duration::from_millis(self.waited.into())
    }

    /// Sets how long the registry wants to be left alone.
    #[must_use]
    pub fn with_retry_after(mut self, wait: Duration) -> Self {
        self.more.get_or_insert_default().retry_after = Some(wait);
        self
    }

    /// How long the registry wanted to be left alone from its answer on, where it said so.
    pub fn retry_after(&self) -> Option<Duration> {
        self.more.as_ref()?.retry_after
    }

    /// Says that it was the token server of a registry that was asked. Its status becomes part of the message: what it answers is no
    /// answer of the registry, which a missing manifest, say, would be.
    #[must_use]
    pub fn for_registry(mut self, registry: impl Into<String>) -> Self {
        self.more.get_or_insert_default().registry = Some(registry.into());
        if let Some(status) = self.status.take() {
            let more =
                self.message.map_or_else(|| reason(status).to_owned(), |message| format!("and {message}"));
            self.message = Some(format!("the token server answered {status} {more}"));
        }
        self
    }

    /// The registry that it was about: where its token server was contacted, that is another host.
    pub fn registry(&self) -> &str {
        self.more.as_ref().and_then(|more| more.registry.as_ref()).unwrap_or(&self.host)
    }

    /// Whether the same request may succeed later.
    pub fn is_retryable(&self) -> bool {
        self.retryable
    }

    /// The kind of error that this is to a caller.
    pub fn kind(&self) -> ErrorKind {
        match self.status {
            None | Some(408 | 500..=599) => ErrorKind::Unavailable,
            Some(401) => ErrorKind::Unauthenticated,
            Some(403) => ErrorKind::PermissionDenied,
            Some(404) => ErrorKind::NotFound,
            Some(405) => ErrorKind::NotImplemented,
            Some(416) => ErrorKind::OutOfRange,
            Some(429) => ErrorKind::ResourceExhausted,
            Some(_) => ErrorKind::FailedPrecondition,
        }
    }

    /// Wraps this into an error that says what was being done.
    pub fn into_error(self, context: impl Into<String>) -> Error {
        Error::new(self.kind(), context).with_source(self)
    }

    /// The error of a registry in the chain of `error`.
    pub fn of(error: &Error) -> Option<&Self> {
        error.find_source()
    }
}

/// Statuses after which a request is sent again.
pub(crate) fn is_retryable_status(status: u16) -> bool {
    matches!(status, 408 | 429 | 500 | 502 | 503 | 504)
}

impl fmt::Display for RemoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.request)?;
        match (self.status, &self.message) {
            (Some(status), Some(message)) => write!(f, "the registry answered {status}: {message}")?,
            (Some(status), None) => write!(f, "the registry answered {status} {}", reason(status))?,
            (None, Some(message)) => f.write_str(message)?,
            (None, None) => f.write_str("the request failed")?,
        }
        for (code, message) in &self.details {
            write!(f, "; {code}")?;
            if !message.is_empty() {
                write!(f, " ({message})")?;
            }
        }
        match (self.attempts, self.waited) {
            (..=1, _) => {}
            (tries, 0) => write!(f, " (after {tries} tries)")?,
            (tries, _) => {
                let seconds = self.waited().as_secs_f64();
                write!(f, " (after {tries} tries and {seconds:.1} s of waiting)")?;
            }
        }
        Ok(())
    }
}

fn reason(status: u16) -> &'static str {
    http::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or("")
}

impl StdError for RemoteError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_and_texts() {
        for (status, kind, retryable) in [
            (401, ErrorKind::Unauthenticated, false),
            (403, ErrorKind::PermissionDenied, false),
            (404, ErrorKind::NotFound, false),
            (429, ErrorKind::ResourceExhausted, true),
            (418, ErrorKind::FailedPrecondition, false),
            (503, ErrorKind::Unavailable, true),
        ] {
            let error = RemoteError::new("h", "GET https://h/v2/").with_status(status);
            assert_eq!((error.kind(), error.is_retryable()), (kind, retryable), "{status}");
        }
        let mut error = RemoteError::new("h", "GET https://h/v2/").with_status(404);
        error.details.push(("NAME_UNKNOWN".into(), "no such repository".into()));
        error.attempts = 3;
        assert_eq!(
            error.to_string(),
            "GET https://h/v2/: the registry answered 404 Not Found; NAME_UNKNOWN (no such repository) (after 3 tries)"
        );
        let error = error.with_waited(Duration::from_millis(1250));
        assert!(error.to_string().ends_with("(after 3 tries and 1.2 s of waiting)"), "{error}");
        let token = RemoteError::new("a", "POST https://a/token").with_status(503).for_registry("h");
        assert_eq!((token.status, token.is_retryable(), token.registry()), (None, true, "h"));
        assert_eq!(
            token.to_string(),
            "POST https://a/token: the token server answered 503 Service Unavailable"
        );
        let wrapped = error.clone().into_error("cannot resolve x");
        let plain = RemoteError::new("h", "DELETE http://h/v2/").with_status(400);
        assert!(plain.seems_to_want_tls());
        let mut told = plain.clone();
        told.details.push(("DIGEST_INVALID".into(), String::new()));
        assert!(!told.seems_to_want_tls(), "a registry answered");
        assert_eq!(RemoteError::of(&wrapped), Some(&error));
    }
}
