//! What fuzz targets see of the files that name hosts, in plain values.

use std::path::Path;

use reqwest::Url;
use wharf_images::Reference;

use super::{config, registries_conf};

/// A host of a `hosts.toml`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfiguredHost {
    /// Where its API is.
    pub base: Url,
    /// Whether it is no mirror.
    pub is_own: bool,
}

/// What a name becomes at one place of a `registries.conf`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfiguredPlace {
    /// Its host.
    pub domain: String,
    /// The repository there.
    pub path: String,
    /// Whether it is no mirror.
    pub is_own: bool,
}

/// Reads a `hosts.toml` for the references of `domain`.
///
/// # Errors
/// What is wrong with which key.
pub fn read_hosts_toml(text: &str, domain: &str) -> Result<Vec<ConfiguredHost>, String> {
    let own = Url::parse(&format!("https://{domain}/v2/")).map_err(|error| error.to_string())?;
    let read = config::parse(text, Path::new("/etc/hosts.d"), domain, &own)?;
    let hosts = read.hosts.into_iter();
    Ok(hosts.map(|host| ConfiguredHost { base: host.base, is_own: host.is_own }).collect())
}

/// Reads a `registries.conf`, and says where `reference` is asked for: nowhere, if nothing is said of it.
///
/// # Errors
/// What is wrong in which entry; a location that makes no name of the reference.
pub fn read_registries_conf(text: &str, reference: &Reference) -> Result<Vec<ConfiguredPlace>, String> {
    let registries = registries_conf::parse(text, Path::new("/etc/registries.conf"))?;
    let Some(registry) = registries_conf::find(&registries, reference) else { return Ok(Vec::new()) };
    let places = registry.located(reference)?.into_iter();
    Ok(places
        .map(|place| ConfiguredPlace { domain: place.domain, path: place.path, is_own: place.is_own })
        .collect())
}
