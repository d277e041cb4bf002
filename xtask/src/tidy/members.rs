//! What every crate under `crates` comes with: a README that is also its front page on docs.rs, an example that
//! is compiled, the workspace's lints, and all that a package needs to be published.

use std::fs;
use std::path::Path;

use cargo_metadata::{Metadata, Package, TargetKind};

use crate::cargo::{self, Workspace};
use crate::failure::{Context, Result};

/// A README shorter than this, in lines that are not empty, teaches nothing.
const README_LINES: usize = 10;

/// What makes the README the front page of the documentation.
const FRONT_PAGE: &str = "#![doc = include_str!(\"../README.md\")]";

/// What the rule looks at.
#[derive(Clone, Debug)]
struct Member {
    name: String,
    readme: String,
    library: String,
    manifest: String,
    examples: usize,
    description: Option<String>,
    license: Option<String>,
    repository: Option<String>,
    rust_version: bool,
    publish: bool,
}

pub(super) fn rule(_: &Workspace) -> Result<Vec<String>> {
    let members = gather(&cargo::metadata()?)?;
    Ok(members.iter().flat_map(check).collect())
}

fn gather(metadata: &Metadata) -> Result<Vec<Member>> {
    let crates = metadata.workspace_root.join("crates");
    let packages = metadata.workspace_packages();
    packages.into_iter().filter(|package| package.manifest_path.starts_with(&crates)).map(read).collect()
}

fn read(package: &Package) -> Result<Member> {
    let manifest = package.manifest_path.as_std_path();
    let directory = manifest.parent().context(format_args!("{} has no directory", manifest.display()))?;
    let examples = package.targets.iter().filter(|target| target.kind.contains(&TargetKind::Example));
    Ok(Member {
        name: package.name.to_string(),
        readme: text_or_nothing(&directory.join("README.md")),
        library: text_or_nothing(&directory.join("src/lib.rs")),
        manifest: fs::read_to_string(manifest).context(manifest.display())?,
        examples: examples.count(),
        description: package.description.clone(),
        license: package.license.clone(),
        repository: package.repository.clone(),
        rust_version: package.rust_version.is_some(),
        publish: package.publish.is_none(),
    })
}

/// A file that is not there is an empty one: that is complained of by what it lacks.
fn text_or_nothing(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn check(member: &Member) -> Vec<String> {
    let readme = member.readme.lines().filter(|line| !line.trim().is_empty()).count();
    let title = member.readme.lines().next().unwrap_or_default();
    let lints = member.manifest.replace(' ', "");
    let filled = |field: &Option<String>| field.as_ref().is_some_and(|text| !text.trim().is_empty());
    let rules = [
        (title.starts_with("# "), "README.md must begin with a title"),
        (readme >= README_LINES, "README.md must teach what the crate is about"),
        (member.library.contains(FRONT_PAGE), "src/lib.rs must have README.md as its front page"),
        (member.examples > 0, "there must be an example under examples"),
        (lints.contains("[lints]\nworkspace=true"), "Cargo.toml must take the workspace's lints"),
        (filled(&member.description), "Cargo.toml must have a description"),
        (filled(&member.license), "Cargo.toml must have the licence"),
        (filled(&member.repository), "Cargo.toml must name the repository"),
        (member.rust_version, "Cargo.toml must name the oldest Rust it builds with"),
        (member.publish, "the crate must be one that can be published"),
    ];
    let broken = rules.iter().filter(|(kept, _)| !kept);
    broken.map(|(_, complaint)| format!("{}: {complaint}", member.name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Member {
        Member {
            name: "wharf-example".to_owned(),
            readme: "# wharf-example\n".to_owned() + &"A line.\n".repeat(README_LINES),
            library: format!("//! First.\n{FRONT_PAGE}\n"),
            manifest: "[package]\n\n[lints]\nworkspace = true\n".to_owned(),
            examples: 1,
            description: Some("It is.".to_owned()),
            license: Some("Apache-2.0".to_owned()),
            repository: Some("https://example.org".to_owned()),
            rust_version: true,
            publish: true,
        }
    }

    #[test]
    fn a_good_member_passes() {
        assert_eq!(check(&good()), [""; 0]);
    }

    #[test]
    fn every_thing_that_lacks_is_told() {
        type Tamper = fn(&mut Member);
        let tampered: &[(&str, Tamper)] = &[
            ("begin with a title", |member| member.readme = member.readme.replacen("# ", "", 1)),
            ("teach", |member| member.readme = "# wharf-example\n".to_owned()),
            ("front page", |member| member.library = "//! First.\n".to_owned()),
            ("example", |member| member.examples = 0),
            ("lints", |member| member.manifest = "[package]\n[lints]\n".to_owned()),
            ("description", |member| member.description = Some(" ".to_owned())),
            ("licence", |member| member.license = None),
            ("repository", |member| member.repository = None),
            ("oldest Rust", |member| member.rust_version = false),
            ("published", |member| member.publish = false),
        ];
        for (word, tamper) in tampered {
            let mut member = good();
            tamper(&mut member);
            let complaints = check(&member);
            assert_eq!(complaints.len(), 1, "{word}: {complaints:?}");
            assert!(complaints[0].contains(word), "{complaints:?}");
        }
    }

    #[test]
    fn the_crates_are_really_read() {
        let members = gather(&cargo::metadata().unwrap()).unwrap();
        let names: Vec<_> = members.iter().map(|member| member.name.as_str()).collect();
        assert!(names.contains(&"wharf") && names.contains(&"wharf-content"), "{names:?}");
        assert!(!names.contains(&"xtask"), "{names:?}");
    }
}
