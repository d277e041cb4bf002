//! Questions that are asked once, however many want the answer at the same time.
//!
//! Nothing is remembered: who comes after the answer has it asked again. When all who wait have gone, the question is dropped, unless it was
//! begun as one that goes on.

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
    running: Mutex<HashMap<K, Running<V>>>,
}

struct Running<V> {
    call: WeakShared<Call<V>>,
    /// Whether a task of its own has it go on.
    goes_on: bool,
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
        let call = self.join(key, ask, |_, _| {});
        call.await
    }

    /// Asks the question `key`, which goes on until it is answered, whether somebody waits for that or not.
    pub(super) fn begin(&self, key: K, ask: impl FnOnce() -> Call<V>) -> Shared<Call<V>>
    where
        V: Send + Sync + 'static,
    {
        self.join(key, ask, |running, call| {
            if !running.goes_on {
                running.goes_on = true;
                tokio::spawn(call.clone());
            }
        })
    }

    fn join(
        &self,
        key: K,
        ask: impl FnOnce() -> Call<V>,
        joined: impl FnOnce(&mut Running<V>, &Shared<Call<V>>),
    ) -> Shared<Call<V>> {
        let mut calls = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = calls.get_mut(&key)
            && let Some(call) = running.call.upgrade().filter(|call| call.peek().is_none())
        {
            joined(running, &call);
            return call;
        }
        calls.retain(|_, running| running.call.upgrade().is_some());
        let call: Shared<Call<V>> = ask().shared();
        // It was not polled yet, so that it is there.
        if let Some(weak) = call.downgrade() {
            let mut running = Running { call: weak, goes_on: false };
            joined(&mut running, &call);
            calls.insert(key, running);
        }
        call
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

    #[tokio::test]
    async fn a_question_that_was_begun_goes_on_without_anybody() {
        let calls = Calls::default();
        let (answered, gate) = (Arc::new(AtomicU32::new(0)), Arc::new(Notify::new()));
        let ask = || {
            let (answered, gate) = (Arc::clone(&answered), Arc::clone(&gate));
            async move {
                gate.notified().await;
                Ok(answered.fetch_add(1, Ordering::Relaxed))
            }
            .boxed()
        };
        // Whether it was begun so, or joined by who wants it to go on.
        let mut waits = Box::pin(calls.ask("a", ask));
        timeout(Duration::from_millis(5), waits.as_mut()).await.expect_err("nobody answers");
        for _ in 0..2 {
            drop(calls.begin("a", ask));
        }
        drop(waits);
        gate.notify_one();
        for _ in 0..400 {
            if answered.load(Ordering::Relaxed) == 1 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(answered.load(Ordering::Relaxed), 1, "it was not dropped, and was asked once");
    }
}
