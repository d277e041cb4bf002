//! Having the disk begin with what was unpacked while more is coming, so that the sync at the end is short.
//!
//! It is advice: what it does or fails to do changes nothing but how long that sync takes. What is durable is the sync's matter.

use std::{
    fs::File,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

/// The disk is asked for after each so many bytes of layers, unless it is still at it.
const STRIDE: u64 = 128 * 1024 * 1024;

/// Counts what was unpacked into a file system.
#[derive(Debug)]
pub(crate) struct EarlySync {
    place: Option<Arc<File>>,
    since: u64,
    is_busy: Arc<AtomicBool>,
}

impl EarlySync {
    /// Of the file system that has this directory. One that cannot be opened is not asked.
    pub(crate) fn of(directory: &Path) -> Self {
        let place = File::open(directory).ok().map(Arc::new);
        Self { place, since: 0, is_busy: Arc::default() }
    }

    /// So many bytes more were read of a layer.
    pub(crate) fn read(&mut self, len: usize) {
        self.since += len as u64;
        let Some(place) = self.place.as_ref().filter(|_| self.since >= STRIDE) else { return };
        if self.is_busy.swap(true, Ordering::AcqRel) {
            return;
        }
        self.since = 0;
        let (place, is_busy) = (Arc::clone(place), Arc::clone(&self.is_busy));
        let began = thread::Builder::new().name("wharf-sync".into()).spawn(move || {
            if let Err(error) = rustix::fs::syncfs(&place) {
                tracing::debug!(%error, "the disk cannot begin with what was unpacked");
            }
            is_busy.store(false, Ordering::Release);
        });
        if began.is_err() {
            self.is_busy.store(false, Ordering::Release);
        }
    }
}
