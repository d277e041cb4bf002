//! `wharf login`, `wharf logout` and the flags for credentials as a user types them.

mod support;

use std::{
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    process::{Command, Stdio},
};

use serde_json::{Value, json};
use wharf_content::Digest;
use wharf_tests::{FakeServer, Reply, Request};

use support::{Done, Wharf};

/// Of `user:canary-9f`.
const RIGHT: &str = "Basic dXNlcjpjYW5hcnktOWY=";
const CANARY: &str = "canary-9f";
const MANIFEST: &[u8] = br#"{"schemaVersion":2,"config":{},"layers":[]}"#;

/// A registry that lets one user in.
async fn registry() -> FakeServer {
    FakeServer::start(|request: &Request| {
        if request.header("authorization") != Some(RIGHT) {
            return Reply::new(401, &[("WWW-Authenticate", "Basic realm=\"x\"")], "");
        }
        if request.path == "/v2/" {
            return Reply::new(200, &[], "{}");
        }
        let (digest, len) = (Digest::sha256(MANIFEST).to_string(), MANIFEST.len().to_string());
        let headers = [
            ("Content-Type", "application/vnd.oci.image.manifest.v1+json"),
            ("Docker-Content-Digest", &*digest),
            ("Content-Length", &*len),
        ];
        Reply::new(200, &headers, "")
    })
    .await
}

async fn fed(mut command: Command, input: &'static str) -> Done {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let work = tokio::task::spawn_blocking(move || {
        let mut child = command.spawn().expect("the program runs");
        // A program that does not read closes it.
        drop(child.stdin.take().expect("piped").write_all(input.as_bytes()));
        child.wait_with_output().expect("it ends")
    });
    Done(work.await.expect("no panic"))
}

fn config(wharf: &Wharf) -> Value {
    let path = wharf.path(".docker/config.json");
    let mode = fs::metadata(&path).expect("is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    serde_json::from_slice(&fs::read(path).expect("reads")).expect("JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_logged_in_gets_in_until_logged_out() {
    let (registry, wharf) = (registry().await, Wharf::new());
    let (host, name) = (registry.address(), format!("{}/a/b:1", registry.address()));
    let error = wharf.run(&["digest", &name]).await.failed(4);
    assert!(error.contains(&format!("`wharf login {host}`")), "{error}");

    let wrong = fed(wharf.command(&["login", "-u", "user", "--password-stdin", &host]), "wrong\n").await;
    let error = wrong.failed(4);
    assert!(error.contains("cannot log in to") && error.contains("does not know this user"), "{error}");
    assert!(!fs::exists(wharf.path(".docker/config.json")).expect("looks"), "nothing is kept");

    let login = wharf.command(&["login", "-u", "user", "--password-stdin", &format!("http://{host}/")]);
    let done = fed(login, "canary-9f\n").await;
    assert!(done.err().contains(".docker/config.json"), "{}", done.err());
    assert_eq!(done.succeeded(), "");
    assert_eq!(config(&wharf), json!({ "auths": { &*host: { "auth": "dXNlcjpjYW5hcnktOWY=" } } }));
    let digest = format!("{}\n", Digest::sha256(MANIFEST));
    assert_eq!(wharf.run(&["digest", &name]).await.succeeded(), digest);

    assert_eq!(wharf.run(&["logout", &host]).await.succeeded(), format!("{host}\n"));
    assert_eq!(config(&wharf), json!({ "auths": {} }));
    assert!(wharf.run(&["logout", &host]).await.failed(2).contains("there are no credentials for"));
    wharf.run(&["digest", &name]).await.failed(4);

    for password in [&["-p", CANARY][..], &["--user", "user:canary-9f"]] {
        let user: &[&str] = if password[0] == "-p" { &["-u", "user"] } else { &[] };
        let arguments = [&["login"], user, password, &[&*host]].concat();
        wharf.run(&arguments).await.succeeded();
        let list = wharf.run(&["logout", "--format", "json", &host]).await.succeeded();
        assert_eq!(serde_json::from_str::<Value>(&list).expect("JSON"), json!([host]));
        wharf.run(&arguments).await.succeeded();
    }
    assert_eq!(wharf.run(&["logout", "--all"]).await.succeeded(), format!("{host}\n"));
    assert_eq!(wharf.run(&["logout", "--all"]).await.succeeded(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_host_of_a_registry_is_not_logged_in_to() {
    let wharf = Wharf::new();
    let error = wharf.run(&["login", "-u", "user:canary-9f", "ghcr"]).await.failed(3);
    assert!(error.contains("docker.io/ghcr/any") && !error.contains(CANARY), "{error}");
    assert!(!fs::exists(wharf.path(".docker/config.json")).expect("looks"), "nothing is kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_from_standard_input_is_for_both_sides_of_a_copy() {
    let (registry, wharf) = (registry().await, Wharf::new());
    let names = ["a:1", "b:1"].map(|name| format!("{}/{name}", registry.address()));
    let copy = ["copy", "--creds", "user", "--password-stdin", &names[0], &names[1]];
    // The registry has no more than the head of a manifest: whoever gets that far was let in on both sides.
    let error = fed(wharf.command(&copy), "canary-9f\n").await.err();
    assert!(!error.contains("standard input") && !error.contains("unauthenticated"), "{error}");
    assert!(
        registry
            .requests()
            .iter()
            .any(|request| request.path.contains("/b/") && request.header("authorization") == Some(RIGHT)),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_from_standard_input_is_for_one_side_of_a_copy() {
    let (registry, wharf) = (registry().await, Wharf::new());
    let (name, other) = (format!("{}/a/b:1", registry.address()), format!("{}/c/d:1", registry.address()));
    let layout = format!("oci:{}:1", wharf.path("layout"));
    let shows_it = |path: &str| {
        let seen = registry.requests();
        seen.iter()
            .any(|request| request.path.contains(path) && request.header("authorization") == Some(RIGHT))
    };
    let one = ["copy", "--src-creds", "user", "--password-stdin", &name, &layout];
    fed(wharf.command(&one), "canary-9f\n").await;
    assert!(shows_it("/a/b/"), "the source is asked with the password");
    let two =
        ["copy", "--src-creds", "user:canary-9f", "--dest-creds", "user", "--password-stdin", &name, &other];
    fed(wharf.command(&two), "canary-9f\n").await;
    assert!(shows_it("/c/d/"), "the destination is asked with the password");
    for (arguments, said) in [
        (&["copy", "--password-stdin", &name, &layout][..], "--dest-creds"),
        (&["copy", "--src-creds", "user", &name, &layout], "--src-creds has no password"),
        (&["copy", "--dest-creds", "user", &layout, &name], "--dest-creds has no password"),
        (
            &["copy", "--dest-creds", "user:canary-9f", "--password-stdin", &layout, &name],
            "the password is given by --dest-creds and by --password-stdin",
        ),
    ] {
        let error = fed(wharf.command(arguments), "").await.failed(3);
        assert!(error.contains(said), "{arguments:?}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn flags_are_for_the_registry_that_is_named() {
    let (registry, wharf) = (registry().await, Wharf::new());
    let name = format!("{}/a/b:1", registry.address());
    let digest = format!("{}\n", Digest::sha256(MANIFEST));
    for creds in ["-u", "--creds", "--user"] {
        assert_eq!(wharf.run(&["digest", creds, "user:canary-9f", &name]).await.succeeded(), digest);
    }
    let typed = wharf.command(&["digest", "--creds", "user", "--password-stdin", &name]);
    assert_eq!(fed(typed, "canary-9f\r\n").await.succeeded(), digest);
    let nothing = fed(wharf.command(&["digest", "--creds", "user", "--password-stdin", &name]), "\n").await;
    assert!(nothing.failed(3).contains("standard input must have the password"));

    let file = wharf.path("auth.json");
    let entry = json!({ "auths": { registry.address(): { "username": "user", "password": CANARY } } });
    fs::write(&file, entry.to_string()).expect("writes");
    assert_eq!(wharf.run(&["digest", "--authfile", &file, &name]).await.succeeded(), digest);
    // What is given goes before the file.
    wharf.run(&["digest", "--authfile", &file, "-u", "user:wrong", &name]).await.failed(4);
    let mut command = wharf.command(&["digest", &name]);
    command.env("REGISTRY_AUTH_FILE", &file);
    assert_eq!(fed(command, "").await.succeeded(), digest);

    let (both, missing) = (["digest", "-u", "user:x", "--password-stdin", &name], wharf.path("none.json"));
    for (arguments, code, said) in [
        (&["digest", "-u", "user", &name][..], 3, "--creds has no password"),
        (&["digest", "--password-stdin", &name], 3, "--creds"),
        (&["digest", "-u", ":x", &name], 3, "USER:PASS"),
        (&both, 3, "leave one of them out"),
        (&["digest", "--authfile", &missing, &name], 8, "none.json"),
        (&["login", &registry.address()], 3, "no terminal to ask on"),
        (&["login", "-u", "user", &registry.address()], 3, "--password-stdin"),
        (&["login", "-u", "user:x", "-p", "y", &registry.address()], 3, "given twice"),
        (&["login", "-u", "user:x", "a/b"], 3, "a registry's host"),
        (&["login"], 3, "HOST"),
        (&["logout"], 3, "HOST"),
        (&["logout", "--all", "x"], 3, "--all"),
    ] {
        let error = fed(wharf.command(arguments), "").await.failed(code);
        assert!(error.contains(said), "{arguments:?}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn helpers_keep_what_docker_s_file_names_them_for() {
    let (registry, wharf) = (registry().await, Wharf::new());
    let host = registry.address();
    let (bin, kept) = (wharf.path("bin"), wharf.path("kept"));
    fs::create_dir_all(&bin).expect("creates");
    fs::create_dir_all(wharf.path(".docker")).expect("creates");
    let config_file = wharf.path(".docker/config.json");
    fs::write(&config_file, r#"{"credsStore":"keeper","HttpHeaders":{"A":"b"}}"#).expect("writes");
    let script = format!(
        "#!/bin/sh\ncase $1 in\nstore) cat > {kept} ;;\nget) cat {kept} 2>/dev/null || {{ echo 'credentials not found in native \
         keychain'; exit 1; }} ;;\nerase) rm {kept} ;;\nlist) echo '{{}}' ;;\nesac\n"
    );
    let helper = format!("{bin}/docker-credential-keeper");
    fs::write(&helper, script).expect("writes");
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).expect("is made executable");
    let path = format!("{bin}:{}", std::env::var("PATH").unwrap_or_default());
    let run = |arguments: &[&str]| {
        let mut command = wharf.command(arguments);
        command.env("PATH", &path);
        fed(command, "canary-9f")
    };
    let login = run(&["login", "-u", "user", "--password-stdin", &host]).await;
    assert!(login.err().contains("docker-credential-keeper"), "{}", login.err());
    login.succeeded();
    assert!(fs::read_to_string(&kept).expect("is kept").contains(CANARY));
    let expected = json!({ "credsStore": "keeper", "HttpHeaders": { "A": "b" }, "auths": { &*host: {} } });
    assert_eq!(config(&wharf), expected);
    let name = format!("{host}/a/b:1");
    run(&["digest", &name]).await.succeeded();
    run(&["logout", &host]).await.succeeded();
    assert!(!fs::exists(&kept).expect("looks"));
    run(&["digest", &name]).await.failed(4);

    // Without the helper the pull goes on, and says so.
    fs::remove_file(&helper).expect("removes");
    let error = run(&["digest", &name]).await.failed(4);
    assert!(error.contains("docker-credential-keeper") && error.contains("is not installed"), "{error}");
    let error = run(&["login", "-u", "user", "--password-stdin", &host]).await.failed(2);
    assert!(error.contains("docker-credential-keeper"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_printed() {
    let (registry, wharf) = (registry().await, Wharf::new());
    let host = registry.address();
    let name = format!("{host}/a/b:1");
    let arguments: [&[&str]; 4] = [
        &["-vv", "login", "-u", "user:canary-9f", &host],
        &["-vv", "digest", "-u", "user:canary-9f", &name],
        &["-vv", "digest", "-u", "other:canary-9f", &name],
        &["-vv", "--format", "json", "digest", "-u", "other:canary-9f", &name],
    ];
    for arguments in arguments {
        let mut command = wharf.command(arguments);
        command.env("WHARF_LOG", "trace");
        let done = fed(command, "").await;
        let said = done.out() + &done.err();
        assert!(said.contains(&host), "something is said: {said}");
        for secret in [CANARY, "dXNlcjpjYW5hcnktOWY=", "b3RoZXI6Y2FuYXJ5LTlm"] {
            assert!(!said.contains(secret), "{arguments:?}: {said}");
        }
    }
}
