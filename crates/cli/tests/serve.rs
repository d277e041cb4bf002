//! `wharf serve` as a user runs it, and its neighbours.

#![cfg(unix)]

mod support;

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};
use wharf_images::{Image, media_types as types, referrers::fallback_tag};
use wharf_tests::{TestRegistry, image::put};

use support::{Wharf, three_platforms};

/// A registry that runs, and is stopped.
struct Served {
    child: Option<Child>,
    url: String,
}

impl Served {
    fn start(wharf: &Wharf, arguments: &[&str]) -> Self {
        Self::spawn(wharf.command(&[&["serve", "--addr", "127.0.0.1:0"], arguments].concat()))
    }

    fn spawn(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("reads");
        Self { child: Some(child), url: line.trim().to_owned() }
    }

    fn address(&self) -> &str {
        self.url.split_once("://").expect("a URL").1
    }

    /// Stops it in order, and gives what it told meanwhile.
    async fn stop(mut self) -> String {
        let mut child = self.child.take().expect("it runs");
        let pid = child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill runs").success());
        let mut told = String::new();
        let (status, told) = tokio::task::spawn_blocking(move || {
            child.stderr.take().expect("piped").read_to_string(&mut told).expect("reads");
            (child.wait().expect("waits"), told)
        })
        .await
        .expect("no panic");
        assert_eq!(status.code(), Some(0), "stopping is what was asked for");
        told
    }
}

impl Drop for Served {
    /// A test that fails leaves no server behind.
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn serving_and_stopping() {
    let registry = TestRegistry::start().await;
    let name = registry.put("a/b:1", &three_platforms()).await.expect("puts");
    let wharf = Wharf::new();
    wharf.run(&["pull", "--all-platforms", &name]).await.succeeded();
    let served = Served::start(&wharf, &[]);
    assert!(served.url.starts_with("http://"));

    let neighbour = Wharf::new();
    let (one, two) = (format!("{}/a/b:1", served.address()), format!("{}/c:2", served.address()));
    let pulled = neighbour.run(&["pull", "--all-platforms", &one]).await.succeeded();
    let here = wharf.run(&["images", "ls", "--format", "json"]).await.succeeded();
    let here: Value = serde_json::from_str(&here).expect("JSON");
    assert!(pulled.trim().ends_with(here[0]["target"]["digest"].as_str().expect("a digest")), "{pulled}");

    // What a neighbour pushes is an image here, and what it deletes is none.
    neighbour.run(&["push", &one, &two]).await.succeeded();
    assert!(wharf.run(&["ls", "-q"]).await.succeeded().contains(&two));
    neighbour.run(&["delete", &two]).await.succeeded();
    assert!(!wharf.run(&["ls", "-q"]).await.succeeded().contains(&two));
    neighbour.run(&["delete", &two]).await.failed(2);
    assert_eq!(served.stop().await, "", "nothing is told that was not asked for");
}

/// A registry that has nothing, and a warning with each answer.
#[cfg(target_os = "linux")]
fn warning_upstream() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    // It ends with the test.
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().flatten().enumerate() {
            let mut head = BufReader::new(&stream).lines();
            while head.next().and_then(std::result::Result::ok).is_some_and(|line| !line.is_empty()) {}
            let warning = format!("Warning: 299 - \"number {number} {}\"", "x".repeat(300));
            let answer =
                format!("HTTP/1.1 404 X\r\n{warning}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            drop((&stream).write_all(answer.as_bytes()));
        }
    });
    format!("http://{address}")
}

/// Nobody reads what is logged, or nothing more can be: the registry goes on, and ends when it is told to.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_cannot_be_written_stops_nothing() {
    let wharf = Wharf::new();
    // Nobody listens there, which is worth a warning each time.
    let proxy = ["--proxy", "http://127.0.0.1:1", "--retry-times", "0", "--access-log"];
    let (never_read, filled) = std::io::pipe().expect("a pipe");
    let (warned, told) = (filled.try_clone().expect("another end"), filled.try_clone().expect("another end"));
    let warns = ["--proxy", &warning_upstream(), "--retry-times", "0"];
    let full = fs::File::create("/dev/full").expect("Linux has it");
    for (target, options, status) in [
        (Stdio::from(full), &proxy[..], " 502 "),
        (Stdio::from(filled), &["--access-log"], " 404 "),
        (Stdio::from(warned), &proxy[..5], " 502 "),
        (Stdio::from(told), &warns, " 404 "),
    ] {
        let mut command = wharf.command(&[&["serve", "--addr", "127.0.0.1:0"], options].concat());
        let mut child = command.stdout(Stdio::piped()).stderr(target).spawn().expect("starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("reads");
        let served = Served { child: Some(child), url: line.trim().to_owned() };
        // More than a pipe has room for.
        let path = format!("/v2/{}/manifests/x", "a".repeat(200));
        for _ in 0..400 {
            let mut stream = std::net::TcpStream::connect(served.address()).expect("it is there");
            let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).expect("sent");
            stream.set_read_timeout(Some(std::time::Duration::from_secs(30))).expect("set");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).expect("answered");
            assert!(answer.starts_with(&format!("HTTP/1.1{status}")), "{answer}");
        }
        let mut served = served;
        let mut child = served.child.take().expect("it runs");
        assert!(
            Command::new("kill").args(["-TERM", &child.id().to_string()]).status().expect("runs").success()
        );
        let ended = tokio::task::spawn_blocking(move || child.wait().expect("waits"));
        let status = tokio::time::timeout(std::time::Duration::from_secs(30), ended).await;
        assert_eq!(status.expect("it ends").expect("no panic").code(), Some(0));
    }
    drop(never_read);
}

/// Signatures that were pulled go on with the image, also where they were listed by their tag alone, and from a store that only serves.
#[tokio::test(flavor = "multi_thread")]
async fn referrers_go_from_neighbour_to_neighbour() {
    let registry = TestRegistry::start().await;
    let name = registry.put("a/b:1", &three_platforms()).await.expect("puts");
    let subject = registry.image(&name).await.expect("there").target;
    let empty = put(registry.store(), types::OCI_EMPTY, b"{}".to_vec()).await.expect("puts");
    let mut referrers = Vec::new();
    for artifact_type in ["application/x-sig", "application/spdx+json"] {
        let manifest = json!({
            "schemaVersion": 2, "mediaType": types::OCI_MANIFEST, "artifactType": artifact_type,
            "config": empty, "layers": [empty], "subject": subject,
        });
        let manifest = manifest.to_string().into_bytes();
        referrers.push(put(registry.store(), types::OCI_MANIFEST, manifest).await.expect("puts"));
    }
    let index = json!({ "schemaVersion": 2, "mediaType": types::OCI_INDEX, "manifests": referrers });
    let index = put(registry.store(), types::OCI_INDEX, index.to_string().into_bytes()).await.expect("puts");
    let tag = registry.reference(&format!("a/b:{}", fallback_tag(&subject.digest)));
    registry.record(Image::new(&*tag, index)).await.expect("records");
    let mut expected: Vec<&str> = referrers.iter().map(|referrer| referrer.digest.as_str()).collect();
    expected.sort_unstable();

    let (by_label, by_tag) = (Wharf::new(), Wharf::new());
    by_label.run(&["pull", "--referrers", &name]).await.succeeded();
    for name in [&name, &tag] {
        by_tag.run(&["pull", "--all-platforms", name]).await.succeeded();
    }
    for wharf in [&by_label, &by_tag] {
        let first = Served::start(wharf, &["--read-only"]);
        // From the one who pulled it to another one, and from that one on.
        let next = Wharf::new();
        next.run(&["pull", "--referrers", &format!("{}/a/b:1", first.address())]).await.succeeded();
        let second = Served::start(&next, &[]);
        for served in [&first, &second] {
            let (last, name) = (Wharf::new(), format!("{}/a/b:1", served.address()));
            last.run(&["pull", "--referrers", &name]).await.succeeded();
            for place in [&["--local"][..], &[]] {
                let arguments = [&["referrers", "-q"], place, &[&*name]].concat();
                let listed = last.run(&arguments).await.succeeded();
                assert_eq!(listed.lines().collect::<Vec<_>>(), expected, "{place:?}");
            }
            let arguments = ["referrers", "-q", "--artifact-type", "application/x-sig", &name];
            assert_eq!(last.run(&arguments).await.succeeded(), format!("{}\n", referrers[0].digest));
        }
        for served in [first, second] {
            assert_eq!(served.stop().await, "");
        }
    }
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn as_many_files_may_be_open_as_the_system_allows() {
    let wharf = Wharf::new();
    let served = wharf.command(&["serve", "--addr", "127.0.0.1:0"]);
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -Sn 100 && ulimit -Hn 200 && exec \"$0\" \"$@\""]);
    command.arg(served.get_program()).args(served.get_args());
    for (name, value) in served.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let served = Served::spawn(command);
    let limits = format!("/proc/{}/limits", served.child.as_ref().expect("it runs").id());
    let limits = fs::read_to_string(limits).expect("reads");
    let files = limits.lines().find(|line| line.starts_with("Max open files")).expect("is told");
    let numbers: Vec<&str> = files.split_whitespace().filter(|word| word.parse::<u64>().is_ok()).collect();
    assert_eq!(numbers, ["200", "200"], "{files}");
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_passwords_and_the_access_log() {
    let registry = TestRegistry::start().await;
    let name = registry.put("a/b:1", &three_platforms()).await.expect("puts");
    let wharf = Wharf::new();
    wharf.run(&["pull", "--all-platforms", &name]).await.succeeded();

    let key = KeyPair::generate().expect("a key");
    let certificate = CertificateParams::new(["127.0.0.1".to_owned()]).expect("valid").self_signed(&key);
    let (cert_file, key_file, users) = (wharf.path("cert.pem"), wharf.path("key.pem"), wharf.path("users"));
    fs::write(&cert_file, certificate.expect("signs").pem()).expect("writes");
    fs::write(&key_file, key.serialize_pem()).expect("writes");
    let line =
        |user: &str, password: &str| format!("{user}:{}\n", bcrypt::hash(password, 4).expect("hashes"));
    fs::write(&users, line("ann", "canary-secret")).expect("writes");
    let served = Served::start(
        &wharf,
        &["--tls-cert", &cert_file, "--tls-key", &key_file, "--htpasswd", &users, "--access-log"],
    );
    assert!(served.url.starts_with("https://"));

    let neighbour = Wharf::new();
    let image = format!("{}/a/b:1", served.address());
    let pull = async |creds: &[&str]| {
        let arguments = [&["pull", "--all-platforms", "--ca-file", &cert_file, &image][..], creds].concat();
        neighbour.run(&arguments).await
    };
    // Where plain HTTP is spoken, as on loopback, what TLS answers is told, and asked for once.
    let plain = neighbour.run(&["inspect", "--remote", &image]).await.failed(6);
    assert!(plain.contains("hint: if the registry speaks HTTPS") && !plain.contains("tries"), "{plain}");
    let unknown = pull(&[]).await.failed(4);
    assert!(unknown.contains("hint: the image is private"), "{unknown}");
    let wrong = pull(&["--creds", "ann:wrong"]).await.failed(4);
    assert!(wrong.contains("hint: the user or password that ") && wrong.contains("is wrong"), "{wrong}");
    pull(&["--creds", "bob:canary-secret"]).await.failed(4);
    pull(&["--creds", "ann:canary-secret"]).await.succeeded();
    // The file changes while it is served.
    fs::write(&users, line("bob", "canary-other")).expect("writes");
    pull(&["--creds", "ann:canary-secret"]).await.failed(4);
    pull(&["--creds", "bob:canary-other"]).await.succeeded();
    for (command, may) in [("push", "push there"), ("delete", "delete there")] {
        let wrong = [command, "--ca-file", &cert_file, "--creds", "bob:wrong", &image];
        let wrong = neighbour.run(&wrong).await.failed(4);
        assert!(wrong.contains(&format!("is wrong, or may not {may}: check --creds")), "{wrong}");
    }
    // A file that is broken for a moment changes nothing.
    fs::write(&users, "bob").expect("writes");
    pull(&["--creds", "bob:canary-other"]).await.succeeded();
    // A certificate that is renewed is shown to the next who comes; neighbours trust what is in the file now.
    let key = KeyPair::generate().expect("a key");
    let certificate = CertificateParams::new(["127.0.0.1".to_owned()]).expect("valid").self_signed(&key);
    fs::write(&key_file, key.serialize_pem()).expect("writes");
    fs::write(&cert_file, certificate.expect("signs").pem()).expect("writes");
    pull(&["--creds", "bob:canary-other"]).await.succeeded();

    let log = served.stop().await;
    for part in [" 401 ", "- ann [", "- bob [", "\"GET /v2/a/b/blobs/sha256:", " 200 "] {
        assert!(log.contains(part), "{part}: {log}");
    }
    assert!(!log.contains("canary"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_of_another_registry() {
    let registry = TestRegistry::start().await;
    let name = registry.put("a/b:1", &three_platforms()).await.expect("puts");
    let upper = Wharf::new();
    upper.run(&["pull", "--all-platforms", &name]).await.succeeded();
    let users = upper.path("users");
    fs::write(&users, format!("ann:{}\n", bcrypt::hash("canary-secret", 4).expect("hashes")))
        .expect("writes");
    let upstream = Served::start(&upper, &["--htpasswd", &users, "--access-log"]);

    let cache = Wharf::new();
    let proxy =
        ["--proxy", &upstream.url, "--creds", "ann:canary-secret", "--proxy-ttl", "0", "--retry-times", "0"];
    let served = Served::start(&cache, &proxy);
    let image = format!("{}/a/b:1", served.address());
    let pull = async || {
        let neighbour = Wharf::new();
        let pulled = neighbour.run(&["pull", "--all-platforms", &image]).await.succeeded();
        pulled.trim().rsplit('@').next().map(str::to_owned)
    };
    // The neighbours need no password: that of whoever runs the cache serves them all.
    let (one, two) = tokio::join!(pull(), pull());
    assert_eq!(one, two);
    let here = format!("{}/a/b:1", upstream.address());
    assert_eq!(cache.run(&["ls", "-q"]).await.succeeded().trim(), here);
    cache.run(&["images", "check", &here]).await.succeeded();
    let neighbour = Wharf::new();
    let missing = format!("{}/a/b:absent", served.address());
    neighbour.run(&["pull", &missing]).await.failed(2);
    neighbour.run(&["pull", "--all-platforms", &image]).await.succeeded();
    neighbour.run(&["push", &image, &missing]).await.failed(4);

    let log = upstream.stop().await;
    let mut fetched: Vec<&str> = log.lines().filter_map(|line| line.split('"').nth(1)).collect();
    fetched.retain(|request| request.starts_with("GET /v2/a/b/") && request.contains("sha256:"));
    let count = fetched.len();
    fetched.sort_unstable();
    fetched.dedup();
    assert!(count > 6 && count == fetched.len(), "each once: {log}");
    assert_eq!(pull().await, one, "what is here is served while the upstream is away");
    let told = served.stop().await;
    assert!(!told.contains("canary"), "{told}");
    let warning = told.lines().find(|line| line.contains(" WARN ")).expect("it is told");
    let (time, _) = warning.split_once(' ').expect("words");
    time.parse::<jiff::Timestamp>().unwrap_or_else(|error| panic!("{warning}: {error}"));
}

/// An upstream of blobs that never come, and what it was asked.
fn endless_blobs() -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&asked);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, log) = (stream.expect("accepts"), Arc::clone(&log));
            thread::spawn(move || {
                let mut line = String::new();
                BufReader::new(&stream).read_line(&mut line).expect("reads");
                let request = line.trim_end_matches(" HTTP/1.1\r\n").to_owned();
                let is_head = request.starts_with("HEAD ");
                log.lock().expect("no panic").push(request);
                let head = "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\nConnection: close\r\n\r\n";
                stream.write_all(head.as_bytes()).expect("writes");
                if !is_head {
                    thread::sleep(Duration::from_secs(60));
                }
            });
        }
    });
    (url, asked)
}

#[tokio::test(flavor = "multi_thread")]
async fn so_many_blobs_are_fetched_at_once_as_the_flag_says() {
    let (url, asked) = endless_blobs();
    let cache = Wharf::new();
    let served = Served::start(&cache, &["--proxy", &url, "-j", "2"]);
    let clients: Vec<TcpStream> = (0..5)
        .map(|number| {
            let mut client = TcpStream::connect(served.address()).expect("connects");
            let path = format!("/v2/a/blobs/sha256:{number:064}");
            write!(client, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").expect("writes");
            client
        })
        .collect();
    let count = |method: &str| {
        let asked = asked.lock().expect("no panic");
        asked.iter().filter(|request| request.starts_with(method)).count()
    };
    for _ in 0..500 {
        if count("HEAD ") == clients.len() && count("GET ") >= 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    // What is asked of blobs goes by those that arrive.
    assert_eq!((count("HEAD "), count("GET ")), (5, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_before_anything_is_served() {
    let wharf = Wharf::new();
    let (bad, empty) = (wharf.path("bad"), wharf.path("empty"));
    fs::write(&bad, "user:plain-canary\n").expect("writes");
    fs::write(&empty, "").expect("writes");
    for (arguments, told) in [
        (&["--htpasswd", &bad][..], "line 1 has no hash by bcrypt"),
        (&["--htpasswd", &wharf.path("absent")], "cannot use the password file"),
        (&["--tls-cert", &empty, "--tls-key", &empty], "no certificate in PEM form"),
        (&["--tls-cert", &wharf.path("absent"), "--tls-key", &empty], "cannot use the certificate"),
        (&["--tls-cert", &empty], "--tls-key"),
        (&["--addr", "0.0.0.0:0"], "neither TLS nor authentication"),
        (&["--addr", "0.0.0.0:0", "--htpasswd", &empty], "no TLS"),
        (&["--addr", "nonsense"], "not an address"),
        (&["--proxy", "docker.io"], "has no scheme"),
        (&["--proxy", "https://docker.io/library"], "has a path"),
        (&["--proxy", "https://ann:canary@docker.io"], "has a user or a password"),
        (&["--proxy", "https://docker.io", "--plain-http"], "contradict each other"),
        (&["--proxy", "http://docker.io", "--tls-verify"], "contradict each other"),
        (&["--proxy", "https://docker.io", "--addr", "0.0.0.0:0"], "neither TLS nor authentication"),
        (&["--proxy-ttl", "5"], "--proxy"),
        (&["--creds", "ann:canary"], "give --proxy"),
    ] {
        let error = wharf.run(&[&["serve"], arguments].concat()).await.failed(3);
        assert!(error.contains(told) && !error.contains("canary"), "{arguments:?}: {error}");
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound").to_string();
    let error = wharf.run(&["serve", "--addr", &address]).await.failed(8);
    assert!(
        error.starts_with("error[unavailable]: cannot serve on ") && error.contains("hint: another program"),
        "{error}"
    );
}
