//! WebAssembly modules and components in registries.
//!
//! Sources: CNCF TAG Runtime, "Wasm OCI Artifact layout" (`application/vnd.wasm.config.v0+json` with layers `application/wasm`), and the
//! two older forms that are still found, wasm-to-oci's and Solo.io's. The code itself is not looked into.

use serde::Deserialize;
use wharf_content::{Descriptor, Result};
use wharf_platforms::Platform;

use super::{leaf::Leaf, list, said};
use crate::{
    artifact::{ArtifactDecoder, TITLE, VERSION},
    decode::{Decoded, Kind, ManifestDecoder},
    json,
};

const CONFIG: &str = "application/vnd.wasm.config.v0+json";
const CONFIG_WASM_TO_OCI: &str = "application/vnd.wasm.config.v1+json";
const CONFIG_SOLO: &str = "application/vnd.module.wasm.config.v1+json";

crate::register_manifest_decoder! {
    name: "wasm-config", keys: [CONFIG, CONFIG_WASM_TO_OCI, CONFIG_SOLO], make: Config
}
crate::register_manifest_decoder! {
    name: "wasm-leaf",
    keys: [
        "application/wasm",
        "application/vnd.wasm.content.layer.v1+wasm",
        "application/vnd.module.wasm.content.layer.v1+wasm",
    ],
    make: Leaf
}
crate::register_artifact_decoder! {
    name: "wasm", keys: [CONFIG, CONFIG_WASM_TO_OCI, CONFIG_SOLO], make: Module
}

#[derive(Debug)]
struct Config;

/// The older forms have `{}`, or settings of the runtime that are not ours.
#[derive(Deserialize)]
struct View {
    #[serde(default)]
    created: Option<String>,
    #[serde(default)]
    author: Option<String>,
    #[serde(default)]
    os: Option<String>,
    #[serde(default)]
    architecture: Option<String>,
    #[serde(default)]
    component: Option<Component>,
}

#[derive(Deserialize)]
struct Component {
    #[serde(default)]
    exports: Option<Vec<String>>,
    #[serde(default)]
    imports: Option<Vec<String>>,
    #[serde(default)]
    target: Option<String>,
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
        let what = if view.component.is_some() { "component" } else { "module" };
        let mut decoded = Decoded::default().with_description(format!("WebAssembly {what}"));
        decoded.platform = said(view.os)
            .zip(said(view.architecture))
            .map(|(os, architecture)| Platform::new(os, architecture));
        let (mut exports, mut imports, mut target) = (None, None, None);
        if let Some(component) = view.component {
            exports = component.exports.as_deref().map(list);
            imports = component.imports.as_deref().map(list);
            target = component.target;
        }
        decoded.facts = [
            ("author", view.author),
            ("created", view.created),
            ("exports", exports),
            ("imports", imports),
            ("target", target),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), said(value)?)))
        .collect();
        Ok(decoded)
    }
}

#[derive(Debug)]
struct Module;

impl ArtifactDecoder for Module {
    fn refine(&self, _: &Descriptor, mut decoded: Decoded) -> Result<Decoded> {
        let words: Vec<&str> = std::iter::once("WebAssembly")
            .chain([TITLE, VERSION].iter().filter_map(|key| decoded.facts.get(*key)).map(|text| text.trim()))
            .filter(|word| !word.is_empty())
            .collect();
        decoded.description = Some(words.join(" "));
        Ok(decoded)
    }
}
