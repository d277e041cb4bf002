//! docker-registry with a password: how wharf is told name and password, on the command line and by `login`, and that
//! nobody else learns them. Files that others wrote are in `credentials`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::super::store::{Store, Wharf};
use super::super::{Step, World, layout};
use crate::failure::{Context, Result, ensure, ensure_equal};
use crate::process::Finished;
use crate::registry::{Options, Registry, passwords};

pub(super) const STEPS: &[Step] = &[
    ("passwords-flags", flags),
    ("passwords-wrong", wrong),
    ("passwords-login", login),
    ("passwords-login-refused", login_refused),
    ("passwords-stay-secret", |world| secret(world, "secret", &["-vv", "--progress", "plain"])),
    ("passwords-stay-secret-in-a-trace", |world| secret(world, "secret-trace", &["-vv", "--http-trace"])),
];

/// Who is let in.
pub(super) const USER: &str = "captain";

/// The password, with a colon, for that is what divides it from the name.
pub(super) const PASSWORD: &str = "open:sesame/4711";

/// The password and the name as they go over the wire.
pub(super) const ENCODED: &str = "Y2FwdGFpbjpvcGVuOnNlc2FtZS80NzEx";

/// A registry that wants name and password, with the images of the first one.
pub(super) fn closed(world: &World, name: &str) -> Result<Registry> {
    let file = world.dir(name)?.join("htpasswd");
    passwords::write(&file, USER, PASSWORD)?;
    world.twin_registry(name, &Options::default().with_passwords(&file))
}

/// `USER:PASSWORD`
pub(super) fn both() -> String {
    format!("{USER}:{PASSWORD}")
}

/// The image that is asked for.
pub(super) fn image(registry: &Registry) -> String {
    registry.image("library/busybox:1.35")
}

/// Fails with the exit code of who is not let in, and says what to do.
pub(super) fn denied(finished: Finished) -> Result<Finished> {
    let finished = finished.expect_code(4)?.expect_said(&["error", "hint:", "login"])?;
    ensure(finished.stdout.is_empty(), || "something is on standard output".to_owned())?;
    says_no_secret(finished)
}

/// Fails if the password is in what was said, in any of its shapes.
fn says_no_secret(finished: Finished) -> Result<Finished> {
    let stdout = String::from_utf8_lossy(&finished.stdout).into_owned();
    for secret in [PASSWORD, "sesame", ENCODED, &ENCODED[12..28]] {
        ensure(!finished.stderr.contains(secret) && !stdout.contains(secret), || {
            // What was said would show it once more.
            format!("the password is in the output of a command, as {} characters", secret.len())
        })?;
    }
    Ok(finished)
}

/// `-u` with and without the password, for pull, push and the commands that list.
fn flags(world: &World) -> Result<()> {
    let registry = closed(world, "flags")?;
    let image = image(&registry);
    let store = world.store("flags")?;
    denied(store.wharf(&["pull", &image]).run()?)?;
    let digest = &world.fixture.oci.digest;
    ensure_equal("the digest", &store.pull(&image, &["-u", &both(), "--all-platforms"])?, digest)?;
    let piped = ["digest", "-u", USER, "--password-stdin", &image];
    let said = store.wharf(&piped).input(format!("{PASSWORD}\n").as_bytes()).text()?;
    ensure_equal("the digest by --password-stdin", &said, digest)?;
    let target = registry.image("flags/box:1");
    denied(store.wharf(&["push", &image, &target]).run()?)?;
    let said = store.wharf(&["push", "--creds", &both(), &image, &target]).text()?;
    ensure_equal("what push prints", &said, &format!("{target}@{digest}"))?;
    let seen = world.skopeo.call(&["inspect", "--raw", "--tls-verify=false", "--creds", &both()]);
    let seen = seen.arg(format!("docker://{target}")).success()?.stdout;
    ensure_equal("skopeo's manifest", &seen, &world.fixture.oci.bytes)?;
    let tags = store.wharf(&["tags", "--user", &both(), &registry.image("flags/box")]).text()?;
    ensure_equal("the tags", &tags.as_str(), &"1")?;
    // The name alone would be a password that is empty, and -u with one reads no other.
    store.fails(&["digest", "--password-stdin", &image], 3)?;
    store.fails(&["digest", "-u", &both(), "--password-stdin", &image], 3).map(drop)
}

fn wrong(world: &World) -> Result<()> {
    let registry = closed(world, "wrong")?;
    let store = world.store("wrong")?;
    for creds in [format!("{USER}:{PASSWORD}x"), format!("nobody:{PASSWORD}"), format!("{USER}:")] {
        denied(store.wharf(&["pull", "-u", &creds, &image(&registry)]).run()?)?;
    }
    ensure(!store.root().join("blobs/sha256").is_dir() || store.layout().blobs()?.is_empty(), || {
        "something was stored without the password".to_owned()
    })
}

fn log_in(store: &Store<'_>, registry: &Registry, password: &str) -> Result<Finished> {
    let arguments = ["login", "-u", USER, "--password-stdin", &registry.host()];
    store.wharf(&arguments).input(format!("{password}\n").as_bytes()).run()
}

/// Docker's own file of a user.
fn docker_file(wharf: &Wharf) -> std::path::PathBuf {
    wharf.home().join(".docker/config.json")
}

/// What `login` writes is read by wharf and by skopeo, by nobody else's account, and gone after `logout`; other
/// entries of the file stay.
fn login(world: &World) -> Result<()> {
    let registry = closed(world, "login")?;
    let user = world.user("login")?;
    let store = world.store_of(&user, "login")?;
    let file = docker_file(&user);
    fs::create_dir_all(user.home().join(".docker")).context(file.display())?;
    let others = r#"{"auths":{"registry.example.com":{"auth":"YTpi"}},"psFormat":"x"}"#;
    fs::write(&file, others).context(file.display())?;

    says_no_secret(log_in(&store, &registry, PASSWORD)?.expect_code(0)?)?;
    let written = layout::parse(&fs::read(&file).context(file.display())?)?;
    ensure_equal("the entry", &written["auths"][registry.host()]["auth"].as_str(), &Some(ENCODED))?;
    ensure_equal(
        "another's entry",
        &written["auths"]["registry.example.com"]["auth"].as_str(),
        &Some("YTpi"),
    )?;
    ensure_equal("another's key", &written["psFormat"].as_str(), &Some("x"))?;
    let mode = fs::metadata(&file).context(file.display())?.permissions().mode() & 0o777;
    ensure_equal("the mode of the file", &format!("{mode:o}").as_str(), &"600")?;

    let digest = &world.fixture.oci.digest;
    ensure_equal("the digest", &store.pull(&image(&registry), &[])?, digest)?;
    skopeo_reads(world, &file, &registry)?;

    store.wharf(&["logout", &registry.host()]).success()?;
    denied(store.wharf(&["digest", &image(&registry)]).run()?)?;
    let written = layout::parse(&fs::read(&file).context(file.display())?)?;
    ensure(written["auths"].get(registry.host()).is_none(), || format!("still there: {}", file.display()))?;
    ensure_equal(
        "another's entry",
        &written["auths"]["registry.example.com"]["auth"].as_str(),
        &Some("YTpi"),
    )?;

    // A file of the caller's choice, by both programs.
    let own = world.dir("login")?.join("own.json");
    let named = own.to_str().context("a path that is no text")?;
    let arguments = ["login", "-u", USER, "--password-stdin", "--authfile", named, &registry.host()];
    store.wharf(&arguments).input(PASSWORD.as_bytes()).success()?;
    denied(store.wharf(&["digest", &image(&registry)]).run()?)?;
    let said = store.wharf(&["digest", "--authfile", named, &image(&registry)]).text()?;
    ensure_equal("the digest by --authfile", &said, digest)?;
    skopeo_reads(world, &own, &registry)
}

fn skopeo_reads(world: &World, file: &Path, registry: &Registry) -> Result<()> {
    let tool = world.skopeo.call(&["inspect", "--raw", "--tls-verify=false", "--authfile"]).arg(file);
    let seen = tool.arg(format!("docker://{}", image(registry))).success()?.stdout;
    ensure_equal("skopeo's manifest", &seen, &world.fixture.oci.bytes)
}

/// A password that the registry refuses is not written down.
fn login_refused(world: &World) -> Result<()> {
    let registry = closed(world, "login-refused")?;
    let user = world.user("login-refused")?;
    let store = world.store_of(&user, "login-refused")?;
    let said = log_in(&store, &registry, "wrong")?.expect_code(4)?;
    ensure(said.stdout.is_empty(), || "a login that fails prints something".to_owned())?;
    said.expect_said(&["error", &registry.host()])?;
    ensure(!docker_file(&user).exists(), || "a password that is wrong was written down".to_owned())?;
    // Whoever was never logged in need not be logged out, but should be told.
    let out = store.wharf(&["logout", &registry.host()]).run()?;
    ensure(out.code == 0 || out.code == 2, || format!("`{}` ends with {}", out.shown, out.code))?;
    ensure(!out.stderr.is_empty(), || "a logout from nowhere says nothing".to_owned())
}

/// However much wharf is asked to tell, it does not tell the password.
fn secret(world: &World, name: &str, loud: &[&str]) -> Result<()> {
    let registry = closed(world, name)?;
    let user = world.user(name)?;
    let store = world.store_of(&user, name)?;
    let image = image(&registry);
    for creds in [both(), format!("{USER}:{PASSWORD}x")] {
        let pull = [&["pull", "-u", &creds, &image], loud].concat();
        let finished = says_no_secret(store.wharf(&pull).run()?)?;
        // Not because nothing is told at all.
        finished.expect_said(&["/v2/library/busybox/manifests/", "401"])?;
    }
    let host = registry.host();
    let arguments = [&["login", "-u", USER, "--password-stdin", &host], &loud[..1]].concat();
    says_no_secret(store.wharf(&arguments).input(PASSWORD.as_bytes()).success()?)?;
    let target = registry.image(&format!("{name}/box:1"));
    let push = [&["push", &image, &target, "--platform", "local"], loud].concat();
    says_no_secret(store.wharf(&push).success()?)?.expect_said(&[&format!("/v2/{name}/box/")])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_secret_is_found_in_all_its_shapes() {
        let said = |stderr: &str| Finished {
            shown: String::new(),
            code: 0,
            stdout: Vec::new(),
            stderr: stderr.to_owned(),
        };
        assert!(says_no_secret(said("Authorization: Basic REDACTED")).is_ok());
        for shape in [PASSWORD, ENCODED, "Authorization: Basic Y2FwdGFpbjpvcGVuOnNlc2FtZS80NzEx"] {
            assert!(says_no_secret(said(shape)).is_err(), "{shape}");
        }
    }
}
