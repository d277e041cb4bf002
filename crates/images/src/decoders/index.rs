//! OCI's index and Docker's manifest list: alternatives by platform.

use wharf_content::{Descriptor, Result};

use super::document::Document;
use crate::{
    decode::{Child, Decoded, Kind, ManifestDecoder, Role},
    media_types as types,
};

crate::register_manifest_decoder! {
    name: "index", keys: [types::OCI_INDEX, types::DOCKER_LIST], make: Index
}

#[derive(Debug)]
struct Index;

impl ManifestDecoder for Index {
    fn kind(&self) -> Kind {
        Kind::Index
    }

    fn decode(&self, descriptor: &Descriptor, bytes: &[u8]) -> Result<Decoded> {
        let foreign = ["config", "layers", "blobs"];
        let mut document = Document::read(descriptor, bytes, &foreign, types::is_index)?;
        let manifests = document.manifests.take().unwrap_or_default();
        let children = manifests.into_iter().map(|descriptor| Child { descriptor, role: Role::Manifest });
        Ok(document.decoded(children.collect()))
    }
}
