//! Asking one host after the other, until one has an answer.
//!
//! A host that fails is left for the next one at once; which errors are worth a second try at the same host is its client's matter. Of
//! the failures of all of them the one is told that says most (containerd: `core/remotes/docker/resolver.go`, the order of its errors).
//!
//! A mirror whose bytes turn out to be wrong is asked for everything but that content from then on. The last host is who decides what the
//! content is: where it is wrong itself, nobody else is asked.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use futures_util::{StreamExt, stream};
use wharf_content::{ByteStream, Digest, Error, Result};

use super::{client::Client, hosts::Site};
use crate::error::RemoteError;

/// How much an error says: nobody answered, nothing there, a refusal, an answer that must not be taken.
fn weight(error: &Error) -> u8 {
    match RemoteError::of(error).map(|remote| remote.status) {
        Some(None) => 1,
        Some(Some(404)) => 2,
        Some(Some(400..)) => 3,
        _ => 4,
    }
}

/// The failures of the hosts so far.
#[derive(Debug, Default)]
pub(super) struct Failures {
    heaviest: Option<Error>,
}

impl Failures {
    /// Keeps the error, unless one before it says as much.
    pub(super) fn add(&mut self, error: Error) {
        if self.heaviest.as_ref().is_none_or(|kept| weight(&error) > weight(kept)) {
            self.heaviest = Some(error);
        }
    }

    /// The error that says most.
    pub(super) fn into_error(self) -> Error {
        self.heaviest.unwrap_or_else(|| Error::not_found("no host was asked"))
    }
}

/// Asks the hosts in turn.
///
/// # Errors
/// The one of all hosts that says most.
pub(super) async fn first<T, F>(sites: &[Site], ask: impl Fn(Arc<Client>, Arc<str>) -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let mut failures = Failures::default();
    for site in sites {
        let asked = match site.client().await {
            Ok(client) => ask(client, Arc::clone(&site.path)).await,
            Err(error) => Err(error),
        };
        match asked {
            Ok(found) => return Ok(found),
            Err(error) => {
                tracing::debug!(error = %error.report(), "a host has no answer");
                failures.add(error);
            }
        }
    }
    Err(failures.into_error())
}

/// Hosts that give content, and which of them did not answer: those are asked last from then on.
#[derive(Debug)]
pub(super) struct Sources {
    sites: Vec<Site>,
    is_silent: Vec<AtomicBool>,
    mirrored: Mutex<HashMap<Digest, Mirrored>>,
}

/// Which hosts before the last one have to do with one content.
#[derive(Debug, Default)]
struct Mirrored {
    /// Those that bytes of it came from, in turn.
    gave: Vec<usize>,
    /// Those whose bytes of it were wrong.
    bad: Vec<usize>,
}

/// What opens the content at a host, from a byte.
pub(super) type Open = Box<dyn Fn(Arc<Client>, Arc<str>, u64) -> Opening + Send + Sync>;
type Opening = Pin<Box<dyn Future<Output = Result<ByteStream>> + Send>>;

impl Sources {
    pub(super) fn new(sites: Vec<Site>) -> Self {
        let is_silent = sites.iter().map(|_| AtomicBool::new(false)).collect();
        Self { sites, is_silent, mirrored: Mutex::default() }
    }

    fn with_mirrored<T>(&self, digest: &Digest, act: impl FnOnce(&mut Mirrored) -> T) -> T {
        let mut mirrored = self.mirrored.lock().unwrap_or_else(PoisonError::into_inner);
        act(mirrored.entry(digest.clone()).or_default())
    }

    /// Notes that wrong bytes came of a content. True where a mirror had a part in it: that one is not asked for it again. Where several
    /// had, one after the other is left out, since it cannot be told which of them was wrong.
    pub(super) fn refuse(&self, digest: &Digest) -> bool {
        let Some(number) = self.with_mirrored(digest, |mirrored| {
            let suspect = mirrored.gave.iter().copied().find(|number| !mirrored.bad.contains(number));
            mirrored.gave.clear();
            mirrored.bad.extend(suspect);
            suspect
        }) else {
            return false;
        };
        let path = &self.sites[number].path;
        tracing::warn!(%digest, %path, number, "a mirror gave other bytes than it should, and is not asked for them again");
        true
    }

    /// All hosts, in the order in which they are configured.
    pub(super) fn sites(&self) -> &[Site] {
        &self.sites
    }

    /// Opens content at the first host that has it. Where its body breaks for good, it goes on from the next host.
    ///
    /// # Errors
    /// The one of all hosts that says most.
    pub(super) async fn open(
        self: Arc<Self>,
        digest: &Digest,
        offset: u64,
        open: Open,
    ) -> Result<ByteStream> {
        let silent = |number: &usize| self.is_silent[*number].load(Ordering::Relaxed);
        let bad = self.with_mirrored(digest, |mirrored| mirrored.bad.clone());
        let asked = (0..self.sites.len()).filter(|number| !bad.contains(number));
        let (late, mut order): (Vec<_>, Vec<_>) = asked.partition(silent);
        order.extend(late);
        order.reverse();
        let digest = digest.clone();
        let mut transfer =
            Transfer { sources: self, left: order, asked: 0, has_given: false, digest, open, at: offset };
        let first = transfer.next_host(Failures::default()).await?;
        if transfer.left.is_empty() && transfer.is_at_last() {
            return Ok(first);
        }
        Ok(Box::pin(stream::unfold(Some((transfer, first)), |state| async move {
            let (mut transfer, mut body) = state?;
            loop {
                match body.next().await? {
                    Ok(chunk) => {
                        transfer.at += chunk.len() as u64;
                        if !transfer.has_given {
                            transfer.note_given();
                        }
                        return Some((Ok(chunk), Some((transfer, body))));
                    }
                    Err(error) if transfer.left.is_empty() => return Some((Err(error), None)),
                    Err(error) => {
                        tracing::debug!(error = %error.report(), at = transfer.at, "the content goes on from another host");
                        let mut failures = Failures::default();
                        failures.add(error);
                        match transfer.next_host(failures).await {
                            Ok(next) => body = next,
                            Err(error) => return Some((Err(error), None)),
                        }
                    }
                }
            }
        })))
    }
}

/// Content that is on its way from one of several hosts.
struct Transfer {
    sources: Arc<Sources>,
    /// The hosts that were not asked yet, the next one last.
    left: Vec<usize>,
    /// The host that is asked, and whether anything came from it.
    asked: usize,
    has_given: bool,
    digest: Digest,
    open: Open,
    at: u64,
}

impl Transfer {
    fn is_at_last(&self) -> bool {
        self.asked + 1 == self.sources.sites.len()
    }

    /// Notes from which mirror bytes came.
    fn note_given(&mut self) {
        self.has_given = true;
        if !self.is_at_last() {
            self.sources.with_mirrored(&self.digest, |mirrored| {
                if !mirrored.gave.contains(&self.asked) {
                    mirrored.gave.push(self.asked);
                }
            });
        }
    }

    async fn next_host(&mut self, mut failures: Failures) -> Result<ByteStream> {
        while let Some(number) = self.left.pop() {
            let (site, is_silent) = (&self.sources.sites[number], &self.sources.is_silent[number]);
            let opened = match site.client().await {
                Ok(client) => (self.open)(client, Arc::clone(&site.path), self.at).await,
                Err(error) => Err(error),
            };
            match opened {
                Ok(stream) => {
                    (self.asked, self.has_given) = (number, false);
                    is_silent.store(false, Ordering::Relaxed);
                    return Ok(stream);
                }
                Err(error) => {
                    tracing::debug!(error = %error.report(), "a host does not give the content");
                    is_silent.store(weight(&error) == 1, Ordering::Relaxed);
                    failures.add(error);
                }
            }
        }
        Err(failures.into_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_that_says_most_is_told() {
        let remote = |status: Option<u16>| {
            let error = RemoteError::new("h", "GET x");
            let error = status.into_iter().fold(error, RemoteError::with_status);
            error.into_error(format!("{status:?}"))
        };
        let oversize = || remote(Some(200));
        for (errors, expected) in [
            (vec![remote(None), remote(Some(404)), remote(Some(500)), oversize()], "Some(200)"),
            (vec![oversize(), remote(Some(500)), remote(Some(404)), remote(None)], "Some(200)"),
            (vec![remote(Some(403)), remote(Some(500)), remote(Some(404))], "Some(403)"),
            (vec![remote(None), remote(Some(404))], "Some(404)"),
            (vec![remote(None)], "None"),
            (vec![remote(Some(404)), Error::failed_precondition("digest mismatch")], "digest mismatch"),
        ] {
            let mut failures = Failures::default();
            for error in errors {
                failures.add(error);
            }
            assert_eq!(failures.into_error().to_string(), expected);
        }
        assert_eq!(Failures::default().into_error().kind(), wharf_content::ErrorKind::NotFound);
    }
}
