//! Docker's `manifest.json`: for each image one manifest, told as a config, layers and tags, so that every `docker load` and other
//! readers of `docker save` archives find it.
//!
//! Only what Docker can load is in it: an image config and layers that are tar streams, all of them in the archive.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use wharf_content::{Digest, ErrorKind, Provider, Result};
use wharf_images::{
    Reference, Selection, decode,
    image::{self, Manifest},
    media_types,
};

use crate::{
    index::to_json,
    options::ExportOptions,
    plan::{Wanted, blob_name},
};

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    config: String,
    repo_tags: BTreeSet<String>,
    layers: Vec<String>,
}

/// The entries, by the name of the config, which is the image to Docker.
#[derive(Debug, Default)]
pub(crate) struct Entries(BTreeMap<String, Entry>);

impl Entries {
    /// Adds what Docker is to see of an image, and tells whether there is anything. `has` tells whether a blob is in the archive.
    pub(crate) async fn add(
        &mut self,
        provider: &dyn Provider,
        image: &Wanted,
        options: &ExportOptions,
        has: impl Fn(&Digest) -> bool + Sync,
    ) -> Result<bool> {
        let Some(manifest) = best(provider, image, options, has).await? else { return Ok(false) };
        let config = blob_name(&manifest.config()?.digest);
        let entry = self.0.entry(config).or_insert_with_key(|config| Entry {
            config: config.clone(),
            repo_tags: BTreeSet::new(),
            layers: manifest.layers().map(|layer| blob_name(&layer.digest)).collect(),
        });
        entry.repo_tags.extend(image.full_name().and_then(|name| repo_tag(&name)));
        Ok(true)
    }

    /// The names of all configs and layers.
    pub(crate) fn files(&self) -> BTreeSet<String> {
        self.0.values().flat_map(|entry| entry.layers.iter().chain([&entry.config])).cloned().collect()
    }

    /// The text of `manifest.json`; `None` where there is nothing for Docker.
    pub(crate) fn manifest_json(&self) -> Result<Option<Vec<u8>>> {
        let entries: Vec<_> = self.0.values().collect();
        if entries.is_empty() { Ok(None) } else { to_json(&entries).map(Some) }
    }
}

/// The name as Docker shows it, with its tag and without a digest, which a tag of Docker's never has.
fn repo_tag(name: &str) -> Option<String> {
    let reference = Reference::parse(name).ok()?;
    Some(reference.with_tag(reference.tag()?).ok()?.familiar())
}

/// The best manifest of the selection; of all platforms the host's, else the first that Docker can load.
async fn best(
    provider: &dyn Provider,
    image: &Wanted,
    options: &ExportOptions,
    has: impl Fn(&Digest) -> bool + Sync,
) -> Result<Option<Manifest>> {
    let (target, catalogue) = (&image.entry, &options.catalogue);
    let fits = |manifest: &Manifest| is_loadable(manifest) && is_whole(manifest, &has);
    let host = Selection::host();
    let selection = if options.selection.is_all() { &host } else { &options.selection };
    match image::manifest(provider, target, selection, catalogue).await {
        Ok(manifest) if fits(&manifest) => return Ok(Some(manifest)),
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    if options.selection.is_all() {
        for named in image::manifests(provider, target, catalogue).await? {
            if !has(&named.descriptor.digest) {
                continue;
            }
            if let Some(decoded) = decode(provider, &named.descriptor, catalogue).await? {
                let manifest = Manifest::new(named.descriptor, decoded);
                if fits(&manifest) {
                    return Ok(Some(manifest));
                }
            }
        }
    }
    Ok(None)
}

/// Whether Docker knows such a config and such layers. Attestations have a config of an image and layers of their own.
fn is_loadable(manifest: &Manifest) -> bool {
    manifest.config().is_ok_and(|config| media_types::is_config(&config.media_type))
        && manifest.layers().all(|layer| media_types::compression(&layer.media_type).is_ok())
}

/// Whether the manifest and all that it names are in the archive.
fn is_whole(manifest: &Manifest, has: impl Fn(&Digest) -> bool) -> bool {
    has(&manifest.descriptor.digest)
        && manifest.decoded.children.iter().all(|child| has(&child.descriptor.digest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_as_docker_shows_them() {
        let digest = Digest::sha256(b"");
        for (name, expected) in [
            ("docker.io/library/busybox:1.36".to_owned(), Some("busybox:1.36")),
            ("ghcr.io/a/b:v1".to_owned(), Some("ghcr.io/a/b:v1")),
            (format!("docker.io/library/busybox:1.36@{digest}"), Some("busybox:1.36")),
            (format!("docker.io/library/busybox@{digest}"), None),
            ("not a reference".to_owned(), None),
        ] {
            assert_eq!(repo_tag(&name).as_deref(), expected, "{name}");
        }
    }

    #[test]
    fn an_image_without_a_tag_has_an_empty_list() {
        let config = "blobs/sha256/c".to_owned();
        let entry = Entry {
            config: config.clone(),
            repo_tags: BTreeSet::new(),
            layers: vec!["blobs/sha256/l".into()],
        };
        let entries = Entries([(config, entry)].into());
        let text = entries.manifest_json().expect("writes").expect("an entry");
        assert_eq!(
            String::from_utf8(text).expect("text"),
            r#"[{"Config":"blobs/sha256/c","RepoTags":[],"Layers":["blobs/sha256/l"]}]"#
        );
        assert_eq!(Entries::default().manifest_json().expect("writes"), None);
    }
}
