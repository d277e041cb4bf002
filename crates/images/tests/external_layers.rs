//! Plugins outside the process that unwrap layers, as scripts of /bin/sh: what they are given, what comes out, and what ends them.

use std::{
    fs,
    io::{self, Cursor, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use wharf_images::{
    Catalogue, Descriptor, Error, ErrorKind, Kind, Result,
    content::{CommitOptions, MemoryStore, plugin::Registration, write_blob},
    decode::ManifestDecoders,
    diff_id,
    external::{PluginOptions, Plugins},
    layer::{LayerDecoder, LayerDecoders, LayerOptions, LayerStream, Unwrap, read_error, unwrap},
};

const PLAIN: &str = "application/x-layer";
const MASKED: &str = "application/x-layer+masked";

/// What every layer is in the end.
#[derive(Debug)]
struct Plain;

impl LayerDecoder for Plain {
    fn decode(&self, _: &str, _: &Descriptor, stream: LayerStream) -> Result<Unwrap> {
        Ok(Unwrap::Plain(stream))
    }
}

fn plain() -> Catalogue {
    let (plain, keys) = (Arc::new(Plain), [PLAIN.to_owned()]);
    Catalogue::empty().with(Registration::<LayerDecoders>::shared("plain", keys, 0, module_path!(), plain))
}

/// A directory of plugins.
struct Directory(tempfile::TempDir);

impl Directory {
    /// A directory with one plugin that unmasks.
    fn with(script: &str) -> Self {
        Self::new().put("unmask", &manifest("unmask", MASKED, PLAIN), script)
    }

    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        chmod(directory.path(), 0o755);
        Self(directory)
    }

    fn put(self, name: &str, manifest: &Value, script: &str) -> Self {
        fs::write(self.path(&format!("{name}.json")), manifest.to_string()).expect("written");
        chmod(&self.path(&format!("{name}.json")), 0o644);
        fs::write(self.path(name), format!("#!/bin/sh\n{script}\n")).expect("written");
        chmod(&self.path(name), 0o755);
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn plugins(&self, options: PluginOptions) -> Plugins {
        let mut plugins = Plugins::new(options);
        let problems = plugins.load(self.0.path()).expect("a directory that is ours");
        assert!(problems.is_empty(), "{problems:?}");
        plugins
    }

    fn read(&self, media_type: &str, stored: &[u8], options: LayerOptions) -> Result<Vec<u8>> {
        let catalogue = self.plugins(PluginOptions::default()).register(plain());
        let layer = Descriptor::of(media_type, stored);
        let layer = unwrap(&layer, Cursor::new(stored.to_vec()), &catalogue, &options)?;
        assert_eq!(layer.media_type, PLAIN);
        read_all(layer.stream)
    }

    fn unmask(&self, stored: &[u8]) -> Result<Vec<u8>> {
        self.read(MASKED, stored, LayerOptions::default())
    }

    fn pid(&self) -> String {
        let pid = fs::read_to_string(self.path("pid")).expect("written");
        pid.trim().to_owned()
    }
}

fn read_all(mut stream: LayerStream) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).map_err(|error| read_error("cannot read", error))?;
    Ok(bytes)
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("ours");
}

fn manifest(name: &str, from: &str, to: &str) -> Value {
    json!({
        "protocol": 1, "name": name, "kind": "layer", "executable": name, "mediaTypes": [from], "returns": to,
    })
}

fn with(field: &str, value: impl Into<Value>) -> Value {
    let mut manifest = manifest("unmask", MASKED, PLAIN);
    manifest[field] = value.into();
    manifest
}

/// Whether a process has ended, at least as far as a zombie.
fn is_gone(pid: &str) -> bool {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        if state.is_empty() || state.contains(") Z ") {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

#[track_caller]
fn fails(outcome: Result<Vec<u8>>, kind: ErrorKind, words: &[&str]) {
    let error = outcome.map(|bytes| bytes.len()).expect_err("fails");
    let report = error.report();
    assert_eq!(error.kind(), kind, "{report}");
    for word in words {
        assert!(report.contains(word), "{word}: {report}");
    }
    assert!(!report.contains('\u{1b}'), "{report:?}");
}

/// Bytes of no pattern that a pipe would hold.
fn long() -> Vec<u8> {
    (0..1_000_000_u32).flat_map(|number| (number.wrapping_mul(2_654_435_761)).to_le_bytes()).collect()
}

#[test]
fn what_comes_out_is_looked_at_again() {
    let (plain, masked) = (b"Hello, layer", b"Uryyb, ynlre");
    let rot13 = "exec tr A-Za-z N-ZA-Mn-za-m";
    let directory = Directory::with(rot13).put(
        "turn",
        &manifest("turn", "application/x-layer+masked+turned", MASKED),
        "exec tr a-z b-za",
    );
    assert_eq!(directory.unmask(masked).expect("unmasks"), plain);
    let turned: Vec<u8> = masked
        .iter()
        .map(|byte| if byte.is_ascii_lowercase() { (byte - b'a' + 25) % 26 + b'a' } else { *byte })
        .collect();
    let twice = directory.read("application/x-layer+masked+turned", &turned, LayerOptions::default());
    assert_eq!(twice.expect("unwraps"), plain);
    assert_eq!(directory.unmask(b"").expect("nothing of nothing"), b"");

    // More than pipes hold, through two of them, and of all bytes.
    let directory = Directory::with("exec cat").put(
        "turn",
        &manifest("turn", "application/x-layer+masked+turned", MASKED),
        "cat | cat",
    );
    let through = directory.read("application/x-layer+masked+turned", &long(), LayerOptions::default());
    assert!(through.expect("unwraps") == long());
}

#[test]
fn a_plugin_is_given_what_its_manifest_says() {
    let mut manifest = with("arguments", json!(["-d", "two words", "$HOME"]));
    manifest["environment"] = json!(["CARGO_PKG_NAME", "WHARF_NO_SUCH_VARIABLE", "PATH"]);
    let script = r#"for argument; do echo "$argument"; done >arguments; env >env; pwd >pwd; exec cat"#;
    let directory = Directory::new().put("unmask", &manifest, script);
    assert_eq!(directory.unmask(b"layer").expect("unmasks"), b"layer");
    let text = |name: &str| fs::read_to_string(directory.path(name)).expect("written");
    assert_eq!(text("arguments"), "-d\ntwo words\n$HOME\n");
    assert_eq!(Path::new(text("pwd").trim()), directory.0.path().canonicalize().expect("there"));
    let environment = text("env");
    let variables: Vec<_> = environment.lines().filter_map(|line| line.split_once('=')).collect();
    let value = |name: &str| variables.iter().find(|(found, _)| *found == name).map(|(_, value)| *value);
    assert_eq!(value("STREAM_PROCESSOR_MEDIATYPE"), Some(MASKED));
    assert_eq!(value("CARGO_PKG_NAME"), Some("wharf-images"));
    assert_eq!(value("LC_ALL"), Some("C.UTF-8"));
    let descriptor: Descriptor =
        serde_json::from_str(value("WHARF_LAYER_DESCRIPTOR").expect("there")).expect("a descriptor");
    assert_eq!(descriptor, Descriptor::of(MASKED, b"layer"));
    let known = ["STREAM_PROCESSOR_MEDIATYPE", "WHARF_LAYER_DESCRIPTOR", "CARGO_PKG_NAME", "PATH", "LC_ALL"];
    // The shell adds some of its own.
    let shell = ["PWD", "OLDPWD", "SHLVL", "_"];
    for (name, _) in &variables {
        assert!(known.contains(name) || shell.contains(name), "{name} has no business there");
    }

    let mut layer = Descriptor::of(MASKED, b"layer");
    layer = layer.with_annotation("key", "x".repeat(130_000));
    let catalogue = directory.plugins(PluginOptions::default()).register(plain());
    let outcome = unwrap(&layer, Cursor::new(b"layer"), &catalogue, &LayerOptions::default());
    fails(outcome.map(|_| Vec::new()), ErrorKind::ResourceExhausted, &["descriptor of more than"]);
}

#[test]
fn its_media_types_are_known_as_leaves_unless_they_are_known_already() {
    let directory = Directory::with("exec cat");
    let catalogue = directory.plugins(PluginOptions::default()).register(plain());
    let decoder = catalogue.find::<ManifestDecoders>(MASKED).expect("no conflict").expect("known");
    assert_eq!(decoder.kind(), Kind::Leaf);
    assert!(catalogue.find::<ManifestDecoders>(PLAIN).expect("no conflict").is_none());

    let encrypted = wharf_images::media_types::OCI_LAYER_GZIP_ENCRYPTED;
    let directory = Directory::new().put("unmask", &with("mediaTypes", json!([encrypted])), "exec cat");
    let catalogue = directory.plugins(PluginOptions::default()).register(Catalogue::linked().clone());
    assert!(catalogue.find::<LayerDecoders>(encrypted).expect("no conflict").is_some());
    let decoder = catalogue.find::<ManifestDecoders>(encrypted).expect("no conflict").expect("known");
    let described = decoder.decode(&Descriptor::of(encrypted, b""), b"").expect("decodes");
    assert_eq!(described.description.as_deref(), Some("encrypted"), "the built-in one");
}

#[test]
fn a_failure_is_told_with_the_last_that_was_said() {
    let label = &["the plugin \"unmask\" (", "unmask.json", "sha256:"];
    let internal = |script: &str, words: &[&str]| {
        let outcome = Directory::with(script).unmask(&long());
        fails(outcome, ErrorKind::Internal, &[&label[..], words].concat());
    };
    internal("echo 'no \u{1b}[31mkey' >&2; exit 3", &["exit status: 3", "it said \"no \\u{1b}[31mkey\""]);
    internal("cat; exit 4", &["exit status: 4"]);
    internal("head -c 70000; echo torn >&2; exit 1", &["exit status: 1", "\"torn\""]);
    internal("kill -9 $$", &["signal: 9"]);
    // Who writes on and on is not waited for by who reads the other end.
    internal(
        "head -c 1000000 /dev/zero | tr '\\0' e >&2; echo end >&2; cat; exit 5",
        &["status: 5", "eeend"],
    );
    // A program of its own dies of a closed pipe, and is not taken for one that has ended well.
    internal("set -e; (cat; exit 7) | head -c 5; exit 7", &["exit status: 7"]);

    let directory = Directory::with("exec cat");
    let plugins = directory.plugins(PluginOptions::default());
    fs::remove_file(directory.path("unmask")).expect("removed");
    let layer = Descriptor::of(MASKED, b"layer");
    let catalogue = plugins.register(plain());
    let error = unwrap(&layer, Cursor::new(b"layer"), &catalogue, &LayerOptions::default());
    let error = error.map(drop).expect_err("gone");
    assert!(error.report().contains("cannot run "), "{}", error.report());
}

#[test]
fn what_is_said_without_a_failure_is_none() {
    let directory = Directory::with("head -c 1000000 /dev/zero >&2; exec cat");
    assert_eq!(directory.unmask(b"layer").expect("unmasks"), b"layer");
}

#[test]
fn who_needs_only_the_start_of_a_layer_has_it_read_to_its_end() {
    // The shell and what it starts close their input while there is more of it than a pipe holds.
    let directory = Directory::with("exec head -c 5");
    assert_eq!(directory.unmask(&long()).expect("unmasks"), &long()[..5]);
    assert_eq!(directory.unmask(b"layer and more").expect("unmasks"), b"layer");
    let directory = Directory::with("exec </dev/null; echo fixed");
    assert_eq!(directory.unmask(&long()).expect("unmasks"), b"fixed\n");
    // A layer that is shorter than its descriptor says is still told.
    let catalogue = directory.plugins(PluginOptions::default()).register(plain());
    let layer = Descriptor::of(MASKED, &long());
    let cut = Cursor::new(long()[..700_000].to_vec());
    let layer = unwrap(&layer, cut, &catalogue, &LayerOptions::default()).expect("opens");
    fails(read_all(layer.stream), ErrorKind::FailedPrecondition, &["ends after 700000 of its bytes"]);
}

#[test]
fn who_does_nothing_is_ended() {
    for script in [
        "echo $$ >pid; exec sleep 1000",
        "echo $$ >pid; cat >/dev/null; exec sleep 1000",
        "echo $$ >pid; echo start; exec sleep 1000",
        "echo $$ >pid; exec >&-; exec sleep 1000",
    ] {
        let directory = Directory::new().put("unmask", &with("timeLimit", 0.3), script);
        let outcome = directory.unmask(&long());
        fails(outcome, ErrorKind::ResourceExhausted, &["did nothing for 0.3 s", "timeLimit", "\"unmask\""]);
        assert!(is_gone(&directory.pid()), "{script}");
    }
    let directory = Directory::with("echo $$ >pid; echo waiting for a key >&2; exec sleep 1000");
    let plugins = directory.plugins(PluginOptions::default().with_stall_limit(Duration::from_millis(300)));
    let layer = Descriptor::of(MASKED, b"layer");
    let opened = unwrap(&layer, Cursor::new(b"layer"), &plugins.register(plain()), &LayerOptions::default());
    let outcome = read_all(opened.expect("starts").stream);
    fails(outcome, ErrorKind::ResourceExhausted, &["for 0.3 s", "it said \"waiting for a key\""]);
    assert!(is_gone(&directory.pid()));
}

/// Gives a byte at a time, after a while.
struct Slow(u8);

impl Read for Slow {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.0 == 0 {
            return Ok(0);
        }
        thread::sleep(Duration::from_millis(400));
        self.0 -= 1;
        buffer[0] = b'a';
        Ok(1)
    }
}

#[test]
fn who_waits_for_the_layer_itself_is_not_to_blame() {
    let directory = Directory::new().put("unmask", &with("timeLimit", 0.1), "exec cat");
    let catalogue = directory.plugins(PluginOptions::default()).register(plain());
    let layer = Descriptor::of(MASKED, b"aaa");
    let layer = unwrap(&layer, Slow(3), &catalogue, &LayerOptions::default()).expect("opens");
    assert_eq!(read_all(layer.stream).expect("unmasks"), b"aaa");
}

#[test]
fn who_floods_ends_at_the_limits() {
    let limits = LayerOptions::default().with_max_len(10_000_000);
    let directory = Directory::with("echo $$ >pid; exec cat /dev/zero");
    let outcome = directory.read(MASKED, b"layer", limits);
    fails(outcome, ErrorKind::ResourceExhausted, &["more than 10000000 bytes"]);
    assert!(is_gone(&directory.pid()));

    // Nothing of it comes out of the second one.
    let directory = Directory::with("exec cat >/dev/null").put(
        "turn",
        &manifest("turn", "application/x-layer+masked+turned", MASKED),
        "echo $$ >pid; exec cat /dev/zero",
    );
    let outcome = directory.read("application/x-layer+masked+turned", b"layer", limits);
    fails(outcome, ErrorKind::ResourceExhausted, &["more than 10000000 bytes"]);
    assert!(is_gone(&directory.pid()));
}

#[test]
fn the_ratio_counts_for_programs_too() {
    let directory = Directory::with("exec cat /dev/zero");
    let outcome = {
        let catalogue = directory.plugins(PluginOptions::default()).register(plain());
        let layer = Descriptor::of(MASKED, b"layer");
        let layer =
            unwrap(&layer, Cursor::new(b"layer"), &catalogue, &LayerOptions::default()).expect("opens");
        let mut stream = layer.stream;
        io::copy(&mut stream, &mut io::sink()).map_err(|error| read_error("cannot read", error))
    };
    fails(
        outcome.map(|_| Vec::new()),
        ErrorKind::ResourceExhausted,
        &["more than 1100 times its size", "out of 5, as a decompression bomb does"],
    );
}

/// Fails after some bytes.
struct Broken(usize);

impl Read for Broken {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.0 == 0 {
            return Err(io::Error::other(Error::unavailable("the line is cut")));
        }
        let count = buffer.len().min(self.0);
        buffer[..count].fill(b'a');
        self.0 -= count;
        Ok(count)
    }
}

#[test]
fn a_layer_that_fails_is_told_and_not_what_was_made_of_its_half() {
    for script in ["exec cat", "cat >/dev/null; echo whole", "echo early; exec cat >/dev/null"] {
        for after in [0, 5, 300_000] {
            let directory = Directory::with(script);
            let catalogue = directory.plugins(PluginOptions::default()).register(plain());
            let layer = Descriptor::of(MASKED, b"layer");
            let layer = unwrap(&layer, Broken(after), &catalogue, &LayerOptions::default()).expect("opens");
            fails(read_all(layer.stream), ErrorKind::Unavailable, &["the line is cut"]);
        }
    }
}

#[test]
fn who_is_not_read_any_more_is_ended_with_all_that_it_started() {
    let directory = Directory::with("sleep 1000 & echo $! >pid; exec cat /dev/zero");
    let catalogue = directory.plugins(PluginOptions::default()).register(plain());
    let layer = Descriptor::of(MASKED, b"layer");
    let mut layer =
        unwrap(&layer, Cursor::new(b"layer"), &catalogue, &LayerOptions::default()).expect("opens");
    layer.stream.read_exact(&mut [0; 1000]).expect("reads");
    drop(layer);
    assert!(is_gone(&directory.pid()));

    // So is what is left behind by who has ended.
    let directory = Directory::with("sleep 1000 & echo $! >pid; exec cat");
    assert_eq!(directory.unmask(b"layer").expect("unmasks"), b"layer");
    assert!(is_gone(&directory.pid()));
}

#[test]
fn who_leaves_its_output_to_another_session_is_told() {
    let script = "setsid sh -c 'echo $$ >pid; exec sleep 1000' & while [ ! -s pid ]; do :; done; echo done";
    let directory = Directory::new().put("unmask", &with("timeLimit", 0.3), script);
    let outcome = directory.unmask(b"layer");
    let pid = directory.pid();
    Command::new("kill").args(["-9", &pid]).status().expect("kill");
    fails(outcome, ErrorKind::Internal, &["left a process behind that keeps its output open"]);
    assert!(is_gone(&pid));
}

#[test]
fn all_are_stopped_at_once() {
    let directory = Directory::with("echo $$ >pid.new; mv pid.new pid; echo start; exec sleep 1000");
    let plugins = directory.plugins(PluginOptions::default());
    let catalogue = plugins.register(plain());
    let layer = Descriptor::of(MASKED, b"layer");
    let mut opened =
        unwrap(&layer, Cursor::new(b"layer"), &catalogue, &LayerOptions::default()).expect("opens");
    let (sender, receiver) = mpsc::channel();
    let reader = thread::spawn(move || {
        opened.stream.read_exact(&mut [0; 6]).expect("starts");
        sender.send(()).expect("awaited");
        read_all(opened.stream)
    });
    receiver.recv().expect("it has started");
    plugins.stop();
    fails(reader.join().expect("no panic"), ErrorKind::Aborted, &["was stopped"]);
    assert!(is_gone(&directory.pid()));
    let again = unwrap(&layer, Cursor::new(b"layer"), &catalogue, &LayerOptions::default());
    fails(again.map(|_| Vec::new()), ErrorKind::Aborted, &["was stopped"]);
}

#[test]
fn circles_are_refused_and_unknown_types_told() {
    let directory = Directory::new()
        .put("there", &manifest("there", "x/there", "x/back"), "exec cat")
        .put("back", &manifest("back", "x/back", "x/there"), "exec cat")
        .put("out", &manifest("out", "x/out", "x/unknown"), "exec cat");
    let outcome = directory.read("x/there", b"layer", LayerOptions::default());
    fails(outcome, ErrorKind::Conflict, &["\"x/there\" -> \"x/back\" -> \"x/there\""]);
    let outcome = directory.read("x/out", b"layer", LayerOptions::default());
    fails(outcome, ErrorKind::NotImplemented, &["\"x/unknown\", found in \"x/out\""]);
    let outcome = directory.read("x/out", b"layer", LayerOptions::default().with_max_wrappings(0));
    fails(outcome, ErrorKind::ResourceExhausted, &["more than 0 times"]);
}

#[tokio::test]
async fn diff_ids_are_those_of_what_comes_out() {
    let directory = Directory::with("exec tr A-Za-z N-ZA-Mn-za-m");
    let catalogue = directory.plugins(PluginOptions::default()).register(plain());
    let store = MemoryStore::new();
    let layer = Descriptor::of(MASKED, b"ynlre");
    let written = write_blob(&store, "layer", &layer, "ynlre".into(), CommitOptions::default());
    written.await.expect("written");
    let found = diff_id::diff_id(&store, &layer, &catalogue, &LayerOptions::default()).await;
    assert_eq!(found.expect("hashes"), Descriptor::of(PLAIN, b"layer").digest);
}
