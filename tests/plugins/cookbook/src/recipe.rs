//! Recipes: leaves, which need no reading to be known. Their descriptor may carry a name.

use wharf_images::{Decoded, Descriptor, Kind, ManifestDecoder, Result};

/// The media type of a recipe.
pub const RECIPE: &str = "application/vnd.example.recipe.v1+json";

/// The annotation with a recipe's name.
pub const NAME: &str = "com.example.recipe.name";

wharf_images::register_manifest_decoder! { name: "recipe", keys: [RECIPE], make: RecipeDecoder }

/// Knows recipes.
#[derive(Debug)]
struct RecipeDecoder;

impl ManifestDecoder for RecipeDecoder {
    fn kind(&self) -> Kind {
        Kind::Leaf
    }

    fn decode(&self, descriptor: &Descriptor, _: &[u8]) -> Result<Decoded> {
        let mut decoded = Decoded::default();
        decoded.description = descriptor.annotations.get(NAME).map(|name| format!("recipe {name:?}"));
        Ok(decoded)
    }
}

#[cfg(test)]
mod tests {
    use wharf_images::{Catalogue, decode};

    use super::*;

    #[test]
    fn a_recipe_is_a_leaf_with_a_name() {
        assert_eq!(decode::kind(RECIPE, Catalogue::linked()).expect("no conflict"), Some(Kind::Leaf));
        let soup = Descriptor::of(RECIPE, b"soup").with_annotation(NAME, "soup");
        let decoded = RecipeDecoder.decode(&soup, b"").expect("valid");
        assert_eq!(decoded.description.as_deref(), Some("recipe \"soup\""));
        assert_eq!(
            RecipeDecoder.decode(&Descriptor::of(RECIPE, b"x"), b"").expect("valid"),
            Decoded::default()
        );
    }
}
