//! What a registry is shown to be let in, and how it is kept out of sight.

use std::{fmt, sync::Arc};

/// Text that no log, error or debugging output shows.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Secret(Arc<str>);

impl Secret {
    /// Takes a text for a secret.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// The text itself, for whom it is meant.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

/// A credential of one registry.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Credential {
    /// A user and a password, or what stands for one, such as a personal access token.
    Password {
        /// The user.
        user: String,
        /// The password.
        secret: Secret,
    },
    /// A refresh token, which a token server exchanges for tokens that the registry takes.
    IdentityToken(Secret),
    /// A token that the registry itself takes.
    RegistryToken(Secret),
}

impl Credential {
    /// A user and a password. Without a user the password is taken for an identity token.
    pub fn password(user: impl Into<String>, secret: impl Into<Secret>) -> Self {
        let (user, secret) = (user.into(), secret.into());
        if user.is_empty() { Self::IdentityToken(secret) } else { Self::Password { user, secret } }
    }

    /// A refresh token.
    pub fn identity_token(token: impl Into<Secret>) -> Self {
        Self::IdentityToken(token.into())
    }

    /// A token that the registry itself takes.
    pub fn registry_token(token: impl Into<Secret>) -> Self {
        Self::RegistryToken(token.into())
    }

    /// The user, where the credential has one.
    pub fn user(&self) -> Option<&str> {
        match self {
            Self::Password { user, .. } => Some(user),
            Self::IdentityToken(_) | Self::RegistryToken(_) => None,
        }
    }

    /// What must not be seen.
    pub fn secret(&self) -> &Secret {
        match self {
            Self::Password { secret, .. } | Self::IdentityToken(secret) | Self::RegistryToken(secret) => {
                secret
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_shows_a_secret() {
        for credential in [
            Credential::password("user", "canary"),
            Credential::password("", "canary"),
            Credential::identity_token("canary"),
            Credential::registry_token("canary"),
        ] {
            assert!(!format!("{credential:?} {credential:#?}").contains("canary"), "{credential:?}");
            assert_eq!(credential.secret().reveal(), "canary");
        }
        assert_eq!(Credential::password("", "x"), Credential::identity_token("x"));
    }
}
