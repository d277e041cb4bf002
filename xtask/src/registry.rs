//! docker-registry on loopback: a port of its own, a storage directory of the caller's, gone with its guard.

pub(crate) mod http;
pub(crate) mod proxy;

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::time::Duration;

use crate::failure::{Context, Failure, Result, ensure};
use crate::process::{Daemon, Tool};

/// How long the registry has for answering its first request.
const READY: Duration = Duration::from_secs(20);

/// How often another port is tried when somebody else took the one that was free.
const ATTEMPTS: u32 = 5;

/// A running docker-registry.
#[derive(Debug)]
pub(crate) struct Registry {
    port: u16,
    _daemon: Daemon,
}

impl Registry {
    /// Starts one over `storage`; its configuration and logs go to `state`.
    pub(crate) fn start(storage: &Path, state: &Path) -> Result<Self> {
        Self::attempt(storage, state, "", 200)
    }

    /// Starts one that lets nobody in without a name and a password, which nobody knows.
    pub(crate) fn start_with_passwords(storage: &Path, state: &Path) -> Result<Self> {
        // The registry makes up the file and a password in it.
        let file = state.join("htpasswd");
        let auth = format!("auth:\n  htpasswd:\n    realm: wharf\n    path: \"{}\"\n", file.display());
        Self::attempt(storage, state, &auth, 401)
    }

    /// `ready` is the status of `/v2/` by which the registry is known to be up.
    fn attempt(storage: &Path, state: &Path, more: &str, ready: u16) -> Result<Self> {
        let mut last = Failure::new("never tried");
        for _ in 0..ATTEMPTS {
            match Self::start_once(storage, state, more, ready) {
                Ok(registry) => return Ok(registry),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn start_once(storage: &Path, state: &Path, more: &str, ready: u16) -> Result<Self> {
        let port = free_port()?;
        let file = state.join("registry.yml");
        fs::write(&file, configuration(storage, port) + more).context(file.display())?;
        let tool = Tool::new("docker-registry").arg("serve").arg(&file);
        let mut daemon = Daemon::start("docker-registry", tool, state)?;
        let up = |_: &Daemon| {
            let answer = http::get(port, "/v2/");
            answer.is_ok_and(|response| response.status == ready).then_some(())
        };
        daemon.ready(READY, up)?;
        Ok(Self { port, _daemon: daemon })
    }

    /// The port it listens on.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The full name of an image in it.
    pub(crate) fn image(&self, name: &str) -> String {
        format!("127.0.0.1:{}/{name}", self.port)
    }

    /// The address of a path.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// Puts a manifest under a tag, as it is.
    pub(crate) fn put_manifest(
        &self,
        repository: &str,
        tag: &str,
        media_type: &str,
        body: &[u8],
    ) -> Result<()> {
        let response = http::put(self.port, &format!("/v2/{repository}/manifests/{tag}"), media_type, body)?;
        ensure(response.status == 201, || {
            format!(
                "docker-registry refused {repository}:{tag} with status {}: {}",
                response.status,
                String::from_utf8_lossy(&response.body)
            )
        })
    }
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen on loopback")?;
    Ok(listener.local_addr().context("cannot tell the port")?.port())
}

/// Schema 1 is on because steps pull such an image.
fn configuration(storage: &Path, port: u16) -> String {
    format!(
        "version: 0.1\n\
         log:\n  level: error\n  accesslog:\n    disabled: true\n\
         storage:\n  filesystem:\n    rootdirectory: \"{}\"\n\
         http:\n  addr: 127.0.0.1:{port}\n\
         compatibility:\n  schema1:\n    enabled: true\n",
        storage.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_names_port_and_storage() {
        let text = configuration(Path::new("/some where/data"), 4711);
        assert!(text.contains("rootdirectory: \"/some where/data\"\n"), "{text}");
        assert!(text.contains("\nhttp:\n  addr: 127.0.0.1:4711\n"), "{text}");
    }

    #[test]
    fn a_free_port_is_a_port() {
        assert_ne!(free_port().unwrap(), 0);
    }
}
