//! The walk through two trees at once, or through one: in each directory by the order of names, a directory before what is in it.
//!
//! ```text
//! upper   lower
//! name    –         an entry
//! –       name      a whiteout, one for all that is below it
//! name    name      an entry where they are not the same, and down where both are directories
//! ```
//!
//! A directory that lost an extended attribute is hidden and written anew, with all that is in it: applied to the one that is there, it would
//! keep it.
//!
//! What is open at a time is the way from the root, and what is in memory the names of the directories on it.

use std::{cell::Cell, cmp::Ordering, io::Write, iter::Peekable, path::Path, rc::Rc, vec};

use rustix::fs::{FileType, Stat};
use wharf_content::{Error, Result};

use super::{
    Diffed, RootEntry,
    layer::{LayerWriter, check_base},
    links::{self, Links},
    node::{Mark, Node, Place, is_same, marks},
    tree::{Directory, inode, kind},
};
use crate::apply::{OPAQUE, WHITEOUT, shown};

/// A directory of the upper tree that something below may have to be written into.
#[derive(Debug)]
pub(super) struct Parent {
    above: Option<Rc<Parent>>,
    /// Its name in the layer: nothing for the root, else with a slash at the end.
    name: Vec<u8>,
    node: Node,
    is_written: Cell<bool>,
}

impl Parent {
    fn path(&self, base: &[u8]) -> Vec<u8> {
        [&self.name[..], base].concat()
    }
}

/// A directory of one tree, and what is left of its names.
struct Side {
    directory: Directory,
    names: Peekable<vec::IntoIter<Vec<u8>>>,
}

impl Side {
    fn new(directory: Directory) -> Result<Self> {
        let names = directory.names()?.into_iter().peekable();
        Ok(Self { directory, names })
    }

    /// What is there under the name, unless it is a socket, which no layer has.
    fn look(&self, base: &[u8], sockets: &mut u64) -> Result<Option<Stat>> {
        let stat = self.directory.look(base)?;
        if kind(&stat) == FileType::Socket {
            *sockets += 1;
            return Ok(None);
        }
        Ok(Some(stat))
    }
}

/// A directory that is being gone through.
struct Level {
    parent: Rc<Parent>,
    upper: Side,
    lower: Option<Side>,
}

impl Level {
    /// The next name, and whether the upper and the lower directory have it.
    fn next(&mut self) -> Option<(Vec<u8>, bool, bool)> {
        let lower = self.lower.as_mut().map(|lower| &mut lower.names);
        let order = match (self.upper.names.peek(), lower.and_then(Peekable::peek)) {
            (None, None) => return None,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(upper), Some(lower)) => upper.cmp(lower),
        };
        let of_lower = match &mut self.lower {
            Some(lower) if order != Ordering::Less => lower.names.next(),
            _ => None,
        };
        let of_upper = if order == Ordering::Greater { None } else { self.upper.names.next() };
        let sides = (of_upper.is_some(), of_lower.is_some());
        of_upper.or(of_lower).map(|name| (name, sides.0, sides.1))
    }

    /// Whether nobody changed what was gone through.
    fn check(&self) -> Result<()> {
        self.upper.directory.check()?;
        self.lower.as_ref().map_or(Ok(()), |lower| lower.directory.check())
    }
}

/// Writes what it finds into a layer.
pub(super) struct Walk<W> {
    layer: LayerWriter<W>,
    links: Links,
    /// Whether the upper tree holds an overlay's changes.
    is_overlay: bool,
    whiteouts: u64,
    sockets: u64,
    buffer: Vec<u8>,
}

impl<W: Write> Walk<W> {
    pub(super) fn new(layer: LayerWriter<W>, is_overlay: bool) -> Self {
        Self { layer, links: Links::default(), is_overlay, whiteouts: 0, sockets: 0, buffer: Vec::new() }
    }

    /// Writes the whole layer.
    pub(super) fn run(mut self, lower: Option<&Path>, upper: &Path, root: RootEntry) -> Result<Diffed> {
        let upper = Directory::root(upper)?;
        let lower = lower.map(Directory::root).transpose()?;
        let mut levels = vec![self.root(upper, lower, root)?];
        while let Some(level) = levels.last_mut() {
            if let Some((name, in_upper, in_lower)) = level.next() {
                let below = self.visit(level, &name, in_upper, in_lower)?;
                levels.extend(below);
            } else {
                level.check()?;
                levels.pop();
            }
        }
        self.layer.finish()?;
        Ok(Diffed {
            entries: self.layer.entries,
            whiteouts: self.whiteouts,
            sockets: self.sockets,
            len: self.layer.len,
        })
    }

    fn root(&mut self, upper: Directory, lower: Option<Directory>, root: RootEntry) -> Result<Level> {
        let node = Node::root(&upper)?;
        let is_same = match &lower {
            Some(lower) => {
                let of_lower = Node::root(lower)?;
                if root == RootEntry::Written
                    && let Some(name) = node.lost(&of_lower)
                {
                    return Err(Error::invalid_argument(format!(
                        "{} has an extended attribute that {} has not, which no layer takes from a root: {}",
                        lower.shown(b""),
                        upper.shown(b""),
                        shown(name)
                    )));
                }
                let lower = Place { directory: lower, base: b"", node: &of_lower };
                is_same(lower, Place { directory: &upper, base: b"", node: &node }, &mut self.buffer)?
            }
            None => false,
        };
        let marks = if self.is_overlay { marks(&upper, b"")? } else { Vec::new() };
        // One that is left out counts as written: it is where every layer begins.
        let is_written = Cell::new(root == RootEntry::LeftOut);
        let parent = Rc::new(Parent { above: None, name: Vec::new(), node, is_written });
        if !is_same {
            self.write(&parent)?;
        }
        if marks.contains(&Mark::Opaque) {
            self.opaque(&parent)?;
        }
        Ok(Level { parent, upper: Side::new(upper)?, lower: lower.map(Side::new).transpose()? })
    }

    /// Writes what is to be said of a name, and gives the directory that is to be gone through next.
    fn visit(&mut self, level: &Level, base: &[u8], in_upper: bool, in_lower: bool) -> Result<Option<Level>> {
        let upper = if in_upper { level.upper.look(base, &mut self.sockets)? } else { None };
        let lower = match &level.lower {
            // A socket of the lower tree is none of the layer's.
            Some(lower) if in_lower => lower.look(base, &mut 0)?.map(|stat| (lower, stat)),
            _ => None,
        };
        let Some(stat) = upper else {
            if lower.is_some() {
                self.whiteout(&level.parent, base)?;
            }
            return Ok(None);
        };
        let directory = &level.upper.directory;
        let node = Node::read(directory, base, stat)?;
        let marks = if self.is_overlay { marks(directory, base)? } else { Vec::new() };
        if self.is_overlay {
            let is_marked = marks.contains(&Mark::Whiteout) && node.kind() == FileType::RegularFile;
            if node.is_whiteout() || is_marked {
                self.whiteout(&level.parent, base)?;
                return Ok(None);
            }
            if marks.contains(&Mark::Elsewhere) {
                return Err(Error::failed_precondition(format!(
                    "{} was renamed or changed without a copy of its content, which is in a layer below (redirect_dir or metacopy of \
                     overlayfs): make the layer of the mounted tree and the one below it",
                    directory.shown(base)
                )));
            }
        }
        // Of another type, it is as if there were nothing below.
        let below = match lower {
            Some((side, stat)) if kind(&stat) == node.kind() => {
                Some((&side.directory, Node::read(&side.directory, base, stat)?))
            }
            _ => None,
        };
        let upper = Place { directory, base, node: &node };
        let is_same = match &below {
            Some((directory, node)) => is_same(Place { directory, base, node }, upper, &mut self.buffer)?,
            None => false,
        };
        if node.kind() != FileType::Directory {
            let lower = below.map(|(_, node)| node.stat).filter(|_| is_same);
            self.other(&level.parent, upper, lower)?;
            return Ok(None);
        }
        let upper = directory.open(base, &node.stat)?;
        let (mut lower, mut is_opaque) = (None, marks.contains(&Mark::Opaque));
        if let Some((directory, of_lower)) = below {
            if node.lost(&of_lower).is_some() {
                self.whiteout(&level.parent, base)?;
                is_opaque = true;
            } else {
                lower = Some(Side::new(directory.open(base, &of_lower.stat)?)?);
            }
        }
        let mut name = level.parent.path(base);
        name.push(b'/');
        let above = Some(Rc::clone(&level.parent));
        let parent = Rc::new(Parent { above, name, node, is_written: Cell::new(false) });
        if !is_same {
            self.write(&parent)?;
        }
        if is_opaque {
            self.opaque(&parent)?;
        }
        Ok(Some(Level { parent, upper: Side::new(upper)?, lower }))
    }

    /// Writes a directory and those that it is in, where they were not written before.
    fn write(&mut self, parent: &Rc<Parent>) -> Result<()> {
        let mut missing = Vec::new();
        let mut at = Some(parent);
        while let Some(parent) = at.filter(|parent| !parent.is_written.get()) {
            missing.push(parent);
            at = parent.above.as_ref();
        }
        for parent in missing.into_iter().rev() {
            let name = if parent.name.is_empty() { b"./" } else { &parent.name[..] };
            self.layer.directory(name, &parent.node)?;
            parent.is_written.set(true);
        }
        Ok(())
    }

    /// Writes that a name of the layers below is hidden.
    fn whiteout(&mut self, parent: &Rc<Parent>, base: &[u8]) -> Result<()> {
        check_base(base, &parent.path(base))?;
        self.write(parent)?;
        self.whiteouts += 1;
        self.layer.whiteout(&parent.path(&[WHITEOUT, base].concat()))
    }

    /// Writes that everything the layers below have in a directory is hidden.
    fn opaque(&mut self, parent: &Rc<Parent>) -> Result<()> {
        self.whiteouts += 1;
        self.layer.whiteout(&parent.path(OPAQUE))
    }

    /// What is no directory; `lower` is the one below where it is the same.
    fn other(&mut self, parent: &Rc<Parent>, upper: Place<'_>, lower: Option<Stat>) -> Result<()> {
        let stat = &upper.node.stat;
        let this = inode(stat);
        let mut is_same = lower.is_some();
        // One name here and one below, of one file: trees that share what did not change are full of them.
        let is_shared = |lower: &Stat| inode(lower) == this && stat.st_nlink == 2;
        if let Some(lower) = lower
            && (stat.st_nlink > 1 || lower.st_nlink > 1)
            && !is_shared(&lower)
            && self.links.written(this).is_none()
        {
            is_same = self.links.is_pair(this, inode(&lower));
        }
        if stat.st_nlink < 2 || lower.as_ref().is_some_and(is_shared) {
            if !is_same {
                self.write(parent)?;
                self.layer.node(&parent.path(upper.base), upper)?;
            }
            return Ok(());
        }
        if let Some(target) = self.links.written(this) {
            let target = target.to_vec();
            self.write(parent)?;
            return self.layer.hard_link(&parent.path(upper.base), &target, upper.node);
        }
        if is_same {
            let name = links::Name { parent: Rc::clone(parent), base: upper.base.to_vec() };
            self.links.add_unchanged(this, name);
            return Ok(());
        }
        self.write(parent)?;
        let target = parent.path(upper.base);
        self.layer.node(&target, upper)?;
        for name in self.links.write(this, target.clone()) {
            self.write(&name.parent)?;
            self.layer.hard_link(&name.parent.path(&name.base), &target, upper.node)?;
        }
        Ok(())
    }
}
