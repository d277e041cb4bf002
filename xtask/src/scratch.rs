//! A temporary directory that goes away with its guard.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::failure::{Context, Result};

/// A directory of one's own, mode 0700, removed when dropped.
#[derive(Debug)]
pub(crate) struct Scratch {
    path: PathBuf,
    keep: bool,
}

impl Scratch {
    /// Makes one under the system's temporary directory. Paths stay short, for sockets live in it.
    pub(crate) fn new(name: &str) -> Result<Self> {
        Self::within(&std::env::temp_dir(), name)
    }

    /// Makes one under `parent`.
    pub(crate) fn within(parent: &Path, name: &str) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("wharf-{name}-{}-{count}", std::process::id()));
        DirBuilder::new().mode(0o700).create(&path).context(path.display())?;
        Ok(Self { path, keep: false })
    }

    /// Leaves the directory where it is.
    pub(crate) fn keep(&mut self) {
        self.keep = true;
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a directory in it.
    pub(crate) fn dir(&self, name: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        fs::create_dir_all(&path).context(path.display())?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.keep {
            println!("kept {}", self.path.display());
        } else if let Err(error) = fs::remove_dir_all(&self.path) {
            eprintln!("warning: cannot remove {}: {error}", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_away_unless_it_is_kept() {
        let gone = Scratch::new("gone").unwrap();
        let path = gone.dir("deep/er").unwrap();
        drop(gone);
        assert!(!path.exists());

        let mut kept = Scratch::new("kept").unwrap();
        kept.keep();
        let path = kept.path().to_owned();
        drop(kept);
        assert!(path.exists());
        fs::remove_dir_all(path).unwrap();
    }
}
