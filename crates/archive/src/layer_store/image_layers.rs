//! The layers of one image into a store's directory: planned, each staged by itself and many at once, then published together.
//!
//! ```text
//! config ─> diff ids ─> chain ids ─> held by a lease ─> which are there?
//! each that is not:   blob ─> [digest] ─> unwrap ─> [diff id] ─> apply ─> staging          as many at once as there are processors
//! each that goes through links of those below:  once more, with them in sight (`above.rs`)
//! all:                inherit from below ─> one sync ─> rename, lowest first ─> label on the config
//! ```

use std::{
    fs::{self, File},
    num::NonZeroUsize,
    path::PathBuf,
    sync::{Arc, Weak},
    thread,
};

use tokio::{runtime::Handle, sync::Semaphore, task::JoinSet};
use wharf_content::{
    BlobReader, Descriptor, Digest, Error, ErrorKind, Labels, LeasedStore, Manager, Provider, Result,
    ResultExt, Store, blocking, read_blob,
};
use wharf_images::{
    diff_id::{LABEL_UNCOMPRESSED, chain_ids},
    image,
    layer::BlobStream,
    progress::{Event, Skip},
};

use super::{
    Kind, LABEL, LayerStore, RECORD, Record,
    above::Again,
    idle::drop_idle_whiteouts,
    inherit::{Inherited, Root, inherit},
    lower::fill,
    make_root,
    staging::Staging,
};
use crate::{
    apply::{Applied, ApplyOptions, Beneath, LeftOut, Ownership, apply, apply_above},
    unpack::{
        Awaited, UnpackOptions, add_left_out,
        ahead::{Ahead, Buffers, Job},
        early::EarlySync,
        stored::Stored,
    },
};

/// One layer of an image that is unpacked.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnpackedLayer {
    /// The layer as it is stored.
    pub layer: Descriptor,
    /// The digest of its plain tar stream.
    pub diff_id: Digest,
    /// What names it together with all below it.
    pub chain_id: Digest,
    /// Where its files are.
    pub directory: PathBuf,
    /// Whether it was unpacked now, and was not there.
    pub is_new: bool,
}

/// An image whose layers are unpacked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnpackedLayers {
    /// The layers, lowest first.
    pub layers: Vec<UnpackedLayer>,
    /// How many entries the new ones have.
    pub entries: u64,
    /// How many bytes of files were written.
    pub bytes: u64,
    /// What was left out of the new ones, each kind once.
    pub left_out: Vec<LeftOut>,
}

impl UnpackedLayers {
    /// The chain id of all layers; `None` for an image without layers.
    pub fn chain_id(&self) -> Option<&Digest> {
        self.layers.last().map(|layer| &layer.chain_id)
    }
}

/// Unpacks the layers of an image into the directories of its store, each by itself. What is unpacked already is left as it is.
///
/// The lease of `store` holds the layers until it is released; then the image does, by the label [`LABEL`] on its config.
///
/// # Errors
/// `NotImplemented` for a store that is in no directory; `NotFound` when the image has no fitting platform or parts of it are missing;
/// `FailedPrecondition` for a blob or a layer with another digest, a config whose diff ids are not as many as the layers, and a layer that
/// has something below what is no directory; those of [`apply`] and [`wharf_images::layer::unwrap`].
///
/// # Cancellation
/// No layer is there that was not there before. What was made is removed soon after, or by the next unpack.
pub async fn unpack_layers(
    store: &Arc<LeasedStore>,
    target: &Descriptor,
    options: &UnpackOptions,
) -> Result<UnpackedLayers> {
    let manifest = image::manifest(store.as_ref(), target, &options.selection, &options.catalogue).await?;
    let stager = Arc::new(Stager::new(Arc::clone(store), options.clone())?);
    let layers = manifest.layers().cloned().collect();
    let plan = stager
        .plan(manifest.config()?, layers)
        .await
        .context(|| format!("cannot unpack manifest {}", manifest.descriptor.digest))?;
    let mut tasks = JoinSet::new();
    for planned in plan.layers.iter().filter(|planned| !planned.is_there) {
        let (stager, planned) = (Arc::clone(&stager), planned.clone());
        tasks.spawn(async move { stager.stage(&planned).await });
    }
    let mut staged = Vec::new();
    while let Some(done) = tasks.join_next().await {
        staged.push(done.map_err(|error| Error::internal("a task ended early").with_source(error))??);
    }
    stager.publish(plan, staged).await
}

/// What is to be unpacked of an image.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) config: Descriptor,
    /// Lowest first.
    pub(crate) layers: Vec<Planned>,
}

/// One layer of a plan.
#[derive(Clone, Debug)]
pub(crate) struct Planned {
    pub(crate) layer: Descriptor,
    pub(super) diff_id: Digest,
    pub(crate) chain_id: Digest,
    parent: Option<Digest>,
    pub(crate) is_there: bool,
}

/// A layer that is unpacked and not yet in its place.
#[derive(Debug)]
pub(crate) struct Staged {
    chain_id: Digest,
    staging: Staging,
    applied: Applied,
    /// Whether it was applied with the layers below in sight.
    is_above: bool,
}

/// Unpacks layers into a store.
#[derive(Debug)]
pub(crate) struct Stager {
    layers: LayerStore,
    store: Arc<LeasedStore>,
    options: UnpackOptions,
    buffers: Buffers,
    limiter: Semaphore,
}

impl Stager {
    pub(crate) fn new(store: Arc<LeasedStore>, options: UnpackOptions) -> Result<Self> {
        let layers = LayerStore::of(store.as_ref())?;
        let at_once = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        // What fetches them has buffers as well.
        let buffers = Buffers::shared_by(at_once + 1);
        Ok(Self { layers, store, options, buffers, limiter: Semaphore::new(at_once) })
    }

    /// Finds out which layers are to be unpacked, and has the lease hold them all, those that are there and those that will be.
    pub(crate) async fn plan(&self, config: &Descriptor, layers: Vec<Descriptor>) -> Result<Plan> {
        let bytes = read_blob(self.store.as_ref(), config, image::MAX_CONFIG_LEN).await?;
        let diff_ids = image::rootfs(&bytes).context(|| format!("cannot read config {}", config.digest))?;
        if layers.len() != diff_ids.len() {
            return Err(Error::failed_precondition(format!(
                "the manifest has {} layers, and its config {} has {} diff ids",
                layers.len(),
                config.digest,
                diff_ids.len()
            )));
        }
        let chain_ids = chain_ids(&diff_ids);
        if let (Some(leases), Some(lease)) = (self.store.leases(), self.store.lease()) {
            for chain_id in &chain_ids {
                leases.add_resource(lease, &LayerStore::resource(chain_id)).await?;
            }
        }
        let (place, kind) = (self.layers.clone(), Kind::of(self.options.ownership));
        let config = config.clone();
        let plan = blocking::run(move || {
            place.prepare()?;
            let mut planned = Vec::with_capacity(layers.len());
            let mut parent = None;
            for ((layer, diff_id), chain_id) in layers.into_iter().zip(diff_ids).zip(chain_ids) {
                let is_there = place.has_of(&chain_id, kind)?;
                planned.push(Planned { layer, diff_id, chain_id: chain_id.clone(), parent, is_there });
                parent = Some(chain_id);
            }
            Ok(Plan { config, layers: planned })
        })
        .await?;
        for planned in plan.layers.iter().filter(|planned| planned.is_there) {
            self.options.sink.event(&Event::Skipped { descriptor: &planned.layer, why: Skip::Unpacked });
        }
        Ok(plan)
    }

    /// Unpacks one layer beside its place.
    pub(crate) async fn stage(&self, planned: &Planned) -> Result<Staged> {
        let permit = self.limiter.acquire().await;
        let reader = self.store.reader(&planned.layer).await.context(|| cannot_unpack(planned))?;
        let staged = self.stage_from(planned, reader, false).await;
        drop(permit);
        staged
    }

    /// Unpacks one layer beside its place from a blob that is still arriving. It counts when the blob is committed.
    pub(crate) async fn stage_arriving(
        &self,
        planned: &Planned,
        reader: Arc<dyn BlobReader>,
    ) -> Result<Staged> {
        let permit = self.limiter.acquire().await;
        let staged = self.stage_from(planned, reader, true).await;
        drop(permit);
        staged
    }

    async fn stage_from(
        &self,
        planned: &Planned,
        reader: Arc<dyn BlobReader>,
        is_verified: bool,
    ) -> Result<Staged> {
        let job = Job {
            layer: planned.layer.clone(),
            diff_id: planned.diff_id.clone(),
            stream: BlobStream::new(reader, Handle::current()),
            buffers: self.buffers.clone(),
            is_verified,
            catalogue: self.options.catalogue.clone(),
            options: self.options.layers,
            sink: Arc::clone(&self.options.sink),
        };
        let (layers, owned, ownership) = (self.layers.clone(), planned.clone(), self.options.ownership);
        let awaited = Arc::new(());
        let waiting = Arc::downgrade(&awaited);
        let staged = blocking::run(move || {
            let options =
                ApplyOptions::new().with_ownership(ownership).with_whiteouts(Kind::of(ownership).whiteouts());
            stage(&layers, owned, job, &options, &waiting, None)
        })
        .await
        .context(|| cannot_unpack(planned));
        drop(awaited);
        staged
    }

    /// Puts what was staged into its place, when all layers of the image are there and on the disk, and has the config keep them.
    pub(crate) async fn publish(&self, plan: Plan, staged: Vec<Staged>) -> Result<UnpackedLayers> {
        let layers = self.layers.clone();
        let awaited = Arc::new(());
        let again = Again {
            store: Arc::clone(&self.store),
            options: self.options.clone(),
            runtime: Handle::current(),
            waiting: Arc::downgrade(&awaited),
        };
        let config = plan.config.clone();
        let fresh: Vec<_> = plan.layers.iter().filter(|planned| !planned.is_there).cloned().collect();
        let unpacked = blocking::run(move || publish(&layers, &plan, staged, &again)).await;
        drop(awaited);
        let unpacked = unpacked?;
        if let Some(chain_id) = unpacked.chain_id() {
            let labels = Labels::from([(LABEL.to_owned(), chain_id.to_string())]);
            self.store.update(&config.digest, &labels, &[&format!("labels.{LABEL}")]).await?;
        }
        for planned in fresh {
            let labels = Labels::from([(LABEL_UNCOMPRESSED.to_owned(), planned.diff_id.to_string())]);
            let path = format!("labels.{LABEL_UNCOMPRESSED}");
            if let Err(error) = self.store.update(&planned.layer.digest, &labels, &[&path]).await {
                // It only saves time.
                tracing::debug!(layer = %planned.layer.digest, error = error.report(), "cannot keep a diff id");
            }
        }
        Ok(unpacked)
    }
}

fn cannot_unpack(planned: &Planned) -> String {
    format!("cannot unpack layer {} ({})", planned.layer.digest, planned.layer.media_type)
}

/// Unpacks one layer beside its place: by itself, `above` what is below if that is given.
pub(super) fn stage(
    layers: &LayerStore,
    planned: Planned,
    job: Job,
    options: &ApplyOptions,
    waiting: &Weak<()>,
    above: Option<Box<dyn Beneath>>,
) -> Result<Staged> {
    let staging = Staging::begin(&layers.directory)?;
    let root = staging.path().join("fs");
    make_root(&root)?;
    let mut early = EarlySync::of(&root);
    let stored = Stored::of(&job);
    let stream = Awaited { stream: Ahead::start(job)?, waiting, early: &mut early };
    let is_above = above.is_some();
    let applied = match above {
        None => apply(stream, &root, options),
        Some(beneath) => apply_above(stream, &root, options, beneath),
    }
    .map_err(|error| stored.explain(error))?;
    let record =
        Record { diff_id: planned.diff_id, parent: planned.parent, kind: Kind::of(options.ownership) };
    let text = serde_json::to_vec(&record)
        .map_err(|error| Error::internal("a layer's record cannot be written").with_source(error))?;
    let path = staging.path().join(RECORD);
    fs::write(&path, text).context(|| format!("cannot write {}", path.display()))?;
    Ok(Staged { chain_id: planned.chain_id, staging, applied, is_above })
}

/// A layer that took from those below what it needs.
struct Complete {
    staging: Staging,
    root: Root,
    unpacked: UnpackedLayers,
}

/// Has a layer take from those below what it needs.
///
/// # Errors
/// `FailedPrecondition` where it has something in what is no directory below, or links to what is not there.
fn complete(staged: Staged, below: &[Root], ownership: Ownership) -> Result<Complete> {
    let Staged { staging, applied, is_above, .. } = staged;
    let root = Root::open(&staging.path().join("fs"))?;
    let Applied { entries, bytes, left_out, implied, described, describes_root, hides, lower } = applied;
    let taken = Inherited { implied, described, describes_root, is_above };
    fill(&root, lower, below, ownership).and_then(|()| inherit(&root, &taken, below, ownership))?;
    if hides {
        drop_idle_whiteouts(&root, below)?;
    }
    let unpacked = UnpackedLayers { layers: Vec::new(), entries, bytes, left_out };
    Ok(Complete { staging, root, unpacked })
}

fn publish(
    layers: &LayerStore,
    plan: &Plan,
    mut staged: Vec<Staged>,
    again: &Again,
) -> Result<UnpackedLayers> {
    let ownership = again.options.ownership;
    let mut unpacked = UnpackedLayers::default();
    let mut roots: Vec<Root> = Vec::with_capacity(plan.layers.len());
    let mut ready = Vec::with_capacity(staged.len());
    for planned in &plan.layers {
        let at = staged.iter().position(|staged| staged.chain_id == planned.chain_id);
        let directory = layers.directory(&planned.chain_id);
        match at.map(|at| staged.swap_remove(at)) {
            None => roots.push(Root::open(&directory)?),
            Some(one) => {
                let done = match complete(one, &roots, ownership) {
                    // Applied by itself it meant something else than above those below.
                    Err(error) if error.kind() == ErrorKind::FailedPrecondition => again
                        .stage(layers, planned, &roots)
                        .and_then(|staged| complete(staged, &roots, ownership)),
                    done => done,
                }
                .context(|| cannot_unpack(planned))?;
                roots.push(done.root);
                unpacked.entries += done.unpacked.entries;
                unpacked.bytes += done.unpacked.bytes;
                add_left_out(&mut unpacked.left_out, done.unpacked.left_out);
                ready.push((done.staging, layers.place(&planned.chain_id)));
            }
        }
        unpacked.layers.push(UnpackedLayer {
            layer: planned.layer.clone(),
            diff_id: planned.diff_id.clone(),
            chain_id: planned.chain_id.clone(),
            directory,
            is_new: !planned.is_there,
        });
    }
    if ready.is_empty() {
        return Ok(unpacked);
    }
    let failed = || format!("cannot put layers into {}", layers.directory.display());
    let place = File::open(&layers.directory).context(failed)?;
    rustix::fs::syncfs(&place).map_err(std::io::Error::from).context(failed)?;
    for (staging, place) in ready {
        staging.publish(&place)?;
    }
    place.sync_all().context(failed)?;
    Ok(unpacked)
}
