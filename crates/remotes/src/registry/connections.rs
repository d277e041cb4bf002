//! The HTTP clients of one registry, and which of them a request goes through.
//!
//! ```text
//! the registry's own origin   its trust, its client certificates
//! another origin              its trust, no client certificates
//! loopback                    never by a proxy; everything else by the proxies of the environment
//! ```
//!
//! Headers are no matter of these clients: who sends a request sets those that are for where it goes.

use reqwest::{Url, redirect::Policy};
use rustls::{ClientConfig, crypto::aws_lc_rs};
use wharf_content::{Error, Result};

use super::{
    host::{self, Origin},
    settings::{ClientCertificate, RegistrySettings},
    tls::{self, Identity},
};

const USER_AGENT: &str = concat!("wharf/", env!("CARGO_PKG_VERSION"));

/// The clients for one registry.
#[derive(Debug)]
pub(super) struct Connections {
    origin: Origin,
    own: reqwest::Client,
    elsewhere: reqwest::Client,
    loopback: reqwest::Client,
}

impl Connections {
    /// Makes the clients for the registry at `base`.
    ///
    /// # Errors
    /// `InvalidArgument` for a file of certificates that cannot be used.
    pub(super) fn new(
        base: &Url,
        settings: &RegistrySettings,
        certificates: &[ClientCertificate],
    ) -> Result<Self> {
        let identity = Identity::read(certificates, &aws_lc_rs::default_provider())?;
        let has_identity = identity.is_some();
        let anonymous = tls::config(settings, None)?;
        let own = if has_identity { tls::config(settings, identity)? } else { anonymous.clone() };
        let elsewhere = client(settings, &anonymous, Proxies::Environment)?;
        let loopback = client(settings, &anonymous, Proxies::None)?;
        let own = match (has_identity, is_loopback(base)) {
            (false, true) => loopback.clone(),
            (false, false) => elsewhere.clone(),
            (true, true) => client(settings, &own, Proxies::None)?,
            (true, false) => client(settings, &own, Proxies::Environment)?,
        };
        Ok(Self { origin: Origin::of(base), own, elsewhere, loopback })
    }

    /// The client for a request to `url`.
    pub(super) fn http(&self, url: &Url) -> &reqwest::Client {
        if Origin::of(url) == self.origin {
            &self.own
        } else if is_loopback(url) {
            &self.loopback
        } else {
            &self.elsewhere
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Proxies {
    Environment,
    None,
}

/// How long may be waited for what is not left to this client, which knows nothing of bodies that are sent.
fn client(settings: &RegistrySettings, tls: &ClientConfig, proxies: Proxies) -> Result<reqwest::Client> {
    let builder = reqwest::Client::builder()
        .user_agent(USER_AGENT)
        .redirect(Policy::none())
        .http1_only()
        .connect_timeout(settings.connect_timeout)
        .tls_backend_preconfigured(tls.clone());
    let builder = if proxies == Proxies::None { builder.no_proxy() } else { builder };
    builder.build().map_err(|error| Error::internal("the HTTP client cannot be set up").with_source(error))
}

fn is_loopback(url: &Url) -> bool {
    host::is_loopback(url.host_str().unwrap_or_default())
}
