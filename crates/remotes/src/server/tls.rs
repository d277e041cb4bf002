//! TLS in front of the registry (RFC 8446 and 5246), by rustls.

use std::{fmt, path::Path, sync::Arc};

use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio_rustls::TlsAcceptor;
use wharf_content::{Error, Result};

/// Who the registry is to its clients: a certificate with its chain, and the key.
#[derive(Clone)]
pub struct Tls(pub(super) TlsAcceptor);

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

impl Tls {
    /// Reads both from files in PEM form: the certificate first and what signed it after it; the key in PKCS#8, PKCS#1 or SEC1. Blocks.
    ///
    /// # Errors
    /// `InvalidArgument` for a file that cannot be read or holds no such thing, and for a key of another certificate.
    pub fn from_files(certificate: &Path, key: &Path) -> Result<Self> {
        let refuse = |what: &str, path: &Path, why: &str| {
            Error::invalid_argument(format!("cannot use the {what} {}: {why}", path.display()))
        };
        let read =
            CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect::<Result<Vec<_>, _>>);
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
            .map_err(|error| {
                refuse("key", key, &format!("{error} (certificate {})", certificate.display()))
            })?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self(TlsAcceptor::from(Arc::new(config))))
    }
}
