//! What a document is, where nobody said: by what it calls itself, else by its shape.
//!
//! Media types from strangers end up in headers and on terminals, so their form is checked here too.

use serde::{Deserialize, de::IgnoredAny};

use crate::{json, media_types};

/// The most characters that a media type has (RFC 6838, 4.2: 127 on either side of the slash).
const MAX_LEN: usize = 255;

/// Reads a `Content-Type`: the type alone, without parameters; `None` where it is not the form of one.
pub fn content_type(value: &str) -> Option<&str> {
    let essence = value.split_once(';').map_or(value, |(essence, _)| essence).trim();
    is_media_type(essence).then_some(essence)
}

/// Whether a text has the form of a media type.
pub fn is_media_type(text: &str) -> bool {
    let is_name = |name: &str| {
        !name.is_empty()
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&byte))
    };
    text.len() <= MAX_LEN && text.split_once('/').is_some_and(|(kind, name)| is_name(kind) && is_name(name))
}

/// What tells of a document what it is.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    schema_version: Option<u64>,
    #[serde(default)]
    manifests: Option<IgnoredAny>,
    #[serde(default)]
    config: Option<IgnoredAny>,
    #[serde(default)]
    fs_layers: Option<IgnoredAny>,
}

impl Shape {
    /// The shape of an object in JSON.
    fn of(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok().filter(|_| json::is_object(bytes))
    }

    /// What the document calls itself, where it does.
    fn own(&self) -> Option<&str> {
        self.media_type.as_deref().filter(|own| is_media_type(own))
    }
}

/// Tells what a document calls itself (`mediaType`); `None` where it does not, or is not an object in JSON.
pub fn own_type(bytes: &[u8]) -> Option<String> {
    Shape::of(bytes)?.own().map(str::to_owned)
}

/// Tells what a document is: what it calls itself, else its shape. A document that could be two things is neither.
pub fn document(bytes: &[u8]) -> Option<String> {
    let shape = Shape::of(bytes)?;
    if let Some(own) = shape.own() {
        return Some(own.to_owned());
    }
    let by_shape = match shape {
        // Docker's first format has had no media type in it but for its last years.
        Shape { fs_layers: Some(_), .. } | Shape { schema_version: Some(1), .. } => {
            Some(media_types::DOCKER_SCHEMA1)
        }
        Shape { manifests: Some(_), config: Some(_), .. } => None,
        Shape { manifests: Some(_), .. } => Some(media_types::OCI_INDEX),
        Shape { config: Some(_), .. } => Some(media_types::OCI_MANIFEST),
        _ => None,
    };
    by_shape.map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_types() {
        for (value, expected) in [
            ("application/json", Some("application/json")),
            (" a/b+c ; charset=utf-8", Some("a/b+c")),
            ("", None),
            ("json", None),
            ("a/b/c", None),
            ("a/", None),
            ("a/b c", None),
            ("a/\u{1b}[2J", None),
        ] {
            assert_eq!(content_type(value), expected, "{value:?}");
        }
        for absurd in ["[".repeat(4 << 20), "{\"config\":".repeat(400_000), "\0".repeat(4096)] {
            assert_eq!(document(absurd.as_bytes()), None);
        }
        assert!(!is_media_type(&format!("a/{}", "b".repeat(300))));
    }

    #[test]
    fn documents() {
        for (text, expected) in [
            (r#"{"mediaType":"a/b","manifests":[]}"#, Some("a/b")),
            (r#"{"mediaType":"\u001b","manifests":[]}"#, Some(media_types::OCI_INDEX)),
            (r#"{"manifests":[]}"#, Some(media_types::OCI_INDEX)),
            (r#"{"config":{},"layers":[],"mediaType":""}"#, Some(media_types::OCI_MANIFEST)),
            (r#"{"schemaVersion":1,"fsLayers":[]}"#, Some(media_types::DOCKER_SCHEMA1)),
            (r#"{"schemaVersion":1}"#, Some(media_types::DOCKER_SCHEMA1)),
            (r#"{"config":{},"manifests":[]}"#, None),
            (r#"{"config":{},"config":{}}"#, None),
            ("{}", None),
            ("[]", None),
            (r#"["a/b",2,[]]"#, None),
            (r#" {"mediaType":"a/b"}"#, Some("a/b")),
            ("<html>", None),
            ("", None),
        ] {
            assert_eq!(document(text.as_bytes()).as_deref(), expected, "{text}");
            let own = expected.filter(|own| *own == "a/b");
            assert_eq!(own_type(text.as_bytes()).as_deref(), own, "{text}");
        }
    }
}
