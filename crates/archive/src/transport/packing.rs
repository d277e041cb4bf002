//! Images into an archive: collected in a layout beside the file, and written as one tar when all is there.
//!
//! ```text
//! .NAME.wharf-copy/    has the layout, locked by who writes it; what a killed process left is used by the next one
//! .NAME.<pid>-….tmp    the archive in the making
//! NAME                 as it was, until the archive takes its place
//! ```
//!
//! A tar cannot be written as the content comes: what comes in is sorted by nothing, several pieces at once, and the same image is to give
//! the same bytes.

use std::{
    env,
    ffi::OsString,
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    process,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use rustix::process::geteuid;
use wharf_content::{
    BlobReader, Catalogue, Descriptor, Digest, Error, ErrorKind, Provider, Result, ResultExt, blocking,
};
use wharf_images::{
    Kind, Selection, decode,
    decode::kind,
    image,
    transport::{Delivery, Place, Pusher, Shipment},
};

use super::{
    archive::ArchiveKind,
    directory::Layout,
    entries,
    location::Location,
    opened::{Identity, Opened},
    pusher::LayoutPusher,
};
use crate::{
    destination::Destination,
    oci_archive::{check_loadable, write},
    options::ExportOptions,
    plan::{Plan, Wanted},
};

/// Puts images into an archive.
#[derive(Debug)]
pub(super) struct ArchivePusher {
    kind: ArchiveKind,
    location: Location,
    catalogue: Catalogue,
    /// The archive that is there.
    there: Option<Arc<Opened>>,
    collecting: Collecting,
    inner: LayoutPusher,
    /// Whether the root came.
    is_complete: AtomicBool,
}

impl ArchivePusher {
    /// Begins to collect an image.
    pub(super) async fn begin(
        kind: ArchiveKind,
        location: Location,
        there: Option<Arc<Opened>>,
        catalogue: Catalogue,
    ) -> Result<Self> {
        let path = location.path.clone();
        let collecting = blocking::run(move || Collecting::begin(&path)).await?;
        let layout = collecting.layout();
        let inner = LayoutPusher::new(layout, location.clone(), catalogue.clone());
        let is_complete = AtomicBool::new(false);
        Ok(Self { kind, location, catalogue, there, collecting, inner, is_complete })
    }

    /// Whether the archive that is there has a name for an image already.
    fn is_there(&self, digest: &Digest) -> bool {
        let Some(there) = &self.there else { return false };
        let title = &self.location.title;
        there
            .entries
            .iter()
            .any(|entry| entry.digest == *digest && title.as_ref().is_none_or(|title| title.means(entry)))
    }

    /// Writes the archive.
    async fn pack(&self) -> Result<()> {
        let layout = self.collecting.layout();
        let collected = layout.entries(&self.catalogue).await?.unwrap_or_default();
        let mut all = Vec::new();
        for entry in self.there.iter().flat_map(|there| &there.entries) {
            let is_renamed = self.location.title.as_ref().is_some_and(|title| title.means(entry));
            if !is_renamed
                && !collected
                    .iter()
                    .any(|new| entries::plain(new) == entries::plain(entry) && new.annotations.is_empty())
            {
                all.push(Wanted::listed(entry.clone()));
            }
        }
        all.extend(collected.into_iter().map(Wanted::listed));
        let mut options = ExportOptions::new()
            .with_selection(Selection::all())
            .with_catalogue(self.catalogue.clone())
            // Of several platforms some may have been wanted only.
            .skipping_missing();
        if self.kind == ArchiveKind::Oci {
            options = options.without_docker_manifest();
        }
        let both: Arc<dyn Provider> = Arc::new(Both { first: layout, second: self.there.clone() });
        let plan = Plan::make(&both, all, &options).await?;
        if self.kind == ArchiveKind::Docker {
            check_loadable(&plan)?;
        }
        let (path, there) = (self.location.path.clone(), self.there.as_ref().map(|there| there.identity));
        let cannot = || format!("cannot write the archive {}", self.location.path.display());
        let opening = path.clone();
        match blocking::run(move || Destination::open(&opening)).await? {
            Destination::Direct(file) => {
                let mut file = tokio::fs::File::from_std(file);
                write(&both, &plan, &options, &mut file).await?;
                tokio::io::AsyncWriteExt::flush(&mut file).await.context(cannot)
            }
            Destination::Pending(mut pending) => {
                let mut file = tokio::fs::File::from_std(pending.file().try_clone().context(cannot)?);
                write(&both, &plan, &options, &mut file).await?;
                tokio::io::AsyncWriteExt::flush(&mut file).await.context(cannot)?;
                drop(file);
                blocking::run(move || {
                    if Identity::of(&path) != there {
                        return Err(Error::conflict(format!(
                            "somebody else wrote {} meanwhile: try again",
                            path.display()
                        )));
                    }
                    Ok(pending.publish())
                })
                .await?
                .context(cannot)
            }
        }
    }
}

#[async_trait]
impl Pusher for ArchivePusher {
    /// The content is in the archive when all of it was finished.
    async fn push(&self, shipment: &Shipment) -> Result<Delivery> {
        let descriptor = &shipment.descriptor;
        if shipment.place == Place::Root && self.pinned().is_none_or(|pinned| *pinned == descriptor.digest) {
            if self.is_there(&descriptor.digest) && self.has(descriptor, Place::Root).await? {
                return Ok(Delivery::Exists);
            }
            let delivery = self.inner.push(shipment).await?;
            self.is_complete.store(true, Ordering::Release);
            return Ok(delivery);
        }
        if let (Place::Blob, Some(there)) = (shipment.place, &self.there)
            && there.reader(descriptor).await.is_ok_and(|reader| reader.size() == descriptor.size)
        {
            return Ok(Delivery::Exists);
        }
        let delivery = self.inner.push(shipment).await?;
        if shipment.place == Place::Manifest && self.there.is_some() {
            // What refers to an image that is there already is new.
            let layout = self.collecting.layout();
            let listed = layout.entries(&self.catalogue).await?.unwrap_or_default();
            if listed.iter().any(|entry| entry.digest == descriptor.digest) {
                self.is_complete.store(true, Ordering::Release);
            }
        }
        Ok(delivery)
    }

    /// Whether the archive that is there has all of it.
    async fn has(&self, descriptor: &Descriptor, place: Place) -> Result<bool> {
        let Some(there) = self.there.clone() else { return Ok(false) };
        if place == Place::Root && !self.is_there(&descriptor.digest) {
            return Ok(false);
        }
        let listed = there.entries.iter().any(|entry| entry.digest == descriptor.digest);
        let there: Arc<dyn Provider> = there;
        // What is damaged or absent is not there.
        let Ok(decoded) = decode(there.as_ref(), descriptor, &self.catalogue).await else { return Ok(false) };
        if !listed && decoded.is_some_and(|decoded| decoded.subject.is_some()) {
            return Ok(false);
        }
        if kind(&descriptor.media_type, &self.catalogue)? == Some(Kind::Index) {
            return Ok(true);
        }
        Ok(image::check(there, descriptor, &Selection::all(), &self.catalogue).await?.is_complete())
    }

    async fn finish(&self) -> Result<()> {
        let packed = if self.is_complete.swap(false, Ordering::AcqRel) { self.pack().await } else { Ok(()) };
        let path = self.collecting.path.clone();
        let removed = blocking::run(move || remove(&path)).await;
        packed?;
        removed
    }

    fn pinned(&self) -> Option<&Digest> {
        self.location.digest.as_ref()
    }
}

/// A layout first, then an archive.
#[derive(Debug)]
struct Both {
    first: Layout,
    second: Option<Arc<Opened>>,
}

#[async_trait]
impl Provider for Both {
    async fn reader(&self, descriptor: &Descriptor) -> Result<Arc<dyn BlobReader>> {
        match (self.first.reader(descriptor).await, &self.second) {
            (Err(error), Some(second)) if error.kind() == ErrorKind::NotFound => {
                second.reader(descriptor).await
            }
            (found, _) => found,
        }
    }
}

/// The directory in which an image is collected. It goes when this is dropped.
#[derive(Debug)]
struct Collecting {
    path: PathBuf,
    _lock: File,
}

/// The layout is within, since changes of it take a lock of their own.
const LAYOUT: &str = "layout";

impl Collecting {
    fn layout(&self) -> Layout {
        Layout::new(self.path.join(LAYOUT))
    }

    /// Makes the directory for an archive at `target`. Blocks.
    fn begin(target: &Path) -> Result<Self> {
        let path = place(target)?;
        let cannot = || format!("cannot make the directory {} for the archive", path.display());
        let locked = || {
            Error::unavailable(format!(
                "another process is writing {}: wait for it, or name another file",
                target.display()
            ))
        };
        match fs::DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let parent = path.parent().unwrap_or(Path::new("."));
                return Err(Error::not_found(format!(
                    "{}: there is no directory {}",
                    cannot(),
                    parent.display()
                )));
            }
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Error::io(cannot(), error));
            }
            _ => {}
        }
        let found = fs::symlink_metadata(&path).context(cannot)?;
        // Where temporary files are, others make some, too.
        if !found.is_dir() || found.uid() != geteuid().as_raw() {
            return Err(Error::invalid_argument(format!(
                "{}: something else has that name, or somebody else made it",
                cannot()
            )));
        }
        let lock = File::open(&path).context(cannot)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(locked()),
            Err(TryLockError::Error(error)) => return Err(Error::io(cannot(), error)),
        }
        // Of what a killed process left only the blobs are wanted; and who had the lock before may have removed it all.
        let held = lock.metadata().context(cannot)?;
        let is_same = |there: fs::Metadata| (there.dev(), there.ino()) == (held.dev(), held.ino());
        match fs::remove_file(path.join(LAYOUT).join("index.json")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io(cannot(), error)),
            _ if !fs::symlink_metadata(&path).is_ok_and(is_same) => Err(locked()),
            _ => Ok(Self { path, _lock: lock }),
        }
    }
}

impl Drop for Collecting {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path) {
            tracing::debug!(error = %error.report(), "what was collected for an archive cannot be removed");
        }
    }
}

/// Where the image is collected: beside the file, so that there is room for it; for what is no file where temporary files are.
fn place(target: &Path) -> Result<PathBuf> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let found = target.canonicalize().unwrap_or_else(|_| target.to_owned());
    if target.is_dir() {
        return Err(Error::invalid_argument(format!("{} is a directory and no archive", target.display())));
    }
    match found.file_name() {
        Some(name) if found.is_file() || !found.exists() => {
            let mut hidden = OsString::from(".");
            hidden.push(name);
            hidden.push(".wharf-copy");
            Ok(found.with_file_name(hidden))
        }
        Some(_) => {
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            Ok(env::temp_dir().join(format!(".wharf-copy-{}-{count}", process::id())))
        }
        None => Err(Error::invalid_argument(format!("{} names no file", target.display()))),
    }
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io(format!("cannot remove {}", path.display()), error))
        }
        _ => Ok(()),
    }
}
