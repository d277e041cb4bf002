//! What manifests and indexes have in common: the fields that are read, and the guard against one body that is two things.

use std::collections::BTreeMap;

use serde::Deserialize;
use wharf_content::{Descriptor, Error, Result};

use crate::{
    decode::{Child, Decoded},
    json,
    reference::excerpt,
};

/// What is read of any of them. A field that belongs to another kind is refused before it is looked at.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Document {
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    pub(super) config: Option<Descriptor>,
    #[serde(default)]
    pub(super) layers: Option<Vec<Descriptor>>,
    #[serde(default)]
    pub(super) manifests: Option<Vec<Descriptor>>,
    #[serde(default)]
    pub(super) blobs: Option<Vec<Descriptor>>,
    #[serde(default)]
    subject: Option<Descriptor>,
    #[serde(default)]
    artifact_type: Option<String>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

impl Document {
    /// Reads a document that must not have the `foreign` fields, nor call itself what is not `same_kind`.
    ///
    /// One body must not be a manifest to one reader and an index to another (CVE-2021-41190). The kind is the descriptor's; Docker's
    /// and OCI's types are interchangeable within a kind, and a document may leave its type out.
    pub(super) fn read(
        descriptor: &Descriptor,
        bytes: &[u8],
        foreign: &[&str],
        same_kind: fn(&str) -> bool,
    ) -> Result<Self> {
        let (document, keys): (Self, _) = json::read(descriptor, bytes)?;
        let ambiguous = |why: String| {
            let claimed = excerpt(&descriptor.media_type);
            Error::invalid_argument(format!(
                "{} is ambiguous: it is described as {claimed} and {why}",
                descriptor.digest
            ))
        };
        if let Some(field) = foreign.iter().chain(&["fsLayers"]).find(|field| keys.contains(field)) {
            return Err(ambiguous(format!("has the field {field:?}")));
        }
        match document.media_type.as_deref() {
            Some(own) if !own.is_empty() && !same_kind(own) => {
                Err(ambiguous(format!("calls itself {}", excerpt(own))))
            }
            _ => Ok(document),
        }
    }

    /// What it says beside its children.
    pub(super) fn decoded(self, children: Vec<Child>) -> Decoded {
        let mut decoded = Decoded::new(children);
        decoded.subject = self.subject;
        decoded.artifact_type = super::said(self.artifact_type);
        decoded.facts = self.annotations.unwrap_or_default();
        decoded
    }
}
