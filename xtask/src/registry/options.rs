//! How a docker-registry is to be, and the configuration file that says so. Nothing is started here.

use std::path::{Path, PathBuf};

use super::certificates::Certificate;

/// How a docker-registry is to be. By default it speaks plain HTTP, lets everybody in, and deletes nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    tls: Option<Certificate>,
    clients_of: Option<PathBuf>,
    auth: Auth,
    mirror_of: Option<String>,
    delete: bool,
    cache: bool,
    no_access_log: bool,
}

/// Who is let in.
#[derive(Clone, Debug, Default)]
enum Auth {
    #[default]
    Everybody,
    /// Whoever has a name and a password of this htpasswd file.
    Passwords(PathBuf),
    /// Whoever has a token.
    Tokens(TokenAuth),
}

/// Whose tokens are good, and where they are to be had.
#[derive(Clone, Debug)]
pub(crate) struct TokenAuth {
    /// The URL of the token server.
    pub(crate) realm: String,
    /// The name of the registry in tokens.
    pub(crate) service: String,
    /// The name of the token server in tokens.
    pub(crate) issuer: String,
    /// The certificate that tokens are signed under, as PEM.
    pub(crate) certificates: PathBuf,
}

impl Options {
    /// Speaks TLS with this certificate.
    pub(crate) fn with_tls(mut self, certificate: &Certificate) -> Self {
        self.tls = Some(certificate.clone());
        self
    }

    /// Lets only those in that have a certificate of this authority. There is no such thing without TLS.
    pub(crate) fn with_clients_of(mut self, authority: &Path) -> Self {
        self.clients_of = Some(authority.to_owned());
        self
    }

    /// Remembers in memory what blobs it has, as Debian configures it.
    pub(crate) fn with_cache(mut self) -> Self {
        self.cache = true;
        self
    }

    /// Writes no line for a request.
    pub(crate) fn without_access_log(mut self) -> Self {
        self.no_access_log = true;
        self
    }

    /// Wants a name and a password of this htpasswd file. One that is missing is made up by the registry.
    pub(crate) fn with_passwords(mut self, file: &Path) -> Self {
        self.auth = Auth::Passwords(file.to_owned());
        self
    }

    /// Wants a token.
    pub(crate) fn with_tokens(mut self, tokens: TokenAuth) -> Self {
        self.auth = Auth::Tokens(tokens);
        self
    }

    /// Serves what the registry at this URL has, and keeps it.
    pub(crate) fn with_mirror_of(mut self, url: &str) -> Self {
        self.mirror_of = Some(url.to_owned());
        self
    }

    /// Deletes what it is told to.
    pub(crate) fn with_delete(mut self) -> Self {
        self.delete = true;
        self
    }

    /// The status by which the registry is known to be up when it is asked for `/v2/` in plain HTTP. Who speaks TLS
    /// says that this is no TLS.
    pub(super) fn ready(&self) -> u16 {
        match (&self.tls, &self.auth) {
            (Some(_), _) => 400,
            (None, Auth::Everybody) => 200,
            (None, Auth::Passwords(_) | Auth::Tokens(_)) => 401,
        }
    }

    /// What is before `127.0.0.1` in its URL.
    pub(super) fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// The configuration file. Schema 1 is on, for there are steps with such an image.
    pub(super) fn configuration(&self, storage: &Path, port: u16) -> String {
        let mut text = format!(
            "version: 0.1\n\
             log:\n  level: error\n{}\
             compatibility:\n  schema1:\n    enabled: true\n\
             storage:\n{}  filesystem:\n    rootdirectory: {}\n  delete:\n    enabled: {}\n\
             http:\n  addr: 127.0.0.1:{port}\n",
            if self.no_access_log { "  accesslog:\n    disabled: true\n" } else { "" },
            if self.cache { "  cache:\n    blobdescriptor: inmemory\n" } else { "" },
            quoted(storage),
            self.delete
        );
        if let Some(tls) = &self.tls {
            let (certificate, key) = (quoted(&tls.certificate), quoted(&tls.key));
            text += &format!("  tls:\n    certificate: {certificate}\n    key: {key}\n");
            if let Some(authority) = &self.clients_of {
                text += &format!("    clientcas:\n      - {}\n", quoted(authority));
            }
        }
        match &self.auth {
            Auth::Everybody => {}
            Auth::Passwords(file) => {
                text += &format!("auth:\n  htpasswd:\n    realm: wharf\n    path: {}\n", quoted(file));
            }
            Auth::Tokens(TokenAuth { realm, service, issuer, certificates }) => {
                let bundle = quoted(certificates);
                text += &format!("auth:\n  token:\n    realm: {realm}\n    service: {service}\n");
                text += &format!("    issuer: {issuer}\n    rootcertbundle: {bundle}\n");
            }
        }
        if let Some(url) = &self.mirror_of {
            text += &format!("proxy:\n  remoteurl: {url}\n");
        }
        text
    }
}

/// A path as a string of YAML.
fn quoted(path: &Path) -> String {
    format!("\"{}\"", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate() -> Certificate {
        Certificate { certificate: "/c.pem".into(), key: "/k.pem".into() }
    }

    #[test]
    fn the_configuration_names_port_and_storage() {
        let text = Options::default().configuration(Path::new("/some where/data"), 4711);
        assert!(text.contains("rootdirectory: \"/some where/data\"\n"), "{text}");
        assert!(text.contains("\nhttp:\n  addr: 127.0.0.1:4711\n"), "{text}");
        for absent in ["tls:", "auth:", "proxy:", "enabled: true\nstorage:\n  delete"] {
            assert!(!text.contains(absent), "{absent} is in\n{text}");
        }
    }

    #[test]
    fn each_option_has_its_lines() {
        let tokens = TokenAuth {
            realm: "http://127.0.0.1:1/token".to_owned(),
            service: "s".to_owned(),
            issuer: "i".to_owned(),
            certificates: "/b.pem".into(),
        };
        let plain = Options::default;
        let lines = [
            (plain().with_tls(&certificate()), "  tls:\n    certificate: \"/c.pem\"\n    key: \"/k.pem\"\n"),
            (
                plain().with_tls(&certificate()).with_clients_of(Path::new("/a.pem")),
                "    key: \"/k.pem\"\n    clientcas:\n      - \"/a.pem\"\n",
            ),
            (
                plain().with_passwords(Path::new("/p")),
                "auth:\n  htpasswd:\n    realm: wharf\n    path: \"/p\"\n",
            ),
            (
                plain().with_tokens(tokens),
                "auth:\n  token:\n    realm: http://127.0.0.1:1/token\n    service: s\n    issuer: i\n    \
                 rootcertbundle: \"/b.pem\"\n",
            ),
            (plain().with_mirror_of("http://127.0.0.1:2"), "proxy:\n  remoteurl: http://127.0.0.1:2\n"),
            (plain().with_delete(), "  delete:\n    enabled: true\n"),
            (plain().with_cache(), "storage:\n  cache:\n    blobdescriptor: inmemory\n  filesystem:\n"),
            (plain().without_access_log(), "  level: error\n  accesslog:\n    disabled: true\ncompat"),
        ];
        for (options, line) in lines {
            let text = options.configuration(Path::new("/d"), 1);
            assert!(text.contains(line), "{line}is not in\n{text}");
        }
    }

    #[test]
    fn what_a_registry_answers_first_depends_on_its_options() {
        let passwords = Options::default().with_passwords(Path::new("/p"));
        assert_eq!((Options::default().ready(), Options::default().scheme()), (200, "http"));
        assert_eq!(passwords.ready(), 401);
        let tls = passwords.with_tls(&certificate());
        assert_eq!((tls.ready(), tls.scheme()), (400, "https"));
    }
}
