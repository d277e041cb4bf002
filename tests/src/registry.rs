//! wharf's own registry in this process, over a store in memory or on disk, with a log of what it was asked.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};
use wharf_content::{MemoryStore, Result, Store};
use wharf_images::{Image, ImageStore, MemoryImages};
use wharf_remotes::server::{AccessRecord, Registry, RegistryOptions, serve};

use crate::image::ImageFixture;

/// A running registry. It ends when this is dropped.
#[derive(Debug)]
pub struct TestRegistry {
    address: SocketAddr,
    store: Arc<dyn Store>,
    images: Arc<dyn ImageStore>,
    log: Arc<Mutex<Vec<AccessRecord>>>,
    _stop: oneshot::Sender<()>,
    _task: JoinHandle<()>,
}

impl TestRegistry {
    /// Serves an empty store in memory.
    ///
    /// # Panics
    /// When there is no loopback.
    pub async fn start() -> Self {
        Self::over(Arc::new(MemoryStore::new()), Arc::new(MemoryImages::new())).await
    }

    /// Serves a store.
    ///
    /// # Panics
    /// When there is no loopback.
    pub async fn over(store: Arc<dyn Store>, images: Arc<dyn ImageStore>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
        let address = listener.local_addr().expect("bound");
        let log = Arc::new(Mutex::new(Vec::new()));
        let written = Arc::clone(&log);
        let options = RegistryOptions::default().with_observer(move |record: &AccessRecord| {
            written.lock().unwrap_or_else(PoisonError::into_inner).push(record.clone());
        });
        let registry = Registry::with_options(Arc::clone(&store), Arc::clone(&images), options);
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            let shutdown = async { drop(stopped.await) };
            serve(registry, listener, shutdown).await.expect("serves");
        });
        Self { address, store, images, log, _stop: stop, _task: task }
    }

    /// The address as it stands in a reference.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// The reference of a repository and tag here.
    pub fn reference(&self, repository_and_tag: &str) -> String {
        format!("{}/{repository_and_tag}", self.address)
    }

    /// The store that is served.
    pub fn store(&self) -> &dyn Store {
        self.store.as_ref()
    }

    /// The store that is served, to keep.
    pub fn shared_store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store)
    }

    /// The record of an image.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn image(&self, name: &str) -> Result<Image> {
        self.images.get(name).await
    }

    /// Puts an image under a repository and tag, and gives its reference.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn put(&self, repository_and_tag: &str, image: &ImageFixture) -> Result<String> {
        let name = self.reference(repository_and_tag);
        image.record(self.store.as_ref(), self.images.as_ref(), &name).await?;
        Ok(name)
    }

    /// Records an image whose content is there.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn record(&self, image: Image) -> Result<Image> {
        wharf_images::record::put(self.images.as_ref(), image).await
    }

    /// Takes the log of what was asked so far.
    pub fn take_log(&self) -> Vec<AccessRecord> {
        std::mem::take(&mut *self.log.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
