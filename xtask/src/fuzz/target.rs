//! Which targets there are, and how large their inputs become.

use crate::failure::{Context, Result};

/// A fuzz target of `tests/fuzz`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// The name of its program, and of its words in `tests/fuzz/dictionaries`.
    pub(super) name: &'static str,
    /// The longest input, in bytes.
    pub(super) max_len: u32,
}

/// All of them, those first that do least in a second.
pub(super) const TARGETS: &[Target] = &[
    Target { name: "tar_apply", max_len: 16 << 10 },
    Target { name: "archive_import", max_len: 16 << 10 },
    Target { name: "manifest", max_len: 8 << 10 },
    Target { name: "hosts", max_len: 4 << 10 },
    Target { name: "reference", max_len: 1 << 10 },
    Target { name: "challenge", max_len: 2 << 10 },
];

/// Those of these names; all, if there are none.
pub(super) fn choose(names: &[String]) -> Result<Vec<&'static Target>> {
    if names.is_empty() {
        return Ok(TARGETS.iter().collect());
    }
    let find = |name: &String| {
        let known: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
        let found = TARGETS.iter().find(|target| target.name == name);
        found.context(format_args!("there is no fuzz target {name:?}; there are: {}", known.join(" ")))
    };
    names.iter().map(find).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::cargo::Workspace;

    #[test]
    fn targets_are_chosen_by_name() {
        assert_eq!(choose(&[]).unwrap().len(), TARGETS.len());
        let one = choose(&["hosts".to_owned()]).unwrap();
        assert_eq!(one.iter().map(|target| target.name).collect::<Vec<_>>(), ["hosts"]);
        let error = choose(&["host".to_owned()]).unwrap_err().to_string();
        assert!(error.contains("\"host\"") && error.contains("tar_apply"), "{error}");
    }

    #[test]
    fn what_is_listed_is_what_is_there() {
        let package = Workspace::find().unwrap().root.join("tests/fuzz");
        let manifest = fs::read_to_string(package.join("Cargo.toml")).unwrap();
        let mut files: Vec<_> = fs::read_dir(package.join("fuzz_targets"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        let mut listed: Vec<_> = TARGETS.iter().map(|target| format!("{}.rs", target.name)).collect();
        listed.sort();
        assert_eq!(files, listed);
        for target in TARGETS {
            assert!(manifest.contains(&format!("[[bin]]\nname = \"{}\"\n", target.name)), "{}", target.name);
            let dictionary = package.join("dictionaries").join(format!("{}.dict", target.name));
            assert!(dictionary.exists(), "{}", target.name);
        }
    }
}
