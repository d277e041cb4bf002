//! Plugins outside the process, as scripts of /bin/sh: what they are given, what they may answer, and what ends them.

use std::{
    fs,
    num::NonZeroUsize,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use wharf_images::{
    Catalogue, Children, Decoded, Descriptor, Error, ErrorKind, Flow, Handler, Kind, ManifestDecoder, Result,
    Role,
    content::{CommitOptions, Manager, MemoryStore, write_blob},
    decode::ManifestDecoders,
    external::{PluginOptions, Plugins},
};

const TYPE: &str = "application/vnd.example.list.v1+json";

/// A directory of plugins.
struct Directory(tempfile::TempDir);

impl Directory {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        chmod(directory.path(), 0o755);
        Self(directory)
    }

    /// A directory with one plugin, a script after `#!/bin/sh`.
    fn with(manifest: &Value, script: &str) -> Self {
        let directory = Self::new();
        directory.put("list.json", manifest, script);
        directory
    }

    fn put(&self, file: &str, manifest: &Value, script: &str) {
        fs::write(self.path(file), manifest.to_string()).expect("written");
        chmod(&self.path(file), 0o644);
        let executable = self.path(manifest["executable"].as_str().unwrap_or("list"));
        fs::write(&executable, format!("#!/bin/sh\n{script}\n")).expect("written");
        chmod(&executable, 0o755);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn load(&self, options: PluginOptions) -> (Plugins, Vec<Error>) {
        let mut plugins = Plugins::new(options);
        let problems = plugins.load(self.0.path()).expect("a directory that is ours");
        (plugins, problems)
    }

    /// The decoder of [`TYPE`], and what stops it.
    fn decoder(&self, options: PluginOptions) -> (Plugins, Arc<dyn ManifestDecoder>) {
        let (plugins, problems) = self.load(options);
        assert!(problems.is_empty(), "{problems:?}");
        let decoder = plugins.register(Catalogue::empty()).find::<ManifestDecoders>(TYPE);
        (plugins, decoder.expect("no conflict").expect("registered"))
    }

    fn decode(&self, bytes: &[u8]) -> Result<Decoded> {
        let (_plugins, decoder) = self.decoder(PluginOptions::default());
        decoder.decode(&Descriptor::of(TYPE, bytes), bytes)
    }
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("ours");
}

fn manifest() -> Value {
    json!({ "protocol": 1, "name": "list", "kind": "manifest", "mediaTypes": [TYPE], "executable": "list" })
}

fn with(field: &str, value: impl Into<Value>) -> Value {
    let mut manifest = manifest();
    manifest[field] = value.into();
    manifest
}

/// A script that prints this.
fn printing(answer: &Value) -> String {
    format!("cat <<'END'\n{answer}\nEND")
}

#[track_caller]
fn fails(directory: &Directory, kind: ErrorKind, said: &[&str]) {
    let error = directory.decode(b"{}").expect_err("no answer");
    assert_eq!(error.kind(), kind, "{error}");
    for said in ["the plugin \"list\" (", "list.json", "sha256:44136f"].iter().chain(said) {
        assert!(error.report().contains(said), "{said}: {}", error.report());
    }
}

#[test]
fn a_plugin_reads_the_request_and_its_answer_is_the_decoder_s() {
    let child = Descriptor::of("text/plain", b"flour").with_annotation("title", "x");
    let answer = json!({
        "protocol": 1,
        "children": [{ "descriptor": child, "role": "layer" }],
        "description": "a list",
        "facts": { "entries": "1" },
    });
    let script = format!("cat > request\npwd > pwd\nenv > env\n{}", printing(&answer));
    let directory = Directory::with(&manifest(), &script);
    let document = br#"{ "z": "\"", "a": 1.50 }"#;
    let decoded = directory.decode(document).expect("answers");
    assert_eq!(decoded.children[0].descriptor, child);
    assert_eq!((decoded.children[0].role, decoded.description.as_deref()), (Role::Layer, Some("a list")));
    assert_eq!(decoded.facts["entries"], "1");

    let request = fs::read(directory.path("request")).expect("there");
    let request: Value = serde_json::from_slice(&request).expect("JSON");
    let descriptor = json!(Descriptor::of(TYPE, document));
    let text = String::from_utf8_lossy(document);
    assert_eq!(
        request,
        json!({ "protocol": 1, "operation": "decode", "descriptor": descriptor, "content": { "text": text } })
    );
    // The shell adds some of its own.
    let environment = fs::read_to_string(directory.path("env")).expect("there");
    let names: Vec<_> =
        environment.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
    assert!(names.contains(&"PATH") && names.contains(&"LC_ALL"), "{names:?}");
    for name in names {
        assert!(
            ["PATH", "LC_ALL", "PWD", "OLDPWD", "SHLVL", "_"].contains(&name),
            "{name} has no business there"
        );
    }
    let pwd = fs::read_to_string(directory.path("pwd")).expect("there");
    assert_eq!(Path::new(pwd.trim_end()), directory.0.path().canonicalize().expect("there"));
}

#[tokio::test]
async fn children_are_found_and_held_as_those_of_any_decoder() {
    let child = Descriptor::of("text/plain", b"flour");
    let answer = json!({ "protocol": 1, "children": [{ "descriptor": child, "role": "other" }] });
    let directory = Directory::with(&manifest(), &printing(&answer));
    let (plugins, _) = directory.load(PluginOptions::default());
    let catalogue = plugins.register(Catalogue::linked().clone());

    let store = Arc::new(MemoryStore::new());
    let document = Descriptor::of(TYPE, b"[]");
    write_blob(store.as_ref(), "list", &document, "[]".into(), CommitOptions::default())
        .await
        .expect("written");
    let handler = Children::new(store.clone()).with_catalogue(catalogue.clone()).with_labels(store.clone());
    assert_eq!(handler.handle(&document).await.expect("decodes"), Flow::Children(vec![child.clone()]));
    let info = store.info(&document.digest).await.expect("there");
    assert_eq!(info.labels["containerd.io/gc.ref.content.0"], child.digest.as_str());

    let entries = catalogue.entries();
    let entry = entries.iter().find(|entry| entry.name == "list").expect("listed");
    assert_eq!(Path::new(&entry.module), directory.path("list.json").canonicalize().expect("there"));
    assert_eq!((entry.keys.as_slice(), entry.priority), ([TYPE.to_owned()].as_slice(), 0));
}

#[test]
fn what_is_wrong_with_an_answer_is_told_with_the_plugin_s_name() {
    let answers = |answer: &Value| Directory::with(&manifest(), &printing(answer));
    fails(&answers(&json!({ "protocol": 2 })), ErrorKind::Internal, &["protocol 2"]);
    fails(
        &answers(&json!({ "protocol": 1, "childs": [] })),
        ErrorKind::Internal,
        &["unknown field `childs`"],
    );
    let bad =
        json!([{ "descriptor": { "mediaType": "a/b", "digest": "sha256:x", "size": 1 }, "role": "other" }]);
    fails(&answers(&json!({ "protocol": 1, "children": bad })), ErrorKind::Internal, &["digest"]);
    let refused = json!({ "protocol": 1, "error": { "message": "no flour" } });
    fails(&answers(&refused), ErrorKind::InvalidArgument, &["refuses", "no flour"]);
    let unsupported = json!({ "protocol": 1, "error": { "message": "v9", "kind": "unsupported" } });
    fails(&answers(&unsupported), ErrorKind::NotImplemented, &["does not read", "v9"]);
    fails(&Directory::with(&manifest(), "exit 0"), ErrorKind::Internal, &["it is empty"]);
    fails(
        &Directory::with(&manifest(), "echo '{\"protocol\":1}'; echo because >&2; exit 3"),
        ErrorKind::Internal,
        &["exit status: 3", "because"],
    );
    fails(&Directory::with(&manifest(), "kill -SEGV $$"), ErrorKind::Internal, &["signal: 11"]);
}

#[test]
fn standard_error_is_kept_only_in_part_and_never_waited_for() {
    let script = "i=0; while [ $i -lt 3000 ]; do echo 'a line that nobody will ever read' >&2; i=$((i+1)); done\n\
                  echo the last word >&2; exit 1";
    let directory = Directory::with(&manifest(), script);
    let error = directory.decode(b"{}").expect_err("it fails").to_string();
    assert!(error.contains("the last word") && error.len() < 6_000, "{} bytes", error.len());
}

#[test]
fn who_takes_too_long_is_ended_with_everything_that_it_started() {
    let directory =
        Directory::with(&with("timeLimit", 0.5), "echo $$ > leader; sleep 61 & echo $! > other; wait");
    let started = Instant::now();
    fails(&directory, ErrorKind::ResourceExhausted, &["longer than 0.5 s", "timeLimit"]);
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    for file in ["leader", "other"] {
        let pid = fs::read_to_string(directory.path(file)).expect("written");
        assert!(is_gone(pid.trim()), "{file} {pid} still runs");
    }
}

/// Whether a process has ended, at least as far as a zombie that its new parent has not seen yet.
fn is_gone(pid: &str) -> bool {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let mut ps = std::process::Command::new("sh");
        let state = ps.args(["-c", "kill -0 \"$1\" 2>/dev/null && cat /proc/$1/stat 2>/dev/null", "sh", pid]);
        let state = String::from_utf8_lossy(&state.output().expect("sh").stdout).into_owned();
        if state.is_empty() || state.contains(") Z ") {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn who_answers_and_leaves_a_process_behind_has_answered() {
    let directory = Directory::with(&manifest(), "sleep 61 & echo $! > other; echo '{\"protocol\":1}'");
    let started = Instant::now();
    assert_eq!(directory.decode(b"{}").expect("answers"), Decoded::default());
    assert!(started.elapsed() < Duration::from_secs(9), "{:?}", started.elapsed());
    assert!(is_gone(fs::read_to_string(directory.path("other")).expect("written").trim()));
}

#[test]
fn who_answers_without_end_is_ended() {
    let directory =
        Directory::with(&manifest(), "while :; do echo 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'; done");
    let options = PluginOptions::default().with_max_answer_len(10_000);
    let (_plugins, decoder) = directory.decoder(options);
    let error = decoder.decode(&Descriptor::of(TYPE, b"{}"), b"{}").expect_err("too long");
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
    assert!(error.to_string().contains("longer than 10000 bytes"), "{error}");
}

#[test]
fn who_does_not_read_its_input_may_still_answer() {
    let directory =
        Directory::with(&manifest(), "exec <&-; echo '{\"protocol\":1,\"description\":\"blind\"}'");
    let document = format!("[\"{}\"]", "x".repeat(3 << 20));
    let decoded = directory.decode(document.as_bytes()).expect("answers");
    assert_eq!(decoded.description.as_deref(), Some("blind"));
}

#[test]
fn bytes_come_in_base64_where_they_are_asked_for_and_ambiguous_documents_do_not_come_at_all() {
    let script = "cat > request; echo '{\"protocol\":1}'";
    let directory = Directory::with(&with("content", "base64"), script);
    directory.decode(b"\xff\x00").expect("answers");
    let request: Value =
        serde_json::from_slice(&fs::read(directory.path("request")).expect("there")).expect("JSON");
    assert_eq!(request["content"], json!({ "base64": "/wA=" }));

    let directory = Directory::with(&manifest(), script);
    for document in [&b"\xff"[..], b"{", br#"{"a":1,"a":2}"#] {
        assert_eq!(directory.decode(document).expect_err("refused").kind(), ErrorKind::InvalidArgument);
        assert!(!directory.path("request").exists());
    }
}

#[test]
fn leaves_are_described_and_not_read_unless_they_are_to_be() {
    for (content, reads) in [(None, false), (Some("text"), true)] {
        let mut leaf = with("kind", "leaf");
        if let Some(content) = content {
            leaf["content"] = content.into();
        }
        let directory = Directory::with(&leaf, "echo '{\"protocol\":1,\"description\":\"a leaf\"}'");
        let (_plugins, decoder) = directory.decoder(PluginOptions::default());
        assert_eq!((decoder.kind(), decoder.reads_content(), decoder.blocks()), (Kind::Leaf, reads, true));
        let decoded = decoder.decode(&Descriptor::of(TYPE, b"{}"), if reads { b"{}" } else { b"" });
        assert_eq!(decoded.expect("answers").description.as_deref(), Some("a leaf"));
    }
}

#[test]
fn no_more_run_at_once_than_may_and_waiting_is_not_their_time() {
    let script = "mkdir running || { echo 'two at once' >&2; exit 1; }\nsleep 0.3\nrmdir running\necho '{\"protocol\":1}'";
    let directory = Directory::with(&with("timeLimit", 1.0), script);
    let one = NonZeroUsize::new(1).expect("because one is not zero");
    let (_plugins, decoder) = directory.decoder(PluginOptions::default().with_max_processes(one));
    thread::scope(|scope| {
        let calls: Vec<_> =
            (0..6).map(|_| scope.spawn(|| decoder.decode(&Descriptor::of(TYPE, b"{}"), b"{}"))).collect();
        for call in calls {
            call.join().expect("no panic").expect("one after the other");
        }
    });
}

#[test]
fn stopping_ends_what_runs_and_what_waits() {
    let directory = Directory::with(&with("timeLimit", 60.0), "echo $$ > pid; sleep 61");
    let one = NonZeroUsize::new(1).expect("because one is not zero");
    let (plugins, decoder) = directory.decoder(PluginOptions::default().with_max_processes(one));
    let started = Instant::now();
    thread::scope(|scope| {
        let call = || decoder.decode(&Descriptor::of(TYPE, b"{}"), b"{}").expect_err("stopped").kind();
        let calls = [scope.spawn(call), scope.spawn(call)];
        while !directory.path("pid").exists() && started.elapsed() < Duration::from_secs(20) {
            thread::sleep(Duration::from_millis(10));
        }
        plugins.stop();
        for call in calls {
            assert_eq!(call.join().expect("no panic"), ErrorKind::Aborted);
        }
        assert_eq!(call(), ErrorKind::Aborted, "and nothing starts any more");
    });
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
}

#[test]
fn code_of_others_is_not_run() {
    let answering = "echo '{\"protocol\":1}'";
    for (file, mode) in [("list", 0o757), ("list", 0o775), ("list.json", 0o666), ("list", 0o644)] {
        let directory = Directory::with(&manifest(), answering);
        chmod(&directory.path(file), mode);
        let (plugins, problems) = directory.load(PluginOptions::default());
        assert!(plugins.is_empty());
        assert_eq!(problems.len(), 1);
        assert_eq!(problems[0].kind(), ErrorKind::PermissionDenied, "{file} {mode:o}");
        assert!(problems[0].report().contains("chmod"), "{}", problems[0].report());
    }
    let directory = Directory::with(&manifest(), answering);
    chmod(directory.0.path(), 0o777);
    let error = Plugins::new(PluginOptions::default()).load(directory.0.path()).expect_err("anybody's");
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);

    // A directory above that anybody can write into, and a link that leads into it.
    let outer = Directory::new();
    let inner = outer.path("open/plugins");
    fs::create_dir_all(&inner).expect("made");
    chmod(&inner, 0o755);
    chmod(&outer.path("open"), 0o777);
    symlink(&inner, outer.path("link")).expect("made");
    for path in [inner.clone(), outer.path("link")] {
        let error = Plugins::new(PluginOptions::default()).load(&path).expect_err("anybody's");
        assert!(error.to_string().contains("open can be written"), "{error}");
    }
    // The same directory is fine when only the owner can replace what is in it, as in /tmp.
    chmod(&outer.path("open"), 0o1777);
    assert!(Plugins::new(PluginOptions::default()).load(&inner).expect("fine").is_empty());
}

#[test]
fn an_executable_may_be_a_link_to_one_that_is_trusted() {
    let directory = Directory::new();
    fs::write(directory.path("list.json"), with("executable", "shell").to_string()).expect("written");
    symlink("/bin/sh", directory.path("shell")).expect("made");
    let (plugins, problems) = directory.load(PluginOptions::default());
    assert!(problems.is_empty() && !plugins.is_empty(), "{problems:?}");
}

#[test]
fn what_cannot_be_loaded_is_told_and_the_rest_is_there() {
    let directory = Directory::with(&manifest(), "echo '{\"protocol\":1}'");
    directory.put("twin.json", &manifest(), "exit 0");
    fs::write(directory.path("broken.json"), "{").expect("written");
    fs::write(directory.path("README"), "no manifest").expect("written");
    fs::write(directory.path(".hidden.json"), "{").expect("written");
    let mut lost = with("name", "lost");
    lost["executable"] = "nowhere".into();
    fs::write(directory.path("lost.json"), lost.to_string()).expect("written");
    fs::write(directory.path("long.json"), " ".repeat(100_000)).expect("written");
    let (plugins, problems) = directory.load(PluginOptions::default());
    let said: Vec<_> = problems.iter().map(Error::report).collect();
    assert_eq!(said.len(), 4, "{said:?}");
    for (said, words) in said.iter().zip([
        ["broken.json", "not the manifest"],
        ["long.json", "longer than"],
        ["lost.json", "nowhere"],
        ["twin.json", "two plugins"],
    ]) {
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
    }
    assert_eq!(plugins.register(Catalogue::empty()).keys::<ManifestDecoders>(), [TYPE]);
    let missing = Plugins::new(PluginOptions::default()).load(&directory.path("none")).expect_err("none");
    assert_eq!(missing.kind(), ErrorKind::NotFound);
}

#[test]
fn the_directory_that_is_read_first_wins_a_name() {
    let (first, second) = (Directory::with(&manifest(), "exit 1"), Directory::with(&manifest(), "exit 1"));
    second.put("other.json", &with("name", "other"), "exit 1");
    let mut plugins = Plugins::new(PluginOptions::default());
    for directory in [&first, &second] {
        assert!(plugins.load(directory.0.path()).expect("ours").is_empty());
    }
    let entries = plugins.register(Catalogue::empty()).entries();
    let from: Vec<_> = entries.iter().map(|entry| (entry.name.as_str(), entry.module.as_str())).collect();
    let path = |directory: &Directory, file| {
        directory.path(file).canonicalize().expect("there").display().to_string()
    };
    assert_eq!(
        from,
        [("list", path(&first, "list.json").as_str()), ("other", path(&second, "other.json").as_str())]
    );
}

#[test]
fn a_pipe_or_directory_in_place_of_a_manifest_is_a_problem_of_its_own() {
    let directory = Directory::with(&manifest(), r#"echo '{"protocol":1,"children":[]}'"#);
    let made = Command::new("mkfifo").arg("-m").arg("644").arg(directory.path("a.json")).status();
    assert!(made.expect("there is mkfifo").success());
    fs::create_dir(directory.path("b.json")).expect("created");
    chmod(&directory.path("b.json"), 0o755);
    let (sender, loaded) = mpsc::channel();
    let path = directory.0.path().to_owned();
    thread::spawn(move || {
        let mut plugins = Plugins::new(PluginOptions::default());
        let problems = plugins.load(&path).expect("a directory that is ours");
        drop(sender.send((plugins.is_empty(), problems)));
    });
    let (is_empty, problems) = loaded.recv_timeout(Duration::from_secs(30)).expect("nobody writes into it");
    assert!(!is_empty, "the other plugin is there");
    assert_eq!(problems.len(), 2);
    for (problem, name) in problems.iter().zip(["a.json", "b.json"]) {
        assert_eq!(problem.kind(), ErrorKind::InvalidArgument);
        let report = problem.report();
        assert!(report.contains(name) && report.contains("not a regular file"), "{report}");
    }
}

#[test]
fn any_time_limit_can_be_given() {
    let directory = Directory::with(&manifest(), r#"cat >/dev/null; echo '{"protocol":1,"children":[]}'"#);
    for limit in [Duration::MAX, Duration::from_secs(u64::MAX / 2)] {
        let (_plugins, decoder) = directory.decoder(PluginOptions::default().with_time_limit(limit));
        let decoded = decoder.decode(&Descriptor::of(TYPE, b"{}"), b"{}").expect("answers");
        assert_eq!(decoded.children, []);
    }
}
