//! Asking a token server for a token: by the form of OAuth 2 where there is a secret, else by GET
//! (distribution specification: `docs/spec/auth/oauth.md` and `token.md`; containerd: `core/remotes/docker/auth/fetch.go`).

use std::time::{Duration, SystemTime};

use base64::{Engine, engine::general_purpose::STANDARD};
use reqwest::{
    Method, RequestBuilder, StatusCode, Url,
    header::{AUTHORIZATION, CONTENT_TYPE, DATE, HeaderMap, HeaderValue},
};
use tokio::time::timeout;
use wharf_content::{Error, ErrorKind, Result};

use super::{
    clock::Clock,
    realm::realm,
    token::{Answer, Grant},
};
use crate::{
    credentials::{Credential, Secret},
    error::RemoteError,
    registry::{
        failure::{self, Unread},
        wire::Wire,
    },
};

/// As what we present ourselves to token servers.
const CLIENT_ID: &str = "wharf";
/// The most bytes that are read of a token server's answer.
const MAX_LEN: u64 = 64 * 1024;
/// How long one question to a token server may take, its answer included.
const TIME_LIMIT: Duration = Duration::from_secs(60);

/// What is needed to ask for a token.
pub(super) struct Exchange<'a> {
    pub(super) wire: &'a Wire,
    pub(super) registry: &'a Url,
    pub(super) grant: &'a Grant,
    pub(super) clock: &'a Clock,
}

/// Why there is no token.
enum Refusal {
    /// The token server's answer, or that there was none.
    Remote(Box<RemoteError>),
    /// Something else.
    Other(Error),
}

impl From<RemoteError> for Refusal {
    fn from(error: RemoteError) -> Self {
        Self::Remote(Box::new(error))
    }
}

impl Refusal {
    fn status(&self) -> Option<u16> {
        match self {
            Self::Remote(failed) => failed.status,
            Self::Other(_) => None,
        }
    }
}

impl Exchange<'_> {
    /// Asks with a refresh token of an earlier answer, else with the credential, else anonymously.
    ///
    /// # Errors
    /// `PermissionDenied` for a realm that is not asked; `Unauthenticated` where the server gives no token; `Unavailable` where it cannot
    /// be asked. A [`RemoteError`] within.
    pub(super) async fn run(
        &self,
        credential: Option<&Credential>,
        refresh: Option<Secret>,
    ) -> Result<Answer> {
        let url = realm(self.registry, &self.grant.realm)?;
        if let Some(token) = refresh {
            match self.post(&url, &[("grant_type", "refresh_token"), ("refresh_token", token.reveal())]).await
            {
                // It has expired, or been revoked: the credential is there still.
                Err(refused) if matches!(refused.status(), Some(400 | 401 | 403 | 404 | 405)) => {}
                outcome => return outcome.map_err(|refused| self.failed(refused)),
            }
        }
        let (user, secret) = match credential {
            Some(Credential::Password { user, secret }) => (user.as_str(), secret.reveal()),
            Some(Credential::IdentityToken(token)) => ("", token.reveal()),
            // The registry takes that itself; whoever has one asks for no token.
            Some(Credential::RegistryToken(_)) | None => {
                return self.get(&url, None).await.map_err(|refused| self.failed(refused));
            }
        };
        let posted = if user.is_empty() {
            self.post(&url, &[("grant_type", "refresh_token"), ("refresh_token", secret)]).await
        } else {
            self.post(&url, &[("grant_type", "password"), ("username", user), ("password", secret)]).await
        };
        let answer = match posted {
            // Servers that do not know the form answer with any of these.
            Err(refused) if matches!(refused.status(), Some(400 | 401 | 404 | 405)) => {
                self.get(&url, Some((user, secret))).await
            }
            posted => posted,
        };
        answer.map_err(|refused| match refused {
            Refusal::Remote(failed) if matches!(failed.status, Some(400 | 401 | 403)) => {
                self.failed(Refusal::Remote(Box::new(failed.with_refused_credentials())))
            }
            refused => self.failed(refused),
        })
    }

    async fn post(&self, url: &Url, grant: &[(&str, &str)]) -> Result<Answer, Refusal> {
        let body = form(url, self.grant, grant);
        let request = self.wire.request(Method::POST, url.clone());
        self.send(url, "POST", request.header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(body))
            .await
    }

    async fn get(&self, url: &Url, basic: Option<(&str, &str)>) -> Result<Answer, Refusal> {
        let url = query(url, self.grant);
        let mut request = self.wire.request(Method::GET, url.clone());
        if let Some((user, secret)) = basic {
            let value = format!("Basic {}", STANDARD.encode(format!("{user}:{secret}")));
            let mut value = HeaderValue::try_from(value)
                .map_err(|_| Refusal::Other(Error::internal("base64 is not a header")))?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        self.send(&url, "GET", request).await
    }

    async fn send(&self, url: &Url, method: &str, request: RequestBuilder) -> Result<Answer, Refusal> {
        let described = failure::describe(method, url);
        let work = async {
            let mut response = self.wire.send(request).await?;
            if response.status() != StatusCode::OK {
                return Err(failure::of_answer(response).await.into());
            }
            let sent_at = date(response.headers());
            let body = match failure::read_body(&mut response, MAX_LEN).await {
                Err(Unread::Broken(failed)) => return Err(failed.into()),
                Err(Unread::TooLarge(error)) => return Err(Refusal::Other(error)),
                Ok(body) => body,
            };
            Answer::parse(&body, self.clock.now(), sent_at).map_err(|error| {
                let failed = RemoteError::new(failure::host(url), &*described);
                failed.with_status(StatusCode::OK.as_u16()).with_message(error.to_string()).into()
            })
        };
        timeout(TIME_LIMIT, work).await.unwrap_or_else(|_| {
            let failed = RemoteError::new(failure::host(url), &*described).with_retryable();
            Err(failed.with_message("the token server took too long").into())
        })
    }

    /// The error of a registry that cannot be used for want of a token.
    fn failed(&self, refusal: Refusal) -> Error {
        let registry = failure::host(self.registry);
        let cannot = format!("cannot get a token for {registry}");
        match refusal {
            Refusal::Remote(failed) => {
                let kind =
                    if failed.is_retryable() { ErrorKind::Unavailable } else { ErrorKind::Unauthenticated };
                Error::new(kind, cannot).with_source(failed.for_registry(registry))
            }
            Refusal::Other(error) => error.context(cannot),
        }
    }
}

/// When the server sent its answer, by its own clock.
fn date(headers: &HeaderMap) -> Option<SystemTime> {
    httpdate::parse_http_date(headers.get(DATE)?.to_str().ok()?).ok()
}

/// The form that is sent for a grant. The encoding of forms is that of queries.
fn form(url: &Url, grant: &Grant, how: &[(&str, &str)]) -> String {
    let mut form = url.clone();
    form.set_query(None);
    let mut pairs = form.query_pairs_mut();
    pairs.append_pair("client_id", CLIENT_ID).append_pair("scope", &grant.scopes.join(" "));
    pairs.extend_pairs(grant.service.iter().map(|service| ("service", service)));
    pairs.extend_pairs(how);
    drop(pairs);
    form.query().unwrap_or_default().to_owned()
}

/// The URL that is asked for a grant.
fn query(url: &Url, grant: &Grant) -> Url {
    let mut url = url.clone();
    if grant.service.is_some() || !grant.scopes.is_empty() {
        let mut pairs = url.query_pairs_mut();
        pairs.extend_pairs(grant.service.iter().map(|service| ("service", service)));
        pairs.extend_pairs(grant.scopes.iter().map(|scope| ("scope", scope)));
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::Audience;

    #[test]
    fn what_is_sent() {
        let url = Url::parse("https://auth.example/token?x=1").expect("valid");
        let grant =
            |service, scope: &'static str| Grant::new("", service, scope.split(' '), Audience::new("h"));
        let full = grant(Some("s p"), "repository:a/b:pull,push repository:c:pull");
        assert_eq!(
            query(&url, &full).as_str(),
            "https://auth.example/token?x=1&service=s+p&scope=repository%3Aa%2Fb%3Apull%2Cpush&scope=repository%3Ac%3Apull"
        );
        assert_eq!(query(&url, &grant(None, "")), url);
        let how = [("grant_type", "password"), ("username", "u"), ("password", "a&b=c d\u{e9}")];
        assert_eq!(
            form(&url, &full, &how),
            "client_id=wharf&scope=repository%3Aa%2Fb%3Apull%2Cpush+repository%3Ac%3Apull&service=s+p&grant_type=password&username=u&password=a%26b%3Dc+d%C3%A9"
        );
        assert_eq!(form(&url, &grant(None, ""), &how[..1]), "client_id=wharf&scope=&grant_type=password");
    }
}
