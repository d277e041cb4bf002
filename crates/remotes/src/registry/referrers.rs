//! Listing a pushed manifest among the referrers of its subject, at registries that do not do it themselves (distribution
//! specification 1.1, "Pushing Manifests with Subject" and "Referrers Tag Schema").
//!
//! The list is an index under a tag made of the subject's digest. Nobody guards it: of two processes that change it at the same time,
//! the later one wins, as the specification says.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use wharf_content::{Descriptor, Error, Result, ResultExt};
use wharf_images::{decode::MAX_MANIFEST_LEN, media_types, referrers::fallback_tag};

use super::{
    client::{Ask, Client},
    payload::Payload,
    pusher::status,
};

/// A manifest that refers to another one.
#[derive(Debug)]
pub(super) struct Referrer {
    /// The tag under which those of its subject are listed.
    tag: String,
    /// How it is described there.
    described: Descriptor,
}

/// What is read of a manifest, whatever its type.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct View {
    subject: Option<Descriptor>,
    #[serde(default)]
    artifact_type: Option<String>,
    #[serde(default)]
    config: Option<Config>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    #[serde(default)]
    media_type: String,
}

impl Referrer {
    /// Reads a manifest; `None` where it has no subject, or is no JSON that could have one.
    pub(super) fn read(descriptor: &Descriptor, bytes: &[u8]) -> Option<Self> {
        let view: View = serde_json::from_slice(bytes).ok()?;
        let subject = view.subject?.digest;
        let (media_type, digest) = (descriptor.media_type.as_str(), descriptor.digest.clone());
        let mut described = Descriptor::new(media_type, digest, descriptor.size);
        let own = view.artifact_type.filter(|own| !own.is_empty());
        let artifact_type = own.or_else(|| view.config.map(|config| config.media_type));
        described.artifact_type = artifact_type.filter(|artifact_type| !artifact_type.is_empty());
        described.annotations = view.annotations.unwrap_or_default();
        Some(Self { tag: fallback_tag(&subject), described })
    }

    /// Lists it, unless it is listed.
    pub(super) async fn list(&self, client: &Client, path: &str, scope: &str) -> Result<()> {
        let endpoint = format!("{path}/manifests/{}", self.tag);
        let cannot = || format!("cannot list the manifest among the referrers under the tag {}", self.tag);
        let mut ask = Ask::new(Method::GET, &*endpoint, scope);
        ask.accept = Some(media_types::OCI_INDEX);
        let present = match client.read(&ask, MAX_MANIFEST_LEN).await {
            Ok((_, body)) => Some(body),
            Err(error) if status(&error) == Some(404) => None,
            Err(error) => return Err(error.context(cannot())),
        };
        let Some(index) = self.added_to(present.as_deref()).context(cannot)? else { return Ok(()) };
        let (len, index) = (index.len() as u64, Arc::new(Bytes::from(index)));
        let mut ask = Ask::new(Method::PUT, endpoint, scope);
        ask.payload = Some(Payload::whole(index, len, media_types::OCI_INDEX));
        client.send(&ask).await.context(cannot).map(drop)
    }

    /// The list with this one in it; `None` where it is there.
    fn added_to(&self, present: Option<&[u8]>) -> Result<Option<Vec<u8>>> {
        let taken = || Error::failed_precondition("the tag is taken by something that is no index");
        let mut index: Value = match present {
            Some(bytes) => serde_json::from_slice(bytes).map_err(|error| taken().with_source(error))?,
            None => {
                json!({ "schemaVersion": 2, "mediaType": media_types::OCI_INDEX, "manifests": [] })
            }
        };
        let listed = index.get_mut("manifests").and_then(Value::as_array_mut).ok_or_else(taken)?;
        if listed.iter().any(|entry| entry["digest"] == self.described.digest.as_str()) {
            return Ok(None);
        }
        listed.push(json!(self.described));
        Ok(Some(index.to_string().into_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(more: &Value) -> (Descriptor, Vec<u8>) {
        let mut manifest = json!({ "schemaVersion": 2, "config": { "mediaType": "application/x-config" } });
        for (key, value) in more.as_object().expect("an object") {
            manifest[key] = value.clone();
        }
        let bytes = manifest.to_string().into_bytes();
        (Descriptor::of(media_types::OCI_MANIFEST, &bytes), bytes)
    }

    #[test]
    fn what_has_a_subject_is_listed_once() {
        let subject = Descriptor::of(media_types::OCI_MANIFEST, b"subject");
        let (descriptor, bytes) = manifest(&json!({ "subject": subject, "annotations": { "a": "b" } }));
        let referrer = Referrer::read(&descriptor, &bytes).expect("refers");
        assert_eq!(referrer.tag, format!("sha256-{}", subject.digest.hex()));
        let index = referrer.added_to(None).expect("makes one").expect("it is new");
        assert_eq!(referrer.added_to(Some(&index)).expect("reads"), None, "once");
        let index: Value = serde_json::from_slice(&index).expect("JSON");
        assert_eq!(index["manifests"][0]["artifactType"], "application/x-config");
        assert_eq!(index["manifests"][0]["annotations"]["a"], "b");

        let (other, bytes) = manifest(&json!({ "subject": subject, "artifactType": "application/x-own" }));
        let other = Referrer::read(&other, &bytes).expect("refers");
        let both = other.added_to(Some(index.to_string().as_bytes())).expect("reads").expect("new");
        let both: Value = serde_json::from_slice(&both).expect("JSON");
        assert_eq!(both["manifests"].as_array().map(Vec::len), Some(2));
        assert_eq!(both["manifests"][1]["artifactType"], "application/x-own");
    }

    #[test]
    fn what_has_none_and_what_is_no_index_are_left_alone() {
        let (descriptor, bytes) = manifest(&json!({}));
        assert!(Referrer::read(&descriptor, &bytes).is_none());
        assert!(Referrer::read(&descriptor, b"not JSON").is_none());
        let subject = wharf_content::Algorithm::Sha512.digest(b"subject");
        let subject = Descriptor::new(media_types::OCI_MANIFEST, subject, 7);
        let (descriptor, bytes) = manifest(&json!({ "subject": subject }));
        let referrer = Referrer::read(&descriptor, &bytes).expect("refers");
        assert_eq!(referrer.tag, format!("sha512-{}", &subject.digest.hex()[..64]));
        for taken in ["[]", "{}", "no"] {
            assert!(referrer.added_to(Some(taken.as_bytes())).is_err(), "{taken}");
        }
    }
}
