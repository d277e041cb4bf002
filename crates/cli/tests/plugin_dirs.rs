//! Plugins that are executables, as a user installs them: where they are found, what they change, and what is refused.

mod support;

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use serde_json::{Value, json};
use wharf_content::{CommitOptions, Descriptor, write_blob};
use wharf_images::Image;
use wharf_tests::TestRegistry;

use support::{Done, Wharf};

const LIST: &str = "application/vnd.example.list.v1+json";

/// Installs a plugin that says of every list that this is its only part.
fn install(directory: &Path, part: &Descriptor) {
    fs::create_dir_all(directory).expect("made");
    let manifest = json!({
        "protocol": 1, "name": "list", "kind": "manifest", "mediaTypes": [LIST], "executable": "list",
    });
    let answer = json!({
        "protocol": 1,
        "children": [{ "descriptor": part, "role": "layer" }],
        "description": "a list of one",
    });
    put(&directory.join("list.json"), &manifest.to_string(), 0o644);
    put(&directory.join("list"), &format!("#!/bin/sh\ncat <<'END'\n{answer}\nEND\n"), 0o755);
    // Whatever the umask is.
    for directory in directory.ancestors().take(3) {
        chmod(directory, 0o755);
    }
}

fn put(path: &Path, text: &str, mode: u32) {
    fs::write(path, text).expect("written");
    chmod(path, mode);
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("ours");
}

/// A registry with a list of one part, and its name there.
async fn published() -> (TestRegistry, String, Descriptor, Descriptor) {
    let registry = TestRegistry::start().await;
    let part = Descriptor::of("text/plain", b"flour");
    let list = Descriptor::of(LIST, b"[1]");
    for (descriptor, text) in [(&part, "flour"), (&list, "[1]")] {
        let written = write_blob(registry.store(), text, descriptor, text.into(), CommitOptions::default());
        written.await.expect("written");
    }
    let name = registry.reference("kitchen/list:1");
    registry.record(Image::new(&name, list.clone())).await.expect("recorded");
    (registry, name, list, part)
}

async fn with_dirs(wharf: &Wharf, dirs: &str, arguments: &[&str]) -> Done {
    wharf.run(&[&["--plugin-dir", dirs], arguments].concat()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_installed_plugin_makes_a_type_known() {
    let (_registry, name, list, part) = published().await;
    let wharf = Wharf::new();
    let directory = wharf.dir.path().join("plugins");
    install(&directory, &part);
    let dirs = directory.to_str().expect("text");

    // Without it the list is kept whole, and reported.
    let stock = wharf.run(&["pull", &name]).await;
    assert!(stock.err().contains(LIST), "{}", stock.err());
    stock.succeeded();
    let tree = wharf.run(&["tree", &name]).await.succeeded();
    assert!(tree.contains("unknown type") && !tree.contains(part.digest.as_str()), "{tree}");
    assert_eq!(wharf.run(&["content", "ls", "-q"]).await.succeeded().lines().count(), 1);

    // With it the part is a child like any other.
    with_dirs(&wharf, dirs, &["pull", &name]).await.succeeded();
    let tree = with_dirs(&wharf, dirs, &["tree", &name]).await.succeeded();
    assert!(tree.contains(part.digest.as_str()) && tree.contains("a list of one"), "{tree}");
    // A collection needs no plugin: the part is held by the list's label.
    wharf.run(&["gc"]).await.succeeded();
    let kept = wharf.run(&["content", "ls", "-q"]).await.succeeded();
    assert!(kept.contains(part.digest.as_str()) && kept.contains(list.digest.as_str()), "{kept}");

    let entries = with_dirs(&wharf, dirs, &["plugins", "--format", "json"]).await.succeeded();
    let entries: Value = serde_json::from_str(&entries).expect("JSON");
    let entry = entries.as_array().expect("a list").iter().find(|entry| entry["name"] == "list");
    let manifest = directory.join("list.json").canonicalize().expect("there");
    assert_eq!(entry.expect("listed")["module"], manifest.to_str().expect("text"));
}

#[tokio::test(flavor = "multi_thread")]
async fn plugins_are_found_where_users_put_them() {
    let wharf = Wharf::new();
    let part = Descriptor::of("text/plain", b"flour");
    let config = wharf.dir.path().join("config");
    install(&config.join("wharf/plugins"), &part);
    let listed = |variables: &[(&str, &Path)]| {
        let mut command = wharf.command(&["plugins", "-q"]);
        command.env_remove("WHARF_PLUGIN_DIR").env_remove("XDG_CONFIG_HOME");
        let output = command.envs(variables.iter().copied()).output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (String::from_utf8_lossy(&output.stdout).lines().any(|line| line == "list"), said)
    };
    let elsewhere = wharf.dir.path();
    assert_eq!(listed(&[("XDG_CONFIG_HOME", &config)]), (true, String::new()));
    assert!(!listed(&[("XDG_CONFIG_HOME", elsewhere)]).0);
    let named = config.join("wharf/plugins");
    assert!(listed(&[("XDG_CONFIG_HOME", elsewhere), ("WHARF_PLUGIN_DIR", &named)]).0);
    assert!(!listed(&[("XDG_CONFIG_HOME", &config), ("WHARF_PLUGIN_DIR", Path::new(""))]).0);

    // What somebody else could have put there is left out with a warning, and nothing else fails.
    chmod(&named.join("list"), 0o777);
    let (found, said) = listed(&[("XDG_CONFIG_HOME", &config)]);
    assert!(
        !found && said.contains("could be code of somebody else") && said.contains("chmod go-w"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_named_has_to_work() {
    let wharf = Wharf::new();
    let directory = wharf.dir.path().join("plugins");
    install(&directory, &Descriptor::of("text/plain", b"flour"));
    let dirs = directory.to_str().expect("text");
    with_dirs(&wharf, &format!("{dirs}:"), &["plugins"]).await.succeeded();

    let missing = with_dirs(&wharf, &format!("{dirs}:{dirs}/none"), &["plugins"]).await.failed(8);
    assert!(missing.contains("/none"), "{missing}");
    put(&directory.join("broken.json"), "{", 0o644);
    let file = with_dirs(&wharf, &format!("{dirs}/broken.json"), &["plugins"]).await.failed(3);
    assert!(file.starts_with("error[invalid argument]: ") && file.contains("broken.json"), "{file}");
    let broken = with_dirs(&wharf, dirs, &["plugins"]).await.failed(3);
    assert!(broken.contains("broken.json"), "{broken}");
    fs::remove_file(directory.join("broken.json")).expect("there");
    chmod(&directory, 0o777);
    let open = with_dirs(&wharf, dirs, &["images", "ls"]).await.failed(4);
    assert!(open.contains("could be code of somebody else"), "{open}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_fails_is_named() {
    let (_registry, name, list, part) = published().await;
    let wharf = Wharf::new();
    let directory = wharf.dir.path().join("plugins");
    install(&directory, &part);
    put(&directory.join("list"), "#!/bin/sh\necho no flour in the house >&2\nexit 7\n", 0o755);
    let failed = with_dirs(&wharf, directory.to_str().expect("text"), &["pull", &name]).await.failed(1);
    for words in ["list.json", "exit status: 7", "no flour in the house", list.digest.as_str()] {
        assert!(failed.contains(words), "{words}: {failed}");
    }
    assert_eq!(wharf.run(&["images", "ls", "-q"]).await.succeeded(), "", "nothing is recorded");
}

/// The plugin of a command that is interrupted ends with it.
#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_command_leaves_no_plugin_behind() {
    use std::time::{Duration, Instant};

    let (_registry, name, _, part) = published().await;
    let wharf = Wharf::new();
    let directory = wharf.dir.path().join("plugins");
    install(&directory, &part);
    put(&directory.join("list"), "#!/bin/sh\necho $$ >pid.new; mv pid.new pid\nsleep 97\n", 0o755);
    let mut command = wharf.command(&["--plugin-dir", directory.to_str().expect("text"), "pull", &name]);
    let mut child = command.spawn().expect("it runs");
    let (pid_file, started) = (directory.join("pid"), Instant::now());
    while !pid_file.exists() {
        assert!(started.elapsed() < Duration::from_secs(20), "the plugin never started");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let shell = |script: &str, pid: &str| {
        let output = std::process::Command::new("sh").args(["-c", script, "sh", pid]).output().expect("sh");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    shell("kill -INT \"$1\"", &child.id().to_string());
    let status = tokio::task::spawn_blocking(move || child.wait()).await.expect("no panic").expect("ends");
    assert_eq!(status.code(), Some(130));
    assert!(started.elapsed() < Duration::from_secs(9), "it did not wait for the time limit");
    let plugin = fs::read_to_string(pid_file).expect("written");
    let state = || shell("kill -0 \"$1\" 2>/dev/null && cat /proc/$1/stat", plugin.trim());
    while !(state().is_empty() || state().contains(") Z ")) {
        assert!(started.elapsed() < Duration::from_secs(20), "the plugin still runs");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_for_a_leaf_stops_no_tree() {
    let (_registry, name, list, part) = published().await;
    let wharf = Wharf::new();
    let directory = wharf.dir.path().join("plugins");
    install(&directory, &part);
    let dirs = directory.to_str().expect("text");
    with_dirs(&wharf, dirs, &["pull", &name]).await.succeeded();
    let leaf = json!({
        "protocol": 1, "name": "text", "kind": "leaf", "mediaTypes": ["text/plain"], "executable": "text",
    });
    put(&directory.join("text.json"), &leaf.to_string(), 0o644);
    let unsupported = r#"echo '{"protocol":1,"error":{"kind":"unsupported","message":"too new"}}'"#;
    for (body, said) in [("exit 1", "exit status: 1"), (unsupported, "too new")] {
        put(&directory.join("text"), &format!("#!/bin/sh\ncat >/dev/null\n{body}\n"), 0o755);
        for command in ["tree", "inspect"] {
            let shown = with_dirs(&wharf, dirs, &[command, &name]).await.succeeded();
            assert!(shown.contains(list.digest.as_str()) && shown.contains(said), "{command}: {shown}");
        }
    }
}
