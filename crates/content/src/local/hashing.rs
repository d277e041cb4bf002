//! Hashing an ingest: its batches beside the thread that writes them, or what is in its file already.
//!
//! Of those that hash a batch, whoever comes first does the work, and who comes later waits for it or finds it done: nothing hangs on another thread being free.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;

use crate::digest::{Algorithm, Hasher};

/// A hasher, and the batch that it has not seen yet. A clone is another hold on the same one.
#[derive(Clone)]
pub(super) struct Hashing {
    state: Arc<Mutex<State>>,
}

struct State {
    hasher: Hasher,
    batch: Vec<Bytes>,
}

impl Hashing {
    pub(super) fn new(hasher: Hasher) -> Self {
        Self { state: Arc::new(Mutex::new(State { hasher, batch: Vec::new() })) }
    }

    /// Leaves a batch to be hashed, after the one before.
    pub(super) fn put(&self, batch: Vec<Bytes>) {
        let mut state = self.lock();
        state.catch_up();
        state.batch = batch;
    }

    /// Returns when what was put is hashed.
    pub(super) fn catch_up(&self) {
        self.lock().catch_up();
    }

    /// The hasher after all that was put.
    pub(super) fn hasher(&self) -> Hasher {
        let mut state = self.lock();
        state.catch_up();
        state.hasher.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn catch_up(&mut self) {
        for bytes in mem::take(&mut self.batch) {
            self.hasher.update(&bytes);
        }
    }
}

/// Hashes the whole file and leaves its position at the end.
pub(super) fn rehash(mut file: &File, algorithm: Algorithm) -> io::Result<Hasher> {
    let mut hasher = Hasher::new(algorithm);
    file.seek(SeekFrom::Start(0))?;
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hasher),
            Ok(read) => hasher.update(&buffer[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::digest::Digest;

    #[test]
    fn all_is_hashed_once_and_in_order_whoever_does_it() {
        let hashing = Hashing::new(Hasher::new(Algorithm::Sha256));
        let mut whole = Vec::new();
        thread::scope(|scope| {
            for number in 0..=255_u8 {
                let batch = vec![Bytes::from(vec![number; 3000]), Bytes::from(vec![number ^ 1; 1])];
                whole.extend(batch.iter().flatten());
                hashing.put(batch);
                let other = hashing.clone();
                scope.spawn(move || other.catch_up());
                if number % 2 == 0 {
                    hashing.catch_up();
                }
            }
        });
        assert_eq!(hashing.hasher().finish(), Digest::sha256(&whole));
        assert_eq!(hashing.hasher().finish(), Digest::sha256(&whole), "asking changes nothing");
    }
}
