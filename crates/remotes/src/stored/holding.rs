//! A store under a lease that is taken at the first use and let go when the work is done.

use std::sync::Arc;

use tokio::sync::Mutex;
use wharf_content::{Labels, LeasedStore, Result, Store};

/// What the store is used for, which decides whether its lease outlives a process that is interrupted.
#[derive(Clone, Copy, Debug)]
enum Use {
    Reading,
    Writing,
}

/// The store, and the lease where there is one.
#[derive(Debug)]
pub(super) struct Holding {
    store: Arc<dyn Store>,
    purpose: Use,
    leased: Mutex<Option<Arc<LeasedStore>>>,
}

impl Holding {
    /// For content that goes out.
    pub(super) fn to_read(store: Arc<dyn Store>) -> Self {
        Self { store, purpose: Use::Reading, leased: Mutex::new(None) }
    }

    /// For content that comes in: what has come can be gone on with for a day.
    pub(super) fn to_write(store: Arc<dyn Store>) -> Self {
        Self { store, purpose: Use::Writing, leased: Mutex::new(None) }
    }

    /// The store without a lease, to look into it.
    pub(super) fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The store under the lease.
    pub(super) async fn leased(&self) -> Result<Arc<LeasedStore>> {
        let mut leased = self.leased.lock().await;
        if let Some(leased) = leased.as_ref() {
            return Ok(Arc::clone(leased));
        }
        let store = Arc::clone(&self.store);
        let new = match self.purpose {
            Use::Reading => LeasedStore::hold_while_at_work(store).await?,
            Use::Writing => LeasedStore::hold(store, Labels::new()).await?,
        };
        *leased = Some(Arc::clone(&new));
        Ok(new)
    }

    /// Ends the lease. The next use takes another.
    pub(super) async fn release(&self) -> Result<()> {
        match self.leased.lock().await.take() {
            Some(leased) => leased.release().await,
            None => Ok(()),
        }
    }
}
