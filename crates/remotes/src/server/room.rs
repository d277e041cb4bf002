//! The memory that documents share which are read whole.
//!
//! A document of a few kibibytes takes none of it. A larger one takes as much as it may have bytes, before they are read: who finds no room is not
//! read from until there is some.

use std::{sync::Arc, time::Duration};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::refusal::Refusal;

/// What a document has for nothing.
pub(super) const FREE_LEN: u64 = 64 * 1024;
/// Room is counted in pieces of so many bytes.
const UNIT: u64 = 1024;

/// The room, and how much of it there is.
pub(super) struct Room {
    units: u32,
    left: Arc<Semaphore>,
}

/// A part of it that is taken, until this is dropped.
pub(super) type Place = OwnedSemaphorePermit;

impl Room {
    pub(super) fn new(bytes: u64) -> Self {
        let units = units(bytes).max(1);
        Self { units, left: Arc::new(Semaphore::new(units as usize)) }
    }

    /// Takes room for so many bytes, or all that there is. Waits for it so long, and first come is first served.
    ///
    /// # Cancellation
    /// Nothing is taken, and the turn is lost.
    pub(super) async fn take(&self, bytes: u64, patience: Duration) -> Result<Place, Refusal> {
        let taken = Arc::clone(&self.left).acquire_many_owned(units(bytes).min(self.units));
        match tokio::time::timeout(patience, taken).await {
            // It is never closed.
            Ok(place) => place.map_err(|_| Refusal::busy("the registry ends")),
            Err(_) => Err(Refusal::busy("the registry is busy with other large manifests")),
        }
    }
}

fn units(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn room_that_is_taken_is_waited_for() {
        let room = Room::new(8 * UNIT);
        let (first, second) = (room.take(1, PATIENCE).await, room.take(7 * UNIT, PATIENCE).await);
        assert!(first.is_ok() && second.is_ok());
        let refused = room.take(1, PATIENCE).await.expect_err("no room");
        assert_eq!(refused.parts().0, 503);
        drop(first);
        assert!(room.take(UNIT, PATIENCE).await.is_ok());
        drop(second);
        // What is larger than all of it has all of it.
        let all = room.take(u64::MAX, PATIENCE).await.expect("all of it");
        assert!(room.take(1, PATIENCE).await.is_err());
        drop(all);
    }
}
