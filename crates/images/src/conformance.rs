//! The promises of a store of image records, as checks that run against any such store, also one that this crate does not know.
//!
//! ```
//! # use wharf_images::{MemoryImages, conformance};
//! # tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(async {
//! conformance::assert_conformant(|| async { Ok(MemoryImages::new()) }).await;
//! # });
//! # Ok::<_, std::io::Error>(())
//! ```
//!
//! Each promise is checked on an empty store of its own. The promises are those of [`ImageStore`]. It uses no test framework, and prints
//! nothing.
//!
//! [`transport`] has the promises of a transport.
//!
//! What it does not check: that records survive the end of the process or a power cut, that content is kept or collected, and what a
//! view of the records says to other programs.

mod changing;
mod creating;
mod listing;
mod probe;
mod racing;
pub mod transport;

use std::sync::Arc;

pub use wharf_content::conformance::{CHECK_LIMIT, Outcome, Report};
use wharf_content::{Result, conformance::within_limit};

use crate::record::ImageStore;

use probe::Promise;

/// Checks every promise on stores that `make` makes; each has to be empty and independent of the others.
///
/// A store that cannot be made, a check that panics, and one that takes longer than [`CHECK_LIMIT`] are failures of that promise. The
/// time driver of tokio has to be running.
///
/// # Cancellation
/// What the store under test leaves.
pub async fn run<S, F>(mut make: impl FnMut() -> F) -> Report
where
    S: ImageStore,
    F: Future<Output = Result<S>>,
{
    let mut outcomes = Vec::new();
    for promise in promises() {
        let failure = match make().await {
            Ok(store) => check(promise, Arc::new(store)).await.err(),
            Err(error) => Some(format!("no store could be made: {}", error.report())),
        };
        outcomes.push(Outcome::new(promise.name, promise.says, failure));
    }
    outcomes.into_iter().collect()
}

/// Checks every promise as [`run`] does, for use as a test in one line.
///
/// # Panics
/// Panics with the failures when the store does not keep every promise.
pub async fn assert_conformant<S, F>(make: impl FnMut() -> F)
where
    S: ImageStore,
    F: Future<Output = Result<S>>,
{
    let report = run(make).await;
    let broken: Report = report.failures().cloned().collect();
    assert!(broken.is_conformant(), "the store does not keep its promises\n{broken}");
}

fn promises() -> impl Iterator<Item = &'static Promise> {
    [creating::PROMISES, changing::PROMISES, listing::PROMISES, racing::PROMISES].into_iter().flatten()
}

async fn check(promise: &Promise, store: Arc<dyn ImageStore>) -> Result<(), String> {
    within_limit(async { (promise.check)(store).await.map_err(|failure| failure.0) }).await
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use wharf_content::Error;

    use crate::MemoryImages;

    use super::*;

    #[test]
    fn names_are_unique_and_promises_are_sentences() {
        let mut names = HashSet::new();
        for Promise { name, says, .. } in promises() {
            assert!(names.insert(name), "{name} twice");
            assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '-'), "{name}");
            assert!(!says.ends_with('.') && says.len() > 20, "{says}");
        }
    }

    #[tokio::test]
    async fn a_store_that_cannot_be_made_fails_every_promise() {
        let report = run(|| async { Err::<MemoryImages, _>(Error::unavailable("out of stores")) }).await;
        assert_eq!(report.failures().count(), promises().count());
        let error = report.into_result().expect_err("failures");
        assert!(error.to_string().contains("no store could be made: out of stores"), "{error}");
    }

    #[tokio::test]
    async fn a_panic_is_a_failure() {
        let check_that_panics =
            Promise { name: "x", says: "x", check: |_| Box::pin(async { panic!("at the disco") }) };
        let failure = check(&check_that_panics, Arc::new(MemoryImages::new())).await;
        assert_eq!(failure, Err("it panicked: at the disco".into()));
    }
}
