//! The configuration of registries' hosts as wharf shares it with others: containerd's hosts.toml, and registries.conf.

use std::fs;
use std::path::{Path, PathBuf};

use crate::failure::{Context, Result};
use crate::registry::Registry;

/// The variable that names a registries.conf.
pub(super) const REGISTRIES_CONF: &str = "CONTAINERS_REGISTRIES_CONF";

/// Writes the hosts.toml of a registry in `root`, as containerd looks for it, and gives its directory.
pub(super) fn write(root: &Path, registry: &Registry, text: &str) -> Result<PathBuf> {
    write_for(root, registry.port(), text)
}

/// Writes the hosts.toml of whatever listens on a port of 127.0.0.1.
pub(super) fn write_for(root: &Path, port: u16, text: &str) -> Result<PathBuf> {
    let directory = root.join(format!("127.0.0.1_{port}_"));
    fs::create_dir_all(&directory).context(directory.display())?;
    let file = directory.join("hosts.toml");
    fs::write(&file, text).context(file.display())?;
    Ok(directory)
}

/// A hosts.toml with a mirror before the server.
pub(super) fn with_mirror(server: &Registry, mirror: &Registry) -> String {
    format!(
        "server = \"{}\"\n\n[host.\"{}\"]\n  capabilities = [\"pull\", \"resolve\"]\n",
        server.url(""),
        mirror.url("")
    )
}

/// A registries.conf with a mirror of a registry.
pub(super) fn registries_conf(server: &Registry, mirror: &Registry) -> String {
    format!(
        "[[registry]]\nlocation = \"{}\"\ninsecure = true\n\n[[registry.mirror]]\nlocation = \"{}\"\ninsecure = true\n",
        server.host(),
        mirror.host()
    )
}
