//! An OCI image layout in a directory: its files, read as what a stranger made, and written so that each is there whole or not at all.
//!
//! ```text
//! oci-layout            {"imageLayoutVersion":"1.0.0"}
//! index.json            the images and their names; replaced by renaming, under a lock on the directory
//! blobs/                held by whoever puts something there, and alone by who removes something
//! blobs/<alg>/<hex>     regular files, reached through no link
//! ```
//!
//! (OCI image specification, `image-layout.md`.) The path of the directory itself is the user's, and may lead through links.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use rustix::{
    fs::{CWD, Mode, OFlags, openat},
    io::Errno,
};
use wharf_content::{
    BlobReader, Catalogue, Descriptor, Digest, Error, Provider, Result, ResultExt, blocking,
    local::atomic::PendingFile,
};

use super::{entries::Index, section::Section};
use crate::{index::OCI_LAYOUT, intake::MAX_DOCUMENT_LEN, layout};

/// The mode of new files, less the umask.
const FILE_MODE: u32 = 0o644;
/// How often a lock is tried, and how long is waited in between: ten seconds altogether.
const LOCK_TRIES: usize = 500;
const LOCK_WAIT: Duration = Duration::from_millis(20);

/// How the blobs of a layout are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    /// So that nothing is removed.
    Shared,
    /// So that nobody else relies on what is removed.
    Alone,
}

/// A layout, which may not be there yet.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    root: PathBuf,
}

impl Layout {
    pub(crate) fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Opens a file below the root, reached through no link; `None` where there is none. Blocks, but on nothing that another process
    /// would have to do.
    fn open(&self, path: &[&str]) -> Result<Option<(File, u64)>> {
        let cannot = || format!("cannot read {}", self.root.join(path.join("/")).display());
        let directory = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let (name, parents) = path.split_last().expect("because every path here has a name");
        let opened = (|| {
            let mut at = openat(CWD, &self.root, directory, Mode::empty())?;
            for parent in parents {
                at = openat(&at, *parent, directory | OFlags::NOFOLLOW, Mode::empty())?;
            }
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            openat(&at, *name, flags, Mode::empty())
        })();
        let file = match opened {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP | Errno::NOTDIR | Errno::NXIO) => return Err(irregular(&cannot())),
            Err(error) => return Err(Error::io(cannot(), error.into())),
        };
        let metadata = file.metadata().context(cannot)?;
        if metadata.is_file() { Ok(Some((file, metadata.len()))) } else { Err(irregular(&cannot())) }
    }

    /// Opens a blob; `None` where there is none.
    pub(super) fn open_blob(&self, digest: &Digest) -> Result<Option<(File, u64)>> {
        self.open(&["blobs", digest.algorithm().as_str(), digest.hex()])
    }

    /// Reads a document; `None` where there is none.
    fn document(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let cannot = || format!("cannot read {}", self.root.join(name).display());
        let Some((file, len)) = self.open(&[name])? else { return Ok(None) };
        let mut text = Vec::new();
        if len <= MAX_DOCUMENT_LEN {
            file.take(MAX_DOCUMENT_LEN + 1).read_to_end(&mut text).context(cannot)?;
        }
        if len > MAX_DOCUMENT_LEN || text.len() as u64 > MAX_DOCUMENT_LEN {
            return Err(Error::resource_exhausted(format!(
                "{}: it has more than the {MAX_DOCUMENT_LEN} bytes that are read of such a file",
                cannot()
            )));
        }
        Ok(Some(text))
    }

    /// The text of `index.json`; `None` where there is no layout.
    ///
    /// # Errors
    /// As [`Layout::entries`], but that it is malformed.
    pub(crate) async fn index(&self) -> Result<Option<Vec<u8>>> {
        let layout = self.clone();
        blocking::run(move || {
            let Some(marker) = layout.document("oci-layout")? else { return Ok(None) };
            layout::check_version(&marker).context(|| format!("cannot read {}", layout.root.display()))?;
            layout.document("index.json")
        })
        .await
    }

    /// What `index.json` lists; `None` where there is no layout.
    ///
    /// # Errors
    /// `InvalidArgument` for files that are links or otherwise irregular, and for malformed ones; `ResourceExhausted` for those that are
    /// too large; those of the file system.
    pub(crate) async fn entries(&self, catalogue: &Catalogue) -> Result<Option<Vec<Descriptor>>> {
        let Some(text) = self.index().await? else { return Ok(None) };
        self.entries_of(text.into(), catalogue).await.map(Some)
    }

    /// What a text of its `index.json` lists.
    ///
    /// # Errors
    /// `InvalidArgument` where it is malformed.
    pub(crate) async fn entries_of(&self, index: Bytes, catalogue: &Catalogue) -> Result<Vec<Descriptor>> {
        let entries = layout::entries(index, catalogue).await;
        entries.context(|| format!("cannot read the layout {}", self.root.display()))
    }

    /// Makes what is missing of the layout. Blocks.
    pub(super) fn create(&self, algorithm: &str) -> Result<()> {
        let cannot = || format!("cannot make the layout {}", self.root.display());
        fs::create_dir_all(&self.root).context(cannot)?;
        for directory in [self.root.join("blobs"), self.root.join("blobs").join(algorithm)] {
            match fs::create_dir(&directory) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(Error::io(cannot(), error));
                }
                _ => {}
            }
            if !fs::symlink_metadata(&directory).context(cannot)?.is_dir() {
                return Err(irregular(&cannot()));
            }
        }
        match self.document("oci-layout")? {
            Some(marker) => layout::check_version(&marker).context(cannot),
            None => self.replace("oci-layout", OCI_LAYOUT),
        }
    }

    fn replace(&self, name: &str, text: &[u8]) -> Result<()> {
        let path = self.root.join(name);
        let cannot = || format!("cannot write {}", path.display());
        let mut pending = PendingFile::create(&path, FILE_MODE).context(cannot)?;
        pending.file().write_all(text).context(cannot)?;
        pending.publish().context(cannot)
    }

    /// Changes `index.json`, while nobody else does. Blocks for ten seconds at most.
    ///
    /// # Errors
    /// `Unavailable` where another process keeps the lock; as [`Layout::entries`].
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Index) -> Result<T>) -> Result<T> {
        let _lock = self.lock()?;
        let mut index = match self.document("index.json")? {
            Some(text) => Index::parse(&text).context(|| format!("cannot change {}", self.root.display()))?,
            None => Index::new(),
        };
        let changed = change(&mut index)?;
        if index.is_changed {
            self.replace("index.json", &index.write())?;
        }
        Ok(changed)
    }

    fn lock(&self) -> Result<File> {
        let file = File::open(&self.root).context(|| self.cannot_lock())?;
        self.lock_file(file, File::try_lock)
    }

    /// Holds the blobs until the file is dropped; `None` where there are none yet. Blocks for ten seconds at most.
    ///
    /// # Errors
    /// `Unavailable` where another process holds them in a way that excludes it; those of the file system.
    pub(super) fn hold(&self, hold: Hold) -> Result<Option<File>> {
        let file = match File::open(self.root.join("blobs")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.context(|| self.cannot_lock())?,
        };
        let held = match hold {
            Hold::Shared => self.lock_file(file, File::try_lock_shared),
            Hold::Alone => self.lock_file(file, File::try_lock),
        };
        held.map(Some)
    }

    fn cannot_lock(&self) -> String {
        format!("cannot lock {}", self.root.display())
    }

    fn lock_file(
        &self,
        file: File,
        lock: impl Fn(&File) -> std::result::Result<(), TryLockError>,
    ) -> Result<File> {
        for _ in 0..LOCK_TRIES {
            match lock(&file) {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) => thread::sleep(LOCK_WAIT),
                Err(TryLockError::Error(error)) => return Err(Error::io(self.cannot_lock(), error)),
            }
        }
        Err(Error::unavailable(format!("{}: another process holds it", self.cannot_lock())))
    }

    /// A blob in the making. Blocks.
    pub(super) fn begin_blob(&self, digest: &Digest) -> Result<PendingFile> {
        let algorithm = digest.algorithm();
        self.create(algorithm.as_str())?;
        let path = self.root.join("blobs").join(algorithm.as_str()).join(digest.hex());
        PendingFile::create(&path, FILE_MODE).context(|| format!("cannot write {}", path.display()))
    }

    /// Removes a blob, and tells whether it was there. Blocks.
    pub(super) fn remove_blob(&self, digest: &Digest) -> Result<bool> {
        if self.open_blob(digest)?.is_none() {
            return Ok(false);
        }
        let path = self.root.join("blobs").join(digest.algorithm().as_str()).join(digest.hex());
        fs::remove_file(&path).context(|| format!("cannot remove {}", path.display()))?;
        Ok(true)
    }

    /// The size of a blob; `None` where there is none.
    pub(super) async fn size(&self, digest: &Digest) -> Result<Option<u64>> {
        let (layout, digest) = (self.clone(), digest.clone());
        blocking::run(move || Ok(layout.open_blob(&digest)?.map(|(_, len)| len))).await
    }
}

fn irregular(cannot: &str) -> Error {
    Error::invalid_argument(format!("{cannot}: it is a link or something else that is no file of a layout"))
}

#[async_trait]
impl Provider for Layout {
    async fn reader(&self, descriptor: &Descriptor) -> Result<Arc<dyn BlobReader>> {
        let (layout, digest) = (self.clone(), descriptor.digest.clone());
        blocking::run(move || match layout.open_blob(&digest)? {
            Some((file, len)) => Ok(Arc::new(Section::whole(file, len)) as Arc<dyn BlobReader>),
            None => Err(Error::not_found(format!("{} has no blob {digest}", layout.root.display()))),
        })
        .await
    }
}
