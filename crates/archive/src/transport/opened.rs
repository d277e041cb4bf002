//! An archive file that is read in place: looked through once, by its headers, and from then on read wherever a blob is.
//!
//! ```text
//! plain                the file itself
//! gzip, zstd           decompressed once into a file without a name, in the directory for temporary files
//! what docker save     hashed once more, since the names of its files tell no digests, and described by manifests that are made in memory
//!  wrote before 25
//! ```

use std::{
    collections::HashMap,
    env,
    fs::{self, File, OpenOptions},
    io::{self, BufReader, Read, Seek},
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::Path,
    process,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use rustix::fs::OFlags;
use wharf_content::{
    Algorithm, BlobReader, Descriptor, Digest, Error, Hasher, MemoryStore, Provider, Result, ResultExt,
    blocking, reading::CHUNK_LEN,
};

use super::section::Section;
use crate::{
    compression::{Compression, sniff},
    contents::{Contents, Node, clean, link_target},
    decompress, docker_archive,
    intake::{DOCUMENTS, MAX_DOCUMENT_LEN},
    layout,
    options::ImportOptions,
    untar::{Kind, TarReader},
};

/// Which file something was read from, and in which state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity([i64; 6]);

impl Identity {
    /// That of what `path` leads to; `None` where there is nothing. Blocks.
    pub(super) fn of(path: &Path) -> Option<Self> {
        fs::metadata(path).ok().map(|metadata| Self::new(&metadata))
    }

    fn new(metadata: &fs::Metadata) -> Self {
        let unsigned = |number: u64| i64::from_ne_bytes(number.to_ne_bytes());
        Self([
            unsigned(metadata.dev()),
            unsigned(metadata.ino()),
            unsigned(metadata.len()),
            metadata.mtime(),
            metadata.mtime_nsec(),
            metadata.ctime_nsec(),
        ])
    }
}

/// An archive.
#[derive(Debug)]
pub(super) struct Opened {
    file: Arc<File>,
    sections: HashMap<Digest, (u64, u64)>,
    /// Manifests that the archive has not.
    made: Arc<MemoryStore>,
    /// The images, as an index.json lists them.
    pub(super) entries: Vec<Descriptor>,
    /// Whether it is an OCI image layout.
    pub(super) is_layout: bool,
    pub(super) is_compressed: bool,
    pub(super) identity: Identity,
}

/// What one look through an archive found.
struct Scan {
    file: File,
    identity: Identity,
    is_compressed: bool,
    contents: Contents,
    files: Vec<(String, u64, u64)>,
}

impl Opened {
    /// Opens an archive; `None` where there is no such file.
    ///
    /// # Errors
    /// `InvalidArgument` for what is no archive of images or no file; `DataLoss` where it was cut short; `ResourceExhausted` beyond the
    /// limits of the options; those of the file system.
    ///
    /// # Cancellation
    /// A thread may go on to the end of the file.
    pub(super) async fn open(path: &Path, options: &ImportOptions) -> Result<Option<Self>> {
        let cannot = || format!("cannot read the archive {}", path.display());
        let (own, own_options) = (path.to_owned(), options.clone());
        let scan = blocking::run(move || Scan::of(&own, &own_options)).await.context(cannot)?;
        let Some(scan) = scan else { return Ok(None) };
        Self::read(scan, options).await.context(cannot).map(Some)
    }

    async fn read(scan: Scan, options: &ImportOptions) -> Result<Self> {
        let Scan { file, identity, is_compressed, mut contents, files } = scan;
        let made = Arc::new(MemoryStore::new());
        let mut opened = Self {
            file: Arc::new(file),
            sections: HashMap::new(),
            made: Arc::clone(&made),
            entries: Vec::new(),
            is_layout: false,
            is_compressed,
            identity,
        };
        if contents.file("oci-layout")?.is_some() {
            for (name, start, len) in files {
                if let Some(digest) = digest_of(&name) {
                    opened.sections.entry(digest).or_insert((start, len));
                }
            }
            if let Some(index) = layout::index(&contents, &opened).await? {
                opened.entries = layout::entries(index, &options.catalogue).await?;
            }
            opened.is_layout = true;
            return Ok(opened);
        }
        let file = Arc::clone(&opened.file);
        let hashed = blocking::run(move || {
            files
                .into_iter()
                .map(|(name, start, len)| Ok((name, hash(&file, start, len)?, start, len)))
                .collect()
        });
        let hashed: Vec<(String, Digest, u64, u64)> = hashed.await?;
        for (name, digest, start, len) in hashed {
            contents.add(name, Node::Blob(digest.clone(), len))?;
            opened.sections.entry(digest).or_insert((start, len));
        }
        opened.entries =
            docker_archive::images(&contents, &opened, made.as_ref()).await?.ok_or_else(|| {
                Error::invalid_argument(
                    "not an image archive: it is a tar with neither oci-layout nor manifest.json at its root",
                )
            })?;
        Ok(opened)
    }
}

impl Scan {
    fn of(path: &Path, options: &ImportOptions) -> Result<Option<Self>> {
        let flags = i32::try_from((OFlags::NONBLOCK | OFlags::CLOEXEC).bits()).unwrap_or_default();
        let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("cannot open it", error)),
        };
        let metadata = file.metadata().context(|| "cannot look at it")?;
        if !metadata.is_file() {
            return Err(Error::invalid_argument(
                "it is not a file, and is read at several places at once: `wharf import` reads streams",
            ));
        }
        let mut start = [0; 8];
        let count = file.read_at(&mut start, 0).context(|| "cannot read it")?;
        let is_compressed = sniff(&start[..count]) != Compression::Plain;
        let identity = Identity::new(&metadata);
        let plain = if is_compressed { decompressed(file, options)? } else { file };
        let (mut contents, mut files) = (Contents::default(), Vec::new());
        scan(&plain, options, &mut contents, &mut files)?;
        Ok(Some(Self { file: plain, identity, is_compressed, contents, files }))
    }
}

/// Looks through a plain archive. Documents are read, other files passed over.
fn scan(
    file: &File,
    options: &ImportOptions,
    contents: &mut Contents,
    files: &mut Vec<(String, u64, u64)>,
) -> Result<()> {
    let len = file.metadata().context(|| "cannot look at it")?.len();
    let mut tar = TarReader::new(BufReader::new(file));
    let mut count = 0;
    let mut names: HashMap<String, (u64, u64)> = HashMap::new();
    while let Some(entry) = tar.next()? {
        count += 1;
        if count > options.max_entries {
            return Err(Error::resource_exhausted(format!(
                "it has more than {} entries",
                options.max_entries
            )));
        }
        // What leads out of the archive, or is not text, can be named by nothing in it.
        let Some(name) = clean(&entry.name) else { continue };
        match entry.kind {
            Kind::Symlink(link) => contents.add(name.clone(), Node::Link(link_target(&name, &link)))?,
            Kind::HardLink(link) => contents.add(name, Node::Link(clean(&link)))?,
            Kind::File if DOCUMENTS.contains(&&*name) => {
                if entry.size > MAX_DOCUMENT_LEN {
                    return Err(Error::resource_exhausted(format!(
                        "{name} has more than the {MAX_DOCUMENT_LEN} bytes that are read of such a file"
                    )));
                }
                let mut text = Vec::new();
                while let Some(chunk) = tar.chunk()? {
                    text.extend_from_slice(&chunk);
                }
                contents.add(name, Node::Document(text.into()))?;
            }
            Kind::File => {
                let start = tar.position();
                if start.checked_add(entry.size).is_none_or(|end| end > len) {
                    return Err(Error::data_loss(format!("it was cut short: it ends within {name:?}")));
                }
                tar.pass_over()?;
                // Whether both are the same is not looked at: some programs take the first and some the last.
                if names.insert(name.clone(), (start, entry.size)).is_some() {
                    return Err(Error::invalid_argument(format!(
                        "it has {name:?} twice: which one is meant cannot be told"
                    )));
                }
                files.push((name, start, entry.size));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The digest that the name of a file claims.
fn digest_of(name: &str) -> Option<Digest> {
    let (algorithm, hex) = name.strip_prefix("blobs/")?.split_once('/')?;
    format!("{algorithm}:{hex}").parse().ok()
}

fn hash(file: &File, start: u64, len: u64) -> Result<Digest> {
    let mut hasher = Hasher::new(Algorithm::default());
    let (mut at, mut buffer) = (0, vec![0; CHUNK_LEN]);
    while at < len {
        let wanted = usize::try_from(len - at).unwrap_or(usize::MAX).min(CHUNK_LEN);
        match file.read_at(&mut buffer[..wanted], start + at).context(|| "cannot read it")? {
            0 => return Err(Error::data_loss("it was cut short while it was read")),
            count => {
                hasher.update(&buffer[..count]);
                at += count as u64;
            }
        }
    }
    Ok(hasher.finish())
}

/// Takes the compression off, into a file that has no name any more and goes when it is closed.
fn decompressed(file: File, options: &ImportOptions) -> Result<File> {
    let mut input = decompress::open(Box::new(file), options)?;
    let directory = env::temp_dir();
    let mut plain = nameless(&directory).context(|| {
        format!("cannot make a temporary file in {}, for it is compressed", directory.display())
    })?;
    let mut buffer = vec![0; CHUNK_LEN];
    loop {
        let count = match input.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(decompress::stream_error("cannot read the archive", error)),
        };
        io::Write::write_all(&mut plain, &buffer[..count]).context(|| {
            format!("cannot write a temporary file in {}, for it is compressed", directory.display())
        })?;
    }
    plain.rewind().context(|| "cannot read a temporary file")?;
    Ok(plain)
}

fn nameless(directory: &Path) -> io::Result<File> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    loop {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = directory.join(format!(".wharf-{}-{count}.tmp", process::id()));
        match OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path) {
            Ok(file) => return fs::remove_file(&path).map(|()| file),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
}

#[async_trait]
impl Provider for Opened {
    async fn reader(&self, descriptor: &Descriptor) -> Result<Arc<dyn BlobReader>> {
        match self.sections.get(&descriptor.digest) {
            Some((start, len)) => Ok(Arc::new(Section::of(Arc::clone(&self.file), *start, *len))),
            None => self.made.reader(descriptor).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_that_names_claim() {
        let digest = Digest::sha256(b"x");
        let name = format!("blobs/sha256/{}", digest.hex());
        assert_eq!(digest_of(&name), Some(digest));
        for name in
            ["blobs/sha256/x", "blobs/sha256", "index.json", &format!("{name}/x"), &format!("a/{name}")]
        {
            assert_eq!(digest_of(name), None, "{name}");
        }
    }
}
