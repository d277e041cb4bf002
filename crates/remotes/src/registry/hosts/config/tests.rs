//! Every key of `hosts.toml`, and what is said of a wrong one.

use super::*;

fn read(text: &str) -> Result<HostsFile, String> {
    let own = Url::parse("https://registry.example/v2/").expect("valid");
    parse(text, Path::new("/certs/registry.example"), "registry.example", &own)
}

fn hosts(text: &str) -> Vec<Host> {
    read(text).unwrap_or_else(|error| panic!("{text}: {error}")).hosts
}

#[test]
fn the_last_host_is_the_server_or_the_references_own() {
    for (text, expected) in [
        ("", "https://registry.example/v2/"),
        ("server = ''", "https://registry.example/v2/"),
        ("server = 'other.example'", "https://other.example/v2/"),
        ("server = 'http://other.example:5000'", "http://other.example:5000/v2/"),
        ("server = 'httpbin.example'", "https://httpbin.example/v2/"),
        ("server = 'https://other.example/'", "https://other.example/v2/"),
        ("server = 'https://other.example/v2'", "https://other.example/v2/"),
        ("server = 'https://other.example/v2/'", "https://other.example/v2/"),
        ("server = 'https://other.example/a//b'", "https://other.example/a/b/v2/"),
        ("server = 'https://other.example/v2/proxy'", "https://other.example/v2/proxy/v2/"),
        (
            "server = 'https://other.example/v2/proxy'\noverride_path = true",
            "https://other.example/v2/proxy/",
        ),
        ("server = 'https://other.example'\noverride_path = true", "https://other.example/"),
        ("server = '[::1]:5000'", "https://[::1]:5000/v2/"),
    ] {
        let hosts = hosts(text);
        assert_eq!(hosts.len(), 1, "{text}");
        assert_eq!(hosts[0].base.as_str(), expected, "{text}");
        assert!(hosts[0].is_own, "{text}");
    }
}

#[test]
fn the_order_of_the_file_is_kept() {
    let names = ["z.example", "a.example", "m.example", "b.example"];
    let mut text = String::from("server = 'last.example'\n");
    for name in names {
        text.push_str(&format!("[host.\"https://{name}\"]\ncapabilities = ['pull']\n"));
    }
    // A table of a table comes after, and moves nothing.
    text.push_str("[host.'https://a.example'.header]\nx-a = 'b'\n");
    let hosts = hosts(&text);
    let found: Vec<_> = hosts.iter().filter_map(|host| host.base.host_str()).collect();
    assert_eq!(found, ["z.example", "a.example", "m.example", "b.example", "last.example"]);
    assert_eq!(hosts[1].headers.len(), 1);
    assert!(
        hosts[..4].iter().all(|host| !host.is_own && host.namespace.as_deref() == Some("registry.example"))
    );
}

#[test]
fn every_key() {
    let text = r"
        capabilities = ['Pull', 'resolve']
        ca = 'own.pem'
        client = '/etc/both.pem'
        skip_verify = true
        dial_timeout = '1m30s'
        idle_timeout = '5s'
        [header]
        x-one = 'a'
        x-two = ['b', 'c']
        [host.'m1']
        ca = ['a.pem', '/b.pem']
        client = ['both.pem', 'other.pem']
        capabilities = []
        [host.'m2']
        client = [['c.pem', 'k.pem'], ['both.pem', '']]
        dial_timeout = '0s'
    ";
    let hosts = hosts(text);
    let at = |name: &str| PathBuf::from("/certs/registry.example").join(name);
    let [first, second, last] = &hosts[..] else { panic!("three hosts") };
    assert_eq!(first.ca_files, [at("a.pem"), "/b.pem".into()]);
    assert_eq!(
        first.client_certificates,
        [ClientCertificate::new(at("both.pem")), ClientCertificate::new(at("other.pem"))]
    );
    assert_eq!(first.capabilities, Capabilities::ALL);
    assert_eq!(
        second.client_certificates,
        [
            ClientCertificate::new(at("c.pem")).with_key_file(at("k.pem")),
            ClientCertificate::new(at("both.pem"))
        ]
    );
    assert_eq!((second.dial_timeout, second.skip_verify), (None, false));
    assert_eq!(last.capabilities, Capabilities::PULL.and(Capabilities::RESOLVE));
    assert_eq!(last.ca_files, [at("own.pem")]);
    assert_eq!(last.client_certificates, [ClientCertificate::new("/etc/both.pem")]);
    assert!(last.skip_verify);
    assert_eq!(last.dial_timeout, Some(Duration::from_secs(90)));
    assert_eq!(last.idle_timeout, Some(Duration::from_secs(5)));
    let headers: Vec<_> =
        last.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().expect("text"))).collect();
    assert_eq!(headers, [("x-one", "a"), ("x-two", "b"), ("x-two", "c")]);
    assert_eq!(last.namespace, None);
    assert!(!format!("{last:?}").contains("\"a\""), "a header may be a secret");
}

#[test]
fn what_is_not_understood_is_told_and_passed_over() {
    let file =
        read("future = 1\n[header]\nHost = 'x'\nx = 'y'\n[host.m]\nmore.inner = true\n").expect("reads");
    assert_eq!(file.ignored, ["host.\"m\".more", "future", "header.Host"]);
    assert_eq!(file.hosts.last().map(|host| host.headers.len()), Some(1));
}

#[test]
fn errors_name_the_key() {
    for (text, expected) in [
        ("server = 1", "server is not a string"),
        ("server = 'ftp://a'", "server: \"ftp\" is not spoken"),
        ("server = 'https://'", "server: not the URL of a host"),
        ("server = 'https://user:secret@a'", "server: credentials in a URL are not used"),
        ("server = 'https://a/?b=c'", "server: the URL of a host has neither"),
        ("host = 1", "host is not a table"),
        ("[host]\na = 1", "host.\"a\" is not a table"),
        ("[host.'']", "host.\"\" names no host"),
        ("[host.'http://a b']", "host.\"http://a b\": not the URL of a host"),
        ("[host.a]\ncapabilities = ['pul']", "host.\"a\".capabilities: \"pul\" is not a capability"),
        ("capabilities = 'pull'", "capabilities is not a list"),
        ("capabilities = [1]", "capabilities is neither a string nor a list of strings"),
        ("ca = 1", "ca is neither a string nor a list of strings"),
        ("ca = ''", "ca has an empty path"),
        ("ca = ['a', 1]", "ca is neither"),
        ("client = 1", "client is neither"),
        ("client = ['']", "client has an empty path"),
        ("client = [['a']]", "client has a list that is no pair"),
        ("client = [['a', 'b', 'c']]", "client has a list that is no pair"),
        ("client = [1]", "client has an entry that is neither"),
        ("skip_verify = 'yes'", "skip_verify is neither true nor false"),
        ("override_path = 1", "override_path is neither true nor false"),
        ("header = 1", "header is not a table"),
        ("[header]\n'a b' = 'c'", "header.a b: \"a b\" is not the name of a header"),
        ("[header]\na = 1", "header.a is neither a string nor a list of strings"),
        ("[header]\na = \"secret\\n\"", "header.a has characters that no header may have"),
        ("dial_timeout = 30", "dial_timeout is not a string"),
        ("dial_timeout = '30'", "dial_timeout: \"30\" is not a duration"),
        ("idle_timeout = '-1s'", "idle_timeout: \"-1s\" is not a duration"),
        ("server = 'a'\nserver = 'b'", "duplicate key"),
        ("server = ", "line 1: "),
        ("\n[header]\nAuthorization = 'secret", "line 3: "),
    ] {
        let error = read(text).map(|file| panic!("{text}: {file:?}")).unwrap_err();
        assert!(error.contains(expected), "{text}: {error}");
        assert!(!error.contains("secret"), "{error}");
    }
}
