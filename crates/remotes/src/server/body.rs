//! The bodies of responses: nothing, bytes, or a stream from the store, counted for the access record.
//!
//! A stream is read when the connection asks for more, one chunk at a time. If the store fails in the middle, the connection is cut:
//! the client has the length and sees that it has less.

use std::{
    fmt, mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use wharf_content::{ByteStream, Error};

use super::access::Access;

/// What a response carries.
pub(super) enum Content {
    Empty,
    Whole(Bytes),
    Stream { stream: ByteStream, left: u64 },
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Content({} bytes left)", self.left())
    }
}

impl Content {
    fn left(&self) -> u64 {
        match self {
            Self::Empty => 0,
            Self::Whole(bytes) => bytes.len() as u64,
            Self::Stream { left, .. } => *left,
        }
    }
}

/// A body that tells the observer, when it is dropped, how much of it was taken.
pub(super) struct ResponseBody {
    content: Content,
    access: Access,
}

impl ResponseBody {
    pub(super) fn new(content: Content, access: Access) -> Self {
        Self { content, access }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let bytes = match &mut self.content {
            Content::Empty | Content::Stream { left: 0, .. } => return Poll::Ready(None),
            Content::Whole(bytes) => {
                let bytes = mem::take(bytes);
                self.content = Content::Empty;
                bytes
            }
            Content::Stream { stream, left } => match ready!(stream.as_mut().poll_next(context)) {
                Some(Ok(bytes)) if bytes.len() as u64 <= *left => {
                    *left -= bytes.len() as u64;
                    bytes
                }
                Some(Err(error)) => {
                    tracing::warn!(error = %error.report(), "a blob cannot be read to its end");
                    return Poll::Ready(Some(Err(error)));
                }
                Some(Ok(_)) | None => {
                    let error = Error::data_loss("a blob is not as long as it was when the answer began");
                    return Poll::Ready(Some(Err(error)));
                }
            },
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
