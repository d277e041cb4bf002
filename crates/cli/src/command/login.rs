//! `wharf login`: credentials are tried at the registry and then kept where docker keeps them.

use std::{path::PathBuf, sync::Arc};

use clap::Args;
use serde_json::json;
use wharf_content::{Error, Result};
use wharf_remotes::{
    credentials::{Audience, AuthFile, AuthFiles, Credential, Environment, Given, Secret, Sources},
    registry::{Login, RegistryResolver},
};

use crate::{
    args::{Format, RegistryArgs},
    context::Context,
    output, progress, prompt,
};

/// Arguments of `login`.
#[derive(Debug, Args)]
#[command(
    after_help = "The credentials are tried at the registry first. They are kept in docker's configuration file, which is readable by its \
owner alone, or by the credential helper that this file names for the registry; docker finds them there, too. The file is --authfile, \
$REGISTRY_AUTH_FILE, $DOCKER_CONFIG/config.json or ~/.docker/config.json, the first that is set. Without --user and a password wharf \
asks on the terminal.\n\n\
Examples:\n  wharf login ghcr.io\n  echo \"$TOKEN\" | wharf login -u me --password-stdin ghcr.io"
)]
pub(crate) struct LogIn {
    /// The registry
    #[arg(value_name = "HOST", value_parser = host)]
    host: String,
    /// The password, which other users of this machine can see in the list of processes
    #[arg(short, long, value_name = "PASS")]
    password: Option<Secret>,
    #[command(flatten)]
    registry: RegistryArgs,
}

/// The host of what may be typed as a URL.
pub(crate) fn host(text: &str) -> Result<String, String> {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).unwrap_or(text);
    let host = rest.trim_end_matches('/');
    let is_host = !host.is_empty()
        && host
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':' | b'[' | b']' | b'_'));
    if is_host {
        Ok(host.to_owned())
    } else {
        Err("expected a registry's host, such as ghcr.io or localhost:5000".into())
    }
}

/// The file that credentials are kept in.
pub(crate) fn file(named: Option<&PathBuf>) -> Result<AuthFile> {
    let environment = Environment::process();
    named.map_or_else(|| AuthFile::of(&environment), |path| Ok(AuthFile::new(path, &environment)))
}

impl LogIn {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let file = file(self.registry.authfile.as_ref())?;
        let settings = context.settings(&self.registry, &progress::warnings(&context.global))?;
        let credential = self.credential().await?;
        let given = Given::new(&self.host, credential.clone());
        let settings = settings.with_credentials(Sources::none().with("login", Arc::new(given)));
        // The names of Docker Hub are of one registry, and one of them has it.
        let audience = Audience::new(&self.host);
        let domain = if audience.host() == "docker.io" { audience.host() } else { &self.host };
        if RegistryResolver::new(settings).log_in(domain).await? == Login::Unasked {
            output::note(&format!(
                "note: {} asks for no credentials, so that nobody knows whether they are right",
                self.host
            ));
        }
        let helper = file.store(&self.host, &credential).await?;
        self.warn_of_others(&credential, &file).await;
        let place = match &helper {
            Some(name) => format!("docker-credential-{name}"),
            None => file.path().display().to_string(),
        };
        match context.global.format {
            Format::Json => output::json(&json!({
                "host": self.host, "file": file.path(), "helper": helper,
            })),
            Format::Text if context.global.quiet => Ok(()),
            Format::Text => {
                output::note(&format!(
                    "the credentials for {} are kept in {}",
                    self.host,
                    output::escape(&place)
                ));
                Ok(())
            }
        }
    }

    async fn credential(&self) -> Result<Credential> {
        let (creds, from_stdin) = (self.registry.creds.as_ref(), self.registry.password_stdin);
        let given = [creds.and_then(|creds| creds.password.clone()), self.password.clone()];
        let mut given = given.into_iter().flatten();
        let password = given.next();
        if given.next().is_some() || (password.is_some() && from_stdin) {
            return Err(Error::invalid_argument("the password is given twice: leave one of them out"));
        }
        let ask = prompt::is_interactive() && !from_stdin;
        let user = match creds {
            Some(creds) => creds.user.clone(),
            None if ask => prompt::line("User").await?,
            None => {
                return Err(Error::invalid_argument(
                    "there is no terminal to ask on: give --user and --password-stdin",
                ));
            }
        };
        let secret = match password {
            Some(password) => password,
            None if from_stdin => prompt::password_from_stdin().await?,
            None if ask => prompt::password("Password").await?,
            None => {
                return Err(Error::invalid_argument("there is no terminal to ask on: add --password-stdin"));
            }
        };
        if secret.reveal().is_empty() {
            return Err(Error::invalid_argument("the password is empty"));
        }
        Ok(Credential::password(user, secret))
    }

    /// Other files come first, and may have something else for the registry.
    async fn warn_of_others(&self, credential: &Credential, file: &AuthFile) {
        if self.registry.authfile.is_some() {
            return;
        }
        let files = AuthFiles::new(&Environment::process()).with_warnings(|_| {});
        if let Ok(Some(found)) = files.find(&Audience::new(&self.host)).await
            && found.credential != *credential
            && found.file != file.path()
        {
            let other = found.file.display().to_string();
            output::note(&format!(
                "warning: {} has other credentials for {}, which come first",
                output::escape(&other),
                self.host
            ));
        }
    }
}
