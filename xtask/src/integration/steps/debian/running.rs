//! Programs of the image, run by runc: by `wharf run`, as root and as another user, and by hand in what `wharf bundle`
//! makes.

use super::super::super::layout;
use super::super::super::store::Store;
use super::super::super::{Step, World};
use super::user::Other;
use super::{filled, pushed};
use crate::debian;
use crate::failure::{Context, Result, ensure, ensure_equal};
use crate::process::Tool;
use std::fs;
use std::path::Path;

pub(super) const STEPS: &[Step] =
    &[("debian-run", run), ("debian-run-rootless", rootless), ("debian-bundle-runc", bundle)];

/// Prints who a process of the image is, and where, as Python sees it.
const WHO: &str =
    "import os, pwd; print(pwd.getpwuid(os.getuid()).pw_name, os.getcwd(), os.environ['MADE_BY'])";

/// Runs Python in the image.
fn python(store: &Store<'_>, image: &str, options: &[&str], script: &str) -> Tool {
    store.wharf(&[&["run", "--runtime", "runc"], options, &[image, "--", "python3", "-c", script]].concat())
}

/// Answers, errors, exit codes and input pass through, nothing is left of the container, and it was this one. Gives what
/// wharf and the program say on standard error.
fn answers(store: &Store<'_>, image: &str, options: &[&str], who: &str, temporary: &Path) -> Result<String> {
    let before = containers(temporary)?;
    ensure_equal("the answer", &python(store, image, &[], "print(6*7)").text()?.as_str(), &"42")?;
    let script = format!("{WHO}; import sys; print(sys.stdin.read()[::-1]); sys.exit('no way')");
    let finished = python(store, image, options, &script).input(b"frahw").run()?.expect_code(1)?;
    ensure_equal("what Python prints", &finished.text()?, &format!("{who}\nwharf"))?;
    let finished = finished.expect_said(&["no way"])?;
    ensure_equal("what is left of containers", &containers(temporary)?, &before)?;
    Ok(finished.stderr)
}

/// The directories of containers.
fn containers(directory: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).context(directory.display())? {
        let entry = entry.context(directory.display())?;
        if entry.path().join("bundle").exists() && entry.path().join("state").exists() {
            found.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    found.sort();
    Ok(found)
}

/// As root: the config's user, by its name in the image, in its directory, with its variables.
fn run(world: &World) -> Result<()> {
    let (image, root) = (pushed(world)?, filled(world)?.root().to_owned());
    // Another wharf may be running a container where the others are.
    let temporary = world.dir("debian-run")?;
    let wrapper = ["env".into(), format!("TMPDIR={}", temporary.display()).into()];
    let store = Store::elsewhere(&world.wharf, root.clone(), wrapper.to_vec(), root);
    answers(&store, &image, &[], &format!("{0} /home/{0} umoci", debian::USER), &temporary)?;
    // A compiler has more to do with the system than an interpreter.
    let script =
        "id -un && pwd && cd /tmp && echo 'int main() { return 6 * 7; }' > a.c && gcc a.c && ./a.out";
    let options = ["run", "--runtime", "runc", "--user", "root", "--workdir", "/srv"];
    let finished = store.wharf(&options).args([&image, "--", "sh", "-ec", script]).run()?.expect_code(42)?;
    ensure_equal("who compiles", &finished.text()?.as_str(), &"root\n/srv")
}

/// As a user of this machine, who is root in the container.
fn rootless(world: &World) -> Result<()> {
    let image = pushed(world)?;
    let other = Other::new(world)?;
    let store = other.store();
    store.wharf(&["pull", &image]).success()?;
    let options = ["--workdir", "/srv", "--env", "MADE_BY=us"];
    let said = answers(&store, &image, &options, "root /srv us", other.directory())?;
    ensure(said.contains("left out") && said.contains(debian::USER), || {
        format!("the user of the config is left out, and all that is said is: {said}")
    })
}

/// What `bundle` makes is a bundle to runc.
fn bundle(world: &World) -> Result<()> {
    let (store, image) = (filled(world)?, pushed(world)?);
    let directory = world.dir("debian-bundle")?;
    let bundle = directory.join("bundle");
    let arguments = ["--", "python3", "-c", WHO];
    let printed = store.wharf(&["bundle", &image]).arg(&bundle).args(arguments).text()?;
    ensure_equal("what bundle prints", &printed, &bundle.display().to_string())?;
    let path = bundle.join("config.json");
    let config = layout::parse(&fs::read(&path).context(path.display())?)?;
    ensure_equal("the user", &config["process"]["user"]["uid"].as_u64(), &Some(1000))?;
    let names = [("org.opencontainers.image.stopSignal", "SIGTERM"), ("org.example.base", "debian")];
    for (name, value) in names {
        ensure_equal(name, &config["annotations"][name].as_str(), &Some(value))?;
    }
    let name = format!("wharf-it-{}", std::process::id());
    let runc = Tool::new("runc").arg("--root").arg(directory.join("state"));
    let said = runc.args(["run", "--bundle"]).arg(&bundle).arg(name).text()?;
    ensure_equal("who runs", &said, &format!("{0} /home/{0} umoci", debian::USER))?;
    ensure(bundle.join("rootfs/usr/bin/python3.11").exists(), || "runc took the bundle away".to_owned())
}
