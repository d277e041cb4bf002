//! The program as a user runs it: what it prints where, and how it exits.

mod support;

use std::{
    fs::File,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;
use wharf_tests::{FakeServer, ImageFixture, Layer, Reply, TestRegistry, image::noise};

use support::{Wharf, partial, stalling, three_platforms};

#[tokio::test(flavor = "multi_thread")]
async fn the_corridor() {
    let registry = TestRegistry::start().await;
    let name = registry.put("a/b:1", &three_platforms()).await.expect("puts");
    let wharf = Wharf::new();

    let pulled = wharf.run(&["pull", "--platform", "linux/amd64,linux/s390x", &name]).await;
    assert_eq!(pulled.err(), "", "silent where there is no terminal");
    let printed = pulled.succeeded();
    let digest = printed.trim().strip_prefix(&format!("{name}@")).expect("REF@DIGEST").to_owned();
    assert_eq!(
        wharf.run(&["pull", "-q", "--platform", "linux/amd64", &name]).await.succeeded(),
        format!("{digest}\n")
    );

    let listed = wharf.run(&["images", "ls"]).await.succeeded();
    let lines: Vec<&str> = listed.lines().collect();
    assert!(lines[0].starts_with("REF ") && lines[0].contains("PLATFORMS"), "{listed}");
    assert!(lines[1].contains(&digest) && lines[1].contains("linux/amd64,linux/s390x"), "{listed}");
    assert_eq!(wharf.run(&["ls", "-q"]).await.succeeded(), format!("{name}\n"));
    let rows: Value =
        serde_json::from_str(&wharf.run(&["images", "ls", "--format", "json"]).await.succeeded())
            .expect("JSON");
    assert_eq!(rows[0]["target"]["digest"], digest.as_str());
    assert_eq!(rows[0]["platforms"], serde_json::json!(["linux/amd64", "linux/s390x"]));
    assert_eq!(wharf.run(&["ls", "name~=nothing", "-q"]).await.succeeded(), "");

    let index = wharf.run(&["manifest", &name]).await.succeeded();
    assert_eq!(digest_of(index.as_bytes()), digest);
    let config: Value =
        serde_json::from_str(&wharf.run(&["config", "--platform", "linux/s390x", &name]).await.succeeded())
            .expect("JSON");
    assert_eq!(config["architecture"], "s390x");

    let tree = wharf.run(&["tree", &name]).await.succeeded();
    assert_eq!(tree.lines().count(), 2 + 3 + 3 * 2, "{tree}");
    assert!(tree.contains("linux/arm64") && tree.contains("(not in the store)"), "{tree}");

    let page: Value = serde_json::from_str(
        &wharf.run(&["inspect", "--platform", "linux/amd64", &name, "--format", "json"]).await.succeeded(),
    )
    .expect("JSON");
    assert_eq!(page["digest"], digest.as_str());
    assert_eq!(page["source"], "store");
    assert_eq!(page["manifest"]["layers"].as_array().map(Vec::len), Some(2));

    assert_eq!(wharf.run(&["images", "rm", &name]).await.succeeded(), format!("{name}\n"));
    assert_eq!(wharf.run(&["ls", "-q"]).await.succeeded(), "");
    let missing = wharf.run(&["images", "rm", &name]).await.failed(2);
    assert!(missing.starts_with("error[not found]: ") && missing.contains(&name), "{missing}");
}

fn digest_of(bytes: &[u8]) -> String {
    wharf_content::Digest::sha256(bytes).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_in_the_store_is_looked_at_remotely() {
    let registry = TestRegistry::start().await;
    let name = registry.put("a/b:1", &three_platforms()).await.expect("puts");
    let wharf = Wharf::new();
    let page = wharf.run(&["inspect", "--platform", "linux/arm64", &name]).await.succeeded();
    assert!(page.contains("remote") && page.contains("linux/arm64") && page.contains("Layer 2:"), "{page}");
    let fetched: u64 = registry.take_log().iter().map(|record| record.bytes).sum();
    assert!(fetched < 5_000, "no layer was fetched");
    assert!(wharf.run(&["tree", &name]).await.succeeded().contains("linux/s390x"));
    wharf.run(&["inspect", "--local", &name]).await.failed(2);
    assert_eq!(wharf.run(&["ls", "-q"]).await.succeeded(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn exports_to_files_and_pipes_are_the_same_bytes() {
    let registry = TestRegistry::start().await;
    let name = registry.put("a/b:1", &three_platforms()).await.expect("puts");
    let wharf = Wharf::new();
    wharf.run(&["pull", "--all-platforms", &name]).await.succeeded();
    let (one, two) = (wharf.path("one.tar"), wharf.path("two.tar"));
    assert_eq!(
        wharf.run(&["export", "--all-platforms", &name, "-o", &one]).await.succeeded(),
        format!("{one}\n")
    );
    wharf.run(&["export", &name, "--all-platforms", "-o", &two]).await.succeeded();
    let bytes = std::fs::read(&one).expect("reads");
    assert_eq!(bytes, std::fs::read(&two).expect("reads"));
    let piped = wharf.run(&["export", "--all-platforms", &name]).await;
    assert_eq!(piped.code(), 0, "{}", piped.err());
    assert_eq!(piped.0.stdout, bytes);

    // Who read the first of it has no archive; nobody is there to be told more. A list is read as far as it is wanted.
    let (target, stored) =
        (wharf.run(&["digest", "--local", &name]).await.succeeded(), format!("store:{name}"));
    for (arguments, code) in [
        (&["export", "--all-platforms", &name][..], 8),
        (&["copy", &stored, "oci-archive:-"], 8),
        (&["content", "get", target.trim()], 8),
        (&["cat", "--platform", "linux/amd64", &name, "/data"], 8),
        (&["ls"], 0),
    ] {
        let mut child =
            wharf.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
        drop(child.stdout.take());
        let output = child.wait_with_output().expect("ends");
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
        assert!(output.stderr.is_empty(), "{arguments:?}: {output:?}");
    }

    wharf.run(&["export", "nothing", "-o", &wharf.path("no.tar")]).await.failed(2);
    assert!(!Path::new(&wharf.path("no.tar")).exists());
    wharf.run(&["export", &name, "-o", &wharf.path("missing/x.tar")]).await.failed(2);
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_and_hints() {
    let registry = TestRegistry::start().await;
    let name = registry.put("a/b:1", &three_platforms()).await.expect("puts");
    let unknown_tag = registry.reference("a/b:nothing");
    let wharf = Wharf::new();
    let private = FakeServer::start(|_| Reply::new(401, &[("WWW-Authenticate", "Basic realm=x")], "")).await;
    let private = format!("{}/a:1", private.address());
    let file = wharf.path("file");
    std::fs::write(&file, "x").expect("writes");
    for (arguments, code, said) in [
        (vec!["pull", &*unknown_tag], 2, "404"),
        (vec!["pull", &name, "--platform", "linux/riscv64"], 2, "linux/s390x"),
        (vec!["pull", &name, "--platform", "nonsense/x/y/z"], 3, "nonsense"),
        (vec!["pull", "a/B:1"], 3, "a/B"),
        (vec!["pull", "ftp:/tmp/x"], 3, "docker://"),
        (vec!["pull", "https://example.com/a"], 3, "https"),
        (vec!["pull"], 3, "REF"),
        (vec!["inspect", "docker-daemon:foo:latest"], 3, "known are docker://"),
        (vec!["export", "oci:multi:1.0"], 3, "`wharf copy oci:multi:1.0 store:NAME`"),
        (vec!["tag", "oci:multi:1.0", "x:1"], 3, "store:NAME"),
        (vec!["verify", "oci-archive:multi.tar"], 3, "store:NAME"),
        (vec!["images", "check", "oci:multi:1.0"], 3, "store:NAME"),
        (vec!["inspect", "oci:"], 3, "no path is given"),
        (vec!["pull", "--label", "novalue", &name], 3, "KEY=VALUE"),
        (vec!["nonsense"], 3, "nonsense"),
        (vec!["pull", "127.0.0.1:1/a:1", "--retry-times", "0"], 6, "127.0.0.1:1"),
        (vec!["pull", &name, "--root", &file], 3, "is no directory"),
        (vec!["images", "ls", "name=="], 3, "position"),
        (vec!["serve", "--addr", "0.0.0.0:0"], 3, "--allow-public"),
    ] {
        let done = wharf.run(&arguments).await;
        let error = done.failed(code);
        assert!(error.contains(said), "{arguments:?}: {error}");
        if code != 3 {
            assert!(error.contains("\nhint: "), "{arguments:?}: {error}");
        }
    }
    let denied = wharf.run(&["pull", &private, "--retry-times", "0"]).await;
    assert!(matches!(denied.code(), 4 | 6), "{}", denied.err());
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_as_json() {
    let wharf = Wharf::new();
    let error = wharf.run(&["manifest", "--local", "nothing", "--format", "json"]).await.failed(2);
    let error: Value = serde_json::from_str(&error).expect("JSON");
    assert_eq!(error["error"]["kind"], "not found");
    assert_eq!(error["error"]["exit"], 2);
    for mistake in [&["pull", "--format", "json"][..], &["--format=json", "pul"]] {
        let error = wharf.run(mistake).await.failed(3);
        let error: serde_json::Value = serde_json::from_str(&error).expect("one object");
        assert_eq!(error["error"]["kind"], "invalid argument", "{error}");
        let message = error["error"]["message"].as_str().expect("text");
        assert!(message.contains('\n') && !message.contains("\\n"), "{message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_of_usage_are_told_as_other_errors() {
    let wharf = Wharf::new();
    let error = wharf.run(&["pull"]).await.failed(3);
    assert!(error.starts_with("error[invalid argument]: the following required"), "{error}");
    // The tests name their store by a variable.
    assert!(error.contains("\n\nUsage: wharf pull ") && !error.contains("--root"), "{error}");
    let expression = wharf.run(&["ls", "name~=("]).await.failed(3);
    assert!(expression.trim_end().ends_with("does not compile: unclosed group"), "{expression}");
    assert!(!expression.contains("\\n"), "{expression}");
    for (flags, is_coloured) in [
        (&["--color", "always"][..], true),
        (&["--color=always"], true),
        (&["--color", "never"], false),
        (&["--color", "auto"], false),
    ] {
        let error = wharf.run(&[flags, &["pull"]].concat()).await.failed(3);
        assert_eq!(error.contains('\u{1b}'), is_coloured, "{flags:?}: {error}");
        let help = wharf.run(&[flags, &["pull", "--help"]].concat()).await.succeeded();
        assert_eq!(help.contains('\u{1b}'), is_coloured, "{flags:?}: {help}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_registry_says_does_not_steer_the_terminal() {
    let server = FakeServer::start(|request| {
        let body = "{\"errors\":[{\"code\":\"X\",\"message\":\"\\u001b]52;c;x\\u0007\\u202e\"}]}";
        if request.method == "HEAD" { Reply::new(403, &[], "") } else { Reply::new(403, &[], body) }
    })
    .await;
    let wharf = Wharf::new();
    let error = wharf.run(&["pull", &format!("{}/a:1", server.address())]).await.failed(4);
    assert!(
        !error.contains('\x1b') && !error.contains('\u{202e}') && error.contains("\\u{1b}]52"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_is_private_and_plain_progress_goes_to_standard_error() {
    let registry = TestRegistry::start().await;
    let name = registry.put("a/b:1", &three_platforms()).await.expect("puts");
    let wharf = Wharf::new();
    let done = wharf.run(&["pull", "--progress", "plain", "--platform", "linux/amd64", &name]).await;
    for word in ["resolving", "resolved", "fetching", "done", "received"] {
        assert!(done.err().contains(word), "{word}: {}", done.err());
    }
    done.succeeded();
    let json = wharf.run(&["pull", "--progress", "json", "--platform", "linux/amd64", &name]).await;
    let events: Vec<Value> =
        json.err().lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert!(events.iter().any(|event| event["event"] == "exists"), "{events:?}");
    let mode = |name: &str| {
        std::fs::metadata(wharf.dir.path().join("store").join(name)).expect("exists").permissions().mode()
            & 0o777
    };
    assert_eq!((mode(""), mode("metadata.db")), (0o700, 0o600));
}

#[tokio::test(flavor = "multi_thread")]
async fn interrupted_in_the_middle_and_resumed() {
    let registry = TestRegistry::start().await;
    let fixture = ImageFixture::new().with("linux/amd64", vec![Layer::of("data", noise(8 << 20, 5))]);
    let name = registry.put("big:1", &fixture).await.expect("puts");
    let image = registry.image(&name).await.expect("there");
    let slow = stalling(&registry, &image, 5 << 20).await;
    let wharf = Wharf::new();
    let mut child = wharf
        .command(&["pull", &format!("{}/big:1", slow.address())])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    let ingest = wharf.dir.path().join("store/ingest");
    let begun = Instant::now();
    // What is gathered for the next batch is not on disk yet.
    while partial(&ingest) < 3 << 20 {
        assert!(begun.elapsed() < Duration::from_secs(30), "{} bytes arrived", partial(&ingest));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().expect("kill runs").success());
    let status = tokio::task::spawn_blocking(move || child.wait()).await.expect("no panic").expect("waits");
    assert_eq!(status.code(), Some(130));
    assert_eq!(wharf.run(&["ls", "-q"]).await.succeeded(), "", "nothing is half recorded");

    let kept = partial(&ingest);
    registry.take_log();
    wharf.run(&["pull", &name]).await.succeeded();
    let ranges: Vec<String> = registry.take_log().into_iter().filter_map(|record| record.range).collect();
    assert_eq!(ranges, [format!("bytes={kept}-")], "it goes on where it was");
}

#[tokio::test(flavor = "multi_thread")]
async fn plugins_and_version() {
    let wharf = Wharf::new();
    let entries = wharf.run(&["plugins", "--format", "json"]).await.succeeded();
    let entries: Value = serde_json::from_str(&entries).expect("JSON");
    let mut points: Vec<&str> =
        entries.as_array().expect("an array").iter().filter_map(|entry| entry["point"].as_str()).collect();
    points.dedup();
    assert_eq!(
        points,
        [
            "archive format",
            "artifact decoder",
            "credential source",
            "layer decoder",
            "manifest decoder",
            "store factory",
            "transport"
        ]
    );
    let table = wharf.run(&["plugins"]).await.succeeded();
    for part in ["wharf_images::decoders", "application/vnd.oci.image.index.v1+json", "docker", "oci-archive"]
    {
        assert!(table.contains(part), "{part}");
    }
    assert_eq!(wharf.run(&["version"]).await.succeeded(), format!("wharf {}\n", env!("CARGO_PKG_VERSION")));
    assert!(!wharf.dir.path().join("store").exists(), "neither makes a store");
}

#[tokio::test(flavor = "multi_thread")]
async fn output_that_is_full_is_not_taken_for_the_store() {
    let registry = TestRegistry::start().await;
    let name = registry.put("a/b:1", &three_platforms()).await.expect("puts");
    let wharf = Wharf::new();
    let pulled = wharf.run(&["pull", "-q", "--platform", "linux/amd64", &name]).await.succeeded();
    for arguments in [
        &["images", "ls"][..],
        &["images", "ls", "-q"],
        &["content", "ls"],
        &["content", "get", pulled.trim()],
        &["lease", "ls", "--format", "json"],
        &["manifest", &name],
        &["export", "--platform", "linux/amd64", &name],
        &["version"],
    ] {
        let error = wharf.run_into_full(arguments).await.failed(8);
        assert!(error.contains("cannot write ") && error.contains("No space left"), "{arguments:?}: {error}");
        assert!(error.contains("where the output goes"), "{arguments:?}: {error}");
        assert!(!error.contains("of the store") && error.matches("No space").count() == 1, "{error}");
    }
    let file = wharf.run(&["content", "get", pulled.trim(), "-o", "/dev/full"]).await.failed(8);
    assert!(file.contains("cannot write to /dev/full") && file.contains("where the output goes"), "{file}");
}

/// A device that has no room, and a pipe that nobody reads.
#[cfg(target_os = "linux")]
fn deaf() -> [Stdio; 2] {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    [File::options().write(true).open("/dev/full").expect("a device of Linux").into(), writer.into()]
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn errors_that_nobody_hears_are_errors_and_stop_nothing() {
    let registry = TestRegistry::start().await;
    let name = registry.put("a/b:1", &three_platforms()).await.expect("puts");
    let wharf = Wharf::new();
    wharf.run(&["pull", "--platform", "linux/amd64", &name]).await.succeeded();
    for format in ["text", "json"] {
        for (arguments, code) in [
            (&["pull", "UPPER"][..], 3),
            (&["nonsense"], 3),
            (&["rm", "nope"], 2),
            (&["rm", "nope", "no", "k:1"], 7),
        ] {
            for stderr in deaf() {
                wharf.run(&["tag", "--force", &name, "k:1"]).await.succeeded();
                let mut command = wharf.command(arguments);
                command.args(["--format", format]).stdout(Stdio::null()).stderr(stderr);
                let status = tokio::task::spawn_blocking(move || command.status()).await.expect("no panic");
                let found = status.expect("the program runs").code();
                assert_eq!(found, Some(code), "{arguments:?} {format}");
                let images = wharf.run(&["ls", "-q"]).await.succeeded();
                assert_eq!(images.contains("k:1"), code != 7, "{arguments:?} {format}: {images}");
            }
        }
    }
}

#[tokio::test]
async fn a_file_is_no_place_for_a_store() {
    let wharf = Wharf::new();
    std::fs::write(wharf.path("cert.pem"), "x").expect("writes");
    for root in ["cert.pem", "cert.pem/", "cert.pem/a", "cert.pem/a/b"] {
        let error = wharf.run(&["--root", &wharf.path(root), "ls"]).await.failed(3);
        assert!(
            error.starts_with("error[failed precondition]: ") && error.contains(" is not a wharf store: "),
            "{error}"
        );
        assert!(error.contains("cert.pem is no directory"), "{error}");
    }
}

#[tokio::test]
async fn lists_of_nothing() {
    let wharf = Wharf::new();
    for (list, header) in [
        (["images", "ls"], "REF  TYPE  DIGEST  SIZE  PLATFORMS  LABELS\n"),
        (["content", "ls"], "DIGEST  SIZE  AGE  LABELS\n"),
        (["content", "active"], "REF  OFFSET  TOTAL  AGE\n"),
        (["lease", "ls"], "ID  CREATED  EXPIRES  HELD  RESOURCES  LABELS\n"),
    ] {
        assert_eq!(wharf.run(&list).await.succeeded(), header);
        assert_eq!(wharf.run(&[list[0], list[1], "-q"]).await.succeeded(), "", "{list:?}");
        let json = wharf.run(&[list[0], list[1], "--format", "json"]).await.succeeded();
        assert_eq!(json, "[]\n", "{list:?}");
    }
}

#[tokio::test]
async fn a_digest_of_an_unknown_algorithm_is_a_mistake_of_usage() {
    let wharf = Wharf::new();
    let digest = "md5:d41d8cd98f00b204e9800998ecf8427e";
    let name = format!("busybox@{digest}");
    for arguments in [
        &["content", "get", digest][..],
        &["content", "info", digest],
        &["content", "label", digest, "a=1"],
        &["content", "rm", digest],
        &["content", "ingest", "x", "--expected-digest", digest],
        &["images", "rm", &name],
        &["inspect", "--local", &name],
        &["pull", &name],
    ] {
        let error = wharf.run(arguments).await.failed(3);
        assert!(error.contains(digest) && error.contains("sha384"), "{arguments:?}: {error}");
    }
}

#[tokio::test]
async fn completion_knows_every_command() {
    let wharf = Wharf::new();
    let help = wharf.run(&["--help"]).await.succeeded();
    let commands: Vec<&str> = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(commands.contains(&"pull") && commands.len() > 10, "{commands:?}");
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = wharf.run(&["completion", shell]).await.succeeded();
        for command in &commands {
            assert!(script.contains(command), "{shell} does not know {command}");
        }
        assert!(script.contains("strict-types"), "{shell}");
    }
    let error = wharf.run(&["completion", "tcsh"]).await.failed(3);
    assert!(error.contains("bash"), "{error}");
}
