//! Names and passwords that others have written down: Docker's file, podman's, credential helpers. The registry is the
//! one with a password of `passwords`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::super::store::Store;
use super::super::{Step, World};
use super::passwords::{ENCODED, PASSWORD, USER, both, closed, denied, image};
use crate::failure::{Context, Result, ensure, ensure_equal};
use crate::process::Tool;
use crate::registry::Registry;

pub(super) const STEPS: &[Step] = &[
    ("credentials-of-docker", docker),
    ("credentials-of-skopeo", skopeo),
    ("credentials-order", order),
    ("credentials-helper", helper),
    ("credentials-helper-missing", helper_missing),
    ("credentials-helper-that-fails", helper_fails),
];

/// Writes a file of credentials.
fn write(file: &Path, text: &str) -> Result<()> {
    let directory = file.parent().context(file.display())?;
    fs::create_dir_all(directory).context(directory.display())?;
    fs::write(file, text).context(file.display())
}

/// A file with one entry.
fn entry(host: &str, auth: &str) -> String {
    json!({ "auths": { host: { "auth": auth } } }).to_string()
}

/// Asks the registry for a digest, which it tells to nobody without a password.
fn ask(store: &Store<'_>, registry: &Registry) -> Tool {
    store.wharf(&["digest", &image(registry)])
}

fn granted(world: &World, tool: Tool) -> Result<()> {
    ensure_equal("the digest", &tool.text()?, &world.fixture.oci.digest)
}

/// `config.json` in Docker's place and where `DOCKER_CONFIG` says.
fn docker(world: &World) -> Result<()> {
    let registry = closed(world, "credentials-docker")?;
    let user = world.user("credentials-docker")?;
    let store = world.store_of(&user, "credentials-docker")?;
    denied(ask(&store, &registry).run()?)?;
    let elsewhere = world.scratch.dir("steps/credentials-docker/elsewhere")?;
    write(&elsewhere.join("config.json"), &entry(&registry.host(), ENCODED))?;
    granted(world, ask(&store, &registry).env("DOCKER_CONFIG", &elsewhere))?;
    write(&user.home().join(".docker/config.json"), &entry(&registry.host(), ENCODED))?;
    granted(world, ask(&store, &registry))?;
    // The entry is for that registry, and for no other on the same machine.
    let other = closed(world, "credentials-docker/other")?;
    denied(ask(&store, &other).run()?).map(drop)
}

/// What `skopeo login` writes, in each of podman's places.
fn skopeo(world: &World) -> Result<()> {
    let registry = closed(world, "credentials-skopeo")?;
    let file = world.dir("credentials-skopeo")?.join("auth.json");
    let login =
        world.skopeo.call(&["login", "--tls-verify=false", "-u", USER, "--password-stdin", "--authfile"]);
    login.arg(&file).arg(registry.host()).input(PASSWORD.as_bytes()).success()?;
    let user = world.user("credentials-skopeo")?;
    let store = world.store_of(&user, "credentials-skopeo")?;
    denied(ask(&store, &registry).run()?)?;
    granted(world, ask(&store, &registry).arg("--authfile").arg(&file))?;
    granted(world, ask(&store, &registry).env("REGISTRY_AUTH_FILE", &file))?;
    for (place, variable) in [
        ("runtime/containers/auth.json", "XDG_RUNTIME_DIR"),
        (".config/containers/auth.json", "XDG_CONFIG_HOME"),
    ] {
        let place = user.home().join(place);
        let directory = place.parent().and_then(Path::parent).context("a path without parents")?;
        let copied = fs::read_to_string(&file).context(file.display())?;
        write(&place, &copied)?;
        granted(world, ask(&store, &registry).env(variable, directory))?;
        fs::remove_file(&place).context(place.display())?;
    }
    denied(ask(&store, &registry).run()?).map(drop)
}

/// The first that knows the registry decides, and files that do not know it are passed over.
fn order(world: &World) -> Result<()> {
    let registry = closed(world, "credentials-order")?;
    let user = world.user("credentials-order")?;
    let store = world.store_of(&user, "credentials-order")?;
    let directory = world.dir("credentials-order")?;
    let file = |name: &str, text: &str| -> Result<PathBuf> {
        let file = directory.join(name);
        write(&file, text)?;
        Ok(file)
    };
    let good = file("good.json", &entry(&registry.host(), ENCODED))?;
    let bad = file("bad.json", &entry(&registry.host(), "bm9ib2R5Om5vdGhpbmc="))?;
    let foreign = file("foreign.json", &entry("registry.example.com", "YTpi"))?;
    let docker = user.home().join(".docker/config.json");
    for (authfile, variable, docker_text, works) in [
        (Some(&good), Some(&bad), Some(&bad), true),
        (Some(&bad), Some(&good), Some(&good), false),
        (None, Some(&good), Some(&bad), true),
        (None, Some(&bad), Some(&good), false),
        (None, None, Some(&good), true),
        (None, Some(&foreign), Some(&good), true),
        (Some(&foreign), None, Some(&good), true),
    ] {
        let copied = docker_text.map(|text| fs::read_to_string(text).context(text.display()));
        write(&docker, &copied.transpose()?.unwrap_or_default())?;
        let tool = ask(&store, &registry);
        let tool = variable.iter().fold(tool, |tool, file| tool.env("REGISTRY_AUTH_FILE", file));
        let tool = authfile.iter().fold(tool, |tool, file| tool.arg("--authfile").arg(file));
        let shown =
            format!("--authfile {authfile:?}, REGISTRY_AUTH_FILE {variable:?}, Docker's {docker_text:?}");
        let outcome = if works { granted(world, tool) } else { denied(tool.run()?).map(drop) };
        outcome.context(shown)?;
    }
    // What was typed is asked before all files.
    granted(world, ask(&store, &registry).arg("--authfile").arg(&bad).args(["-u", &both()]))
}

/// A program that keeps what it is told to in a file, as Docker's credential helpers do, and notes what it is asked.
const HELPER: &str = r#"#!/bin/sh
echo "$1" >> "$HELPER_DIR/asked"
case "$1" in
get)
    read -r server || true
    test -f "$HELPER_DIR/kept" || { echo "credentials not found in native keychain"; exit 1; }
    test "$server" = "$HELPER_SERVER" || { echo "credentials not found in native keychain"; exit 1; }
    cat "$HELPER_DIR/kept" ;;
store) cat > "$HELPER_DIR/kept" ;;
erase) rm -f "$HELPER_DIR/kept" ;;
list) echo "{}" ;;
*) exit 1 ;;
esac
"#;

/// Puts an executable called `docker-credential-NAME` into a directory, and gives a path with the directory in front.
fn install(directory: &Path, name: &str, script: &str) -> Result<String> {
    let file = directory.join(format!("docker-credential-{name}"));
    write(&file, script)?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).context(file.display())?;
    let path = std::env::var("PATH").unwrap_or_default();
    Ok(format!("{}:{path}", directory.display()))
}

/// A helper for one registry gives the password, is given it by `login`, and told to forget it by `logout`.
fn helper(world: &World) -> Result<()> {
    let registry = closed(world, "helper")?;
    let user = world.user("helper")?;
    let store = world.store_of(&user, "helper")?;
    let directory = world.dir("helper")?;
    let path = install(&directory, "wharftest", HELPER)?;
    let config = user.home().join(".docker/config.json");
    write(&config, &json!({ "credHelpers": { registry.host(): "wharftest" } }).to_string())?;
    let with_helper = |tool: Tool| {
        tool.env("PATH", &path).env("HELPER_DIR", &directory).env("HELPER_SERVER", registry.host())
    };
    let login = with_helper(store.wharf(&["login", "-u", USER, "--password-stdin", &registry.host()]));
    login.input(PASSWORD.as_bytes()).success()?;
    let written = fs::read_to_string(&config).context(config.display())?;
    ensure(!written.contains(ENCODED) && !written.contains(PASSWORD), || {
        "the password is in Docker's file, though there is a helper".to_owned()
    })?;
    granted(world, with_helper(ask(&store, &registry)))?;
    let noted = directory.join("asked");
    let asked = fs::read_to_string(&noted).context(noted.display())?;
    ensure(asked.contains("store") && asked.contains("get"), || format!("the helper was asked: {asked}"))?;
    with_helper(store.wharf(&["logout", &registry.host()])).success()?;
    ensure(!directory.join("kept").exists(), || "the helper still has the password".to_owned())?;
    denied(with_helper(ask(&store, &registry)).run()?)?;

    // The same for all registries.
    write(&config, r#"{"credsStore":"wharftest"}"#)?;
    let kept = json!({ "ServerURL": registry.host(), "Username": USER, "Secret": PASSWORD }).to_string();
    write(&directory.join("kept"), &kept)?;
    granted(world, with_helper(ask(&store, &registry)))
}

/// A helper that is not installed stops nobody who needs no password.
fn helper_missing(world: &World) -> Result<()> {
    let user = world.user("helper-missing")?;
    let store = world.store_of(&user, "helper-missing")?;
    write(&user.home().join(".docker/config.json"), r#"{"credsStore":"nowhere-to-be-found"}"#)?;
    let finished = store.wharf(&["digest", &world.fixture.oci.image]).success()?;
    ensure_equal("the digest", &finished.text()?, &world.fixture.oci.digest)?;
    let registry = closed(world, "helper-missing")?;
    denied(ask(&store, &registry).run()?)?.expect_said(&["docker-credential-nowhere-to-be-found"]).map(drop)
}

/// A helper that fails for a registry is an error of its own, not a registry's, and what it says is told.
fn helper_fails(world: &World) -> Result<()> {
    let user = world.user("helper-fails")?;
    let store = world.store_of(&user, "helper-fails")?;
    let registry = closed(world, "helper-fails")?;
    let script = "#!/bin/sh\necho 'the safe is locked' >&2\necho 'the safe is locked'\nexit 3\n";
    let path = install(&world.dir("helper-fails")?, "broken", script)?;
    let config = json!({ "credHelpers": { registry.host(): "broken" } }).to_string();
    write(&user.home().join(".docker/config.json"), &config)?;
    let (finished, asked) = registry.asked(|| ask(&store, &registry).env("PATH", &path).run())?;
    ensure(finished.code != 0, || "nobody minds a helper that fails".to_owned())?;
    finished.expect_said(&["docker-credential-broken"])?;
    let wrote = asked.iter().filter(|request| request.status == 200).count();
    ensure_equal("requests that were granted", &wrote, &0)
}
