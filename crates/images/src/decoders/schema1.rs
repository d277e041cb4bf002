//! Docker's first image format, which is recognised so that it can be refused by name. Its layers are named by `fsLayers` and carry no
//! sizes, so that there are no descriptors to go on with.

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
            "{} is a Docker schema 1 manifest, a format that was replaced in 2016: have the image pushed again by a current tool",
            descriptor.digest
        )))
    }
}
