//! Docker's first image format, schema 1: which bytes of a manifest its digest is of, what it says, and the config that it becomes.
//!
//! ```text
//! {
//!   "schemaVersion": 1, "name": …, "tag": …, "architecture": …,
//!   "fsLayers": [ {"blobSum": digest}, … ]                newest first
//!   "history":  [ {"v1Compatibility": "JSON"}, … ]        as many, in the same order
//!   "signatures": [ {"protected": base64url of {"formatLength": n, "formatTail": base64url}, …} ]
//! }
//!   payload = the first n bytes + the tail                what is signed, and what the digest is of
//! ```
//!
//! Nothing is fetched or stored here, and signatures are not verified: who signed is of no use to anybody any more (containerd:
//! `core/remotes/docker/schema1/converter.go`; Docker: Image Manifest Version 2, Schema 1).

use std::{borrow::Cow, collections::BTreeMap};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use serde_json::{
    Value,
    value::{RawValue, to_raw_value},
};
use wharf_content::{Descriptor, Digest, Error, Result, ResultExt};

use crate::{json, media_types as types, reference::excerpt};

/// The most layers of an image, several times what any file system stacks.
pub const MAX_LAYERS: usize = 1024;

/// The fields of a layer's own description that an image config does not have (Docker: `image/v1/imagev1.go`).
const NOT_OF_A_CONFIG: [&str; 6] = ["id", "parent", "Size", "parent_id", "layer_id", "throwaway"];

/// What was said where nothing was said: there was nothing else then.
const OS: &str = "linux";

fn malformed(why: impl std::fmt::Display) -> Error {
    Error::invalid_argument(format!("not a valid Docker schema 1 manifest: {why}"))
}

/// The bytes that the digest of a manifest is of: without its signatures, as they were before it was signed (libtrust). What is not signed
/// is all payload.
///
/// # Errors
/// `InvalidArgument` where the signatures do not tell the payload, or contradict each other, or where it says something else than the
/// document.
pub fn payload(manifest: &[u8]) -> Result<Cow<'_, [u8]>> {
    #[derive(Deserialize)]
    struct Signature {
        protected: String,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Protected {
        format_length: usize,
        format_tail: String,
    }
    let mut document: BTreeMap<String, Value> = serde_json::from_slice(manifest).map_err(malformed)?;
    let Some(signatures) = document.remove("signatures") else { return Ok(Cow::Borrowed(manifest)) };
    let signatures: Vec<Signature> = serde_json::from_value(signatures).map_err(malformed)?;
    // Compared before anything is put together: there may be as many as the document has room for.
    let mut found: Option<(&[u8], Vec<u8>)> = None;
    for Signature { protected } in &signatures {
        let protected: Protected = serde_json::from_slice(&base64(protected)?).map_err(malformed)?;
        let tail = base64(&protected.format_tail)?;
        let start = manifest.get(..protected.format_length).ok_or_else(|| {
            malformed(format!("a signature is of {} bytes, and there are fewer", protected.format_length))
        })?;
        if found.as_ref().is_some_and(|(other, end)| (other.len(), end) != (start.len(), &tail)) {
            return Err(malformed("its signatures are of different contents"));
        }
        found = Some((start, tail));
    }
    let (start, tail) = found.ok_or_else(|| malformed("it has a list of signatures with none in it"))?;
    let payload = [start, &tail].concat();
    // Two readers must not see two images: one who leaves the signatures out, and one who believes them.
    let signed: BTreeMap<String, Value> = serde_json::from_slice(&payload).map_err(malformed)?;
    if signed != document {
        return Err(malformed("what is signed is not what it says"));
    }
    Ok(Cow::Owned(payload))
}

fn base64(text: &str) -> Result<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).map_err(malformed)
}

/// Whether `digest` is that of a manifest: of its payload, as Docker's registry names it, or of all its bytes, as others do.
pub fn is_digest_of(digest: &Digest, manifest: &[u8]) -> bool {
    let algorithm = digest.algorithm();
    algorithm.digest(manifest) == *digest
        || payload(manifest).is_ok_and(|payload| algorithm.digest(&payload) == *digest)
}

/// A manifest that was read.
#[derive(Debug)]
pub struct Manifest {
    entries: Vec<Entry>,
    /// What the newest layer says of the image, as it stands there.
    newest: BTreeMap<String, Box<RawValue>>,
    architecture: Option<String>,
}

/// A layer with its history.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry {
    /// The layer as it is stored. Its size is told nowhere.
    pub blob: Digest,
    /// Whether it is said to change no file, so that it need not be fetched.
    pub is_empty: bool,
    history: History,
}

/// How a layer came to be, in the form of an image config.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
struct History {
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    author: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    comment: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    empty_layer: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    schema_version: u64,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    architecture: Option<String>,
    fs_layers: Vec<FsLayer>,
    history: Vec<Compatibility>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FsLayer {
    blob_sum: Digest,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Compatibility {
    v1_compatibility: String,
}

/// What is read of a layer's own description.
#[derive(Deserialize)]
struct Layer {
    #[serde(default)]
    created: Option<String>,
    #[serde(default)]
    author: Option<String>,
    #[serde(default)]
    comment: Option<String>,
    #[serde(default)]
    throwaway: Option<bool>,
    /// What there was before `throwaway`.
    #[serde(default, rename = "Size")]
    size: Option<i64>,
    #[serde(default)]
    container_config: Option<ContainerConfig>,
}

#[derive(Deserialize)]
struct ContainerConfig {
    #[serde(default, rename = "Cmd")]
    command: Option<Vec<String>>,
}

impl Layer {
    fn read(text: &str) -> Result<Self> {
        json::refuse_duplicates(text)
            .and_then(|()| serde_json::from_str(text))
            .map_err(|error| malformed(format!("the v1Compatibility of a layer cannot be read: {error}")))
    }

    fn is_empty(&self) -> bool {
        self.throwaway.unwrap_or(self.size == Some(0))
    }

    fn history(self) -> History {
        let said = |text: Option<String>| text.filter(|text| !text.is_empty());
        let command = self.container_config.and_then(|config| config.command);
        History {
            created: said(self.created),
            created_by: said(command.map(|words| words.join(" "))),
            author: said(self.author),
            comment: said(self.comment),
            empty_layer: false,
        }
    }
}

impl Manifest {
    /// Reads a [`payload`] that was verified against `descriptor`.
    ///
    /// # Errors
    /// `InvalidArgument` for a document that is malformed, ambiguous, or does not tell a history for each layer; `ResourceExhausted` for
    /// more than [`MAX_LAYERS`].
    pub fn parse(descriptor: &Descriptor, payload: &[u8]) -> Result<Self> {
        let (wire, keys): (Wire, _) =
            json::read(descriptor, payload).context(|| "cannot read a Docker schema 1 manifest")?;
        let foreign = ["config", "layers", "manifests", "blobs", "subject"];
        if let Some(field) = foreign.iter().find(|field| keys.contains(field)) {
            return Err(malformed(format!("{} is ambiguous: it has the field {field:?}", descriptor.digest)));
        }
        if wire.schema_version != 1 {
            return Err(malformed(format!("its schemaVersion is {}", wire.schema_version)));
        }
        if let Some(own) = wire.media_type.filter(|own| !own.is_empty() && !types::is_schema1(own)) {
            return Err(malformed(format!("it calls itself {}", excerpt(&own))));
        }
        let (layers, told) = (wire.fs_layers.len(), wire.history.len());
        if layers != told {
            return Err(malformed(format!("it has {layers} layers and the history of {told}")));
        }
        if layers > MAX_LAYERS {
            return Err(Error::resource_exhausted(format!(
                "{} has {layers} layers, more than the {MAX_LAYERS} that are converted",
                descriptor.digest
            )));
        }
        let newest = wire.history.first().ok_or_else(|| malformed("it has no layers"))?;
        let newest: BTreeMap<String, Box<RawValue>> =
            serde_json::from_str(&newest.v1_compatibility).map_err(malformed)?;
        let mut entries = Vec::with_capacity(layers);
        for (layer, told) in wire.fs_layers.into_iter().zip(&wire.history).rev() {
            let described = Layer::read(&told.v1_compatibility)?;
            let (blob, is_empty) = (layer.blob_sum, described.is_empty());
            entries.push(Entry { blob, is_empty, history: described.history() });
        }
        Ok(Self { entries, newest, architecture: wire.architecture })
    }

    /// The layers, lowest first.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The image config: what the newest layer says of the image, with the diff ids of the layers, lowest first; `None` for one that changes
    /// no file. The same bytes for the same manifest.
    ///
    /// # Errors
    /// `Internal` where there are not as many as [`Manifest::entries`].
    pub fn config(&self, diff_ids: &[Option<Digest>]) -> Result<Vec<u8>> {
        #[derive(Serialize)]
        struct RootFs<'a> {
            r#type: &'a str,
            diff_ids: Vec<&'a Digest>,
        }
        if diff_ids.len() != self.entries.len() {
            return Err(Error::internal("a config needs to know what became of each layer"));
        }
        let cannot = |error| Error::internal("cannot write a config").with_source(error);
        let history: Vec<History> = self
            .entries
            .iter()
            .zip(diff_ids)
            .map(|(entry, diff_id)| History { empty_layer: diff_id.is_none(), ..entry.history.clone() })
            .collect();
        let rootfs = RootFs { r#type: "layers", diff_ids: diff_ids.iter().flatten().collect() };
        let mut config = self.newest.clone();
        for field in NOT_OF_A_CONFIG {
            config.remove(field);
        }
        for (field, told) in [("os", Some(OS)), ("architecture", self.architecture.as_deref())] {
            let is_told = config.get(field).is_some_and(|value| !matches!(value.get(), "null" | "\"\""));
            if let (false, Some(told)) = (is_told, told) {
                config.insert(field.to_owned(), to_raw_value(told).map_err(cannot)?);
            }
        }
        config.insert("history".to_owned(), to_raw_value(&history).map_err(cannot)?);
        config.insert("rootfs".to_owned(), to_raw_value(&rootfs).map_err(cannot)?);
        serde_json::to_vec(&config).map_err(cannot)
    }
}

#[cfg(test)]
mod tests;
