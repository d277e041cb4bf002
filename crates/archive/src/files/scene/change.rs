//! What one entry does to the files that are there.

use std::{collections::BTreeMap, sync::Arc};

use wharf_content::{Error, Result, ResultExt};

use super::{
    Child, Folder, Id, Look, MAX_DEPTH, NOBODY, NODE_LEN, Node, NodeKind, ROOT, Scene,
    find::{Missing, Parent},
};
use crate::{
    apply::{Name, components, shown},
    files::record::{Facts, Record, What},
};

impl Scene {
    /// Applies an entry.
    pub(super) fn record(&mut self, entry: usize, record: &Record) -> Result<()> {
        self.record_inner(entry, record).context(|| format!("cannot apply {}", shown(&record.name)))
    }

    fn record_inner(&mut self, entry: usize, record: &Record) -> Result<()> {
        self.tick();
        match Name::parse(&record.name)? {
            Name::Nothing => Ok(()),
            Name::Root if record.what != What::Directory => {
                Err(Error::invalid_argument("the root is to be something else than a directory"))
            }
            Name::Root => {
                self.describe(ROOT, entry, record.facts);
                Ok(())
            }
            Name::Opaque { directory } => match self.parent(&directory, Missing::Leave)? {
                Parent::Missing => Ok(()),
                Parent::Found(id) if !self.has_doubts() => self.hide_within(id).map(drop),
                _ => {
                    self.doubtful_all = self.now;
                    Ok(())
                }
            },
            Name::Whiteout { parent, base } => match self.parent(&parent, Missing::Leave)? {
                Parent::Missing => Ok(()),
                Parent::Found(id) if !self.has_doubts() => self.hide(id, base).map(drop),
                _ => self.doubt_of(base),
            },
            Name::Node { parent, base } => match self.parent(&parent, Missing::Make)? {
                Parent::Found(id) => self.put(id, base, entry, record),
                Parent::Missing => Err(Error::internal("a directory was neither found nor made")),
                Parent::Unknown(rest) => {
                    self.doubtful_made = self.now;
                    for name in &rest {
                        self.doubt_of(name)?;
                    }
                    self.doubt_of(base)
                }
            },
        }
    }

    /// Whether this layer has put something nobody knows where: then what it hides may be its own.
    fn has_doubts(&self) -> bool {
        self.doubtful_made > self.layer_since
    }

    /// Something happened to something of this name, nobody knows where.
    fn doubt_of(&mut self, name: &[u8]) -> Result<()> {
        let now = self.now;
        if let Some(since) = self.doubtful.get_mut(name) {
            *since = now;
            return Ok(());
        }
        self.budget.take(64 + name.len())?;
        self.doubtful.insert(name.into(), now);
        Ok(())
    }

    fn describe(&mut self, id: Id, entry: usize, facts: Facts) {
        let node = &mut self.nodes[id];
        (node.layer, node.entry, node.facts) = (self.layer, Some(entry), facts);
    }

    fn put(&mut self, directory: Id, base: &[u8], entry: usize, record: &Record) -> Result<()> {
        let there = self.look(directory, base);
        let kind = match &record.what {
            What::Directory => {
                if let Look::Node(id) = there
                    && self.folder(id).is_some()
                {
                    self.describe(id, entry, record.facts);
                    return self.set(directory, base, Some(id), self.layer);
                }
                // Over what is not known it may be a directory that was there.
                let is_open = there == Look::Unknown;
                return self.make(directory, base, is_open, Some(entry), record.facts, self.layer).map(drop);
            }
            What::HardLink(target) => return self.link(directory, base, target),
            What::File => NodeKind::File,
            What::Symlink(target) => NodeKind::Symlink(Arc::clone(target)),
            // Left out, as a device that means something else to overlayfs.
            What::CharDevice if record.facts.device == (0, 0) => {
                return self.set(directory, base, None, self.layer);
            }
            What::CharDevice => NodeKind::CharDevice,
            What::BlockDevice => NodeKind::BlockDevice,
            What::Fifo => NodeKind::Fifo,
        };
        let id = self.add(Node { layer: self.layer, entry: Some(entry), kind, facts: record.facts })?;
        self.set(directory, base, Some(id), self.layer)
    }

    fn link(&mut self, directory: Id, base: &[u8], target: &[u8]) -> Result<()> {
        let missing =
            || Error::failed_precondition(format!("a hard link to {}, which is not there", shown(target)));
        let mut parent = components(target)?;
        let target_base = parent
            .pop()
            .ok_or_else(|| Error::invalid_argument("a hard link to the root, which can have none"))?;
        let parent = self.parent(&parent, Missing::Leave)?;
        let found = match &parent {
            Parent::Found(id) => self.look(*id, target_base),
            Parent::Missing => Look::Absent,
            Parent::Unknown(_) => Look::Unknown,
        };
        let id = match found {
            Look::Absent => return Err(missing()),
            Look::Node(id) if self.folder(id).is_some() => {
                return Err(Error::invalid_argument(format!(
                    "a hard link to {}, which is no file",
                    shown(target)
                )));
            }
            Look::Node(id) => {
                if let (Parent::Found(from), Look::Node(replaced)) = (&parent, self.look(directory, base))
                    && self.is_within(*from, replaced)
                {
                    // It goes with the directory whose place the link takes.
                    return Err(missing());
                }
                id
            }
            Look::Unknown => {
                let (kind, facts) = (NodeKind::Unknown, Facts::default());
                self.add(Node { layer: self.layer, entry: None, kind, facts })?
            }
        };
        self.set(directory, base, Some(id), self.layer)
    }

    /// Whether a directory is another one, or somewhere in it.
    fn is_within(&self, mut directory: Id, other: Id) -> bool {
        loop {
            if directory == other {
                return true;
            }
            match self.folder(directory) {
                Some(folder) if directory != ROOT => directory = folder.up,
                _ => return false,
            }
        }
    }

    fn add(&mut self, node: Node) -> Result<Id> {
        self.budget.take(NODE_LEN)?;
        self.nodes.push(node);
        Ok(self.nodes.len() - 1)
    }

    /// Puts a node, or that there is none, under a name.
    fn set(&mut self, directory: Id, base: &[u8], node: Option<Id>, layer: u32) -> Result<()> {
        let since = self.now;
        self.budget.take(if node.is_none() { base.len() } else { 0 })?;
        let child = Child { node, layer, since };
        let children = &mut self.folder_mut(directory)?.children;
        match children.get_mut(base) {
            Some(there) => *there = child,
            None => {
                children.insert(base.into(), child);
            }
        }
        Ok(())
    }

    /// Makes a directory.
    pub(super) fn make(
        &mut self,
        directory: Id,
        base: &[u8],
        is_open: bool,
        entry: Option<usize>,
        facts: Facts,
        written: u32,
    ) -> Result<Id> {
        let depth = self.folder_mut(directory)?.depth + 1;
        if depth > MAX_DEPTH {
            return Err(Error::resource_exhausted(format!(
                "directories are more than {MAX_DEPTH} deep in each other"
            )));
        }
        let own = if is_open { NOBODY } else { self.layer };
        let folder =
            Folder { children: BTreeMap::new(), is_open, own, up: directory, depth, since: self.now };
        let kind = NodeKind::Directory(folder);
        let id = self.add(Node { layer: self.layer, entry, kind, facts })?;
        self.set(directory, base, Some(id), written)?;
        Ok(id)
    }

    /// Hides everything in a directory that this layer has not written. Says whether anything is left.
    fn hide_within(&mut self, directory: Id) -> Result<bool> {
        let (layer, now) = (self.layer, self.now);
        let folder = self.folder_mut(directory)?;
        if folder.own == layer {
            return Ok(folder.children.values().any(|child| child.node.is_some()));
        }
        // Most that a layer hides has nothing in it that the layer has.
        let children: Vec<(Box<[u8]>, Child)> = std::mem::take(&mut folder.children).into_iter().collect();
        (folder.is_open, folder.own, folder.since) = (false, layer, now);
        let mut left = BTreeMap::new();
        for (base, child) in children {
            let Some(id) = child.node else { continue };
            if self.is_left(id, child)? {
                left.insert(base, child);
            }
        }
        let is_left = !left.is_empty();
        self.folder_mut(directory)?.children = left;
        Ok(is_left)
    }

    /// Hides a name, unless this layer has written it, and what it has not written below.
    fn hide(&mut self, directory: Id, base: &[u8]) -> Result<()> {
        let child = self.folder_mut(directory)?.children.get(base).copied();
        if let Some(child) = child
            && let Some(id) = child.node
            && self.is_left(id, child)?
        {
            return Ok(());
        }
        let folder = self.folder_mut(directory)?;
        if folder.is_open || folder.children.contains_key(base) {
            self.set(directory, base, None, NOBODY)?;
        }
        Ok(())
    }

    fn is_left(&mut self, id: Id, child: Child) -> Result<bool> {
        let is_written = child.layer == self.layer;
        if self.folder(id).is_none() {
            return Ok(is_written);
        }
        Ok(self.hide_within(id)? || is_written)
    }
}
