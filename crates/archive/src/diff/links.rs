//! Hard links: which names of the upper tree are one file, and whether the same ones are in the lower tree.
//!
//! A file with a name that changed is written whole under that name, and all its other names in the tree become links to it, those that did
//! not change as well: the file below is another one (containerd: `pkg/archive/tar.go`, `HandleChange`). Names that were one file and are
//! two by now, or the reverse, count as changed even where nothing else tells them apart.

use std::{
    collections::{HashMap, hash_map::Entry},
    rc::Rc,
};

use super::{tree::Inode, walk::Parent};

/// A name that did not change.
#[derive(Debug)]
pub(super) struct Name {
    pub(super) parent: Rc<Parent>,
    pub(super) base: Vec<u8>,
}

/// What is known of the files with several names. It grows with their number.
#[derive(Debug, Default)]
pub(super) struct Links {
    files: HashMap<Inode, File>,
    /// Which file of one tree is which of the other one, as far as they are the same.
    upper_to_lower: HashMap<Inode, Inode>,
    lower_to_upper: HashMap<Inode, Inode>,
}

#[derive(Debug)]
enum File {
    /// None of its names changed so far.
    Unwritten(Vec<Name>),
    /// It is in the layer, under this name.
    Written(Vec<u8>),
}

impl Links {
    /// The name in the layer under which a file was written.
    pub(super) fn written(&self, upper: Inode) -> Option<&[u8]> {
        match self.files.get(&upper) {
            Some(File::Written(name)) => Some(name),
            _ => None,
        }
    }

    /// Whether what both trees have under a name is what they have under the other names of the two files, too.
    pub(super) fn is_pair(&mut self, upper: Inode, lower: Inode) -> bool {
        *self.upper_to_lower.entry(upper).or_insert(lower) == lower
            && *self.lower_to_upper.entry(lower).or_insert(upper) == upper
    }

    /// Notes a name that did not change, in case that another name of the file did.
    pub(super) fn add_unchanged(&mut self, upper: Inode, name: Name) {
        match self.files.entry(upper).or_insert_with(|| File::Unwritten(Vec::new())) {
            File::Unwritten(names) => names.push(name),
            File::Written(_) => {}
        }
    }

    /// Notes that a file is written under a name, and gives those that are to be links to it.
    pub(super) fn write(&mut self, upper: Inode, name: Vec<u8>) -> Vec<Name> {
        if let Some(lower) = self.upper_to_lower.remove(&upper)
            && let Entry::Occupied(entry) = self.lower_to_upper.entry(lower)
            && *entry.get() == upper
        {
            entry.remove();
        }
        match self.files.insert(upper, File::Written(name)) {
            Some(File::Unwritten(names)) => names,
            _ => Vec::new(),
        }
    }
}
