//! Reading `hosts.toml` (containerd: `docs/hosts.md`, `core/remotes/docker/config/hosts.go`).
//!
//! ```text
//! server = "https://registry.example"       the last host; without it the reference's own
//! ca = "/etc/ssl/own.pem"                    keys of the last host
//! [host."https://mirror.example"]            the hosts before it, in the order of the file
//!   capabilities = ["pull", "resolve"]
//! ```
//!
//! Nothing is read here but the text: whether the files exist that it names is found out where they are used. Unlike containerd, which
//! goes on without a file that it cannot read, whatever is wrong is an error that names the key.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use reqwest::{
    Url,
    header::{
        CONNECTION, CONTENT_LENGTH, CONTENT_RANGE, HOST, HeaderName, HeaderValue, RANGE, TRANSFER_ENCODING,
    },
};
use toml::{Table, Value};

use super::{Capabilities, Host, duration, own_namespace};
use crate::registry::settings::ClientCertificate;

/// Headers that belong to a single request and are not to be set for all.
const OWN_HEADERS: [HeaderName; 6] =
    [HOST, CONTENT_LENGTH, CONTENT_RANGE, RANGE, CONNECTION, TRANSFER_ENCODING];

/// What a file says.
#[derive(Debug)]
pub(super) struct HostsFile {
    /// In the order in which they are asked.
    pub(super) hosts: Vec<Host>,
    /// Whether the last of them is named, and not the reference's own for want of a name.
    pub(super) names_server: bool,
    /// What is not understood, as containerd does not understand it either and goes on.
    pub(super) ignored: Vec<String>,
}

/// Reads the text of a `hosts.toml` that lies in `directory` and is for the references of `domain`, whose own host is at `own`.
///
/// # Errors
/// What is wrong with which key.
pub(super) fn parse(text: &str, directory: &Path, domain: &str, own: &Url) -> Result<HostsFile, String> {
    let file: Table = toml::from_str(text).map_err(|error| syntax(text, &error))?;
    let mut reader = Reader { directory, domain, ignored: Vec::new() };
    let mut hosts = Vec::new();
    for (name, value) in table(file.get("host"), "host")?.into_iter().flatten() {
        let key = format!("host.{name:?}");
        let table = value.as_table().ok_or_else(|| format!("{key} is not a table"))?;
        if name.is_empty() {
            return Err(format!("{key} names no host"));
        }
        let host = reader.host(Some(name), own, table, &key)?;
        hosts.push(host);
    }
    let server = match file.get("server") {
        None => None,
        Some(Value::String(server)) => Some(server.as_str()).filter(|server| !server.is_empty()),
        Some(_) => return Err("server is not a string".into()),
    };
    let names_server = server.is_some();
    let mut last = reader.host(server, own, &file, "")?;
    last.is_own = true;
    hosts.push(last);
    Ok(HostsFile { hosts, names_server, ignored: reader.ignored })
}

struct Reader<'a> {
    directory: &'a Path,
    domain: &'a str,
    ignored: Vec<String>,
}

impl Reader<'_> {
    /// Reads the keys of one host. `at` is the table's name, empty for the whole file.
    fn host(&mut self, address: Option<&str>, own: &Url, table: &Table, at: &str) -> Result<Host, String> {
        let name = |key: &str| if at.is_empty() { key.to_owned() } else { format!("{at}.{key}") };
        let mut host = Host::new(own.clone());
        let mut overrides_path = false;
        for (key, value) in table {
            let at = name(key);
            match key.as_str() {
                "server" | "host" if !at.contains('.') => {}
                "capabilities" => host.capabilities = capabilities(value, &at)?,
                "ca" => host.ca_files = self.paths(value, &at)?,
                "client" => host.client_certificates = self.client(value, &at)?,
                "skip_verify" => host.skip_verify = boolean(value, &at)?,
                "header" => host.headers = self.headers(value, &at)?,
                "override_path" => overrides_path = boolean(value, &at)?,
                "dial_timeout" => host.dial_timeout = timeout(value, &at)?,
                "idle_timeout" => host.idle_timeout = timeout(value, &at)?,
                _ => self.ignored.push(at),
            }
        }
        if let Some(address) = address {
            let at = if at.is_empty() { "server" } else { at };
            host.base = base(address, overrides_path).map_err(|why| format!("{at}: {why}"))?;
        }
        host.namespace = own_namespace(self.domain, &host.base);
        Ok(host)
    }

    fn path(&self, path: &str, at: &str) -> Result<PathBuf, String> {
        if path.is_empty() {
            return Err(format!("{at} has an empty path"));
        }
        Ok(self.directory.join(path))
    }

    fn paths(&self, value: &Value, at: &str) -> Result<Vec<PathBuf>, String> {
        strings(value, at)?.into_iter().map(|path| self.path(path, at)).collect()
    }

    /// A file with certificate and key, several, or pairs of files.
    fn client(&self, value: &Value, at: &str) -> Result<Vec<ClientCertificate>, String> {
        let Value::Array(entries) = value else {
            return self
                .paths(value, at)
                .map(|paths| paths.into_iter().map(ClientCertificate::new).collect());
        };
        let read = entries.iter().map(|entry| match entry {
            Value::Array(pair) => match &pair[..] {
                [Value::String(certificate), Value::String(key)] => {
                    let certificate = ClientCertificate::new(self.path(certificate, at)?);
                    // Written so where the key is in the file of the certificate.
                    let key = if key.is_empty() { None } else { Some(self.path(key, at)?) };
                    Ok(key.into_iter().fold(certificate, ClientCertificate::with_key_file))
                }
                _ => Err(format!("{at} has a list that is no pair of a certificate and a key")),
            },
            Value::String(path) => self.path(path, at).map(ClientCertificate::new),
            _ => Err(format!("{at} has an entry that is neither a string nor a pair of strings")),
        });
        read.collect()
    }

    fn headers(&mut self, value: &Value, at: &str) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
        let mut headers = Vec::new();
        for (key, value) in table(Some(value), at)?.into_iter().flatten() {
            let at = format!("{at}.{key}");
            let name: HeaderName =
                key.parse().map_err(|_| format!("{at}: {key:?} is not the name of a header"))?;
            if OWN_HEADERS.contains(&name) {
                self.ignored.push(at);
                continue;
            }
            for text in strings(value, &at)? {
                // What stands there may be a secret.
                let mut value = HeaderValue::from_str(text)
                    .map_err(|_| format!("{at} has characters that no header may have"))?;
                value.set_sensitive(true);
                headers.push((name.clone(), value));
            }
        }
        Ok(headers)
    }
}

/// An error of the text without the line that it is in, which may hold a secret.
pub(super) fn syntax(text: &str, error: &toml::de::Error) -> String {
    let line =
        error.span().and_then(|span| text.get(..span.start)).map(|before| before.matches('\n').count() + 1);
    let line = line.map(|line| format!("line {line}: ")).unwrap_or_default();
    format!("{line}{}", error.message().trim())
}

/// The base of a host's API, ending in a slash.
fn base(address: &str, overrides_path: bool) -> Result<Url, String> {
    let with_scheme = if address.contains("://") { address.to_owned() } else { format!("https://{address}") };
    let mut url = Url::parse(&with_scheme).map_err(|error| format!("not the URL of a host: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!("{:?} is not spoken, only http and https are", url.scheme()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("credentials in a URL are not used: log in to the host".into());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("the URL of a host has neither a query nor a fragment".into());
    }
    let parts: Vec<_> = url.path().split('/').filter(|part| !part.is_empty()).collect();
    let mut path = parts.iter().fold(String::new(), |path, part| path + "/" + part);
    if !overrides_path && !path.ends_with("/v2") {
        path.push_str("/v2");
    }
    path.push('/');
    url.set_path(&path);
    Ok(url)
}

fn capabilities(value: &Value, at: &str) -> Result<Capabilities, String> {
    let Value::Array(_) = value else { return Err(format!("{at} is not a list")) };
    let mut found = None::<Capabilities>;
    for name in strings(value, at)? {
        let capability = Capabilities::parse(name).ok_or_else(|| {
            format!("{at}: {name:?} is not a capability: those are pull, resolve, push and referrers")
        })?;
        found = Some(found.map_or(capability, |found| found.and(capability)));
    }
    Ok(found.unwrap_or(Capabilities::ALL))
}

fn timeout(value: &Value, at: &str) -> Result<Option<Duration>, String> {
    let text = value.as_str().ok_or_else(|| format!("{at} is not a string such as \"30s\""))?;
    if text.is_empty() {
        return Ok(None);
    }
    let duration = duration::parse(text)
        .ok_or_else(|| format!("{at}: {text:?} is not a duration such as \"30s\" or \"1m30s\""))?;
    // None of its own, as in Go.
    Ok(Some(duration).filter(|duration| !duration.is_zero()))
}

fn boolean(value: &Value, at: &str) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| format!("{at} is neither true nor false"))
}

fn table<'v>(value: Option<&'v Value>, at: &str) -> Result<Option<&'v Table>, String> {
    value.map(|value| value.as_table().ok_or_else(|| format!("{at} is not a table"))).transpose()
}

/// A string, or a list of strings.
fn strings<'v>(value: &'v Value, at: &str) -> Result<Vec<&'v str>, String> {
    let wrong = || format!("{at} is neither a string nor a list of strings");
    match value {
        Value::String(text) => Ok(vec![text]),
        Value::Array(entries) => entries.iter().map(|entry| entry.as_str().ok_or_else(wrong)).collect(),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests;
