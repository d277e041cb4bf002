//! Which hosts are asked for what is under a name: mirrors first, the reference's own host last.
//!
//! ```text
//! reference ─> blocked by registries.conf? ─> error
//!     ├─ hosts.toml of its host          mirrors in the order of the file, the server last
//!     ├─ registries.conf, longest prefix mirrors in the order of the file, the location last
//!     └─ neither                         the host itself
//! ```
//!
//! Certificates in docker's layout add to hosts that no `hosts.toml` names. Nothing is read but from where the settings say. What was
//! read counts until the resolver is dropped.

mod capabilities;
mod config;
mod directory;
mod duration;
mod endpoint;
#[cfg(feature = "fuzzing")]
pub(super) mod fuzzing;
mod locations;
mod registries_conf;

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use reqwest::{
    Url,
    header::{HeaderName, HeaderValue},
};
use wharf_content::{Error, ErrorKind, Result};
use wharf_images::{Reference, progress::Event};

pub use self::locations::{RegistriesConf, default_hosts_dirs};
pub(super) use self::{capabilities::Capabilities, endpoint::Site};
use self::{
    directory::Found,
    endpoint::Endpoint,
    registries_conf::{Located, Registry},
};
use super::{
    host,
    settings::{ClientCertificate, RegistrySettings, Scheme},
};

/// One host of the API, and what was decided about it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Host {
    /// Ends in a slash.
    pub(super) base: Url,
    /// Where the same host is spoken to in plain HTTP, if it turns out to speak no HTTPS.
    pub(super) plain: Option<Url>,
    pub(super) capabilities: Capabilities,
    pub(super) ca_files: Vec<PathBuf>,
    pub(super) client_certificates: Vec<ClientCertificate>,
    pub(super) skip_verify: bool,
    /// Sent with every request to the host's origin, and to no other.
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) dial_timeout: Option<Duration>,
    pub(super) idle_timeout: Option<Duration>,
    /// Whether it is the reference's own host, or what stands in its place, and no mirror.
    pub(super) is_own: bool,
    /// The host of the references, where this one must be told.
    pub(super) namespace: Option<String>,
    /// How references write it, port and all, as who has credentials for it does; a URL leaves the port of its scheme out.
    pub(super) name: Option<String>,
}

impl Host {
    /// A host that is used for everything.
    pub(super) fn new(base: Url) -> Self {
        Self {
            base,
            plain: None,
            capabilities: Capabilities::ALL,
            ca_files: Vec::new(),
            client_certificates: Vec::new(),
            skip_verify: false,
            headers: Vec::new(),
            dial_timeout: None,
            idle_timeout: None,
            is_own: false,
            namespace: None,
            name: None,
        }
    }
}

/// What a host at `base` must be told of the references of `domain` (containerd: `RegistryHost.isProxy`).
fn own_namespace(domain: &str, base: &Url) -> Option<String> {
    let hub = (domain == "docker.io").then_some(host::DOCKER_HUB);
    let is_base = |own: &str| {
        // Of one host, with or without the port that goes without saying.
        let own = Url::parse(&format!("{}://{own}", base.scheme()));
        own.is_ok_and(|own| host::Origin::of(&own) == host::Origin::of(base))
    };
    (!is_base(domain) && !hub.is_some_and(is_base)).then(|| domain.to_owned())
}

/// A host and where the repository is there.
type Stop = (Host, Arc<str>);

/// The hosts of all references, and how they are reached.
#[derive(Debug)]
pub(super) struct Hosts {
    settings: RegistrySettings,
    /// Of each domain: what its `hosts.toml` says; `None` where there is none.
    files: Mutex<HashMap<String, Option<Arc<[Host]>>>>,
    registries: OnceLock<Vec<Registry>>,
    endpoints: Mutex<HashMap<(Host, Patience), Arc<Endpoint>>>,
}

/// Whether requests to a host are sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Patience {
    /// As often as the settings say: there is nobody else to ask.
    Last,
    /// Never, and not while it wants to be left alone: another host is asked.
    None,
}

impl Hosts {
    pub(super) fn new(settings: RegistrySettings) -> Self {
        let (files, registries, endpoints) = (Mutex::default(), OnceLock::new(), Mutex::default());
        Self { settings, files, registries, endpoints }
    }

    /// The hosts that are asked in turn, all of them with these capabilities. Reads files.
    ///
    /// # Errors
    /// `NotFound` where none has them; `PermissionDenied` for what is blocked; `InvalidArgument` for a configuration that cannot be used;
    /// those of files that cannot be read.
    pub(super) fn sites(&self, reference: &Reference, wanted: Capabilities) -> Result<Vec<Site>> {
        let stops = self.stops(reference, wanted.has(Capabilities::PUSH))?;
        let mut capable: Vec<Stop> =
            stops.into_iter().filter(|(host, _)| host.capabilities.has(wanted)).collect();
        if wanted.has(Capabilities::PUSH) {
            capable.truncate(1);
        }
        if capable.is_empty() {
            let what = match wanted {
                Capabilities::PUSH => "takes pushes",
                Capabilities::RESOLVE => "tells what names mean",
                Capabilities::REFERRERS => "lists referrers",
                _ => "gives content",
            };
            return Err(Error::not_found(format!(
                "as {} is configured, none of its hosts {what}: see the capabilities in its hosts.toml",
                reference.domain()
            )));
        }
        let last = capable.len() - 1;
        let sites = capable.into_iter().enumerate().map(|(number, stop)| {
            let patience = if number == last { Patience::Last } else { Patience::None };
            self.site(stop, patience, reference)
        });
        sites.collect()
    }

    /// The reference's own host, or what stands in its place, whatever it is capable of; no mirror. Reads files.
    ///
    /// # Errors
    /// As [`Hosts::sites`].
    pub(super) fn own_site(&self, reference: &Reference) -> Result<Site> {
        let own = self.stops(reference, true)?.into_iter().rfind(|(host, _)| host.is_own);
        let none = || Error::not_found(format!("{} has no host of its own", reference.domain()));
        self.site(own.ok_or_else(none)?, Patience::Last, reference)
    }

    fn site(&self, (host, path): Stop, patience: Patience, reference: &Reference) -> Result<Site> {
        let host_name = host.base.host_str().unwrap_or_default().to_owned();
        let endpoint = self.endpoint(host, patience).map_err(|error| {
            error.context(format!("the host {host_name} cannot be used for {}", reference.domain()))
        })?;
        Ok(Site { endpoint, path })
    }

    fn endpoint(&self, host: Host, patience: Patience) -> Result<Arc<Endpoint>> {
        let mut endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (host, patience);
        if let Some(endpoint) = endpoints.get(&key) {
            return Ok(Arc::clone(endpoint));
        }
        let mut settings = self.settings.clone();
        if patience == Patience::None {
            settings.retries = 0;
            settings.waits_for_hosts = false;
        }
        let endpoint = Arc::new(Endpoint::new(&key.0, settings)?);
        endpoints.insert(key, Arc::clone(&endpoint));
        Ok(endpoint)
    }

    /// All hosts of a reference, whatever they are capable of.
    fn stops(&self, reference: &Reference, is_push: bool) -> Result<Vec<Stop>> {
        let registry = registries_conf::find(self.registries()?, reference);
        if let Some(registry) = registry.filter(|registry| registry.blocked) {
            return Err(Error::new(
                ErrorKind::PermissionDenied,
                format!(
                    "{} is blocked: {} has blocked = true for {:?}",
                    reference.repository(),
                    registry.file.display(),
                    registry.prefix
                ),
            ));
        }
        let domain = reference.domain().to_ascii_lowercase();
        let own = self.own(&domain)?;
        let path: Arc<str> = reference.path().into();
        if let Some(hosts) = self.configured(&domain, &own)? {
            return Ok(hosts.iter().map(|host| (host.clone(), Arc::clone(&path))).collect());
        }
        let Some(registry) = registry else { return Ok(vec![(self.dressed(own, &domain)?, path)]) };
        if is_push {
            let host = self.insecure(own, &domain, registry.is_insecure())?;
            return Ok(vec![(self.dressed(host, &domain)?, path)]);
        }
        let located = registry.located(reference).map_err(|why| {
            Error::invalid_argument(format!("cannot use {}: {why}", registry.file.display()))
        })?;
        located.into_iter().map(|located| self.stop(located)).collect()
    }

    fn stop(&self, located: Located) -> Result<Stop> {
        let domain = located.domain.to_ascii_lowercase();
        let mut host = self.insecure(self.own(&domain)?, &domain, located.insecure)?;
        host.is_own = located.is_own;
        host.capabilities = located.capabilities;
        if !host.is_own {
            host.client_certificates.clear();
        }
        Ok((self.dressed(host, &domain)?, located.path.into()))
    }

    /// The host that a domain is by itself, as the settings say.
    fn own(&self, domain: &str) -> Result<Host> {
        let mut host = Host::new(host::base(domain, &self.settings)?);
        host.is_own = true;
        host.name = Some(domain.to_owned());
        host.client_certificates.clone_from(&self.settings.client_certificates);
        let says_tls = self.settings.skip_verify || !self.settings.ca_files.is_empty();
        let is_tls = says_tls || !host.client_certificates.is_empty();
        if is_tls { self.preferring_https(host, domain) } else { Ok(host) }
    }

    /// Has a host on loopback asked by HTTPS first, since something is said of its TLS (containerd: `core/remotes/docker/config/hosts.go`).
    fn preferring_https(&self, mut host: Host, domain: &str) -> Result<Host> {
        if self.settings.scheme == Scheme::Auto && host.plain.is_none() && host.base.scheme() == "http" {
            let secure = host::base(domain, &RegistrySettings::new().with_https())?;
            host.plain = Some(std::mem::replace(&mut host.base, secure));
        }
        Ok(host)
    }

    /// Allows a host to be without trust, where that is asked for and the user has not decided otherwise.
    fn insecure(&self, mut host: Host, domain: &str, insecure: bool) -> Result<Host> {
        if insecure {
            host.skip_verify = true;
            if self.settings.scheme == Scheme::Auto {
                let settings = RegistrySettings::new();
                host.base = host::base(domain, &settings.clone().with_https())?;
                host.plain = Some(host::base(domain, &settings.with_plain_http())?);
            }
        }
        Ok(host)
    }

    /// What the directories have for a domain; what is passed over is told once, however often it is asked for.
    fn look(&self, domain: &str) -> Result<Found> {
        directory::look(&self.settings.hosts_dirs, domain, &|text| {
            if self.settings.limits.is_new_warning(&text) {
                self.settings.sink.event(&Event::Warning { text: &text });
            }
        })
    }

    /// Adds the certificates of docker's layout.
    fn dressed(&self, mut host: Host, domain: &str) -> Result<Host> {
        if let Found::Certificates(certificates) = self.look(domain)? {
            let is_tls = !certificates.ca_files.is_empty() || !certificates.client.is_empty();
            host.ca_files.extend(certificates.ca_files);
            host.client_certificates.extend(certificates.client);
            if is_tls {
                return self.preferring_https(host, domain);
            }
        }
        Ok(host)
    }

    fn registries(&self) -> Result<&[Registry]> {
        if let Some(registries) = self.registries.get() {
            return Ok(registries);
        }
        let read = self.settings.registries_conf.load()?;
        Ok(self.registries.get_or_init(|| read))
    }

    /// What the `hosts.toml` of a domain says.
    fn configured(&self, domain: &str, own: &Host) -> Result<Option<Arc<[Host]>>> {
        let known =
            |hosts: &Hosts| hosts.files.lock().unwrap_or_else(PoisonError::into_inner).get(domain).cloned();
        if let Some(known) = known(self) {
            return Ok(known);
        }
        let read = match self.look(domain)? {
            Found::Certificates(_) => None,
            Found::Hosts(file, text) => {
                let directory = file.parent().unwrap_or(&file);
                let read = config::parse(&text, directory, domain, &own.base).map_err(|why| {
                    Error::invalid_argument(format!("cannot use {}: {why}", file.display()))
                })?;
                if !read.ignored.is_empty() {
                    tracing::warn!(file = %file.display(), keys = ?read.ignored, "keys that are not known are passed over");
                }
                let mut hosts = read.hosts;
                for host in hosts.iter_mut().filter(|host| host.is_own) {
                    host.client_certificates.extend_from_slice(&own.client_certificates);
                    if !read.names_server {
                        host.plain.clone_from(&own.plain);
                        host.name.clone_from(&own.name);
                    }
                }
                Some(hosts.into())
            }
        };
        self.files.lock().unwrap_or_else(PoisonError::into_inner).insert(domain.to_owned(), read.clone());
        Ok(read)
    }
}

#[cfg(test)]
mod tests;
