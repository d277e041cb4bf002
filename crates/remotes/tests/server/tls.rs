//! The certificate of a registry: files that are of no use, and files that change while it runs.

use std::{fs, path::Path, sync::Arc, time::Duration};

use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs, pki_types::CertificateDer};
use tempfile::TempDir;
use tokio_rustls::TlsConnector;
use wharf_content::ErrorKind;
use wharf_remotes::server::{RegistryOptions, Tls};

use crate::site::Site;

/// A certificate that signs itself, and its key.
struct Identity {
    certificate: String,
    der: CertificateDer<'static>,
    key: String,
}

impl Identity {
    fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let pem = key.serialize_pem();
        let params = CertificateParams::new(["127.0.0.1".to_owned()]).expect("valid");
        let certificate = CertifiedIssuer::self_signed(params, key).expect("signs");
        Self { certificate: certificate.pem(), der: certificate.der().clone(), key: pem }
    }
}

/// The certificate that the registry shows to a client who trusts all of `known`.
async fn shown(site: &Site, known: &[&Identity]) -> CertificateDer<'static> {
    let mut roots = RootCertStore::empty();
    for identity in known {
        roots.add(identity.der.clone()).expect("a certificate");
    }
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = "127.0.0.1".try_into().expect("an address");
    let stream = TlsConnector::from(Arc::new(config)).connect(name, site.connect().await).await;
    let stream = stream.expect("the registry shakes hands");
    stream.get_ref().1.peer_certificates().expect("certificates")[0].clone().into_owned()
}

#[tokio::test]
async fn certificates_are_renewed_while_it_runs() {
    let dir = TempDir::new().expect("a directory");
    let (certificate, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    let (old, new) = (Identity::new(), Identity::new());
    let write = |path: &Path, text: &str| {
        // As those do who renew certificates: never half a file.
        let fresh = path.with_extension("new");
        fs::write(&fresh, text).expect("writes");
        fs::rename(&fresh, path).expect("renames");
    };
    write(&certificate, &old.certificate);
    write(&key, &old.key);
    let tls = Tls::from_files(&certificate, &key).expect("both are good");
    let site = Site::memory(RegistryOptions::default().with_tls(tls)).await;
    let shown = async || shown(&site, &[&old, &new]).await;
    assert_eq!(shown().await, old.der);

    // The key is yet to come.
    write(&certificate, &new.certificate);
    assert_eq!(shown().await, old.der);
    write(&key, &new.key);
    assert_eq!(shown().await, new.der);

    // What cannot be used changes nothing, as often as somebody comes.
    write(&certificate, "-----BEGIN CERTIFICATE-----\nnonsense");
    assert_eq!(shown().await, new.der);
    fs::remove_file(&certificate).expect("removes");
    fs::remove_file(&key).expect("removes");
    for _ in 0..2 {
        assert_eq!(shown().await, new.der);
    }
    // In place, too.
    fs::write(&certificate, &old.certificate).expect("writes");
    fs::write(&key, &old.key).expect("writes");
    assert_eq!(shown().await, old.der);
    site.stop().await;
}

#[tokio::test]
async fn who_never_shakes_hands_does_not_hold_up_the_end() {
    let dir = TempDir::new().expect("a directory");
    let (certificate, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    let identity = Identity::new();
    fs::write(&certificate, &identity.certificate).expect("writes");
    fs::write(&key, &identity.key).expect("writes");
    let tls = Tls::from_files(&certificate, &key).expect("both are good");
    let long = Duration::from_secs(600);
    let options = RegistryOptions::default().with_tls(tls).with_header_timeout(long);
    let site = Site::memory(options.with_shutdown_grace(long)).await;
    let _silent = site.connect().await;
    // The one after it is served, so that it has been accepted.
    assert_eq!(shown(&site, &[&identity]).await, identity.der);
    tokio::time::timeout(long / 20, site.stop()).await.expect("nothing was asked on it");
}

#[test]
fn files_that_are_of_no_use_say_which_and_why() {
    let dir = TempDir::new().expect("a directory");
    let path = |name: &str| dir.path().join(name);
    let (one, other) = (Identity::new(), Identity::new());
    for (name, text) in [
        ("cert", one.certificate.as_str()),
        ("key", &one.key),
        ("other-key", &other.key),
        ("empty", ""),
        ("garbage", "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n"),
    ] {
        fs::write(path(name), text).expect("writes");
    }
    for (certificate, key, told) in [
        ("absent", "key", "cannot use the certificate"),
        ("empty", "key", "no certificate in PEM form"),
        ("key", "key", "no certificate in PEM form"),
        ("garbage", "key", "cannot use the certificate"),
        ("cert", "absent", "cannot use the key"),
        ("cert", "empty", "cannot use the key"),
        ("cert", "cert", "cannot use the key"),
        ("cert", "other-key", "cannot use the key"),
    ] {
        let error = Tls::from_files(&path(certificate), &path(key)).expect_err(told);
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        let named = path(if told.contains("key") { key } else { certificate });
        let said = error.report();
        assert!(said.contains(told) && said.contains(&named.display().to_string()), "{said}");
    }
    assert!(Tls::from_files(&path("cert"), &path("key")).is_ok());
}
