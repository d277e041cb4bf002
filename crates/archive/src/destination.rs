//! Where a path leads that an archive is to be written to: to a file that is replaced whole, or to something that can only be
//! written into, such as a FIFO, a device, or a descriptor of this process.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use wharf_content::{Error, Result, ResultExt, local::atomic::PendingFile};

/// The mode of a new file, less the umask.
const NEW_MODE: u32 = 0o666;

/// The bits of a mode that are permissions.
const MODE_BITS: u32 = 0o777;

/// As many links are followed as Linux does.
const MAX_LINKS: usize = 40;

/// The names of open descriptors, as in `/dev/stdout` → `/proc/self/fd/1`. What they lead to is written, never replaced: it may be a
/// pipe, or a file that somebody else holds open.
const DESCRIPTORS: [&str; 2] = ["/proc", "/dev/fd"];

/// What an archive is written to.
#[derive(Debug)]
pub(crate) enum Destination {
    /// A temporary file beside its final name.
    Pending(PendingFile),
    /// What there is, written as it is.
    Direct(File),
}

impl Destination {
    /// Whether what `path` leads to is written as it is, and never replaced. Blocks.
    pub(crate) fn is_direct(path: &Path) -> bool {
        matches!(resolve(path), Ok(Target::Existing(_)))
    }

    /// Opens what `path` leads to. Blocks, on a FIFO until somebody reads.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let cannot = || format!("cannot write the archive {}", path.display());
        match resolve(path)? {
            // A file behind a descriptor keeps what it has, as with `>>`.
            Target::Existing(found) => {
                Ok(Self::Direct(OpenOptions::new().append(true).open(found).context(cannot)?))
            }
            Target::Replace { found, mode } => match create(&found, mode) {
                Ok(pending) => Ok(Self::Pending(pending)),
                Err(error) => match found.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                    Some(parent) if error.kind() == io::ErrorKind::NotFound => Err(Error::not_found(
                        format!("{}: there is no directory {}", cannot(), parent.display()),
                    )),
                    _ => Err(Error::io(cannot(), error)),
                },
            },
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Target {
    /// Written as it is.
    Existing(PathBuf),
    /// Replaced by a file with the mode of the one that is there.
    Replace { found: PathBuf, mode: Option<u32> },
}

/// Makes the temporary file. One that takes the place of another gets its mode exactly: an archive that was private stays so.
fn create(target: &Path, mode: Option<u32>) -> io::Result<PendingFile> {
    let mut pending = PendingFile::create(target, mode.unwrap_or(NEW_MODE))?;
    if let Some(mode) = mode {
        pending.file().set_permissions(Permissions::from_mode(mode))?;
    }
    Ok(pending)
}

/// Follows the links of a path, so that what they lead to is replaced and not they.
fn resolve(path: &Path) -> Result<Target> {
    if path.as_os_str().is_empty() {
        return Err(Error::invalid_argument("the path of the archive is empty"));
    }
    let cannot = || format!("cannot write the archive {}", path.display());
    let mut at = path.to_owned();
    for _ in 0..MAX_LINKS {
        let metadata = match fs::symlink_metadata(&at) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Target::Replace { found: at, mode: None });
            }
            Err(error) => return Err(Error::io(cannot(), error)),
        };
        if metadata.is_dir() {
            return Err(Error::invalid_argument(format!("{}: it is a directory", cannot())));
        }
        let parent = at.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let parent = fs::canonicalize(parent).context(cannot)?;
        if DESCRIPTORS.iter().any(|descriptors| parent.starts_with(descriptors)) {
            return Ok(Target::Existing(at));
        }
        if metadata.is_symlink() {
            at = parent.join(fs::read_link(&at).context(cannot)?);
        } else if metadata.is_file() {
            return Ok(Target::Replace { found: at, mode: Some(metadata.permissions().mode() & MODE_BITS) });
        } else {
            return Ok(Target::Existing(at));
        }
    }
    Err(Error::invalid_argument(format!("{}: too many links lead on from it", cannot())))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use wharf_content::ErrorKind;

    use super::*;

    #[test]
    fn paths_lead_to_files_or_to_what_is_written_into() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let dir = dir.path().canonicalize().expect("exists");
        let path = |name: &str| dir.join(name);
        fs::write(path("old"), "x").expect("writes");
        fs::set_permissions(path("old"), Permissions::from_mode(0o600)).expect("sets");
        fs::create_dir(path("sub")).expect("makes");
        for (link, to) in [("link", "old"), ("dangling", "sub/new"), ("loop", "loop"), ("null", "/dev/null")]
        {
            symlink(to, path(link)).expect("links");
        }
        let replace = |name: &str, mode| Target::Replace { found: path(name), mode };
        for (name, expected) in [
            ("new", replace("new", None)),
            ("old", replace("old", Some(0o600))),
            ("link", replace("old", Some(0o600))),
            ("dangling", replace("sub/new", None)),
            ("null", Target::Existing("/dev/null".into())),
        ] {
            assert_eq!(resolve(&path(name)).expect("resolves"), expected, "{name}");
        }
        for name in ["sub", "loop", ""] {
            let path = if name.is_empty() { PathBuf::new() } else { path(name) };
            assert_eq!(resolve(&path).expect_err("refused").kind(), ErrorKind::InvalidArgument, "{name}");
        }
        assert!(matches!(resolve(Path::new("/dev/stdout")).expect("resolves"), Target::Existing(_)));
    }
}
