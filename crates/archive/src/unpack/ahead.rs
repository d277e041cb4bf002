//! Reading a layer ahead of who applies it: read, hashed, unwrapped and hashed again on a thread of its own, a few buffers in front.
//!
//! ```text
//! blob ─> [digest] ─> unwrap ─> [diff id] ─> a few full buffers ─> whoever reads
//!                                    └────── empty buffers <───────┘
//! ```
//!
//! The end of the stream comes after both digests were found right, so that who has seen the end has seen the layer.

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
const BUFFER_LEN: usize = 256 * 1024;
/// How many buffers there are: 8 MiB for each layer that is read ahead.
const BUFFERS: usize = 32;

/// A layer's plain stream. Dropping it ends the reading.
#[derive(Debug)]
pub(crate) struct Ahead {
    full: Receiver<io::Result<Vec<u8>>>,
    empty: SyncSender<Vec<u8>>,
    current: Vec<u8>,
    at: usize,
    is_over: bool,
}

/// What is read, and what it must be.
pub(crate) struct Job {
    pub(crate) layer: Descriptor,
    pub(crate) diff_id: Digest,
    pub(crate) stream: BlobStream,
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
        let (full_sender, full) = sync_channel(BUFFERS);
        let (empty, empty_receiver) = sync_channel(BUFFERS);
        for _ in 0..BUFFERS {
            // There is room for all of them; they grow when they are used.
            let _ = empty.send(Vec::new());
        }
        thread::Builder::new()
            .name("wharf-layer".into())
            .spawn(move || {
                if let Err(error) = run(job, &full_sender, &empty_receiver) {
                    // Nobody reads any more: then nobody wants to know.
                    let _ = full_sender.send(Err(error));
                }
            })
            .map_err(|error| Error::io("cannot start a thread", error))?;
        Ok(Self { full, empty, current: Vec::new(), at: 0, is_over: false })
    }
}

impl Read for Ahead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.current.len() && !self.is_over {
            let next = self.full.recv().map_err(|_| {
                io::Error::other(Error::internal("the thread that reads a layer ended early"))
            })??;
            let used = std::mem::replace(&mut self.current, next);
            // The thread may be at its end.
            let _ = self.empty.send(used);
            (self.at, self.is_over) = (0, self.current.is_empty());
        }
        let count = buffer.len().min(self.current.len() - self.at);
        buffer[..count].copy_from_slice(&self.current[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

/// Reads to the end, or until nobody listens.
fn run(job: Job, full: &SyncSender<io::Result<Vec<u8>>>, empty: &Receiver<Vec<u8>>) -> io::Result<()> {
    let Job { layer, diff_id, stream, catalogue, options, sink } = job;
    let stored = Arc::new(Mutex::new(Hasher::new(layer.digest.algorithm())));
    let hashed = Hashed { stream, hasher: Arc::clone(&stored), layer: layer.clone(), sink };
    let mut unwrapped = layer::unwrap(&layer, hashed, &catalogue, &options).map_err(io::Error::other)?.stream;
    let mut hasher = Hasher::new(diff_id.algorithm());
    while let Ok(mut buffer) = empty.recv() {
        fill(&mut unwrapped, &mut buffer)?;
        if buffer.is_empty() {
            check(&layer, &diff_id, &hasher.finish(), "diff id")?;
            check(&layer, &layer.digest, &finish(&stored), "digest")?;
            // Whoever does not want the end any more has it.
            let _ = full.send(Ok(buffer));
            break;
        }
        hasher.update(&buffer);
        if full.send(Ok(buffer)).is_err() {
            break;
        }
    }
    Ok(())
}

/// Fills a buffer as far as the stream goes.
fn fill(stream: &mut impl Read, buffer: &mut Vec<u8>) -> io::Result<()> {
    buffer.clear();
    stream.take(BUFFER_LEN as u64).read_to_end(buffer).map(drop)
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
    hasher: Arc<Mutex<Hasher>>,
    layer: Descriptor,
    sink: Arc<dyn Sink>,
}

impl Read for Hashed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.stream.read(buffer)?;
        self.hasher.lock().unwrap_or_else(PoisonError::into_inner).update(&buffer[..count]);
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
