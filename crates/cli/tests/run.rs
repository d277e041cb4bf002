//! `wharf bundle` and `wharf run`, with a runtime that says what it was told.

#![cfg(target_os = "linux")]

mod support;

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::fs::PermissionsExt,
    process::{Command, Stdio},
};

use serde_json::{Value, json};
use wharf_content::{CommitOptions, Descriptor, Digest, LocalStore, write_blob};
use wharf_images::{Image, image_store, media_types as types};

use support::Wharf;

/// Puts an image into the store, whose name is `img:1`.
async fn with_image() -> Wharf {
    let wharf = Wharf::new();
    let store = LocalStore::open(wharf.dir.path().join("store")).await.expect("opens");
    let put = async |media_type: &str, bytes: Vec<u8>| {
        let descriptor = Descriptor::of(media_type, &bytes);
        let name = descriptor.digest.to_string();
        write_blob(&store, &name, &descriptor, bytes.into(), CommitOptions::default()).await.expect("writes");
        descriptor
    };
    let layer = vec![0; 1024];
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": { "Cmd": ["/bin/sh"] },
        "rootfs": { "type": "layers", "diff_ids": [Digest::sha256(&layer)] },
    });
    let layer = put(types::OCI_LAYER, layer).await;
    let config = put(types::OCI_CONFIG, config.to_string().into_bytes()).await;
    let manifest =
        json!({ "schemaVersion": 2, "mediaType": types::OCI_MANIFEST, "config": config, "layers": [layer] });
    let target = put(types::OCI_MANIFEST, manifest.to_string().into_bytes()).await;
    let images = image_store(&store).expect("has images");
    images.create(Image::new("docker.io/library/img:1", target)).await.expect("creates");
    wharf
}

/// A runtime: a script with `$bundle` set.
fn runtime(wharf: &Wharf, script: &str) -> String {
    let path = wharf.path("runtime");
    let head = "#!/bin/sh\n[ \"$1 $3 $4\" = '--root run --bundle' ] || exit 99\nbundle=$5\n";
    fs::write(&path, format!("{head}{script}\n")).expect("writes");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("chmod");
    path
}

/// The program with a place of its own for what it makes.
fn command(wharf: &Wharf, arguments: &[&str]) -> Command {
    let temporary = wharf.dir.path().join("tmp");
    fs::create_dir_all(&temporary).expect("makes");
    let mut command = wharf.command(arguments);
    command.env("TMPDIR", temporary).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn left(wharf: &Wharf) -> usize {
    fs::read_dir(wharf.dir.path().join("tmp")).expect("lists").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_and_the_exit_code_are_the_containers_and_nothing_is_left() {
    let wharf = with_image().await;
    let script = "cat; cat \"$bundle/config.json\"; ls -d \"$bundle/rootfs\" >&2; chmod 500 \"$bundle/rootfs\"; exit 42";
    let runtime = runtime(&wharf, script);
    let arguments =
        ["run", "--runtime", &runtime, "-e", "A=b", "-w", "/w", "-u", "7:8", "img:1", "--", "echo", "-v"];
    let mut child = command(&wharf, &arguments).spawn().expect("starts");
    child.stdin.take().expect("piped").write_all(b"in\n").expect("writes");
    let output = child.wait_with_output().expect("ends");
    assert_eq!(output.status.code(), Some(42), "{output:?}");
    let printed = String::from_utf8(output.stdout).expect("text");
    let config: Value = serde_json::from_str(printed.strip_prefix("in\n").expect("its input")).expect("JSON");
    assert_eq!(config["process"]["args"], json!(["echo", "-v"]));
    assert_eq!(config["process"]["cwd"], "/w");
    assert!(config["process"]["env"].as_array().expect("some").contains(&json!("A=b")));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/bundle/rootfs"));
    assert_eq!(left(&wharf), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_are_passed_on() {
    let wharf = with_image().await;
    let script = "trap 'kill $!; exit 9' TERM\ntrap 'echo usr' USR1\nsleep 60 >/dev/null 2>&1 & echo ready\nwait; wait; exit 1";
    let runtime = runtime(&wharf, script);
    let mut child = command(&wharf, &["run", "--runtime", &runtime, "img:1"]).spawn().expect("starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    assert_eq!(lines.next().expect("a line").expect("reads"), "ready");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::USR1).expect("is there");
    assert_eq!(lines.next().expect("a line").expect("reads"), "usr");
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("is there");
    assert_eq!(child.wait().expect("ends").code(), Some(9));
    assert_eq!(left(&wharf), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_run_left_goes_when_its_runtime_has_ended() {
    let wharf = with_image().await;
    let script = "echo ready; read line; exit 0";
    let arguments = ["run", "--runtime", &runtime(&wharf, script), "img:1"];
    let mut child = command(&wharf, &arguments).spawn().expect("starts");
    let input = child.stdin.take().expect("piped");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    assert_eq!(lines.next().expect("a line").expect("reads"), "ready");
    child.kill().and_then(|()| child.wait()).expect("ends");
    let run = || {
        let done = command(&wharf, &arguments).stdin(Stdio::null()).output().expect("starts");
        assert!(done.status.success(), "{done:?}");
        left(&wharf)
    };
    // The runtime still waits for its input.
    assert_eq!((left(&wharf), run()), (1, 1));
    drop(input);
    assert!(lines.next().is_none(), "it has ended");
    assert_eq!(run(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_run_is_told() {
    let wharf = with_image().await;
    let run = |arguments: &[&str]| {
        let output = command(&wharf, arguments).env("PATH", "").output().expect("starts");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, error) = run(&["run", "img:1"]);
    assert!(code == Some(2) && error.contains("install one of crun, runc, youki"), "{error}");
    let (code, error) = run(&["run", "--runtime", "/nonesuch/runc", "img:1"]);
    assert!(code == Some(2) && error.contains("/nonesuch/runc"), "{error}");
    let runtime = runtime(&wharf, "exit 0");
    let (code, error) = run(&["run", "--runtime", &runtime, "missing:1"]);
    assert!(code == Some(2) && error.contains("missing:1"), "{error}");
    let (code, error) = run(&["run", "--runtime", &runtime, "-u", "nobody", "img:1"]);
    assert!(code == Some(3) && error.contains("knows no user"), "{error}");
    let (code, error) = run(&["run", "--runtime", &runtime, "--volume", "/x", "img:1"]);
    assert!(code == Some(3) && error.contains("SOURCE:DEST"), "{error}");
    let (code, error) = run(&["run", "--runtime", &runtime, "-t", "img:1"]);
    assert!(code == Some(3) && error.contains("no terminal"), "{error}");
    assert_eq!(left(&wharf), 0);
    assert_eq!(run(&["run", "--runtime", &runtime, "img:1"]).0, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_is_a_directory() {
    let wharf = with_image().await;
    let place = wharf.path("b");
    assert_eq!(wharf.run(&["bundle", "img:1", &place]).await.succeeded(), format!("{place}\n"));
    assert!(wharf.dir.path().join("b/rootfs").is_dir() && wharf.dir.path().join("b/config.json").is_file());
    let error = wharf.run(&["bundle", "img:1", &place]).await.failed(1);
    assert!(error.contains("is not empty"), "{error}");
    let other = wharf.path("c");
    let printed = wharf.run(&["bundle", "--format", "json", "img:1", &other, "--", "x"]).await.succeeded();
    let printed: Value = serde_json::from_str(&printed).expect("JSON");
    assert_eq!(printed["config"]["process"]["args"], json!(["x"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn images_of_a_layout_are_bundled_and_run_where_they_are() {
    let wharf = with_image().await;
    let layout = format!("oci:{}:it", wharf.path("layout"));
    wharf.run(&["copy", "store:img:1", &layout]).await.succeeded();
    let printed = |name: &str, place: &str| {
        let (arguments, place) = (["bundle", "--format", "json", name].map(str::to_owned), wharf.path(place));
        let wharf = &wharf;
        async move {
            let [a, b, c, d] = &arguments;
            let printed = wharf.run(&[a, b, c, d, &place]).await.succeeded();
            let printed: Value = serde_json::from_str(&printed).expect("JSON");
            (printed["manifest"]["digest"].clone(), printed["config"]["process"].clone())
        }
    };
    assert_eq!(printed(&layout, "one").await, printed("img:1", "two").await);
    assert!(wharf.dir.path().join("one/rootfs").is_dir());
    wharf.run(&["images", "rm", "--sync", "img:1"]).await.succeeded();
    let runtime = runtime(&wharf, "ls \"$bundle\"");
    let done = command(&wharf, &["run", "--runtime", &runtime, &layout]).output().expect("starts");
    assert_eq!(String::from_utf8_lossy(&done.stdout), "config.json\nrootfs\n", "{done:?}");
    let error = wharf.run(&["bundle", &format!("oci:{}:other", wharf.path("layout")), "x"]).await.failed(2);
    assert!(error.contains("other"), "{error}");
}
