//! The config type of Docker's first manifests of schema 2: `application/octet-stream`, where today's is meant
//! (containerd: `core/remotes/docker/converter.go`).
//!
//! One string of the manifest is replaced, and every other byte stays, so that nothing is lost that wharf does not know. An index is left
//! alone, and so is what calls itself an artifact: a config of no particular type is its own affair.

use std::ops::Range;

use serde::Deserialize;
use serde_json::value::RawValue;
use wharf_content::{Descriptor, Result, read_blob};
use wharf_images::{decode::MAX_MANIFEST_LEN, media_types as types};

use super::{Conversion, Converted};

/// The type that says nothing.
const LEGACY: &str = "application/octet-stream";

impl Conversion<'_> {
    /// Converts a manifest whose config has the old type; `None` where it has another one.
    pub(super) async fn legacy(&self, root: &Descriptor) -> Result<Option<Converted>> {
        let bytes = read_blob(self.ahead, root, MAX_MANIFEST_LEN).await?;
        let Some(converted) = rewritten(&bytes) else { return Ok(None) };
        // It may have been here before, and is held from now on.
        self.write(root, bytes).await?;
        let target = Descriptor::of(&*root.media_type, &converted);
        self.write(&target, converted.into()).await?;
        self.remember(&root.digest, &target.digest).await?;
        Ok(Some(Converted { made: vec![target.digest.clone()], target }))
    }
}

/// The manifest with today's type in place of the old one. What cannot be read is for its decoder to refuse.
fn rewritten(manifest: &[u8]) -> Option<Vec<u8>> {
    let Range { start, end } = legacy_type(manifest)?;
    let ours = format!("\"{}\"", types::DOCKER_CONFIG);
    Some([&manifest[..start], ours.as_bytes(), &manifest[end..]].concat())
}

/// Where in a manifest the type of its config stands, quotes and all, if it is the old one.
fn legacy_type(manifest: &[u8]) -> Option<Range<usize>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct View<'a> {
        #[serde(borrow)]
        config: &'a RawValue,
        #[serde(default)]
        artifact_type: Option<String>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Config<'a> {
        #[serde(borrow)]
        media_type: &'a RawValue,
    }
    let text = std::str::from_utf8(manifest).ok()?;
    let View { config, artifact_type } = serde_json::from_str(text).ok()?;
    if artifact_type.is_some_and(|own| !own.is_empty()) {
        return None;
    }
    let media_type = serde_json::from_str::<Config<'_>>(config.get()).ok()?.media_type.get();
    if serde_json::from_str::<String>(media_type).ok()? != LEGACY {
        return None;
    }
    // Both are parts of the same text.
    let start = (media_type.as_ptr() as usize).checked_sub(text.as_ptr() as usize)?;
    Some(start..start + media_type.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_string_is_replaced_and_nothing_else() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let with = |config: &str, more: &str| {
            format!(
                "{{\n  \"zeta\" : 1.50,\"config\": {{\"size\":2, {config} \"digest\":\"{digest}\"}}{more}}}"
            )
        };
        for (config, more, is_legacy) in [
            (r#""mediaType" : "application/octet-stream","#, "", true),
            (r#""mediaType":"application\/octet-stream","#, "", true),
            (r#""mediaType":"application/octet-stream","#, r#","artifactType":"""#, true),
            (r#""mediaType":"application/octet-stream","#, r#","artifactType":"a/b""#, false),
            (
                r#""mediaType":"application/vnd.oci.image.config.v1+json","#,
                r#","x":"application/octet-stream""#,
                false,
            ),
            ("", "", false),
            (r#""mediaType":7,"#, "", false),
            (r#""mediaType":"application/octet-stream","mediaType":"application/octet-stream","#, "", false),
        ] {
            let manifest = with(config, more);
            let expected = is_legacy.then(|| {
                let written = if config.contains("\\/") { r"application\/octet-stream" } else { LEGACY };
                manifest.replacen(written, types::DOCKER_CONFIG, 1)
            });
            let found = rewritten(manifest.as_bytes()).map(|bytes| String::from_utf8(bytes).expect("text"));
            assert_eq!(found, expected, "{manifest}");
        }
        for bad in ["", "[]", "{}", "{\"config\":null}", "\u{0}"] {
            assert_eq!(rewritten(bad.as_bytes()), None, "{bad:?}");
        }
        assert_eq!(rewritten(b"{\"config\":{\"mediaType\":\"\xff\"}}"), None);
    }
}
