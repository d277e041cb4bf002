//! Image configs, OCI's and Docker's: the platform, and when and by whom the image was made. What a container is to run is for those who
//! read the config itself.

use serde::Deserialize;
use wharf_content::{Descriptor, Result};

use super::said;
use crate::{
    decode::{Decoded, Kind, ManifestDecoder},
    image::platform_of_config,
    json, media_types as types,
};

crate::register_manifest_decoder! {
    name: "config", keys: [types::OCI_CONFIG, types::DOCKER_CONFIG], make: Config
}

#[derive(Debug)]
struct Config;

#[derive(Deserialize)]
struct View {
    #[serde(default)]
    created: Option<String>,
    #[serde(default)]
    author: Option<String>,
}

impl ManifestDecoder for Config {
    fn kind(&self) -> Kind {
        Kind::Leaf
    }

    fn reads_content(&self) -> bool {
        true
    }

    fn decode(&self, descriptor: &Descriptor, bytes: &[u8]) -> Result<Decoded> {
        let view: View = json::view(descriptor, bytes)?;
        let mut decoded = Decoded::default();
        decoded.platform = platform_of_config(bytes);
        decoded.description = decoded
            .platform
            .as_ref()
            .map(|platform| format!("for {}", wharf_platforms::format_all(platform)));
        decoded.facts = [("created", view.created), ("author", view.author)]
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), said(value)?)))
            .collect();
        Ok(decoded)
    }
}
