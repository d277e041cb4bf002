//! The artifact manifest of the OCI image specification's release candidates: blobs and a subject, without a config. It was withdrawn
//! before version 1.1, and registries still have some.

use wharf_content::{Descriptor, Result};

use super::document::Document;
use crate::{
    decode::{Child, Decoded, Kind, ManifestDecoder, Role},
    media_types as types,
};

crate::register_manifest_decoder! {
    name: "artifact-manifest", keys: [types::OCI_ARTIFACT_MANIFEST], make: ArtifactManifest
}

#[derive(Debug)]
struct ArtifactManifest;

impl ManifestDecoder for ArtifactManifest {
    fn kind(&self) -> Kind {
        Kind::Manifest
    }

    fn decode(&self, descriptor: &Descriptor, bytes: &[u8]) -> Result<Decoded> {
        let foreign = ["config", "layers", "manifests"];
        let mut document =
            Document::read(descriptor, bytes, &foreign, |own| own == types::OCI_ARTIFACT_MANIFEST)?;
        let blobs = document.blobs.take().unwrap_or_default();
        let children = blobs.into_iter().map(|descriptor| Child { descriptor, role: Role::Layer });
        Ok(document.decoded(children.collect()))
    }
}
