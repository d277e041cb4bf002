//! The fuzz targets are a workspace of their own with a Cargo.lock of their own. What they test must be what is shipped: every crate that
//! both have is there in the same versions.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::Metadata;

use crate::cargo::{self, Workspace};
use crate::failure::Result;

/// The versions of each crate.
type Versions = BTreeMap<String, BTreeSet<String>>;

pub(super) fn rule(workspace: &Workspace) -> Result<Vec<String>> {
    Ok(check(&versions(&cargo::metadata()?), &versions(&cargo::fuzz_metadata(workspace)?)))
}

fn versions(metadata: &Metadata) -> Versions {
    let mut versions = Versions::new();
    for package in &metadata.packages {
        versions.entry(package.name.to_string()).or_default().insert(package.version.to_string());
    }
    versions
}

/// Complains of crates of the fuzz targets that the workspace has in other versions.
fn check(workspace: &Versions, fuzz: &Versions) -> Vec<String> {
    let differing = fuzz.iter().filter_map(|(name, versions)| {
        let shipped = workspace.get(name)?;
        (!versions.is_subset(shipped)).then_some((name, versions, shipped))
    });
    differing
        .map(|(name, versions, shipped)| {
            let list = |versions: &BTreeSet<String>| versions.iter().cloned().collect::<Vec<_>>().join(", ");
            format!(
                "{name} is {} in tests/fuzz/Cargo.lock and {} in Cargo.lock: copy the latter over it, and run cargo metadata there",
                list(versions),
                list(shipped)
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn versions_of(list: &[(&str, &str)]) -> Versions {
        let mut versions = Versions::new();
        for (name, version) in list {
            versions.entry((*name).to_owned()).or_default().insert((*version).to_owned());
        }
        versions
    }

    #[test]
    fn the_same_versions_and_crates_of_its_own_pass() {
        let workspace = versions_of(&[("bytes", "1.12.0"), ("rand", "0.8.0"), ("rand", "0.9.0")]);
        let fuzz = versions_of(&[("bytes", "1.12.0"), ("rand", "0.9.0"), ("libfuzzer-sys", "0.4.13")]);
        assert_eq!(check(&workspace, &fuzz), [""; 0]);
    }

    #[test]
    fn another_version_is_told() {
        let workspace = versions_of(&[("bytes", "1.12.0"), ("serde", "1.0.0")]);
        let fuzz = versions_of(&[("bytes", "1.12.1"), ("serde", "1.0.0")]);
        let complaints = check(&workspace, &fuzz);
        assert_eq!(complaints.len(), 1);
        assert!(complaints[0].starts_with("bytes is 1.12.1 in tests/fuzz"), "{complaints:?}");
    }

    #[test]
    fn the_lock_files_are_really_read() {
        let workspace = Workspace::find().unwrap();
        let fuzz = versions(&cargo::fuzz_metadata(&workspace).unwrap());
        assert!(fuzz.contains_key("libfuzzer-sys") && fuzz.contains_key("wharf-archive"));
    }
}
