//! TLS by rustls, with the certificates that the system trusts and those that the user names. What the user names may be an authority's, or
//! that of the server itself.
//!
//! Whom a host's settings trust is trusted where the host leads, too, as whoever answers for it decides where that is. Who the client is,
//! only the host itself is shown.

mod identity;
mod named;

use std::{
    path::Path,
    sync::{Arc, OnceLock},
};

use rustls::{
    ClientConfig, DigitallySignedStruct, Error as TlsError, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};
use rustls_platform_verifier::Verifier;
use wharf_content::{Error, Result};

pub(super) use self::identity::Identity;
use super::settings::RegistrySettings;

/// The configuration of a client that shows this identity. The system's certificates are read when the first server shows one.
pub(super) fn config(settings: &RegistrySettings, identity: Option<Identity>) -> Result<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let trust = if settings.skip_verify {
        Trust::Any
    } else {
        let certificates = settings.ca_files.iter().map(|path| certificates(path));
        let extra: Vec<Vec<_>> = certificates.collect::<Result<_>>()?;
        Trust::System { extra: extra.concat(), verifier: OnceLock::new() }
    };
    let verifier = Arc::new(Verify { trust, provider: Arc::clone(&provider) });
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::internal("TLS cannot be set up").with_source(error))?;
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    let mut config = match identity {
        Some(identity) => builder.with_client_cert_resolver(Arc::new(identity)),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let refuse =
        |why: &str| Error::invalid_argument(format!("cannot use the CA file {}: {why}", path.display()));
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates: Vec<_> = read.map_err(|error| refuse(&error.to_string()))?;
    if certificates.is_empty() {
        return Err(refuse("it holds no certificate in PEM form"));
    }
    Ok(certificates)
}

/// Whose certificates are taken.
#[derive(Debug)]
enum Trust {
    /// Anybody's. That the server holds the key of its certificate is still checked.
    Any,
    /// Those that the system trusts, and some more. A registry that speaks plain HTTP must be reachable from a system without
    /// certificates, so that they are missed only where they are needed.
    System { extra: Vec<CertificateDer<'static>>, verifier: OnceLock<Option<Verifier>> },
}

#[derive(Debug)]
struct Verify {
    trust: Trust,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verify {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let Trust::System { extra, verifier } = &self.trust else {
            return Ok(ServerCertVerified::assertion());
        };
        if extra.iter().any(|named| named == end_entity) {
            return named::verify(end_entity, server_name, now).map(|()| ServerCertVerified::assertion());
        }
        let make = || Verifier::new_with_extra_roots(extra.iter().cloned(), Arc::clone(&self.provider)).ok();
        let verifier = verifier.get_or_init(make).as_ref().ok_or_else(|| {
            TlsError::General(
                "this system has no trusted certificates: install its ca-certificates, or name a file by --ca-file".into(),
            )
        })?;
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
