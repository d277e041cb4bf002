//! Who a client is, and to whom it is shown: certificates for hosts that ask for one, and nobody else; whom a host's settings trust.

mod hosts;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinHandle,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        RootCertStore, ServerConfig,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
        server::WebPkiClientVerifier,
    },
};
use wharf_content::{ErrorKind, MemoryStore};
use wharf_images::{Image, MemoryImages};
use wharf_remotes::{
    RemoteError,
    registry::{ClientCertificate, RegistrySettings},
    server::Registry,
};

use wharf_tests::{FakeServer, Reply, TestRegistry};

use hosts::{Fixture, Root, pull, settings};

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).expect("valid");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("signs")
}

/// A certificate and its key, both PEM.
fn issue(authority: &Authority, name: &str) -> (String, String) {
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new([name.to_owned()]).expect("valid");
    (params.signed_by(&key, authority).expect("signs").pem(), key.serialize_pem())
}

/// Who may connect.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Clients {
    /// Those with a certificate.
    Known,
    /// Anybody, who is asked for a certificate all the same.
    Any,
}

/// A TLS server with a certificate of the authority, which answers by `answer` or as a registry, and counts the certificates that it saw.
struct TlsServer {
    address: String,
    shown: Arc<Mutex<Vec<bool>>>,
    task: JoinHandle<()>,
}

impl Drop for TlsServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl TlsServer {
    async fn start(
        authority: &Authority,
        clients: Clients,
        fixture: &Fixture,
        blobs_at: Option<String>,
    ) -> Self {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(["127.0.0.1".to_owned()]).expect("valid");
        let certificate = params.signed_by(&key, authority).expect("signs");
        let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(authority.der().clone()).expect("an authority");
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let verifier = if clients == Clients::Any { verifier.allow_unauthenticated() } else { verifier };
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("protocol versions")
            .with_client_cert_verifier(verifier.build().expect("a verifier"))
            .with_single_cert(vec![certificate.der().clone()], key)
            .expect("a certificate and its key");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
        let address = listener.local_addr().expect("bound").to_string();
        let images = Arc::new(MemoryImages::new());
        let name = format!("{address}/a/b:1");
        wharf_images::record::put(images.as_ref(), Image::new(name, fixture.root.clone()))
            .await
            .expect("puts");
        let store: Arc<MemoryStore> = Arc::clone(&fixture.store);
        let registry = Registry::new(store, images);
        let shown = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&shown);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, registry) = (acceptor.clone(), registry.clone());
                let (seen, blobs_at) = (Arc::clone(&seen), blobs_at.clone());
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    let has_one = stream.get_ref().1.peer_certificates().is_some();
                    seen.lock().unwrap_or_else(PoisonError::into_inner).push(has_one);
                    match blobs_at {
                        None => registry.serve_connection(stream).await,
                        Some(there) => redirect(&mut stream, &there).await,
                    }
                });
            }
        });
        Self { address, shown, task }
    }

    fn reference(&self) -> String {
        format!("{}/a/b:1", self.address)
    }

    /// Of each connection, whether the client showed a certificate.
    fn shown(&self) -> Vec<bool> {
        std::mem::take(&mut *self.shown.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Answers one request by leading it elsewhere.
async fn redirect<S: AsyncReadExt + AsyncWriteExt + Unpin>(stream: &mut S, there: &str) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < 65_536 {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let path = head.split(' ').nth(1).unwrap_or_default();
    let answer = format!(
        "HTTP/1.1 307 Status\r\nConnection: close\r\nContent-Length: 0\r\nLocation: https://{there}{path}\r\n\r\n"
    );
    drop(stream.write_all(answer.as_bytes()).await);
    drop(stream.shutdown().await);
}

/// The authority's certificate and a client's, in files.
fn files(authority: &Authority) -> Root {
    let (certificate, key) = issue(authority, "me");
    let (_, other_key) = issue(authority, "other");
    Root::new()
        .with("ca.pem", authority.pem())
        .with("me.pem", &certificate)
        .with("me.key", &key)
        .with("both.pem", format!("{key}{certificate}"))
        .with("other.key", other_key)
}

fn certificate(root: &Root) -> ClientCertificate {
    ClientCertificate::new(root.path("me.pem")).with_key_file(root.path("me.key"))
}

#[tokio::test]
async fn a_registry_that_asks_is_shown_a_certificate() {
    let (authority, fixture) = (authority(), Fixture::new().await);
    let server = TlsServer::start(&authority, Clients::Known, &fixture, None).await;
    let root = files(&authority);
    let trusting = || settings().with_https().with_ca_file(root.path("ca.pem"));
    for certificate in [certificate(&root), ClientCertificate::new(root.path("both.pem"))] {
        pull(trusting().with_client_certificate(certificate), &server.reference()).await.expect("known");
        assert!(server.shown().iter().all(|shown| *shown));
    }
    let error = pull(trusting(), &server.reference()).await.expect_err("unknown");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.report());

    // By the flags of a host's directory, in either layout.
    let keys = "ca = '../../ca.pem'\nclient = [['../../me.pem', '../../me.key']]";
    let by_file = files(&authority).with_hosts(&server.address, keys);
    pull(by_file.settings().with_https(), &server.reference()).await.expect("known");
    let (pem, key) = issue(&authority, "me");
    let name = format!("certs.d/{}", server.address);
    let by_layout = Root::new()
        .with(&format!("{name}/ca.crt"), authority.pem())
        .with(&format!("{name}/me.cert"), pem)
        .with(&format!("{name}/me.key"), key);
    pull(by_layout.settings().with_https(), &server.reference()).await.expect("known");
    let without = Root::new().with(&format!("{name}/ca.crt"), authority.pem());
    pull(without.settings().with_https(), &server.reference()).await.expect_err("unknown");
}

#[tokio::test]
async fn certificates_that_cannot_be_used_are_named() {
    let (authority, fixture) = (authority(), Fixture::new().await);
    let server = TlsServer::start(&authority, Clients::Any, &fixture, None).await;
    let root = files(&authority);
    let at = |name: &str| -> PathBuf { root.path(name) };
    for (certificate, file, why) in [
        (ClientCertificate::new(at("missing.pem")), "missing.pem", ""),
        (ClientCertificate::new(at("me.key")), "me.key", "holds no certificate"),
        (ClientCertificate::new(at("me.pem")), "me.pem", "holds no private key"),
        (ClientCertificate::new(at("me.pem")).with_key_file(at("missing.key")), "missing.key", ""),
        (ClientCertificate::new(at("me.pem")).with_key_file(at("other.key")), "other.key", "does not belong"),
    ] {
        let error = pull(settings().with_client_certificate(certificate), &server.reference()).await;
        let error = error.expect_err(file);
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{}", error.report());
        assert!(error.report().contains(file) && error.report().contains(why), "{}", error.report());
    }
    assert_eq!(server.shown(), <[bool; 0]>::default());
}

#[tokio::test]
async fn a_certificate_is_shown_to_its_host_and_not_where_that_leads() {
    let (authority, fixture) = (authority(), Fixture::new().await);
    let cdn = TlsServer::start(&authority, Clients::Any, &fixture, None).await;
    let server = TlsServer::start(&authority, Clients::Known, &fixture, Some(cdn.address.clone())).await;
    let root = files(&authority);
    let trusting: RegistrySettings = settings().with_https().with_ca_file(root.path("ca.pem"));
    // The server leads all requests to the other one, which has the image under its own name.
    let name = format!("{}/a/b@{}", server.address, fixture.root.digest);
    pull(trusting.clone().with_client_certificate(certificate(&root)), &name).await.expect("pulls");
    assert!(server.shown().iter().all(|shown| *shown));
    let there = cdn.shown();
    assert!(!there.is_empty() && there.iter().all(|shown| !shown), "{there:?}");

    // The twin: it is shown to that one where it is the host.
    pull(trusting.with_client_certificate(certificate(&root)), &cdn.reference()).await.expect("pulls");
    assert!(cdn.shown().iter().all(|shown| *shown));
}

#[tokio::test]
async fn a_mirror_is_not_shown_the_users_certificate() {
    let (authority, fixture) = (authority(), Fixture::new().await);
    let mirror = TlsServer::start(&authority, Clients::Any, &fixture, None).await;
    let server = TlsServer::start(&authority, Clients::Known, &fixture, None).await;
    let text = format!("[host.'https://{}']\ncapabilities = ['pull']\n", mirror.address);
    let root = files(&authority).with_hosts(&server.address, &text);
    let settings = root.settings().with_https().with_ca_file(root.path("ca.pem"));
    pull(settings.with_client_certificate(certificate(&root)), &server.reference()).await.expect("pulls");
    assert!(server.shown().iter().all(|shown| *shown));
    let there = mirror.shown();
    assert!(!there.is_empty() && there.iter().all(|shown| !shown), "{there:?}");
}

#[tokio::test]
async fn trust_is_for_one_host() {
    let (authority, fixture) = (authority(), Fixture::new().await);
    let server = TlsServer::start(&authority, Clients::Any, &fixture, None).await;
    for (keys, is_trusted) in [("ca = '../../ca.pem'", true), ("skip_verify = true", true), ("", false)] {
        let root = files(&authority).with_hosts(&server.address, &format!("{keys}\n[header]\nx = 'y'\n"));
        let pulled = pull(root.settings().with_https(), &server.reference()).await;
        assert_eq!(pulled.is_ok(), is_trusted, "{keys}");
    }
    // What a mirror is trusted with is not for the server.
    let plain = FakeServer::start(|_| Reply::new(404, &[], "")).await;
    let text = format!("[host.'http://{}']\nskip_verify = true\nca = '../../ca.pem'\n", plain.address());
    let root = files(&authority).with_hosts(&server.address, &text);
    let error =
        pull(root.settings().with_https(), &server.reference()).await.expect_err("the server is not trusted");
    assert_eq!(error.kind(), ErrorKind::NotFound, "the mirror's answer says more: {}", error.report());
}

#[tokio::test]
async fn insecure_of_registries_conf_is_without_trust_or_without_tls() {
    let (authority, fixture) = (authority(), Fixture::new().await);
    let secure = TlsServer::start(&authority, Clients::Any, &fixture, None).await;
    // One that says at once that it has no idea of TLS, as servers do.
    let plain = TestRegistry::over(fixture.store.clone(), Arc::new(MemoryImages::new())).await;
    plain.record(Image::new(plain.reference("a/b:1"), fixture.root.clone())).await.expect("puts");
    for address in [secure.address.clone(), plain.address()] {
        let text = format!("[[registry]]\nlocation = '{address}'\ninsecure = true\n");
        let root = Root::new().with_registries_conf(&text);
        pull(root.settings(), &format!("{address}/a/b:1")).await.expect("pulls");
    }
    assert!(!secure.shown().is_empty(), "HTTPS is tried first");
    for address in [secure.address.clone(), plain.address()] {
        let text = format!("[[registry]]\nlocation = '{address}'\n");
        let root = Root::new().with_registries_conf(&text);
        let error = pull(root.settings().with_https(), &format!("{address}/a/b:1")).await;
        let error = error.expect_err("not insecure");
        assert!(RemoteError::of(&error).is_some_and(|error| error.is_tls), "{}", error.report());
    }
}
