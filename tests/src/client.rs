//! A store on disk and what pulls into it, verifies it and repairs it: what a test of a client begins with.

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use wharf_content::{
    Catalogue, Digest, Info, LocalStore, Manager, Result, Store, filter::FilterSet, verify::VerifyOptions,
};
use wharf_images::{
    Image, ImageStore, image_store,
    transport::{Resolver, TransportOptions, Transports},
    verify::{Report, verify},
};
use wharf_remotes::{PullOptions, RepairOptions, Repaired, pull, registry::RegistrySettings, repair};

/// A store in a directory of its own, and a resolver by the transport that is linked. What cannot be reached is not asked twice.
#[derive(Debug)]
pub struct Client {
    _dir: tempfile::TempDir,
    /// The store.
    pub store: Arc<LocalStore>,
    /// Its images.
    pub images: Arc<dyn ImageStore>,
    /// Where it pulls from.
    pub resolver: Arc<dyn Resolver>,
}

impl Client {
    /// An empty store.
    ///
    /// # Panics
    /// When there is no place for it.
    pub async fn new() -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let store = Arc::new(LocalStore::open(dir.path().join("store")).await.expect("opens"));
        let images = image_store(store.as_ref()).expect("opens");
        let transport =
            Catalogue::linked().find::<Transports>("docker").expect("no conflict").expect("linked");
        let settings = RegistrySettings::new().with_retries(0, Duration::ZERO);
        let resolver = transport.resolver(&TransportOptions::new().with(settings)).expect("makes a resolver");
        Self { _dir: dir, store, images, resolver }
    }

    /// The store, to keep.
    pub fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    /// Pulls an image.
    ///
    /// # Errors
    /// Those of [`pull()`].
    pub async fn pull(&self, name: &str, options: PullOptions) -> Result<Image> {
        pull(self.store(), self.images.as_ref(), self.resolver.as_ref(), name, options).await
    }

    /// Verifies the whole store.
    ///
    /// # Panics
    /// When that fails, which is not that something is wrong with the store.
    pub async fn verify(&self) -> Report {
        verify(self.store(), self.images.as_ref(), &VerifyOptions::default(), Catalogue::linked())
            .await
            .expect("verifies")
    }

    /// Verifies and repairs the whole store.
    ///
    /// # Panics
    /// When that fails, which is not that something could not be repaired.
    pub async fn repair(&self) -> Repaired {
        let report = self.verify().await;
        repair(self.store(), self.images.as_ref(), self.resolver.as_ref(), report, &RepairOptions::new())
            .await
            .expect("repairs")
    }

    /// The file of a blob.
    pub fn blob(&self, digest: &Digest) -> PathBuf {
        self.store.root().join("blobs").join(digest.algorithm().as_str()).join(digest.hex())
    }

    /// What is in quarantine.
    ///
    /// # Panics
    /// When it cannot be listed.
    pub fn quarantine(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.store.root().join("quarantine")) else { return Vec::new() };
        entries.map(|entry| entry.expect("lists").path()).collect()
    }

    /// The digests of all blobs.
    ///
    /// # Panics
    /// When they cannot be listed.
    pub async fn blobs(&self) -> Vec<Digest> {
        let mut digests = Vec::new();
        let mut visit = |info: Info| {
            digests.push(info.digest);
            Ok(())
        };
        self.store.walk(&FilterSet::all(), &mut visit).await.expect("walks");
        digests
    }
}
