//! A content from an offset to its end: one stream, or ranges that come at once and are given out in order.
//!
//! It begins with one plain request. Where that stream is slow (`pace.rs`), ranges further on are asked for beside it, each by a task of
//! its own (`piece.rs`); the stream goes on until it is where they begin. Until the first of them has come nothing is given up, so
//! that a registry that knows no ranges costs a request and no more.
//!
//! ```text
//! |== taken ==|-- head, read now --|-- ahead --|-- ahead --|-- ahead --|   not asked for yet   |
//! ```

use std::{collections::VecDeque, num::NonZeroU64, sync::Arc};

use bytes::Bytes;
use futures_util::stream;
use tokio::time::{Instant, sleep};
use wharf_content::{ByteStream, Result};

use super::{
    pace::Pace,
    piece::{Lost, Piece},
    support::Support,
    transfer::{Content, Transfer},
};
use crate::registry::range_options::Split;

/// A content that is read, and how far.
#[derive(Debug)]
pub(super) struct Reader {
    head: Head,
    ahead: Ahead,
    /// As long as the one stream can still turn out to be slow.
    pace: Option<Pace>,
}

/// What is read now.
#[derive(Debug)]
enum Head {
    Stream(Box<Transfer>),
    Piece(Piece),
}

impl Head {
    fn stream(content: &Arc<Content>, at: u64) -> Self {
        Self::Stream(Box::new(Transfer::rest(Arc::clone(content), at)))
    }

    fn at(&self) -> u64 {
        match self {
            Self::Stream(transfer) => transfer.at(),
            Self::Piece(piece) => piece.at(),
        }
    }
}

/// What is fetched beside the head.
#[derive(Debug)]
struct Ahead {
    content: Arc<Content>,
    /// In order, without a gap.
    pieces: VecDeque<Piece>,
    /// Where the first piece begins that is not asked for yet.
    next: u64,
    /// How long the pieces are; `None` where there are to be none.
    len: Option<NonZeroU64>,
}

impl Reader {
    /// Begins at `at`, and waits until the registry has answered.
    ///
    /// # Errors
    /// As [`Transfer::open`].
    pub(super) async fn open(content: Arc<Content>, at: u64) -> Result<Self> {
        let options = &content.client.settings().ranges;
        let known = content.client.ranges().support();
        let splits = !content.is_manifest && known != Support::No;
        let mut ahead = Ahead { content: Arc::clone(&content), pieces: VecDeque::new(), next: at, len: None };
        if let Split::Always(len) = options.split
            && splits
            && content.descriptor.size > len.get()
            && content.descriptor.size - at > len.get()
        {
            ahead.len = Some(len);
            let mut piece = ahead.start_own();
            match piece.ready().await {
                Ok(()) => return Ok(Self { head: Head::Piece(piece), ahead, pace: None }),
                Err(Lost::Refused(error) | Lost::Broken(error)) => ahead.give_up(&error),
            }
        }
        let mut transfer = Transfer::rest(Arc::clone(&content), at);
        transfer.open().await?;
        let may_be_slow =
            splits && options.split == Split::WhenSlow && content.descriptor.size > options.threshold;
        let pace = may_be_slow.then(|| Pace::new(options.slow_rate, options.slow_window));
        Ok(Self { head: Head::Stream(Box::new(transfer)), ahead, pace })
    }

    /// The bytes.
    pub(super) fn into_stream(self) -> ByteStream {
        Box::pin(stream::unfold(Some(self), |state| async move {
            let mut reader = state?;
            match reader.next().await {
                Ok(Some(chunk)) => Some((Ok(chunk), Some(reader))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        }))
    }

    async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            self.ahead.extend(matches!(self.head, Head::Piece(_)));
            match &mut self.head {
                Head::Stream(transfer) => match self.ahead.pieces.front_mut() {
                    // The stream is kept until it is certain that there is something to go on with.
                    Some(piece) if piece.at() == transfer.at() => match piece.ready().await {
                        Ok(()) => self.advance(),
                        Err(Lost::Refused(error) | Lost::Broken(error)) => self.ahead.give_up(&error),
                    },
                    _ => return read(transfer, &mut self.pace, &mut self.ahead).await,
                },
                Head::Piece(piece) => match piece.next().await {
                    Ok(Some(chunk)) => return Ok(Some(chunk)),
                    Ok(None) if self.head.at() >= self.ahead.content.descriptor.size => return Ok(None),
                    Ok(None) => self.advance(),
                    Err(Lost::Refused(error)) => {
                        self.ahead.give_up(&error);
                        self.head = Head::stream(&self.ahead.content, self.head.at());
                    }
                    Err(Lost::Broken(error)) => return Err(error),
                },
            }
        }
    }

    /// Goes on with the next piece, asked for already or not, or with one stream where there are to be no pieces.
    fn advance(&mut self) {
        self.head = match self.ahead.pieces.pop_front() {
            Some(piece) => Head::Piece(piece.lead()),
            None if self.ahead.len.is_some() => Head::Piece(self.ahead.start_own()),
            None => Head::stream(&self.ahead.content, self.head.at()),
        };
    }
}

/// Reads from the one stream, up to where the pieces begin, and has them fetched once it is slow.
async fn read(transfer: &mut Transfer, pace: &mut Option<Pace>, ahead: &mut Ahead) -> Result<Option<Bytes>> {
    let at = transfer.at();
    let stop = ahead.pieces.front().map_or(u64::MAX, Piece::at);
    let Some(judge) = pace else { return transfer.next(stop).await };
    let mut began = Instant::now();
    // A stream that is silent is judged too. It is not dropped for that: it may be opening a connection.
    let mut reading = std::pin::pin!(transfer.next(stop));
    let mut is_slow = false;
    let outcome = loop {
        tokio::select! {
            biased;
            outcome = &mut reading => break outcome,
            () = sleep(judge.left()), if !is_slow => {
                is_slow = judge.note(0, began.elapsed());
                began = Instant::now();
                if is_slow {
                    ahead.begin(at);
                }
            }
        }
    };
    let count = outcome.as_ref().map_or(0, |chunk| chunk.as_ref().map_or(0, Bytes::len)) as u64;
    if !is_slow && judge.note(count, began.elapsed()) {
        is_slow = true;
        ahead.begin(at + count);
    }
    if is_slow {
        *pace = None;
    }
    outcome
}

impl Ahead {
    /// From here on there are pieces, behind one that the stream at `at` still brings itself.
    fn begin(&mut self, at: u64) {
        let len = self.content.client.settings().ranges.len;
        self.next = at.saturating_add(len.get());
        // What the stream brings itself before anything else can come needs no pieces.
        if self.next < self.content.descriptor.size {
            tracing::debug!(path = self.content.path, at, "the stream is slow: ranges are fetched beside it");
            self.len = Some(len);
            self.extend(false);
        }
    }

    /// Asks for as many pieces as there are connections for: one only, until it is known that the registry gives exactly what it is asked for.
    fn extend(&mut self, head_is_piece: bool) {
        let Some(len) = self.len else { return };
        let ranges = self.content.client.ranges();
        while self.next < self.content.descriptor.size {
            match ranges.support() {
                Support::No => {
                    self.pieces.clear();
                    self.len = None;
                    return;
                }
                Support::Unknown if head_is_piece || !self.pieces.is_empty() => return,
                Support::Unknown | Support::Yes => {}
            }
            let Some(connection) = ranges.connection() else { return };
            let range = self.next..self.next.saturating_add(len.get()).min(self.content.descriptor.size);
            self.next = range.end;
            self.pieces.push_back(Piece::start(&self.content, range, Some(connection)));
        }
    }

    /// Starts the next piece over the transfer's own connection. There must be one.
    fn start_own(&mut self) -> Piece {
        let len = self.len.map_or(u64::MAX, NonZeroU64::get);
        let range = self.next..self.next.saturating_add(len).min(self.content.descriptor.size);
        self.next = range.end;
        Piece::start(&self.content, range, None)
    }

    /// From here on there is one stream.
    fn give_up(&mut self, error: &wharf_content::Error) {
        tracing::debug!(path = self.content.path, error = %error.report(), "no ranges: one stream goes on");
        self.pieces.clear();
        self.len = None;
    }
}
