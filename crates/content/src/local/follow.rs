//! Reading an ingest while it is written: as far as whole batches are in the file, and waiting for the rest.
//!
//! ```text
//! |== written: can be read ==|-- gathered --|   not there yet   |
//!                            ^ the mark, which only grows; another file, or one that was truncated, has another mark
//! ```

use std::{fs::File, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;

use crate::{
    error::{Error, ErrorKind, Result},
    store::BlobReader,
};

use super::blob;

/// How far an ingest is.
#[derive(Clone, Copy, Debug)]
enum Reach {
    /// So many bytes are in the file.
    Written(u64),
    /// All of them, and they are what they should be.
    Verified,
    /// They were thrown away or given up, and the file may have others by now.
    Gone,
}

/// Tells how far an ingest is. Dropped before it was verified, it ends all reading.
#[derive(Debug)]
pub(super) struct Mark(watch::Sender<Reach>);

impl Mark {
    pub(super) fn starting_at(offset: u64) -> Self {
        Self(watch::Sender::new(Reach::Written(offset)))
    }

    /// So many bytes are in the file now.
    pub(super) fn written(&self, end: u64) {
        self.0.send_replace(Reach::Written(end));
    }

    /// All of it is there and verified.
    pub(super) fn verified(&self) {
        self.0.send_replace(Reach::Verified);
    }

    /// What is needed to read along.
    pub(super) fn following(&self, file: &Arc<File>) -> Following {
        Following { file: Arc::clone(file), reach: self.0.subscribe() }
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        self.0.send_if_modified(|reach| {
            let ends = !matches!(reach, Reach::Verified);
            if ends {
                *reach = Reach::Gone;
            }
            ends
        });
    }
}

/// A file that is being written.
#[derive(Clone, Debug)]
pub(super) struct Following {
    file: Arc<File>,
    reach: watch::Receiver<Reach>,
}

impl Following {
    /// Reads it as what it will be when it is complete.
    pub(super) fn reader(&self, size: u64, reference: &str) -> Followed {
        Followed { following: self.clone(), size, reference: reference.to_owned() }
    }
}

/// Reads an ingest.
#[derive(Debug)]
pub(super) struct Followed {
    following: Following,
    size: u64,
    reference: String,
}

#[async_trait]
impl BlobReader for Followed {
    fn size(&self) -> u64 {
        self.size
    }

    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        let end = offset.saturating_add(len as u64).min(self.size);
        let len = usize::try_from(end.saturating_sub(offset)).unwrap_or(usize::MAX);
        if len == 0 {
            return Ok(Bytes::new());
        }
        let mut reach = self.following.reach.clone();
        let is_there = |reach: &Reach| match reach {
            Reach::Verified | Reach::Gone => true,
            Reach::Written(written) => *written >= end,
        };
        // One that has no mark any more has said before what became of it.
        let _ = reach.wait_for(is_there).await;
        let (file, reference) = (Arc::clone(&self.following.file), self.reference.clone());
        let read = blob::read(file, offset, len, move || format!("cannot read ingest {reference:?}")).await;
        // Asked afterwards: what was read before it went is what was there, and what was read after it is told apart by this.
        if matches!(*reach.borrow(), Reach::Gone) {
            return Err(Error::new(
                ErrorKind::Aborted,
                format!("ingest {:?} is read while it is written, and ended or began anew", self.reference),
            ));
        }
        read
    }
}
