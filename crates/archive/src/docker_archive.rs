//! An archive as `docker save` writes it: `manifest.json` names a config, layers and tags for each image.
//!
//! ```text
//! Docker 1.10 to 24     <hex>.json   <id>/layer.tar, which may be a link to another one's
//! skopeo, podman        <hex>.json   <hex>.tar, and links to them from <id>/layer.tar
//! Docker 25 and later   blobs/sha256/<hex>, and an OCI layout beside it
//! ```
//!
//! Such an image has no manifest of its own. One is written, in Docker's types, of nothing but what the archive says, so that the same
//! archive gives the same digest (containerd: `core/images/archive/importer.go`, which writes the same bytes).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, de::IgnoredAny};
use wharf_content::{
    CommitOptions, Descriptor, Digest, Error, Result, ResultExt, Store, read_blob, write_blob,
};
use wharf_images::{
    Reference,
    image::{self, MAX_CONFIG_LEN},
    media_types as types,
    sqlite::{ANNOTATION_IMAGE_NAME, ANNOTATION_REF_NAME},
};

use crate::{
    compression::{Compression, sniff},
    contents::{Contents, Node, clean},
    index::to_json,
    intake::MAX_DOCUMENT_LEN,
    naming::check_count,
};

/// The keys of an entry, in their only spelling.
const KEYS: [&str; 3] = ["Config", "RepoTags", "Layers"];

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

/// The images of a Docker archive, with their names as annotations; `None` where the archive is none. Their manifests are written into
/// the store.
///
/// # Errors
/// `InvalidArgument` for a manifest.json or a config that is malformed, or tags that are no names; `NotFound` for a config or layer that
/// the archive does not have; `FailedPrecondition` for layers that are not those of the config.
pub(crate) async fn images(contents: &Contents, store: &dyn Store) -> Result<Option<Vec<Descriptor>>> {
    let Some(text) = contents.read(store, "manifest.json", MAX_DOCUMENT_LEN).await? else { return Ok(None) };
    let mut images = Vec::new();
    let entries = parse(&text).context(|| "cannot read manifest.json of the archive")?;
    check_count(entries.iter().map(|entry| entry.repo_tags.as_ref().map_or(1, Vec::len).max(1)).sum())?;
    for entry in entries {
        let target = manifest(contents, store, &entry)
            .await
            .context(|| format!("cannot import the image with the config {:?}", entry.config))?;
        let tags = entry.repo_tags.unwrap_or_default();
        if tags.is_empty() {
            images.push(target);
            continue;
        }
        for tag in tags {
            let reference = Reference::parse(&tag).map_err(|error| {
                Error::from(error).context("manifest.json of the archive has a tag that is no name")
            })?;
            images.push(
                target
                    .clone()
                    .with_annotation(ANNOTATION_IMAGE_NAME, reference.to_string())
                    .with_annotation(ANNOTATION_REF_NAME, reference.object()),
            );
        }
    }
    Ok(Some(images))
}

fn parse(text: &[u8]) -> Result<Vec<Entry>> {
    let malformed = |error| Error::invalid_argument("not a list of images").with_source(error);
    let entries: Vec<Entry> = serde_json::from_slice(text).map_err(malformed)?;
    // Docker does not mind case: what it would read and we would not is refused.
    #[expect(clippy::zero_sized_map_values, reason = "serde reads the keys of an object into a map only")]
    let keys: Vec<BTreeMap<String, IgnoredAny>> = serde_json::from_slice(text).map_err(malformed)?;
    for key in keys.iter().flat_map(|entry| entry.keys()) {
        if let Some(meant) = KEYS.iter().find(|known| known.eq_ignore_ascii_case(key) && *known != key) {
            return Err(Error::invalid_argument(format!(
                "the ambiguous field {key:?} differs from {meant:?} only in case"
            )));
        }
    }
    Ok(entries)
}

/// Writes the manifest of an image.
async fn manifest(contents: &Contents, store: &dyn Store, entry: &Entry) -> Result<Descriptor> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Manifest<'a> {
        schema_version: u8,
        media_type: &'static str,
        config: &'a Descriptor,
        layers: &'a [Descriptor],
    }
    let config = blob(contents, &entry.config, types::DOCKER_CONFIG)?;
    let bytes = read_blob(store, &config, MAX_CONFIG_LEN).await?;
    let diff_ids = image::rootfs(&bytes)?;
    let names = entry.layers.as_deref().unwrap_or_default();
    if diff_ids.len() != names.len() {
        return Err(Error::failed_precondition(format!(
            "the config is of {} layers, and manifest.json names {}",
            diff_ids.len(),
            names.len()
        )));
    }
    let mut layers = Vec::with_capacity(names.len());
    for (name, diff_id) in names.iter().zip(&diff_ids) {
        layers.push(layer(contents, store, name, diff_id).await?);
    }
    let media_type = types::DOCKER_MANIFEST;
    let text = to_json(&Manifest { schema_version: 2, media_type, config: &config, layers: &layers })?;
    let mut target = Descriptor::of(media_type, &text);
    let reference = format!("import-{}", target.digest);
    write_blob(store, &reference, &target, text.into(), CommitOptions::default()).await?;
    target.platform = image::platform_of_config(&bytes);
    Ok(target)
}

/// Describes a layer by its first bytes. A plain one is its own diff id, so that a wrong one is found out here and not when it is
/// unpacked.
async fn layer(contents: &Contents, store: &dyn Store, name: &str, diff_id: &Digest) -> Result<Descriptor> {
    let mut layer = blob(contents, name, types::DOCKER_LAYER)?;
    let start = store.reader(&layer).await?.read_at(0, 4).await?;
    match sniff(&start) {
        Compression::Gzip => types::DOCKER_LAYER_GZIP.clone_into(&mut layer.media_type),
        Compression::Zstd => types::DOCKER_LAYER_ZSTD.clone_into(&mut layer.media_type),
        _ if layer.digest.algorithm() == diff_id.algorithm() && layer.digest != *diff_id => {
            return Err(Error::failed_precondition(format!(
                "digest mismatch: the layer {name:?} is {}, and the config says {diff_id}",
                layer.digest
            )));
        }
        _ => {}
    }
    Ok(layer)
}

/// Finds a file that manifest.json names.
fn blob(contents: &Contents, name: &str, media_type: &str) -> Result<Descriptor> {
    let found = match clean(name.as_bytes()) {
        Some(cleaned) => contents.file(&cleaned)?,
        None => None,
    };
    match found {
        Some(Node::Blob(digest, size)) => Ok(Descriptor::new(media_type, digest.clone(), *size)),
        Some(_) => Err(Error::invalid_argument(format!("{name:?} is no part of an image"))),
        None => Err(Error::not_found(format!(
            "the archive does not have {name:?}, which its manifest.json names: it is not whole"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_images() {
        for (text, count) in [
            (r#"[{"Config":"c","RepoTags":["a:1"],"Layers":["l"]}]"#, Some(1)),
            (r#"[{"Config":"c","RepoTags":null,"Layers":null,"LayerSources":{}},{"Config":"d"}]"#, Some(2)),
            ("[]", Some(0)),
            (r#"[{"Config":"c","Config":"d"}]"#, None),
            (r#"[{"Config":"c","Layers":[],"layers":["x"]}]"#, None),
            (r#"[{"config":"c"}]"#, None),
            (r#"[{"RepoTags":["a:1"]}]"#, None),
            (r#"{"Config":"c"}"#, None),
            ("[", None),
            ("", None),
        ] {
            assert_eq!(parse(text.as_bytes()).ok().map(|entries| entries.len()), count, "{text}");
        }
        assert!(parse("[".repeat(100_000).as_bytes()).is_err());
    }
}
