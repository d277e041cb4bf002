//! HTTPS: who is trusted, and what is said when somebody is not.

use std::{path::PathBuf, sync::Arc, time::Duration};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
        server::ResolvesServerCert,
        sign::{CertifiedKey, SingleCertAndKey},
    },
};
use wharf_content::{Error, MemoryStore, Result, Store};
use wharf_images::{Image, ImageStore, MemoryImages, Selection};
use wharf_remotes::{
    PullOptions, RemoteError, pull,
    registry::{RegistryResolver, RegistrySettings},
};
use wharf_tests::{
    Demand, Fault, FaultProxy, Guard, ImageFixture, Layer, TestRegistry, TokenOptions, TokenServer,
    fault_proxy, token_server::Scope,
};

/// TLS in front of a server in plain HTTP, with a certificate of an authority of its own.
struct TlsFront {
    address: String,
    ca_file: PathBuf,
    _dir: tempfile::TempDir,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl TlsFront {
    async fn start(upstream: &str) -> Self {
        let mut authority = CertificateParams::new(Vec::new()).expect("valid");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority =
            CertifiedIssuer::self_signed(authority, KeyPair::generate().expect("a key")).expect("signs");
        let key = KeyPair::generate().expect("a key");
        let certificate = CertificateParams::new(["127.0.0.1".to_owned()])
            .expect("valid")
            .signed_by(&key, &authority)
            .expect("signs");
        Self::showing(upstream, certificate.der(), &key, &authority.pem()).await
    }

    /// Shows a certificate, and answers by a key, whether it is that of the certificate or not.
    async fn showing(upstream: &str, certificate: &CertificateDer<'static>, key: &KeyPair, ca: &str) -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let ca_file = dir.path().join("ca.pem");
        std::fs::write(&ca_file, ca).expect("writes");

        let provider = Arc::new(aws_lc_rs::default_provider());
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let key = provider.key_provider.load_private_key(key).expect("a key");
        let shown = SingleCertAndKey::from(CertifiedKey::new(vec![certificate.clone()], key));
        let shown: Arc<dyn ResolvesServerCert> = Arc::new(shown);
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("protocol versions")
            .with_no_client_auth()
            .with_cert_resolver(shown);
        let acceptor = TlsAcceptor::from(Arc::new(config));

        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
        let address = listener.local_addr().expect("bound").to_string();
        let upstream = upstream.to_owned();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, upstream) = (acceptor.clone(), upstream.clone());
                tokio::spawn(async move {
                    let mut client = acceptor.accept(stream).await?;
                    let mut server = TcpStream::connect(upstream).await?;
                    copy_bidirectional(&mut client, &mut server).await
                });
            }
        });
        Self { address, ca_file, _dir: dir, task }
    }
}

/// wharf's registry behind TLS, with an image.
struct TlsRegistry {
    front: TlsFront,
    name: String,
    _registry: TestRegistry,
}

impl TlsRegistry {
    async fn start() -> Self {
        let registry = TestRegistry::start().await;
        let image = ImageFixture::new().with("linux/amd64", vec![Layer::noise("data", 100_000, 3)]);
        registry.put("a/b:1", &image).await.expect("puts");
        let front = TlsFront::start(&registry.address()).await;
        let name = format!("{}/a/b:1", front.address);
        Self { front, name, _registry: registry }
    }

    async fn pull(&self, settings: RegistrySettings) -> Result<Image> {
        pull_by_https(settings, &self.name).await
    }
}

async fn pull_by_https(settings: RegistrySettings, name: &str) -> Result<Image> {
    // Loopback would be spoken to in plain HTTP.
    pull_with(settings.with_https(), name).await
}

async fn pull_with(settings: RegistrySettings, name: &str) -> Result<Image> {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let images: &dyn ImageStore = &MemoryImages::new();
    let resolver = RegistryResolver::new(settings.with_retries(2, Duration::from_millis(1)));
    let options = PullOptions::new().with_selection(Selection::all());
    pull(store, images, &resolver, name, options).await
}

fn is_tls(error: &Error) -> bool {
    RemoteError::of(error).is_some_and(|error| error.is_tls)
}

#[tokio::test]
async fn a_certificate_is_trusted_by_its_authority_or_not_at_all() {
    let registry = TlsRegistry::start().await;
    registry.pull(RegistrySettings::new().with_ca_file(&registry.front.ca_file)).await.expect("trusted");
    registry.pull(RegistrySettings::new().with_skip_verify()).await.expect("not looked at");
    let error = registry.pull(RegistrySettings::new()).await.expect_err("unknown authority");
    assert!(is_tls(&error), "{}", error.report());
    assert_eq!(RemoteError::of(&error).map(|error| error.attempts), Some(1), "another try would not help");

    let other = TlsRegistry::start().await;
    let error = registry
        .pull(RegistrySettings::new().with_ca_file(&other.front.ca_file))
        .await
        .expect_err("another's");
    assert!(is_tls(&error), "{}", error.report());
}

/// A certificate that signs itself and says that it is an authority's, as `openssl req -x509` makes them; all of one subject.
fn self_signed(names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> (Certificate, KeyPair) {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(names).expect("valid");
    params.distinguished_name.push(DnType::CommonName, "localhost");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    change(&mut params);
    let key = KeyPair::generate().expect("a key");
    (params.self_signed(&key).expect("signs"), key)
}

#[tokio::test]
async fn a_certificate_that_signs_itself_is_trusted_where_it_is_named() {
    let registry = TestRegistry::start().await;
    let image = ImageFixture::new().with("linux/amd64", vec![Layer::noise("data", 1000, 5)]);
    registry.put("a/b:1", &image).await.expect("puts");
    let upstream = registry.address();
    let pull_from = async |front: &TlsFront, settings: RegistrySettings| {
        pull_by_https(settings, &format!("{}/a/b:1", front.address)).await
    };
    let (own, other_name) = (["localhost", "127.0.0.1"], ["localhost", "10.0.0.1"]);
    let (named, key) = self_signed(&own, |_| {});
    let front = TlsFront::showing(&upstream, named.der(), &key, &named.pem()).await;
    let trusting = RegistrySettings::new().with_ca_file(&front.ca_file);
    pull_from(&front, trusting.clone()).await.expect("it is the very certificate");
    let error = pull_from(&front, RegistrySettings::new()).await.expect_err("nobody named it");
    assert!(is_tls(&error), "{}", error.report());

    // One that says nothing of authorities, too, and one that an authority has signed of which nothing is known.
    let (plain, plain_key) = self_signed(&own, |params| params.is_ca = IsCa::NoCa);
    let authority = CertificateParams::new(Vec::new()).expect("valid");
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().expect("a key"));
    let leaf_key = KeyPair::generate().expect("a key");
    let leaf = CertificateParams::new([own[1].to_owned()]).expect("valid");
    let leaf = leaf.signed_by(&leaf_key, &authority.expect("signs")).expect("signs");
    for (certificate, key) in [(plain, plain_key), (leaf, leaf_key)] {
        let front = TlsFront::showing(&upstream, certificate.der(), &key, &certificate.pem()).await;
        pull_from(&front, RegistrySettings::new().with_ca_file(&front.ca_file)).await.expect("trusted");
    }

    let (elsewhere, elsewhere_key) = self_signed(&other_name, |_| {});
    let (expired, expired_key) = self_signed(&own, |params| params.not_after = date_time_ymd(2020, 1, 1));
    let (early, early_key) = self_signed(&own, |params| params.not_before = date_time_ymd(3000, 1, 1));
    let (twin, twin_key) = self_signed(&own, |_| {});
    for (certificate, key, ca, why) in [
        (&elsewhere, &elsewhere_key, &elsewhere, "not valid for name"),
        (&expired, &expired_key, &expired, "expired"),
        (&early, &early_key, &early, "not valid yet"),
        // The same names, another key.
        (&twin, &twin_key, &named, "invalid peer certificate"),
        // A server that shows what is no secret, and has not the key.
        (&named, &twin_key, &named, "BadSignature"),
    ] {
        let front = TlsFront::showing(&upstream, certificate.der(), key, &ca.pem()).await;
        let error = pull_from(&front, RegistrySettings::new().with_ca_file(&front.ca_file)).await;
        let error = error.expect_err(why);
        assert!(is_tls(&error) && error.report().contains(why), "{why}: {}", error.report());
    }
}

#[tokio::test]
async fn what_is_said_of_tls_means_https_on_loopback_where_it_is_spoken() {
    let registry = TlsRegistry::start().await;
    let (ca_file, other) = (&registry.front.ca_file, TlsRegistry::start().await);
    pull_with(RegistrySettings::new().with_ca_file(ca_file), &registry.name).await.expect("trusted");
    pull_with(RegistrySettings::new().with_skip_verify(), &registry.name).await.expect("not looked at");
    // Who cannot be trusted is not asked in plain HTTP instead.
    let error = pull_with(RegistrySettings::new().with_ca_file(&other.front.ca_file), &registry.name).await;
    let error = error.expect_err("another's authority");
    assert!(is_tls(&error), "{}", error.report());

    let plain = TestRegistry::start().await;
    let image = ImageFixture::new().with("linux/amd64", vec![Layer::noise("data", 1000, 4)]);
    let name = plain.put("a/b:1", &image).await.expect("puts");
    for settings in
        [RegistrySettings::new().with_ca_file(ca_file), RegistrySettings::new().with_skip_verify()]
    {
        pull_with(settings, &name).await.expect("plain HTTP, as without them");
    }
    let error = pull_with(RegistrySettings::new().with_skip_verify().with_https(), &name).await;
    let error = error.expect_err("HTTPS was demanded");
    assert!(RemoteError::of(&error).is_some_and(RemoteError::speaks_no_tls), "{}", error.report());
}

/// A way to a server of which the first connections end as soon as they are made.
async fn reluctant(upstream: String, mut refused: usize) -> (String, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
    let address = listener.local_addr().expect("bound").to_string();
    let task = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            if refused > 0 {
                refused -= 1;
                continue;
            }
            let upstream = upstream.clone();
            tokio::spawn(async move {
                let mut there = TcpStream::connect(upstream).await.expect("connects");
                // Ends with either side.
                drop(tokio::io::copy_bidirectional(&mut stream, &mut there).await);
            });
        }
    });
    (address, task)
}

#[tokio::test]
async fn finding_out_the_scheme_is_tried_again_where_nobody_answers() {
    let registry = TlsRegistry::start().await;
    let name = |address: &str| registry.name.replace(&registry.front.address, address);
    let resolve = async |refused, retries| {
        let (address, task) = reluctant(registry.front.address.clone(), refused).await;
        let settings =
            RegistrySettings::new().with_skip_verify().with_retries(retries, Duration::from_millis(1));
        let resolver = RegistryResolver::new(settings);
        let resolved = wharf_images::transport::Resolver::resolve(&resolver, &name(&address)).await;
        task.abort();
        resolved
    };
    // Each try is one in both schemes.
    resolve(12, 6).await.expect("the seventh try");
    let error = resolve(usize::MAX, 1).await.expect_err("there were enough");
    let failed = RemoteError::of(&error).expect("of the registry");
    assert_eq!(
        (error.kind(), failed.attempts),
        (wharf_content::ErrorKind::Unavailable, 2),
        "{}",
        error.report()
    );
}

#[tokio::test]
async fn a_ca_file_that_is_none_is_named() {
    let registry = TlsRegistry::start().await;
    let missing = registry.front.ca_file.with_file_name("missing.pem");
    let empty = registry.front.ca_file.with_file_name("empty.pem");
    std::fs::write(&empty, "no certificate").expect("writes");
    for path in [missing, empty] {
        let error = registry.pull(RegistrySettings::new().with_ca_file(&path)).await.expect_err("unusable");
        assert!(error.report().contains(&path.display().to_string()), "{}", error.report());
    }
}

#[tokio::test]
async fn the_wrong_scheme_is_told_either_way() {
    let plain = TestRegistry::start().await;
    let resolver =
        RegistryResolver::new(RegistrySettings::new().with_retries(0, Duration::ZERO).with_https());
    let name = format!("{}/a:1", plain.address());
    let resolved = wharf_images::transport::Resolver::resolve(&resolver, &name).await;
    assert!(is_tls(&resolved.expect_err("no TLS there")));
    assert!(plain.take_log().is_empty(), "it is not asked in plain HTTP instead");

    let registry = TlsRegistry::start().await;
    let resolver =
        RegistryResolver::new(RegistrySettings::new().with_retries(0, Duration::ZERO).with_plain_http());
    let resolved = wharf_images::transport::Resolver::resolve(&resolver, &registry.name).await;
    assert!(RemoteError::of(&resolved.expect_err("no plain HTTP there")).is_some());
}

#[tokio::test]
async fn a_token_goes_by_https_and_not_to_where_that_leads() {
    let registry = TestRegistry::start().await;
    let image = ImageFixture::new().with("linux/amd64", vec![Layer::noise("data", 100_000, 3)]);
    registry.put("a/b:1", &image).await.expect("puts");
    let allowed = [Scope::repository("a/*", &["pull"])];
    let tokens = TokenServer::start(TokenOptions::new().with_anonymous(&allowed)).await;
    // From HTTPS to plain HTTP on the same host, which is let pass on loopback alone, and to HTTPS on another port.
    let cdn = FaultProxy::start(&registry.address(), |_| None).await;
    let tls_cdn = TlsFront::start(&cdn.address()).await;
    for elsewhere in [format!("http://{}", cdn.address()), format!("https://{}", tls_cdn.address)] {
        let plan = move |asked: &fault_proxy::Asked| -> Option<Fault> {
            let is_blob = asked.request.path.contains("/blobs/");
            is_blob.then(|| fault_proxy::redirect(&format!("{elsewhere}{}", asked.request.path)))
        };
        let guard = Guard::start_with(&registry.address(), Demand::bearer(&tokens), plan).await;
        let front = TlsFront::start(&guard.address()).await;
        let mut settings = RegistrySettings::new().with_ca_file(&front.ca_file);
        settings = settings.with_ca_file(&tls_cdn.ca_file);
        pull_by_https(settings, &format!("{}/a/b:1", front.address)).await.expect("pulls");
        assert!(guard.admitted().iter().all(|passed| passed.request.header("authorization").is_some()));
    }
    let led = cdn.passed();
    assert_eq!(led.len(), 4);
    assert!(led.iter().all(|passed| passed.request.header("authorization").is_none()), "{led:?}");
}
