//! What a manifest is, where nobody said so in the request: from a label, a record, or the document.
//!
//! A registry answers a manifest with the type that it was pushed with. Content that came into the store in other ways has no label
//! that tells it.

use bytes::Bytes;
use serde::{Deserialize, de::IgnoredAny};
use wharf_images::media_types;

/// Label on a manifest with the media type that it was pushed with.
pub const LABEL_MEDIA_TYPE: &str = "dev.wharf.media-type";

/// The type of what nobody can say more of.
pub(super) const OCTET_STREAM: &str = "application/octet-stream";

/// The most characters that a media type has (RFC 6838, 4.2: 127 on either side of the slash).
const MAX_LEN: usize = 255;

/// Reads a `Content-Type`: the type alone, without parameters, which registries ignore ("Pushing Manifests").
pub(super) fn of_header(value: &str) -> Option<&str> {
    let essence = value.split_once(';').map_or(value, |(essence, _)| essence).trim();
    is_media_type(essence).then_some(essence)
}

/// Whether a text can stand in a header as a media type.
pub(super) fn is_media_type(text: &str) -> bool {
    let is_name = |name: &str| {
        !name.is_empty()
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&byte))
    };
    text.len() <= MAX_LEN && text.split_once('/').is_some_and(|(kind, name)| is_name(kind) && is_name(name))
}

/// Guesses from a document: what it calls itself, else its shape.
pub(super) fn sniff(bytes: &Bytes) -> Option<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Shape {
        #[serde(default)]
        media_type: Option<String>,
        #[serde(default)]
        manifests: Option<IgnoredAny>,
        #[serde(default)]
        config: Option<IgnoredAny>,
    }
    let shape: Shape = serde_json::from_slice(bytes).ok()?;
    match shape {
        Shape { media_type: Some(own), .. } if is_media_type(&own) => Some(own),
        // What could be both is neither.
        Shape { manifests: Some(_), config: Some(_), .. } => None,
        Shape { manifests: Some(_), .. } => Some(media_types::OCI_INDEX.to_owned()),
        Shape { config: Some(_), .. } => Some(media_types::OCI_MANIFEST.to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers() {
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
            assert_eq!(of_header(value), expected, "{value:?}");
        }
        assert!(!is_media_type(&format!("a/{}", "b".repeat(300))));
    }

    #[test]
    fn shapes() {
        for (text, expected) in [
            (r#"{"mediaType":"a/b","manifests":[]}"#, Some("a/b")),
            (r#"{"mediaType":"\u001b","manifests":[]}"#, Some(media_types::OCI_INDEX)),
            (r#"{"manifests":[]}"#, Some(media_types::OCI_INDEX)),
            (r#"{"config":{},"layers":[]}"#, Some(media_types::OCI_MANIFEST)),
            (r#"{"config":{},"manifests":[]}"#, None),
            (r#"{"config":{},"config":{}}"#, None),
            ("{}", None),
            ("[]", None),
            ("", None),
        ] {
            assert_eq!(sniff(&Bytes::from_static(text.as_bytes())).as_deref(), expected, "{text}");
        }
    }
}
