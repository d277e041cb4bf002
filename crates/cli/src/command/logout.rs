//! `wharf logout`: credentials are taken out of docker's configuration file, and of the helpers that it names.

use std::path::PathBuf;

use clap::Args;
use wharf_content::{Error, Result};
use wharf_remotes::credentials::{Audience, AuthFiles, Environment};

use super::login;
use crate::{context::Context, output};

/// Arguments of `logout`.
#[derive(Debug, Args)]
#[command(
    after_help = "With --all every registry is taken out of the file, of the helpers that it names for single registries, and of the one \
that it names for all of them.\n\n\
Examples:\n  wharf logout ghcr.io\n  wharf logout --all"
)]
pub(crate) struct LogOut {
    /// The registry
    #[arg(value_name = "HOST", value_parser = login::host, required_unless_present = "all")]
    host: Option<String>,
    /// Every registry
    #[arg(long, conflicts_with = "host")]
    all: bool,
    /// Take the credentials out of this file [default: $REGISTRY_AUTH_FILE, $DOCKER_CONFIG/config.json, ~/.docker/config.json]
    #[arg(long, value_name = "FILE")]
    authfile: Option<PathBuf>,
}

impl LogOut {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let format = context.global.format;
        let file = login::file(self.authfile.as_ref())?;
        let Some(host) = &self.host else {
            let hosts = file.erase_all().await?;
            return output::names(format, &hosts);
        };
        let found = file.erase(host).await?;
        let others = AuthFiles::new(&Environment::process()).with_warnings(|_| {});
        let other = if self.authfile.is_some() {
            None
        } else {
            others.find(&Audience::new(host)).await.ok().flatten()
        };
        if let Some(other) = &other {
            let shown = other.file.display().to_string();
            output::note(&format!(
                "warning: {} still has credentials for {host}: --authfile takes them out",
                output::escape(&shown)
            ));
        }
        if !found {
            let path = file.path().display();
            return Err(Error::not_found(format!("there are no credentials for {host} in {path}")));
        }
        output::names(format, std::slice::from_ref(host))
    }
}
