//! A `wharf` of your own: with a decoder for a media type that nobody else knows.
//!
//! In a crate of its own the plugin would be named by `use my_plugin as _;`. Run it with `plugins` to see the entry.

use std::process::ExitCode;

use wharf_content::{Descriptor, Result};
use wharf_images::{Decoded, Kind, ManifestDecoder};

/// Content of a type that has no children.
#[derive(Debug)]
struct Recipe;

impl ManifestDecoder for Recipe {
    fn kind(&self) -> Kind {
        Kind::Leaf
    }

    fn decode(&self, _: &Descriptor, _: &[u8]) -> Result<Decoded> {
        Ok(Decoded::default())
    }
}

wharf_images::register_manifest_decoder! {
    name: "recipe", keys: ["application/vnd.example.recipe.v1+json"], make: Recipe
}

fn main() -> ExitCode {
    wharf::Runner::new().run()
}
