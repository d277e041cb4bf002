//! How one host is reached, and where a repository is there.

use std::sync::Arc;

use tokio::sync::OnceCell;
use wharf_content::Result;

use super::Host;
use crate::registry::{client::Client, retries::Failed, settings::RegistrySettings};

/// A host that is spoken to.
#[derive(Debug)]
pub(super) struct Endpoint {
    client: Arc<Client>,
    /// The same host in plain HTTP, where that is allowed.
    plain: Option<Arc<Client>>,
    chosen: OnceCell<Arc<Client>>,
}

impl Endpoint {
    /// Reads the certificates of the host; nothing is contacted yet.
    pub(super) fn new(host: &Host, settings: RegistrySettings) -> Result<Self> {
        let plain = host.plain.as_ref().map(|base| {
            let host = Host { base: base.clone(), ..host.clone() };
            Client::new(&host, settings.clone()).map(Arc::new)
        });
        let plain = plain.transpose()?;
        Ok(Self { client: Arc::new(Client::new(host, settings)?), plain, chosen: OnceCell::new() })
    }

    async fn client(&self) -> Result<Arc<Client>> {
        let Some(plain) = &self.plain else { return Ok(Arc::clone(&self.client)) };
        let choose = || async {
            let mut retries = self.client.retries();
            loop {
                match self.choose(plain).await {
                    Ok(chosen) => return Ok(chosen),
                    Err(failed) => retries.wait(failed).await?,
                }
            }
        };
        self.chosen.get_or_try_init(choose).await.cloned()
    }

    /// Finds out once in which scheme the host answers.
    async fn choose(&self, plain: &Arc<Client>) -> Result<Arc<Client>, Failed> {
        let Err(failed) = self.client.reach().await else { return Ok(Arc::clone(&self.client)) };
        match failed {
            Failed::Final(error) => return Err(Failed::Final(error)),
            // Who speaks TLS and does not come to terms with us is not asked without it instead.
            Failed::Remote(failed, wait) if failed.is_tls && !failed.speaks_no_tls() => {
                return Err(Failed::Remote(failed, wait));
            }
            Failed::Remote(failed, _) => {
                tracing::debug!(error = %failed, "the host speaks no HTTPS, and plain HTTP is allowed");
            }
        }
        plain.reach().await.map(|()| Arc::clone(plain))
    }
}

/// A repository at a host.
#[derive(Clone, Debug)]
pub(in crate::registry) struct Site {
    pub(super) endpoint: Arc<Endpoint>,
    /// The repository's path there.
    pub(in crate::registry) path: Arc<str>,
}

impl Site {
    /// What speaks to the host.
    ///
    /// # Errors
    /// Those of a host that does not answer, where it must be asked first how it is spoken to.
    pub(in crate::registry) async fn client(&self) -> Result<Arc<Client>> {
        self.endpoint.client().await
    }
}
