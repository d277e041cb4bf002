//! What holds content that was pushed and is part of no image yet.
//!
//! A client pushes blobs first and the manifest last, and a blob that it was told is there it does not push. Between the two a collection
//! must not take them, in this process or after it, so that a lease holds them: one for all, a new one every [grace](super::UPLOAD_GRACE),
//! and each lasts twice as long.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use http::{Method, request::Parts};
use tokio::sync::Mutex;
use wharf_content::{Digest, ErrorKind, LeaseManager, LeaseOptions, Resource, Result, Store};

use super::Registry;

/// The most resources that are remembered as held; beyond it the store is asked again.
const MAX_REMEMBERED: usize = 16 * 1024;

/// The lease of the moment.
#[derive(Debug)]
pub(super) struct Keeper {
    grace: Duration,
    current: Mutex<Option<Current>>,
}

#[derive(Debug)]
struct Current {
    lease: String,
    since: Instant,
    held: HashSet<Resource>,
}

impl Registry {
    /// Holds what a client is told to be there by an answer to HEAD: it may be about to push something made of it.
    pub(super) async fn hold_asked(&self, digest: &Digest, head: &Parts) -> Result<()> {
        if head.method == Method::HEAD && self.takes_pushes() {
            self.inner.keeper.hold(self.store(), Resource::Content(digest.clone())).await?;
        }
        Ok(())
    }
}

impl Keeper {
    pub(super) fn new(grace: Duration) -> Self {
        Self { grace, current: Mutex::new(None) }
    }

    /// The id of a lease that lasts at least the grace from now; `None` where the store has no leases, and so collects nothing.
    pub(super) async fn lease(&self, store: &dyn Store) -> Result<Option<String>> {
        let Some(leases) = store.leases() else { return Ok(None) };
        let mut current = self.current.lock().await;
        Ok(Some(self.renewed(leases, &mut current).await?.lease.clone()))
    }

    /// Holds something. Does nothing where content is known to be held. An ingest is asked for each time: whether the lease is still there
    /// matters to who writes under it.
    pub(super) async fn hold(&self, store: &dyn Store, resource: Resource) -> Result<()> {
        let Some(leases) = store.leases() else { return Ok(()) };
        let mut slot = self.current.lock().await;
        let current = self.renewed(leases, &mut slot).await?;
        if current.held.contains(&resource) {
            return Ok(());
        }
        match leases.add_resource(&current.lease, &resource).await {
            // Somebody has removed the lease.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                *slot = None;
                let current = self.renewed(leases, &mut slot).await?;
                leases.add_resource(&current.lease, &resource).await?;
            }
            added => {
                added?;
                if current.held.len() >= MAX_REMEMBERED {
                    current.held.clear();
                }
                if let Resource::Content(_) = resource {
                    current.held.insert(resource);
                }
            }
        }
        Ok(())
    }

    async fn renewed<'a>(
        &self,
        leases: &dyn LeaseManager,
        slot: &'a mut Option<Current>,
    ) -> Result<&'a mut Current> {
        if let Some(current) = slot.take().filter(|current| current.since.elapsed() < self.grace) {
            return Ok(slot.insert(current));
        }
        let since = Instant::now();
        let options = LeaseOptions::new().lasting(self.grace.saturating_mul(2));
        let lease = leases.create_lease(options).await?.id;
        Ok(slot.insert(Current { lease, since, held: HashSet::new() }))
    }
}
