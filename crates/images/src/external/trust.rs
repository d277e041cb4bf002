//! Who may change a file that is going to be run: root and the user, nobody else.
//!
//! Checked are the file that a path leads to and every directory above it, since who can write into one of them can put something else
//! in the file's place. From then on the path without links is used, so that a link that is changed later leads nowhere.

use std::{
    fs::{self, Metadata},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use wharf_content::{Error, ErrorKind, Result, ResultExt};

/// Write permission of the group and of everybody.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// In a directory with this bit only the owner of a file can replace it, as in /tmp.
const STICKY: u32 = 0o1000;

const EXECUTABLE: u32 = 0o111;

/// Where a path stands in the check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// What was asked about.
    Itself,
    /// A directory above it.
    Above,
}

/// Resolves `path` and fails unless nobody but root and the user can change what is there.
pub(super) fn check(path: &Path) -> Result<PathBuf> {
    let real = path.canonicalize().context(|| format!("cannot find {}", path.display()))?;
    let user = rustix::process::geteuid().as_raw();
    for part in real.ancestors() {
        let metadata = fs::symlink_metadata(part).context(|| format!("cannot look at {}", part.display()))?;
        let place = if part == real { Place::Itself } else { Place::Above };
        if let Some(reason) = distrust(metadata.uid(), metadata.mode(), user, place) {
            return Err(Error::new(
                ErrorKind::PermissionDenied,
                format!(
                    "{} is not used, for it could be code of somebody else: {} {reason}",
                    path.display(),
                    part.display()
                ),
            ));
        }
    }
    Ok(real)
}

/// As [`check`], for a file that can be run.
pub(super) fn check_executable(path: &Path) -> Result<PathBuf> {
    let real = check(path)?;
    let metadata = fs::metadata(&real).context(|| format!("cannot look at {}", real.display()))?;
    if is_executable(&metadata) {
        return Ok(real);
    }
    Err(Error::new(
        ErrorKind::PermissionDenied,
        format!("{} is not an executable file: `chmod +x` makes it one", path.display()),
    ))
}

fn is_executable(metadata: &Metadata) -> bool {
    metadata.is_file() && metadata.mode() & EXECUTABLE != 0
}

/// Why a file or directory cannot be trusted, if there is a reason.
fn distrust(owner: u32, mode: u32, user: u32, place: Place) -> Option<String> {
    if owner != 0 && owner != user {
        return Some(format!("belongs to user {owner}, not to root or user {user}"));
    }
    if mode & WRITABLE_BY_OTHERS == 0 || (place == Place::Above && mode & STICKY != 0) {
        return None;
    }
    Some("can be written by its group or by everybody: `chmod go-w` takes that away".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_root_and_the_user_are_trusted() {
        for (owner, mode, place, trusted) in [
            (0, 0o40_755, Place::Itself, true),
            (7, 0o40_700, Place::Itself, true),
            (8, 0o40_700, Place::Itself, false),
            (8, 0o40_755, Place::Above, false),
            (7, 0o100_775, Place::Itself, false),
            (7, 0o100_757, Place::Itself, false),
            (0, 0o41_777, Place::Above, true),
            (0, 0o41_777, Place::Itself, false),
            (0, 0o40_777, Place::Above, false),
        ] {
            assert_eq!(distrust(owner, mode, 7, place).is_none(), trusted, "{owner} {mode:o} {place:?}");
        }
    }
}
