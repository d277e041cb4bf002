//! The `docker` transport: registries over HTTP and HTTPS (OCI distribution specification, pull and push).
//!
//! Redirects are followed by this module and not by the HTTP client, so that credentials stay with the origin that they belong to.
//! Bodies are never decoded: the bytes on the wire are the bytes that are hashed. HTTP/1.1 only, which is the faster one for blobs.

mod answer;
mod auth;
mod client;
mod connections;
mod deletion;
mod failover;
mod failure;
mod fetcher;
mod host;
mod hosts;
mod limits;
mod listing;
mod pages;
mod payload;
mod pusher;
pub mod range_options;
mod referrers;
mod resolver;
mod retries;
mod secrets;
mod settings;
mod tags;
mod throughput;
mod tls;
mod trace;
mod upload;
mod wire;

use std::sync::Arc;

use wharf_content::Result;
use wharf_images::transport::{Resolver, Transport, TransportOptions};

pub use auth::{Clock, Login};
pub use hosts::{RegistriesConf, default_hosts_dirs};
pub use range_options::{RangeOptions, Split};
pub use resolver::RegistryResolver;
pub use settings::{
    ClientCertificate, DEFAULT_HOST_CONCURRENCY, DEFAULT_MIN_THROUGHPUT, RegistrySettings, Scheme,
};
pub use trace::{HttpEvent, HttpTrace};

/// Parsers of what strangers send, for fuzz targets. They may change in any version.
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing {
    pub use super::auth::fuzzing::{Challenge, choose_challenge};
    pub use super::hosts::fuzzing::{ConfiguredHost, ConfiguredPlace, read_hosts_toml, read_registries_conf};
}

wharf_images::register_transport! { name: "registry", keys: ["docker"], make: Registry }

/// The transport of registries. Its settings are a [`RegistrySettings`].
#[derive(Debug)]
struct Registry;

impl Transport for Registry {
    fn resolver(&self, options: &TransportOptions) -> Result<Arc<dyn Resolver>> {
        let mut settings = options.settings::<RegistrySettings>().cloned().unwrap_or_default();
        if let Some(sink) = options.sink() {
            settings = settings.with_sink(Arc::clone(sink));
        }
        Ok(Arc::new(RegistryResolver::new(settings).with_catalogue(options.catalogue.clone())))
    }
}
