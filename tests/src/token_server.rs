//! A token server: gives tokens to who asks by GET, without credentials or with Basic, and by POST with a password or a refresh token
//! (distribution's specifications "token" and "oauth2"). It gives no more than an account may have, and remembers what it gave, for
//! [`crate::Guard`]s; other programs check its signatures.

mod scope;
mod signer;

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use percent_encoding::percent_decode_str;
use serde_json::json;
use tokio::net::TcpListener;

pub use self::scope::{NotScope, Scope, granted, suffice};
use self::signer::Signer;
use crate::fake::{FakeServer, Reply, Request};

/// An account and what it may have.
#[derive(Clone, Debug)]
struct Account {
    user: String,
    password: String,
    allowed: Vec<Scope>,
}

/// Whom the server gives what.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TokenOptions {
    /// For which service tokens are; requests for another are refused.
    pub service: String,
    /// Who it calls itself in its tokens.
    pub issuer: String,
    /// How long it says that tokens hold; `None` to say nothing.
    pub expires_in: Option<u64>,
    /// How long they hold.
    pub lifetime: Duration,
    /// What who brings no credentials may have; `None` refuses them.
    pub anonymous: Option<Vec<Scope>>,
    /// What POST is answered with; `None` for a token.
    pub without_oauth: Option<u16>,
    /// The member of the answer that has the token.
    pub member: &'static str,
    accounts: Vec<Account>,
}

impl Default for TokenOptions {
    fn default() -> Self {
        Self {
            service: "wharf-tests".to_owned(),
            issuer: "wharf-tests".to_owned(),
            expires_in: Some(300),
            lifetime: Duration::from_secs(300),
            anonymous: None,
            without_oauth: None,
            member: "token",
            accounts: Vec::new(),
        }
    }
}

impl TokenOptions {
    /// Tokens of five minutes, for nobody yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an account. It may have everything unless it is told what.
    #[must_use]
    pub fn with_account(mut self, user: &str, password: &str, allowed: &[Scope]) -> Self {
        let allowed = if allowed.is_empty() { everything() } else { allowed.to_vec() };
        let (user, password) = (user.to_owned(), password.to_owned());
        self.accounts.push(Account { user, password, allowed });
        self
    }

    /// Gives tokens without credentials too.
    #[must_use]
    pub fn with_anonymous(mut self, allowed: &[Scope]) -> Self {
        self.anonymous = Some(allowed.to_vec());
        self
    }

    /// Sets for which service tokens are, and who gives them.
    #[must_use]
    pub fn with_names(mut self, service: &str, issuer: &str) -> Self {
        (self.service, self.issuer) = (service.to_owned(), issuer.to_owned());
        self
    }

    /// Sets how long it says that tokens hold, and how long they do.
    #[must_use]
    pub fn with_lifetime(mut self, told: Option<u64>, real: Duration) -> Self {
        (self.expires_in, self.lifetime) = (told, real);
        self
    }

    /// Answers POST with a status, as servers do that know GET only.
    #[must_use]
    pub fn without_oauth(mut self, status: u16) -> Self {
        self.without_oauth = Some(status);
        self
    }
}

fn everything() -> Vec<Scope> {
    let all = |kind: &str, name: &str| Scope {
        kind: kind.to_owned(),
        name: name.to_owned(),
        actions: ["*".to_owned()].into(),
    };
    vec![all("repository", "*"), all("registry", "*")]
}

/// How a token was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Grant {
    /// GET without credentials.
    Anonymous,
    /// GET with Basic.
    Basic,
    /// POST with user and password.
    Password,
    /// POST with a refresh token.
    RefreshToken,
    /// What is none of these.
    Unknown,
}

impl Grant {
    /// The name that it has in a form, or one in its manner.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Anonymous => "anonymous",
            Self::Basic => "basic",
            Self::Password => "password",
            Self::RefreshToken => "refresh_token",
            Self::Unknown => "unknown",
        }
    }
}

/// A request for a token, without its secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TokenRequest {
    /// The method.
    pub method: String,
    /// How it was asked for.
    pub grant: Grant,
    /// Who was named.
    pub user: Option<String>,
    /// For what.
    pub scopes: Vec<String>,
    /// The status of the answer.
    pub status: u16,
}

/// A token that was given.
#[derive(Clone, Debug)]
struct Issued {
    allowed: Vec<Scope>,
    expires_at: Option<Instant>,
}

/// What a token server gave; who guards a registry asks it.
#[derive(Debug)]
pub struct Authority {
    options: TokenOptions,
    signer: Signer,
    issued: Mutex<HashMap<String, Issued>>,
    refresh_tokens: Mutex<HashMap<String, String>>,
    log: Mutex<Vec<TokenRequest>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What an answer is made of: who it is for, and what they may have.
struct Party {
    grant: Grant,
    user: Option<String>,
    /// `None` for who is refused.
    allowed: Option<Vec<Scope>>,
}

impl Authority {
    fn new(options: TokenOptions) -> Self {
        Self {
            options,
            signer: Signer::new(),
            issued: Mutex::default(),
            refresh_tokens: Mutex::default(),
            log: Mutex::default(),
        }
    }

    /// The service that its tokens are for.
    pub fn service(&self) -> &str {
        &self.options.service
    }

    /// Whether a token was given, holds, and allows all of it.
    pub fn allows(&self, token: &str, needed: &[Scope]) -> bool {
        let issued = lock(&self.issued);
        issued.get(token).is_some_and(|issued| {
            issued.expires_at.is_none_or(|at| Instant::now() < at) && suffice(&issued.allowed, needed)
        })
    }

    /// Lets no token hold any longer that was given until now.
    pub fn expire_all(&self) {
        let now = Instant::now();
        lock(&self.issued).values_mut().for_each(|issued| issued.expires_at = Some(now));
    }

    /// Every token and refresh token that was given: none may be seen in a log.
    pub fn secrets(&self) -> Vec<String> {
        let tokens = lock(&self.issued).keys().cloned().collect::<Vec<_>>();
        tokens.into_iter().chain(lock(&self.refresh_tokens).keys().cloned()).collect()
    }

    /// A refresh token of an account, as a login would have got.
    pub fn refresh_token(&self, user: &str) -> String {
        let mut tokens = lock(&self.refresh_tokens);
        let token = format!("refresh-{}-{user}", tokens.len());
        tokens.insert(token.clone(), user.to_owned());
        token
    }

    /// The requests so far.
    pub fn requests(&self) -> Vec<TokenRequest> {
        lock(&self.log).clone()
    }

    fn account(&self, user: &str, password: &str) -> Option<Vec<Scope>> {
        let accounts = &self.options.accounts;
        let found = accounts.iter().find(|account| account.user == user && account.password == password);
        found.map(|account| account.allowed.clone())
    }

    /// Answers one request, and tells `observe` of it.
    fn answer(&self, request: &Request, observe: &(dyn Fn(&TokenRequest) + Send + Sync)) -> Reply {
        let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
        let body = String::from_utf8_lossy(&request.body);
        let parameters = pairs(if request.method == "POST" { &body } else { query });
        let value = |name: &str| {
            parameters
                .iter()
                .find(|(key, _)| key == name)
                .map(|(_, value)| value.as_str())
                .unwrap_or_default()
        };
        let scopes: Vec<String> = parameters
            .iter()
            .filter(|(key, _)| key == "scope")
            .flat_map(|(_, value)| value.split(' '))
            .filter(|scope| !scope.is_empty())
            .map(str::to_owned)
            .collect();
        let party = self.party(request, &value);
        let (mut status, mut body) = (200, String::new());
        match (&party.allowed, request.method.as_str(), self.options.without_oauth) {
            _ if path != "/token" => status = 404,
            (_, "POST", Some(refusal)) => status = refusal,
            (_, "GET" | "POST", _) if value("service") != self.options.service => status = 400,
            (None, "GET" | "POST", _) => status = 401,
            (Some(allowed), "GET" | "POST", _) => {
                let wants_refresh = value("offline_token") == "true" || value("access_type") == "offline";
                body = self.issue(&party, allowed, &scopes, wants_refresh);
            }
            _ => status = 405,
        }
        if status != 200 {
            let (code, message) = ("UNAUTHORIZED", "no token for that");
            body = json!({ "errors": [{ "code": code, "message": message }] }).to_string();
        }
        let Party { grant, user, .. } = party;
        let seen = TokenRequest { method: request.method.clone(), grant, user, scopes, status };
        observe(&seen);
        lock(&self.log).push(seen);
        Reply::new(status, &[("Content-Type", "application/json")], body)
    }

    /// Who asks.
    fn party<'a>(&self, request: &Request, value: &impl Fn(&str) -> &'a str) -> Party {
        if request.method == "POST" {
            return match value("grant_type") {
                "password" => Party {
                    grant: Grant::Password,
                    user: Some(value("username").to_owned()),
                    allowed: self.account(value("username"), value("password")),
                },
                "refresh_token" => {
                    let user = lock(&self.refresh_tokens).get(value("refresh_token")).cloned();
                    let mut accounts = self.options.accounts.iter();
                    let account = accounts.find(|account| Some(&account.user) == user.as_ref());
                    let allowed = account.map(|account| account.allowed.clone());
                    Party { grant: Grant::RefreshToken, user, allowed }
                }
                _ => Party { grant: Grant::Unknown, user: None, allowed: None },
            };
        }
        let Some(authorization) = request.header("authorization") else {
            return Party { grant: Grant::Anonymous, user: None, allowed: self.options.anonymous.clone() };
        };
        let Some((user, password)) = basic(authorization) else {
            return Party { grant: Grant::Unknown, user: None, allowed: None };
        };
        let allowed = self.account(&user, &password);
        Party { grant: Grant::Basic, user: Some(user), allowed }
    }

    /// Makes a token and the answer that has it.
    fn issue(&self, party: &Party, allowed: &[Scope], scopes: &[String], wants_refresh: bool) -> String {
        let wanted: Vec<Scope> = scopes.iter().filter_map(|scope| scope.parse().ok()).collect();
        let given = granted(allowed, &wanted);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let access: Vec<_> = given
            .iter()
            .map(|scope| json!({ "type": scope.kind, "name": scope.name, "actions": scope.actions }))
            .collect();
        let mut issued = lock(&self.issued);
        let user = party.user.as_deref().unwrap_or_default();
        let number = lock(&self.log).len();
        let token = self.signer.sign(&json!({
            "iss": self.options.issuer, "sub": user, "aud": self.options.service, "iat": now, "nbf": now,
            "exp": now + self.options.lifetime.as_secs(), "jti": number.to_string(), "access": access,
        }));
        let expires_at = Instant::now().checked_add(self.options.lifetime);
        issued.insert(token.clone(), Issued { allowed: given, expires_at });
        let mut body = json!({ self.options.member: token });
        if let Some(expires_in) = self.options.expires_in {
            body["expires_in"] = expires_in.into();
        }
        if wants_refresh && party.user.is_some() {
            body["refresh_token"] = self.refresh_token(user).into();
        }
        body.to_string()
    }
}

/// User and password of an Authorization header.
pub(crate) fn basic(authorization: &str) -> Option<(String, String)> {
    let (scheme, encoded) = authorization.split_once(' ')?;
    let decoded = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (user, password) = decoded.split_once(':')?;
    scheme.eq_ignore_ascii_case("basic").then(|| (user.to_owned(), password.to_owned()))
}

/// The pairs of a query or a form.
fn pairs(text: &str) -> Vec<(String, String)> {
    let decode = |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
    let split = text.split('&').filter_map(|pair| pair.split_once('='));
    split.map(|(key, value)| (decode(key), decode(value))).collect()
}

/// The server. It ends when this is dropped.
#[derive(Debug)]
pub struct TokenServer {
    server: FakeServer,
    authority: Arc<Authority>,
}

impl TokenServer {
    /// Listens on a free loopback port.
    ///
    /// # Panics
    /// When there is no loopback.
    pub async fn start(options: TokenOptions) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
        Self::serve(listener, options, |_| {})
    }

    /// As [`TokenServer::start`] where it is told, and tells of each request.
    ///
    /// # Panics
    /// When the listener has no address.
    pub fn serve(
        listener: TcpListener,
        options: TokenOptions,
        observe: impl Fn(&TokenRequest) + Send + Sync + 'static,
    ) -> Self {
        let authority = Arc::new(Authority::new(options));
        let answering = Arc::clone(&authority);
        let server =
            FakeServer::serve(listener, |_| usize::MAX, move |request| answering.answer(request, &observe));
        Self { server, authority }
    }

    /// What it gave.
    pub fn authority(&self) -> Arc<Authority> {
        Arc::clone(&self.authority)
    }

    /// Where tokens are asked for.
    pub fn realm(&self) -> String {
        format!("http://{}/token", self.server.address())
    }

    /// The certificate that its signatures lead to, in PEM.
    pub fn root_certificate(&self) -> &str {
        self.authority.signer.root()
    }

    /// The requests so far, with their secrets.
    pub fn raw_requests(&self) -> Vec<Request> {
        self.server.requests()
    }

    /// The requests so far.
    pub fn requests(&self) -> Vec<TokenRequest> {
        self.authority.requests()
    }

    /// Where it listens.
    ///
    /// # Panics
    /// Never: the address was bound.
    pub fn address(&self) -> SocketAddr {
        self.server.address().parse().expect("because it was printed from one")
    }
}
