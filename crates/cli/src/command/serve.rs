//! `wharf serve`: the store as a registry.

use std::net::SocketAddr;

use clap::Args;
use tokio::net::TcpListener;
use wharf_content::{Error, Result, ResultExt};
use wharf_remotes::server::{Registry, RegistryOptions, serve};

use crate::{context::Context, output, runner::signalled};

/// Arguments of `serve`.
#[derive(Debug, Args)]
#[command(
    after_help = "Prints the URL and serves until it is interrupted. There is no TLS and no authentication: whoever reaches the address \
can read the store and, without --read-only, write to it."
)]
pub(crate) struct Serve {
    /// Address and port; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:5000")]
    addr: String,
    /// Refuse every change
    #[arg(long)]
    read_only: bool,
    /// Serve on an address that other machines can reach
    #[arg(long)]
    allow_public: bool,
}

impl Serve {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let (store, images) = (context.store().await?, context.images().await?);
        let cannot = || format!("cannot serve on {}", self.addr);
        let addresses: Vec<SocketAddr> = tokio::net::lookup_host(&self.addr)
            .await
            .map_err(|error| {
                Error::invalid_argument(format!("{:?} is not an address: expected HOST:PORT", self.addr))
                    .with_source(Error::internal(error.to_string()))
            })?
            .collect();
        if !self.allow_public && addresses.iter().any(|address| !address.ip().is_loopback()) {
            return Err(Error::invalid_argument(format!(
                "{} can be reached from other machines, and there is neither TLS nor authentication; if that is meant, add \
                 --allow-public",
                self.addr
            )));
        }
        let listener = TcpListener::bind(&addresses[..]).await.context(cannot)?;
        let address = listener.local_addr().context(cannot)?;
        output::line(&format!("http://{address}"))?;
        let mut options = RegistryOptions::default().with_catalogue(context.catalogue.clone());
        if self.read_only {
            options = options.with_read_only();
        }
        serve(Registry::with_options(store, images, options), listener, signalled()).await
    }
}
