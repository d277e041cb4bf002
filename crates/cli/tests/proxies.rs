//! The proxies of the environment, which only a process of its own can be given; and the flags for hosts.

mod support;

use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, copy_bidirectional},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig, crypto,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    },
};
use wharf_content::MemoryStore;
use wharf_images::MemoryImages;
use wharf_remotes::server::Registry;
use wharf_tests::{FakeServer, ImageFixture, Layer, Reply, TestRegistry};

use support::{Done, Wharf};

/// `user:canary`, as it is sent.
const SENT: &str = "Basic dXNlcjpjYW5hcnk=";

/// Runs with these variables, and no others of proxies.
async fn run(wharf: &Wharf, variables: &[(&str, &str)], arguments: &[&str]) -> Done {
    let mut command = wharf.command(arguments);
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "REQUEST_METHOD"] {
        command.env_remove(name).env_remove(name.to_lowercase());
    }
    command.envs(variables.iter().copied());
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic");
    Done(output.expect("the program runs"))
}

fn digest() -> String {
    wharf_content::Digest::sha256(b"manifest").to_string()
}

/// Answers as a registry that has one manifest.
fn manifest() -> Reply {
    let headers = [
        ("Content-Type", "application/vnd.oci.image.manifest.v1+json"),
        ("Docker-Content-Digest", &digest()),
    ];
    Reply::new(200, &headers, "manifest")
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_goes_by_the_proxy_that_is_for_it() {
    let proxy = FakeServer::start(|_| manifest()).await;
    let wharf = Wharf::new();
    let address = format!("http://user:canary@{}", proxy.address());
    for variable in ["HTTP_PROXY", "http_proxy", "ALL_PROXY"] {
        let done =
            run(&wharf, &[(variable, &address)], &["digest", "--plain-http", "registry.test/a/b:1"]).await;
        assert_eq!(done.succeeded(), format!("{}\n", digest()), "{variable}");
    }
    for request in proxy.requests() {
        assert_eq!(request.path, "http://registry.test/v2/a/b/manifests/1");
        assert_eq!(request.header("proxy-authorization"), Some(SENT));
    }
    assert_eq!(proxy.requests().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_for_the_port_that_was_written() {
    // What is behind the proxy can be on the port of its scheme, which no test may listen on.
    let proxy = FakeServer::start(|request| match request.header("authorization") {
        Some(SENT) => manifest(),
        _ => Reply::new(401, &[("WWW-Authenticate", "Basic realm=x")], ""),
    })
    .await;
    let wharf = Wharf::new();
    let address = format!("http://{}", proxy.address());
    for host in ["registry.test:80", "registry.test"] {
        let name = format!("{host}/a/b:1");
        let arguments = ["digest", "--plain-http", "--creds", "user:canary", &name];
        let done = run(&wharf, &[("HTTP_PROXY", &address)], &arguments).await;
        assert_eq!(done.succeeded(), format!("{}\n", digest()), "{host}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn loopback_and_what_is_excepted_go_by_no_proxy() {
    let registry = FakeServer::start(|_| manifest()).await;
    let proxy = FakeServer::start(|_| Reply::new(502, &[], "")).await;
    let wharf = Wharf::new();
    let address = format!("http://{}", proxy.address());
    let own = format!("{}/a/b:1", registry.address());
    let done = run(&wharf, &[("HTTP_PROXY", &address), ("ALL_PROXY", &address)], &["digest", &own]).await;
    assert_eq!(done.succeeded(), format!("{}\n", digest()));

    // The same machine by an address that does not say so.
    let other = own.replace("127.0.0.1", "0.0.0.0");
    let arguments = ["digest", "--plain-http", "--retry-times", "0", &other];
    let done = run(&wharf, &[("HTTP_PROXY", &address), ("NO_PROXY", "0.0.0.0")], &arguments).await;
    assert_eq!(done.succeeded(), format!("{}\n", digest()));
    assert_eq!(proxy.requests().len(), 0);
    run(&wharf, &[("HTTP_PROXY", &address), ("NO_PROXY", "other.test")], &arguments).await.failed(6);
    assert_eq!(proxy.requests().len(), 1);

    // Where a registry behind the proxy leads to this machine, the way there is straight.
    let there = format!("http://{}/v2/a/b/manifests/1", registry.address());
    let leading = FakeServer::start(move |_| Reply::new(307, &[("Location", &there)], "")).await;
    let address = format!("http://{}", leading.address());
    let before = registry.requests().len();
    let private = ["digest", "--plain-http", "--retry-times", "0", "10.0.0.1/a/b:1"];
    let done = run(&wharf, &[("HTTP_PROXY", &address)], &private).await;
    assert_eq!(done.succeeded(), format!("{}\n", digest()));
    assert_eq!((leading.requests().len(), registry.requests().len()), (1, before + 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_of_a_proxy_are_not_shown() {
    let wharf = Wharf::new();
    let refusing = FakeServer::start(|_| Reply::new(407, &[], "")).await;
    // The port is free again.
    let gone = FakeServer::start(|_| Reply::new(404, &[], "")).await.address();
    for address in [refusing.address(), gone] {
        let address = format!("http://user:canary@{address}");
        let variables = [("HTTP_PROXY", &*address), ("HTTPS_PROXY", &address)];
        for scheme in ["--plain-http", "--tls-verify"] {
            let arguments = ["-vv", "digest", scheme, "--retry-times", "0", "registry.test/a/b:1"];
            let done = run(&wharf, &variables, &arguments).await;
            assert_ne!(done.code(), 0);
            let told = done.err();
            assert!(!told.contains("canary") && !told.contains("dXNlcjpjYW5hcnk"), "{told}");
        }
    }
    let connects: Vec<_> =
        refusing.requests().into_iter().filter(|request| request.method == "CONNECT").collect();
    assert_eq!(connects.len(), 1);
    assert_eq!(connects[0].path, "registry.test:443");
    assert_eq!(connects[0].header("proxy-authorization"), Some(SENT));
}

/// A proxy that leads every CONNECT to one server.
async fn tunnel(to: String) -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
    let address = listener.local_addr().expect("bound").to_string();
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let to = to.clone();
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                let mut line = String::new();
                while stream.read_line(&mut line).await.is_ok_and(|len| len > 2) {}
                if !line.starts_with("CONNECT registry.test:443 ") {
                    return;
                }
                let Ok(mut server) = TcpStream::connect(&to).await else { return };
                drop(stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await);
                drop(copy_bidirectional(&mut stream, &mut server).await);
            });
        }
    });
    (address, task)
}

/// wharf's registry behind TLS, as registry.test, and its certificate.
async fn tls_registry() -> (String, String, JoinHandle<()>) {
    let key = KeyPair::generate().expect("a key");
    let certificate = CertificateParams::new(["registry.test".to_owned()]).expect("valid");
    let certificate = certificate.self_signed(&key).expect("signs");
    let config = ServerConfig::builder_with_provider(Arc::new(crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("protocol versions")
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
        )
        .expect("a certificate and its key");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let (store, images) = (Arc::new(MemoryStore::new()), Arc::new(MemoryImages::new()));
    let image = ImageFixture::new().with("linux/amd64", vec![Layer::noise("data", 100_000, 3)]);
    image.record(store.as_ref(), images.as_ref(), "registry.test/a/b:1").await.expect("puts");
    let registry = Registry::new(store, images);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
    let address = listener.local_addr().expect("bound").to_string();
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, registry) = (acceptor.clone(), registry.clone());
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    registry.serve_connection(stream).await;
                }
            });
        }
    });
    (address, certificate.pem(), task)
}

#[tokio::test(flavor = "multi_thread")]
async fn https_goes_through_a_tunnel_to_its_end() {
    let (address, pem, server) = tls_registry().await;
    let (proxy, task) = tunnel(address).await;
    let wharf = Wharf::new();
    std::fs::write(wharf.path("ca.pem"), pem).expect("writes");
    let proxy = format!("http://{proxy}");
    let pull = ["pull", "--all-platforms", "--ca-file", &wharf.path("ca.pem"), "registry.test/a/b:1"];
    run(&wharf, &[("HTTPS_PROXY", &proxy)], &pull).await.succeeded();
    run(&wharf, &[("HTTPS_PROXY", &proxy)], &["digest", "registry.test/a/b:1"]).await.failed(6);
    task.abort();
    server.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_are_configured_by_flag_and_by_variable() {
    let registry = TestRegistry::start().await;
    let image = ImageFixture::new().with("linux/amd64", vec![Layer::of("a", "b")]);
    let name = registry.put("a/b:1", &image).await.expect("puts");
    let wharf = Wharf::new();
    let (certs, other) = (wharf.path("certs.d"), wharf.path("other"));
    let directory = format!("{certs}/away.test");
    std::fs::create_dir_all(&directory).expect("makes");
    std::fs::create_dir(&other).expect("makes");
    let text = format!("server = 'http://{}'\n", registry.address());
    std::fs::write(format!("{directory}/hosts.toml"), text).expect("writes");
    let expected = format!("{}\n", registry.image(&name).await.expect("there").target.digest);
    for (variable, arguments) in [
        ("", vec!["digest", "--hosts-dir", &certs, "away.test/a/b:1"]),
        ("", vec!["digest", "--hosts-dir", &other, "--hosts-dir", &certs, "away.test/a/b:1"]),
        (&*format!("{other}:{certs}"), vec!["digest", "away.test/a/b:1"]),
    ] {
        let done = run(&wharf, &[("WHARF_HOSTS_DIR", variable)], &arguments).await;
        assert_eq!(done.succeeded(), expected, "{variable} {arguments:?}");
    }
    let absent = wharf.path("certz.d");
    for arguments in [
        &["digest", "away.test/a/b:1"][..],
        &["copy", &name, "away.test/c:1"],
        &["login", "-u", "joe:canary", "away.test"],
    ] {
        let flag = [arguments, &["--hosts-dir", &absent]].concat();
        for (variable, arguments) in [("", &*flag), (&*absent, arguments)] {
            let told = run(&wharf, &[("WHARF_HOSTS_DIR", variable)], arguments).await.failed(8);
            assert!(told.contains("there is no directory of hosts") && told.contains("certz.d"), "{told}");
        }
    }
    assert!(!std::fs::exists(wharf.path(".docker/config.json")).expect("looks"), "no password is kept");
    for file in ["away.test/hosts.toml", "away.test/hosts.toml/x"] {
        let file = format!("{certs}/{file}");
        let told = run(&wharf, &[], &["digest", "--hosts-dir", &file, "away.test/a/b:1"]).await.failed(3);
        assert!(told.starts_with("error[invalid argument]: there is no directory of hosts "), "{told}");
    }
    let conf = wharf.path("registries.conf");
    let text = format!("[[registry]]\nprefix = 'away.test'\nlocation = '{}'\n", registry.address());
    std::fs::write(&conf, text).expect("writes");
    let variables = [("CONTAINERS_REGISTRIES_CONF", &*conf)];
    let done = run(&wharf, &variables, &["digest", "away.test/a/b:1"]).await;
    assert_eq!(done.succeeded(), expected);

    std::fs::write(&conf, "[[registry]]\nprefix = 'away.test'\nblocked = true\n").expect("writes");
    let told = run(&wharf, &variables, &["pull", "away.test/a/b:1"]).await.failed(4);
    assert!(told.contains("is blocked") && told.contains(&conf), "{told}");
    std::fs::write(format!("{directory}/hosts.toml"), "capabilities = ['fly']").expect("writes");
    let told = run(&wharf, &[("WHARF_HOSTS_DIR", &certs)], &["pull", "away.test/a/b:1"]).await.failed(3);
    assert!(told.contains("hosts.toml: capabilities: \"fly\" is not a capability"), "{told}");
    run(&wharf, &[], &["pull", "--key-file", "x", "away.test/a/b:1"]).await.failed(3);
    let told = run(&wharf, &[], &["pull", "--tlscert", "/missing.pem", &name]).await.failed(3);
    assert!(told.contains("/missing.pem"), "{told}");
}
