//! What is pushed: an image of noise, which is another one for each seed.

use bytes::Bytes;
use serde_json::json;
use wharf_content::{Descriptor, Digest};
use wharf_images::media_types as types;

use crate::image::noise;

/// An image as it is pushed.
#[derive(Clone, Debug)]
pub(super) struct Image {
    /// Config and layers.
    pub(super) blobs: Vec<(Digest, Bytes)>,
    /// The manifest.
    pub(super) manifest: Bytes,
    /// Its digest.
    pub(super) digest: Digest,
}

impl Image {
    /// An image with layers of these sizes, in bytes.
    pub(super) fn new(seed: u64, layers: &[usize]) -> Self {
        let config = json!({ "architecture": "amd64", "os": "linux", "seed": seed }).to_string();
        let layers = (0_u64..).zip(layers).map(|(number, len)| noise(*len, seed * 16 + number));
        let blobs: Vec<Vec<u8>> = std::iter::once(config.into_bytes()).chain(layers).collect();
        let mut media_types = std::iter::once(types::OCI_CONFIG).chain(std::iter::repeat(types::OCI_LAYER));
        let described: Vec<Descriptor> =
            blobs.iter().filter_map(|bytes| Some(Descriptor::of(media_types.next()?, bytes))).collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": types::OCI_MANIFEST,
            "config": described[0], "layers": described[1..],
        });
        let manifest = Bytes::from(manifest.to_string());
        let digests = described.into_iter().map(|described| described.digest);
        Self {
            digest: Digest::sha256(&manifest),
            manifest,
            blobs: digests.zip(blobs.into_iter().map(Bytes::from)).collect(),
        }
    }
}
