//! Whether the blobs of a store are what their names say: every one hashed again, many at once, a piece in memory for each.
//!
//! What stands where blobs and ingests stand and is none, and what was put aside as damaged, a store tells itself: see [`Custodian`].
//! Nothing here knows images, and nothing is fetched; that is for the layers above.

use std::{
    collections::BTreeSet,
    fmt::{self, Debug},
    fs::File,
    io,
    num::NonZeroUsize,
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::Arc,
    thread,
};

use async_trait::async_trait;
use futures_util::{StreamExt, stream};

use crate::{
    blocking,
    descriptor::Descriptor,
    digest::{Algorithm, Digest, Hasher},
    error::{Error, ErrorKind, Result},
    filter::FilterSet,
    labels::Labels,
    reading::CHUNK_LEN,
    store::{BlobReader, Info, Store},
};

/// How many bytes of a file a blocking thread hashes in one go, so that a verification that is dropped ends soon.
const STRETCH_LEN: u64 = 64 * 1024 * 1024;

/// More blobs than this are not hashed at once unless a caller says so: disks do not become faster.
const MAX_DEFAULT_CONCURRENCY: usize = 8;

/// What is wrong with a blob.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Damage {
    /// Something else stands in place of its file.
    NotAFile {
        /// What it is, in words.
        found: &'static str,
    },
    /// Its bytes have another digest.
    Bytes {
        /// The digest that they have.
        found: Digest,
        /// How many they are.
        size: u64,
    },
    /// It cannot be read.
    Unreadable {
        /// Why.
        reason: String,
    },
}

impl Damage {
    /// What an error of opening or reading a blob says of it.
    pub fn unreadable(error: &Error) -> Self {
        // A reader that is refused because of what stands in the blob's place says so.
        match error.find_source::<NotAFile>() {
            Some(NotAFile(found)) => Self::NotAFile { found },
            None => Self::Unreadable { reason: error.report() },
        }
    }

    /// One word for programs: `not-a-file`, `bytes` or `unreadable`.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::NotAFile { .. } => "not-a-file",
            Self::Bytes { .. } => "bytes",
            Self::Unreadable { .. } => "unreadable",
        }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAFile { found } => write!(f, "{found} stands in its place"),
            Self::Bytes { found, size } => write!(f, "its {size} bytes have the digest {found}"),
            Self::Unreadable { reason } => write!(f, "it cannot be read: {reason}"),
        }
    }
}

/// A blob that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Checked {
    /// Its name.
    pub digest: Digest,
    /// How many bytes were hashed.
    pub size: u64,
    /// What is wrong with it.
    pub damage: Option<Damage>,
}

/// What a [`Stray`] stands in place of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum StrayKind {
    /// A blob.
    Blob,
    /// An ingest, which nobody can resume, list or abort.
    Ingest,
}

impl StrayKind {
    /// What it is not, in a word: `blob` or `ingest`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Blob => "blob",
            Self::Ingest => "ingest",
        }
    }
}

/// Something that stands where blobs or ingests stand and is none.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct Stray {
    /// Where it is, below the store's root. Its name may come from a stranger.
    pub path: PathBuf,
    /// What it stands in place of.
    pub kind: StrayKind,
    /// Why it is none, in words.
    pub reason: &'static str,
}

impl Stray {
    /// Describes what is at `path` below the store's root, where a blob should be.
    pub fn new(path: impl Into<PathBuf>, reason: &'static str) -> Self {
        Self { path: path.into(), kind: StrayKind::Blob, reason }
    }

    /// Describes what is at `path` below the store's root, where an ingest should be.
    pub fn ingest(path: impl Into<PathBuf>, reason: &'static str) -> Self {
        Self { path: path.into(), kind: StrayKind::Ingest, reason }
    }
}

/// A blob that the store has labels of and no file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lost {
    /// Its name.
    pub digest: Digest,
    /// The labels that it had.
    pub labels: Labels,
    /// Whether what stood in its place is in quarantine.
    pub is_quarantined: bool,
}

impl Lost {
    /// Describes a blob that was taken out of the store, by a quarantine or by a stranger's hand.
    pub fn new(digest: Digest, labels: Labels, is_quarantined: bool) -> Self {
        Self { digest, labels, is_quarantined }
    }
}

/// What stands where blobs and ingests stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Census {
    /// Every name of a blob, sorted, whatever is behind it.
    pub blobs: Vec<Digest>,
    /// Everything else, sorted.
    pub strays: Vec<Stray>,
    /// The blobs that are or were in quarantine, whether they have come back or not.
    pub quarantined: BTreeSet<Digest>,
    /// What is wrong with the file that marks the store's root as an OCI image layout, in words.
    pub layout: Option<String>,
}

/// What a store that can be damaged does about it. Found by [`Store::custodian`].
#[async_trait]
pub trait Custodian: Debug + Send + Sync + 'static {
    /// Lists what stands where blobs and ingests stand, without looking into blobs.
    ///
    /// # Errors
    /// Those of the storage below.
    async fn census(&self) -> Result<Census>;

    /// The labels that a blob has, or had before it went into quarantine, whatever its state.
    ///
    /// # Errors
    /// Those of the storage below.
    async fn labels(&self, digest: &Digest) -> Result<Labels>;

    /// Hashes a blob again and, where it is damaged, moves it out of the way, never over something else, and gives its new place. Its
    /// labels stay for when it comes back. A blob that is whole or has gone stays as it is, which gives `None`.
    ///
    /// # Errors
    /// Those of the storage below; the blob is then where it was.
    ///
    /// # Cancellation
    /// The move goes on in the background and happens wholly or not at all.
    async fn quarantine(&self, digest: &Digest) -> Result<Option<PathBuf>>;

    /// Moves something that is no blob out of the way and gives its new place; `None` where it has gone.
    ///
    /// # Errors
    /// `InvalidArgument` for something that does not stand where blobs or ingests stand; `Unavailable` for an ingest that somebody is at
    /// work on; those of the storage below.
    async fn quarantine_stray(&self, stray: &Stray) -> Result<Option<PathBuf>>;

    /// Lists the blobs that have labels and no file. Their labels tell what they kept, which a collection goes on keeping for them.
    ///
    /// # Errors
    /// Those of the storage below.
    async fn lost(&self) -> Result<Vec<Lost>>;

    /// Drops the labels of a blob that has no file; those of one that is there stay. For a collection, when nothing needs it any more.
    ///
    /// # Errors
    /// Those of the storage below.
    async fn forget(&self, digest: &Digest) -> Result<()>;

    /// Writes the file anew that marks the store's root as an OCI image layout. What is no file in its place goes into quarantine.
    ///
    /// # Errors
    /// Those of the storage below.
    async fn rewrite_layout(&self) -> Result<()>;
}

/// How blobs are verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifyOptions {
    /// How many blobs are hashed at once.
    pub concurrency: NonZeroUsize,
}

impl Default for VerifyOptions {
    /// One blob for each processor, eight at most.
    fn default() -> Self {
        let processors = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let most = NonZeroUsize::new(MAX_DEFAULT_CONCURRENCY).expect("because eight is not zero");
        Self { concurrency: processors.min(most) }
    }
}

impl VerifyOptions {
    /// How many blobs are hashed at once.
    #[must_use]
    pub fn with_concurrency(mut self, concurrency: NonZeroUsize) -> Self {
        self.concurrency = concurrency;
        self
    }
}

/// Lists what stands where blobs and ingests stand, of any store.
///
/// # Errors
/// Those of the store.
pub async fn census(store: &dyn Store) -> Result<Census> {
    if let Some(custodian) = store.custodian() {
        return custodian.census().await;
    }
    let mut census = Census::default();
    let mut visit = |info: Info| {
        census.blobs.push(info.digest);
        Ok(())
    };
    store.walk(&FilterSet::all(), &mut visit).await?;
    census.blobs.sort();
    Ok(census)
}

/// Hashes blobs again, and calls `visit` for each that is still there, in the order in which they are done.
///
/// # Errors
/// `ResourceExhausted` when files cannot be opened for want of memory or descriptors; the first error of `visit`. A blob that cannot be
/// read is damage and no error.
///
/// # Cancellation
/// Nothing remains; threads end their stretch of at most 64 MiB.
pub async fn verify(
    store: &dyn Store,
    digests: impl IntoIterator<Item = Digest> + Send,
    options: &VerifyOptions,
    visit: &mut (dyn FnMut(Checked) -> Result<()> + Send),
) -> Result<()> {
    let digests: Vec<Digest> = digests.into_iter().collect();
    let checks = digests.into_iter().map(|digest| verify_one(store, digest));
    let mut checks = stream::iter(checks).buffer_unordered(options.concurrency.get());
    while let Some(checked) = checks.next().await {
        if let Some(checked) = checked? {
            visit(checked)?;
        }
    }
    Ok(())
}

/// Hashes one blob; `None` where it has gone.
async fn verify_one(store: &dyn Store, digest: Digest) -> Result<Option<Checked>> {
    let damaged = |digest, size, damage| Ok(Some(Checked { digest, size, damage: Some(damage) }));
    let reader = match store.reader(&Descriptor::new("", digest.clone(), 0)).await {
        Ok(reader) => reader,
        Err(error) => {
            return match error.kind() {
                ErrorKind::NotFound => Ok(None),
                ErrorKind::ResourceExhausted => Err(error),
                _ => damaged(digest, 0, Damage::unreadable(&error)),
            };
        }
    };
    match hash(reader, digest.algorithm()).await {
        Ok((found, size)) if found == digest => Ok(Some(Checked { digest, size, damage: None })),
        Ok((found, size)) => damaged(digest, size, Damage::Bytes { found, size }),
        Err(error) if error.kind() == ErrorKind::ResourceExhausted => Err(error),
        Err(error) => damaged(digest, 0, Damage::unreadable(&error)),
    }
}

/// Stands in the chain of an error about a blob whose file is none.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("{0} stands in its place")]
pub(crate) struct NotAFile(pub(crate) &'static str);

/// Hashes to the end, whatever size the reader had when it was opened.
async fn hash(reader: Arc<dyn BlobReader>, algorithm: Algorithm) -> Result<(Digest, u64)> {
    let mut work = Work { reader, hasher: Hasher::new(algorithm), at: 0 };
    if work.reader.file().is_some() {
        loop {
            let is_done;
            (work, is_done) = blocking::run(move || work.stretch()).await?;
            if is_done {
                return Ok((work.hasher.finish(), work.at));
            }
        }
    }
    loop {
        let chunk = work.reader.read_at(work.at, CHUNK_LEN).await?;
        if chunk.is_empty() {
            return Ok((work.hasher.finish(), work.at));
        }
        work.hasher.update(&chunk);
        work.at += chunk.len() as u64;
    }
}

struct Work {
    reader: Arc<dyn BlobReader>,
    hasher: Hasher,
    at: u64,
}

impl Work {
    /// Hashes on for [`STRETCH_LEN`] bytes, and says whether that was the end.
    fn stretch(mut self) -> Result<(Self, bool)> {
        let until = self.at + STRETCH_LEN;
        let Some(file) = self.reader.file() else { return Ok((self, true)) };
        let end = hash_file(file, self.at, until, &mut self.hasher)
            .map_err(|error| Error::io(format!("cannot read on at byte {}", self.at), error))?;
        self.at = end;
        Ok((self, end < until))
    }
}

/// Hashes a file from `at` up to `until` or its end, and says where it stopped. Blocks.
pub(crate) fn hash_file(file: &File, mut at: u64, until: u64, hasher: &mut Hasher) -> io::Result<u64> {
    let mut buffer = vec![0; CHUNK_LEN];
    while at < until {
        let wanted = usize::try_from(until - at).unwrap_or(usize::MAX).min(buffer.len());
        match file.read_at(&mut buffer[..wanted], at) {
            Ok(0) => break,
            Ok(read) => {
                hasher.update(&buffer[..read]);
                at += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(at)
}
