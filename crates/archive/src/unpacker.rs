//! Unpacking an image while it is pulled, as a handler around the pull's own (containerd: `core/unpack/unpacker.go`).
//!
//! ```text
//! manifest ─> fetch ─> its layers are withheld
//! config   ─> fetch ─> which chain ids are unpacked? ─> the layers of those that are not, as children
//! layer    ─> fetch ─> staged by a task, which follows the ingest while the bytes arrive, or begins when they are there
//! the last layer of an image ─> wait for all of them ─> publish
//! ```
//!
//! An import has everything in the store when it unpacks: there the same handlers are walked by themselves.
//!
//! What follows an ingest works on bytes that nobody has verified, in a place that nobody looks into; it counts when the fetch has
//! succeeded, which verifies the blob, and the diff id is right. What fails meanwhile is done again from the verified blob, whose error is the
//! one that is told.
//!
//! A layer that is unpacked already is neither fetched nor unpacked. What is no image, such as an artifact, goes by untouched.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use tokio::{sync::oneshot, task::JoinSet};
use wharf_content::{
    BlobReader, Catalogue, Descriptor, Digest, Error, LeasedStore, Provider, Result, ResultExt,
    follow::Follower,
};
use wharf_images::{
    Children, Flow, Handler, Kind, Limits, Role, Selection, children::decode, decode::kind, image,
    layer::LayerDecoders, media_types as types, walk,
};

use crate::{
    layer_store::{Plan, Planned, Staged, Stager, UnpackedLayers},
    unpack::UnpackOptions,
};

/// Unpacks what one pull brings.
#[derive(Debug)]
pub struct Unpacker {
    store: Arc<LeasedStore>,
    catalogue: Catalogue,
    stager: Arc<Stager>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Layers of manifests whose config is not there yet, by the config.
    withheld: HashMap<Digest, Vec<Vec<Descriptor>>>,
    /// Configs that are there.
    configs: HashSet<Digest>,
    /// What is to be unpacked when a layer is there. An image may have a layer twice, and images may share one.
    awaited: HashMap<Digest, Vec<Awaited>>,
    /// Layers that are there.
    layers: HashSet<Digest>,
    done: Vec<UnpackedLayers>,
}

/// A layer that is to be unpacked when it is there.
#[derive(Debug)]
struct Awaited {
    work: Arc<Work>,
    planned: Planned,
    /// Tells who unpacks it while it arrives that it is there.
    following: Option<oneshot::Sender<()>>,
}

/// An image that is being unpacked.
#[derive(Debug)]
struct Work {
    plan: Plan,
    progress: Mutex<Progress>,
}

#[derive(Debug)]
struct Progress {
    /// How many layers are not there yet.
    pending: usize,
    staging: JoinSet<Result<Staged>>,
    staged: Vec<Staged>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Unpacker {
    /// Unpacks into the directories of a store, under its lease, which must stand until the pull has written its record. The selection of the
    /// options is the pull's matter.
    ///
    /// # Errors
    /// `NotImplemented` for a store that is in no directory.
    pub fn new(store: Arc<LeasedStore>, options: UnpackOptions) -> Result<Arc<Self>> {
        let catalogue = options.catalogue.clone();
        let stager = Arc::new(Stager::new(Arc::clone(&store), options)?);
        Ok(Arc::new(Self { store, catalogue, stager, state: Mutex::default() }))
    }

    /// Wraps the handler of a pull. A pull that has the unpacker as its [`Follower`], too, unpacks layers while they arrive.
    ///
    /// The handler fails, beside those errors of what it wraps, as [`unpack_layers`](crate::unpack_layers) does.
    pub fn wrap(self: &Arc<Self>, inner: Arc<dyn Handler>) -> Arc<dyn Handler> {
        Arc::new(Wrapped { inner, unpacker: Arc::clone(self) })
    }

    /// Unpacks an image that is in the store with all that is selected of it.
    pub(crate) async fn unpack(
        self: &Arc<Self>,
        target: &Descriptor,
        selection: &Selection,
        limits: Limits,
    ) -> Result<()> {
        image::check_platform(self.store.as_ref(), target, selection, &self.catalogue).await?;
        let children = Children::new(Arc::clone(&self.store) as Arc<dyn Provider>)
            .with_catalogue(self.catalogue.clone())
            .with_selection(selection.clone());
        let handler = self.wrap(Arc::new(children));
        walk(handler.as_ref(), std::slice::from_ref(target), limits).await
    }

    /// What was unpacked, or was there already: one for each image that the pull had.
    pub fn unpacked(&self) -> Vec<UnpackedLayers> {
        lock(&self.state).done.clone()
    }

    /// The config and the layers of a manifest that is an image which can be unpacked.
    async fn image(
        &self,
        manifest: &Descriptor,
        children: &[Descriptor],
    ) -> Result<Option<(Descriptor, Vec<Descriptor>)>> {
        let Some(decoded) = decode(self.store.as_ref(), manifest, &self.catalogue).await? else {
            return Ok(None);
        };
        let Some(config) = decoded.child(Role::Config) else { return Ok(None) };
        if !types::is_config(&config.media_type) {
            return Ok(None);
        }
        let layers: Vec<Descriptor> = decoded.children_of(Role::Layer).cloned().collect();
        for layer in &layers {
            // What this pull does not fetch, or is no layer of files, is not unpacked.
            let is_child = children.iter().any(|child| child.digest == layer.digest);
            if !is_child || self.catalogue.find::<LayerDecoders>(&layer.media_type)?.is_none() {
                return Ok(None);
            }
        }
        let has_config = children.iter().any(|child| child.digest == config.digest);
        Ok((has_config && !layers.is_empty()).then(|| (config.clone(), layers)))
    }

    /// Withholds the layers of a manifest until its config is there.
    async fn manifest(&self, manifest: &Descriptor, children: Vec<Descriptor>) -> Result<Vec<Descriptor>> {
        let Some((config, layers)) = self.image(manifest, &children).await? else { return Ok(children) };
        let mut rest: Vec<_> = children
            .into_iter()
            .filter(|child| layers.iter().all(|layer| layer.digest != child.digest))
            .collect();
        let is_there = {
            let mut state = lock(&self.state);
            let is_there = state.configs.contains(&config.digest);
            if !is_there {
                state.withheld.entry(config.digest.clone()).or_default().push(layers.clone());
            }
            is_there
        };
        if is_there {
            rest.extend(self.begin(&config, layers).await?);
        }
        Ok(rest)
    }

    /// Begins with every image that has waited for this config. Gives the layers that are to be fetched.
    async fn config(&self, config: &Descriptor) -> Result<Vec<Descriptor>> {
        let waiting = {
            let mut state = lock(&self.state);
            state.configs.insert(config.digest.clone());
            state.withheld.remove(&config.digest).unwrap_or_default()
        };
        let mut wanted = Vec::new();
        for layers in waiting {
            wanted.extend(self.begin(config, layers).await?);
        }
        Ok(wanted)
    }

    async fn begin(&self, config: &Descriptor, layers: Vec<Descriptor>) -> Result<Vec<Descriptor>> {
        let plan = self.stager.plan(config, layers).await.context(|| "cannot unpack the image")?;
        let missing: Vec<Planned> = plan.layers.iter().filter(|planned| !planned.is_there).cloned().collect();
        let progress = Progress { pending: missing.len(), staging: JoinSet::new(), staged: Vec::new() };
        let work = Arc::new(Work { plan, progress: Mutex::new(progress) });
        let (mut wanted, mut ready) = (Vec::new(), Vec::new());
        {
            let mut state = lock(&self.state);
            for planned in missing {
                let digest = planned.layer.digest.clone();
                if state.layers.contains(&digest) {
                    ready.push(planned);
                } else {
                    wanted.push(planned.layer.clone());
                    let awaited = Awaited { work: Arc::clone(&work), planned, following: None };
                    state.awaited.entry(digest).or_default().push(awaited);
                }
            }
        }
        for planned in ready {
            self.stage(&work, planned);
        }
        self.go_on(&work).await?;
        Ok(wanted)
    }

    /// Goes on with what has waited for a layer.
    async fn layer(&self, layer: &Descriptor) -> Result<()> {
        let waiting = {
            let mut state = lock(&self.state);
            state.layers.insert(layer.digest.clone());
            state.awaited.remove(&layer.digest).unwrap_or_default()
        };
        let mut works: Vec<Arc<Work>> = Vec::new();
        for Awaited { work, planned, following } in waiting {
            match following {
                Some(following) => {
                    lock(&work.progress).pending -= 1;
                    // It may have failed by a panic, which is told when it is waited for.
                    let _ = following.send(());
                }
                None => self.stage(&work, planned),
            }
            if works.iter().all(|known| !Arc::ptr_eq(known, &work)) {
                works.push(work);
            }
        }
        for work in works {
            self.go_on(&work).await?;
        }
        Ok(())
    }

    /// Unpacks a layer that is there, in the background.
    fn stage(&self, work: &Work, planned: Planned) {
        let stager = Arc::clone(&self.stager);
        let mut progress = lock(&work.progress);
        progress.pending -= 1;
        progress.staging.spawn(async move { stager.stage(&planned).await });
    }

    /// Unpacks a layer that is arriving, in the background, and again where that fails and the layer is there.
    fn follow(&self, awaited: &Awaited, reader: &Arc<dyn BlobReader>, is_there: oneshot::Receiver<()>) {
        let (stager, planned, reader) =
            (Arc::clone(&self.stager), awaited.planned.clone(), Arc::clone(reader));
        lock(&awaited.work.progress).staging.spawn(async move {
            let failed = match stager.stage_arriving(&planned, reader).await {
                Ok(staged) => return Ok(staged),
                Err(error) => error,
            };
            // It may be the bytes that are wrong, and then the fetch tells.
            if is_there.await.is_err() {
                return Err(failed);
            }
            tracing::debug!(layer = %planned.layer.digest, error = failed.report(), "unpacked again from its start");
            stager.stage(&planned).await
        });
    }

    /// Finds out early whether a layer failed; finishes when all layers are there.
    async fn go_on(&self, work: &Work) -> Result<()> {
        let mut last = {
            let mut progress = lock(&work.progress);
            while let Some(done) = progress.staging.try_join_next() {
                progress.staged.push(joined(done)?);
            }
            // Of several that find nothing pending, the first takes it all.
            if progress.pending > 0 || progress.pending == usize::MAX {
                return Ok(());
            }
            std::mem::replace(
                &mut *progress,
                Progress { pending: usize::MAX, staging: JoinSet::new(), staged: Vec::new() },
            )
        };
        while let Some(done) = last.staging.join_next().await {
            last.staged.push(joined(done)?);
        }
        let unpacked = self.stager.publish(work.plan.clone(), last.staged).await?;
        lock(&self.state).done.push(unpacked);
        Ok(())
    }
}

fn joined(done: Result<Result<Staged>, tokio::task::JoinError>) -> Result<Staged> {
    done.map_err(|error| Error::internal("a task ended early").with_source(error))?
}

impl Follower for Unpacker {
    /// To be called within the runtime of the pull.
    fn begun(&self, descriptor: &Descriptor, reader: Arc<dyn BlobReader>) {
        let mut state = lock(&self.state);
        for awaited in state.awaited.get_mut(&descriptor.digest).into_iter().flatten() {
            // One that was followed and began anew is unpacked when it is there.
            if awaited.following.is_none() {
                let (sender, receiver) = oneshot::channel();
                awaited.following = Some(sender);
                self.follow(awaited, &reader, receiver);
            }
        }
    }
}

#[derive(Debug)]
struct Wrapped {
    inner: Arc<dyn Handler>,
    unpacker: Arc<Unpacker>,
}

#[async_trait]
impl Handler for Wrapped {
    async fn handle(&self, descriptor: &Descriptor) -> Result<Flow> {
        let flow = self.inner.handle(descriptor).await?;
        let Flow::Children(children) = flow else { return Ok(flow) };
        if kind(&descriptor.media_type, &self.unpacker.catalogue)? == Some(Kind::Manifest) {
            return self.unpacker.manifest(descriptor, children).await.map(Flow::Children);
        }
        let mut children = children;
        children.extend(self.unpacker.config(descriptor).await?);
        self.unpacker.layer(descriptor).await?;
        Ok(Flow::Children(children))
    }
}
