//! What is known of a registry's ranges, and the connections that all transfers from it share.

use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::registry::range_options::RangeOptions;

const UNKNOWN: u8 = 0;
const YES: u8 = 1;
const NO: u8 = 2;

/// Whether a registry gives exactly the ranges that it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Support {
    Unknown,
    Yes,
    /// It has once answered otherwise, and is not asked again.
    No,
}

/// One registry's ranges.
#[derive(Debug)]
pub(in crate::registry) struct Ranges {
    support: AtomicU8,
    connections: Arc<Semaphore>,
}

impl Ranges {
    pub(in crate::registry) fn new(options: &RangeOptions) -> Self {
        let connections = options.connections.min(Semaphore::MAX_PERMITS);
        Self { support: AtomicU8::new(UNKNOWN), connections: Arc::new(Semaphore::new(connections)) }
    }

    pub(super) fn support(&self) -> Support {
        match self.support.load(Ordering::Relaxed) {
            YES => Support::Yes,
            NO => Support::No,
            _ => Support::Unknown,
        }
    }

    /// Notes a good answer. One that was wrong stays in memory.
    pub(super) fn worked(&self) {
        // Fails where something is known already, which stays.
        let _known = self.support.compare_exchange(UNKNOWN, YES, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Notes an answer that was not the range that was asked for.
    pub(super) fn refused(&self) {
        self.support.store(NO, Ordering::Relaxed);
    }

    /// A place for one connection more, unless all are taken. Nobody waits for one: the first connection of a transfer needs none.
    pub(super) fn connection(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.connections).try_acquire_owned().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_remembered() {
        let ranges = Ranges::new(&RangeOptions::new());
        assert_eq!(ranges.support(), Support::Unknown);
        ranges.worked();
        assert_eq!(ranges.support(), Support::Yes);
        ranges.refused();
        ranges.worked();
        assert_eq!(ranges.support(), Support::No);
    }

    #[test]
    fn connections_are_shared_and_come_back() {
        let ranges = Ranges::new(&RangeOptions::new().with_connections(2));
        let (one, other) = (ranges.connection(), ranges.connection());
        assert!(one.is_some() && other.is_some() && ranges.connection().is_none());
        drop(one);
        assert!(ranges.connection().is_some());
    }
}
