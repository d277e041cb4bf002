//! Authorisation at one registry: the challenge that it answered last, the credentials for it, and the header that they make.
//!
//! A header made here is for the registry's own origin; whoever sends requests sees to that. Credentials are looked up when a registry
//! asks for them and not before, and are shown to the registry itself (basic) or to the token server that it names (bearer).

mod challenge;
mod clock;
mod exchange;
#[cfg(feature = "fuzzing")]
pub(super) mod fuzzing;
mod login;
mod realm;
mod token;

use std::{collections::HashMap, fmt, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use reqwest::{
    Url,
    header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE},
};
use tokio::sync::Mutex;
use wharf_content::{Error, Result};

use self::{
    challenge::Challenge,
    exchange::Exchange,
    token::{Grant, Tokens},
};
use super::wire::Wire;
use crate::credentials::{Audience, Credential, CredentialSource, Secret, Sources};

pub use clock::Clock;
pub use login::Login;

/// The most repositories whose credentials, and the most grants whose tokens, are remembered; beyond it they are looked for again.
const MAX_REMEMBERED: usize = 16 * 1024;
/// How often one request is authorised anew, each time for another challenge.
const MAX_AUTHORISATIONS: usize = 3;

/// Makes the authorisations of one registry.
pub(super) struct Authorizer {
    wire: Arc<Wire>,
    /// The registry's base.
    base: Url,
    audience: Audience,
    sources: Sources,
    clock: Clock,
    tokens: Tokens,
    /// The challenge that the registry answered last; later requests are authorised before they are refused.
    challenge: Mutex<Option<Challenge>>,
    /// What was found for whom. Who waits for the lock finds what the one before him has looked up.
    found: Mutex<HashMap<Audience, Option<Credential>>>,
}

impl fmt::Debug for Authorizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A realm is a URL, and the query of a URL may be a secret.
        f.debug_struct("Authorizer").field("audience", &self.audience).finish_non_exhaustive()
    }
}

/// The authorisation of one request, which changes with the registry's answers.
pub(super) struct Authorization<'a> {
    authorizer: &'a Authorizer,
    /// What must be allowed; several are separated by spaces.
    scope: &'a str,
    answered: Option<Challenge>,
    header: Option<HeaderValue>,
    renewals: usize,
}

impl Authorizer {
    /// For the registry at `base`, whose credentials the sources have under `host`.
    pub(super) fn new(base: &Url, host: &str, wire: Arc<Wire>, sources: Sources, clock: Clock) -> Self {
        let audience = Audience::new(host);
        let (tokens, challenge, found) = (Tokens::default(), Mutex::default(), Mutex::default());
        Self { wire, base: base.clone(), audience, sources, clock, tokens, challenge, found }
    }

    /// Begins with what the registry is known to ask for.
    ///
    /// # Errors
    /// Those of the credential sources and of the token server.
    pub(super) async fn begin<'a>(&'a self, scope: &'a str) -> Result<Authorization<'a>> {
        let answered = self.challenge.lock().await.clone();
        let mut authorization =
            Authorization { authorizer: self, scope, answered: answered.clone(), header: None, renewals: 0 };
        if let Some(challenge) = &answered {
            authorization.header = self.header(scope, challenge, None).await?;
        }
        Ok(authorization)
    }

    /// Whether the registry has asked for credentials and was shown some: a token may have been had without.
    pub(super) async fn has_shown_credentials(&self) -> bool {
        self.challenge.lock().await.is_some() && self.found.lock().await.values().any(Option::is_some)
    }

    /// The header for a challenge; `None` where there are no credentials for it. `refused` is what the registry has just not taken.
    async fn header(
        &self,
        scope: &str,
        challenge: &Challenge,
        refused: Option<&HeaderValue>,
    ) -> Result<Option<HeaderValue>> {
        let audience = self.audience_of(scope);
        let text = match challenge {
            Challenge::Basic => {
                let Some(Credential::Password { user, secret }) =
                    self.credential(&audience, refused.is_some()).await?
                else {
                    return Ok(None);
                };
                format!("Basic {}", STANDARD.encode(format!("{user}:{}", secret.reveal())))
            }
            Challenge::Bearer { realm, service, scope: wanted } => {
                let scopes = wanted.as_deref().unwrap_or_default().split(' ').chain(scope.split(' '));
                let grant = Grant::new(realm, service.as_deref(), scopes, audience);
                let refused = refused.and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
                format!("Bearer {}", self.token(grant, refused).await?.reveal())
            }
        };
        let mut value = HeaderValue::try_from(text)
            .map_err(|_| Error::invalid_argument("a credential has characters that no header may have"))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }

    /// For whom the credentials of a scope are: its first repository, which is the one that is worked on.
    fn audience_of(&self, scope: &str) -> Audience {
        let mut scopes = scope.split(' ').filter_map(|scope| scope.strip_prefix("repository:"));
        let path = scopes.find_map(|scope| Some(scope.rsplit_once(':')?.0));
        path.map_or_else(|| self.audience.clone(), |path| self.audience.clone().with_repository(path))
    }

    /// The credential for an audience, looked up once; anew where what was made of one, or of none, was refused.
    async fn credential(&self, audience: &Audience, was_refused: bool) -> Result<Option<Credential>> {
        let mut found = self.found.lock().await;
        if let Some(credential) = found.get(audience).filter(|_| !was_refused) {
            return Ok(credential.clone());
        }
        let credential = self.sources.credential(audience).await?;
        if found.len() >= MAX_REMEMBERED && !found.contains_key(audience) {
            found.clear();
        }
        found.insert(audience.clone(), credential.clone());
        Ok(credential)
    }

    /// A token that holds: one that is there, else one that is fetched now. Whoever comes while this one fetches waits and finds it.
    async fn token(&self, grant: Grant, refused: Option<&str>) -> Result<Secret> {
        let slot = self.tokens.slot(&grant, self.clock.now()).await;
        let mut slot = slot.lock().await;
        if let Some(token) = slot.valid(self.clock.now(), refused) {
            return Ok(token);
        }
        let credential = self.credential(&grant.audience, refused.is_some()).await?;
        if let Some(Credential::RegistryToken(token)) = credential {
            return Ok(token);
        }
        let exchange = Exchange { wire: &self.wire, registry: &self.base, grant: &grant, clock: &self.clock };
        let refresh = slot.take_refresh();
        match exchange.run(credential.as_ref(), refresh).await {
            Ok(answered) => Ok(slot.keep(answered)),
            Err(error) => {
                // What a token server does not take may be out of date; the next request asks the sources again.
                self.found.lock().await.remove(&grant.audience);
                Err(error)
            }
        }
    }
}

impl Authorization<'_> {
    /// The header to send to the registry's own origin.
    pub(super) fn header(&self) -> Option<&HeaderValue> {
        self.header.as_ref()
    }

    /// Takes the registry's refusal, and says whether another try has a better header.
    ///
    /// # Errors
    /// Those of the credential sources and of the token server.
    pub(super) async fn renew(&mut self, refusal: &HeaderMap) -> Result<bool> {
        let headers = refusal.get_all(WWW_AUTHENTICATE);
        let challenge = challenge::choose(headers.iter().filter_map(|value| value.to_str().ok()));
        let Some(challenge) = challenge else { return Ok(false) };
        // A token that has expired is renewed once; one that has just been made for this challenge is simply not enough.
        let is_known = self.answered.as_ref() == Some(&challenge);
        if self.renewals >= MAX_AUTHORISATIONS || (self.renewals > 0 && is_known) {
            return Ok(false);
        }
        // What is asked for several repositories is not for later requests: they may do without the other ones.
        if !self.scope.contains(' ') {
            *self.authorizer.challenge.lock().await = Some(challenge.clone());
        }
        let header = self.authorizer.header(self.scope, &challenge, self.header.as_ref()).await?;
        let is_better = header.is_some() && header != self.header;
        (self.answered, self.header) = (Some(challenge), header);
        self.renewals += 1;
        Ok(is_better)
    }
}
