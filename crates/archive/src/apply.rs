//! Applying a layer: a tar stream onto a directory (OCI image specification, layer.md, "Applying Changesets"; containerd:
//! `pkg/archive/tar.go`).
//!
//! The layer is a stranger's, and the directory may hold what other strangers' layers left: links that lead out of it, or to places that
//! change while one looks. Nothing outside the directory is read, written or changed. What a layer hides is removed, or marked for
//! overlayfs; what the layer itself has written is never hidden by it.
//!
//! ```text
//! entry ─> name ─> directory, resolved below the root ─> make, or replace what is there ─> owner, attributes, mode, times
//!            └─ .wh.x, .wh..wh..opq ─> hide                                                 directories at the end
//! ```
//!
//! What the layer's digest is, and whether the stream is compressed, is for the caller: see [`wharf_images::layer`]. Nothing is synced.

mod beneath;
mod hide;
mod implied;
mod left_out;
mod lower;
mod make;
mod name;
mod node;
mod tree;

use std::{
    collections::{HashMap, HashSet},
    io::Read,
    path::Path,
    rc::Rc,
};

use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{
        AtFlags, CWD, FileType, Stat, Timestamps, XattrFlags, fsetxattr, fstat, linkat, symlinkat, utimensat,
    },
    io::Errno,
};
use wharf_content::{Error, Result, ResultExt};

pub(crate) use self::name::{Name, OPAQUE, WHITEOUT, components, shown};
#[cfg(test)]
pub(crate) use self::tree::LOOKS;
pub(crate) use self::{
    beneath::{Beneath, Seen},
    hide::names,
    implied::Implied,
    lower::Lower,
    node::OVERLAY,
    tree::{IMPLIED_MODE, cannot, is_opaque, itself, times_of, writable},
};
pub use self::{
    hide::Whiteouts,
    left_out::{LeftOut, Omission},
};
use self::{
    hide::{Written, remove},
    left_out::Omissions,
    node::Metadata,
    tree::{Directory, Missing, Tree, absent},
};
use crate::untar::{Entry, Kind, TarReader};

/// How much of a file is read and written at once.
const BUFFER_LEN: usize = 256 * 1024;

/// Whom files belong to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ownership {
    /// Whom the layer says, which only root can do.
    #[default]
    Image,
    /// The user who applies the layer. Devices are left out.
    User,
}

/// How a layer is applied.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ApplyOptions {
    whiteouts: Whiteouts,
    pub(crate) ownership: Ownership,
}

impl ApplyOptions {
    /// What is hidden is removed, and files belong to whom the layer says.
    pub fn new() -> Self {
        Self::default()
    }

    /// What becomes of names that the layer hides.
    #[must_use]
    pub fn with_whiteouts(mut self, whiteouts: Whiteouts) -> Self {
        self.whiteouts = whiteouts;
        self
    }

    /// Whom files belong to.
    #[must_use]
    pub fn with_ownership(mut self, ownership: Ownership) -> Self {
        self.ownership = ownership;
        self
    }
}

/// What came of a layer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Applied {
    /// How many entries the layer had.
    pub entries: u64,
    /// How many bytes of files were written.
    pub bytes: u64,
    /// What was left out, each kind once.
    pub left_out: Vec<LeftOut>,
    /// Directories that something was to be in before an entry made them, where the layer was applied by itself.
    pub(crate) implied: Vec<Implied>,
    /// The directories that entries describe, by inode.
    pub(crate) described: HashSet<u64>,
    /// Whether an entry describes the root.
    pub(crate) describes_root: bool,
    /// Whether a whiteout was made for overlayfs.
    pub(crate) hides: bool,
    /// Files that the layers below have, and this one links to.
    pub(crate) lower: Lower,
}

/// Applies a layer, as a plain tar stream, to the directory `root`.
///
/// The stream is read to its end, so that whoever hashes it on the way has seen all of it.
///
/// # Errors
/// `InvalidArgument` for what is no layer: a malformed tar, a name with `..`, an entry of a type that nobody knows, owners, modes, times
/// and device numbers out of range, a root that is no directory; `FailedPrecondition` for a file below a file, and a hard link to what is
/// not there; `DataLoss` where the stream ends early; `PermissionDenied` where the user may not do what the layer asks for, such
/// as changing owners without [`Ownership::User`]; `ResourceExhausted` for a full disk, headers that are too long and directories too deep.
///
/// What was applied before an error stays: apply to a directory that nobody uses yet, and throw it away.
///
/// # Security
/// Every directory is resolved below the root by the kernel (`openat2`), or component by component without following links. Hard links lead
/// to files of the tree, links are written as they stand, extended attributes of overlayfs are left out.
///
/// # Cancellation
/// It blocks, and belongs on a blocking thread. A stream that ends or fails ends it.
pub fn apply(layer: impl Read, root: &Path, options: &ApplyOptions) -> Result<Applied> {
    apply_to(Tree::open(root)?, layer, options)
}

/// As [`apply`], of one layer alone, where links of the layers below lead as they would in a root that holds all layers.
pub(crate) fn apply_above(
    layer: impl Read,
    root: &Path,
    options: &ApplyOptions,
    beneath: Box<dyn Beneath>,
) -> Result<Applied> {
    apply_to(Tree::open(root)?.above(beneath), layer, options)
}

/// As [`apply`], to the directory that is open, whatever its name is by now.
pub(crate) fn apply_in(layer: impl Read, root: &impl AsFd, options: &ApplyOptions) -> Result<Applied> {
    apply_to(Tree::open_in(root)?, layer, options)
}

fn apply_to(tree: Tree, layer: impl Read, options: &ApplyOptions) -> Result<Applied> {
    let mut apply = Apply::new(tree, options.clone());
    let mut tar = TarReader::of_layer(layer);
    while let Some(entry) = tar.next()? {
        apply.entry(&entry, &mut tar).context(|| format!("cannot apply {}", shown(&entry.name)))?;
    }
    apply.finish()
}

/// A layer that is being applied.
struct Apply {
    tree: Tree,
    options: ApplyOptions,
    written: Written,
    omissions: Omissions,
    implied: implied::List,
    lower: lower::List,
    /// Directories by inode, with their paths without links and what they get when nothing is written to them any more.
    directories: HashMap<u64, (Vec<u8>, Metadata)>,
    root: Option<Metadata>,
    /// Directories of the layers below that were written to, by inode, with their paths without links and the times that they had.
    touched: HashMap<u64, (Vec<u8>, Timestamps)>,
    /// How many bytes of paths are kept that are longer than a name can be.
    remembered: usize,
    buffer: Vec<u8>,
    applied: Applied,
}

impl Apply {
    fn new(tree: Tree, options: ApplyOptions) -> Self {
        Self {
            tree: tree.with_opaque(options.whiteouts.attribute()),
            options,
            written: Written::default(),
            omissions: Omissions::default(),
            implied: implied::List::default(),
            lower: lower::List::default(),
            directories: HashMap::new(),
            root: None,
            touched: HashMap::new(),
            remembered: 0,
            buffer: vec![0; BUFFER_LEN],
            applied: Applied::default(),
        }
    }

    fn entry<R: Read>(&mut self, entry: &Entry, tar: &mut TarReader<R>) -> Result<()> {
        self.applied.entries += 1;
        self.tree.forget_followed();
        match Name::parse(&entry.name)? {
            Name::Nothing => Ok(()),
            Name::Root => self.root(entry),
            Name::Opaque { directory } => self.hide_all(&directory),
            Name::Whiteout { parent, base } => self.hide(&parent, base),
            Name::Node { parent, base } => {
                let directory = self.make_directory(&parent)?;
                self.node(entry, &directory, base, tar)
            }
        }
    }

    /// The directory that something is to be in, made where it is missing.
    fn make_directory(&mut self, path: &[&[u8]]) -> Result<Rc<Directory>> {
        let directory = self.reach(path, Missing::Make)?;
        directory.ok_or_else(|| Error::internal("a directory was neither found nor made"))
    }

    /// The directory in which something stands for what is below or hides it; `None` where there is nothing to be hidden.
    fn directory_above(&mut self, path: &[&[u8]]) -> Result<Option<Rc<Directory>>> {
        let missing =
            if self.tree.is_above() { Missing::MakeAsBelow } else { self.options.whiteouts.missing() };
        self.reach(path, missing)
    }

    /// A directory that something is to be changed in.
    fn reach(&mut self, path: &[&[u8]], missing: Missing) -> Result<Option<Rc<Directory>>> {
        let directory = self.tree.directory(path, missing)?;
        for made in self.tree.take_made() {
            self.add_made(made.inode);
            if self.options.whiteouts != Whiteouts::Remove && !made.is_new {
                self.implied.add(made.path)?;
            }
        }
        let Some(directory) = directory else { return Ok(None) };
        // One that the layer does not describe keeps the times that it had before it was written to.
        if self.options.whiteouts == Whiteouts::Remove
            && !self.written.is_own(directory.inode)
            && !self.touched.contains_key(&directory.inode)
        {
            self.remember(&directory.path)?;
            self.touched.insert(directory.inode, (directory.path.clone(), directory.times.clone()));
        }
        Ok(Some(directory))
    }

    /// Notes a directory that is new.
    fn add_made(&mut self, inode: u64) {
        // It may have the inode of one that is gone.
        self.directories.remove(&inode);
        self.touched.remove(&inode);
        match self.options.whiteouts {
            Whiteouts::Remove => self.written.add_own(inode),
            Whiteouts::Overlay | Whiteouts::UserOverlay => self.written.add_open(inode),
        }
    }

    fn root(&mut self, entry: &Entry) -> Result<()> {
        if entry.kind != Kind::Directory {
            return Err(Error::invalid_argument("the root is to be something else than a directory"));
        }
        let name = &entry.name;
        let metadata = Metadata::of(name, &entry.attributes, self.options.ownership, &mut self.omissions)?;
        let root = self.tree.root().open(b".").map_err(|error| cannot("open", name, error))?;
        let stat = fstat(&root).map_err(|error| cannot("look at", name, error))?;
        metadata.set(&root, &stat, name, &mut self.omissions)?;
        self.root = Some(metadata.without_xattrs());
        Ok(())
    }

    fn node<R: Read>(
        &mut self,
        entry: &Entry,
        directory: &Rc<Directory>,
        base: &[u8],
        tar: &mut TarReader<R>,
    ) -> Result<()> {
        let name = &entry.name[..];
        if let Kind::Unknown(flag) = entry.kind {
            return Err(Error::invalid_argument(format!(
                "an entry of an unknown type: {:?}",
                char::from(flag)
            )));
        }
        if let Kind::HardLink(target) = &entry.kind {
            return self.hard_link(directory, base, target, name);
        }
        let metadata = Metadata::of(name, &entry.attributes, self.options.ownership, &mut self.omissions)?;
        match &entry.kind {
            Kind::Directory => self.directory(directory, base, metadata, name),
            Kind::File => {
                let make = || node::file(directory, base, metadata.mode);
                let fd = self.make(directory, base, "make the file", name, make)?;
                self.content(entry, &fd, tar)?;
                metadata.set_file(&fd, name, &mut self.omissions)
            }
            Kind::Symlink(target) => {
                let make = || symlinkat(&target[..], directory, base);
                self.make(directory, base, "make the link", name, make)?;
                metadata.set_link(directory, base, name, &mut self.omissions)
            }
            Kind::CharDevice | Kind::BlockDevice | Kind::Fifo => {
                let what = match entry.kind {
                    Kind::CharDevice => FileType::CharacterDevice,
                    Kind::BlockDevice => FileType::BlockDevice,
                    _ => FileType::Fifo,
                };
                if directory.look(base)?.is_some() {
                    self.clear(directory, base)?;
                }
                self.written.add(directory.inode, base);
                let ownership = self.options.ownership;
                match node::special(directory, base, what, &entry.attributes, ownership)? {
                    None => metadata.set_unopened(directory, base, false, name, &mut self.omissions),
                    Some(omission) => {
                        self.omissions.add(omission, name);
                        Ok(())
                    }
                }
            }
            // Dealt with above.
            Kind::HardLink(_) | Kind::Unknown(_) => Ok(()),
        }
    }

    fn hard_link(
        &mut self,
        directory: &Rc<Directory>,
        base: &[u8],
        target: &[u8],
        name: &[u8],
    ) -> Result<()> {
        if self.may_be_below(target)? {
            self.bring_up(target)?;
        }
        let (from, from_base) = self.tree.link_target(target)?;
        let found = from.look(from_base)?.ok_or_else(|| absent(target))?;
        if is_a_directory(&found) || self.is_whiteout(&found) {
            return Err(Error::invalid_argument(format!(
                "a hard link to {}, which is no file",
                shown(target)
            )));
        }
        self.written.add(directory.inode, base);
        if let Some(there) = directory.look(base)? {
            if (there.st_dev, there.st_ino) == (found.st_dev, found.st_ino) {
                return Ok(());
            }
            self.clear(directory, base)?;
        }
        writable(directory, || linkat(&*from, from_base, directory, base, AtFlags::empty()))
            .map_err(|error| cannot("make the hard link", name, error))
    }

    fn hide(&mut self, parent: &[&[u8]], base: &[u8]) -> Result<()> {
        let Some(directory) = self.directory_above(parent)? else { return Ok(()) };
        self.tree.forget();
        let inode = directory.inode;
        let is_left = writable(&directory, || self.written.hide(&*directory, inode, base))
            .map_err(|error| cannot("hide", base, error))?;
        if self.options.whiteouts == Whiteouts::Remove {
            return Ok(());
        }
        if !is_left {
            self.applied.hides = true;
            return node::whiteout(&*directory, base);
        }
        // Anything else than a directory hides what is below by itself.
        if directory.look(base)?.is_some_and(|stat| is_a_directory(&stat)) {
            let fd = directory.open(base).map_err(|error| cannot("open", base, error))?;
            self.mark_opaque(&fd, base)?;
        }
        Ok(())
    }

    fn hide_all(&mut self, path: &[&[u8]]) -> Result<()> {
        let Some(directory) = self.directory_above(path)? else { return Ok(()) };
        self.tree.forget();
        let name = path.join(&b'/');
        writable(&directory, || self.written.hide_all(&*directory))
            .map_err(|error| cannot("hide what is in", &name, error))?;
        let fd = directory.open(b".").map_err(|error| cannot("open", &name, error))?;
        self.mark_opaque(&fd, &name)
    }

    /// Marks a directory as one that shows nothing of the layers below.
    fn mark_opaque(&self, fd: &OwnedFd, name: &[u8]) -> Result<()> {
        let Some(attribute) = self.options.whiteouts.attribute() else { return Ok(()) };
        fsetxattr(fd, attribute, b"y", XattrFlags::empty())
            .map_err(|error| cannot(&format!("set {attribute} on"), name, error))
    }

    /// Whether something is a hidden name that this layer has made.
    fn is_whiteout(&self, stat: &Stat) -> bool {
        self.options.whiteouts != Whiteouts::Remove
            && FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
            && stat.st_rdev == 0
    }

    /// A directory that is found again by its path; `None` where that is another one now, since it was replaced or hidden.
    fn again(&mut self, path: &[u8], inode: u64) -> Result<Option<Rc<Directory>>> {
        let parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()).collect();
        match self.tree.directory(&parts, Missing::Leave) {
            // Links that go in a circle have taken its place.
            Err(error) if is_circle(&error) => Ok(None),
            found => Ok(found?.filter(|found| found.inode == inode)),
        }
    }

    /// Gives directories of the layers below the times that they had.
    fn restore(&mut self) -> Result<()> {
        for (inode, (path, times)) in std::mem::take(&mut self.touched) {
            if let Some(found) = self.again(&path, inode)? {
                let restored = utimensat(CWD, &*itself(&*found), &times, AtFlags::empty());
                restored.map_err(|error| cannot("set the times of", &path, error))?;
            }
        }
        Ok(())
    }

    /// Gives directories their modes and times, now that nothing is written to them any more: those below before those above.
    fn finish(mut self) -> Result<Applied> {
        self.restore()?;
        let mut directories: Vec<_> = std::mem::take(&mut self.directories).into_iter().collect();
        directories.sort_by(|(_, (one, _)), (_, (other, _))| other.cmp(one));
        let is_alone = self.options.whiteouts != Whiteouts::Remove;
        let mut described = HashSet::new();
        for (inode, (path, metadata)) in directories {
            let Some(found) = self.again(&path, inode)? else { continue };
            let fd = found.open(b".").map_err(|error| cannot("open", &path, error))?;
            metadata.finish(&fd, &path)?;
            if is_alone {
                described.insert(inode);
            }
        }
        let describes_root = self.root.is_some();
        if let Some(metadata) = self.root.take() {
            let root = self.tree.root().open(b".").map_err(|error| cannot("open", b".", error))?;
            metadata.finish(&root, b".")?;
        }
        Ok(Applied {
            left_out: self.omissions.finish(),
            implied: self.implied.finish(),
            described,
            describes_root,
            lower: self.lower.finish(),
            ..self.applied
        })
    }
}

/// Removes a directory and all that is in it, however deep that is, and also what its owner may not write to. Links are removed and not
/// followed.
///
/// # Errors
/// `NotFound` where there is none; those of the file system.
pub fn remove_tree(path: &Path) -> Result<()> {
    remove(&rustix::fs::CWD, path.as_os_str().as_encoded_bytes())
        .map_err(|error| Error::io(format!("cannot remove {}", path.display()), error.into()))
}

fn is_circle(error: &Error) -> bool {
    let found = error.find_source::<std::io::Error>().and_then(std::io::Error::raw_os_error);
    found == Some(Errno::LOOP.raw_os_error())
}

fn is_a_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

#[cfg(test)]
mod tests;
