//! The files of an image as they are when layers are applied one over the other, in memory, as [`crate::apply()`] places them.
//!
//! Layers are read newest first, and what is below those that were read may not be known. Then some answers are: unknown. A name whose
//! parent nobody knows may be anywhere, since the parent may be a link; from then on everything of that name is unknown, until something
//! is put there again. With all layers nothing is unknown.

mod change;
mod find;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use wharf_content::{Error, Result};

use super::{
    budget::Budget,
    record::{Facts, Record},
};

pub(super) use find::{Final, Found};

/// The most links on the way to one file, as in Linux.
const MAX_LINKS: usize = 40;
/// How deep directories may be in each other.
const MAX_DEPTH: u32 = 1024;
/// What a node costs in memory, roughly, with its name.
const NODE_LEN: usize = 256;
/// No layer, for what nobody wrote.
const NOBODY: u32 = u32::MAX;

/// Where a node is among all.
pub(super) type Id = usize;

/// A file, directory, link or device.
#[derive(Debug)]
pub(super) struct Node {
    /// The layer that it is from, counted from the lowest, and its entry there; a directory that no entry describes has none.
    pub(super) layer: u32,
    pub(super) entry: Option<usize>,
    pub(super) kind: NodeKind,
    pub(super) facts: Facts,
}

#[derive(Debug)]
pub(super) enum NodeKind {
    Directory(Folder),
    File,
    Symlink(Arc<[u8]>),
    CharDevice,
    BlockDevice,
    Fifo,
    /// Another name of something that is not known.
    Unknown,
}

/// What is in a directory.
#[derive(Debug)]
pub(super) struct Folder {
    children: BTreeMap<Box<[u8]>, Child>,
    /// Whether layers that were not read may have put more there.
    is_open: bool,
    /// The layer that left nothing in it of the layers below.
    own: u32,
    /// The directory that it is in; the root is in itself.
    up: Id,
    depth: u32,
    /// When it was made or emptied.
    since: u64,
}

/// A name in a directory.
#[derive(Clone, Copy, Debug)]
struct Child {
    /// `None` for what is hidden.
    node: Option<Id>,
    /// The layer that wrote the name.
    layer: u32,
    since: u64,
}

/// What is under a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    Node(Id),
    Absent,
    Unknown,
}

/// All files.
#[derive(Debug)]
pub(super) struct Scene {
    nodes: Vec<Node>,
    budget: Budget,
    /// Counts changes.
    now: u64,
    /// The layer that is being applied, and when that began.
    layer: u32,
    layer_since: u64,
    /// When names were written or hidden last at a place that nobody knows.
    doubtful: HashMap<Box<[u8]>, u64>,
    /// When something was made last at a place that nobody knows, and when something of any name was hidden there.
    doubtful_made: u64,
    doubtful_all: u64,
}

/// The root.
const ROOT: Id = 0;

impl Scene {
    /// The scene below the first layer that is applied: nothing, or what is not known.
    pub(super) fn new(is_open: bool, budget: Budget) -> Self {
        let folder = Folder { children: BTreeMap::new(), is_open, own: NOBODY, up: ROOT, depth: 0, since: 1 };
        let facts = Facts { mode: 0o755, ..Facts::default() };
        let root = Node { layer: 0, entry: None, kind: NodeKind::Directory(folder), facts };
        Self {
            nodes: vec![root],
            budget,
            now: 1,
            layer: NOBODY,
            layer_since: 1,
            doubtful: HashMap::new(),
            doubtful_made: 0,
            doubtful_all: 0,
        }
    }

    /// Applies a layer.
    ///
    /// # Errors
    /// As applying it to a directory does.
    pub(super) fn apply(&mut self, layer: u32, records: &[Record]) -> Result<()> {
        self.layer = layer;
        self.layer_since = self.now;
        records.iter().enumerate().try_for_each(|(entry, record)| self.record(entry, record))
    }

    /// How many nodes there are, also those that nothing leads to any more.
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// A node.
    pub(super) fn node(&self, id: Id) -> &Node {
        &self.nodes[id]
    }

    fn folder(&self, id: Id) -> Option<&Folder> {
        match &self.nodes[id].kind {
            NodeKind::Directory(folder) => Some(folder),
            _ => None,
        }
    }

    fn folder_mut(&mut self, id: Id) -> Result<&mut Folder> {
        match &mut self.nodes[id].kind {
            NodeKind::Directory(folder) => Ok(folder),
            _ => Err(Error::internal("a directory is none")),
        }
    }

    /// When a name was last in doubt everywhere.
    fn doubt(&self, name: &[u8]) -> u64 {
        self.doubtful.get(name).copied().unwrap_or(0).max(self.doubtful_all)
    }

    /// What is in a directory under a name.
    fn look(&self, directory: Id, name: &[u8]) -> Look {
        let Some(folder) = self.folder(directory) else { return Look::Absent };
        let (node, since) = match folder.children.get(name) {
            Some(child) => (child.node, child.since),
            None if folder.is_open => return Look::Unknown,
            None => (None, folder.since),
        };
        match node {
            _ if since <= self.doubt(name) => Look::Unknown,
            Some(id) if matches!(self.nodes[id].kind, NodeKind::Unknown) => Look::Unknown,
            Some(id) => Look::Node(id),
            None if since <= self.doubtful_made => Look::Unknown,
            None => Look::Absent,
        }
    }

    fn tick(&mut self) -> u64 {
        self.now += 1;
        self.now
    }
}
