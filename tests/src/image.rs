//! Images made in code: real layers, configs, manifests and indexes.

use std::io::Write;

use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use wharf_content::{CommitOptions, Descriptor, Digest, Result, Store, write_blob};
use wharf_images::{Image, ImageStore, media_types as types};
use wharf_platforms::Platform;

/// A layer: files with their content, executable or not.
#[derive(Clone, Debug, Default)]
pub struct Layer {
    files: Vec<(String, Vec<u8>, u32)>,
}

impl Layer {
    /// A layer of one file.
    pub fn of(path: &str, content: impl Into<Vec<u8>>) -> Self {
        Self::default().with(path, content, 0o644)
    }

    /// A layer of one file whose content does not compress, the same for the same seed.
    pub fn noise(path: &str, len: usize, seed: u64) -> Self {
        Self::of(path, noise(len, seed))
    }

    /// Adds a file.
    #[must_use]
    pub fn with(mut self, path: &str, content: impl Into<Vec<u8>>, mode: u32) -> Self {
        self.files.push((path.to_owned(), content.into(), mode));
        self
    }

    /// The layer as a plain tar stream.
    pub fn tar(&self) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, content, mode) in &self.files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(*mode);
            builder.append_data(&mut header, path, content.as_slice()).expect("writing to memory");
        }
        builder.into_inner().expect("writing to memory")
    }
}

/// Bytes that do not compress, the same for the same seed.
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// An image of one or several platforms.
#[derive(Clone, Debug)]
pub struct ImageFixture {
    platforms: Vec<(Platform, Vec<Layer>)>,
    docker: bool,
}

impl Default for ImageFixture {
    fn default() -> Self {
        Self::new()
    }
}

impl ImageFixture {
    /// An image of no platform yet.
    pub fn new() -> Self {
        Self { platforms: Vec::new(), docker: false }
    }

    /// Adds a platform with its layers, lowest first.
    #[must_use]
    pub fn with(mut self, platform: &str, layers: Vec<Layer>) -> Self {
        let platform = wharf_platforms::parse(platform).expect("a platform");
        self.platforms.push((platform, layers));
        self
    }

    /// Uses Docker's media types instead of OCI's.
    #[must_use]
    pub fn docker(mut self) -> Self {
        self.docker = true;
        self
    }

    fn media_type(&self, oci: &'static str, docker: &'static str) -> &'static str {
        if self.docker { docker } else { oci }
    }

    /// Writes an image of one platform and gives its manifest.
    async fn write_platform(
        &self,
        store: &dyn Store,
        platform: &Platform,
        layers: &[Layer],
    ) -> Result<Descriptor> {
        let (mut diff_ids, mut descriptors) = (Vec::new(), Vec::new());
        for layer in layers {
            let tar = layer.tar();
            diff_ids.push(Digest::sha256(&tar));
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(&tar).expect("writing to memory");
            let gzipped = encoder.finish().expect("writing to memory");
            let media_type = self.media_type(types::OCI_LAYER_GZIP, types::DOCKER_LAYER_GZIP);
            descriptors.push(put(store, media_type, gzipped).await?);
        }
        let mut config = json!({
            "config": { "Cmd": ["/bin/app"], "Env": ["PATH=/bin"] },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
            "history": layers.iter().map(|_| json!({ "created_by": "a fixture" })).collect::<Vec<_>>(),
        });
        let named = serde_json::to_value(platform).expect("a platform is JSON");
        merge(&mut config, &named);
        let config = put(
            store,
            self.media_type(types::OCI_CONFIG, types::DOCKER_CONFIG),
            serde_json::to_vec(&config).expect("JSON"),
        )
        .await?;
        let media_type = self.media_type(types::OCI_MANIFEST, types::DOCKER_MANIFEST);
        let manifest = json!({
            "schemaVersion": 2, "mediaType": media_type, "config": config, "layers": descriptors,
        });
        // Pretty, so that nobody who writes it again gets the same bytes by chance.
        put(store, media_type, serde_json::to_vec_pretty(&manifest).expect("JSON")).await
    }

    /// Writes the image and gives its root: an index, or a manifest where there is one platform only.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn write(&self, store: &dyn Store) -> Result<Descriptor> {
        let mut manifests = Vec::new();
        for (platform, layers) in &self.platforms {
            let manifest = self.write_platform(store, platform, layers).await?;
            manifests.push(manifest.with_platform(platform.clone()));
        }
        if let [manifest] = &manifests[..] {
            return Ok(Descriptor { platform: None, ..manifest.clone() });
        }
        let media_type = self.media_type(types::OCI_INDEX, types::DOCKER_LIST);
        let index = json!({ "schemaVersion": 2, "mediaType": media_type, "manifests": manifests });
        put(store, media_type, serde_json::to_vec_pretty(&index).expect("JSON")).await
    }

    /// Writes the image and records it under `name`.
    ///
    /// # Errors
    /// Those of the stores.
    pub async fn record(&self, store: &dyn Store, images: &dyn ImageStore, name: &str) -> Result<Image> {
        let target = self.write(store).await?;
        wharf_images::record::put(images, Image::new(name, target)).await
    }
}

fn merge(into: &mut Value, from: &Value) {
    for (key, value) in from.as_object().expect("an object") {
        into[key] = value.clone();
    }
}

/// Writes a blob and gives its descriptor.
///
/// # Errors
/// Those of the store.
pub async fn put(store: &dyn Store, media_type: &str, bytes: Vec<u8>) -> Result<Descriptor> {
    let descriptor = Descriptor::of(media_type, &bytes);
    let name = format!("fixture-{}", descriptor.digest);
    write_blob(store, &name, &descriptor, bytes.into(), CommitOptions::default()).await?;
    Ok(descriptor)
}
