//! Docker's first image format, which a pull converts and nothing else reads. Its layers are named by `fsLayers` and carry no sizes, so
//! that there are no descriptors to go on with.

use wharf_content::{Descriptor, Error, Result};

use crate::{
    decode::{Decoded, Kind, ManifestDecoder},
    media_types as types,
};

crate::register_manifest_decoder! {
    name: "schema1", keys: [types::DOCKER_SCHEMA1, types::DOCKER_SCHEMA1_UNSIGNED], make: Schema1
}

#[derive(Debug)]
struct Schema1;

impl ManifestDecoder for Schema1 {
    fn kind(&self) -> Kind {
        Kind::Manifest
    }

    fn decode(&self, descriptor: &Descriptor, _: &[u8]) -> Result<Decoded> {
        Err(Error::not_implemented(format!(
            "{} is a Docker schema 1 manifest, a format that was replaced in 2016: `pull` converts it, and nothing else reads it",
            descriptor.digest
        )))
    }
}
