//! The manifest of a cookbook: its recipes and its cover are children, its title is what `tree` shows.

use serde::Deserialize;
use wharf_images::{Child, Decoded, Descriptor, Error, Kind, ManifestDecoder, Result, Role};

/// The media type of a cookbook.
pub const COOKBOOK: &str = "application/vnd.example.cookbook.manifest.v1+json";

wharf_images::register_manifest_decoder! { name: "cookbook", keys: [COOKBOOK], make: CookbookDecoder }

/// What is read of a cookbook. serde refuses a field that stands twice.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cookbook {
    media_type: String,
    title: String,
    #[serde(default)]
    language: Option<String>,
    #[serde(default)]
    cover: Option<Descriptor>,
    recipes: Vec<Descriptor>,
    /// The cookbook that this one comments on.
    #[serde(default)]
    about: Option<Descriptor>,
}

/// Decodes cookbooks.
#[derive(Debug)]
struct CookbookDecoder;

impl ManifestDecoder for CookbookDecoder {
    fn kind(&self) -> Kind {
        Kind::Manifest
    }

    fn decode(&self, descriptor: &Descriptor, bytes: &[u8]) -> Result<Decoded> {
        let cookbook: Cookbook = serde_json::from_slice(bytes).map_err(|error| {
            Error::invalid_argument(format!("{} is not a cookbook", descriptor.digest)).with_source(error)
        })?;
        if cookbook.media_type != COOKBOOK {
            return Err(Error::invalid_argument(format!(
                "{} is described as a cookbook and calls itself {:?}",
                descriptor.digest, cookbook.media_type
            )));
        }
        let recipes = cookbook.recipes.len();
        let cover = cookbook.cover.into_iter().map(|descriptor| Child { descriptor, role: Role::Other });
        let pages = cookbook.recipes.into_iter().map(|descriptor| Child { descriptor, role: Role::Layer });
        let mut decoded = Decoded::new(cover.chain(pages).collect());
        decoded.subject = cookbook.about;
        decoded.description = Some(format!("cookbook {:?}, {recipes} recipes", cookbook.title));
        decoded.facts.insert("title".to_owned(), cookbook.title);
        decoded.facts.insert("recipes".to_owned(), recipes.to_string());
        decoded.facts.extend(cookbook.language.map(|language| ("language".to_owned(), language)));
        Ok(decoded)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use wharf_images::{Catalogue, ErrorKind, decode::ManifestDecoders};

    use super::*;

    fn decode(document: &Value) -> Result<Decoded> {
        let bytes = document.to_string().into_bytes();
        let decoder = Catalogue::linked().find::<ManifestDecoders>(COOKBOOK)?.expect("registered");
        decoder.decode(&Descriptor::of(COOKBOOK, &bytes), &bytes)
    }

    fn good() -> Value {
        json!({
            "mediaType": COOKBOOK, "title": "Winter", "language": "de",
            "cover": Descriptor::of("image/png", b"cover"),
            "recipes": [Descriptor::of(crate::RECIPE, b"soup"), Descriptor::of(crate::RECIPE, b"cake")],
            "about": Descriptor::of(COOKBOOK, b"another"),
        })
    }

    #[test]
    fn recipes_and_cover_are_children() {
        let decoded = decode(&good()).expect("valid");
        let roles: Vec<_> = decoded.children.iter().map(|child| child.role).collect();
        assert_eq!(roles, [Role::Other, Role::Layer, Role::Layer]);
        assert_eq!(decoded.children[2].descriptor, Descriptor::of(crate::RECIPE, b"cake"));
        assert_eq!(decoded.subject, Some(Descriptor::of(COOKBOOK, b"another")));
        assert_eq!(decoded.description.as_deref(), Some("cookbook \"Winter\", 2 recipes"));
        assert_eq!((decoded.facts["language"].as_str(), decoded.facts["recipes"].as_str()), ("de", "2"));
    }

    #[test]
    fn what_is_no_cookbook_is_refused() {
        let digest = json!([{ "mediaType": crate::RECIPE, "digest": "sha256:../x", "size": 1 }]);
        for (field, value) in [
            ("mediaType", json!("application/vnd.oci.image.manifest.v1+json")),
            ("title", json!(1)),
            ("recipes", digest),
            ("recipes", Value::Null),
            ("about", json!("x")),
        ] {
            let mut bad = good();
            bad[field] = value;
            assert_eq!(decode(&bad).expect_err(field).kind(), ErrorKind::InvalidArgument, "{field}");
        }
    }
}
