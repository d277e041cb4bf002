//! skopeo, with a home and a temporary directory of its own and no policy but ours.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::failure::Result;
use crate::process::Tool;

/// skopeo as the steps use it.
#[derive(Debug)]
pub(super) struct Skopeo {
    home: PathBuf,
}

impl Skopeo {
    /// skopeo with its own home.
    pub(super) fn new(home: &Path) -> Self {
        Self { home: home.to_owned() }
    }

    /// skopeo with arguments of the caller's alone.
    pub(super) fn call(&self, arguments: &[&str]) -> Tool {
        self.tool().args(arguments)
    }

    fn tool(&self) -> Tool {
        Tool::new("skopeo")
            .arg("--insecure-policy")
            .arg("--tmpdir")
            .arg(&self.home)
            .env("HOME", &self.home)
            .env("XDG_RUNTIME_DIR", &self.home)
            .env("NO_PROXY", "127.0.0.1")
            .env("no_proxy", "127.0.0.1")
            .limit(Duration::from_secs(180))
    }

    /// The bytes of the manifest or index that a name leads to.
    pub(super) fn manifest(&self, image: &str) -> Result<Vec<u8>> {
        Ok(self.tool().args(["inspect", "--raw"]).args(no_tls("", image)).arg(image).success()?.stdout)
    }

    /// The bytes of the config that a name leads to on this host's platform.
    pub(super) fn config(&self, image: &str) -> Result<Vec<u8>> {
        let tool = self.tool().args(["inspect", "--config", "--raw"]);
        Ok(tool.args(no_tls("", image)).arg(image).success()?.stdout)
    }

    /// skopeo's own view of an image on this host's platform, as JSON text.
    pub(super) fn inspect(&self, image: &str) -> Result<String> {
        self.tool().args(["inspect", "--no-tags"]).args(no_tls("", image)).arg(image).text()
    }

    /// The tags of a repository, as JSON text.
    pub(super) fn tags(&self, repository: &str) -> Result<String> {
        self.tool().arg("list-tags").args(no_tls("", repository)).arg(repository).text()
    }

    /// Copies an image; `options` are skopeo's.
    pub(super) fn copy(&self, source: &str, destination: &str, options: &[&str]) -> Result<()> {
        let tool = self.tool().args(["copy", "--quiet"]).args(options);
        let tool = tool.args(no_tls("src-", source)).args(no_tls("dest-", destination));
        tool.arg(source).arg(destination).success().map(drop)
    }
}

/// The option that a registry on loopback needs and other places do not know.
fn no_tls(which: &str, image: &str) -> Option<String> {
    image.starts_with("docker://").then(|| format!("--{which}tls-verify=false"))
}
