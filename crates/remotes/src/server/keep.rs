//! What holds content that was pushed and is part of no image yet.
//!
//! A client pushes blobs first and the manifest last, and a blob that it was told is there it does not push. Between the two a collection
//! must not take them, in this process or after it, so that a lease holds them: one for all, a new one every [grace](super::UPLOAD_GRACE),
//! and each lasts twice as long. For that time, and where a request works under it for longer, it is held by a lock as well, so that the
//! clock, which may be set, and a machine that sleeps have no say in it.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex as SyncMutex, PoisonError},
    time::{Duration, Instant},
};

use http::{Method, request::Parts};
use tokio::{sync::Mutex, task::JoinSet};
use wharf_content::{Digest, ErrorKind, LeaseManager, LeaseOptions, Resource, Result, Store, lease::Hold};

use super::Registry;

/// The most resources that are remembered as held; beyond it the store is asked again.
const MAX_REMEMBERED: usize = 16 * 1024;

/// A grace that is longer is as good as for ever, and a lease cannot last longer than its time can be told.
const MAX_GRACE: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// The lease of the moment.
#[derive(Debug)]
pub(super) struct Keeper {
    grace: Duration,
    current: Arc<Mutex<Option<Current>>>,
    /// What lets go of leases, until the registry ends.
    timers: SyncMutex<JoinSet<()>>,
}

#[derive(Debug)]
struct Current {
    lease: Kept,
    since: Instant,
    held: HashSet<Resource>,
}

/// A lease that holds what it has for as long as this is kept, whatever the clock says.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    id: String,
    _hold: Arc<dyn Hold>,
}

impl Kept {
    pub(super) fn id(&self) -> &str {
        &self.id
    }
}

impl Registry {
    /// Holds what a client is told to be there by an answer to HEAD: it may be about to push something made of it.
    pub(super) async fn hold_asked(&self, digest: &Digest, head: &Parts) -> Result<()> {
        if head.method != Method::HEAD || !self.takes_pushes() {
            return Ok(());
        }
        match self.inner.keeper.hold(self.store(), Resource::Content(digest.clone())).await {
            Err(error) if error.kind() == ErrorKind::Unavailable => Err(error),
            // Nothing can be pushed then, which is no reason to keep back what is here.
            Err(error) => {
                tracing::warn!(%digest, error = %error.report(), "what was asked for cannot be held");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }
}

impl Keeper {
    pub(super) fn new(grace: Duration) -> Self {
        Self { grace: grace.min(MAX_GRACE), current: Arc::default(), timers: SyncMutex::default() }
    }

    /// A lease that lasts at least the grace from now; `None` where the store has no leases, and so collects nothing.
    pub(super) async fn lease(&self, store: &dyn Store) -> Result<Option<Kept>> {
        let Some(leases) = store.leases() else { return Ok(None) };
        let mut slot = self.current.lock().await;
        let kept = self.renewed(leases, &mut slot).await?.lease.clone();
        self.forget_ungraced(&mut slot);
        Ok(Some(kept))
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
        match leases.add_resource(current.lease.id(), &resource).await {
            // Somebody has removed the lease.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                *slot = None;
                let current = self.renewed(leases, &mut slot).await?;
                leases.add_resource(current.lease.id(), &resource).await?;
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
        self.forget_ungraced(&mut slot);
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
        let options = LeaseOptions::new().lasting(self.grace * 2);
        let (lease, hold) = leases.hold_lease(options).await?;
        let lease = Kept { id: lease.id, _hold: hold.into() };
        self.let_go_later(lease.clone());
        Ok(slot.insert(Current { lease, since, held: HashSet::new() }))
    }

    /// Holds a lease by its lock for as long as it lasts.
    fn let_go_later(&self, lease: Kept) {
        let (lasts, current) = (self.grace * 2, Arc::downgrade(&self.current));
        if lasts.is_zero() {
            return;
        }
        let mut timers = self.timers.lock().unwrap_or_else(PoisonError::into_inner);
        while timers.try_join_next().is_some() {}
        timers.spawn(async move {
            tokio::time::sleep(lasts).await;
            let Some(current) = current.upgrade() else { return };
            let mut slot = current.lock().await;
            if slot.as_ref().is_some_and(|current| current.lease.id == lease.id) {
                *slot = None;
            }
        });
    }

    /// Keeps nothing beyond a request where there is no grace.
    fn forget_ungraced(&self, slot: &mut Option<Current>) {
        if self.grace.is_zero() {
            *slot = None;
        }
    }
}
