//! The store factories that this crate registers.

use std::{path::Path, sync::Arc};

use async_trait::async_trait;

use crate::{
    error::{Error, Result},
    local::LocalStore,
    memory::MemoryStore,
    store::Store,
    url::StoreFactory,
};

crate::register_store_factory! { name: "local", keys: ["file"], make: Local }
crate::register_store_factory! { name: "memory", keys: ["memory"], make: Memory }

#[derive(Debug)]
struct Local;

#[async_trait]
impl StoreFactory for Local {
    async fn open(&self, location: &str) -> Result<Arc<dyn Store>> {
        Ok(Arc::new(LocalStore::open(Path::new(location)).await?))
    }
}

#[derive(Debug)]
struct Memory;

#[async_trait]
impl StoreFactory for Memory {
    async fn open(&self, location: &str) -> Result<Arc<dyn Store>> {
        if !location.is_empty() {
            return Err(Error::invalid_argument(format!(
                "a memory store has no location, yet {location:?} was given"
            )));
        }
        Ok(Arc::new(MemoryStore::new()))
    }
}
