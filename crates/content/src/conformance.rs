//! The promises of a content store, as checks that run against any store, also one that this crate does not know.
//!
//! ```
//! # use wharf_content::{MemoryStore, conformance};
//! # tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(async {
//! conformance::assert_conformant(|| async { Ok(MemoryStore::new()) }).await;
//! # });
//! # Ok::<_, std::io::Error>(())
//! ```
//!
//! Each promise is checked on an empty store of its own. The promises are those of [`crate::store`]: where wharf differs from containerd
//! (a writer whose commit failed verification stays open), the suite follows wharf. It uses no test framework, and prints nothing.
//!
//! What it does not check: that content survives the end of the process or a power cut, leases, and collection. A store that has no
//! files passes what is said of a blob's file.

mod cancelling;
mod committing;
mod labelling;
mod locking;
mod probe;
mod reading;
mod resuming;
mod walking;
mod writing;

use std::{any::Any, fmt, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;

use crate::{
    error::{Error, Result},
    store::Store,
};

use probe::Promise;

/// A check that takes longer than this has failed.
pub const CHECK_LIMIT: Duration = Duration::from_secs(60);

/// What came out of the check of one promise.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Outcome {
    /// The short name of the promise, such as `wrong-digest-refused`. Names are unique.
    pub name: &'static str,
    /// The promise in a sentence.
    pub promise: &'static str,
    /// What was found instead; `None` where the store keeps the promise.
    pub failure: Option<String>,
}

impl Outcome {
    /// What came out of the check of a promise, for suites of other things than stores.
    pub fn new(name: &'static str, promise: &'static str, failure: Option<String>) -> Self {
        Self { name, promise, failure }
    }
}

/// The outcomes of all promises, in the order in which they were checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    outcomes: Vec<Outcome>,
}

impl Report {
    /// Every promise with its outcome.
    pub fn outcomes(&self) -> &[Outcome] {
        &self.outcomes
    }

    /// The promises that the store does not keep.
    pub fn failures(&self) -> impl Iterator<Item = &Outcome> {
        self.outcomes.iter().filter(|outcome| outcome.failure.is_some())
    }

    /// Whether the store keeps every promise.
    pub fn is_conformant(&self) -> bool {
        self.failures().next().is_none()
    }

    /// Turns a report with failures into an error.
    ///
    /// # Errors
    /// `FailedPrecondition` with all the failures in its message.
    pub fn into_result(self) -> Result<()> {
        if self.is_conformant() {
            return Ok(());
        }
        Err(Error::failed_precondition(format!("the store does not keep its promises\n{self}")))
    }
}

impl FromIterator<Outcome> for Report {
    fn from_iter<T: IntoIterator<Item = Outcome>>(outcomes: T) -> Self {
        Self { outcomes: outcomes.into_iter().collect() }
    }
}

impl fmt::Display for Report {
    /// Writes one line for each promise, those that are not kept with what was found.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Outcome { name, promise, failure } in &self.outcomes {
            match failure {
                None => writeln!(f, "pass  {name}: {promise}")?,
                Some(failure) => writeln!(f, "FAIL  {name}: {promise}\n      {failure}")?,
            }
        }
        Ok(())
    }
}

/// Checks every promise on stores that `make` makes; each has to be empty and independent of the others.
///
/// A store that cannot be made, a check that panics, and one that takes longer than [`CHECK_LIMIT`] are failures of that promise. The
/// time driver of tokio has to be running.
///
/// # Cancellation
/// What the store under test leaves.
pub async fn run<S, F>(mut make: impl FnMut() -> F) -> Report
where
    S: Store,
    F: Future<Output = Result<S>>,
{
    let mut report = Report::default();
    for promise in promises() {
        let failure = match make().await {
            Ok(store) => check(promise, Arc::new(store)).await.err(),
            Err(error) => Some(format!("no store could be made: {}", error.report())),
        };
        report.outcomes.push(Outcome { name: promise.name, promise: promise.says, failure });
    }
    report
}

/// Checks every promise as [`run`] does, for use as a test in one line.
///
/// # Panics
/// Panics with the failures when the store does not keep every promise.
pub async fn assert_conformant<S, F>(make: impl FnMut() -> F)
where
    S: Store,
    F: Future<Output = Result<S>>,
{
    let mut report = run(make).await;
    report.outcomes.retain(|outcome| outcome.failure.is_some());
    assert!(report.is_conformant(), "the store does not keep its promises\n{report}");
}

fn promises() -> impl Iterator<Item = &'static Promise> {
    [
        writing::PROMISES,
        committing::PROMISES,
        resuming::PROMISES,
        locking::PROMISES,
        labelling::PROMISES,
        reading::PROMISES,
        walking::PROMISES,
        cancelling::PROMISES,
    ]
    .into_iter()
    .flatten()
}

/// Waits for the check of one promise, for suites of other things than stores, too. A panic is a failure, and so is a check that takes
/// longer than [`CHECK_LIMIT`].
///
/// # Errors
/// What was found in place of what was promised.
pub async fn within_limit(check: impl Future<Output = Result<(), String>>) -> Result<(), String> {
    let outcome = AssertUnwindSafe(check).catch_unwind();
    match tokio::time::timeout(CHECK_LIMIT, outcome).await {
        Err(_) => Err(format!("it did not end within {} s", CHECK_LIMIT.as_secs())),
        Ok(Err(panic)) => Err(format!("it panicked: {}", message(panic.as_ref()))),
        Ok(Ok(checked)) => checked,
    }
}

async fn check(promise: &Promise, store: Arc<dyn Store>) -> Result<(), String> {
    within_limit(async { (promise.check)(store).await.map_err(|failure| failure.0) }).await
}

fn message(panic: &(dyn Any + Send)) -> &str {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text,
        _ => "with a value that is no text",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

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
        let make = || async { Err::<crate::MemoryStore, _>(Error::unavailable("out of stores")) };
        let report = run(make).await;
        assert_eq!(report.failures().count(), promises().count());
        let error = report.into_result().expect_err("failures");
        assert!(error.to_string().contains("no store could be made: out of stores"), "{error}");
    }

    #[tokio::test]
    async fn a_panic_is_a_failure() {
        let check_that_panics =
            Promise { name: "x", says: "x", check: |_| Box::pin(async { panic!("at the disco") }) };
        let failure = check(&check_that_panics, Arc::new(crate::MemoryStore::new())).await;
        assert_eq!(failure, Err("it panicked: at the disco".into()));
    }
}
