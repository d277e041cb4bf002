//! When and how a large blob comes in several ranges at once.

use std::{
    num::{NonZeroU64, NonZeroUsize},
    time::Duration,
};

/// Blobs of up to so many bytes come in one stream, however slow: 64 MiB.
pub const DEFAULT_THRESHOLD: u64 = 64 << 20;
/// A stream is slow that brings fewer bytes for each second that it is waited for: 16 MiB.
pub const DEFAULT_SLOW_RATE: u64 = 16 << 20;
/// How long a stream is waited for before it is judged, and each time it is judged again: 2 seconds.
pub const DEFAULT_SLOW_WINDOW: Duration = Duration::from_secs(2);
/// How long a range is: 4 MiB.
pub const DEFAULT_RANGE_LEN: NonZeroU64 = NonZeroU64::new(4 << 20).expect("because it is not zero");
/// How many connections to one registry there are beside the first one of each blob: 3.
pub const DEFAULT_EXTRA_CONNECTIONS: usize = 3;
/// How many bytes each connection reads ahead of what is taken: 4 MiB.
pub const DEFAULT_RANGE_BUFFER: NonZeroUsize = NonZeroUsize::new(4 << 20).expect("because it is not zero");

/// Which blobs come in ranges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Split {
    /// Those above the threshold, once their one stream has turned out to be slow.
    #[default]
    WhenSlow,
    /// All that are longer than so many bytes, from their start, in ranges of that length.
    Always(NonZeroU64),
    /// None.
    Never,
}

/// How blobs are split into ranges.
///
/// A registry is asked for its first range alone. One that answers with anything but exactly that range (206, with a `Content-Range` of the
/// same first, last and total) is not asked for another, and each of its blobs comes in one stream.
///
/// Memory: `buffer` bytes, and a chunk of the network, for each extra connection and for each blob that comes in ranges.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RangeOptions {
    /// Which blobs come in ranges.
    pub split: Split,
    /// Blobs of up to so many bytes are not split because their stream is slow.
    pub threshold: u64,
    /// A stream is slow that brings fewer bytes for each second that it is waited for.
    pub slow_rate: u64,
    /// How long a stream is waited for before it is judged, and each time it is judged again.
    pub slow_window: Duration,
    /// How long the ranges of a blob are whose stream is slow.
    pub len: NonZeroU64,
    /// How many connections to one registry there are beside the first one of each blob, for all blobs together.
    pub connections: usize,
    /// How many bytes each connection reads ahead of what is taken.
    pub buffer: NonZeroUsize,
}

impl Default for RangeOptions {
    fn default() -> Self {
        Self {
            split: Split::default(),
            threshold: DEFAULT_THRESHOLD,
            slow_rate: DEFAULT_SLOW_RATE,
            slow_window: DEFAULT_SLOW_WINDOW,
            len: DEFAULT_RANGE_LEN,
            connections: DEFAULT_EXTRA_CONNECTIONS,
            buffer: DEFAULT_RANGE_BUFFER,
        }
    }
}

impl RangeOptions {
    /// Large blobs whose stream is slow, in ranges of 4 MiB over three connections more.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets which blobs come in ranges.
    #[must_use]
    pub fn with_split(mut self, split: Split) -> Self {
        self.split = split;
        self
    }

    /// Splits no blob of up to so many bytes because its stream is slow.
    #[must_use]
    pub fn with_threshold(mut self, bytes: u64) -> Self {
        self.threshold = bytes;
        self
    }

    /// Calls a stream slow that brings fewer than `rate` bytes for each second of waiting, judged after each `window` of waiting.
    #[must_use]
    pub fn with_slow(mut self, rate: u64, window: Duration) -> Self {
        self.slow_rate = rate;
        self.slow_window = window;
        self
    }

    /// Sets how long the ranges of a blob are whose stream is slow.
    #[must_use]
    pub fn with_len(mut self, bytes: NonZeroU64) -> Self {
        self.len = bytes;
        self
    }

    /// Sets how many connections to one registry there are beside the first one of each blob.
    #[must_use]
    pub fn with_connections(mut self, extra: usize) -> Self {
        self.connections = extra;
        self
    }

    /// Sets how many bytes each connection reads ahead of what is taken.
    #[must_use]
    pub fn with_buffer(mut self, bytes: NonZeroUsize) -> Self {
        self.buffer = bytes;
        self
    }
}
