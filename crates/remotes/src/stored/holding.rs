//! A store under a lease that is taken at the first use and let go when the work is done.

use std::sync::Arc;

use tokio::sync::Mutex;
use wharf_content::{Labels, LeasedStore, Result, Store};

/// The store, and the lease where there is one.
#[derive(Debug)]
pub(super) struct Holding {
    store: Arc<dyn Store>,
    leased: Mutex<Option<Arc<LeasedStore>>>,
}

impl Holding {
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        Self { store, leased: Mutex::new(None) }
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
        let new = LeasedStore::hold(Arc::clone(&self.store), Labels::new()).await?;
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
