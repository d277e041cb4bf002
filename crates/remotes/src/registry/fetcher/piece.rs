//! One range of a content, fetched by a task of its own while those before it are taken.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use tokio::{sync::OwnedSemaphorePermit, task::JoinHandle};
use wharf_content::{Error, Result};

use super::{
    buffer::{self, Receiver, Sender},
    transfer::{Content, Transfer},
};
use crate::error::RemoteError;

/// Why a range does not come, or ends early.
#[derive(Debug)]
pub(super) enum Lost {
    /// It was not to be had as asked for; one stream may get what it did not.
    Refused(Error),
    /// It broke again and again.
    Broken(Error),
}

/// A range. The task ends when this is dropped.
#[derive(Debug)]
pub(super) struct Piece {
    range: Range<u64>,
    chunks: Receiver<Lost>,
    /// What was taken to see whether it comes.
    first: Option<Bytes>,
    task: JoinHandle<()>,
    connection: Option<OwnedSemaphorePermit>,
}

impl Piece {
    /// Begins to fetch a range over a connection of the registry's, or over the transfer's own.
    pub(super) fn start(
        content: &Arc<Content>,
        range: Range<u64>,
        connection: Option<OwnedSemaphorePermit>,
    ) -> Self {
        let (sender, chunks) = buffer::channel(content.client.settings().ranges.buffer.get());
        let task = tokio::spawn(run(Arc::clone(content), range.clone(), sender));
        Self { range, chunks, first: None, task, connection }
    }

    /// The offset of the next byte.
    pub(super) fn at(&self) -> u64 {
        self.range.start
    }

    /// Makes this the transfer's own connection, so that there may be another one beside it.
    pub(super) fn lead(mut self) -> Self {
        self.connection = None;
        self
    }

    /// Waits until the range comes.
    pub(super) async fn ready(&mut self) -> Result<(), Lost> {
        if self.first.is_none() {
            self.first = Some(self.receive().await?);
        }
        Ok(())
    }

    /// The next bytes; `None` at the end of the range.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Lost> {
        if self.range.is_empty() {
            return Ok(None);
        }
        let chunk = match self.first.take() {
            Some(chunk) => chunk,
            None => self.receive().await?,
        };
        self.range.start += chunk.len() as u64;
        Ok(Some(chunk))
    }

    async fn receive(&mut self) -> Result<Bytes, Lost> {
        let ended = || Err(Lost::Broken(Error::internal("the task that fetches a range ended early")));
        self.chunks.next().await.unwrap_or_else(ended)
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(content: Arc<Content>, range: Range<u64>, sender: Sender<Lost>) {
    let mut transfer = Transfer::range(Arc::clone(&content), &range);
    let ranges = content.client.ranges();
    if let Err(error) = transfer.open().await {
        if is_answer(&error) {
            ranges.refused();
        }
        // One stream is easier to get than several, whatever it was.
        return sender.fail(Lost::Refused(error));
    }
    ranges.worked();
    loop {
        match transfer.next(range.end).await {
            Ok(Some(chunk)) => {
                if !sender.send(chunk).await {
                    return;
                }
            }
            Ok(None) => return,
            Err(error) if is_answer(&error) => {
                ranges.refused();
                return sender.fail(Lost::Refused(error));
            }
            Err(error) => return sender.fail(Lost::Broken(error)),
        }
    }
}

/// Whether a registry answered with something else than the range, and would again. What is not there, or not allowed, says nothing of
/// ranges.
fn is_answer(error: &Error) -> bool {
    RemoteError::of(error).is_some_and(|failed| matches!(failed.status, Some(200..=299 | 400 | 416 | 501)))
}
