//! Files that appear whole or not at all.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU64, Ordering},
};

/// A file under a temporary name beside its final one. Dropped without [`PendingFile::publish`], it is removed.
#[derive(Debug)]
pub struct PendingFile {
    file: File,
    published: bool,
    temporary: PathBuf,
    target: PathBuf,
}

impl PendingFile {
    /// Makes the temporary file for `target` with `mode` (less the umask).
    ///
    /// # Errors
    /// Those of the system.
    pub fn create(target: &Path, mode: u32) -> io::Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = target
            .file_name()
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path names no file"))?
            .to_string_lossy();
        loop {
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let temporary = target.with_file_name(format!(".{name}.{}-{count}.tmp", process::id()));
            match OpenOptions::new().read(true).write(true).create_new(true).mode(mode).open(&temporary) {
                Ok(file) => return Ok(Self { file, published: false, temporary, target: target.to_owned() }),
                // Left by a process of the same number that died: take the next name.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Makes the temporary file with `bytes` in it.
    pub(crate) fn holding(target: &Path, bytes: &[u8], mode: u32) -> io::Result<Self> {
        let mut pending = Self::create(target, mode)?;
        pending.file.write_all(bytes)?;
        Ok(pending)
    }

    /// The open file.
    pub fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Syncs the file, gives it its final name and syncs the directory.
    ///
    /// # Errors
    /// Those of the system; the target is then as it was.
    pub fn publish(self) -> io::Result<()> {
        self.file.sync_all()?;
        let target = self.target.clone();
        self.rename()?;
        sync_parent(&target)
    }

    /// Gives the file its final name, and leaves the rest to the system.
    pub(crate) fn rename(mut self) -> io::Result<()> {
        fs::rename(&self.temporary, &self.target)?;
        self.published = true;
        Ok(())
    }
}

impl Drop for PendingFile {
    fn drop(&mut self) {
        if !self.published {
            drop(fs::remove_file(&self.temporary));
        }
    }
}

/// Makes a name in a directory durable.
///
/// # Errors
/// Those of the system.
pub fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_of_what_was_not_published() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("f");
        PendingFile::holding(&path, b"one", 0o600).expect("writes").publish().expect("publishes");
        drop(PendingFile::holding(&path, b"two", 0o600).expect("writes"));
        assert_eq!(fs::read(&path).expect("reads"), b"one");
        assert_eq!(fs::read_dir(dir.path()).expect("lists").count(), 1);
    }
}
