//! Who the client is: certificates and keys that are shown to a server that asks.

use std::{path::Path, sync::Arc};

use rustls::{
    Error as TlsError, InconsistentKeys, SignatureScheme,
    client::ResolvesClientCert,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use wharf_content::{Error, Result};

use crate::registry::settings::ClientCertificate;

/// Certificates with their keys.
#[derive(Debug)]
pub(in crate::registry) struct Identity(Vec<Arc<CertifiedKey>>);

impl Identity {
    /// Reads the files; `None` where there are none to read.
    ///
    /// # Errors
    /// `InvalidArgument` that names the file which cannot be used.
    pub(in crate::registry) fn read(
        certificates: &[ClientCertificate],
        provider: &CryptoProvider,
    ) -> Result<Option<Self>> {
        let read = certificates.iter().map(|certificate| pair(certificate, provider).map(Arc::new));
        let read: Vec<_> = read.collect::<Result<_>>()?;
        Ok((!read.is_empty()).then_some(Self(read)))
    }
}

fn pair(files: &ClientCertificate, provider: &CryptoProvider) -> Result<CertifiedKey> {
    let certificate_file = &files.certificate_file;
    let key_file = files.key_file.as_ref().unwrap_or(certificate_file);
    let refuse = |what: &str, path: &Path, why: &str| {
        Error::invalid_argument(format!("cannot use the client {what} {}: {why}", path.display()))
    };
    let chain = CertificateDer::pem_file_iter(certificate_file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| refuse("certificate", certificate_file, &error.to_string()))?;
    if chain.is_empty() {
        return Err(refuse("certificate", certificate_file, "it holds no certificate in PEM form"));
    }
    let key = PrivateKeyDer::from_pem_file(key_file).map_err(|error| match error {
        rustls::pki_types::pem::Error::NoItemsFound => {
            refuse("key", key_file, "it holds no private key in PEM form that is not encrypted")
        }
        error => refuse("key", key_file, &error.to_string()),
    })?;
    CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
        TlsError::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            let why = format!("it does not belong to the certificate {}", certificate_file.display());
            refuse("key", key_file, &why)
        }
        error => refuse("key", key_file, &error.to_string()),
    })
}

impl ResolvesClientCert for Identity {
    /// The first one that the server can verify. Which authorities a server hints at does not choose: many hint at none.
    fn resolve(&self, _: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.iter().find(|pair| pair.key.choose_scheme(schemes).is_some()).cloned()
    }

    fn has_certs(&self) -> bool {
        !self.0.is_empty()
    }
}
