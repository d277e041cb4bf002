//! The promises of a transport, as checks that run against any, also one that this crate does not know.
//!
//! ```
//! # use wharf_images::{conformance::transport::{self, Subject}, transport::MemoryRegistry};
//! # tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(async {
//! transport::assert_conformant(|| async {
//!     Ok(Subject::new(MemoryRegistry::new(), "registry.example"))
//! })
//! .await;
//! # });
//! # Ok::<_, std::io::Error>(())
//! ```
//!
//! Each promise is checked at an empty place of its own. The promises are those of [`crate::transport`]. What a transport need not offer
//! (listing tags and referrers, deleting) passes where it says `NotImplemented`; one that takes no content cannot be checked. It uses no
//! test framework, and prints nothing.
//!
//! What it does not check: what is on the wire, credentials, retries, and that content outlives the process.

mod deleting;
mod fetching;
mod listing;
mod probe;
mod pushing;
mod resolving;

use std::{any::Any, fmt, sync::Arc};

pub use wharf_content::conformance::{CHECK_LIMIT, Outcome, Report};
use wharf_content::{Result, conformance::within_limit};

use crate::transport::Resolver;

use probe::{Promise, Site};

/// A transport under test.
pub struct Subject {
    resolver: Arc<dyn Resolver>,
    base: String,
    guard: Option<Box<dyn Any + Send + Sync>>,
    malformed: Vec<String>,
}

/// What is no name in most places.
const MALFORMED: [&str; 5] = ["", "\0", "a b", "a@sha256:1", "a:b:c/d"];

impl Subject {
    /// A transport whose names are references below `base`: a domain, or a domain and a path.
    pub fn new(resolver: impl Resolver, base: impl Into<String>) -> Self {
        Self {
            resolver: Arc::new(resolver),
            base: base.into(),
            guard: None,
            malformed: MALFORMED.map(str::to_owned).into(),
        }
    }

    /// Says what is no name there, where that is something else than for most: paths may have spaces.
    #[must_use]
    pub fn with_malformed_names<S: Into<String>>(mut self, names: impl IntoIterator<Item = S>) -> Self {
        self.malformed = names.into_iter().map(Into::into).collect();
        self
    }

    /// Keeps something, such as a server, until the check of a promise is done.
    #[must_use]
    pub fn with_guard(mut self, guard: impl Any + Send + Sync) -> Self {
        self.guard = Some(Box::new(guard));
        self
    }
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subject")
            .field("resolver", &self.resolver)
            .field("base", &self.base)
            .finish_non_exhaustive()
    }
}

/// Checks every promise at places that `make` makes; each has to be empty and independent of the others.
///
/// A place that cannot be made, a check that panics, and one that takes longer than [`CHECK_LIMIT`] are failures of that promise. The time
/// driver of tokio has to be running.
///
/// # Cancellation
/// What the transport under test leaves.
pub async fn run<F>(mut make: impl FnMut() -> F) -> Report
where
    F: Future<Output = Result<Subject>>,
{
    let mut outcomes = Vec::new();
    for promise in promises() {
        let failure = match make().await {
            Ok(Subject { resolver, base, guard, malformed }) => {
                let site = Site { resolver, base, malformed };
                let checked = async { (promise.check)(site).await.map_err(|failure| failure.0) };
                let failure = within_limit(checked).await.err();
                drop(guard);
                failure
            }
            Err(error) => Some(format!("no place could be made: {}", error.report())),
        };
        outcomes.push(Outcome::new(promise.name, promise.says, failure));
    }
    outcomes.into_iter().collect()
}

/// Checks every promise as [`run`] does, for use as a test in one line.
///
/// # Panics
/// Panics with the failures when the transport does not keep every promise.
pub async fn assert_conformant<F>(make: impl FnMut() -> F)
where
    F: Future<Output = Result<Subject>>,
{
    let report = run(make).await;
    let broken: Report = report.failures().cloned().collect();
    assert!(broken.is_conformant(), "the transport does not keep its promises\n{broken}");
}

fn promises() -> impl Iterator<Item = &'static Promise> {
    [resolving::PROMISES, fetching::PROMISES, pushing::PROMISES, listing::PROMISES, deleting::PROMISES]
        .into_iter()
        .flatten()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use wharf_content::Error;

    use super::*;

    #[test]
    fn names_are_unique_and_promises_are_sentences() {
        let mut names = HashSet::new();
        for Promise { name, says, .. } in promises() {
            assert!(names.insert(name), "{name} twice");
            assert!(name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'), "{name}");
            assert!(!says.ends_with('.') && says.len() > 20, "{says}");
        }
    }

    #[tokio::test]
    async fn a_place_that_cannot_be_made_fails_every_promise() {
        let report = run(|| async { Err(Error::unavailable("out of places")) }).await;
        assert_eq!(report.failures().count(), promises().count());
        let error = report.into_result().expect_err("failures");
        assert!(error.to_string().contains("no place could be made: out of places"), "{error}");
    }
}
