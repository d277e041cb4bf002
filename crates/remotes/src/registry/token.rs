//! Bearer tokens without credentials: one request in flight for each scope, kept until shortly before they expire.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use reqwest::{Method, StatusCode, Url};
use serde::Deserialize;
use tokio::sync::Mutex;
use wharf_content::{Error, ErrorKind, Result};

use super::{
    failure,
    host::{is_private, may_lead_to},
    wire::Wire,
};

/// How long a token holds whose maker does not say (distribution's token specification).
const DEFAULT_LIFETIME: Duration = Duration::from_secs(60);
/// A token is renewed this long before it expires.
const MARGIN: Duration = Duration::from_secs(10);
/// The most bytes that are read of a token server's answer.
const MAX_LEN: u64 = 64 * 1024;

/// Where a token comes from and what it is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Grant {
    pub(super) realm: String,
    pub(super) service: Option<String>,
    /// Sorted, each once.
    pub(super) scopes: Vec<String>,
}

#[derive(Clone)]
struct Token {
    value: Arc<str>,
    expires_at: Instant,
}

type Slot = Arc<Mutex<Option<Token>>>;

/// The tokens of one host.
#[derive(Default)]
pub(super) struct Tokens {
    slots: Mutex<HashMap<Grant, Slot>>,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tokens")
    }
}

impl Tokens {
    /// Gives a token, fetching one where there is none that holds. `refused` is a token that the registry has just not taken.
    pub(super) async fn token(
        &self,
        wire: &Wire,
        registry: &Url,
        grant: &Grant,
        refused: Option<&str>,
    ) -> Result<Arc<str>> {
        let slot = Arc::clone(self.slots.lock().await.entry(grant.clone()).or_default());
        // Whoever comes while this one fetches waits here and finds the token.
        let mut slot = slot.lock().await;
        if let Some(token) = slot.as_ref()
            && token.expires_at > Instant::now()
            && refused != Some(&*token.value)
        {
            return Ok(Arc::clone(&token.value));
        }
        let token = fetch(wire, registry, grant).await?;
        let value = Arc::clone(&token.value);
        *slot = Some(token);
        Ok(value)
    }
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
    #[serde(default)]
    expires_in: Option<u64>,
}

async fn fetch(wire: &Wire, registry: &Url, grant: &Grant) -> Result<Token> {
    let url = realm(registry, grant)?;
    let request = failure::describe("GET", &url);
    let cannot = || format!("cannot get a token for {registry}");
    let sent = wire.send(wire.request(Method::GET, url)).await;
    let mut response = sent.map_err(|failed| failed.into_error(cannot()))?;
    if response.status() != StatusCode::OK {
        let failed = failure::of_answer(response).await;
        return Err(Error::new(
            if failed.is_retryable() { ErrorKind::Unavailable } else { ErrorKind::Unauthenticated },
            cannot(),
        )
        .with_source(failed));
    }
    let body = failure::read_body(&mut response, MAX_LEN).await?;
    let refuse =
        |why: &str| Error::new(ErrorKind::Unauthenticated, format!("{}: {request}: {why}", cannot()));
    // What does not parse is not quoted: it may hold a token.
    let answer: Answer = serde_json::from_slice(&body)
        .map_err(|_| refuse("the token server's answer is not the JSON it must be"))?;
    let value = answer.access_token.or(answer.token).filter(|token| !token.is_empty());
    let value =
        value.ok_or_else(|| refuse("the token server's answer has neither access_token nor token"))?;
    if !value.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(refuse("the token has characters that no header may have"));
    }
    let lifetime = answer.expires_in.map_or(DEFAULT_LIFETIME, Duration::from_secs).max(DEFAULT_LIFETIME);
    let expires_at = Instant::now().checked_add(lifetime.saturating_sub(MARGIN)).unwrap_or_else(Instant::now);
    Ok(Token { value: value.into(), expires_at })
}

/// The URL that is asked for a token. A realm on another public host is normal; one that a registry could use to reach into the
/// user's network is refused.
fn realm(registry: &Url, grant: &Grant) -> Result<Url> {
    let refuse = |why: &str| {
        Error::new(
            ErrorKind::PermissionDenied,
            format!(
                "the registry {} names a token server that is not used: {why}",
                registry.host_str().unwrap_or_default()
            ),
        )
    };
    let mut url = Url::parse(&grant.realm).map_err(|_| refuse("its realm is not a URL"))?;
    if is_private(&url) && !is_private(registry) {
        return Err(refuse("its realm is a private address"));
    }
    if !may_lead_to(registry, &url) {
        return Err(refuse("its realm is not HTTPS"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(refuse("its realm carries credentials"));
    }
    let mut query = url.query_pairs_mut();
    if let Some(service) = &grant.service {
        query.append_pair("service", service);
    }
    for scope in &grant.scopes {
        query.append_pair("scope", scope);
    }
    drop(query);
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asks(registry: &str, realm_text: &str) -> Result<String> {
        let grant = Grant {
            realm: realm_text.into(),
            service: Some("s p".into()),
            scopes: vec!["repository:a/b:pull".into()],
        };
        realm(&Url::parse(registry).expect("valid"), &grant).map(Into::into)
    }

    #[test]
    fn realms() {
        assert_eq!(
            asks("https://registry-1.docker.io/v2/", "https://auth.docker.io/token?x=1").expect("public"),
            "https://auth.docker.io/token?x=1&service=s+p&scope=repository%3Aa%2Fb%3Apull"
        );
        assert!(asks("http://127.0.0.1:5000/v2/", "http://127.0.0.1:5001/token").is_ok());
        assert!(asks("https://10.0.0.1/v2/", "https://10.0.0.2/token").is_ok());
        for (registry, hostile) in [
            ("https://r.example/v2/", "http://r.example/token"),
            ("https://r.example/v2/", "https://169.254.169.254/token"),
            ("https://r.example/v2/", "https://0.0.0.0/token"),
            ("https://r.example/v2/", "https://[::1]/token"),
            ("https://r.example/v2/", "https://[fd00::1]/token"),
            ("https://r.example/v2/", "https://[::ffff:10.0.0.1]/token"),
            ("https://r.example/v2/", "https://localhost/token"),
            ("https://r.example/v2/", "https://user:pass@r.example/token"),
            ("https://r.example/v2/", "file:///etc/passwd"),
            ("https://r.example/v2/", "/token"),
        ] {
            let error = asks(registry, hostile).expect_err(hostile);
            assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{hostile}");
        }
    }
}
