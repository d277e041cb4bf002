//! TLS in front of the registry (RFC 8446 and 5246), by rustls.
//!
//! Certificates end and are renewed while the registry runs, so that both files are read again when one of them has changed.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio_rustls::TlsAcceptor;
use wharf_content::{Error, Result, blocking};

use super::stamp::Stamp;

/// Who the registry is to its clients: a certificate with its chain, and the key, in files that are read again when they have changed.
/// Cheap to clone.
#[derive(Clone)]
pub struct Tls(Arc<Files>);

struct Files {
    certificate: PathBuf,
    key: PathBuf,
    state: Mutex<State>,
}

struct State {
    stamps: Stamps,
    config: Arc<ServerConfig>,
}

/// The states of both files when they were last read, well or not.
type Stamps = [Option<Stamp>; 2];

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Files { certificate, key, .. } = &*self.0;
        f.debug_struct("Tls").field("certificate", certificate).field("key", key).finish_non_exhaustive()
    }
}

impl Tls {
    /// Reads both from files in PEM form: the certificate first and what signed it after it; the key in PKCS#8, PKCS#1 or SEC1. Blocks.
    ///
    /// A registry reads them again when they have changed, before the next handshake. Files that it cannot use then, such as a new
    /// certificate whose key is yet to come, leave it with what it had, and are told of in the log.
    ///
    /// # Errors
    /// `InvalidArgument` for a file that cannot be read or holds no such thing, and for a key of another certificate.
    pub fn from_files(certificate: &Path, key: &Path) -> Result<Self> {
        let (certificate, key) = (certificate.to_owned(), key.to_owned());
        let stamps = stamps(&certificate, &key);
        let config = read(&certificate, &key)?;
        Ok(Self(Arc::new(Files { certificate, key, state: Mutex::new(State { stamps, config }) })))
    }

    /// What shakes hands, by the files as they are now.
    pub(super) async fn acceptor(&self) -> TlsAcceptor {
        let files = Arc::clone(&self.0);
        // Nothing in it fails; a runtime that ends takes the connection with it.
        let config = match blocking::run(move || Ok(files.current())).await {
            Ok(config) => config,
            Err(_) => self.0.last(),
        };
        TlsAcceptor::from(config)
    }
}

impl Files {
    fn current(&self) -> Arc<ServerConfig> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let stamps = stamps(&self.certificate, &self.key);
        if stamps != state.stamps {
            match read(&self.certificate, &self.key) {
                Ok(config) => {
                    tracing::info!(certificate = %self.certificate.display(), "there is a new certificate");
                    state.config = config;
                }
                Err(error) => tracing::warn!(error = %error.report(), "the certificate stays as it was"),
            }
            // Whatever came of it: the same files are not read, nor told of, a second time.
            state.stamps = stamps;
        }
        Arc::clone(&state.config)
    }

    fn last(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.state.lock().unwrap_or_else(PoisonError::into_inner).config)
    }
}

fn stamps(certificate: &Path, key: &Path) -> Stamps {
    [certificate, key].map(|path| Stamp::of(path).ok())
}

fn read(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>> {
    let refuse = |what: &str, path: &Path, why: &str| {
        Error::invalid_argument(format!("cannot use the {what} {}: {why}", path.display()))
    };
    let read = CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = read.map_err(|error| refuse("certificate", certificate, &error.to_string()))?;
    if chain.is_empty() {
        return Err(refuse("certificate", certificate, "it holds no certificate in PEM form"));
    }
    let private =
        PrivateKeyDer::from_pem_file(key).map_err(|error| refuse("key", key, &error.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::internal("TLS cannot be set up").with_source(error))?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(|error| refuse("key", key, &format!("{error} (certificate {})", certificate.display())))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
