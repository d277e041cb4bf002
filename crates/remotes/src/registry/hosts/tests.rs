//! Which hosts a reference has, by all that may be configured.

use std::{fs, path::Path};

use super::*;

/// A directory of hosts and a `registries.conf`.
struct Configured {
    root: tempfile::TempDir,
}

impl Configured {
    fn new() -> Self {
        Self { root: tempfile::tempdir().expect("temporary directory") }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    fn with(self, path: &str, text: &str) -> Self {
        let path = self.path(path);
        fs::create_dir_all(path.parent().expect("has one")).expect("makes");
        fs::write(path, text).expect("writes");
        self
    }

    fn settings(&self) -> RegistrySettings {
        RegistrySettings::new()
            .with_hosts_dirs([self.path("certs.d")])
            .with_registries_conf(RegistriesConf::directories(None, self.root.path()))
    }

    fn stops(&self, name: &str) -> Result<Vec<Stop>> {
        stops(self.settings(), name)
    }

    /// URLs of the repository at all hosts.
    fn urls(&self, name: &str) -> Vec<String> {
        let stops = self.stops(name).expect(name);
        stops.iter().map(|(host, path)| format!("{}{path}", host.base)).collect()
    }
}

fn stops(settings: RegistrySettings, name: &str) -> Result<Vec<Stop>> {
    Hosts::new(settings).stops(&Reference::parse(name).expect(name), false)
}

const MIRRORED: &str =
    "[[registry]]\nlocation = 'a.example'\n[[registry.mirror]]\nlocation = 'm.example/a'\n";

#[test]
fn on_loopback_https_comes_first_where_something_is_said_of_tls() {
    let none = || Configured::new().settings();
    let certificate = || ClientCertificate::new("client.pem");
    let both = &[("https", Some("http"))][..];
    for (what, settings, name, expected) in [
        ("nothing said", none(), "localhost:5000/b", &[("http", None)][..]),
        ("any certificate", none().with_skip_verify(), "localhost:5000/b", both),
        ("an authority", none().with_ca_file("ca.pem"), "127.0.0.1:5000/b", both),
        ("a certificate", none().with_client_certificate(certificate()), "[::1]:5000/b", both),
        ("elsewhere", none().with_skip_verify(), "a.example:5000/b", &[("https", None)]),
        ("the port of HTTPS", none().with_skip_verify(), "localhost/b", &[("https", None)]),
        ("plain HTTP", none().with_skip_verify().with_plain_http(), "localhost:5000/b", &[("http", None)]),
        ("HTTPS", none().with_skip_verify().with_https(), "localhost:5000/b", &[("https", None)]),
    ] {
        let found = stops(settings, name).expect(what);
        let schemes =
            found.iter().map(|(host, _)| (host.base.scheme(), host.plain.as_ref().map(Url::scheme)));
        assert_eq!(schemes.collect::<Vec<_>>(), expected, "{what}");
    }
    let layout = Configured::new().with("certs.d/localhost:5000/ca.crt", "");
    let found = layout.stops("localhost:5000/b").expect("reads");
    assert_eq!((found[0].0.base.scheme(), found[0].0.plain.is_some()), ("https", true), "docker's layout");
    for (server, falls_back) in [("", true), ("server = 'https://localhost:5000'", false)] {
        let file = Configured::new().with("certs.d/localhost:5000/hosts.toml", &format!("{server}\n#\n"));
        let found = stops(file.settings().with_skip_verify(), "localhost:5000/b").expect("reads");
        assert_eq!((found[0].0.base.scheme(), found[0].0.plain.is_some()), ("https", falls_back), "{server}");
    }
}

#[test]
fn without_configuration_a_host_stands_for_itself() {
    let none = Configured::new();
    for (name, expected) in [
        ("busybox", "https://registry-1.docker.io/v2/library/busybox"),
        ("a.example/b", "https://a.example/v2/b"),
        ("localhost:5000/b", "http://localhost:5000/v2/b"),
    ] {
        assert_eq!(none.urls(name), [expected]);
        let (host, _) = &none.stops(name).expect(name)[0];
        assert!(host.is_own && host.namespace.is_none() && host.capabilities == Capabilities::ALL);
    }
}

#[test]
fn a_hosts_file_goes_before_registries_conf_but_for_what_is_blocked() {
    let configured = Configured::new()
        .with("registries.conf", MIRRORED)
        .with("certs.d/a.example/hosts.toml", "[host.'https://h.example']\ncapabilities = ['pull']");
    assert_eq!(configured.urls("a.example/b"), ["https://h.example/v2/b", "https://a.example/v2/b"]);
    let configured =
        configured.with("registries.conf", &format!("{MIRRORED}\n[[registry]]\nlocation='b.example'"));
    let configured = configured
        .with("registries.conf.d/1.conf", "[[registry]]\nprefix = 'a.example/secret'\nblocked = true");
    let error = configured.stops("a.example/secret/b:1").expect_err("blocked");
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert!(error.to_string().contains("registries.conf.d/1.conf"), "{error}");
    configured.stops("a.example/secrets").expect("another repository");
}

#[test]
fn registries_conf_renames_for_what_is_read_only() {
    let configured = Configured::new().with("registries.conf", MIRRORED);
    assert_eq!(configured.urls("a.example/b"), ["https://m.example/v2/a/b", "https://a.example/v2/b"]);
    assert_eq!(configured.urls("other.example/b"), ["https://other.example/v2/b"]);
    let stops = configured.stops("a.example/b").expect("reads");
    assert!(stops.iter().all(|(host, _)| host.namespace.is_none()), "the path says which repository it is");
    assert_eq!(stops.iter().map(|(host, _)| host.is_own).collect::<Vec<_>>(), [false, true]);

    let moved = Configured::new().with(
        "registries.conf",
        "[[registry]]\nprefix = 'a.example'\nlocation = 'moved.example/a'\ninsecure = true",
    );
    assert_eq!(moved.urls("a.example/b"), ["https://moved.example/v2/a/b"]);
    let hosts = Hosts::new(moved.settings());
    let pushed = hosts.stops(&Reference::parse("a.example/b").expect("valid"), true).expect("reads");
    assert_eq!(pushed.len(), 1);
    let (host, path) = &pushed[0];
    assert_eq!((host.base.as_str(), &**path), ("https://a.example/v2/", "b"));
    assert!(host.skip_verify && host.plain.as_ref().is_some_and(|plain| plain.scheme() == "http"));
}

#[test]
fn insecure_is_decided_by_the_user_first() {
    let configured =
        Configured::new().with("registries.conf", "[[registry]]\nlocation='a.example'\ninsecure=true");
    for (settings, expected) in [
        (configured.settings(), ("https://a.example/v2/", Some("http://a.example/v2/"))),
        (configured.settings().with_https(), ("https://a.example/v2/", None)),
        (configured.settings().with_plain_http(), ("http://a.example/v2/", None)),
    ] {
        let stops = stops(settings, "a.example/b").expect("reads");
        assert_eq!((stops[0].0.base.as_str(), stops[0].0.plain.as_ref().map(Url::as_str)), expected);
    }
}

#[test]
fn certificates_in_dockers_layout_belong_to_the_host_that_is_contacted() {
    let configured = Configured::new()
        .with("registries.conf", MIRRORED)
        .with("certs.d/a.example/ca.crt", "")
        .with("certs.d/m.example/me.cert", "")
        .with("certs.d/m.example/me.key", "");
    let stops = configured.stops("a.example/b").expect("reads");
    let (mirror, own) = (&stops[0].0, &stops[1].0);
    assert_eq!(own.ca_files, [configured.path("certs.d/a.example/ca.crt")]);
    assert!(own.client_certificates.is_empty() && mirror.ca_files.is_empty());
    let certificate = ClientCertificate::new(configured.path("certs.d/m.example/me.cert"));
    let certificate = certificate.with_key_file(configured.path("certs.d/m.example/me.key"));
    assert_eq!(mirror.client_certificates, [certificate]);
}

#[test]
fn the_users_certificate_is_for_own_hosts() {
    let mine = ClientCertificate::new("/me.pem");
    let by_file = Configured::new().with("certs.d/a.example/hosts.toml", "[host.m]\n");
    let by_conf = Configured::new().with("registries.conf", MIRRORED);
    for configured in [by_file, by_conf] {
        let settings = configured.settings().with_client_certificate(mine.clone());
        let stops = stops(settings, "a.example/b").expect("reads");
        let shown: Vec<_> = stops.iter().map(|(host, _)| host.client_certificates.contains(&mine)).collect();
        assert_eq!(shown, [false, true]);
    }
}

#[test]
fn only_hosts_that_stand_for_others_are_told_for_which() {
    for (domain, base, expected) in [
        ("docker.io", "https://registry-1.docker.io/v2/", None),
        ("docker.io", "https://docker.io/v2/", None),
        ("docker.io", "https://m.example/v2/", Some("docker.io")),
        ("a.example", "https://a.example/proxy/v2/", None),
        ("a.example", "https://a.example:443/v2/", None),
        ("a.example:443", "https://a.example/v2/", None),
        ("a.example", "https://a.example:5000/v2/", Some("a.example")),
        ("a.example:5000", "https://a.example/v2/", Some("a.example:5000")),
        ("a.example", "https://b.example/v2/", Some("a.example")),
        ("registry-1.docker.io", "https://docker.io/v2/", Some("registry-1.docker.io")),
    ] {
        let base = Url::parse(base).expect("valid");
        assert_eq!(own_namespace(domain, &base).as_deref(), expected, "{domain} {base}");
    }
}

#[test]
fn capabilities_choose_hosts() {
    let configured = Configured::new().with(
        "certs.d/a.example/hosts.toml",
        "capabilities = ['pull', 'push']\n[host.one]\ncapabilities = ['pull']\n[host.two]\ncapabilities = ['pull', 'resolve', 'push']",
    );
    let hosts = Hosts::new(configured.settings());
    let reference = Reference::parse("a.example/b").expect("valid");
    let count = |wanted| hosts.sites(&reference, wanted).map(|sites| sites.len());
    assert_eq!(count(Capabilities::PULL).expect("three"), 3);
    assert_eq!(count(Capabilities::RESOLVE).expect("one"), 1);
    assert_eq!(count(Capabilities::PUSH).expect("the first"), 1);
    let error = count(Capabilities::REFERRERS).expect_err("none");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("lists referrers"), "{error}");
}

#[test]
fn errors_name_the_file() {
    let configured = Configured::new()
        .with("certs.d/a.example/hosts.toml", "capabilities = ['fly']")
        .with("certs.d/b.example/hosts.toml", "ca = 'missing.pem'")
        .with("certs.d/c.example/hosts.toml", "client = 'missing.pem'");
    let hosts = Hosts::new(configured.settings());
    for (name, file) in [
        ("a.example/x", "certs.d/a.example/hosts.toml"),
        ("b.example/x", "certs.d/b.example/missing.pem"),
        ("c.example/x", "certs.d/c.example/missing.pem"),
    ] {
        let error = hosts.sites(&Reference::parse(name).expect(name), Capabilities::PULL).expect_err(name);
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
        let path = configured.path(file);
        assert!(error.report().contains(&Path::display(&path).to_string()), "{}", error.report());
    }
    let broken = Configured::new().with("registries.conf", "[registries.search]\nregistries = []");
    assert!(broken.stops("a.example/x").expect_err("version 1").to_string().contains("version 1"));
}

#[test]
fn a_closed_directory_is_told_of_once() {
    use std::os::unix::fs::PermissionsExt;

    #[derive(Debug, Default)]
    struct Told(Mutex<Vec<String>>);
    impl wharf_images::progress::Sink for Told {
        fn event(&self, event: &Event<'_>) {
            if let Event::Warning { text } = event {
                self.0.lock().expect("no panic").push((*text).to_owned());
            }
        }
    }

    let configured = Configured::new().with("certs.d/a.example/hosts.toml", "server = 'https://b.example'");
    let closed = configured.path("certs.d");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o0)).expect("changes");
    // Nothing is closed to root.
    let is_closed = fs::metadata(closed.join("a.example")).is_err();
    let told = Arc::new(Told::default());
    let settings = configured.settings().with_sink(Arc::clone(&told) as _);
    for _ in 0..2 {
        stops(settings.clone(), "a.example:5000/b").expect("the host itself");
    }
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).expect("changes");
    let told = told.0.lock().expect("no panic");
    assert_eq!(told.len(), usize::from(is_closed), "{told:?}");
    assert!(told.iter().all(|text| text.contains("certs.d has for hosts is passed over")), "{told:?}");
}
