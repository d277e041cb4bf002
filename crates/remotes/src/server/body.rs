//! The bodies of responses: nothing, bytes, a file of the store or a stream from it, counted for the access record.
//!
//! A stream is read when the connection asks for more, one chunk at a time. A file is handed over to a connection that sends files, and is a
//! stream to any other. If the store fails in the middle, the connection is cut: the client has the length and sees that it has less.

use std::{
    fmt,
    future::Future,
    io, mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::task::{self, JoinHandle};
use wharf_content::{BlobReader, ByteStream, Error, reading::stream_range};

use super::{
    access::Access,
    page_cache,
    sendfile::{Lane, PART_LEN},
};

/// The longest content that is read at once where it is in memory, in bytes: it goes out together with the head.
const SMALL_LEN: usize = 64 * 1024;

/// How many bytes of a file are looked after at a time before they are sent.
const WINDOW_LEN: usize = 4 * PART_LEN;

/// What a response carries.
pub(super) enum Content {
    Empty,
    Whole(Bytes),
    Stream { stream: ByteStream, left: u64 },
    File(Extent),
}

/// A part of a blob that is a file.
pub(super) struct Extent {
    reader: Arc<dyn BlobReader>,
    at: u64,
    left: u64,
    /// Up to here it was in memory a moment ago.
    resident: u64,
    fetching: Option<JoinHandle<io::Result<()>>>,
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Content({} bytes left)", self.left())
    }
}

impl Content {
    /// A part of a blob, which is read when it is sent.
    pub(super) fn of_blob(reader: Arc<dyn BlobReader>, offset: u64, len: u64) -> Self {
        if reader.file().is_some() {
            Self::File(Extent { reader, at: offset, left: len, resident: offset, fetching: None })
        } else {
            Self::Stream { stream: stream_range(reader, offset, len), left: len }
        }
    }

    /// A file as what is read bit by bit.
    fn into_stream(self) -> Self {
        match self {
            Self::File(Extent { reader, at, left, .. }) => {
                Self::Stream { stream: stream_range(reader, at, left), left }
            }
            other => other,
        }
    }

    fn left(&self) -> u64 {
        match self {
            Self::Empty => 0,
            Self::Whole(bytes) => bytes.len() as u64,
            Self::Stream { left, .. } | Self::File(Extent { left, .. }) => *left,
        }
    }
}

impl Extent {
    /// All of it, where it is small and in memory.
    fn read_resident(&self) -> Option<Bytes> {
        let len = usize::try_from(self.left).ok().filter(|len| *len <= SMALL_LEN)?;
        page_cache::read_resident(self.reader.file()?, self.at, len)
    }

    /// Hands the next part over, once it is in memory: the connection must not wait for a disk.
    fn poll_hand_over(&mut self, lane: &Lane, context: &mut Context<'_>) -> Poll<Result<Bytes, Error>> {
        let cut = |len: usize| usize::try_from(self.left).unwrap_or(len).min(len);
        let (len, window) = (cut(PART_LEN), cut(WINDOW_LEN));
        while self.at + len as u64 > self.resident {
            if let Some(fetching) = &mut self.fetching {
                let fetched = ready!(Pin::new(fetching).poll(context)).map_err(io::Error::from).flatten();
                self.fetching = None;
                fetched.map_err(|error| Error::io("cannot read a blob", error))?;
            } else if !self.reader.file().is_some_and(|file| page_cache::is_resident(file, self.at, window)) {
                let (reader, at) = (Arc::clone(&self.reader), self.at);
                self.fetching = Some(task::spawn_blocking(move || match reader.file() {
                    Some(file) => page_cache::fetch(file, at, window),
                    None => Ok(()),
                }));
                continue;
            }
            self.resident = self.at + window as u64;
        }
        let stand_in = lane.hand_over(Arc::clone(&self.reader), self.at, len);
        self.at += len as u64;
        self.left -= len as u64;
        Poll::Ready(Ok(stand_in))
    }
}

/// A body that tells the observer, when it is dropped, how much of it was taken.
pub(super) struct ResponseBody {
    content: Content,
    access: Access,
    lane: Option<Lane>,
}

impl ResponseBody {
    /// The body of a response on a connection that has this lane.
    pub(super) fn new(content: Content, access: Access, lane: Option<Lane>) -> Self {
        Self { content, access, lane }
    }

    /// The next bytes; none at the end.
    fn poll_bytes(&mut self, context: &mut Context<'_>) -> Poll<Result<Bytes, Error>> {
        loop {
            match &mut self.content {
                Content::Empty | Content::Stream { left: 0, .. } | Content::File(Extent { left: 0, .. }) => {
                    return Poll::Ready(Ok(Bytes::new()));
                }
                Content::Whole(bytes) => {
                    let bytes = mem::take(bytes);
                    self.content = Content::Empty;
                    return Poll::Ready(Ok(bytes));
                }
                Content::Stream { stream, left } => {
                    let bytes = ready!(stream.as_mut().poll_next(context)).transpose()?;
                    return Poll::Ready(match bytes {
                        Some(bytes) if bytes.len() as u64 <= *left => {
                            *left -= bytes.len() as u64;
                            Ok(bytes)
                        }
                        _ => Err(Error::data_loss("a blob is not as long as it was when the answer began")),
                    });
                }
                Content::File(extent) => match (extent.read_resident(), &self.lane) {
                    (Some(bytes), _) => {
                        self.content = Content::Empty;
                        return Poll::Ready(Ok(bytes));
                    }
                    (None, Some(lane)) if extent.left > SMALL_LEN as u64 => {
                        return extent.poll_hand_over(lane, context);
                    }
                    (None, _) => self.content = mem::replace(&mut self.content, Content::Empty).into_stream(),
                },
            }
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let bytes = match ready!(self.poll_bytes(context)) {
            Ok(bytes) => bytes,
            Err(error) => {
                tracing::warn!(error = %error.report(), "a blob cannot be read to its end");
                return Poll::Ready(Some(Err(error)));
            }
        };
        if bytes.is_empty() {
            return Poll::Ready(None);
        }
        self.access.sent(bytes.len() as u64);
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.content.left() == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.content.left())
    }
}
