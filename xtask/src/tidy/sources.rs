//! What every source file keeps to: it says first what it is, it is not too long, it leaves nothing undone, and
//! no test is switched off.

use std::fs;
use std::path::{Path, PathBuf};

use crate::cargo::Workspace;
use crate::failure::{Context, Result};

/// The longest file, in lines.
const LINES: usize = 500;

/// The longest file under a `tests` directory, in lines.
const TEST_LINES: usize = 900;

/// Where sources are.
const ROOTS: &[&str] = &["crates", "tests", "xtask"];

/// Words that must not be in a source file. They are written in two halves, or this file would complain of itself.
const MARKERS: &[&str] = &[
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("to", "do!"),
    concat!("un", "implemented!"),
];

/// What switches a test off.
const IGNORE: &str = concat!("#[ign", "ore");

pub(super) fn rule(workspace: &Workspace) -> Result<Vec<String>> {
    let mut complaints = Vec::new();
    for root in ROOTS {
        for file in rust_files(&workspace.root.join(root))? {
            let text = fs::read_to_string(&file).context(file.display())?;
            let path = file.strip_prefix(&workspace.root).unwrap_or(&file).to_string_lossy();
            complaints.extend(check(&path, &text));
        }
    }
    Ok(complaints)
}

/// All `.rs` files below a directory, sorted; what was built is left out.
fn rust_files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).context(directory.display())? {
            let entry = entry.context(directory.display())?;
            let path = entry.path();
            let kind = entry.file_type().context(path.display())?;
            if kind.is_dir() && entry.file_name() != "target" {
                directories.push(path);
            } else if kind.is_file() && path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

/// Complains of one file. `path` is relative to the workspace.
fn check(path: &str, text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    let first = text.lines().next().unwrap_or_default();
    let says = first.strip_prefix("//!").unwrap_or_default().trim();
    if says.is_empty() {
        complaints.push(format!("{path}:1: the first line must be `//!` and say what the file is for"));
    }
    let limit = if path.split('/').any(|part| part == "tests") { TEST_LINES } else { LINES };
    let length = text.lines().count();
    if length > limit {
        complaints.push(format!("{path}: {length} lines are more than {limit}"));
    }
    for (number, line) in (1..).zip(text.lines()) {
        for marker in MARKERS {
            if has_word(line, marker) {
                complaints.push(format!("{path}:{number}: {marker} must not stay"));
            }
        }
        if line.replace(' ', "").contains(IGNORE) {
            complaints.push(format!("{path}:{number}: no test is switched off"));
        }
    }
    complaints
}

/// Whether `word` stands in `line` by itself, not as a part of a longer one.
fn has_word(line: &str, word: &str) -> bool {
    let part = |character: char| character.is_alphanumeric() || character == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        !before.is_some_and(part) && (word.ends_with('!') || !after.is_some_and(part))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "//! What this is.\nfn f() {}\n";

    #[test]
    fn a_good_file_passes() {
        assert_eq!(check("crates/x/src/lib.rs", GOOD), [""; 0]);
    }

    #[test]
    fn a_file_says_what_it_is() {
        for bad in ["", "fn f() {}\n", "//!\nfn f() {}\n", "// What this is.\n", "\n//! Late.\n"] {
            assert_eq!(check("a.rs", bad).len(), 1, "{bad:?}");
        }
    }

    #[test]
    fn length_is_limited_and_tests_may_be_longer() {
        let text = |lines: usize| GOOD.to_owned() + &"\n".repeat(lines - 2);
        assert_eq!(check("crates/x/src/a.rs", &text(LINES)), [""; 0]);
        assert_eq!(check("crates/x/src/a.rs", &text(LINES + 1)).len(), 1);
        assert_eq!(check("crates/x/tests/a.rs", &text(TEST_LINES)), [""; 0]);
        assert_eq!(check("crates/x/tests/a.rs", &text(TEST_LINES + 1)).len(), 1);
    }

    #[test]
    fn every_marker_is_found() {
        for marker in MARKERS {
            let text = format!("{GOOD}// {marker}: later\n");
            assert_eq!(check("a.rs", &text), [format!("a.rs:3: {marker} must not stay")]);
        }
        let longer = format!("{GOOD}// {}S\n", MARKERS[0]);
        assert_eq!(check("a.rs", &longer), [""; 0]);
    }

    #[test]
    fn tests_are_not_switched_off() {
        for attribute in
            [format!("{IGNORE}]"), format!("{IGNORE} = \"slow\"]"), IGNORE.replace('[', "[ ") + "]"]
        {
            assert_eq!(check("a.rs", &format!("{GOOD}{attribute}\n")), ["a.rs:3: no test is switched off"]);
        }
    }

    #[test]
    fn files_are_really_found() {
        let files = rust_files(&Workspace::find().unwrap().root.join("xtask")).unwrap();
        assert!(files.iter().any(|file| file.ends_with("tidy/sources.rs")));
    }
}
