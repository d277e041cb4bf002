//! The decoders that this crate registers, each family in a file of its own.
//!
//! They use the macros that a plugin uses and have no privilege over it. Helm charts, WebAssembly and artifacts of any type are behind
//! the features `helm`, `wasm` and `artifacts`: they show what a plugin can do, and who does not want them leaves them out.

#[cfg(feature = "artifacts")]
mod any_artifact;
mod artifact_manifest;
mod checkpoint;
mod config;
mod document;
#[cfg(feature = "helm")]
mod helm;
mod in_toto;
mod index;
mod leaf;
mod manifest;
mod schema1;
#[cfg(feature = "wasm")]
mod wasm;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::decode::ManifestDecoder;

/// A decoder for what has no children and says nothing of itself.
pub(crate) fn leaf() -> Arc<dyn ManifestDecoder> {
    Arc::new(leaf::Leaf)
}

/// A text from a document where it says something.
fn said(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.trim().is_empty())
}

/// Several names in one line, the first few of them where there are many.
fn list<S: AsRef<str>>(names: &[S]) -> String {
    const NAMED: usize = 8;
    let named: Vec<&str> = names.iter().take(NAMED).map(AsRef::as_ref).collect();
    let mut line = named.join(", ");
    if names.len() > NAMED {
        line.push_str(&format!(" and {} more", names.len() - NAMED));
    }
    line
}
