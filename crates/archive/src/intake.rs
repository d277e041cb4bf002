//! One pass over an archive: every file goes into the store while it streams by, and nothing is kept elsewhere but the few documents that
//! say what the files are.
//!
//! ```text
//! input -> decompress -> tar        on a blocking thread
//!             | entries and chunks, by a channel of a few
//!             v
//! blobs/<alg>/<hex>   -> an ingest that must come out with that digest
//! index.json …        -> memory, up to 20 MiB each
//! any other file      -> an ingest, named by its own digest
//! ```

use std::{
    hash::{BuildHasher, RandomState},
    sync::Arc,
};

use bytes::Bytes;
use tokio::{
    sync::mpsc::{Receiver, Sender, channel},
    task,
};
use wharf_content::{
    Algorithm, CommitOptions, Descriptor, Digest, Error, ErrorKind, Hasher, IngestOptions, Result, ResultExt,
    Store, Writer, open_writer,
};
use wharf_images::progress::Event;

use crate::{
    contents::{Contents, Node, clean, link_target},
    format::Input,
    options::ImportOptions,
    untar::{Entry, Kind, TarReader},
};

/// The documents that say what is in an archive. They are kept in memory.
pub(crate) const DOCUMENTS: [&str; 3] = ["oci-layout", "index.json", "manifest.json"];

/// The most bytes of one of them (containerd: `core/images/archive/importer.go`).
pub(crate) const MAX_DOCUMENT_LEN: u64 = 20 << 20;

/// How many chunks wait between the reading thread and the store.
const CHANNEL_LEN: usize = 4;

/// The media type of what nobody has described yet.
const UNKNOWN: &str = "application/octet-stream";

/// What comes from the reading thread.
enum Item {
    Entry(Entry),
    Chunk(Bytes),
}

/// Takes in the whole archive, to the last byte of the input.
///
/// # Cancellation
/// What was committed stays, held by the store's lease. The reading thread ends with its next read.
pub(crate) async fn take_in(
    store: Arc<dyn Store>,
    input: Input,
    options: &ImportOptions,
) -> Result<Contents> {
    let (sender, receiver) = channel(CHANNEL_LEN);
    let max_entries = options.max_entries;
    let reading = task::spawn_blocking(move || read(input, max_entries, &sender));
    let mut intake =
        Intake { store, options, items: receiver, entry: None, contents: Contents::default(), count: 0 };
    intake.run().await?;
    // The channel is closed, so that the thread has ended or is about to.
    reading.await.map_err(|error| Error::internal("a blocking task ended early").with_source(error))??;
    Ok(intake.contents)
}

/// Reads an archive to its end; nobody listening any more is no error.
fn read(input: Input, max_entries: usize, sender: &Sender<Item>) -> Result<()> {
    let mut tar = TarReader::new(input);
    let mut count = 0;
    while let Some(entry) = tar.next()? {
        count += 1;
        if count > max_entries {
            return Err(Error::resource_exhausted(format!(
                "the archive has more than {max_entries} entries"
            )));
        }
        let has_content = entry.kind == Kind::File;
        if sender.blocking_send(Item::Entry(entry)).is_err() {
            return Ok(());
        }
        while has_content && let Some(chunk) = tar.chunk()? {
            if sender.blocking_send(Item::Chunk(chunk)).is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

struct Intake<'a> {
    store: Arc<dyn Store>,
    options: &'a ImportOptions,
    items: Receiver<Item>,
    /// The entry that ended the content of the one before.
    entry: Option<Entry>,
    contents: Contents,
    count: usize,
}

impl Intake<'_> {
    async fn run(&mut self) -> Result<()> {
        while let Some(entry) = self.next_entry().await {
            // What leads out of the archive, or is not text, can be named by nothing in it.
            let Some(name) = clean(&entry.name) else { continue };
            let node = match entry.kind {
                Kind::Directory | Kind::CharDevice | Kind::BlockDevice | Kind::Fifo | Kind::Unknown(_) => {
                    continue;
                }
                Kind::Symlink(link) => Node::Link(link_target(&name, &link)),
                Kind::HardLink(link) => Node::Link(clean(&link)),
                Kind::File => match self.file(&name, entry.size).await? {
                    Some(node) => node,
                    // It was cut short, which the reading thread tells.
                    None => return Ok(()),
                },
            };
            self.contents.add(name, node)?;
        }
        Ok(())
    }

    async fn next_entry(&mut self) -> Option<Entry> {
        if let Some(entry) = self.entry.take() {
            return Some(entry);
        }
        loop {
            match self.items.recv().await? {
                Item::Entry(entry) => return Some(entry),
                Item::Chunk(_) => {}
            }
        }
    }

    /// The next bytes of the file; `None` at its end.
    async fn chunk(&mut self) -> Option<Bytes> {
        match self.items.recv().await? {
            Item::Chunk(chunk) => Some(chunk),
            Item::Entry(entry) => {
                self.entry = Some(entry);
                None
            }
        }
    }

    async fn file(&mut self, name: &str, size: u64) -> Result<Option<Node>> {
        if DOCUMENTS.contains(&name) {
            return self.document(name, size).await;
        }
        let cannot = || format!("cannot take in {name:?} of the archive");
        match claimed(name) {
            Some(digest) => self.blob(digest, size).await.context(cannot),
            None => self.other(size).await.context(cannot),
        }
    }

    async fn document(&mut self, name: &str, size: u64) -> Result<Option<Node>> {
        if size > MAX_DOCUMENT_LEN {
            return Err(Error::resource_exhausted(format!(
                "{name} in the archive has {size} bytes, more than the {MAX_DOCUMENT_LEN} that are read of it"
            )));
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = self.chunk().await {
            bytes.extend_from_slice(&chunk);
        }
        Ok((bytes.len() as u64 == size).then(|| Node::Document(bytes.into())))
    }

    /// A file whose name claims a digest. Where the store has it, it is still hashed, so that an archive is right or wrong whatever
    /// is there already.
    async fn blob(&mut self, digest: Digest, size: u64) -> Result<Option<Node>> {
        let descriptor = Descriptor::new(UNKNOWN, digest.clone(), size);
        let sink = Arc::clone(&self.options.sink);
        let reference = format!("import-{digest}");
        let ingest = IngestOptions::new(&reference).with_descriptor(&descriptor);
        let waiting = |_: &Error| sink.event(&Event::Waiting { descriptor: &descriptor });
        let mut writer = match open_writer(self.store.as_ref(), ingest, &waiting).await {
            Ok(writer) => writer,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let Some(found) = self.hash(digest.algorithm(), size).await else { return Ok(None) };
                if found != digest {
                    return Err(Error::failed_precondition(format!(
                        "digest mismatch: expected {digest}, found {found}"
                    )));
                }
                sink.event(&Event::Exists { descriptor: &descriptor });
                return Ok(Some(Node::Blob(digest, size)));
            }
            Err(error) => return Err(error),
        };
        sink.event(&Event::Started { descriptor: &descriptor, offset: 0 });
        let outcome = self.write(writer.as_mut(), size, Some(&descriptor)).await;
        let committed = self.settle(writer, &reference, outcome).await?;
        if committed.is_some() {
            sink.event(&Event::Done { descriptor: &descriptor });
        }
        Ok(committed.map(|digest| Node::Blob(digest, size)))
    }

    /// A file that its content will name. What it is called may be a digest too, but of another thing (Docker names layers by
    /// their diff id, compressed or not).
    async fn other(&mut self, size: u64) -> Result<Option<Node>> {
        self.count += 1;
        let reference = format!("import-{:016x}-{}", unique(), self.count);
        let mut ingest = IngestOptions::new(&reference);
        ingest.total = Some(size);
        let mut writer = open_writer(self.store.as_ref(), ingest, &|_| ()).await?;
        let outcome = self.write(writer.as_mut(), size, None).await;
        let Some(digest) = self.settle(writer, &reference, outcome).await? else { return Ok(None) };
        let descriptor = Descriptor::new(UNKNOWN, digest.clone(), size);
        let sink = &self.options.sink;
        sink.event(&Event::Started { descriptor: &descriptor, offset: 0 });
        sink.event(&Event::Bytes { descriptor: &descriptor, count: size });
        sink.event(&Event::Done { descriptor: &descriptor });
        Ok(Some(Node::Blob(digest, size)))
    }

    /// Writes and commits; `None` where the file was cut short.
    async fn write(
        &mut self,
        writer: &mut dyn Writer,
        size: u64,
        expected: Option<&Descriptor>,
    ) -> Result<Option<Digest>> {
        // The input cannot be read from where an earlier import ended; what that left is written again.
        if writer.status().offset > 0 {
            writer.truncate(0).await?;
        }
        let mut written = 0;
        while let Some(chunk) = self.chunk().await {
            let count = chunk.len() as u64;
            written += count;
            writer.write(chunk).await?;
            if let Some(descriptor) = expected {
                self.options.sink.event(&Event::Bytes { descriptor, count });
            }
        }
        if written < size {
            return Ok(None);
        }
        let digest = match expected {
            Some(descriptor) => descriptor.digest.clone(),
            None => writer.digest().await?,
        };
        match writer.commit(Some(size), Some(&digest), CommitOptions::default()).await {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(Some(digest)),
            committed => committed.map(Some),
        }
    }

    /// Throws away what was not committed: it would never be resumed.
    async fn settle(
        &self,
        mut writer: Box<dyn Writer>,
        reference: &str,
        outcome: Result<Option<Digest>>,
    ) -> Result<Option<Digest>> {
        if !matches!(outcome, Ok(Some(_))) {
            let closed = writer.close().await;
            drop(writer);
            // The first error is the one to tell; what stays is collected after a day.
            drop(closed.and(self.store.abort(reference).await));
        }
        outcome
    }

    async fn hash(&mut self, algorithm: Algorithm, size: u64) -> Option<Digest> {
        let (mut hasher, mut len) = (Hasher::new(algorithm), 0);
        while let Some(chunk) = self.chunk().await {
            len += chunk.len() as u64;
            hasher.update(&chunk);
        }
        (len == size).then(|| hasher.finish())
    }
}

/// The digest that a name claims by its place in a layout. A name that only looks like one claims nothing.
fn claimed(name: &str) -> Option<Digest> {
    let (algorithm, hex) = name.strip_prefix("blobs/")?.split_once('/')?;
    format!("{algorithm}:{hex}").parse().ok()
}

/// A number that nothing else is named by, since the keys of the hash are random.
pub(crate) fn unique() -> u64 {
    RandomState::new().hash_one(std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims() {
        let (sha256, sha512) = (Digest::sha256(b""), Algorithm::Sha512.digest(b""));
        let upper = sha256.hex().to_uppercase();
        for (name, expected) in [
            (format!("blobs/sha256/{}", sha256.hex()), Some(sha256.clone())),
            (format!("blobs/sha512/{}", sha512.hex()), Some(sha512.clone())),
            (format!("blobs/sha256/{}", sha512.hex()), None),
            (format!("blobs/sha256/{upper}"), None),
            (format!("blobs/sha256/{}", &sha256.hex()[1..]), None),
            (format!("blobs/sha256/x/{}", sha256.hex()), None),
            (format!("x/blobs/sha256/{}", sha256.hex()), None),
            (format!("{}.tar", sha256.hex()), None),
            (format!("blobs/md5/{}", "0".repeat(32)), None),
        ] {
            assert_eq!(claimed(&name), expected, "{name}");
        }
    }
}
