//! Import as a user runs it.

mod support;

use std::{
    fs::File,
    io::{Read, Write},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use support::{Done, Wharf, three_platforms};
use wharf_content::Descriptor;
use wharf_images::media_types as types;
use wharf_tests::TestRegistry;

/// An archive of three platforms, the name and the digest of the image in it.
async fn exported(from: &Wharf) -> (String, String, String) {
    let registry = TestRegistry::start().await;
    let name = registry.put("a/b:1", &three_platforms()).await.expect("puts");
    let pulled = from.run(&["pull", "--all-platforms", &name]).await.succeeded();
    let digest = pulled.trim().rsplit_once('@').expect("a digest").1.to_owned();
    let file = from.path("a.tar");
    from.run(&["export", "--all-platforms", &name, "-o", &file]).await.succeeded();
    (file, name, digest)
}

/// Runs with a file as standard input.
fn piped(wharf: &Wharf, arguments: &[&str], file: &str) -> Done {
    let input = File::open(file).expect("opens");
    Done(wharf.command(arguments).stdin(input).output().expect("the program runs"))
}

fn gzipped(file: &str) -> String {
    let mut bytes = Vec::new();
    File::open(file).expect("opens").read_to_end(&mut bytes).expect("reads");
    let name = format!("{file}.gz");
    let mut encoder = GzEncoder::new(File::create(&name).expect("creates"), Compression::fast());
    encoder.write_all(&bytes).expect("writes");
    encoder.finish().expect("writes");
    name
}

/// A layout of artifacts that nobody decodes, with a tag or no name.
fn layout(file: &str, tags: &[Option<&str>]) {
    let mut builder = tar::Builder::new(File::create(file).expect("creates"));
    let mut append = |name: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        builder.append_data(&mut header, name, bytes).expect("writes");
    };
    let mut manifests = Vec::new();
    for (at, tag) in tags.iter().enumerate() {
        let bytes = json!({ "schemaVersion": 2, "manifests": [], "annotations": { "at": at.to_string() } });
        let bytes = bytes.to_string().into_bytes();
        let mut descriptor = Descriptor::of(types::OCI_INDEX, &bytes);
        append(&format!("blobs/sha256/{}", descriptor.digest.hex()), &bytes);
        if let Some(tag) = tag {
            descriptor = descriptor.with_annotation("org.opencontainers.image.ref.name", *tag);
        }
        manifests.push(descriptor);
    }
    append("index.json", json!({ "schemaVersion": 2, "manifests": manifests }).to_string().as_bytes());
    append("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
    builder.finish().expect("writes");
}

#[tokio::test(flavor = "multi_thread")]
async fn from_a_file_or_standard_input_compressed_or_not() {
    let from = Wharf::new();
    let (file, name, digest) = exported(&from).await;
    let line = format!("{name}@{digest}\n");
    let listed = from.run(&["images", "ls", "--format", "json"]).await.succeeded();
    let listed: Value = serde_json::from_str(&listed).expect("JSON");
    for (arguments, source, expected) in [
        (&["import", &*file][..], None, line.clone()),
        (&["import", &gzipped(&file)], None, line.clone()),
        (&["import", "--all-platforms", "-"], Some(&file), line.clone()),
        (&["import"], Some(&gzipped(&file)), line.clone()),
        (&["import", "-q", &file], None, format!("{digest}\n")),
        (
            &["import", "--digests", &file],
            None,
            format!("{line}{}@{digest}\n", name.rsplit_once(':').expect("a tag").0),
        ),
        (&["import", "--digests", "--skip-digest-for-named", &file], None, line.clone()),
    ] {
        let into = Wharf::new();
        let done = match source {
            None => into.run(arguments).await,
            Some(file) => piped(&into, arguments, file),
        };
        assert_eq!(done.err(), "", "progress is for terminals");
        assert_eq!(done.succeeded(), expected, "{arguments:?}");
        let now = into.run(&["images", "ls", "--format", "json"]).await.succeeded();
        let now: Value = serde_json::from_str(&now).expect("JSON");
        for field in ["name", "target", "platforms", "labels"] {
            assert_eq!(now[0][field], listed[0][field], "{field}");
        }
        assert_eq!(into.run(&["gc"]).await.succeeded(), "", "everything is held");
        assert_eq!(into.run(&["lease", "ls", "-q"]).await.succeeded(), "");
        into.run(&["verify"]).await.succeeded();
    }
    let into = Wharf::new();
    let told = into.run(&["import", "--format", "json", &file]).await.succeeded();
    let told: Value = serde_json::from_str(&told).expect("JSON");
    assert_eq!((&told[0]["name"], &told[0]["target"]["digest"]), (&json!(name), &json!(digest)));
    let again = into.run(&["import", "--progress", "plain", &file]).await;
    assert!(again.err().contains("exists    sha256:"), "{}", again.err());
    let copy = into.path("b.tar");
    into.run(&["export", "--all-platforms", &name, "-o", &copy]).await.succeeded();
    assert!(
        std::fs::read(copy).expect("reads") == std::fs::read(file).expect("reads"),
        "the same to the byte"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn platforms_are_taken_or_demanded() {
    let from = Wharf::new();
    let (_, name, _) = exported(&from).await;
    let file = from.path("one.tar");
    from.run(&["export", "--platform", "linux/s390x", &name, "-o", &file]).await.succeeded();
    let into = Wharf::new();
    let error = into.run(&["import", "--platform", "linux/arm64", &file]).await.failed(2);
    assert!(error.contains("platform linux/arm64 of the image is not there as a whole"), "{error}");
    assert!(error.contains("lack parts") && error.contains("hint: choose another --platform"), "{error}");
    let error = into.run(&["import", "--platform", "linux/riscv64", &file]).await.failed(2);
    assert!(error.contains("no match for platform linux/riscv64") && error.contains("hint: "), "{error}");
    let error = into.run(&["import", "--all-platforms", &file]).await.failed(2);
    assert!(
        error.contains("not every platform") && error.contains("hint: leave out --all-platforms"),
        "{error}"
    );
    into.run(&["import", "--platform", "nonsense/", &file]).await.failed(3);
    assert_eq!(into.run(&["ls", "-q"]).await.succeeded(), "");
    into.run(&["import", &file]).await.succeeded();
    let listed = into.run(&["images", "ls", "--format", "json"]).await.succeeded();
    let listed: Value = serde_json::from_str(&listed).expect("JSON");
    assert_eq!(listed[0]["platforms"], json!(["linux/s390x"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn images_without_a_full_name_need_one() {
    let wharf = Wharf::new();
    let (file, none) = (wharf.path("l.tar"), wharf.path("n.tar"));
    layout(&file, &[Some("1.0"), None]);
    layout(&none, &[]);
    let error = wharf.run(&["import", &file]).await.failed(3);
    assert!(error.contains("only tagged \"1.0\"") && error.contains("hint: `--base-name"), "{error}");
    let error = wharf.run(&["import", "--base-name", "a:1", &file]).await.failed(3);
    assert!(error.contains("base name"), "{error}");
    let named = wharf.run(&["import", "--base-name", "q.io/a", &file]).await.succeeded();
    let lines: Vec<_> = named.lines().collect();
    assert!(lines[0].starts_with("q.io/a:1.0@sha256:") && lines[1].starts_with("q.io/a@sha256:"), "{named}");
    assert!(wharf.run(&["import", &none]).await.failed(3).contains("no image in the archive"));
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_other_images_are_taken_by_force_only() {
    let wharf = Wharf::new();
    let (one, two) = (wharf.path("1.tar"), wharf.path("2.tar"));
    layout(&one, &[Some("q.io/a:1")]);
    layout(&two, &[Some("q.io/b:1"), Some("q.io/a:1")]);
    let first = wharf.run(&["import", &one]).await.succeeded();
    wharf.run(&["images", "label", "q.io/a:1", "mine=1"]).await.succeeded();
    assert_eq!(wharf.run(&["import", &one]).await.succeeded(), first, "the same image");
    let error = wharf.run(&["import", "-q", &two]).await.failed(1);
    let digest = first.trim().rsplit_once('@').expect("a digest").1;
    assert!(error.contains("error[already exists]") && error.contains("hint: --force"), "{error}");
    assert!(error.contains("\"q.io/a:1\"") && error.contains(digest), "{error}");
    assert_eq!(wharf.run(&["ls", "-q"]).await.succeeded().lines().count(), 1, "nothing is recorded");
    let done = wharf.run(&["import", "--force", &two]).await;
    assert!(done.err().contains("is replaced"), "{}", done.err());
    let taken = done.succeeded();
    assert!(taken.starts_with("q.io/a:1@") && !taken.contains(&format!("q.io/a:1@{digest}")), "{taken}");
    let listed = wharf.run(&["images", "ls", "--format", "json"]).await.succeeded();
    let listed: Value = serde_json::from_str(&listed).expect("JSON");
    assert_eq!((&listed[0]["name"], &listed[0]["labels"]), (&json!("q.io/a:1"), &json!({})));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_has_its_exit_code_and_leaves_no_image() {
    let from = Wharf::new();
    let (file, ..) = exported(&from).await;
    let good = std::fs::read(&file).expect("reads");
    let write = |name: &str, bytes: &[u8]| {
        std::fs::write(from.path(name), bytes).expect("writes");
        from.path(name)
    };
    let mut damaged = good.clone();
    // The first blob's content begins behind two directories and its own header.
    damaged[3 * 512 + 10] ^= 1;
    let into = Wharf::new();
    for (path, code, words) in [
        (write("cut.tar", &good[..good.len() / 2]), 5, "cut short"),
        (write("damaged.tar", &damaged), 5, "digest mismatch"),
        (write("text.tar", b"not an archive"), 3, "not an image archive"),
        (write("xz.tar", b"\xfd7zXZ\0 and so on"), 1, "xz -d"),
        (from.path("none.tar"), 2, "no such file"),
        (from.path(""), 3, "no OCI image layout"),
    ] {
        let error = into.run(&["import", &path]).await.failed(code);
        assert!(error.contains(words), "{error}");
    }
    let error = piped(&into, &["import"], &from.path("")).failed(3);
    assert!(error.contains("standard input: it is a directory"), "{error}");
    let error = into.run(&["import", "--format", "json", &from.path("text.tar")]).await.failed(3);
    let error: Value = serde_json::from_str(&error).expect("an object");
    assert!(error["error"].is_object() || error["error"].is_string(), "{error}");
    assert_eq!(into.run(&["ls", "-q"]).await.succeeded(), "");
    assert_eq!(into.run(&["lease", "ls", "-q"]).await.succeeded(), "");
    assert_eq!(
        into.run(&["content", "active"]).await.succeeded().lines().count(),
        1,
        "the head of the table"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn interrupted_and_taken_up_again() {
    let from = Wharf::new();
    let (file, name, digest) = exported(&from).await;
    let bytes = std::fs::read(&file).expect("reads");
    let into = Wharf::new();
    let mut child = into
        .command(&["import"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program runs");
    let mut pipe = child.stdin.take().expect("it is piped");
    pipe.write_all(&bytes[..bytes.len() / 2]).expect("it reads");
    let blobs = into.path("store/blobs/sha256");
    let begun = Instant::now();
    while std::fs::read_dir(&blobs).map_or(0, Iterator::count) < 2 {
        assert!(begun.elapsed() < Duration::from_secs(20), "nothing comes in");
        std::thread::sleep(Duration::from_millis(10));
    }
    // It waits for more, and is told to end.
    assert!(
        Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill runs").success()
    );
    let done = Done(child.wait_with_output().expect("it ends"));
    done.failed(130);
    drop(pipe);
    assert_eq!(into.run(&["ls", "-q"]).await.succeeded(), "");
    assert_eq!(into.run(&["lease", "ls", "-q"]).await.succeeded().lines().count(), 1);
    into.run(&["gc"]).await.succeeded();
    let kept = std::fs::read_dir(&blobs).expect("reads").count();
    assert!(kept >= 2, "the lease keeps what is complete");
    let again = into.run(&["import", "--progress", "plain", &file]).await;
    assert!(again.err().matches("exists    sha256:").count() >= 2, "{}", again.err());
    assert_eq!(again.succeeded(), format!("{name}@{digest}\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_archives_own_index_gets_the_name_that_is_given() {
    let from = Wharf::new();
    let (file, name, digest) = exported(&from).await;
    let into = Wharf::new();
    let printed = into.run(&["import", "--index-name", "archive:1", &file]).await.succeeded();
    let mut lines: Vec<&str> = printed.lines().collect();
    lines.retain(|line| *line != format!("{name}@{digest}"));
    let [index] = lines[..] else { panic!("{printed}") };
    assert!(index.starts_with("docker.io/library/archive:1@sha256:"), "{printed}");
    let text = into.run(&["manifest", "archive:1"]).await.succeeded();
    assert!(text.contains(&digest), "{text}");
    assert!(into.run(&["import", "--index-name", "A", &file]).await.failed(3).contains("index"));
    into.run(&["import", "--skip-digest-for-named", &file]).await.failed(3);
}
