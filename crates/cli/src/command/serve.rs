//! `wharf serve`: the store as a registry.

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use clap::Args;
use jiff::Timestamp;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use tokio::net::TcpListener;
use wharf_content::{Error, ErrorKind, Result, ResultExt, blocking};
use wharf_images::transport::Resolver;
use wharf_remotes::{
    Via,
    server::{AccessRecord, PROXY_TTL, Passwords, Proxy, Registry, RegistryOptions, Tls, Upstream, serve},
};

use crate::{
    args::{Format, RegistryArgs, seconds},
    context::Context,
    output::{self, escape, note},
    progress,
    runner::signalled,
};

/// Arguments of `serve`.
#[derive(Debug, Args)]
#[command(
    after_help = "Prints the URL and serves until it is interrupted; then requests have 10 seconds to end. What is in the store can be pulled, \
and what is pushed is an image of the store. /metrics has Prometheus' text.\n\n\
Images of other registries are served by their paths: docker.io/library/busybox:1 as HOST/library/busybox:1 and HOST/busybox:1, \
ghcr.io/team/app:1 as HOST/team/app:1. What is pushed is named after HOST as the client writes it, and goes before the others for who \
writes the same. Deleting at the registry never removes images of other registries from the store.\n\n\
An address that other machines can reach takes --tls-cert and --htpasswd, or --allow-public. Who has a password may read everything in the \
store and, without --read-only, change it.\n\n\
With --proxy, what is not in the store is fetched from another registry when somebody asks for it, once, whoever asks, with the \
credentials that `wharf pull` would use; the registry options are for that. A tag that was asked for is an image of the store, under the \
name that it has there. While the other registry does not answer, what is in the store is served. Nothing can be pushed.\n\n\
Examples:\n  wharf serve\n  wharf serve --proxy https://registry-1.docker.io\n  wharf serve --addr 0.0.0.0:5000 --tls-cert cert.pem --tls-key key.pem --htpasswd users\n  \
wharf serve --read-only --allow-public --addr 0.0.0.0:5000"
)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag that a user gives or not")]
pub(crate) struct Serve {
    /// Address and port; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:5000")]
    addr: String,
    /// Refuse every change
    #[arg(long, conflicts_with = "proxy")]
    read_only: bool,
    /// Refuse manifests whose blobs are not there; by default they are taken with a warning
    #[arg(long)]
    complete_manifests: bool,
    /// Be a cache of this registry: https://HOST[:PORT] or http://HOST[:PORT]
    #[arg(long, value_name = "URL")]
    proxy: Option<String>,
    /// Ask that registry about a tag again after so long; 0 asks each time
    #[arg(long, value_name = "SECONDS", requires = "proxy", default_value_t = PROXY_TTL.as_secs_f64(), value_parser = seconds)]
    proxy_ttl: f64,
    /// Speak TLS with this certificate, followed by what signed it, in PEM form; it and its key are read again when they change
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The certificate's key, in PEM form
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Answer only users with a password of this file, as `htpasswd -B` writes it; it is read again when it changes
    #[arg(long, value_name = "FILE")]
    htpasswd: Option<PathBuf>,
    /// Serve on an address that other machines can reach, without TLS or without passwords
    #[arg(long)]
    allow_public: bool,
    /// Write a line for each request to standard error
    #[arg(long)]
    access_log: bool,
    #[command(flatten)]
    registry: RegistryArgs,
}

impl Serve {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        allow_files();
        let options = self.options(context).await?;
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
            self.check_public()?;
        }
        let listener = TcpListener::bind(&addresses[..]).await.map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => Error::new(ErrorKind::Unavailable, cannot()).with_source(error),
            _ => Error::io(cannot(), error),
        })?;
        let address = listener.local_addr().context(cannot)?;
        let scheme = if self.tls_cert.is_some() { "https" } else { "http" };
        // Before anybody is told that it serves, who may stop it right then.
        let stopped = signalled();
        output::line(&format!("{scheme}://{address}"))?;
        let options = if self.access_log { logged(options, context.global.format) } else { options };
        serve(Registry::with_options(store, images, options), listener, stopped).await
    }

    async fn options(&self, context: &Context) -> Result<RegistryOptions> {
        let mut options = RegistryOptions::default().with_catalogue(context.catalogue.clone());
        if self.read_only {
            options = options.with_read_only();
        }
        if self.complete_manifests {
            options = options.with_complete_manifests();
        }
        if let (Some(certificate), Some(key)) = (self.tls_cert.clone(), self.tls_key.clone()) {
            options = options.with_tls(blocking::run(move || Tls::from_files(&certificate, &key)).await?);
        }
        if let Some(path) = self.htpasswd.clone() {
            options = options.with_passwords(blocking::run(move || Passwords::open(path)).await?);
        }
        if let Some(url) = &self.proxy {
            // Read here and not among the arguments, where an error would show a password in it.
            let (upstream, via) = (Upstream::parse(url)?, Via::random());
            let resolver = self.upstream(&upstream, via.clone(), context)?;
            let ttl = Duration::from_secs_f64(self.proxy_ttl);
            let proxy = Proxy::new(upstream, resolver)
                .with_ttl(ttl)
                .with_downloads(self.registry.max_concurrent_downloads)
                .with_via(via);
            options = options.with_proxy(proxy);
        } else if self.registry.is_told() {
            return Err(Error::invalid_argument(
                "the registry options say how another registry is spoken to, and none is named: give --proxy URL",
            ));
        }
        Ok(options)
    }

    /// What asks the registry that this one is a cache of.
    fn upstream(&self, upstream: &Upstream, via: Via, context: &Context) -> Result<Arc<dyn Resolver>> {
        if self.registry.plain_http && !upstream.is_plain_http() {
            return Err(Error::invalid_argument(format!(
                "--plain-http and the https of --proxy contradict each other: write http://{upstream} to speak plain HTTP"
            )));
        }
        if self.registry.tls_verify.is_some() && upstream.is_plain_http() {
            return Err(Error::invalid_argument(format!(
                "--tls-verify and the http of --proxy contradict each other: write https://{upstream} to speak HTTPS"
            )));
        }
        context.upstream(upstream, via, &self.registry, &progress::warnings(&context.global))
    }

    fn check_public(&self) -> Result<()> {
        let missing = match (&self.tls_cert, &self.htpasswd) {
            (Some(_), Some(_)) => return Ok(()),
            (None, None) => "neither TLS nor authentication: give --tls-cert, --tls-key and --htpasswd",
            (None, Some(_)) => {
                "no TLS, and passwords would be sent as they are: give --tls-cert and --tls-key"
            }
            (Some(_), None) => "no authentication: give --htpasswd",
        };
        Err(Error::invalid_argument(format!(
            "{} can be reached from other machines, and there is {missing}; or, if that is meant, --allow-public",
            self.addr
        )))
    }
}

/// Lets this process open as many files as it may: each connection is one, and so is each blob that is sent.
fn allow_files() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

/// Has finished requests told.
fn logged(options: RegistryOptions, format: Format) -> RegistryOptions {
    options.with_observer(move |record| {
        let time = Timestamp::now();
        note(&match format {
            Format::Json => output::escape_json(&document(time, record).to_string()),
            Format::Text => line(time, record),
        });
    })
}

fn document(time: Timestamp, record: &AccessRecord) -> serde_json::Value {
    json!({
        "time": time.to_string(),
        "peer": record.peer.map(|peer| peer.to_string()),
        "user": record.user,
        "method": record.method,
        "path": record.path,
        "range": record.range,
        "status": record.status,
        "bytes": record.bytes,
        "seconds": record.elapsed.as_secs_f64(),
    })
}

/// A line in the common log format of web servers, with the time that it took.
fn line(time: Timestamp, record: &AccessRecord) -> String {
    let peer = record.peer.map_or_else(|| "-".to_owned(), |peer| peer.ip().to_string());
    let user = record.user.as_deref().map_or_else(|| "-".into(), escape);
    let (method, path) = (quoted(&record.method), quoted(&record.path));
    let (status, bytes, seconds) = (record.status, record.bytes, record.elapsed.as_secs_f64());
    format!("{peer} - {user} [{time:.3}] \"{method} {path}\" {status} {bytes} {seconds:.3}s")
}

/// A text as it stands between quotation marks, which it cannot end.
fn quoted(text: &str) -> String {
    escape(&text.replace('\\', "\\x5c").replace('"', "\\x22")).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_quoted_does_not_end_the_quotation() {
        for (text, expected) in [
            ("/v2/a", "/v2/a"),
            ("/v2/x\"-\"y", "/v2/x\\x22-\\x22y"),
            ("\\x22", "\\x5cx22"),
            ("\u{1b}[2J", "\\u{1b}[2J"),
        ] {
            assert_eq!(quoted(text), expected);
        }
    }
}
