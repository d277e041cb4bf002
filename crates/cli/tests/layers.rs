//! Layers as a user meets them: unwrapped by a program, brought and unpacked by an import, and too large.

#![cfg(target_os = "linux")]

mod support;

use std::{
    fs,
    io::{Read, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use support::Wharf;
use wharf_content::Digest;
use wharf_images::{Image, media_types as types};
use wharf_tests::{ImageFixture, Layer, TestRegistry, image::put};

/// A wrapping of the tests' own: each byte with its highest bit turned. It hides nothing from anybody.
const MASKED: &str = "application/vnd.example.layer.v1.tar+gzip+masked";

/// What takes it off again.
const UNMASK: &str = r"exec tr '\000-\377' '\200-\377\000-\177'";

fn host() -> String {
    wharf_platforms::format_all(&wharf_platforms::default_spec())
}

/// A platform that this machine is not.
fn other() -> &'static str {
    if host().starts_with("linux/s390x") { "linux/ppc64le" } else { "linux/s390x" }
}

fn layer(name: &str) -> Layer {
    Layer::of("etc/name", name).with("bin/app", vec![7; 400_000], 0o755)
}

/// An image at a registry, whose only layer is wrapped twice; with a wrong diff id where that is asked for.
async fn masked(registry: &TestRegistry, diff_id: Option<Digest>) -> String {
    let tar = layer("masked").tar();
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(&tar).expect("writing to memory");
    let wrapped: Vec<u8> =
        encoder.finish().expect("writing to memory").into_iter().map(|byte| byte ^ 0x80).collect();
    let platform = wharf_platforms::default_spec();
    let config = json!({
        "os": platform.os, "architecture": platform.architecture, "variant": platform.variant,
        "config": { "Cmd": ["/bin/app"] },
        "rootfs": { "type": "layers", "diff_ids": [diff_id.unwrap_or_else(|| Digest::sha256(&tar))] },
    });
    let blob = async |media_type, bytes| put(registry.store(), media_type, bytes).await.expect("written");
    let config = blob(types::OCI_CONFIG, config.to_string().into_bytes()).await;
    let wrapped = blob(MASKED, wrapped).await;
    let manifest = json!({
        "schemaVersion": 2, "mediaType": types::OCI_MANIFEST, "config": config, "layers": [wrapped],
    });
    let target = blob(types::OCI_MANIFEST, manifest.to_string().into_bytes()).await;
    let name = registry.reference("a/masked:1");
    registry.record(Image::new(&name, target)).await.expect("recorded");
    name
}

/// An image at a registry, whose only layer is stored as it is told.
async fn single(registry: &TestRegistry, name: &str, media_type: &str, stored: &[u8], tar: &[u8]) -> String {
    let platform = wharf_platforms::default_spec();
    let config = json!({
        "os": platform.os, "architecture": platform.architecture, "variant": platform.variant,
        "rootfs": { "type": "layers", "diff_ids": [Digest::sha256(tar)] },
    });
    let blob = async |media_type, bytes| put(registry.store(), media_type, bytes).await.expect("written");
    let config = blob(types::OCI_CONFIG, config.to_string().into_bytes()).await;
    let layer = blob(media_type, stored.to_vec()).await;
    let manifest = json!({
        "schemaVersion": 2, "mediaType": types::OCI_MANIFEST, "config": config, "layers": [layer],
    });
    let target = blob(types::OCI_MANIFEST, manifest.to_string().into_bytes()).await;
    let name = registry.reference(name);
    registry.record(Image::new(&name, target)).await.expect("recorded");
    name
}

/// Installs a program for masked layers, and gives its directory.
fn install(wharf: &Wharf, name: &str, script: &str) -> String {
    let directory = wharf.dir.path().join(name);
    fs::create_dir(&directory).expect("made");
    let manifest = json!({
        "protocol": 1, "name": "unmask", "kind": "layer", "executable": "unmask",
        "mediaTypes": [MASKED], "returns": types::OCI_LAYER_GZIP,
    });
    let put = |file: &str, text: &str, mode: u32| {
        fs::write(directory.join(file), text).expect("written");
        chmod(&directory.join(file), mode);
    };
    put("unmask.json", &manifest.to_string(), 0o644);
    put("unmask", &format!("#!/bin/sh\n{script}\n"), 0o755);
    chmod(wharf.dir.path(), 0o755);
    chmod(&directory, 0o755);
    directory.display().to_string()
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("ours");
}

/// The chain ids that the store has unpacked.
fn unpacked(wharf: &Wharf) -> usize {
    let Ok(entries) = fs::read_dir(wharf.dir.path().join("store/layers")) else { return 0 };
    let names = entries.map(|entry| entry.expect("lists").file_name());
    names.filter(|name| !name.as_encoded_bytes().starts_with(b".")).count()
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

#[tokio::test(flavor = "multi_thread")]
async fn a_program_unwraps_layers_wherever_they_are_read() {
    let registry = TestRegistry::start().await;
    let name = masked(&registry, None).await;
    let wharf = Wharf::new();
    let plugins = install(&wharf, "plugins", UNMASK);
    let run = async |arguments: &[&str]| {
        wharf.run(&[&["--plugin-dir", &plugins], arguments].concat()).await.succeeded()
    };
    // From the registry, before there is anything in the store.
    assert_eq!(run(&["cat", &name, "/etc/name"]).await, "masked");
    assert_eq!(run(&["ls-files", "-q", &name, "/etc"]).await, "/etc\n/etc/name\n");

    let pulled = wharf.run(&["--plugin-dir", &plugins, "pull", "--strict-types", "--unpack", &name]).await;
    assert_eq!(pulled.err(), "", "the type is known");
    pulled.succeeded();
    assert!(is_unpacked(&wharf, &name).await);
    let layer = run(&["unpack", &name]).await;
    assert_eq!(fs::read(Path::new(layer.trim()).join("bin/app")).expect("there"), vec![7; 400_000]);
    let flat = wharf.path("flat");
    run(&["unpack", &name, &flat]).await;
    assert_eq!(fs::read_to_string(Path::new(&flat).join("etc/name")).expect("there"), "masked");
    run(&["bundle", &name, &wharf.path("bundle")]).await;
    assert_eq!(run(&["cat", &name, "/etc/name"]).await, "masked");
    let listed = run(&["plugins"]).await;
    assert!(listed.contains("layer decoder") && listed.contains(MASKED), "{listed}");

    let archive = wharf.path("masked.tar");
    run(&["export", &name, "-o", &archive]).await;
    let into = Wharf::new();
    into.run(&["--plugin-dir", &plugins, "import", "--unpack", &archive]).await.succeeded();
    assert!(is_unpacked(&into, &name).await);

    // Without it the image is kept whole, and is no file system.
    let without = Wharf::new();
    let pulled = without.run(&["pull", &name]).await;
    assert!(pulled.err().contains(MASKED), "{}", pulled.err());
    pulled.succeeded();
    let said = without.run(&["unpack", &name]).await.failed(1);
    assert!(said.contains(MASKED) && said.contains("no layer decoder knows"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_program_gives_is_verified_and_its_failure_told() {
    let registry = TestRegistry::start().await;
    let name = masked(&registry, None).await;
    let wharf = Wharf::new();
    for (at, (script, code, words)) in [
        ("echo 'no \u{1b}[31mkey' >&2; exit 9", 1, &["the plugin \"unmask\"", "exit status: 9", "key"][..]),
        ("exec cat", 5, &["not valid gzip"]),
        ("tr '\\000-\\377' '\\200-\\377\\000-\\177' | head -c 300", 5, &["not valid gzip"]),
        ("echo x | gzip -c", 5, &["diff id mismatch"]),
        ("kill -SEGV $$", 1, &["signal: 11"]),
    ]
    .into_iter()
    .enumerate()
    {
        let plugins = install(&wharf, &format!("plugins{at}"), script);
        let said = wharf.run(&["--plugin-dir", &plugins, "pull", "--unpack", &name]).await.failed(code);
        for word in words {
            assert!(said.contains(word), "{script}: {said}");
        }
        assert!(!said.contains('\u{1b}'), "{said:?}");
        assert_eq!(wharf.run(&["images", "ls", "-q"]).await.succeeded(), "", "{script}");
        assert_eq!(unpacked(&wharf), 0, "{script}");
        assert_eq!(wharf.run(&["lease", "ls", "-q"]).await.succeeded(), "", "{script}");
    }
    let plugins = install(&wharf, "plugins", UNMASK);
    wharf.run(&["--plugin-dir", &plugins, "pull", "--unpack", &name]).await.succeeded();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_command_ends_the_program() {
    let registry = TestRegistry::start().await;
    let name = masked(&registry, None).await;
    let wharf = Wharf::new();
    let plugins = install(&wharf, "plugins", "echo $$ >pid.new; mv pid.new pid; exec sleep 1000");
    let mut command = wharf.command(&["--plugin-dir", &plugins, "pull", "--unpack", &name]);
    let mut child = command.stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it runs");
    let (pid, ended) = tokio::task::spawn_blocking(move || {
        let file = Path::new(&plugins).join("pid");
        let pid = awaited(|| fs::read_to_string(&file).ok()).expect("it starts");
        let id = child.id().to_string();
        assert!(Command::new("kill").args(["-INT", &id]).status().expect("kill runs").success());
        let mut said = String::new();
        child.stderr.take().expect("piped").read_to_string(&mut said).expect("text");
        (pid, (child.wait().expect("it ends").code(), said))
    })
    .await
    .expect("no panic");
    assert_eq!(ended.0, Some(130), "{}", ended.1);
    let gone = awaited(|| {
        let state = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
        (state.is_empty() || state.contains(") Z ")).then_some(())
    });
    assert!(gone.is_some(), "{pid}");
}

/// What there is after a while, if anything.
fn awaited<T>(look: impl Fn() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let found = look();
        if found.is_some() || Instant::now() > deadline {
            return found;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_unpacks_what_a_pull_would() {
    let registry = TestRegistry::start().await;
    let image = ImageFixture::new()
        .with(&host(), vec![layer("base"), Layer::of("etc/name", "mine")])
        .with(other(), vec![layer("base"), Layer::of("etc/name", "other"), Layer::of("more", "x")]);
    let name = registry.put("a/b:1", &image).await.expect("puts");
    let from = Wharf::new();
    from.run(&["pull", "--all-platforms", &name]).await.succeeded();
    let (archive, docker) = (from.path("a.tar"), from.path("docker.tar"));
    from.run(&["export", "--all-platforms", &name, "-o", &archive]).await.succeeded();
    from.run(&["export", "--type", "docker", &name, "-o", &docker]).await.succeeded();
    for (file, arguments, layers) in [
        (&archive, &[][..], 2),
        (&archive, &["--platform", "local"], 2),
        // The lowest layer is the same one.
        (&archive, &["--all-platforms"], 4),
        (&archive, &["--platform", other()], 3),
        (&docker, &[], 2),
    ] {
        let into = Wharf::new();
        let imported = into.run(&[&["import", "--unpack", file], arguments].concat()).await;
        assert_eq!(imported.err(), "");
        assert!(imported.succeeded().starts_with(&name));
        assert_eq!(unpacked(&into), layers, "{arguments:?}");
        assert_eq!(into.run(&["lease", "ls", "-q"]).await.succeeded(), "");
        // The record keeps the layers, and they are not unpacked again.
        into.run(&["gc"]).await.succeeded();
        assert_eq!(unpacked(&into), layers, "{arguments:?}");
        if !arguments.contains(&other()) {
            assert!(is_unpacked(&into, &name).await);
            let again = json_of(&into, &["unpack", &name]).await;
            assert!(again["layers"].as_array().expect("layers").iter().all(|layer| layer["new"] == false));
            let top = again["layers"][1]["directory"].as_str().expect("a path");
            assert_eq!(fs::read_to_string(Path::new(top).join("etc/name")).expect("there"), "mine");
        }
        let twice = [&["import", "--unpack", "--progress", "plain", file], arguments].concat();
        into.run(&twice).await.succeeded();
        into.run(&["images", "rm", "--sync", &name]).await.succeeded();
        assert_eq!(unpacked(&into), 0, "{arguments:?}");
    }
    // Without the flag nothing is unpacked.
    let into = Wharf::new();
    into.run(&["import", &archive]).await.succeeded();
    assert_eq!(unpacked(&into), 0);

    // What this machine cannot run is to be asked for.
    let foreign = from.path("other.tar");
    from.run(&["export", "--platform", other(), &name, "-o", &foreign]).await.succeeded();
    let into = Wharf::new();
    let said = into.run(&["import", "--unpack", &foreign]).await.failed(2);
    assert!(said.contains("--platform"), "{said}");
    assert_eq!(into.run(&["images", "ls", "-q"]).await.succeeded(), "");
    into.run(&["import", "--unpack", "--platform", other(), &foreign]).await.succeeded();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_imported_that_cannot_be_unpacked() {
    let registry = TestRegistry::start().await;
    let name = masked(&registry, Some(Digest::sha256(b"something else"))).await;
    let from = Wharf::new();
    let plugins = install(&from, "plugins", UNMASK);
    from.run(&["pull", &name]).await.succeeded();
    let archive = from.path("a.tar");
    from.run(&["export", &name, "-o", &archive]).await.succeeded();
    let into = Wharf::new();
    let arguments = ["--plugin-dir", &plugins, "import", "--unpack", &archive];
    let said = into.run(&arguments).await.failed(5);
    assert!(said.contains("diff id mismatch") && said.contains(&name), "{said}");
    assert_eq!(into.run(&["images", "ls", "-q"]).await.succeeded(), "");
    assert_eq!(unpacked(&into), 0);
    assert_eq!(into.run(&["lease", "ls", "-q"]).await.succeeded(), "");
    into.run(&["gc"]).await.succeeded();
    assert_eq!(into.run(&["content", "ls", "-q"]).await.succeeded(), "");
    into.run(&["import", &archive]).await.succeeded();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_is_too_large_is_refused_by_a_limit_that_can_be_raised() {
    let registry = TestRegistry::start().await;
    let image = ImageFixture::new().with(&host(), vec![Layer::of("zeros", vec![0; 3 << 20])]);
    let name = registry.put("a/zeros:1", &image).await.expect("puts");
    let wharf = Wharf::new();
    wharf.run(&["pull", &name]).await.succeeded();
    let archive = wharf.path("a.tar");
    wharf.run(&["export", &name, "-o", &archive]).await.succeeded();
    let (small, large) = (["--max-layer-size", "2MiB"], ["--max-layer-size", "4MiB"]);
    let (flat, bundle) = (wharf.path("flat"), wharf.path("bundle"));
    for arguments in [
        &["unpack", &name, &flat][..],
        &["bundle", &name, &bundle],
        &["unpack", &name],
        &["ls-files", &name],
        &["cat", &name, "/zeros"],
        &["pull", "--unpack", &name],
        &["import", "--unpack", &archive],
    ] {
        // Each where nothing was unpacked before.
        let wharf =
            if arguments[0] == "import" || arguments[1] == "--unpack" { &Wharf::new() } else { &wharf };
        let refused = wharf.run(&[arguments, &small].concat()).await;
        assert_eq!(refused.code(), 5, "{arguments:?}: {}", refused.err());
        for words in ["more than 2097152 bytes", "hint: --max-layer-size SIZE"] {
            assert!(refused.err().contains(words), "{arguments:?}: {}", refused.err());
        }
        wharf.run(&[arguments, &large].concat()).await.succeeded();
    }
    let into = Wharf::new();
    let said = into.run(&["import", "--max-size", "1KiB", &archive]).await.failed(5);
    assert!(said.contains("more than 1024 bytes") && said.contains("hint: --max-size SIZE"), "{said}");
    wharf.run(&["unpack", "--max-ratio", "0", &name]).await.failed(3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_is_damaged_is_told_from_one_that_was_made_so() {
    let registry = TestRegistry::start().await;
    let tar = layer("whole").tar();
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(&tar).expect("writing to memory");
    let gzip = encoder.finish().expect("writing to memory");
    let wharf = Wharf::new();
    let flat = wharf.path("flat");
    for (tag, media_type, stored) in
        [("a/gzip:1", types::OCI_LAYER_GZIP, &gzip), ("a/plain:1", types::OCI_LAYER, &tar)]
    {
        let name = single(&registry, tag, media_type, stored, &tar).await;
        wharf.run(&["pull", &name]).await.succeeded();
        let path = wharf.dir.path().join("store/blobs/sha256").join(Digest::sha256(stored).hex());
        let middle = stored.len() / 2;
        let turned = |at: usize| {
            let mut bytes = stored.clone();
            bytes[at] ^= 0xff;
            bytes
        };
        for (how, damaged) in [
            ("at its beginning", turned(1)),
            ("in the middle", turned(middle)),
            ("shorter", stored[..middle].to_vec()),
        ] {
            chmod(&path, 0o644);
            fs::write(&path, damaged).expect("written");
            for command in [
                &["unpack", &name][..],
                &["unpack", &name, &flat],
                &["cat", &name, "/etc/name"],
                &["ls-files", &name],
            ] {
                let said = wharf.run(command).await.failed(5);
                let is_told = said.contains(" is damaged: ") && said.contains("wharf verify --repair");
                assert!(is_told && said.starts_with("error[data loss]"), "{tag} {how}, {command:?}: {said}");
            }
        }
        fs::write(&path, stored).expect("written");
        assert_eq!(wharf.run(&["cat", &name, "/etc/name"]).await.succeeded(), "whole");
    }

    // As somebody has made it.
    for (tag, media_type, stored) in
        [("b/gzip:1", types::OCI_LAYER_GZIP, b"no gzip"), ("b/plain:1", types::OCI_LAYER, b"no tar!")]
    {
        let name = single(&registry, tag, media_type, stored, &tar).await;
        wharf.run(&["pull", &name]).await.succeeded();
        for command in [&["unpack", &name][..], &["unpack", &name, &flat], &["cat", &name, "/etc/name"]] {
            let said = wharf.run(command).await.failed(5);
            assert!(!said.contains("damaged") && !said.contains("hint:"), "{tag}, {command:?}: {said}");
        }
    }
}
