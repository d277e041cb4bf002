//! Which sources of credentials a command asks, by its flags: what is given on the command line, the file that is named, and whatever the
//! catalogue has, which are the files of docker and podman and what plugins know.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::OnceCell;
use wharf_content::{Catalogue, Error, Result};
use wharf_remotes::credentials::{
    Audience, AuthFiles, Credential, CredentialSource, Environment, Given, Secret, Sources,
};

use crate::{
    args::{Creds, RegistryArgs},
    prompt,
};

/// The sources in their order. What is given by --creds is for the registry of the reference alone, and for nobody where that is at none.
///
/// # Errors
/// `InvalidArgument` for --creds without a password, or with two; `Conflict` of plugins.
pub(crate) fn sources(args: &RegistryArgs, domain: Option<&str>, catalogue: &Catalogue) -> Result<Sources> {
    let mut first = Sources::none();
    if let Some(Creds { flag, user, password }) = &args.creds {
        let given = match (password, args.password_stdin) {
            (Some(_), true) => {
                return Err(Error::invalid_argument(format!(
                    "the password is given by {flag} and by --password-stdin: leave one of them out"
                )));
            }
            (None, false) => {
                return Err(Error::invalid_argument(format!(
                    "{flag} has no password: write USER:PASS, or add --password-stdin"
                )));
            }
            (given, _) => given.as_ref(),
        };
        if let Some(domain) = domain {
            let source: Arc<dyn CredentialSource> = match given {
                Some(password) => Arc::new(Given::new(domain, Credential::password(user, password.clone()))),
                None => Arc::new(Typed { host: Audience::new(domain).host().to_owned(), user: user.clone() }),
            };
            first = first.with("flags", source);
        }
    }
    if let Some(path) = &args.authfile {
        first = first.with("authfile", Arc::new(AuthFiles::only(path, &Environment::process())));
    }
    Ok(first.followed_by(Sources::of(catalogue)?))
}

/// What was on standard input, which is there once, however many resolvers a command makes.
static PASSWORD: OnceCell<Secret> = OnceCell::const_new();

/// A user whose password is on standard input, which is read when a registry asks for it.
#[derive(Debug)]
struct Typed {
    host: String,
    user: String,
}

#[async_trait]
impl CredentialSource for Typed {
    async fn credential(&self, audience: &Audience) -> Result<Option<Credential>> {
        if audience.host() != self.host {
            return Ok(None);
        }
        let password = PASSWORD.get_or_try_init(prompt::password_from_stdin).await?;
        Ok(Some(Credential::password(&self.user, password.clone())))
    }
}
