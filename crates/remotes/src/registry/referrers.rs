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
use wharf_content::{Descriptor, Digest, Error, Result, ResultExt};
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
    subject: Digest,
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

/// A list of referrers under a tag.
struct List<'a> {
    client: &'a Client,
    endpoint: String,
    scope: &'a str,
}

impl List<'_> {
    /// The index; `None` where there is none.
    async fn read(&self) -> Result<Option<Bytes>> {
        let mut ask = Ask::new(Method::GET, &*self.endpoint, self.scope);
        ask.accept = Some(media_types::OCI_INDEX);
        match self.client.read(&ask, MAX_MANIFEST_LEN).await {
            Ok((_, body)) => Ok(Some(body)),
            Err(error) if status(&error) == Some(404) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn write(&self, index: Vec<u8>) -> Result<()> {
        let (len, index) = (index.len() as u64, Arc::new(Bytes::from(index)));
        let mut ask = Ask::new(Method::PUT, &*self.endpoint, self.scope);
        ask.payload = Some(Payload::whole(index, len, media_types::OCI_INDEX));
        self.client.send(&ask).await.map(drop)
    }
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
        Some(Self { tag: fallback_tag(&subject), subject, described })
    }

    /// Lists it, unless it is listed.
    pub(super) async fn list(&self, client: &Client, path: &str, scope: &str) -> Result<()> {
        let list = List { client, endpoint: format!("{path}/manifests/{}", self.tag), scope };
        let cannot = || format!("cannot list the manifest among the referrers under the tag {}", self.tag);
        let present = list.read().await.context(cannot)?;
        match self.added_to(present.as_deref()).context(cannot)? {
            Some(index) => list.write(index).await.context(cannot),
            None => Ok(()),
        }
    }

    /// Takes it off the list of its subject, where there is one.
    pub(super) async fn unlist(&self, client: &Client, path: &str, scope: &str) -> Result<()> {
        let list = List { client, endpoint: format!("{path}/manifests/{}", self.tag), scope };
        let cannot = || format!("the list of referrers under the tag {} still has it", self.tag);
        let present = list.read().await.context(cannot)?;
        match present.and_then(|present| self.taken_from(&present)) {
            Some(index) => list.write(index).await.context(cannot),
            None => Ok(()),
        }
    }

    /// The subject's endpoint at registries that list referrers themselves.
    pub(super) fn endpoint(&self, path: &str) -> String {
        format!("{path}/referrers/{}", self.subject)
    }

    /// The list without this one; `None` where it is not on it, or that is no list.
    fn taken_from(&self, present: &[u8]) -> Option<Vec<u8>> {
        let mut index: Value = serde_json::from_slice(present).ok()?;
        let listed = index.get_mut("manifests").and_then(Value::as_array_mut)?;
        let before = listed.len();
        listed.retain(|entry| entry["digest"] != self.described.digest.as_str());
        (listed.len() < before).then(|| index.to_string().into_bytes())
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
        let one = referrer.taken_from(both.to_string().as_bytes()).expect("it is there");
        assert_eq!(referrer.taken_from(&one), None, "once");
        let one: Value = serde_json::from_slice(&one).expect("JSON");
        assert_eq!(one["manifests"][0], both["manifests"][1], "the other one stays as it is");
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
