//! docker-registry on loopback: a port of its own, a storage directory of the caller's, gone with its guard.

pub(crate) mod certificates;
pub(crate) mod forward;
pub(crate) mod http;
mod options;
pub(crate) mod passwords;
pub(crate) mod proxy;
mod requests;

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::failure::{Context, Failure, Result, ensure};
use crate::process::{Daemon, Tool};

pub(crate) use options::{Options, TokenAuth};
pub(crate) use requests::Request;

/// How long the registry has for answering its first request.
const READY: Duration = Duration::from_secs(20);

/// How long it has for what it does after it has answered, such as a line in its log.
const SETTLED: Duration = Duration::from_secs(10);

/// How long its log must stay as it is to be taken for complete.
const QUIET: Duration = Duration::from_millis(60);

/// How often another port is tried when somebody else took the one that was free.
const ATTEMPTS: u32 = 5;

/// A running docker-registry.
#[derive(Debug)]
pub(crate) struct Registry {
    port: u16,
    scheme: &'static str,
    storage: PathBuf,
    daemon: Daemon,
}

impl Registry {
    /// Starts one over `storage`; its configuration and logs go to `state`.
    pub(crate) fn start(storage: &Path, state: &Path) -> Result<Self> {
        Self::start_with(&Options::default(), storage, state)
    }

    /// Starts one that lets nobody in without a name and a password, which nobody knows.
    pub(crate) fn start_with_passwords(storage: &Path, state: &Path) -> Result<Self> {
        // The registry makes up the file and a password in it.
        Self::start_with(&Options::default().with_passwords(&state.join("htpasswd")), storage, state)
    }

    /// Starts one as `options` say.
    pub(crate) fn start_with(options: &Options, storage: &Path, state: &Path) -> Result<Self> {
        let mut last = Failure::new("never tried");
        for _ in 0..ATTEMPTS {
            match Self::start_once(options, storage, state) {
                Ok(registry) => return Ok(registry),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn start_once(options: &Options, storage: &Path, state: &Path) -> Result<Self> {
        let port = free_port()?;
        let file = state.join("registry.yml");
        fs::write(&file, options.configuration(storage, port)).context(file.display())?;
        let tool = Tool::new("docker-registry").arg("serve").arg(&file);
        let mut daemon = Daemon::start("docker-registry", tool, state)?;
        let up = |_: &Daemon| {
            let answer = http::get(port, "/v2/");
            answer.is_ok_and(|response| response.status == options.ready()).then_some(())
        };
        daemon.ready(READY, up)?;
        Ok(Self { port, scheme: options.scheme(), storage: storage.to_owned(), daemon })
    }

    /// The port it listens on.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.daemon.id()
    }

    /// Its name in those of its images.
    pub(crate) fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The full name of an image in it.
    pub(crate) fn image(&self, name: &str) -> String {
        format!("127.0.0.1:{}/{name}", self.port)
    }

    /// The address of a path.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}://127.0.0.1:{}{path}", self.scheme, self.port)
    }

    /// Where it keeps what it has.
    pub(crate) fn storage(&self) -> &Path {
        &self.storage
    }

    /// Where it keeps the bytes of a blob.
    pub(crate) fn blob_path(&self, digest: &str) -> Result<PathBuf> {
        let hex = digest.strip_prefix("sha256:").filter(|hex| hex.len() == 64);
        let hex = hex.context(format_args!("{digest:?} is no digest"))?;
        let blobs = self.storage.join("docker/registry/v2/blobs/sha256");
        Ok(blobs.join(&hex[..2]).join(hex).join("data"))
    }

    /// Takes a file over as a blob, as if it had been uploaded: quicker for a big one, and it is there once only.
    pub(crate) fn adopt(&self, repository: &str, digest: &str, file: &Path) -> Result<()> {
        let data = self.blob_path(digest)?;
        let hex = digest.trim_start_matches("sha256:");
        let layers =
            self.storage.join("docker/registry/v2/repositories").join(repository).join("_layers/sha256");
        let link = layers.join(hex).join("link");
        for file in [&data, &link] {
            let parent = file.parent().context(file.display())?;
            fs::create_dir_all(parent).context(parent.display())?;
        }
        fs::rename(file, &data).context(data.display())?;
        fs::write(&link, digest).context(link.display())
    }

    /// What it was asked so far, in the order in which it was answered. A request that is still being answered may be
    /// missing: what must be there is waited for with [`Registry::settles`].
    pub(crate) fn requests(&self) -> Vec<Request> {
        requests::parse(&self.daemon.stdout())
    }

    /// Waits until something about it holds that it does behind our backs.
    pub(crate) fn settles(&self, what: &str, mut holds: impl FnMut(&Self) -> bool) -> Result<()> {
        let deadline = Instant::now() + SETTLED;
        while !holds(self) {
            ensure(Instant::now() < deadline, || {
                format!("{what}: not seen at docker-registry, which was asked {:#?}", self.requests())
            })?;
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// What it is asked while something is done.
    pub(crate) fn asked<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<(T, Vec<Request>)> {
        let before = self.quiet().len();
        let result = work()?;
        Ok((result, self.quiet().split_off(before)))
    }

    /// What it was asked once nothing comes any more: a line may be written after the answer has arrived.
    fn quiet(&self) -> Vec<Request> {
        let deadline = Instant::now() + SETTLED;
        let mut requests = self.requests();
        loop {
            std::thread::sleep(QUIET);
            let now = self.requests();
            if now.len() == requests.len() || Instant::now() > deadline {
                return now;
            }
            requests = now;
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_free_port_is_a_port() {
        assert_ne!(free_port().unwrap(), 0);
    }
}
