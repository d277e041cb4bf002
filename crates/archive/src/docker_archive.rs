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

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use serde::{Deserialize, Serialize, de::IgnoredAny};
use wharf_content::{
    CommitOptions, Descriptor, Digest, Error, Ingester, Provider, Result, ResultExt, read_blob, write_blob,
};
use wharf_images::{
    Reference,
    image::{self, MAX_CONFIG_LEN},
    media_types as types,
    sqlite::{ANNOTATION_IMAGE_NAME, ANNOTATION_REF_NAME},
};
use wharf_platforms::Platform;

use crate::{
    compression::{Compression, sniff},
    contents::{Contents, Node, clean},
    index::to_json,
    intake::MAX_DOCUMENT_LEN,
    naming::check_count,
};

/// The most layers that all entries name together: each is looked up, and stands in a manifest.
const MAX_LAYERS: usize = 250_000;

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
/// the archive does not have; `FailedPrecondition` for layers that are not those of the config; `ResourceExhausted` for too many images
/// or layers.
pub(crate) async fn images(
    contents: &Contents,
    provider: &dyn Provider,
    ingester: &dyn Ingester,
) -> Result<Option<Vec<Descriptor>>> {
    let Some(text) = contents.read(provider, "manifest.json", MAX_DOCUMENT_LEN).await? else {
        return Ok(None);
    };
    let mut images = Vec::new();
    let entries = parse(&text).context(|| "cannot read manifest.json of the archive")?;
    check_count(entries.iter().map(|entry| entry.repo_tags.as_ref().map_or(1, Vec::len).max(1)).sum())?;
    check_layers(entries.iter().map(|entry| entry.layers.as_ref().map_or(0, Vec::len)).sum())?;
    let mut manifests = Manifests::new(contents, provider, ingester);
    for entry in entries {
        let target = manifests
            .write(&entry)
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

fn check_layers(count: usize) -> Result<()> {
    if count <= MAX_LAYERS {
        return Ok(());
    }
    Err(Error::resource_exhausted(format!(
        "manifest.json of the archive names {count} layers, more than {MAX_LAYERS} altogether"
    )))
}

/// What is taken from a config.
#[derive(Debug)]
struct Config {
    diff_ids: Vec<Digest>,
    platform: Option<Platform>,
}

/// Writes the manifests of images. Many entries may name the same files: each file is read once.
#[derive(Debug)]
struct Manifests<'a> {
    contents: &'a Contents,
    provider: &'a dyn Provider,
    ingester: &'a dyn Ingester,
    /// Only configs of as many layers as their entry names, so that [`MAX_LAYERS`] is a limit of these, too.
    configs: HashMap<Digest, Arc<Config>>,
    compressions: HashMap<Digest, Compression>,
    written: HashSet<Digest>,
}

impl<'a> Manifests<'a> {
    fn new(contents: &'a Contents, provider: &'a dyn Provider, ingester: &'a dyn Ingester) -> Self {
        Self {
            contents,
            provider,
            ingester,
            configs: HashMap::new(),
            compressions: HashMap::new(),
            written: HashSet::new(),
        }
    }

    /// Writes the manifest of an image.
    async fn write(&mut self, entry: &Entry) -> Result<Descriptor> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Manifest<'a> {
            schema_version: u8,
            media_type: &'static str,
            config: &'a Descriptor,
            layers: &'a [Descriptor],
        }
        let names = entry.layers.as_deref().unwrap_or_default();
        let config = blob(self.contents, &entry.config, types::DOCKER_CONFIG)?;
        let read = self.config(&config, names.len()).await?;
        let mut layers = Vec::with_capacity(names.len());
        for (name, diff_id) in names.iter().zip(&read.diff_ids) {
            layers.push(self.layer(name, diff_id).await?);
        }
        let media_type = types::DOCKER_MANIFEST;
        let text = to_json(&Manifest { schema_version: 2, media_type, config: &config, layers: &layers })?;
        let mut target = Descriptor::of(media_type, &text);
        if !self.written.contains(&target.digest) {
            let reference = format!("import-{}", target.digest);
            write_blob(self.ingester, &reference, &target, text.into(), CommitOptions::default()).await?;
            self.written.insert(target.digest.clone());
        }
        target.platform.clone_from(&read.platform);
        Ok(target)
    }

    /// Reads a config, which must be of so many layers.
    async fn config(&mut self, config: &Descriptor, layer_count: usize) -> Result<Arc<Config>> {
        let known = self.configs.get(&config.digest).cloned();
        let read = if let Some(known) = &known {
            Arc::clone(known)
        } else {
            let bytes = read_blob(self.provider, config, MAX_CONFIG_LEN).await?;
            let (diff_ids, platform) = (image::rootfs(&bytes)?, image::platform_of_config(&bytes));
            Arc::new(Config { diff_ids, platform })
        };
        if read.diff_ids.len() != layer_count {
            return Err(Error::failed_precondition(format!(
                "the config is of {} layers, and manifest.json names {layer_count}",
                read.diff_ids.len()
            )));
        }
        if known.is_none() {
            self.configs.insert(config.digest.clone(), Arc::clone(&read));
        }
        Ok(read)
    }

    /// Describes a layer by its first bytes. A plain one is its own diff id, so that a wrong one is found out here and not when it is
    /// unpacked.
    async fn layer(&mut self, name: &str, diff_id: &Digest) -> Result<Descriptor> {
        let mut layer = blob(self.contents, name, types::DOCKER_LAYER)?;
        let compression = if let Some(known) = self.compressions.get(&layer.digest) {
            *known
        } else {
            let found = sniff(&self.provider.reader(&layer).await?.read_at(0, 4).await?);
            self.compressions.insert(layer.digest.clone(), found);
            found
        };
        match compression {
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
    use wharf_content::{ErrorKind, Manager, MemoryStore};

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

    #[tokio::test]
    async fn files_that_many_entries_name_are_read_once() {
        let store = MemoryStore::new();
        let layer = Descriptor::of("", b"layer");
        let config = format!(
            r#"{{"os":"linux","architecture":"arm64","rootfs":{{"diff_ids":["{}"]}}}}"#,
            layer.digest
        );
        let config_at = Descriptor::of("", config.as_bytes());
        let mut contents = Contents::default();
        for (name, descriptor, bytes) in
            [("c", &config_at, config.clone().into_bytes()), ("l", &layer, b"layer".to_vec())]
        {
            write_blob(&store, name, descriptor, bytes.into(), CommitOptions::default())
                .await
                .expect("writes");
            contents.add(name.into(), Node::Blob(descriptor.digest.clone(), descriptor.size)).expect("new");
        }
        let [entry, short] = [r#"[{"Config":"c","Layers":["l"]}]"#, r#"[{"Config":"c"}]"#]
            .map(|text| parse(text.as_bytes()).expect("a list").remove(0));
        let mut manifests = Manifests::new(&contents, &store, &store);
        let first = manifests.write(&entry).await.expect("writes");
        assert_eq!(first.platform, wharf_platforms::parse("linux/arm64").ok());
        // What cannot be read again is not read again.
        for digest in [&config_at.digest, &layer.digest] {
            store.delete(digest).await.expect("deletes");
        }
        assert_eq!(manifests.write(&entry).await.expect("knows them"), first);
        let error = manifests.write(&short).await.expect_err("not its layers");
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
        let error = Manifests::new(&contents, &store, &store).write(&entry).await.expect_err("reads them");
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }
}
