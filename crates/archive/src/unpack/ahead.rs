//! Reading a layer ahead of who applies it, each part of the work on a thread of its own, a few buffers in front of the next.
//!
//! ```text
//! blob ─> [digest] ─> unwrap ─> [diff id] ─> whoever reads
//! ```
//!
//! The end of the stream comes after both digests were found right, so that who has seen the end has seen the layer. A blob whose digest
//! somebody else verifies, before what was made of the layer counts, is not hashed here.

use std::{
    io::{self, Read},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

use wharf_content::{Algorithm, Catalogue, Descriptor, Digest, Error, Hasher, Result};
use wharf_images::{
    layer::{self, BlobStream, LayerOptions, LayerStream},
    progress::{Event, Sink},
};

/// The length of a buffer. Longer ones wake threads less often, and do not stay in a processor's cache.
const BUFFER_LEN: usize = 256 * 1024;
/// How many buffers the blob has on its way to be unwrapped: 1 MiB.
const BLOB_BUFFERS: usize = 4;
/// How many buffers the plain streams have that are read at once: 8 MiB, so that writing many small files and unwrapping large ones
/// need not wait for each other.
const PLAIN_BUFFERS: usize = 32;
/// The fewest and the most that one of them has.
const EACH: (usize, usize) = (8, 16);

/// A stream that another thread reads. Dropping it ends the reading.
#[derive(Debug)]
pub(crate) struct Ahead {
    full: Receiver<io::Result<Buffer>>,
    empty: SyncSender<Buffer>,
    current: Buffer,
    at: usize,
    is_over: bool,
}

/// The other end of an [`Ahead`].
struct Feed {
    full: SyncSender<io::Result<Buffer>>,
    empty: Receiver<Buffer>,
}

/// The buffers of layers that are read at once. What one layer has used serves the next one.
#[derive(Clone, Debug)]
pub(crate) struct Buffers {
    /// How many the plain stream of one layer has.
    each: usize,
    spare: Arc<Mutex<Vec<Vec<u8>>>>,
}

/// Some bytes of a stream; none at its end.
#[derive(Debug, Default)]
struct Buffer {
    bytes: Vec<u8>,
    /// How many of the bytes count.
    len: usize,
    /// Where the bytes come from, and go when nobody needs them.
    buffers: Option<Buffers>,
}

/// What is read, and what it must be.
pub(crate) struct Job {
    pub(crate) layer: Descriptor,
    pub(crate) diff_id: Digest,
    pub(crate) stream: BlobStream,
    pub(crate) buffers: Buffers,
    /// Whether the blob's digest is for somebody else to verify.
    pub(crate) is_verified: bool,
    pub(crate) catalogue: Catalogue,
    pub(crate) options: LayerOptions,
    pub(crate) sink: Arc<dyn Sink>,
}

impl Ahead {
    /// Begins to read a layer, as a plain stream.
    ///
    /// # Errors
    /// Those of the system, which may have no more threads.
    pub(crate) fn start(job: Job) -> Result<Self> {
        let Job { layer, diff_id, stream, buffers, is_verified, catalogue, options, sink } = job;
        let stored = Watched { stream, layer: layer.clone(), sink };
        let (stored, found): (LayerStream, _) = if is_verified {
            (Box::new(stored), None)
        } else {
            let (stored, found) = hashed(stored, layer.digest.algorithm(), &buffers)?;
            (Box::new(stored), Some(found))
        };
        let (feed, Self { full: plain, empty, .. }) = pipe(buffers.each, &buffers);
        let (identified, full) = sync_channel(buffers.each);
        let blob = layer.clone();
        spawn("wharf-layer", move || {
            let unwrapped = layer::unwrap(&blob, stored, &catalogue, &options).map_err(io::Error::other);
            let verify = || match found.map(|found| found.recv()) {
                None => Ok(()),
                Some(Ok(found)) => check(&blob, &blob.digest, &found, "digest"),
                Some(Err(_)) => Err(ended_early()),
            };
            feed.hand_on(unwrapped.map(|unwrapped| unwrapped.stream), |_| (), verify);
        })?;
        spawn("wharf-diff-id", move || identify(&layer, &diff_id, &plain, &identified))?;
        Ok(Self::over(full, empty))
    }

    fn over(full: Receiver<io::Result<Buffer>>, empty: SyncSender<Buffer>) -> Self {
        Self { full, empty, current: Buffer::default(), at: 0, is_over: false }
    }
}

/// A stream with so many buffers. They take their room when they are used.
fn pipe(count: usize, buffers: &Buffers) -> (Feed, Ahead) {
    let (full_sender, full) = sync_channel(count);
    let (empty, empty_receiver) = sync_channel(count);
    for _ in 0..count {
        // There is room for all of them.
        let _ = empty.send(Buffer { bytes: Vec::new(), len: 0, buffers: Some(buffers.clone()) });
    }
    (Feed { full: full_sender, empty: empty_receiver }, Ahead::over(full, empty))
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
    let spawned = thread::Builder::new().name(name.into()).spawn(work);
    spawned.map(drop).map_err(|error| Error::io("cannot start a thread", error))
}

/// Hashes a stream while it is read ahead. The digest, of what was read of it, comes when all of it was read, or nobody wants more.
fn hashed(
    mut stream: impl Read + Send + 'static,
    algorithm: Algorithm,
    buffers: &Buffers,
) -> Result<(Ahead, Receiver<Digest>)> {
    let (feed, ahead) = pipe(BLOB_BUFFERS, buffers);
    let (digest, found) = sync_channel(1);
    spawn("wharf-blob", move || {
        let mut hasher = Hasher::new(algorithm);
        feed.hand_on(Ok(&mut stream), |bytes| hasher.update(bytes), || Ok(()));
        // Nobody may wait for it.
        let _ = digest.send(hasher.finish());
    })?;
    Ok((ahead, found))
}

fn ended_early() -> io::Error {
    io::Error::other(Error::internal("a thread that reads a layer ended early"))
}

impl Read for Ahead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.current.len && !self.is_over {
            let next = self.full.recv().map_err(|_| ended_early())??;
            let used = std::mem::replace(&mut self.current, next);
            // The thread may be at its end.
            let _ = self.empty.send(used);
            (self.at, self.is_over) = (0, self.current.len == 0);
        }
        let count = buffer.len().min(self.current.len - self.at);
        buffer[..count].copy_from_slice(&self.current.bytes[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

impl Feed {
    /// Hands on a stream to its end or its error, or until nobody listens; `look` sees all of it. The end is told when `verify` agrees.
    fn hand_on<S: Read>(
        &self,
        stream: io::Result<S>,
        mut look: impl FnMut(&[u8]),
        verify: impl FnOnce() -> io::Result<()>,
    ) {
        let handed = stream.and_then(|mut stream| {
            while let Ok(mut buffer) = self.empty.recv() {
                buffer.fill(&mut stream)?;
                if buffer.len == 0 {
                    // What it comes from may wait for being read to the end.
                    drop(stream);
                    verify()?;
                    // Whoever does not want the end any more has it.
                    let _ = self.full.send(Ok(buffer));
                    break;
                }
                look(&buffer.bytes[..buffer.len]);
                if self.full.send(Ok(buffer)).is_err() {
                    break;
                }
            }
            Ok(())
        });
        if let Err(error) = handed {
            // Nobody reads any more: then nobody wants to know.
            let _ = self.full.send(Err(error));
        }
    }
}

/// Hashes what comes by, to the end or until nobody listens.
fn identify(
    layer: &Descriptor,
    diff_id: &Digest,
    plain: &Receiver<io::Result<Buffer>>,
    full: &SyncSender<io::Result<Buffer>>,
) {
    let mut hasher = Hasher::new(diff_id.algorithm());
    while let Ok(next) = plain.recv() {
        let next = next.and_then(|buffer| {
            hasher.update(&buffer.bytes[..buffer.len]);
            if buffer.len == 0 {
                let hasher = std::mem::replace(&mut hasher, Hasher::new(Algorithm::default()));
                check(layer, diff_id, &hasher.finish(), "diff id")?;
            }
            Ok(buffer)
        });
        if full.send(next).is_err() {
            break;
        }
    }
}

impl Buffers {
    /// For so many layers that are read at once.
    pub(crate) fn shared_by(layers: usize) -> Self {
        let each = (PLAIN_BUFFERS / layers.max(1)).clamp(EACH.0, EACH.1);
        Self { each, spare: Arc::default() }
    }

    fn take(&self) -> Option<Vec<u8>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn give_back(&self, bytes: Vec<u8>) {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).push(bytes);
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(buffers) = self.buffers.take().filter(|_| !self.bytes.is_empty()) {
            buffers.give_back(std::mem::take(&mut self.bytes));
        }
    }
}

impl Buffer {
    /// Fills it as far as the stream goes.
    fn fill(&mut self, stream: &mut impl Read) -> io::Result<()> {
        if self.bytes.is_empty() {
            let spare = self.buffers.as_ref().and_then(Buffers::take);
            self.bytes = spare.unwrap_or_else(|| vec![0; BUFFER_LEN]);
        }
        self.len = 0;
        while self.len < self.bytes.len() {
            match stream.read(&mut self.bytes[self.len..]) {
                Ok(0) => break,
                Ok(count) => self.len += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn check(layer: &Descriptor, expected: &Digest, found: &Digest, what: &str) -> io::Result<()> {
    if expected == found {
        return Ok(());
    }
    Err(io::Error::other(Error::failed_precondition(format!(
        "{what} mismatch: layer {} should have the {what} {expected}, and what there is has {found}",
        layer.digest
    ))))
}

/// Tells how far the reading of a blob is.
struct Watched {
    stream: BlobStream,
    layer: Descriptor,
    sink: Arc<dyn Sink>,
}

impl Read for Watched {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.stream.read(buffer)?;
        if count > 0 {
            self.sink.event(&Event::Extracted { descriptor: &self.layer, count: count as u64 });
        }
        Ok(count)
    }
}
