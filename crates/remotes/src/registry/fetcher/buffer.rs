//! A channel of chunks that holds so many bytes and no more.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// Makes a channel that holds at most `limit` bytes, or one chunk where that is longer.
pub(super) fn channel<E>(limit: usize) -> (Sender<E>, Receiver<E>) {
    let limit = u32::try_from(limit.min(Semaphore::MAX_PERMITS)).unwrap_or(u32::MAX).max(1);
    let free = Arc::new(Semaphore::new(limit as usize));
    let (sender, receiver) = mpsc::unbounded_channel();
    (Sender { messages: sender, free, limit }, Receiver { messages: receiver })
}

type Message<E> = (Result<Bytes, E>, Option<OwnedSemaphorePermit>);

#[derive(Debug)]
pub(super) struct Sender<E> {
    messages: mpsc::UnboundedSender<Message<E>>,
    free: Arc<Semaphore>,
    limit: u32,
}

#[derive(Debug)]
pub(super) struct Receiver<E> {
    messages: mpsc::UnboundedReceiver<Message<E>>,
}

impl<E> Sender<E> {
    /// Waits until there is room, and puts a chunk in. `false` where nobody takes it any more.
    pub(super) async fn send(&self, chunk: Bytes) -> bool {
        let len = u32::try_from(chunk.len()).unwrap_or(u32::MAX).min(self.limit);
        let room = tokio::select! {
            room = Arc::clone(&self.free).acquire_many_owned(len) => room.ok(),
            () = self.messages.closed() => None,
        };
        room.is_some() && self.messages.send((Ok(chunk), room)).is_ok()
    }

    /// Ends with an error, for which there is always room.
    pub(super) fn fail(self, error: E) {
        // Nobody waits for it where this fails.
        drop(self.messages.send((Err(error), None)));
    }
}

impl<E> Receiver<E> {
    /// Takes the next chunk out, which makes room for another one; `None` when the sender has gone.
    pub(super) async fn next(&mut self) -> Option<Result<Bytes, E>> {
        self.messages.recv().await.map(|(message, _room)| message)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn what_does_not_fit_waits_until_it_does() {
        let (sender, mut receiver) = channel::<()>(10);
        let chunk = |len: usize| Bytes::from(vec![1; len]);
        assert_eq!(sender.send(chunk(6)).now_or_never(), Some(true));
        assert_eq!(sender.send(chunk(4)).now_or_never(), Some(true));
        assert_eq!(sender.send(chunk(1)).now_or_never(), None, "ten bytes are in it");
        assert_eq!(receiver.next().await, Some(Ok(chunk(6))));
        assert_eq!(sender.send(chunk(7)).now_or_never(), None);
        assert_eq!(sender.send(chunk(6)).now_or_never(), Some(true));
    }

    #[tokio::test]
    async fn one_long_chunk_fits_when_there_is_nothing_else() {
        let (sender, mut receiver) = channel::<()>(10);
        let long = Bytes::from(vec![1; 11]);
        assert_eq!(sender.send(long.clone()).now_or_never(), Some(true));
        assert_eq!(sender.send(long.clone()).now_or_never(), None);
        assert_eq!(receiver.next().await, Some(Ok(long)));
    }

    #[tokio::test]
    async fn errors_need_no_room_and_who_has_gone_is_not_waited_for() {
        let (sender, mut receiver) = channel(1);
        assert!(sender.send(Bytes::from_static(b"x")).await);
        sender.fail("broken");
        assert_eq!(receiver.next().await, Some(Ok(Bytes::from_static(b"x"))));
        assert_eq!(receiver.next().await, Some(Err("broken")));
        assert_eq!(receiver.next().await, None);

        let (sender, receiver) = channel::<()>(1);
        assert!(sender.send(Bytes::from_static(b"x")).await);
        drop(receiver);
        assert!(!sender.send(Bytes::from_static(b"y")).await);
    }
}
