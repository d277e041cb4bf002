//! Archive formats: the extension point by which others add theirs. OCI's is registered in the same way.
//!
//! A format decides about bytes only. Where they go, whether a file is replaced, which images are meant, and under which names they are
//! recorded is its caller's business.

use std::{fmt::Debug, io::Read, sync::Arc};

use async_trait::async_trait;
use tokio::io::AsyncWrite;
use wharf_content::{Descriptor, Error, Provider, Result, Store, plugin::Point};
use wharf_images::Image;

use crate::options::{ExportOptions, ImportOptions};

/// Where an archive is written.
pub type Output<'a> = dyn AsyncWrite + Send + Unpin + 'a;

/// Where an archive is read from: a stream without its compression, for a blocking thread.
pub type Input = Box<dyn Read + Send>;

/// How many bytes of an archive a format sees before it says whether it knows them; fewer where there are not as many.
pub const HEAD_LEN: usize = 4096;

/// How sure a format is of an archive of which it saw the first bytes. The surest format reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Sniff {
    /// It is not of this format.
    No,
    /// The container fits, such as a tar. What is in it comes later.
    Container,
    /// It is of this format.
    Format,
}

/// What an export wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Exported {
    /// The length of the archive in bytes.
    pub len: u64,
    /// How many blobs it holds.
    pub blobs: usize,
}

impl Exported {
    /// An archive of `len` bytes with so many blobs.
    pub fn new(len: u64, blobs: usize) -> Self {
        Self { len, blobs }
    }
}

/// Writes and reads archives of one kind.
#[async_trait]
pub trait ArchiveFormat: Debug + Send + Sync + 'static {
    /// Writes one archive of all the images. The caller flushes the output.
    ///
    /// The same images give the same bytes, in whatever order they are named. Nothing is written before everything that is needed
    /// was found, and no blob is held in memory.
    ///
    /// # Errors
    /// Those of [`export`](crate::export()).
    ///
    /// # Cancellation
    /// What was written so far remains in the output.
    async fn export(
        &self,
        provider: Arc<dyn Provider>,
        images: &[Image],
        options: &ExportOptions,
        output: &mut Output<'_>,
    ) -> Result<Exported>;

    /// Says whether an archive that begins with `head`, of at most [`HEAD_LEN`] bytes, is of this format. A format that only writes
    /// knows none.
    fn sniff(&self, _head: &[u8]) -> Sniff {
        Sniff::No
    }

    /// Brings the content of an archive into the store, in one pass, and describes the images in it as the `index.json` of a layout
    /// does: names are annotations. Those that nobody has given a name are described too. Where [`ImportOptions::index_name`] asks for
    /// it, the archive's own index is one more image, of that name in full; an import fails where it is wanted and not given.
    ///
    /// The input is read on a blocking thread and to its end, so that it is known to be whole. Nothing is recorded, and which platforms must be
    /// there is not looked at; the caller does that, holds all that is written by a lease, and labels it.
    ///
    /// # Errors
    /// Those of [`import`](crate::import()). `NotImplemented` by default.
    ///
    /// # Cancellation
    /// What was committed remains in the store. The reading thread may wait for its input once more.
    ///
    /// # Security
    /// The bytes come from a stranger: no allocation by a number that they claim, no name taken for a path.
    async fn import(
        &self,
        _store: Arc<dyn Store>,
        _input: Input,
        _options: &ImportOptions,
    ) -> Result<Vec<Descriptor>> {
        Err(Error::not_implemented("this archive format is written only"))
    }
}

/// The extension point of archive formats; a key is the format's name.
#[derive(Debug)]
pub struct ArchiveFormats;

impl Point for ArchiveFormats {
    const NAME: &'static str = "archive format";
    const KEY: &'static str = "name";
    type Item = dyn ArchiveFormat;
}

/// Registers an [`ArchiveFormat`] with the catalogue: `name`, `keys` (the names by which it is asked for), optionally `priority`,
/// and `make`, an expression for the format. Its crate needs `async-trait`, and `tokio` to write.
///
/// ```
/// use std::sync::Arc;
/// use tokio::io::AsyncWriteExt;
/// use wharf_archive::{ArchiveFormat, ExportOptions, Exported, Output, export};
/// use wharf_content::{Descriptor, MemoryStore, Provider, Result, ResultExt};
/// use wharf_images::Image;
///
/// /// One line for each image.
/// #[derive(Debug)]
/// struct List;
///
/// #[async_trait::async_trait]
/// impl ArchiveFormat for List {
///     async fn export(
///         &self,
///         _: Arc<dyn Provider>,
///         images: &[Image],
///         _: &ExportOptions,
///         output: &mut Output<'_>,
///     ) -> Result<Exported> {
///         let mut lines: Vec<_> = images.iter().map(|i| format!("{} {}\n", i.name, i.target.digest)).collect();
///         lines.sort();
///         let text = lines.concat();
///         output.write_all(text.as_bytes()).await.context(|| "cannot write the list")?;
///         Ok(Exported::new(text.len() as u64, 0))
///     }
/// }
///
/// wharf_archive::register_archive_format! { name: "list", keys: ["list"], make: List }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// let image = Image::new("docker.io/library/busybox:latest", Descriptor::of("m", b"{}"));
/// let mut written = Vec::new();
/// let options = ExportOptions::default().with_format("list");
/// export(Arc::new(MemoryStore::new()), &[image], &options, &mut written).await?;
/// assert!(written.starts_with(b"docker.io/library/busybox:latest sha256:44136f"));
/// # Ok(())
/// # }
/// ```
#[macro_export]
macro_rules! register_archive_format {
    ($($registration:tt)*) => {
        $crate::__content::__register! { $crate::format::ArchiveFormats, $($registration)* }
    };
}
