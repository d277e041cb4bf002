//! The files of an image without unpacking it: which there are, from which layer each is, and what is in them.
//!
//! Layers are read newest first, each to its end and verified, and no further than it takes to be certain of the answer. What is said is
//! what [`apply`](crate::apply()) makes of the same layers. Nothing is put on disk; what is kept in memory is names and attributes, up to a
//! limit.
//!
//! ```text
//! layer 5 ─> entries ┐
//! layer 4 ─> entries ┼─> applied one over the other, on what is not known ─> certain? else one more layer
//!    …               ┘
//! ```
//!
//! A layer that was not read has been neither verified nor judged: an image of which a file can be read need not be one that can be unpacked.

mod budget;
mod content;
mod record;
mod scene;

use std::sync::{Arc, Weak};

use tokio::runtime::Handle;
use wharf_content::{Catalogue, Descriptor, Digest, Error, Provider, Result, ResultExt, blocking};
use wharf_images::{
    Selection, image,
    layer::{BlobStream, LayerOptions},
    progress::Silent,
};

use crate::{
    apply::{components, shown},
    unpack::{
        ahead::{Ahead, Buffers, Job},
        layers,
        stored::Stored,
    },
};
use budget::Budget;
use record::Records;
use scene::{Final, Found, Id, NodeKind, Scene};

/// How files are looked at.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FilesOptions {
    selection: Selection,
    catalogue: Catalogue,
    layers: LayerOptions,
    max_len: u64,
}

impl Default for FilesOptions {
    fn default() -> Self {
        Self {
            selection: Selection::host(),
            catalogue: Catalogue::linked().clone(),
            layers: LayerOptions::default(),
            max_len: Self::DEFAULT_MAX_LEN,
        }
    }
}

impl FilesOptions {
    /// How many bytes of memory names and attributes may take, unless something else is said: room for about a million files.
    pub const DEFAULT_MAX_LEN: u64 = 512 << 20;

    /// The host's platform, and the default limits.
    pub fn new() -> Self {
        Self::default()
    }

    /// Which platform is looked at: the best of these.
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

    /// How many bytes of memory names and attributes may take, counted roughly.
    #[must_use]
    pub fn with_max_len(mut self, max_len: u64) -> Self {
        self.max_len = max_len;
        self
    }
}

/// What a file is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link, with its text.
    Symlink(Vec<u8>),
    /// A device of characters, with its numbers.
    CharDevice(u32, u32),
    /// A device of blocks, with its numbers.
    BlockDevice(u32, u32),
    /// A named pipe.
    Fifo,
}

/// A file of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct File<'a> {
    /// Where it ends up, below the root and without a leading slash. Any bytes but zero.
    pub path: &'a [u8],
    /// What it is.
    pub kind: FileKind,
    /// The permissions, `0o7777` at most.
    pub mode: u32,
    /// The user whom it belongs to.
    pub uid: u32,
    /// The group that it belongs to.
    pub gid: u32,
    /// The size of a regular file in bytes, with the holes of a sparse one; else 0.
    pub size: u64,
    /// When it was changed: seconds since the epoch, which may be before it, and nanoseconds. `None` for a directory that no entry describes.
    pub mtime: Option<(i64, u32)>,
    /// How many names of the image lead to it.
    pub links: u32,
    /// The layer that it is from, counted from the lowest, which is 0.
    pub layer: usize,
    /// The digest of that layer, as it is stored.
    pub digest: &'a Digest,
}

/// What was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Looked {
    /// The manifest.
    pub manifest: Descriptor,
    /// How many layers it has.
    pub layers: usize,
    /// How many of them were read.
    pub layers_read: usize,
}

/// Shows the files of an image, each directory before what is in it, names in order of their bytes.
///
/// With a path, the file that it leads to, and all below where that is a directory; links on the way are followed within the image, and one
/// at its end is shown itself, unless a slash follows.
///
/// # Errors
/// `NotFound` where there is no such file, and when the image has no fitting platform or parts of it are missing; `ResourceExhausted` where
/// names and attributes take more than [`FilesOptions::with_max_len`]; `FailedPrecondition` for a layer with another digest or diff id;
/// those of [`apply`](crate::apply()) for layers that cannot be applied; those of `visit`.
///
/// # Cancellation
/// Nothing remains. `visit` may be called a few times more.
pub async fn list(
    provider: Arc<dyn Provider>,
    target: &Descriptor,
    path: Option<&[u8]>,
    options: &FilesOptions,
    mut visit: impl FnMut(&File<'_>) -> Result<()> + Send + 'static,
) -> Result<Looked> {
    let mut files = Files::open(provider, target, options).await?;
    let path = path.unwrap_or_default().to_vec();
    let question = Question { path, last: Final::Keep, is_whole: true, wanted: None };
    let (scene, question, answer) = files.ask(question).await?;
    let Some((id, path)) = answer else { return Err(missing(&question.path)) };
    let (looked, layers) = (files.looked(), files.layers);
    let show = move || {
        let mut links = vec![0_u32; scene.len()];
        scene.visit(ROOT, b"", &mut |_, id| {
            links[id] += 1;
            Ok(())
        })?;
        scene.visit(id, &path, &mut |path, id| visit(&file(&scene, &layers, &links, path, id)))
    };
    blocking::run(show).await?;
    Ok(looked)
}

/// Gives the content of a file to `sink`, in order, and says which it was. Links are followed within the image.
///
/// What is short was verified before a byte of it is given; what is long is read once more for it, from its layer, which is verified
/// again: then an error at the end means that what was given is not to be used.
///
/// # Errors
/// As [`list`]; `InvalidArgument` for what is no regular file; those of `sink`.
///
/// # Cancellation
/// Nothing remains. `sink` may be given a little more.
pub async fn cat(
    provider: Arc<dyn Provider>,
    target: &Descriptor,
    path: &[u8],
    options: &FilesOptions,
    sink: impl FnMut(&[u8]) -> Result<()> + Send + 'static,
) -> Result<Looked> {
    let mut files = Files::open(provider, target, options).await?;
    // What no link leads to is the likeliest.
    let wanted = components(path).is_ok().then(|| path.to_vec());
    let question = Question { path: path.to_vec(), last: Final::Follow, is_whole: false, wanted };
    let (scene, question, answer) = files.ask(question).await?;
    let Some((id, found)) = answer else { return Err(missing(&question.path)) };
    let node = scene.node(id);
    let what = match &node.kind {
        NodeKind::File => None,
        NodeKind::Directory(_) => Some("a directory"),
        NodeKind::Fifo => Some("a named pipe"),
        _ => Some("a device"),
    };
    if let Some(what) = what {
        let (path, found) = (shown(&question.path), shown(&found));
        return Err(Error::invalid_argument(format!("{path} is {what} ({found}), and has no content")));
    }
    let (layer, entry) = (node.layer as usize, node.entry.unwrap_or_default());
    let looked = files.looked();
    files.content(layer, entry, sink).await?;
    Ok(looked)
}

/// The root of every scene.
const ROOT: Id = 0;

fn missing(path: &[u8]) -> Error {
    Error::not_found(format!("there is no {} in the image", shown(path)))
}

fn file<'a>(
    scene: &Scene,
    layers: &'a [(Descriptor, Digest)],
    links: &[u32],
    path: &'a [u8],
    id: Id,
) -> File<'a> {
    let node = scene.node(id);
    let (major, minor) = node.facts.device;
    let kind = match &node.kind {
        NodeKind::Directory(_) => FileKind::Directory,
        NodeKind::Symlink(target) => FileKind::Symlink(target.to_vec()),
        NodeKind::CharDevice => FileKind::CharDevice(major, minor),
        NodeKind::BlockDevice => FileKind::BlockDevice(major, minor),
        NodeKind::Fifo => FileKind::Fifo,
        // With everything known there is nothing unknown.
        NodeKind::File | NodeKind::Unknown => FileKind::File,
    };
    let layer = node.layer as usize;
    File {
        path,
        size: if kind == FileKind::File { node.facts.size } else { 0 },
        kind,
        mode: node.facts.mode,
        uid: node.facts.uid,
        gid: node.facts.gid,
        mtime: node.facts.mtime.map(|time| (time.seconds, time.nanoseconds)),
        links: links[id],
        layer,
        digest: &layers[layer].0.digest,
    }
}

/// What is asked of an image.
struct Question {
    path: Vec<u8>,
    last: Final,
    /// Whether everything below is asked for.
    is_whole: bool,
    /// The name of the file whose content is asked for.
    wanted: Option<Vec<u8>>,
}

/// What a path leads to, with its path without links; `None` where there is nothing.
type Answer = Option<(Id, Vec<u8>)>;

/// The layers of an image, and what is known of them.
struct Files {
    provider: Arc<dyn Provider>,
    manifest: Descriptor,
    /// Lowest first.
    layers: Vec<(Descriptor, Digest)>,
    options: FilesOptions,
    budget: Budget,
    /// Of the newest layers, newest first.
    read: Vec<Records>,
    /// As long as this is there, somebody waits.
    awaited: Arc<()>,
}

impl Files {
    async fn open(provider: Arc<dyn Provider>, target: &Descriptor, options: &FilesOptions) -> Result<Self> {
        let selection = &options.selection;
        let manifest = image::manifest(provider.as_ref(), target, selection, &options.catalogue).await?;
        let layers = layers(provider.as_ref(), &manifest).await?;
        Ok(Self {
            provider,
            manifest: manifest.descriptor,
            layers,
            budget: Budget::new(options.max_len),
            options: options.clone(),
            read: Vec::new(),
            awaited: Arc::new(()),
        })
    }

    fn looked(&self) -> Looked {
        Looked { manifest: self.manifest.clone(), layers: self.layers.len(), layers_read: self.read.len() }
    }

    fn waiting(&self) -> Weak<()> {
        Arc::downgrade(&self.awaited)
    }

    /// Reads layers until the answer is certain.
    async fn ask(&mut self, mut question: Question) -> Result<(Scene, Question, Answer)> {
        // How much was done to find out whether more is needed.
        let (mut done, mut there) = (0_usize, 0_usize);
        loop {
            let is_complete = self.read.len() == self.layers.len();
            // Everything of an image takes everything. Else it is tried again after each layer, unless that would be most of the work.
            let is_everything =
                question.is_whole && components(&question.path).is_ok_and(|path| path.is_empty());
            let is_worth_it = !self.read.is_empty() && !is_everything && done <= 8 * there + 1_000_000;
            if is_complete || is_worth_it {
                done += there;
                let read = std::mem::take(&mut self.read);
                let (budget, count) = (self.budget, self.layers.len());
                let asked = blocking::run(move || {
                    let scene = build(&read, count, budget)?;
                    let answer = answer(&scene, &question)?;
                    Ok((read, scene, question, answer))
                });
                let (read, scene, asked, answer) = asked.await?;
                self.read = read;
                if let Some(answer) = answer {
                    return Ok((scene, asked, answer));
                }
                question = asked;
            }
            let wanted = question.wanted.clone();
            let records = self.read_next(wanted).await?;
            there += records.records.len();
            self.read.push(records);
        }
    }

    async fn job(&self, layer: usize) -> Result<Job> {
        let (layer, diff_id) = self
            .layers
            .get(layer)
            .cloned()
            .ok_or_else(|| Error::internal("all layers are known and something is not"))?;
        let reader = self.provider.reader(&layer).await;
        let reader = reader.context(|| format!("cannot read layer {}", layer.digest))?;
        let stream = BlobStream::new(reader, Handle::current());
        let (catalogue, options) = (self.options.catalogue.clone(), self.options.layers);
        let (sink, buffers) = (Arc::new(Silent), Buffers::shared_by(1));
        Ok(Job { layer, diff_id, stream, buffers, is_verified: false, catalogue, options, sink })
    }

    /// Reads the newest layer that was not read yet.
    async fn read_next(&mut self, wanted: Option<Vec<u8>>) -> Result<Records> {
        let at = self.layers.len().wrapping_sub(self.read.len() + 1);
        let job = self.job(at).await?;
        let (mut budget, waiting) = (self.budget, self.waiting());
        let (records, budget) = blocking::run(move || {
            let context = format!("cannot read layer {} ({})", job.layer.digest, job.layer.media_type);
            let wanted = wanted.as_deref().map(components).transpose()?;
            let stored = Stored::of(&job);
            let stream = Ahead::start(job)?;
            let records = Records::read(stream, wanted.as_deref(), &mut budget, &waiting)
                .map_err(|error| stored.explain(error))
                .context(|| context)?;
            Ok((records, budget))
        })
        .await?;
        self.budget = budget;
        Ok(records)
    }
}

/// Applies the layers that were read, newest first, of so many.
fn build(read: &[Records], count: usize, budget: Budget) -> Result<Scene> {
    let mut scene = Scene::new(read.len() < count, budget);
    for (above, records) in read.iter().enumerate().rev() {
        let layer =
            u32::try_from(count - 1 - above).map_err(|_| Error::resource_exhausted("too many layers"))?;
        scene.apply(layer, &records.records).context(|| format!("cannot apply layer {}", layer + 1))?;
    }
    Ok(scene)
}

/// What the scene says: `None` where that is not certain.
fn answer(scene: &Scene, question: &Question) -> Result<Option<Answer>> {
    Ok(match scene.find(&question.path, question.last)? {
        Found::Unknown => None,
        Found::Missing => Some(None),
        Found::Node(id, _) if question.is_whole && !scene.is_known_below(id) => None,
        Found::Node(id, path) => Some(Some((id, path))),
    })
}
