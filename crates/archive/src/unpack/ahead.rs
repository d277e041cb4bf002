//! Reading a layer ahead of who applies it: read, hashed and unwrapped on one thread, hashed again on another, a few buffers in front.
//!
//! ```text
//! blob ─> [digest] ─> unwrap ─> a few full buffers ─> [diff id] ─> as many ─> whoever reads
//!                       └─────────────── empty buffers <────────────────────────┘
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
    layer::{self, BlobStream, LayerOptions},
    progress::{Event, Sink},
};

/// The length of a buffer.
const BUFFER_LEN: usize = 128 * 1024;
/// How many buffers there are: 2 MiB for each layer that is read ahead.
const BUFFERS: usize = 16;

/// A layer's plain stream. Dropping it ends the reading.
#[derive(Debug)]
pub(crate) struct Ahead {
    full: Receiver<io::Result<Buffer>>,
    empty: SyncSender<Buffer>,
    current: Buffer,
    at: usize,
    is_over: bool,
}

/// Some bytes of a stream; none at its end.
#[derive(Debug, Default)]
struct Buffer {
    bytes: Vec<u8>,
    /// How many of the bytes count.
    len: usize,
}

/// What is read, and what it must be.
pub(crate) struct Job {
    pub(crate) layer: Descriptor,
    pub(crate) diff_id: Digest,
    pub(crate) stream: BlobStream,
    /// Whether the blob's digest is for somebody else to verify.
    pub(crate) is_verified: bool,
    pub(crate) catalogue: Catalogue,
    pub(crate) options: LayerOptions,
    pub(crate) sink: Arc<dyn Sink>,
}

impl Ahead {
    /// Begins to read a layer.
    ///
    /// # Errors
    /// Those of the system, which may have no more threads.
    pub(crate) fn start(job: Job) -> Result<Self> {
        let (plain_sender, plain) = sync_channel(BUFFERS);
        let (full_sender, full) = sync_channel(BUFFERS);
        let (empty, empty_receiver) = sync_channel(BUFFERS);
        for _ in 0..BUFFERS {
            // There is room for all of them; they grow when they are used.
            let _ = empty.send(Buffer::default());
        }
        let (layer, diff_id) = (job.layer.clone(), job.diff_id.clone());
        spawn("wharf-layer", move || {
            if let Err(error) = run(job, &plain_sender, &empty_receiver) {
                // Nobody reads any more: then nobody wants to know.
                let _ = plain_sender.send(Err(error));
            }
        })?;
        spawn("wharf-diff-id", move || identify(&layer, &diff_id, &plain, &full_sender))?;
        Ok(Self { full, empty, current: Buffer::default(), at: 0, is_over: false })
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
    let spawned = thread::Builder::new().name(name.into()).spawn(work);
    spawned.map(drop).map_err(|error| Error::io("cannot start a thread", error))
}

impl Read for Ahead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.current.len && !self.is_over {
            let next = self.full.recv().map_err(|_| {
                io::Error::other(Error::internal("the thread that reads a layer ended early"))
            })??;
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

/// Reads to the end, or until nobody listens.
fn run(job: Job, plain: &SyncSender<io::Result<Buffer>>, empty: &Receiver<Buffer>) -> io::Result<()> {
    let Job { layer, stream, is_verified, catalogue, options, sink, .. } = job;
    let stored = (!is_verified).then(|| Arc::new(Mutex::new(Hasher::new(layer.digest.algorithm()))));
    let hashed = Hashed { stream, hasher: stored.clone(), layer: layer.clone(), sink };
    let mut unwrapped = layer::unwrap(&layer, hashed, &catalogue, &options).map_err(io::Error::other)?.stream;
    while let Ok(mut buffer) = empty.recv() {
        buffer.fill(&mut unwrapped)?;
        let is_over = buffer.len == 0;
        if is_over && let Some(stored) = &stored {
            check(&layer, &layer.digest, &finish(stored), "digest")?;
        }
        // Whoever does not want the end any more has it.
        if plain.send(Ok(buffer)).is_err() || is_over {
            break;
        }
    }
    Ok(())
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

impl Buffer {
    /// Fills it as far as the stream goes.
    fn fill(&mut self, stream: &mut impl Read) -> io::Result<()> {
        if self.bytes.is_empty() {
            self.bytes = vec![0; BUFFER_LEN];
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

/// Hashes what is read of a blob, and tells how far it is.
struct Hashed {
    stream: BlobStream,
    hasher: Option<Arc<Mutex<Hasher>>>,
    layer: Descriptor,
    sink: Arc<dyn Sink>,
}

impl Read for Hashed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.stream.read(buffer)?;
        if let Some(hasher) = &self.hasher {
            hasher.lock().unwrap_or_else(PoisonError::into_inner).update(&buffer[..count]);
        }
        if count > 0 {
            self.sink.event(&Event::Extracted { descriptor: &self.layer, count: count as u64 });
        }
        Ok(count)
    }
}

fn finish(hasher: &Mutex<Hasher>) -> Digest {
    // The stream is at its end.
    let hasher = std::mem::replace(
        &mut *hasher.lock().unwrap_or_else(PoisonError::into_inner),
        Hasher::new(Algorithm::default()),
    );
    hasher.finish()
}
