//! The decoders that this crate registers: OCI and Docker manifests and indexes, and the types that are leaves.

use std::collections::BTreeMap;

use serde::Deserialize;
use wharf_content::{Descriptor, Error, Result};

use crate::{
    decode::{Child, Decoded, Kind, ManifestDecoder, Role},
    json,
    media_types::{self as types},
};

crate::register_manifest_decoder! {
    name: "manifest", keys: [types::OCI_MANIFEST, types::DOCKER_MANIFEST], make: Manifest
}
crate::register_manifest_decoder! {
    name: "index", keys: [types::OCI_INDEX, types::DOCKER_LIST], make: Index
}
crate::register_manifest_decoder! {
    name: "schema1", keys: [types::DOCKER_SCHEMA1, types::DOCKER_SCHEMA1_UNSIGNED], make: Schema1
}
crate::register_manifest_decoder! {
    name: "oci-leaf",
    keys: [
        types::OCI_CONFIG,
        types::OCI_EMPTY,
        types::OCI_LAYER,
        types::OCI_LAYER_GZIP,
        types::OCI_LAYER_ZSTD,
        types::OCI_LAYER_NON_DISTRIBUTABLE,
        types::OCI_LAYER_NON_DISTRIBUTABLE_GZIP,
        types::OCI_LAYER_NON_DISTRIBUTABLE_ZSTD,
        types::OCI_LAYER_ENCRYPTED,
        types::OCI_LAYER_GZIP_ENCRYPTED,
        types::EROFS_LAYER,
        types::IN_TOTO,
    ],
    make: Leaf
}
crate::register_manifest_decoder! {
    name: "checkpoint-leaf",
    keys: [
        types::CHECKPOINT,
        types::CHECKPOINT_PRE_DUMP,
        types::CHECKPOINT_RESOURCE,
        types::CHECKPOINT_RW,
        types::CHECKPOINT_CONFIG,
        types::CHECKPOINT_OPTIONS,
        types::CHECKPOINT_RUNTIME_NAME,
        types::CHECKPOINT_RUNTIME_OPTIONS,
    ],
    make: Leaf
}
crate::register_manifest_decoder! {
    name: "docker-leaf",
    keys: [
        types::DOCKER_CONFIG,
        types::DOCKER_LAYER,
        types::DOCKER_LAYER_GZIP,
        types::DOCKER_LAYER_ZSTD,
        types::DOCKER_LAYER_FOREIGN,
        types::DOCKER_LAYER_FOREIGN_GZIP,
    ],
    make: Leaf
}

/// An image manifest or artifact manifest: a config and layers.
#[derive(Debug)]
struct Manifest;

impl ManifestDecoder for Manifest {
    fn kind(&self) -> Kind {
        Kind::Manifest
    }

    fn decode(&self, descriptor: &Descriptor, bytes: &[u8]) -> Result<Decoded> {
        let (mut view, keys): (View, _) = json::read(descriptor, bytes)?;
        refuse_other_kind(descriptor, &keys, &["manifests"], view.media_type.as_deref(), types::is_manifest)?;
        let config = view.config.take().ok_or_else(|| {
            Error::invalid_argument(format!("manifest {} has no config", descriptor.digest))
        })?;
        let mut children = vec![Child { descriptor: config, role: Role::Config }];
        let layers = view.layers.take().unwrap_or_default();
        children.extend(layers.into_iter().map(|descriptor| Child { descriptor, role: Role::Layer }));
        Ok(view.decoded(children))
    }
}

/// An image index or manifest list: alternatives by platform.
#[derive(Debug)]
struct Index;

impl ManifestDecoder for Index {
    fn kind(&self) -> Kind {
        Kind::Index
    }

    fn decode(&self, descriptor: &Descriptor, bytes: &[u8]) -> Result<Decoded> {
        let (mut view, keys): (View, _) = json::read(descriptor, bytes)?;
        refuse_other_kind(
            descriptor,
            &keys,
            &["config", "layers"],
            view.media_type.as_deref(),
            types::is_index,
        )?;
        let manifests = view.manifests.take().unwrap_or_default();
        let children = manifests.into_iter().map(|descriptor| Child { descriptor, role: Role::Manifest });
        Ok(view.decoded(children.collect()))
    }
}

/// What is read of either document.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct View {
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Option<Vec<Descriptor>>,
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
    #[serde(default)]
    subject: Option<Descriptor>,
    #[serde(default)]
    artifact_type: Option<String>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

impl View {
    fn decoded(self, children: Vec<Child>) -> Decoded {
        let mut decoded = Decoded::new(children);
        decoded.subject = self.subject;
        decoded.artifact_type = self.artifact_type;
        decoded.facts = self.annotations.unwrap_or_default();
        decoded
    }
}

/// One body must not be a manifest to one reader and an index to another (CVE-2021-41190). The kind is the descriptor's; Docker's and
/// OCI's types are interchangeable within a kind, and a document may leave its type out.
fn refuse_other_kind(
    descriptor: &Descriptor,
    keys: &json::Keys,
    foreign: &[&str],
    media_type: Option<&str>,
    same_kind: fn(&str) -> bool,
) -> Result<()> {
    let claimed = &descriptor.media_type;
    if let Some(field) = foreign.iter().chain(&["fsLayers"]).find(|field| keys.contains(field)) {
        return Err(Error::invalid_argument(format!(
            "{} is ambiguous: it is described as {claimed:?} and has the field {field:?}",
            descriptor.digest
        )));
    }
    match media_type {
        Some(own) if !own.is_empty() && !same_kind(own) => Err(Error::invalid_argument(format!(
            "{} is ambiguous: it is described as {claimed:?} and calls itself {own:?}",
            descriptor.digest
        ))),
        _ => Ok(()),
    }
}

/// Docker's first image format. Its layers are named by `fsLayers` and carry no sizes.
#[derive(Debug)]
struct Schema1;

impl ManifestDecoder for Schema1 {
    fn kind(&self) -> Kind {
        Kind::Manifest
    }

    fn decode(&self, descriptor: &Descriptor, _: &[u8]) -> Result<Decoded> {
        Err(Error::not_implemented(format!(
            "{} is a Docker schema 1 manifest, a format that was replaced in 2016: have the image pushed again by a current tool",
            descriptor.digest
        )))
    }
}

/// Configs, layers and other content without children.
#[derive(Debug)]
struct Leaf;

impl ManifestDecoder for Leaf {
    fn kind(&self) -> Kind {
        Kind::Leaf
    }

    fn decode(&self, _: &Descriptor, _: &[u8]) -> Result<Decoded> {
        Ok(Decoded::default())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use wharf_content::{Catalogue, ErrorKind};

    use super::*;
    use crate::decode::{self, ManifestDecoders};

    fn decode(media_type: &str, text: &str) -> Result<Decoded> {
        let descriptor = Descriptor::of(media_type, text.as_bytes());
        let decoder = Catalogue::linked().find::<ManifestDecoders>(media_type)?.expect("registered");
        decoder.decode(&descriptor, text.as_bytes())
    }

    fn part(name: &str) -> String {
        serde_json::to_string(&Descriptor::of(types::OCI_LAYER, name.as_bytes())).expect("serialises")
    }

    #[test]
    fn manifests_and_indexes_give_their_children_in_order() {
        let text = format!(r#"{{"config":{},"layers":[{},{}]}}"#, part("c"), part("1"), part("2"));
        for media_type in [types::OCI_MANIFEST, types::DOCKER_MANIFEST] {
            let decoded = decode(media_type, &text).expect("valid");
            let roles: Vec<_> = decoded.children.iter().map(|child| child.role).collect();
            assert_eq!(roles, [Role::Config, Role::Layer, Role::Layer]);
            assert_eq!(decoded.children[2].descriptor, Descriptor::of(types::OCI_LAYER, b"2"));
        }
        let text = format!(r#"{{"manifests":[{}],"annotations":null}}"#, part("m"));
        for media_type in [types::OCI_INDEX, types::DOCKER_LIST] {
            assert_eq!(decode(media_type, &text).expect("valid").children.len(), 1);
        }
        for leaf in [types::OCI_CONFIG, types::OCI_LAYER_GZIP, types::DOCKER_LAYER_FOREIGN] {
            assert_eq!(decode(leaf, "not json").expect("not read").children, []);
            assert_eq!(decode::kind(leaf, Catalogue::linked()).expect("no conflict"), Some(Kind::Leaf));
        }
        assert_eq!(decode::kind("application/x-unheard-of", Catalogue::linked()).expect("no conflict"), None);
    }

    #[test]
    fn a_body_that_could_be_both_is_refused_under_every_type() {
        let config = part("c");
        let both = format!(r#"{{"manifests":[],"config":{config},"layers":[]}}"#);
        let schema1 = format!(r#"{{"fsLayers":[],"config":{config}}}"#);
        for media_type in [types::OCI_MANIFEST, types::DOCKER_MANIFEST, types::OCI_INDEX, types::DOCKER_LIST]
        {
            for text in [&both, &schema1] {
                assert_eq!(decode(media_type, text).expect_err("refused").kind(), ErrorKind::InvalidArgument);
            }
        }
        let claims = |own: &str| format!(r#"{{"mediaType":"{own}","config":{config}}}"#);
        assert!(decode(types::OCI_MANIFEST, &claims(types::OCI_INDEX)).is_err());
        assert!(decode(types::OCI_MANIFEST, &claims("application/x-other")).is_err());
        assert!(decode(types::OCI_MANIFEST, &claims(types::DOCKER_MANIFEST)).is_ok());
        assert!(decode(types::OCI_MANIFEST, &claims("")).is_ok());
        assert!(decode(types::OCI_INDEX, &format!(r#"{{"mediaType":"{}"}}"#, types::OCI_MANIFEST)).is_err());
        assert!(decode(types::OCI_MANIFEST, r#"{"layers":[]}"#).is_err(), "no config");
    }

    #[test]
    fn schema_1_says_what_it_is() {
        for media_type in [types::DOCKER_SCHEMA1, types::DOCKER_SCHEMA1_UNSIGNED] {
            let error = decode(media_type, "{}").expect_err("not supported");
            assert_eq!(error.kind(), ErrorKind::NotImplemented);
            assert!(error.to_string().contains("schema 1"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn malformed_documents_are_errors_and_never_panics(
            cut in 0..300_usize, at in 0..300_usize, byte in any::<u8>(),
        ) {
            let text = format!(r#"{{"config":{},"layers":[{}],"subject":null}}"#, part("c"), part("1"));
            let mut bytes = text.into_bytes();
            let at = at % bytes.len();
            bytes[at] = byte;
            bytes.truncate(bytes.len() - cut % bytes.len());
            let descriptor = Descriptor::of(types::OCI_MANIFEST, &bytes);
            let _ = Manifest.decode(&descriptor, &bytes);
            let _ = Index.decode(&descriptor, &bytes);
        }
    }
}
