//! Requests to one registry: authorisation and redirects, and again where that may help. How often and after which waits is in
//! [`retries`](super::retries).
//!
//! Whatever URL a request goes to, only the registry's own origin is shown what is for the registry, and that only as long as the
//! request has been nowhere else: where another origin sends it back, it is that one's choice what is asked for.

use std::{sync::Arc, time::SystemTime};

use bytes::Bytes;
use reqwest::{
    Method, RequestBuilder, StatusCode, Url,
    header::{
        ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderName, HeaderValue,
        LOCATION, RANGE, VIA,
    },
};
use wharf_content::{Error, Result};
use wharf_images::progress::Sink;

use super::{
    answer::Answer,
    auth::Authorizer,
    connections::Connections,
    failure::{self, Unread},
    fetcher::Ranges,
    host::{Origin, may_lead_to},
    hosts::Host,
    payload::Payload,
    retries::{Failed, Retries},
    settings::RegistrySettings,
    wire::{Wire, retry_after},
};
use crate::error::RemoteError;

/// The most redirects of one request.
const MAX_REDIRECTS: usize = 10;

/// One host of the registry API: one origin.
#[derive(Debug)]
pub(super) struct Client {
    wire: Arc<Wire>,
    base: Url,
    /// Headers for the host's own origin.
    headers: Vec<(HeaderName, HeaderValue)>,
    /// The host of the references, where this one stands for it.
    namespace: Option<String>,
    settings: RegistrySettings,
    authorizer: Authorizer,
    ranges: Ranges,
}

/// A request.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub(super) method: Method,
    /// Relative to the registry's `/v2/`, or a whole URL that the registry gave.
    pub(super) path: String,
    pub(super) accept: Option<&'static str>,
    /// The first byte that is wanted, where it is not the first of all.
    pub(super) from_byte: u64,
    /// Where a range ends that is asked for, exclusive; `None` for all that is left.
    pub(super) end_byte: Option<u64>,
    /// What must be allowed, in the words of the token specification; several are separated by spaces.
    pub(super) scope: String,
    /// What is sent with it.
    pub(super) payload: Option<Payload>,
}

impl Ask {
    /// A request for nothing in particular.
    pub(super) fn new(method: Method, path: impl Into<String>, scope: impl Into<String>) -> Self {
        let (path, scope) = (path.into(), scope.into());
        Self { method, path, accept: None, from_byte: 0, end_byte: None, scope, payload: None }
    }
}

impl Client {
    /// What speaks to a host. Nothing is contacted yet.
    pub(super) fn new(host: &Host, mut settings: RegistrySettings) -> Result<Self> {
        settings.ca_files.extend_from_slice(&host.ca_files);
        settings.skip_verify |= host.skip_verify;
        settings.connect_timeout = host.dial_timeout.unwrap_or(settings.connect_timeout);
        if let Some(silence) = host.idle_timeout {
            // Before its answer as well as within.
            (settings.idle_timeout, settings.header_timeout) = (silence, silence);
        }
        let connections = Connections::new(&host.base, &settings, &host.client_certificates)?;
        let wire = Arc::new(Wire::new(connections, settings.clone()));
        let (sources, clock) = (settings.credentials.clone(), settings.clock.clone());
        let audience = host.name.clone().unwrap_or_else(|| failure::host(&host.base));
        let authorizer = Authorizer::new(&host.base, &audience, Arc::clone(&wire), sources, clock);
        let (base, headers, namespace) = (host.base.clone(), host.headers.clone(), host.namespace.clone());
        let ranges = Ranges::new(&settings.ranges);
        Ok(Self { wire, base, headers, namespace, settings, authorizer, ranges })
    }

    /// The URL of a path below the base, or of a whole URL, which stays as it is.
    pub(super) fn url(&self, path: &str) -> Result<Url> {
        let url = self.base.join(path);
        let url = url
            .map_err(|error| Error::invalid_argument(format!("{path:?} is not a path")).with_source(error))?;
        Ok(if Url::parse(path).is_ok() { url } else { self.within_namespace(url) })
    }

    /// Tells a host that stands for others for which one it does.
    pub(super) fn within_namespace(&self, mut url: Url) -> Url {
        if let Some(namespace) = &self.namespace
            && !url.query_pairs().any(|(key, _)| key == "ns")
        {
            url.query_pairs_mut().append_pair("ns", namespace);
        }
        url
    }

    /// What the user decided.
    pub(super) fn settings(&self) -> &RegistrySettings {
        &self.settings
    }

    /// What is known of the registry's ranges.
    pub(super) fn ranges(&self) -> &Ranges {
        &self.ranges
    }

    /// Where the registry is.
    pub(super) fn base(&self) -> &Url {
        &self.base
    }

    /// Where is told what happens.
    pub(super) fn sink(&self) -> &dyn Sink {
        self.settings.sink.as_ref()
    }

    /// Sends a request until it is answered with success, or with an error that another try does not mend.
    ///
    /// A POST is sent again like anything else: it begins an upload, and one that nobody goes on with is forgotten by the registry.
    ///
    /// # Errors
    /// A [`RemoteError`] within, of the last answer.
    pub(super) async fn send(&self, ask: &Ask) -> Result<Answer> {
        let mut retries = self.retries();
        loop {
            match self.send_once(ask).await {
                Ok(answer) => return Ok(answer),
                Err(failed) => retries.wait(failed).await?,
            }
        }
    }

    /// As [`Client::send`], and reads the body, of at most `limit` bytes; one that breaks is asked for again.
    ///
    /// # Errors
    /// `FailedPrecondition` for a larger one.
    pub(super) async fn read(&self, ask: &Ask, limit: u64) -> Result<(Answer, Bytes)> {
        let mut retries = self.retries();
        loop {
            let failed = match self.send_once(ask).await {
                Ok(mut answer) => match failure::read_body(&mut answer, limit).await {
                    Ok(body) => return Ok((answer, body)),
                    Err(Unread::Broken(failed)) => failed.into(),
                    Err(Unread::TooLarge(error)) => return Err(error),
                },
                Err(failed) => failed,
            };
            retries.wait(failed).await?;
        }
    }

    /// Sends a request once, apart from redirects and authorisation.
    pub(super) async fn send_once(&self, ask: &Ask) -> Result<Answer, Failed> {
        let url = self.url(&ask.path).map_err(Failed::Final)?;
        let answer = self.authorised(ask, &url).await?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let retry_after = retry_after(answer.headers(), SystemTime::now());
        let mut failed = failure::of_answer(answer).await;
        if failed.status == Some(401) && self.has_shown_credentials().await {
            failed = failed.with_refused_credentials();
        }
        if let Some(wait) = retry_after {
            failed = failed.with_retry_after(wait);
        }
        Err(Failed::Remote(Box::new(failed), retry_after))
    }

    /// Finds out whether there is anybody, whatever the answer.
    ///
    /// # Errors
    /// A [`RemoteError`] within, where nothing answers in this scheme.
    pub(super) async fn reach(&self) -> Result<(), Failed> {
        let ask = Ask::new(Method::GET, "", "");
        match self.follow(&ask, &self.base, None).await {
            Err(Failed::Remote(failed, retry_after)) if failed.status.is_none() => {
                Err(Failed::Remote(failed, retry_after))
            }
            Err(Failed::Final(error)) => Err(Failed::Final(error)),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Begins to count the tries of one piece of work.
    pub(super) fn retries(&self) -> Retries<'_> {
        Retries::new(&self.settings)
    }

    /// Sends a request with what the registry is known to ask for, and again for each new challenge.
    async fn authorised(&self, ask: &Ask, url: &Url) -> Result<Answer, Failed> {
        let mut authorization = self.authorizer.begin(&ask.scope).await.map_err(Failed::of)?;
        loop {
            let (response, is_own) = self.follow(ask, url, authorization.header()).await?;
            // A 401 of another place, where a redirect or a location led, is not the registry's, and nothing of ours is for it; nor is one
            // that another place led back to.
            if response.status() != StatusCode::UNAUTHORIZED
                || !is_own
                || !authorization.renew(response.headers()).await.map_err(Failed::of)?
            {
                return Ok(response);
            }
        }
    }

    /// Whether the registry has asked for credentials and was shown some.
    pub(super) async fn has_shown_credentials(&self) -> bool {
        self.authorizer.has_shown_credentials().await
    }

    /// Sends a request and follows redirects; the authorisation goes to the registry's own origin only, and to that no more once another
    /// one was asked. Tells too whether it is the registry's own answer: given by its origin, without having been elsewhere.
    async fn follow(
        &self,
        ask: &Ask,
        url: &Url,
        authorization: Option<&HeaderValue>,
    ) -> Result<(Answer, bool), Failed> {
        let origin = Origin::of(&self.base);
        let mut at = url.clone();
        let mut is_own = true;
        for _ in 0..=MAX_REDIRECTS {
            is_own &= Origin::of(&at) == origin;
            let request = failure::describe(ask.method.as_str(), &at);
            let mut builder = self.wire.request(ask.method.clone(), at.clone());
            if let Some(accept) = ask.accept {
                builder = builder.header(ACCEPT, accept);
            }
            if let Some(range) = range(ask.from_byte, ask.end_byte) {
                builder = builder.header(RANGE, range);
            }
            if let Some(value) = authorization.filter(|_| is_own) {
                builder = builder.header(AUTHORIZATION, value);
            }
            if let Some(via) = self.settings.via.as_ref().filter(|_| is_own) {
                builder = builder.header(VIA, via.header());
            }
            if ask.payload.is_none() && !matches!(ask.method, Method::GET | Method::HEAD) {
                // Registries behind some front ends answer 411 where it is left out, and the specification wants it.
                builder = builder.header(CONTENT_LENGTH, 0);
            }
            let fixed = self.headers.iter().filter(|_| is_own);
            for (name, value) in fixed.filter(|(name, _)| !sets(ask, authorization, name)) {
                builder = builder.header(name, value);
            }
            let response = match &ask.payload {
                None => self.wire.send(builder).await?,
                Some(payload) => self.upload(builder, payload).await?,
            };
            if !is_redirect(response.status()) {
                return Ok((response, is_own));
            }
            let refuse = |message: &str| {
                RemoteError::new(failure::host(&at), &*request)
                    .with_status(response.status().as_u16())
                    .with_message(message)
            };
            if response.status() == StatusCode::SEE_OTHER && !matches!(ask.method, Method::GET | Method::HEAD)
            {
                return Err(refuse("a redirect that would turn the request into another one").into());
            }
            let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            let next = location.and_then(|location| at.join(location).ok());
            let next = next.ok_or_else(|| refuse("a redirect without a usable Location"))?;
            if !may_lead_to(&at, &next) {
                return Err(
                    refuse("a redirect away from HTTPS, or into a private network, is not followed").into()
                );
            }
            at = next;
        }
        let request = failure::describe(ask.method.as_str(), url);
        Err(RemoteError::new(failure::host(url), request).with_message("too many redirects").into())
    }
}

impl Client {
    /// Sends a request with its payload.
    async fn upload(&self, builder: RequestBuilder, payload: &Payload) -> Result<Answer, Failed> {
        let mut builder =
            builder.header(CONTENT_LENGTH, payload.len()).header(CONTENT_TYPE, payload.media_type());
        if let Some(range) = payload.range() {
            builder = builder.header(CONTENT_RANGE, range);
        }
        let request = builder.body(payload.open().await.map_err(Failed::Final)?).build();
        let request = request.map_err(|error| {
            Failed::Final(
                Error::invalid_argument(format!("{:?} is no media type to send", payload.media_type()))
                    .with_source(error),
            )
        })?;
        self.wire.upload(request, payload).await
    }
}

/// Whether a request sets this header itself, which then counts.
fn sets(ask: &Ask, authorization: Option<&HeaderValue>, name: &HeaderName) -> bool {
    match *name {
        ACCEPT => ask.accept.is_some(),
        AUTHORIZATION => authorization.is_some(),
        CONTENT_TYPE => ask.payload.is_some(),
        _ => false,
    }
}

/// What is asked for where it is not the whole: never `bytes=0-`, which registries are known to mishandle.
fn range(first: u64, end: Option<u64>) -> Option<String> {
    match (first, end) {
        (0, None) => None,
        (_, None) => Some(format!("bytes={first}-")),
        (_, Some(end)) => Some(format!("bytes={first}-{}", end.checked_sub(1)?)),
    }
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_asked_for_where_something_is_left_out() {
        assert_eq!(range(0, None), None);
        assert_eq!(range(5, None).as_deref(), Some("bytes=5-"));
        assert_eq!(range(0, Some(5)).as_deref(), Some("bytes=0-4"));
        assert_eq!(range(5, Some(6)).as_deref(), Some("bytes=5-5"));
    }
}
