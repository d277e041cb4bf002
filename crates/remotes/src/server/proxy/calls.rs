//! Questions that are asked once, however many want the answer at the same time.
//!
//! Nothing is remembered: who comes after the answer has it asked again. When all who wait have gone, the question is dropped.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::future::{BoxFuture, FutureExt, Shared, WeakShared};
use wharf_content::Error;

/// An answer that several get.
pub(super) type Outcome<V> = Result<V, Arc<Error>>;

type Call<V> = BoxFuture<'static, Outcome<V>>;

/// Questions that are under way.
pub(super) struct Calls<K, V> {
    running: Mutex<HashMap<K, WeakShared<Call<V>>>>,
}

impl<K, V> Default for Calls<K, V> {
    fn default() -> Self {
        Self { running: Mutex::default() }
    }
}

impl<K: Eq + Hash, V: Clone> Calls<K, V> {
    /// Gives the answer to the question `key`, for which `ask` is called unless it is being asked.
    ///
    /// # Cancellation
    /// The question goes on for as long as somebody else waits for its answer.
    pub(super) async fn ask(&self, key: K, ask: impl FnOnce() -> Call<V>) -> Outcome<V> {
        let call = {
            let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
            let asked = running.get(&key).and_then(WeakShared::upgrade).filter(|call| call.peek().is_none());
            asked.unwrap_or_else(|| {
                running.retain(|_, call| call.upgrade().is_some());
                let call: Shared<Call<V>> = ask().shared();
                // It was not polled yet, so that it is there.
                running.extend(call.downgrade().map(|weak| (key, weak)));
                call
            })
        };
        call.await
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicU32, Ordering},
        time::Duration,
    };

    use tokio::{sync::Notify, time::timeout};

    use super::*;

    #[tokio::test]
    async fn one_question_has_one_answer_for_all() {
        let calls = Calls::default();
        let (asked, gate) = (AtomicU32::new(0), Arc::new(Notify::new()));
        let ask = || {
            let number = asked.fetch_add(1, Ordering::Relaxed);
            let gate = Arc::clone(&gate);
            async move {
                gate.notified().await;
                Ok(number)
            }
            .boxed()
        };
        let all = futures_util::future::join_all((0..50).map(|_| calls.ask("a", ask)));
        let (answers, ()) = tokio::join!(all, async { gate.notify_one() });
        assert!(answers.iter().all(|answer| answer.as_ref().ok() == Some(&0)));
        gate.notify_one();
        assert_eq!(calls.ask("a", ask).await.ok(), Some(1), "what was answered is asked again");

        // Who goes away takes nobody's answer along, and the last one takes the question.
        let left = timeout(Duration::from_millis(5), calls.ask("b", ask));
        let (left, stays, ()) = tokio::join!(left, calls.ask("b", ask), async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            gate.notify_one();
        });
        assert!(left.is_err());
        assert_eq!(stays.ok(), Some(2));
        timeout(Duration::from_millis(5), calls.ask("c", ask)).await.expect_err("nobody answers");
        gate.notify_one();
        assert_eq!(calls.ask("c", ask).await.ok(), Some(4));
        assert_eq!(calls.running.lock().expect("not poisoned").len(), 1, "what has ended is forgotten");
    }
}
