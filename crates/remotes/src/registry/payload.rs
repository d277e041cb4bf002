//! What is sent with a request: a part of a source, opened anew each time that the request is sent, and watched while it flows.
//!
//! The bytes are neither held nor looked at. Its length is announced, since registries and the storage behind them want to know it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use reqwest::Body;
use wharf_content::{ByteStream, Error, Result, copying::Source};

/// How many times longer than between two pieces of a body a registry may be silent after the last one: it has to store and hash it.
const ANSWER_FACTOR: u32 = 10;

/// Some bytes of a source.
#[derive(Clone, Debug)]
pub(super) struct Payload {
    source: Arc<dyn Source>,
    first: u64,
    len: u64,
    media_type: String,
    is_chunk: bool,
    flow: Arc<Mutex<Flow>>,
}

/// What became of the body that was opened last.
#[derive(Debug)]
struct Flow {
    left: u64,
    moved_at: Instant,
    error: Option<Error>,
}

impl Payload {
    /// The whole of a source of `len` bytes.
    pub(super) fn whole(source: Arc<dyn Source>, len: u64, media_type: impl Into<String>) -> Self {
        let flow = Flow { left: len, moved_at: Instant::now(), error: None };
        let (media_type, flow) = (media_type.into(), Arc::new(Mutex::new(flow)));
        Self { source, first: 0, len, media_type, is_chunk: false, flow }
    }

    /// `len` bytes of a blob from `first` on, and told to be these.
    pub(super) fn chunk(source: Arc<dyn Source>, first: u64, len: u64) -> Self {
        Self { first, is_chunk: true, ..Self::whole(source, len, "application/octet-stream") }
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn media_type(&self) -> &str {
        &self.media_type
    }

    /// The `Content-Range` of a chunk, in the form of the distribution specification: without unit and total.
    pub(super) fn range(&self) -> Option<String> {
        (self.is_chunk && self.len > 0).then(|| format!("{}-{}", self.first, self.first + self.len - 1))
    }

    fn flow(&self) -> std::sync::MutexGuard<'_, Flow> {
        self.flow.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the bytes from their start.
    pub(super) async fn open(&self) -> Result<Body> {
        *self.flow() = Flow { left: self.len, moved_at: Instant::now(), error: None };
        if self.len == 0 {
            return Ok(Body::from(Bytes::new()));
        }
        let opened = self.source.open(self.first).await?;
        let body = stream::unfold(Some((self.clone(), opened)), |state| async move {
            let (payload, mut opened) = state?;
            let next = payload.next(&mut opened).await?;
            let rest = next.is_ok().then_some((payload, opened));
            Some((next, rest))
        });
        Ok(Body::wrap_stream(body))
    }

    /// The next piece; `None` after the last. What is wrong with the source is kept, as the client only says that the body broke.
    async fn next(&self, opened: &mut ByteStream) -> Option<Result<Bytes, &'static str>> {
        let left = self.flow().left;
        if left == 0 {
            return None;
        }
        let next = opened.next().await.unwrap_or_else(|| {
            Err(Error::data_loss(format!("content ended {left} bytes before its end: it was cut short")))
        });
        let mut flow = self.flow();
        flow.moved_at = Instant::now();
        match next {
            Ok(mut bytes) => {
                bytes.truncate(usize::try_from(left).unwrap_or(usize::MAX));
                flow.left -= bytes.len() as u64;
                drop(flow);
                self.source.taken(&bytes);
                Some(Ok(bytes))
            }
            Err(error) => {
                flow.error = Some(error);
                Some(Err("the content cannot be read"))
            }
        }
    }

    /// What was wrong with the source, told once.
    pub(super) fn take_error(&self) -> Option<Error> {
        self.flow().error.take()
    }

    /// Ends when the registry has taken nothing for so long; after the last byte it has more time for its answer.
    pub(super) async fn stalled(&self, idle: Duration) {
        loop {
            let since = {
                let flow = self.flow();
                let patience = if flow.left == 0 { idle.saturating_mul(ANSWER_FACTOR) } else { idle };
                patience.checked_sub(flow.moved_at.elapsed())
            };
            let Some(left) = since else { return };
            // A little more, so that the clock has moved past it.
            tokio::time::sleep(left.saturating_add(Duration::from_millis(1))).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(first: u64, len: u64) -> Payload {
        Payload::chunk(Arc::new(Bytes::from_static(b"0123456789")), first, len)
    }

    async fn gathered(payload: &Payload) -> Result<Vec<u8>, &'static str> {
        let mut opened = payload.source.open(payload.first).await.expect("opens");
        *payload.flow() = Flow { left: payload.len, moved_at: Instant::now(), error: None };
        let mut all = Vec::new();
        while let Some(bytes) = payload.next(&mut opened).await {
            all.extend_from_slice(&bytes?);
        }
        Ok(all)
    }

    #[tokio::test]
    async fn chunks_are_exactly_their_bytes() {
        for (first, len, expected, range) in
            [(0, 10, "0123456789", Some("0-9")), (3, 4, "3456", Some("3-6")), (10, 0, "", None)]
        {
            let payload = payload(first, len);
            assert_eq!(gathered(&payload).await.expect("reads"), expected.as_bytes());
            assert_eq!(payload.range().as_deref(), range);
            assert!(payload.take_error().is_none());
        }
        let short = payload(8, 4);
        gathered(&short).await.expect_err("there are two bytes only");
        assert!(short.take_error().expect("kept").to_string().contains("2 bytes before its end"));
    }

    #[tokio::test]
    async fn silence_is_noticed() {
        let payload = payload(0, 10);
        payload.stalled(Duration::ZERO).await;
        payload.flow().left = 0;
        payload.flow().moved_at = Instant::now();
        let answer = tokio::time::timeout(Duration::from_millis(20), payload.stalled(Duration::from_secs(9)));
        answer.await.expect_err("the answer has ten times as long");
    }
}
