//! OCI's and Docker's image manifest, which is also the form of most artifacts: a config and layers.

use wharf_content::{Descriptor, Error, Result};

use super::{document::Document, in_toto};
use crate::{
    decode::{Child, Decoded, Kind, ManifestDecoder, Role},
    media_types as types,
};

crate::register_manifest_decoder! {
    name: "manifest", keys: [types::OCI_MANIFEST, types::DOCKER_MANIFEST], make: Manifest
}

#[derive(Debug)]
struct Manifest;

impl ManifestDecoder for Manifest {
    fn kind(&self) -> Kind {
        Kind::Manifest
    }

    fn decode(&self, descriptor: &Descriptor, bytes: &[u8]) -> Result<Decoded> {
        let mut document = Document::read(descriptor, bytes, &["manifests", "blobs"], types::is_manifest)?;
        let config = document.config.take().ok_or_else(|| {
            Error::invalid_argument(format!("manifest {} has no config", descriptor.digest))
        })?;
        // What an artifact is, its config's type tells where nothing else does (OCI image specification, `manifest.md`, artifacts).
        let by_config = (!types::is_config(&config.media_type) && config.media_type != types::OCI_EMPTY)
            .then(|| config.media_type.clone());
        let layers = document.layers.take().unwrap_or_default();
        let mut children = Vec::with_capacity(1 + layers.len());
        children.push(Child { descriptor: config, role: Role::Config });
        children.extend(layers.into_iter().map(|descriptor| Child { descriptor, role: Role::Layer }));
        let mut decoded = document.decoded(children);
        decoded.artifact_type = decoded.artifact_type.or(super::said(by_config));
        decoded.description = in_toto::describe_manifest(descriptor, &decoded);
        Ok(decoded)
    }
}
