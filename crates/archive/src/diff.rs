//! Making a layer: what has to be done to one directory tree for another one to come of it, as a tar (OCI image specification, layer.md,
//! "Representing Changes"; containerd: `pkg/archive/tar.go`, `ChangeWriter`, and its continuity: `fs/diff.go`). What
//! [`apply`](crate::apply()) reads is what this writes.
//!
//! The same trees give the same bytes. Nothing is written to either tree, links in them are not followed, and what is changed by others
//! while it is read is an error.

mod layer;
mod links;
mod node;
mod store;
mod tree;
mod walk;

use std::{
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use wharf_content::Result;

pub use self::store::DiffLayer;
use self::{layer::LayerWriter, walk::Walk};

/// How much of small entries is written at once.
const OUTPUT_LEN: usize = 64 * 1024;

/// Whether a layer says anything of the root of the tree itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum RootEntry {
    /// It does not, as containerd's never do: the root is often a temporary directory, which only its owner may look into.
    #[default]
    LeftOut,
    /// As any other directory: its mode, owner, attributes and time, where it is not the same as the lower one or something in it is
    /// not.
    Written,
}

/// What a layer is made of, and how.
///
/// ```
/// use std::fs;
/// use wharf_archive::{ApplyOptions, Diff, apply, apply::Ownership};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// let (before, after) = (dir.path().join("before"), dir.path().join("after"));
/// for tree in [&before, &after] {
///     fs::create_dir(tree)?;
/// }
/// fs::write(before.join("old"), "goes")?;
/// fs::write(after.join("new"), "comes")?;
///
/// let mut layer = Vec::new();
/// let written = Diff::between(Some(&before), &after).write(&mut layer)?;
/// assert_eq!((written.entries, written.whiteouts), (2, 1));
///
/// // Applied to the one it gives the other.
/// apply(&layer[..], &before, &ApplyOptions::new().with_ownership(Ownership::User))?;
/// assert!(!before.join("old").exists());
/// assert_eq!(fs::read_to_string(before.join("new"))?, "comes");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Diff {
    lower: Option<PathBuf>,
    upper: PathBuf,
    is_overlay: bool,
    root: RootEntry,
    max_mtime: Option<i64>,
}

impl Diff {
    /// What makes `upper` of `lower`; all of `upper` where there is no `lower`.
    ///
    /// Two files, directories or whatever else of one name are the same where they are one inode, or where type, mode, owner, device
    /// numbers, link target and extended attributes are equal, and for all but directories size and time of modification, in nanoseconds.
    /// Where such a time is of whole seconds, it may have been rounded when a layer was unpacked: then files are read and compared. A
    /// directory that only has another time is the same.
    pub fn between(lower: Option<&Path>, upper: &Path) -> Self {
        Self {
            lower: lower.map(Path::to_owned),
            upper: upper.to_owned(),
            is_overlay: false,
            root: RootEntry::default(),
            max_mtime: None,
        }
    }

    /// What is in a directory to which overlayfs writes changes, or a [layer directory](crate::layer_store): devices 0:0 hide names,
    /// opaque directories hide all that is below them. Everything that is there is written, whether it is the same below or not. An
    /// opaque directory is said to hide what was in the lower one; extended attributes that only the lower one has stay where the layer is
    /// applied to one directory with those below it.
    ///
    /// Only root sees the marks of an overlay that root has mounted, the attributes `trusted.overlay.*`: for another user an
    /// opaque directory of such a one looks like any other.
    pub fn of_overlay(upper: &Path) -> Self {
        Self { is_overlay: true, ..Self::between(None, upper) }
    }

    /// Whether the layer says anything of the root.
    #[must_use]
    pub fn with_root(mut self, root: RootEntry) -> Self {
        self.root = root;
        self
    }

    /// Writes no time later than this one, in seconds since the epoch: what the variable `SOURCE_DATE_EPOCH` says
    /// (<https://reproducible-builds.org/specs/source-date-epoch/>), which is for the caller to read. What is compared stays as it is.
    #[must_use]
    pub fn with_max_mtime(mut self, seconds: i64) -> Self {
        self.max_mtime = Some(seconds);
        self
    }

    /// Writes the layer as a plain tar, and flushes the output.
    ///
    /// A directory comes before what is in it, even where only that changed, with what is to be said of it. Names that are one file in
    /// the upper tree are hard links in the layer: where one of them changed, all of them are written. A removed directory is one
    /// whiteout; whiteouts are from the epoch. A directory that lost an extended attribute is hidden and written anew, with all that is
    /// in it, since what is applied to a directory takes no attributes away. Sockets are left out. Owners are numbers, without names;
    /// times are exact. Extended attributes are all written that can be read, but those of overlayfs, and those that tell of the host
    /// (`security.selinux`, `security.evm`, `system.nfs4_acl`). Sparse files are written with their holes, as layers should be.
    ///
    /// # Errors
    /// `FailedPrecondition` for a tree that is changed while it is read, and an overlay whose changes lead to layers below
    /// (`redirect_dir`, `metacopy`); `InvalidArgument` for what no layer can say: a name that begins with `.wh.` and is to be written or
    /// hidden, a path of more than 4096 bytes, an extended attribute with `=` in its name or more than 1 MiB of them, a device 0:0
    /// outside of an overlay's changes, a root that lost an extended attribute and is to be [written](RootEntry::Written); `NotFound`
    /// for a tree that is not there; `PermissionDenied` for what the user may not read; `ResourceExhausted` for more directories in each
    /// other than the process may have open; those of the output. What was written before an error is no layer.
    ///
    /// # Security
    /// The trees may be a stranger's: names are looked up one by one below open directories, no link is followed, no pipe and no device is
    /// opened. Memory is taken for the names in the directories on the way down, and for files with several names.
    ///
    /// # Cancellation
    /// It blocks, and belongs on a blocking thread. An output that fails ends it.
    pub fn write(&self, output: impl Write) -> Result<Diffed> {
        let output = BufWriter::with_capacity(OUTPUT_LEN, output);
        let layer = LayerWriter::new(output, self.max_mtime);
        Walk::new(layer, self.is_overlay).run(self.lower.as_deref(), &self.upper, self.root)
    }
}

/// What a layer has in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Diffed {
    /// How many entries, whiteouts among them; none where the trees are the same.
    pub entries: u64,
    /// How many of them hide something.
    pub whiteouts: u64,
    /// How many sockets of the upper tree were left out.
    pub sockets: u64,
    /// The length of the tar in bytes, before any compression.
    pub len: u64,
}
