//! Layers and other content that has no children and says nothing of itself.

use wharf_content::{Descriptor, Result};

use crate::{
    decode::{Decoded, Kind, ManifestDecoder},
    media_types as types,
};

crate::register_manifest_decoder! {
    name: "oci-leaf",
    keys: [
        types::OCI_EMPTY,
        types::OCI_LAYER,
        types::OCI_LAYER_GZIP,
        types::OCI_LAYER_ZSTD,
        types::OCI_LAYER_NON_DISTRIBUTABLE,
        types::OCI_LAYER_NON_DISTRIBUTABLE_GZIP,
        types::OCI_LAYER_NON_DISTRIBUTABLE_ZSTD,
        types::OCI_LAYER_ENCRYPTED,
        types::OCI_LAYER_GZIP_ENCRYPTED,
        types::EROFS_LAYER,
    ],
    make: Leaf
}
crate::register_manifest_decoder! {
    name: "docker-leaf",
    keys: [
        types::DOCKER_LAYER,
        types::DOCKER_LAYER_GZIP,
        types::DOCKER_LAYER_ZSTD,
        types::DOCKER_LAYER_FOREIGN,
        types::DOCKER_LAYER_FOREIGN_GZIP,
    ],
    make: Leaf
}

/// What can be said is said by the media type.
#[derive(Debug)]
pub(super) struct Leaf;

impl ManifestDecoder for Leaf {
    fn kind(&self) -> Kind {
        Kind::Leaf
    }

    fn decode(&self, descriptor: &Descriptor, _: &[u8]) -> Result<Decoded> {
        let mut remarks = Vec::new();
        if types::is_encrypted(&descriptor.media_type) {
            remarks.push("encrypted");
        }
        if types::is_non_distributable(&descriptor.media_type) {
            remarks.push("not to be distributed");
        }
        if remarks.is_empty() {
            return Ok(Decoded::default());
        }
        Ok(Decoded::default().with_description(remarks.join(", ")))
    }
}
