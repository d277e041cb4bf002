//! Digests by sha256sum: a judge that has nothing to do with wharf.

use std::path::{Path, PathBuf};

use crate::failure::{Context, Result};
use crate::process::Tool;

/// The digest of some bytes, as `sha256:` and 64 digits.
pub(super) fn of(bytes: &[u8]) -> Result<String> {
    let line = Tool::new("sha256sum").input(bytes).text()?;
    let hex = line.split_whitespace().next().context("sha256sum says nothing")?;
    Ok(format!("sha256:{hex}"))
}

/// The digests of some files, in their order, without the algorithm.
pub(super) fn of_files(files: &[PathBuf]) -> Result<Vec<String>> {
    if files.is_empty() {
        return Ok(Vec::new());
    }
    let lines = Tool::new("sha256sum").arg("--").args(files).text()?;
    Ok(lines.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect())
}

/// The digest of one file, as `sha256:` and 64 digits.
pub(super) fn of_file(file: &Path) -> Result<String> {
    let digests = of_files(&[file.to_owned()])?;
    let hex = digests.first().context("sha256sum says nothing")?;
    Ok(format!("sha256:{hex}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_empty_digest_is_the_known_one() {
        let known = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(of(b"").unwrap(), known);
        assert_eq!(of_file(Path::new("/dev/null")).unwrap(), known);
        assert_ne!(of(b"x").unwrap(), known);
    }
}
