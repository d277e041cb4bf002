//! A limit on how long a client may take nothing of what is sent to it.

use std::{
    future::Future,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

/// A connection whose writing fails with `TimedOut` after a time in which it took nothing at all. Reading waits for as long as it likes.
#[derive(Debug)]
pub(super) struct WriteTimeout<IO> {
    io: IO,
    limit: Duration,
    /// There while the connection takes nothing.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<IO> WriteTimeout<IO> {
    pub(super) fn new(io: IO, limit: Duration) -> Self {
        Self { io, limit, stalled: None }
    }

    /// Passes on what came of writing, unless nothing comes of it for too long.
    fn watch<T>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let limit = self.limit;
        let timer = self.stalled.get_or_insert_with(|| Box::pin(sleep(limit)));
        timer.as_mut().poll(context).map(|()| {
            let message = format!("the client took nothing for {} s", limit.as_secs_f64());
            Err(io::Error::new(io::ErrorKind::TimedOut, message))
        })
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for WriteTimeout<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for WriteTimeout<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(context, bytes);
        self.watch(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(context, slices);
        self.watch(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.io).poll_flush(context);
        self.watch(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.io).poll_shutdown(context);
        self.watch(context, shut)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, duplex},
        time::Instant,
    };

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_is_given_up_and_who_is_slow_is_not() {
        let (near, mut far) = duplex(64);
        let mut near = WriteTimeout::new(near, LIMIT);
        let reader = tokio::spawn(async move {
            let mut taken = [0; 64];
            for _ in 0..5 {
                tokio::time::sleep(LIMIT * 9 / 10).await;
                far.read_exact(&mut taken).await.expect("reads");
            }
            (far, Instant::now())
        });
        // Six times what fits, of which the reader takes five.
        near.write_all(&[0; 6 * 64]).await.expect("slow and steady");
        let (mut far, stopped) = reader.await.expect("no panic");
        let error = near.write_all(&[0; 1]).await.expect_err("given up");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(stopped.elapsed().as_secs(), LIMIT.as_secs());
        // It is the silence that counts, whatever it was that came before.
        far.read_exact(&mut [0; 64]).await.expect("reads");
        near.write_all(&[0; 1]).await.expect("takes again");
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_to_read_is_no_stall() {
        let (near, mut far) = duplex(64);
        let mut near = WriteTimeout::new(near, LIMIT);
        let writer = tokio::spawn(async move {
            tokio::time::sleep(LIMIT * 5).await;
            far.write_all(b"x").await.expect("writes");
            far
        });
        near.read_exact(&mut [0]).await.expect("waits");
        drop(writer.await.expect("no panic"));
        near.write_all(b"x").await.expect_err("the other end is closed");
    }
}
