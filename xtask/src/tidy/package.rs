//! Every crate can be packaged, and what is in the package builds by itself, with its default features and nobody
//! else's: a feature that another crate of the workspace switches on, or a file outside the crate, is missed here
//! alone.
//!
//! `cargo package` would build the packages too, but it unpacks those that others depend on once and for all: as
//! long as the version stays, a second run builds against the sources of the first. So the packages are unpacked
//! and checked here, in a workspace of their own below the target directory.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::cargo::{self, Workspace};
use crate::failure::{Context, Result, ensure};
use crate::process::{Finished, Tool, tail};

/// How long one call of cargo may take.
const LIMIT: Duration = Duration::from_secs(900);

/// What each package holds at least.
const CONTENTS: &[&str] = &["Cargo.toml", "README.md", "src/lib.rs"];

/// What no package holds: it would be dead weight, or nobody's business.
const FOREIGN: &[&str] = &["target/", ".ci/", ".cargo/", ".git/"];

/// A crate that can be published.
#[derive(Clone, Debug)]
struct Crate {
    name: String,
    version: String,
}

pub(super) fn rule(workspace: &Workspace) -> Result<Vec<String>> {
    let crates = crates()?;
    let directory = workspace.target.join("tidy");
    let packages = directory.join("package");
    clear(&packages)?;
    let published = crates.iter().flat_map(|package| ["--package", &package.name]);
    let made = workspace
        .cargo()
        .arg("package")
        .args(published)
        .args(["--allow-dirty", "--locked", "--no-verify", "--target-dir"])
        .arg(&directory)
        .limit(LIMIT)
        .run()?;
    if made.code != 0 {
        return Ok(complaint(&made).into_iter().collect());
    }
    let sources = directory.join("sources");
    clear(&sources)?;
    let mut complaints = Vec::new();
    for package in &crates {
        let archive = packages.join(format!("{}-{}.crate", package.name, package.version));
        // With the times of now: those in the archive are always the same, and cargo goes by them.
        let tar = Tool::new("tar").args(["--touch", "-xzf"]).arg(&archive).arg("-C").arg(&sources);
        tar.success()?;
        complaints.extend(check(&package.name, &list(&sources, package)?));
    }
    let manifest = sources.join("Cargo.toml");
    fs::write(&manifest, workspace_of(&crates)).context(manifest.display())?;
    fs::copy(workspace.root.join("Cargo.lock"), sources.join("Cargo.lock")).context("Cargo.lock")?;
    for package in &crates {
        let checked = workspace
            .cargo()
            .args(["check", "--offline", "--package", &package.name, "--target-dir"])
            .arg(&directory)
            .dir(&sources)
            .limit(LIMIT)
            .run()?;
        complaints.extend(complaint(&checked));
    }
    Ok(complaints)
}

/// The members of the workspace that can be published.
fn crates() -> Result<Vec<Crate>> {
    let metadata = cargo::metadata()?;
    let packages = metadata.workspace_packages();
    let published = packages.into_iter().filter(|package| package.publish.is_none());
    let crates: Vec<_> = published
        .map(|package| Crate { name: package.name.to_string(), version: package.version.to_string() })
        .collect();
    ensure(!crates.is_empty(), || "there is no crate to package".to_owned())?;
    Ok(crates)
}

fn complaint(finished: &Finished) -> Option<String> {
    let Finished { shown, code, stderr, .. } = finished;
    (*code != 0).then(|| format!("`{shown}` ended with exit code {code}\n{}", tail(stderr)))
}

/// Makes a directory, empty.
fn clear(directory: &Path) -> Result<()> {
    if directory.exists() {
        fs::remove_dir_all(directory).context(directory.display())?;
    }
    fs::create_dir_all(directory).context(directory.display())
}

/// The files of an unpacked package, relative to it.
fn list(sources: &Path, package: &Crate) -> Result<Vec<String>> {
    let root = sources.join(format!("{}-{}", package.name, package.version));
    let mut directories = vec![root.clone()];
    let mut files = Vec::new();
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).context(directory.display())? {
            let path = entry.context(directory.display())?.path();
            if path.is_dir() {
                directories.push(path);
            } else {
                files.push(path.strip_prefix(&root).unwrap_or(&path).display().to_string());
            }
        }
    }
    files.sort();
    Ok(files)
}

/// A workspace of the unpacked packages in which they find each other.
fn workspace_of(crates: &[Crate]) -> String {
    let mut text = "[workspace]\nresolver = \"3\"\nmembers = [\"*-*\"]\n\n[patch.crates-io]\n".to_owned();
    for Crate { name, version } in crates {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{name} = {{ path = \"{name}-{version}\" }}");
    }
    text
}

/// Complains of what a package lacks and of what it should not have.
fn check(name: &str, files: &[String]) -> Vec<String> {
    let lacks = CONTENTS.iter().filter(|wanted| !files.iter().any(|file| file == **wanted));
    let lacks = lacks.map(|wanted| format!("{name}: the package lacks {wanted}"));
    let foreign = files.iter().filter(|file| FOREIGN.iter().any(|foreign| file.starts_with(foreign)));
    lacks.chain(foreign.map(|file| format!("{name}: the package must not have {file}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    fn files(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_whole_package_passes() {
        let whole = files(&["Cargo.lock", "Cargo.toml", "README.md", "examples/a.rs", "src/lib.rs"]);
        assert_eq!(check("x", &whole), [""; 0]);
    }

    #[test]
    fn what_lacks_or_is_foreign_is_told() {
        let lacking = files(&["Cargo.toml", "src/lib.rs"]);
        assert_eq!(check("x", &lacking), ["x: the package lacks README.md"]);
        let moved = files(&["Cargo.toml", "README.md", "src/old/lib.rs"]);
        assert_eq!(check("x", &moved), ["x: the package lacks src/lib.rs"]);
        let foreign = files(&["Cargo.toml", "README.md", "src/lib.rs", "target/x"]);
        assert_eq!(check("x", &foreign), ["x: the package must not have target/x"]);
    }

    #[test]
    fn packages_find_each_other() {
        let one = Crate { name: "a-b".to_owned(), version: "1.2.3".to_owned() };
        assert!(workspace_of(&[one]).ends_with("[patch.crates-io]\na-b = { path = \"a-b-1.2.3\" }\n"));
    }

    #[test]
    fn files_are_really_listed() {
        let scratch = Scratch::new("package").unwrap();
        let source = scratch.dir("a-1.0.0/src").unwrap();
        fs::write(source.join("lib.rs"), "").unwrap();
        let one = Crate { name: "a".to_owned(), version: "1.0.0".to_owned() };
        assert_eq!(list(scratch.path(), &one).unwrap(), ["src/lib.rs"]);
    }
}
