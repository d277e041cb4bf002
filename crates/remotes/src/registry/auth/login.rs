//! Trying credentials at a registry, as logging in does before they are kept.

use reqwest::Method;
use wharf_content::{Result, ResultExt};

use crate::registry::{client::Ask, resolver::RegistryResolver};

/// What a registry said to credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Login {
    /// It asked for them and took them.
    Accepted,
    /// It asked for none, or gave a token to whoever asks, so that nobody knows whether it would take them.
    Unasked,
}

impl RegistryResolver {
    /// Asks for the base of a registry's API with the credentials of the settings (distribution specification: end-1).
    ///
    /// # Errors
    /// `Unauthenticated` or `PermissionDenied` where the registry or its token server refuses them; `InvalidArgument` for what references
    /// do not take for a registry's host; those of the way there.
    ///
    /// # Cancellation
    /// Nothing remains.
    pub async fn log_in(&self, host: &str) -> Result<Login> {
        let client = self.own_client(host).await?;
        client.send(&Ask::new(Method::GET, "", "")).await.context(|| format!("cannot log in to {host}"))?;
        Ok(if client.has_shown_credentials().await { Login::Accepted } else { Login::Unasked })
    }
}
