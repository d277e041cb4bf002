//! Requests to one registry: authorisation, redirects, retries.

use std::time::{Duration, SystemTime};

use reqwest::{
    Method, Response, StatusCode, Url,
    header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, LOCATION, RANGE, RETRY_AFTER, WWW_AUTHENTICATE},
    redirect::Policy,
};
use tokio::sync::Mutex;
use wharf_content::{Error, Result, backoff::Backoff};

use super::{
    challenge::{self, Challenge},
    failure,
    host::{self, Origin, may_lead_to},
    settings::RegistrySettings,
    tls,
    token::{Grant, Tokens},
};
use crate::error::RemoteError;

/// The most redirects of one request.
const MAX_REDIRECTS: usize = 10;
/// How often one request is authorised anew, each time for another challenge.
const MAX_AUTHORISATIONS: usize = 3;

const USER_AGENT: &str = concat!("wharf/", env!("CARGO_PKG_VERSION"));

/// One registry.
#[derive(Debug)]
pub(super) struct Client {
    http: reqwest::Client,
    base: Url,
    settings: RegistrySettings,
    tokens: Tokens,
    /// The challenge that the registry answered last; later requests are authorised before they are refused.
    challenge: Mutex<Option<Challenge>>,
}

/// A request, relative to the registry's `/v2/`.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) accept: Option<&'static str>,
    /// The first byte that is wanted, where it is not the first of all.
    pub(super) from_byte: u64,
    /// What must be allowed, in the words of the token specification.
    pub(super) scope: String,
}

impl Client {
    pub(super) fn new(domain: &str, settings: RegistrySettings) -> Result<Self> {
        let base = host::base(domain, &settings)?;
        let mut builder = reqwest::Client::builder()
            .user_agent(USER_AGENT)
            .redirect(Policy::none())
            .http1_only()
            .connect_timeout(settings.connect_timeout)
            .read_timeout(settings.idle_timeout)
            .tls_backend_preconfigured(tls::config(&settings)?);
        if host::is_loopback(base.host_str().unwrap_or_default()) {
            builder = builder.no_proxy();
        }
        let http = builder
            .build()
            .map_err(|error| Error::internal("the HTTP client cannot be set up").with_source(error))?;
        Ok(Self { http, base, settings, tokens: Tokens::default(), challenge: Mutex::new(None) })
    }

    pub(super) fn url(&self, path: &str) -> Result<Url> {
        self.base
            .join(path)
            .map_err(|error| Error::invalid_argument(format!("{path:?} is not a path")).with_source(error))
    }

    /// Sends a request until it is answered with success, or with an error that another try does not mend.
    ///
    /// # Errors
    /// A [`RemoteError`] within, of the last answer.
    pub(super) async fn send(&self, ask: &Ask) -> Result<Response> {
        let url = self.url(&ask.path)?;
        let request = failure::describe(ask.method.as_str(), &url);
        let context = || format!("the registry {} did not answer as it should", failure::host(&url));
        let mut backoff = Backoff::new(self.settings.retry_delay, self.settings.max_retry_delay);
        let mut attempts = 1;
        loop {
            let (failed, retry_after) = match self.authorised(ask, &url).await {
                Ok(response) if response.status().is_success() => return Ok(response),
                Ok(response) => {
                    let retry_after = retry_after(response.headers(), SystemTime::now());
                    (failure::of_response(response, &request).await, retry_after)
                }
                Err(Failed::Remote(failed)) => (*failed, None),
                Err(Failed::Final(error)) => return Err(error),
            };
            if !failed.is_retryable() || attempts > self.settings.retries {
                let mut failed = failed;
                failed.attempts = attempts;
                return Err(failed.into_error(context()));
            }
            let wait = backoff.wait_at_least_half().max(retry_after.unwrap_or_default());
            let wait = wait.min(self.settings.max_retry_delay);
            tracing::debug!(error = %failed, attempts, ?wait, "the request is sent again");
            tokio::time::sleep(wait).await;
            attempts += 1;
        }
    }

    /// Sends a request with what the registry is known to ask for, and again for each new challenge.
    async fn authorised(&self, ask: &Ask, url: &Url) -> Result<Response, Failed> {
        let mut answered = self.challenge.lock().await.clone();
        let mut authorization = self.authorization(ask, answered.as_ref(), None).await?;
        let mut renewed = false;
        for _ in 0..MAX_AUTHORISATIONS {
            let response = self.follow(ask, url, authorization.as_ref()).await?;
            // A 401 of the place where a redirect led is not the registry's, and nothing of ours is for it.
            if response.status() != StatusCode::UNAUTHORIZED || Origin::of(response.url()) != Origin::of(url)
            {
                return Ok(response);
            }
            let headers = response.headers().get_all(WWW_AUTHENTICATE);
            let challenge = challenge::choose(headers.iter().filter_map(|value| value.to_str().ok()));
            let Some(challenge @ Challenge::Bearer { .. }) = challenge else {
                // Basic needs credentials, and anything else is not spoken.
                return Ok(response);
            };
            // A token that has expired is renewed once; one that has just been made for this challenge is simply not enough.
            if renewed && answered.as_ref() == Some(&challenge) {
                return Ok(response);
            }
            *self.challenge.lock().await = Some(challenge.clone());
            authorization = self.authorization(ask, Some(&challenge), authorization.as_ref()).await?;
            answered = Some(challenge);
            renewed = true;
        }
        self.follow(ask, url, authorization.as_ref()).await
    }

    async fn authorization(
        &self,
        ask: &Ask,
        challenge: Option<&Challenge>,
        refused: Option<&HeaderValue>,
    ) -> Result<Option<HeaderValue>, Failed> {
        let Some(Challenge::Bearer { realm, service, scope }) = challenge else { return Ok(None) };
        let mut scopes: Vec<String> =
            scope.iter().flat_map(|scope| scope.split(' ')).map(str::to_owned).collect();
        scopes.push(ask.scope.clone());
        scopes.retain(|scope| !scope.is_empty());
        scopes.sort();
        scopes.dedup();
        let grant = Grant { realm: realm.clone(), service: service.clone(), scopes };
        let refused =
            refused.and_then(|value| value.to_str().ok()).and_then(|value| value.strip_prefix("Bearer "));
        let token =
            self.tokens.token(&self.http, &self.base, &grant, refused).await.map_err(Failed::Final)?;
        let mut value = HeaderValue::try_from(format!("Bearer {token}"))
            .map_err(|_| Failed::Final(Error::internal("a checked token is not a header")))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }

    /// Sends a request and follows redirects; the authorisation goes to the registry's own origin only.
    async fn follow(
        &self,
        ask: &Ask,
        url: &Url,
        authorization: Option<&HeaderValue>,
    ) -> Result<Response, Failed> {
        let origin = Origin::of(url);
        let mut at = url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let request = failure::describe(ask.method.as_str(), &at);
            let mut builder = self.http.request(ask.method.clone(), at.clone());
            if let Some(accept) = ask.accept {
                builder = builder.header(ACCEPT, accept);
            }
            if ask.from_byte > 0 {
                builder = builder.header(RANGE, format!("bytes={}-", ask.from_byte));
            }
            if let Some(value) = authorization.filter(|_| Origin::of(&at) == origin) {
                builder = builder.header(AUTHORIZATION, value);
            }
            let response = builder.send().await.map_err(|error| failure::transport(&at, &request, &error))?;
            tracing::debug!(status = response.status().as_u16(), "{request}");
            if !is_redirect(response.status()) {
                return Ok(response);
            }
            let refuse = |message: &str| {
                RemoteError::new(failure::host(&at), &*request)
                    .with_status(response.status().as_u16())
                    .with_message(message)
            };
            let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            let next = location.and_then(|location| at.join(location).ok());
            let next = next.ok_or_else(|| refuse("a redirect without a usable Location"))?;
            if !may_lead_to(&at, &next) {
                return Err(refuse("a redirect away from HTTPS is not followed").into());
            }
            at = next;
        }
        let request = failure::describe(ask.method.as_str(), url);
        Err(RemoteError::new(failure::host(url), request).with_message("too many redirects").into())
    }
}

/// Why there is no answer.
enum Failed {
    Remote(Box<RemoteError>),
    Final(Error),
}

impl From<RemoteError> for Failed {
    fn from(error: RemoteError) -> Self {
        Self::Remote(Box::new(error))
    }
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// How long the server asks to wait: seconds or a date. What makes no sense is left out.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    httpdate::parse_http_date(value).ok()?.duration_since(now).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_in_every_form() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").expect("a date");
        for (value, expected) in [
            ("3", Some(3)),
            ("86400", Some(86400)),
            ("-1", None),
            ("junk", None),
            ("", None),
            ("99999999999999999999", None),
            ("Sun, 06 Nov 1994 08:49:47 GMT", Some(10)),
            ("Sun, 06 Nov 1994 08:49:27 GMT", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, value.parse().expect("a header"));
            assert_eq!(retry_after(&headers, now), expected.map(Duration::from_secs), "{value}");
        }
    }
}
