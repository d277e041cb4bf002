//! Blobs from their files into the socket, within the kernel (`sendfile(2)`), under an HTTP library that sends bytes from memory.
//!
//! The body of a response hands a part of a file over to the [`Lane`] of its connection and gets a stand-in for it: as many bytes that
//! nobody reads or writes, and that have no memory. The library puts them behind the head of the response and passes them on to the
//! [`Socket`], which knows them by their address and sends the part of the file in their place:
//!
//! ```text
//! body ──stand-in──> HTTP library ──head, stand-in──> Socket ──head──> TCP
//!   └─────part of a file────> Lane ──part of a file─────┘└─sendfile──> TCP
//! ```
//!
//! A stand-in must never go out itself. It does not where the library passes on the slice that it was given, which it does as long as
//! the socket takes several slices at once; where it copies, or leaves something out, the slices are not those that the lane expects,
//! and the connection ends with an error before anything of it was sent.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, IoSlice},
    os::unix::fs::FileExt,
    pin::Pin,
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
};
use wharf_content::BlobReader;

/// The most bytes of a file that are handed over at a time.
pub(super) const PART_LEN: usize = 1024 * 1024;

/// How many bytes are read at a time from a file that the kernel cannot send.
const COPY_LEN: usize = 64 * 1024;

/// How many stand-ins follow each other before one has the address of an earlier one again.
const PLACES: usize = 256;

/// What stand-ins are cut from: zeroed by the system when it is touched, and it is not.
static STAND_IN: LazyLock<Bytes> = LazyLock::new(|| Bytes::from(vec![0; PART_LEN + PLACES]));

/// What is to be sent from files on one connection, in order.
#[derive(Clone, Debug, Default)]
pub(super) struct Lane(Arc<Mutex<Parts>>);

#[derive(Debug, Default)]
struct Parts {
    waiting: VecDeque<Part>,
    /// How many there were.
    count: usize,
}

/// A part of a file, of which some may have been sent.
#[derive(Debug)]
struct Part {
    reader: Arc<dyn BlobReader>,
    offset: u64,
    stand_in: Bytes,
}

impl Lane {
    /// Has `len` bytes from `offset` of the reader's file sent in place of the bytes that it gives, which are not to be looked at.
    ///
    /// # Panics
    /// When `len` is more than [`PART_LEN`].
    pub(super) fn hand_over(&self, reader: Arc<dyn BlobReader>, offset: u64, len: usize) -> Bytes {
        let mut parts = self.parts();
        // Each at another address than the one before, so that one cannot be taken for the other.
        let start = parts.count % PLACES;
        parts.count = parts.count.wrapping_add(1);
        let stand_in = STAND_IN.slice(start..start + len);
        parts.waiting.push_back(Part { reader, offset, stand_in: stand_in.clone() });
        stand_in
    }

    fn parts(&self) -> MutexGuard<'_, Parts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that sends what was handed over to its lane.
#[derive(Debug)]
pub(super) struct Socket {
    stream: TcpStream,
    lane: Lane,
}

impl Socket {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self { stream, lane: Lane::default() }
    }

    /// What it sends files from; nothing where the system does not send any itself.
    pub(super) fn lane(&self) -> Option<Lane> {
        cfg!(target_os = "linux").then(|| self.lane.clone())
    }

    /// Sends as much of `part` as the socket takes at once.
    fn poll_send(stream: &TcpStream, part: &mut Part, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let file = part.reader.file().ok_or_else(|| mixed_up("a blob has lost its file"))?;
        loop {
            ready!(stream.poll_write_ready(context))?;
            let sent =
                stream.try_io(Interest::WRITABLE, || send(stream, file, part.offset, part.stand_in.len()));
            match sent {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) => {
                    let error = "the file of a blob is shorter than it was";
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, error)));
                }
                Ok(sent) => {
                    part.offset += sent as u64;
                    part.stand_in = part.stand_in.slice(sent..);
                    return Poll::Ready(Ok(sent));
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

#[cfg(target_os = "linux")]
fn send(stream: &TcpStream, file: &File, offset: u64, len: usize) -> io::Result<usize> {
    use rustix::io::Errno;

    let mut at = offset;
    match rustix::fs::sendfile(stream, file, Some(&mut at), len) {
        // A file system that cannot, or a sandbox that knows no such call.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => copy(stream, file, offset, len),
        sent => Ok(sent?),
    }
}

/// There is no lane here, so that this is not called.
#[cfg(not(target_os = "linux"))]
fn send(stream: &TcpStream, file: &File, offset: u64, len: usize) -> io::Result<usize> {
    copy(stream, file, offset, len)
}

/// What [`send`] does, through memory.
fn copy(stream: &TcpStream, file: &File, offset: u64, len: usize) -> io::Result<usize> {
    let mut buffer = vec![0; len.min(COPY_LEN)];
    let read = file.read_at(&mut buffer, offset)?;
    if read == 0 { Ok(0) } else { rustix::io::write(stream, &buffer[..read]).map_err(io::Error::from) }
}

fn is_stand_in(slice: &[u8]) -> bool {
    !slice.is_empty() && STAND_IN.as_ptr_range().contains(&slice.as_ptr())
}

fn mixed_up(what: &'static str) -> io::Error {
    io::Error::other(what)
}

impl AsyncWrite for Socket {
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Self { stream, lane } = self.get_mut();
        let mut parts = lane.parts();
        let first = slices.iter().position(|slice| is_stand_in(slice));
        let (at, part) = match (first, parts.waiting.front_mut()) {
            (None, None) => return Pin::new(stream).poll_write_vectored(context, slices),
            (Some(at), Some(part)) => (at, part),
            (Some(_), None) => return Poll::Ready(Err(mixed_up("there is no file for what is to be sent"))),
            (None, Some(_)) => return Poll::Ready(Err(mixed_up("a part of a file was left out"))),
        };
        let (found, expected) = (&slices[at], &part.stand_in);
        if found.as_ptr_range() != expected.as_ptr_range() {
            return Poll::Ready(Err(mixed_up("another part of a file is to be sent first")));
        }
        if slices[..at].iter().any(|slice| !slice.is_empty()) {
            return Pin::new(stream).poll_write_vectored(context, &slices[..at]);
        }
        let sent = ready!(Self::poll_send(stream, part, context))?;
        if part.stand_in.is_empty() {
            parts.waiting.pop_front();
        }
        Poll::Ready(Ok(sent))
    }

    /// What comes alone was put together from several slices, and may have a stand-in in it.
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, io::Write};

    use async_trait::async_trait;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };
    use wharf_content::{Error, Result};

    use super::*;

    #[derive(Debug)]
    struct OnlyAFile(File);

    #[async_trait]
    impl BlobReader for OnlyAFile {
        fn size(&self) -> u64 {
            0
        }

        async fn read_at(&self, _: u64, _: usize) -> Result<Bytes> {
            Err(Error::internal("read"))
        }

        fn file(&self) -> Option<&File> {
            Some(&self.0)
        }
    }

    fn reader(bytes: &[u8]) -> Arc<dyn BlobReader> {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(bytes).expect("written");
        Arc::new(OnlyAFile(file))
    }

    async fn connect() -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let client = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("connects");
        (Socket::new(listener.accept().await.expect("accepts").0), client)
    }

    async fn write(socket: &mut Socket, slices: &[&[u8]]) -> io::Result<usize> {
        let slices: Vec<_> = slices.iter().map(|slice| IoSlice::new(slice)).collect();
        poll_fn(|context| Pin::new(&mut *socket).poll_write_vectored(context, &slices)).await
    }

    async fn received(socket: Socket, mut client: TcpStream) -> Vec<u8> {
        drop(socket);
        let mut found = Vec::new();
        client.read_to_end(&mut found).await.expect("received");
        found
    }

    #[tokio::test]
    async fn heads_and_files_go_out_in_order() {
        let (mut socket, client) = connect().await;
        let first = socket.lane.hand_over(reader(b"0123456789"), 2, 5);
        let second = socket.lane.hand_over(reader(b"abcdef"), 0, 6);
        assert_eq!(write(&mut socket, &[b"head ", &first, &second]).await.expect("sent"), 5);
        assert_eq!(write(&mut socket, &[&[], &first, &second]).await.expect("sent"), 5);
        assert_eq!(write(&mut socket, &[&second]).await.expect("sent"), 6);
        socket.write_all(b" end").await.expect("sent");
        assert_eq!(received(socket, client).await, b"head 23456abcdef end");
    }

    #[tokio::test]
    async fn no_stand_in_goes_out() {
        let file = reader(b"0123456789");
        let hand_over = |socket: &Socket| socket.lane.hand_over(Arc::clone(&file), 0, 5);
        // Copied together with a head, or alone.
        for copied in [&b"head\0\0\0\0\0"[..], &[0; 5]] {
            let (mut socket, client) = connect().await;
            hand_over(&socket);
            assert!(socket.write(copied).await.is_err());
            assert!(write(&mut socket, &[copied, b"more"]).await.is_err());
            assert_eq!(received(socket, client).await, b"");
        }
        // One that was left out before it, in part or as a whole; one that is longer than what was handed over.
        let (mut socket, client) = connect().await;
        let (first, second) = (hand_over(&socket), hand_over(&socket));
        assert!(write(&mut socket, &[b"head", &second]).await.is_err());
        assert!(write(&mut socket, &[&first[1..]]).await.is_err());
        assert!(write(&mut socket, &[&first[..4]]).await.is_err());
        assert!(write(&mut socket, &[&STAND_IN[..6]]).await.is_err());
        assert_eq!(received(socket, client).await, b"");
        // One of nobody's.
        let (mut socket, client) = connect().await;
        assert!(write(&mut socket, &[b"head", &first]).await.is_err());
        assert!(socket.write(&first).await.is_err());
        assert_eq!(received(socket, client).await, b"");
    }

    #[tokio::test]
    async fn a_file_that_has_ended_is_an_error() {
        let (mut socket, _client) = connect().await;
        let part = socket.lane.hand_over(reader(b"0123456789"), 10, 5);
        let error = write(&mut socket, &[&part]).await.expect_err("there is nothing");
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn what_the_kernel_does_not_send_is_copied() {
        let (socket, client) = connect().await;
        let reader = reader(b"0123456789");
        let file = reader.file().expect("a file");
        assert_eq!(copy(&socket.stream, file, 3, 4).expect("sent"), 4);
        assert_eq!(copy(&socket.stream, file, 10, 4).expect("nothing is left"), 0);
        assert_eq!(received(socket, client).await, b"3456");
    }
}
