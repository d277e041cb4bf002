//! Unpacking an image into a directory: all layers, one over the other, as a root file system.
//!
//! The layers are applied in order; the next one is read ahead, so that decompressing and writing go on at the same time. Blobs, diff
//! ids and their number are verified. The directory is there when everything is in it and on the disk, or not at all.

pub(crate) mod ahead;
pub(crate) mod early;
pub(crate) mod staging;
pub(crate) mod stored;

use std::{
    path::Path,
    sync::{Arc, Weak},
};

use rustix::{
    fd::AsFd,
    fs::{AtFlags, CWD, chmodat},
};
use tokio::runtime::Handle;
use wharf_content::{
    Catalogue, Descriptor, Digest, Error, ErrorKind, Provider, Result, ResultExt, blocking, read_blob,
};
use wharf_images::{
    Selection, image,
    layer::{BlobStream, LayerOptions},
    progress::{Silent, Sink},
};

use crate::apply::{ApplyOptions, IMPLIED_MODE, LeftOut, Ownership, apply_in, cannot, itself};
use ahead::{Ahead, Buffers, Job};
use early::EarlySync;
use staging::Staging;
use stored::Stored;

/// How an image is unpacked.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct UnpackOptions {
    pub(crate) selection: Selection,
    pub(crate) catalogue: Catalogue,
    pub(crate) layers: LayerOptions,
    pub(crate) ownership: Ownership,
    pub(crate) sink: Arc<dyn Sink>,
}

impl Default for UnpackOptions {
    fn default() -> Self {
        let is_root = rustix::process::geteuid().is_root();
        Self {
            selection: Selection::host(),
            catalogue: Catalogue::linked().clone(),
            layers: LayerOptions::default(),
            ownership: if is_root { Ownership::Image } else { Ownership::User },
            sink: Arc::new(Silent),
        }
    }
}

impl UnpackOptions {
    /// The host's platform; owners as the image says for root, and the user for everybody else.
    pub fn new() -> Self {
        Self::default()
    }

    /// Which platform is unpacked: the best of these.
    #[must_use]
    pub fn with_selection(mut self, selection: Selection) -> Self {
        self.selection = selection;
        self
    }

    /// The catalogue of decoders.
    #[must_use]
    pub fn with_catalogue(mut self, catalogue: Catalogue) -> Self {
        self.catalogue = catalogue;
        self
    }

    /// What a layer may cost to unwrap.
    #[must_use]
    pub fn with_layers(mut self, layers: LayerOptions) -> Self {
        self.layers = layers;
        self
    }

    /// Whom files belong to.
    #[must_use]
    pub fn with_ownership(mut self, ownership: Ownership) -> Self {
        self.ownership = ownership;
        self
    }

    /// Where progress is told.
    #[must_use]
    pub fn with_sink(mut self, sink: Arc<dyn Sink>) -> Self {
        self.sink = sink;
        self
    }

    /// Which platform is unpacked, and by which decoders.
    pub(crate) fn chosen(&self) -> (&Selection, &Catalogue) {
        (&self.selection, &self.catalogue)
    }

    /// Whom files belong to.
    pub(crate) fn owner(&self) -> Ownership {
        self.ownership
    }
}

/// What was unpacked.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unpacked {
    /// The manifest.
    pub manifest: Descriptor,
    /// How many layers it has.
    pub layers: usize,
    /// How many entries they have.
    pub entries: u64,
    /// How many bytes of files were written.
    pub bytes: u64,
    /// What was left out, each kind once.
    pub left_out: Vec<LeftOut>,
}

/// Unpacks an image into `directory`, which is not there yet or is empty. Where no layer says anything of the root, it has mode 0755.
///
/// # Errors
/// `AlreadyExists` where there is something in the directory; `InvalidArgument` for one that something is mounted on or that this process is at
/// work in, since another takes its place; `Unavailable` while another process unpacks to it; `NotFound` when the image
/// has no fitting platform or parts of it are missing; `FailedPrecondition` for a blob or a layer with another digest, and a config
/// whose diff ids are not as many as the layers; those of [`apply`](crate::apply()) and [`wharf_images::layer::unwrap`].
///
/// # Cancellation
/// The directory is not there. What was made of it is removed soon after, or by the next unpack to the same place.
pub async fn unpack(
    provider: Arc<dyn Provider>,
    target: &Descriptor,
    directory: &Path,
    options: &UnpackOptions,
) -> Result<Unpacked> {
    let image = Opened::of(provider.as_ref(), target, options).await?;
    into_place(directory, move |staging, waiting| image.apply(staging, waiting)).await
}

/// An image whose layers are open and not read yet.
pub(crate) struct Opened {
    manifest: Descriptor,
    jobs: Vec<Job>,
    ownership: Ownership,
}

impl Opened {
    pub(crate) async fn of(
        provider: &dyn Provider,
        target: &Descriptor,
        options: &UnpackOptions,
    ) -> Result<Self> {
        let manifest = image::manifest(provider, target, &options.selection, &options.catalogue).await?;
        let layers = layers(provider, &manifest).await?;
        // One is applied, and the next one read ahead.
        let buffers = Buffers::shared_by(2);
        let mut jobs = Vec::with_capacity(layers.len());
        for (layer, diff_id) in layers {
            let reader =
                provider.reader(&layer).await.context(|| format!("cannot unpack layer {}", layer.digest))?;
            let stream = BlobStream::new(reader, Handle::current());
            jobs.push(Job {
                layer,
                diff_id,
                stream,
                buffers: buffers.clone(),
                is_verified: false,
                catalogue: options.catalogue.clone(),
                options: options.layers,
                sink: Arc::clone(&options.sink),
            });
        }
        Ok(Self { manifest: manifest.descriptor.clone(), jobs, ownership: options.ownership })
    }

    /// Applies all layers to the directory that is open, as long as somebody is waiting for it.
    pub(crate) fn apply(self, root: &impl AsFd, waiting: &Weak<()>) -> Result<Unpacked> {
        let Self { manifest, jobs, ownership } = self;
        let mut unpacked =
            Unpacked { manifest, layers: jobs.len(), entries: 0, bytes: 0, left_out: Vec::new() };
        let options = ApplyOptions::new().with_ownership(ownership);
        let begin = |job: Job| {
            let (layer, stored) = (job.layer.clone(), Stored::of(&job));
            Ahead::start(job).map(|ahead| (layer, stored, ahead))
        };
        let mut early = EarlySync::of(Path::new(&itself(root)));
        let mut describes_root = false;
        let mut jobs = jobs.into_iter();
        let mut next = jobs.next().map(begin).transpose()?;
        while let Some((layer, stored, stream)) = next {
            next = jobs.next().map(begin).transpose()?;
            let stream = Awaited { stream, waiting, early: &mut early };
            let applied = apply_in(stream, root, &options)
                .map_err(|error| stored.explain(error))
                .context(|| format!("cannot unpack layer {} ({})", layer.digest, layer.media_type))?;
            unpacked.entries += applied.entries;
            unpacked.bytes += applied.bytes;
            describes_root |= applied.describes_root;
            add_left_out(&mut unpacked.left_out, applied.left_out);
        }
        if !describes_root {
            // In the making it is for its owner alone, and users of the image other than root would see nothing of it.
            chmodat(CWD, &*itself(root), IMPLIED_MODE, AtFlags::empty())
                .map_err(|error| cannot("set the mode of", b".", error))?;
        }
        Ok(unpacked)
    }
}

/// The layers of a manifest with their diff ids, lowest first.
pub(crate) async fn layers(
    provider: &dyn Provider,
    manifest: &image::Manifest,
) -> Result<Vec<(Descriptor, Digest)>> {
    let config = manifest.config()?;
    let bytes = read_blob(provider, config, image::MAX_CONFIG_LEN).await?;
    let diff_ids = image::rootfs(&bytes).context(|| format!("cannot read config {}", config.digest))?;
    let layers: Vec<_> = manifest.layers().cloned().collect();
    if layers.len() != diff_ids.len() {
        return Err(Error::failed_precondition(format!(
            "manifest {} has {} layers, and its config has {} diff ids",
            manifest.descriptor.digest,
            layers.len(),
            diff_ids.len()
        )));
    }
    Ok(layers.into_iter().zip(diff_ids).collect())
}

/// Makes a directory that is there whole and on the disk, or not at all. What makes it is told whether somebody is waiting still.
///
/// # Cancellation
/// The directory is not there; what was made of it is removed when `make` returns, or by who makes the same directory next.
pub(crate) async fn into_place<T: Send + 'static>(
    directory: &Path,
    make: impl FnOnce(&Staging, &Weak<()>) -> Result<T> + Send + 'static,
) -> Result<T> {
    let directory = directory.to_owned();
    let awaited = Arc::new(());
    let waiting = Arc::downgrade(&awaited);
    let made = blocking::run(move || {
        let staging = Staging::begin(&directory)?;
        match make(&staging, &waiting) {
            Ok(made) => staging.publish().map(|()| made),
            Err(error) => {
                if let Err(second) = staging.discard() {
                    // The first error is the one to tell; who makes it next removes what is left.
                    tracing::debug!(error = %second.report(), "what was made of a directory cannot be removed");
                }
                Err(error)
            }
        }
    })
    .await;
    drop(awaited);
    made
}

/// Adds what was left out of one more layer, each kind once.
pub(crate) fn add_left_out(all: &mut Vec<LeftOut>, of_layer: Vec<LeftOut>) {
    for more in of_layer {
        match all.iter_mut().find(|left_out| left_out.omission == more.omission) {
            Some(left_out) => left_out.count += more.count,
            None => all.push(more),
        }
    }
}

/// A stream that fails when nobody waits for what is done with it.
pub(crate) struct Awaited<'a> {
    pub(crate) stream: Ahead,
    pub(crate) waiting: &'a Weak<()>,
    pub(crate) early: &'a mut EarlySync,
}

impl std::io::Read for Awaited<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.waiting.strong_count() == 0 {
            return Err(std::io::Error::other(Error::new(ErrorKind::Aborted, "nobody waits for it")));
        }
        let count = self.stream.read(buffer)?;
        self.early.read(count);
        Ok(count)
    }
}
