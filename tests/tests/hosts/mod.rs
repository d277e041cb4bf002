//! Configuration of hosts in a directory of a test's own, and an image to put into registries.

#![allow(dead_code, reason = "each test binary uses what it needs")]

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use wharf_content::{Descriptor, Digest, MemoryStore, Result, Store, read_blob};
use wharf_images::{Image, MemoryImages, Selection};
use wharf_remotes::{
    PullOptions,
    registry::{RegistriesConf, RegistryResolver, RegistrySettings},
};
use wharf_tests::{ImageFixture, Layer, ScriptedRegistry, scripted::Contents};

pub(crate) fn settings() -> RegistrySettings {
    RegistrySettings::new().with_retries(0, Duration::ZERO)
}

/// A directory of hosts and a `registries.conf`.
pub(crate) struct Root {
    dir: tempfile::TempDir,
}

impl Root {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("temporary directory") }
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    pub(crate) fn with(self, path: &str, content: impl AsRef<[u8]>) -> Self {
        let path = self.path(path);
        fs::create_dir_all(path.parent().expect("has one")).expect("makes");
        fs::write(path, content).expect("writes");
        self
    }

    pub(crate) fn with_hosts(self, host: &str, text: &str) -> Self {
        let name = host.split_once(':').map(|(name, port)| format!("{name}_{port}_"));
        self.with(&format!("certs.d/{}/hosts.toml", name.as_deref().unwrap_or(host)), text)
    }

    pub(crate) fn with_registries_conf(self, text: &str) -> Self {
        self.with("registries.conf", text)
    }

    pub(crate) fn settings(&self) -> RegistrySettings {
        settings()
            .with_hosts_dirs([self.path("certs.d")])
            .with_registries_conf(RegistriesConf::directories(None, self.dir.path()))
    }
}

/// An image of one layer.
pub(crate) struct Fixture {
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) root: Descriptor,
    pub(crate) layer: Descriptor,
    manifest: Vec<u8>,
    blobs: Vec<(Digest, Vec<u8>)>,
}

impl Fixture {
    pub(crate) async fn new() -> Self {
        let store = Arc::new(MemoryStore::new());
        let image = ImageFixture::new().with("linux/amd64", vec![Layer::noise("data", 20_000, 5)]);
        let root = image.write(store.as_ref()).await.expect("writes");
        let read = async |descriptor: &Descriptor| {
            read_blob(store.as_ref(), descriptor, 1 << 20).await.expect("there").to_vec()
        };
        let manifest = read(&root).await;
        let parsed: serde_json::Value = serde_json::from_slice(&manifest).expect("JSON");
        let part = |value: &serde_json::Value| -> Descriptor {
            serde_json::from_value(value.clone()).expect("a descriptor")
        };
        let (config, layer) = (part(&parsed["config"]), part(&parsed["layers"][0]));
        let blobs =
            vec![(config.digest.clone(), read(&config).await), (layer.digest.clone(), read(&layer).await)];
        Self { root, layer, manifest, blobs, store: Arc::clone(&store) }
    }

    /// How many bytes the layer has.
    pub(crate) fn layer_len(&self) -> usize {
        usize::try_from(self.layer.size).expect("a layer of some thousand bytes")
    }

    /// Puts the image into a registry, by its digest and under the tag 1.
    pub(crate) fn fill(&self, contents: &Contents) {
        let digest = self.root.digest.to_string();
        for name in [digest, "1".to_owned()] {
            contents.manifests().insert(name, (self.root.media_type.clone(), self.manifest.clone()));
        }
        for (digest, bytes) in &self.blobs {
            contents.blobs().insert(digest.to_string(), bytes.clone());
        }
    }
}

/// Pulls into an empty store.
pub(crate) async fn pull(settings: RegistrySettings, name: &str) -> Result<Image> {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let resolver = RegistryResolver::new(settings);
    let options = PullOptions::new().with_selection(Selection::all());
    wharf_remotes::pull(store, &MemoryImages::new(), &resolver, name, options).await
}

/// What a registry was asked.
pub(crate) fn lines(registry: &ScriptedRegistry) -> Vec<String> {
    let requests = registry.contents.requests();
    requests.iter().map(|request| format!("{} {}", request.method, request.path)).collect()
}
