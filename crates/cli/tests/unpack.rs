//! Unpacking into the store, mounting and pulling with `--unpack`, as a user does it. What only root can do is done where the tests run as root,
//! and refused elsewhere.

#![cfg(target_os = "linux")]

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::{Value, json};
use support::{Done, Wharf, stalling};
use wharf_content::{CommitOptions, Descriptor, Digest, LocalStore, Result, Store, read_blob, write_blob};
use wharf_images::{Image, image_store, media_types as types};
use wharf_tests::{ImageFixture, Layer, TestRegistry};

fn host() -> String {
    wharf_platforms::format_all(&wharf_platforms::default_spec())
}

fn base() -> Layer {
    Layer::of("etc/name", "base").with("etc/old", "old", 0o600).with("bin/app", vec![7; 40_000], 0o755)
}

fn image(top: Layer) -> ImageFixture {
    ImageFixture::new().with(&host(), vec![base(), top])
}

fn top(name: &str) -> Layer {
    Layer::of("etc/name", name).with("etc/.wh.old", "", 0o644).with("new/dir/file", name, 0o640).with(
        // It hides nothing: no layer below has the directory.
        "new/dir/.wh.ghost",
        "",
        0o644,
    )
}

async fn put(store: &dyn Store, media_type: &str, bytes: Vec<u8>) -> Result<Descriptor> {
    let descriptor = Descriptor::of(media_type, &bytes);
    let name = descriptor.digest.to_string();
    write_blob(store, &name, &descriptor, bytes.into(), CommitOptions::default()).await?;
    Ok(descriptor)
}

/// What is in the store's place for unpacked layers.
fn layers(wharf: &Wharf) -> Vec<String> {
    let Ok(entries) = fs::read_dir(wharf.dir.path().join("store/layers")) else { return Vec::new() };
    let names = entries.map(|entry| entry.expect("lists").file_name().to_string_lossy().into_owned());
    names.filter(|name| name != ".empty").collect()
}

async fn json_of(wharf: &Wharf, arguments: &[&str]) -> Value {
    let printed = wharf.run(&[arguments, &["--format", "json"]].concat()).await.succeeded();
    serde_json::from_str(&printed).expect("JSON")
}

async fn is_unpacked(wharf: &Wharf, name: &str) -> bool {
    let done = wharf.run(&["images", "check", "--format", "json", name]).await;
    let rows: Value = serde_json::from_str(&done.out()).expect("JSON");
    rows[0]["unpacked"].as_bool().expect("told")
}

/// All below a directory with its mode and content.
fn tree(root: &Path) -> Vec<(String, u32, Vec<u8>)> {
    use std::os::unix::fs::PermissionsExt as _;

    let mut found = Vec::new();
    let mut left = vec![root.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory).expect("lists") {
            let path = entry.expect("lists").path();
            let metadata = fs::symlink_metadata(&path).expect("there");
            let name = path.strip_prefix(root).expect("below").display().to_string();
            let content = if metadata.is_file() { fs::read(&path).expect("reads") } else { Vec::new() };
            found.push((name, metadata.permissions().mode(), content));
            if metadata.is_dir() {
                left.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Ends a mount, whatever the test does.
struct Ended(PathBuf);

impl Drop for Ended {
    fn drop(&mut self) {
        while rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH).is_ok() {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_are_unpacked_once_and_go_with_the_image() {
    let registry = TestRegistry::start().await;
    let (one, two) = (image(top("one")), image(top("two")));
    let one = registry.put("a/one:1", &one).await.expect("puts");
    let two = registry.put("a/two:1", &two).await.expect("puts");
    let wharf = Wharf::new();
    wharf.run(&["pull", &one]).await.succeeded();
    wharf.run(&["pull", &two]).await.succeeded();
    assert!(!is_unpacked(&wharf, &one).await);

    let printed = wharf.run(&["unpack", &one]).await.succeeded();
    let directories: Vec<_> = printed.lines().map(PathBuf::from).collect();
    assert_eq!(directories.len(), 2);
    assert_eq!(fs::read_to_string(directories[0].join("etc/name")).expect("reads"), "one");
    assert_eq!(fs::read_to_string(directories[1].join("etc/name")).expect("reads"), "base");
    assert!(is_unpacked(&wharf, &one).await && !is_unpacked(&wharf, &two).await);

    let unpacked = json_of(&wharf, &["unpack", &two]).await;
    let new: Vec<_> =
        unpacked["layers"].as_array().expect("layers").iter().map(|layer| &layer["new"]).collect();
    assert_eq!(new, [&json!(false), &json!(true)]);
    assert_eq!(unpacked["layers"][0]["directory"], json!(directories[1]));
    let chain_id = wharf.run(&["unpack", "-q", &two]).await.succeeded();
    assert_eq!(json!(chain_id.trim()), unpacked["chainId"]);

    wharf.run(&["images", "rm", "--sync", &one]).await.succeeded();
    assert_eq!(layers(&wharf).len(), 2);
    assert!(!directories[0].exists() && directories[1].exists());
    wharf.run(&["images", "rm", &two]).await.succeeded();
    let gone = wharf.run(&["gc", "--dry-run"]).await.succeeded();
    assert_eq!(gone.lines().filter(|line| line.starts_with("snapshots/wharf/sha256:")).count(), 2, "{gone}");
    assert_eq!(layers(&wharf).len(), 2);
    wharf.run(&["gc"]).await.succeeded();
    assert_eq!(layers(&wharf), [""; 0]);

    let error = wharf.run(&["unpack", "--rootless", "busybox"]).await.failed(3);
    assert!(error.contains("DIR"), "{error}");
    // As another process that is at it has it, which is no matter of the network.
    wharf.run(&["pull", &one]).await.succeeded();
    fs::create_dir(wharf.path(".flat.wharf-unpack")).expect("makes");
    let held = fs::File::open(wharf.path(".flat.wharf-unpack")).expect("opens");
    held.lock().expect("locks");
    let error = wharf.run(&["unpack", &one, &wharf.path("flat")]).await.failed(1);
    assert!(error.contains("another process is unpacking to"), "{error}");
    drop(held);
    wharf.run(&["unpack", &one, &wharf.path("flat")]).await.succeeded();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_shows_what_a_flat_directory_has() {
    let registry = TestRegistry::start().await;
    let name = registry.put("a/one:1", &image(top("one"))).await.expect("puts");
    let wharf = Wharf::new();
    wharf.run(&["pull", &name]).await.succeeded();
    let directory = wharf.dir.path().join("mounted");
    let at = directory.display().to_string();
    fs::create_dir(&directory).expect("makes");
    if !rustix::process::geteuid().is_root() {
        let error = wharf.run(&["mount", &name, &at]).await.failed(4);
        assert!(error.contains("only root can mount"), "{error}");
        return;
    }
    let _ended = Ended(directory.clone());
    let flat = wharf.dir.path().join("flat");
    wharf.run(&["unpack", &name, &flat.display().to_string()]).await.succeeded();
    assert_eq!(wharf.run(&["mount", &name, &at]).await.succeeded(), format!("{at}\n"));
    assert_eq!(tree(&directory), tree(&flat));
    assert!(fs::write(directory.join("x"), "").is_err(), "it is read-only");
    let again = wharf.run(&["mount", &name, &at]).await.failed(1);
    assert!(again.contains("already"), "{again}");

    // The mount keeps its layers when the image goes.
    wharf.run(&["images", "rm", "--sync", &name]).await.succeeded();
    assert_eq!(layers(&wharf).len(), 2);
    assert_eq!(tree(&directory), tree(&flat));
    let page = wharf.run(&["unmount", "--format", "json", &at]).await.succeeded();
    let page: serde_json::Value = serde_json::from_str(&page).expect("JSON");
    assert_eq!(page, serde_json::json!({ "directory": at }));
    assert_eq!(fs::read_dir(&directory).expect("lists").count(), 0);
    wharf.run(&["gc"]).await.succeeded();
    assert_eq!(layers(&wharf), [""; 0]);
    let error = wharf.run(&["unmount", &at]).await.failed(2);
    assert!(error.contains("no image of this store is mounted"), "{error}");
    let error = wharf.run(&["mount", "busybox", &wharf.path("nowhere")]).await.failed(2);
    assert!(error.contains("busybox"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_a_writable_mount_are_kept_until_they_are_removed() {
    let registry = TestRegistry::start().await;
    let name = registry.put("a/one:1", &image(top("one"))).await.expect("puts");
    let other = registry.put("a/two:1", &image(top("two"))).await.expect("puts");
    let wharf = Wharf::new();
    wharf.run(&["pull", "--unpack", &name]).await.succeeded();
    wharf.run(&["pull", "--unpack", &other]).await.succeeded();
    let directory = wharf.dir.path().join("mounted");
    let at = directory.display().to_string();
    fs::create_dir(&directory).expect("makes");
    if !rustix::process::geteuid().is_root() {
        wharf.run(&["mount", "--rw", &name, &at]).await.failed(4);
        return;
    }
    let _ended = Ended(directory.clone());
    let done = wharf.run(&["mount", "--rw", &name, &at]).await;
    assert!(done.err().contains("changes are kept in"), "{}", done.err());
    done.succeeded();
    fs::write(directory.join("etc/name"), "changed").expect("writes");
    let error = wharf.run(&["unmount", &wharf.path("store")]).await.failed(2);
    assert!(error.contains("store"), "{error}");
    // Somebody is in it.
    let open = fs::File::open(directory.join("etc/name")).expect("opens");
    let error = wharf.run(&["unmount", &at]).await.failed(1);
    assert!(error.contains("somebody uses"), "{error}");
    drop(open);
    wharf.run(&["unmount", &at]).await.succeeded();

    let error = wharf.run(&["mount", "--rw", &other, &at]).await.failed(5);
    assert!(error.contains("changes of another image") && error.contains("unmount --rm"), "{error}");
    wharf.run(&["mount", &other, &at]).await.succeeded();
    assert_eq!(fs::read_to_string(directory.join("etc/name")).expect("reads"), "two");
    wharf.run(&["unmount", &at]).await.succeeded();
    wharf.run(&["mount", "--rw", &name, &at]).await.succeeded();
    assert_eq!(fs::read_to_string(directory.join("etc/name")).expect("reads"), "changed");
    wharf.run(&["unmount", "--rm", &at]).await.succeeded();
    wharf.run(&["mount", "--rw", &name, &at]).await.succeeded();
    assert_eq!(fs::read_to_string(directory.join("etc/name")).expect("reads"), "one");
    wharf.run(&["unmount", "--rm", &at]).await.succeeded();
}

#[tokio::test]
async fn what_is_not_mounted_is_not_unmounted() {
    let wharf = Wharf::new();
    let (directory, file, gone) = (wharf.path("here"), wharf.path("file"), wharf.path("gone"));
    fs::create_dir(&directory).expect("makes");
    fs::create_dir(&gone).expect("makes");
    fs::write(&file, "").expect("writes");
    for place in [directory, wharf.path("nodir")] {
        let error = wharf.run(&["unmount", &place]).await.failed(2);
        assert!(error.contains(" mounted ") && !error.contains("make it"), "{error}");
        assert!(error.contains("hint: `wharf unmount --rm DIR` removes what was left"), "{error}");
        let error = wharf.run(&["unmount", "--rm", &place]).await.failed(2);
        assert!(error.contains("no changes are kept") && !error.contains("hint: "), "{error}");
    }
    for place in [&file, &format!("{file}/x")] {
        assert!(wharf.run(&["unmount", place]).await.failed(3).contains("is no directory"));
    }
    // Nobody knows where that was.
    let line = format!("cd {gone} && rmdir {gone} && exec {} unmount --rm x", env!("CARGO_BIN_EXE_wharf"));
    let mut command = Command::new("sh");
    command.args(["-c", &line]).env("WHARF_ROOT", wharf.path("store")).env("WHARF_PLUGIN_DIR", "");
    let error = Done(command.output().expect("a shell")).failed(2);
    assert!(
        error.contains("there is no directory x: name the one that was there by its full path"),
        "{error}"
    );
    assert!(!error.contains("hint: "), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_that_are_kept_can_be_removed_when_nothing_is_mounted() {
    let registry = TestRegistry::start().await;
    let name = registry.put("a/one:1", &image(top("one"))).await.expect("puts");
    let wharf = Wharf::new();
    wharf.run(&["pull", "--unpack", &name]).await.succeeded();
    let directory = wharf.dir.path().join("mounted");
    let at = directory.display().to_string();
    fs::create_dir(&directory).expect("makes");
    if !rustix::process::geteuid().is_root() {
        wharf.run(&["unmount", "--rm", &at]).await.failed(2);
        return;
    }
    let _ended = Ended(directory.clone());
    let kept =
        || fs::read_dir(wharf.dir.path().join("store/mounts")).map_or(0, |entries| entries.flatten().count());
    for is_there in [true, false] {
        wharf.run(&["mount", "--rw", &name, &at]).await.succeeded();
        fs::write(directory.join("etc/name"), "changed").expect("writes");
        wharf.run(&["unmount", &at]).await.succeeded();
        // Without --rm there is nothing to be done, and elsewhere nothing was.
        wharf.run(&["unmount", &at]).await.failed(2);
        let error = wharf.run(&["unmount", "--rm", &wharf.path("store")]).await.failed(2);
        assert!(error.contains("no changes are kept"), "{error}");
        wharf.run(&["unmount", "--rm", &wharf.path("nowhere/at/all")]).await.failed(2);
        assert_eq!(kept(), 1);
        if is_there {
            // By another name of the same directory.
            wharf.run(&["unmount", "--rm", &wharf.path("store/../mounted/")]).await.succeeded();
        } else {
            fs::remove_dir(&directory).expect("empty");
            wharf.run(&["unmount", "--rm", &at]).await.succeeded();
        }
        assert_eq!(kept(), 0);
        wharf.run(&["unmount", "--rm", &at]).await.failed(2);
    }

    // A mount whose lease somebody has removed still writes there.
    fs::create_dir(&directory).expect("makes");
    wharf.run(&["mount", "--rw", &name, &at]).await.succeeded();
    let lease = wharf.run(&["lease", "ls", "-q"]).await.succeeded();
    wharf.run(&["lease", "rm", lease.trim()]).await.succeeded();
    let error = wharf.run(&["unmount", "--rm", &at]).await.failed(5);
    assert!(error.contains("does not know"), "{error}");
    assert_eq!(kept(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_unpacks_and_fetches_no_layer_that_is_unpacked() {
    let registry = TestRegistry::start().await;
    // Twice the same layer, which is two in a chain.
    let twice = ImageFixture::new().with(&host(), vec![base(), top("one"), top("one")]);
    let one = registry.put("a/one:1", &twice).await.expect("puts");
    let two = registry.put("a/two:1", &image(top("two"))).await.expect("puts");
    let wharf = Wharf::new();
    let events = wharf.run(&["pull", "--unpack", "--progress", "json", &one]).await;
    assert!(events.err().contains(r#""event":"extracted""#), "{}", events.err());
    events.succeeded();
    assert!(is_unpacked(&wharf, &one).await);
    assert_eq!(layers(&wharf).len(), 3);
    assert_eq!(wharf.run(&["lease", "ls", "-q"]).await.succeeded(), "", "no lease is left");
    let directories = wharf.run(&["unpack", &one]).await.succeeded();
    assert_eq!(directories.lines().count(), 3);

    // Nothing is there but the unpacked layers, once the blobs of the first image are gone.
    let target = registry.image(&two).await.expect("there").target;
    let manifest = read_blob(registry.store(), &target, 1 << 20).await.expect("reads");
    let manifest: Value = serde_json::from_slice(&manifest).expect("JSON");
    let digest = manifest["layers"][0]["digest"].as_str().expect("a digest").to_owned();
    wharf.run(&["content", "rm", &digest]).await.succeeded();
    registry.take_log();
    let events = wharf.run(&["pull", "--unpack", "--progress", "json", &two]).await;
    assert!(events.err().contains(r#""why":"unpacked""#), "{}", events.err());
    events.succeeded();
    let asked: Vec<_> = registry.take_log().into_iter().map(|record| record.path).collect();
    assert!(asked.iter().all(|path| !path.ends_with(&digest)), "{asked:?}");
    let fetched = manifest["layers"][1]["digest"].as_str().expect("a digest");
    assert!(asked.iter().any(|path| path.ends_with(fetched)), "{asked:?}");
    assert!(is_unpacked(&wharf, &two).await);
    assert_eq!(layers(&wharf).len(), 4);
    // A pull that does not unpack has all of it.
    wharf.run(&["pull", &two]).await.succeeded();
    wharf.run(&["images", "check", &two]).await.succeeded();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_with_another_diff_id_is_not_recorded() {
    let registry = TestRegistry::start().await;
    let name = registry.put("a/one:1", &image(top("one"))).await.expect("puts");
    let target = registry.image(&name).await.expect("there").target;
    let manifest = read_blob(registry.store(), &target, 1 << 20).await.expect("reads");
    let mut manifest: Value = serde_json::from_slice(&manifest).expect("JSON");
    let config = serde_json::from_value(manifest["config"].clone()).expect("a descriptor");
    let config = read_blob(registry.store(), &config, 1 << 20).await.expect("reads");
    let mut config: Value = serde_json::from_slice(&config).expect("JSON");
    for (change, what) in
        [(json!(Digest::sha256(b"other")), "diff id mismatch"), (Value::Null, "the manifest has 2 layers")]
    {
        let diff_ids = config["rootfs"]["diff_ids"].as_array_mut().expect("a list");
        diff_ids.pop();
        diff_ids.extend((!change.is_null()).then_some(change));
        let bytes = config.to_string().into_bytes();
        let descriptor = put(registry.store(), types::OCI_CONFIG, bytes).await.expect("puts");
        manifest["config"] = serde_json::to_value(descriptor).expect("JSON");
        let bytes = manifest.to_string().into_bytes();
        let target = put(registry.store(), types::OCI_MANIFEST, bytes).await.expect("puts");
        let bad = registry.reference("a/bad:1");
        registry.record(Image::new(bad.clone(), target)).await.expect("records");
        let wharf = Wharf::new();
        let error = wharf.run(&["pull", "--unpack", &bad]).await.failed(5);
        assert!(error.contains(what), "{error}");
        assert_eq!(wharf.run(&["images", "ls", "-q"]).await.succeeded(), "");
        assert!(layers(&wharf).iter().all(|name| name.starts_with('.')), "{:?}", layers(&wharf));
        // The good one is unpacked in the same store, and nothing is left of the other.
        wharf.run(&["pull", "--unpack", &name]).await.succeeded();
        assert!(layers(&wharf).iter().all(|name| !name.starts_with('.')), "{:?}", layers(&wharf));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_killed_is_gone_with_the_next() {
    let registry = TestRegistry::start().await;
    let fixture = ImageFixture::new().with(&host(), vec![top("one"), Layer::noise("data", 300_000, 1)]);
    let name = registry.put("a/one:1", &fixture).await.expect("puts");
    let stalled = stalling(&registry, &registry.image(&name).await.expect("there"), 100_000).await;
    let wharf = Wharf::new();
    let mut command = wharf.command(&["pull", "--unpack", &format!("{}/a/one:1", stalled.address())]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program runs");
    // The first layer is unpacked while the second one does not come.
    let is_staged = || {
        layers(&wharf)
            .iter()
            .any(|name| wharf.dir.path().join("store/layers").join(name).join("layer.json").exists())
    };
    for _ in 0..1000 {
        if is_staged() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let was_staged = is_staged();
    child.kill().expect("kills");
    child.wait().expect("ends");
    assert!(was_staged);
    assert!(layers(&wharf).iter().all(|name| name.starts_with(".new-")), "{:?}", layers(&wharf));
    assert_eq!(wharf.run(&["images", "ls", "-q"]).await.succeeded(), "");

    wharf.run(&["pull", "--unpack", &name]).await.succeeded();
    assert_eq!(layers(&wharf).len(), 2);
    assert!(is_unpacked(&wharf, &name).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_image_goes_by() {
    let registry = TestRegistry::start().await;
    let config =
        put(registry.store(), "application/vnd.oci.empty.v1+json", b"{}".to_vec()).await.expect("puts");
    let blob = put(registry.store(), "application/x-thing", b"thing".to_vec()).await.expect("puts");
    let manifest = json!({ "schemaVersion": 2, "mediaType": types::OCI_MANIFEST, "artifactType": "application/x-thing",
        "config": config, "layers": [blob] });
    let target =
        put(registry.store(), types::OCI_MANIFEST, manifest.to_string().into_bytes()).await.expect("puts");
    let name = registry.reference("a/thing:1");
    registry.record(Image::new(name.clone(), target)).await.expect("records");
    let wharf = Wharf::new();
    wharf.run(&["pull", "--unpack", "--all-platforms", &name]).await.succeeded();
    assert_eq!(layers(&wharf), [""; 0]);
    wharf.run(&["images", "check", &name]).await.succeeded();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_is_none_is_no_failure_of_the_disk_and_no_mistake_in_the_arguments() {
    for (bytes, what) in [(&b"no gzip"[..], "not valid gzip"), (&[0x1f, 0x8b, 8][..], "not valid gzip")] {
        let wharf = Wharf::new();
        let store = LocalStore::open(wharf.dir.path().join("store")).await.expect("opens");
        let layer = put(&store, types::OCI_LAYER_GZIP, bytes.to_vec()).await.expect("writes");
        let config = json!({
            "architecture": wharf_platforms::default_spec().architecture, "os": "linux", "config": { "Cmd": ["x"] },
            "rootfs": { "type": "layers", "diff_ids": [Digest::sha256(b"")] },
        });
        let config = put(&store, types::OCI_CONFIG, config.to_string().into_bytes()).await.expect("writes");
        let manifest = json!({
            "schemaVersion": 2, "mediaType": types::OCI_MANIFEST, "config": config, "layers": [layer],
        });
        let target =
            put(&store, types::OCI_MANIFEST, manifest.to_string().into_bytes()).await.expect("writes");
        let images = image_store(&store).expect("has images");
        images.create(Image::new("docker.io/library/bad:1", target)).await.expect("creates");
        let directory = wharf.path("out");
        for arguments in [
            &["unpack", "bad:1"][..],
            &["unpack", "docker://bad:1", &directory],
            &["bundle", "bad:1", &directory],
            &["ls-files", "--local", "bad:1"],
        ] {
            let told = wharf.run(arguments).await.failed(5);
            assert!(told.contains(what), "{arguments:?}: {told}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_in_the_store_is_to_be_pulled() {
    let wharf = Wharf::new();
    let directory = wharf.path("out");
    for arguments in [
        &["unpack", "q.example/a:1"][..],
        &["unpack", "docker://q.example/a:1", &directory],
        &["bundle", "q.example/a:1", &directory],
        &["mount", "q.example/a:1", &directory],
    ] {
        let told = wharf.run(arguments).await.failed(2);
        assert!(told.contains("hint: `wharf pull q.example/a:1` fetches it"), "{arguments:?}: {told}");
    }
}
