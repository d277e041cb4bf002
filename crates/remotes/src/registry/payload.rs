//! What is sent with a request: a part of a source, opened anew each time that the request is sent, and watched while it flows.
//!
//! The bytes are neither held nor looked at. Its length is announced, since registries and the storage behind them want to know it.

use std::{
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use reqwest::Body;
use tokio::time::Instant;
use wharf_content::{ByteStream, Error, Result, copying::Source};

use super::{
    limits::Permit,
    throughput::{Pace, TooSlow},
};

/// How many times longer than between two pieces of a body a registry may be silent after the last one: it has to store and hash it.
const ANSWER_FACTOR: u32 = 10;

/// No piece of a body is longer, so that its pace is seen though the source gives a lot at once.
const MAX_PIECE: usize = 256 * 1024;

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
    /// When the registry was last given something.
    moved_at: Instant,
    /// What it was given last, until it asks for more.
    given: u64,
    /// Until when the time that it took is counted; `None` while it waits for the source.
    counted: Option<Instant>,
    pace: Pace,
    permit: Weak<Permit>,
    error: Option<Error>,
}

impl Flow {
    fn new(left: u64) -> Self {
        let (moved_at, pace) = (Instant::now(), Pace::new(None));
        Self { left, moved_at, given: 0, counted: Some(moved_at), pace, permit: Weak::new(), error: None }
    }

    /// Counts what was taken, and how long that took. What is left of the time is that of the source.
    fn count(&mut self) {
        if let Some(counted) = self.counted.take() {
            self.pace.add(std::mem::take(&mut self.given), counted.elapsed());
        }
    }
}

/// A source that was opened, and what it gave that is not sent yet.
struct Opened {
    source: ByteStream,
    rest: Bytes,
}

impl From<ByteStream> for Opened {
    fn from(source: ByteStream) -> Self {
        Self { source, rest: Bytes::new() }
    }
}

impl Opened {
    async fn next(&mut self) -> Option<Result<Bytes>> {
        while self.rest.is_empty() {
            match self.source.next().await? {
                Ok(bytes) => self.rest = bytes,
                Err(error) => return Some(Err(error)),
            }
        }
        Some(Ok(self.rest.split_to(MAX_PIECE.min(self.rest.len()))))
    }
}

impl Payload {
    /// The whole of a source of `len` bytes.
    pub(super) fn whole(source: Arc<dyn Source>, len: u64, media_type: impl Into<String>) -> Self {
        let (media_type, flow) = (media_type.into(), Arc::new(Mutex::new(Flow::new(len))));
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
        *self.flow() = Flow::new(self.len);
        if self.len == 0 {
            return Ok(Body::from(Bytes::new()));
        }
        let opened = Opened::from(self.source.open(self.first).await?);
        let body = stream::unfold(Some((self.clone(), opened)), |state| async move {
            let (payload, mut opened) = state?;
            let next = payload.next(&mut opened).await?;
            let rest = next.is_ok().then_some((payload, opened));
            Some((next, rest))
        });
        Ok(Body::wrap_stream(body))
    }

    /// Begins to watch what was opened: it flows at this pace, and the permit rests while its source is read.
    pub(super) fn flow_by(&self, permit: &Arc<Permit>, pace: Pace) {
        let mut flow = self.flow();
        // Whoever had to wait for its turn was not kept waiting by the registry.
        flow.moved_at = Instant::now();
        flow.counted = Some(flow.moved_at);
        (flow.pace, flow.permit) = (pace, Arc::downgrade(permit));
    }

    /// The next piece; `None` after the last. What is wrong with the source is kept, as the client only says that the body broke.
    async fn next(&self, opened: &mut Opened) -> Option<Result<Bytes, &'static str>> {
        let (left, permit) = {
            let mut flow = self.flow();
            flow.count();
            (flow.left, flow.permit.upgrade())
        };
        if left == 0 {
            return None;
        }
        if let Some(permit) = &permit {
            permit.rest();
        }
        let next = opened.next().await.unwrap_or_else(|| {
            Err(Error::data_loss(format!("content ended {left} bytes before its end: it was cut short")))
        });
        if let Some(permit) = &permit {
            permit.resume().await;
        }
        let mut flow = self.flow();
        flow.moved_at = Instant::now();
        flow.counted = Some(flow.moved_at);
        match next {
            Ok(mut bytes) => {
                bytes.truncate(usize::try_from(left).unwrap_or(usize::MAX));
                flow.left -= bytes.len() as u64;
                flow.given = bytes.len() as u64;
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

    /// Ends when the registry has taken nothing for so long, or too little, which is given then. While it waits for the source, that
    /// is no fault of its own; after the last byte it has more time for its answer.
    pub(super) async fn stalled(&self, idle: Duration) -> Option<TooSlow> {
        loop {
            let left = {
                let mut flow = self.flow();
                let is_sent = flow.left == 0;
                let patience = if is_sent { idle.saturating_mul(ANSWER_FACTOR) } else { idle };
                let left = match flow.counted {
                    // The source is being read.
                    None if !is_sent => idle,
                    _ => patience.saturating_sub(flow.moved_at.elapsed()),
                };
                if left.is_zero() {
                    return None;
                }
                if !is_sent && flow.counted.is_some() {
                    flow.count();
                    flow.counted = Some(Instant::now());
                    if let Err(slow) = flow.pace.check() {
                        return Some(slow);
                    }
                }
                flow.pace.left().filter(|_| !is_sent).map_or(left, |judged| left.min(judged))
            };
            // A little more, so that the clock has moved past it.
            tokio::time::sleep(left.saturating_add(Duration::from_millis(1))).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{settings::RegistrySettings, throughput::Floor},
        *,
    };

    fn payload(first: u64, len: u64) -> Payload {
        Payload::chunk(Arc::new(Bytes::from_static(b"0123456789")), first, len)
    }

    async fn gathered(payload: &Payload) -> Result<Vec<u8>, &'static str> {
        let mut opened = Opened::from(payload.source.open(payload.first).await.expect("opens"));
        *payload.flow() = Flow::new(payload.len);
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
    async fn what_a_source_gives_at_once_is_sent_in_pieces() {
        let len = 2 * MAX_PIECE + 1;
        let payload = Payload::whole(Arc::new(Bytes::from(vec![7; len])), len as u64, "x/y");
        let mut opened = Opened::from(payload.source.open(0).await.expect("opens"));
        for expected in [MAX_PIECE, MAX_PIECE, 1] {
            assert_eq!(payload.next(&mut opened).await.expect("more").expect("reads").len(), expected);
        }
        assert!(payload.next(&mut opened).await.is_none());
    }

    const SECOND: Duration = Duration::from_secs(1);

    fn pace() -> Pace {
        Pace::new(Floor::of(&RegistrySettings::new()))
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_noticed() {
        let payload = payload(0, 10);
        let began = Instant::now();
        assert_eq!(payload.stalled(SECOND * 9).await, None);
        assert!((SECOND * 9..SECOND * 10).contains(&began.elapsed()));
        payload.flow().left = 0;
        payload.flow().moved_at = Instant::now();
        let began = Instant::now();
        payload.stalled(SECOND * 9).await;
        assert!((SECOND * 90..SECOND * 91).contains(&began.elapsed()), "the answer has ten times as long");
    }

    /// Takes one byte of a payload every ten seconds, and gives when that was noticed.
    async fn noticed(pace: Pace, source: Duration, network: Duration) -> Option<Duration> {
        let payload = Payload::chunk(Arc::new(Bytes::from_static(&[0; 100])), 0, 100);
        payload.flow().pace = pace;
        let began = Instant::now();
        let reading = async {
            let one = move |left: usize| async move {
                tokio::time::sleep(source).await;
                let byte = Ok::<_, Error>(Bytes::from_static(b"x"));
                Some((byte, left.checked_sub(1)?))
            };
            let source: ByteStream = Box::pin(stream::unfold(100, one));
            let mut opened = Opened::from(source);
            while payload.next(&mut opened).await.is_some() {
                tokio::time::sleep(network).await;
            }
        };
        tokio::select! {
            biased;
            _ = payload.stalled(SECOND * 30) => Some(began.elapsed()),
            () = reading => None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_drip_is_noticed_and_a_slow_source_is_not_one() {
        let found = noticed(pace(), Duration::ZERO, SECOND * 10).await.expect("a drip");
        assert!((SECOND * 30..SECOND * 62).contains(&found), "{found:?}");
        assert_eq!(noticed(Pace::new(None), Duration::ZERO, SECOND * 10).await, None, "where it may drip");
        assert_eq!(noticed(pace(), SECOND * 10, Duration::ZERO).await, None, "the source is slow");
        assert_eq!(noticed(pace(), SECOND * 100, Duration::ZERO).await, None, "the source is very slow");
    }
}
