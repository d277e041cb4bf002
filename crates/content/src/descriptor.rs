//! Descriptors: what a piece of content is, how large it is, and what it hashes to.
//!
//! A descriptor is a view. Documents are never written again from it; their bytes are kept as they came.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Deserializer, Serialize, de};
use wharf_platforms::Platform;

use crate::{
    digest::Digest,
    error::{Error, Result},
};

/// The descriptor of the OCI image specification, with Docker's use of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the content is. Empty where a document leaves it out.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// The digest of the content.
    pub digest: Digest,
    /// The size of the content in bytes, at most `i64::MAX`.
    #[serde(deserialize_with = "size")]
    pub size: u64,
    /// Other places that claim to have the content. Followed only where a caller asks for it.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// Free facts about the content.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// The content itself in base64; see [`Descriptor::embedded`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// The platform that the content is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// The type of the artifact that the content describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
}

impl Descriptor {
    /// Makes a descriptor without optional fields.
    pub fn new(media_type: impl Into<String>, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.into(),
            digest,
            size,
            urls: Vec::new(),
            annotations: BTreeMap::new(),
            data: None,
            platform: None,
            artifact_type: None,
        }
    }

    /// Describes `bytes`, hashed with SHA-256.
    pub fn of(media_type: impl Into<String>, bytes: &[u8]) -> Self {
        Self::new(media_type, Digest::sha256(bytes), bytes.len() as u64)
    }

    /// Sets the platform.
    #[must_use]
    pub fn with_platform(mut self, platform: Platform) -> Self {
        self.platform = Some(platform);
        self
    }

    /// Adds an annotation.
    #[must_use]
    pub fn with_annotation(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.annotations.insert(key.into(), value.into());
        self
    }

    /// Decodes the content that the descriptor carries itself, and verifies its size and digest.
    ///
    /// Gives `None` where there is none, or where it does not have the declared size or digest: the field is an
    /// optimisation, and the store or registry stays the source (OCI image specification, embedded content).
    pub fn embedded(&self) -> Option<Vec<u8>> {
        let data = self.data.as_ref()?;
        let bytes = STANDARD.decode(data).ok()?;
        (bytes.len() as u64 == self.size && self.digest.algorithm().digest(&bytes) == self.digest)
            .then_some(bytes)
    }

    /// Checks that `bytes` are what the descriptor promises.
    ///
    /// # Errors
    /// `FailedPrecondition` names the promised and the real size or digest.
    pub fn verify(&self, bytes: &[u8]) -> Result<()> {
        if bytes.len() as u64 != self.size {
            return Err(Error::failed_precondition(format!(
                "size mismatch for {}: expected {} bytes, found {}",
                self.digest,
                self.size,
                bytes.len()
            )));
        }
        let found = self.digest.algorithm().digest(bytes);
        if found != self.digest {
            return Err(Error::failed_precondition(format!(
                "digest mismatch: expected {}, found {found}",
                self.digest
            )));
        }
        Ok(())
    }
}

fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let size = i64::deserialize(deserializer)?;
    u64::try_from(size).map_err(|_| de::Error::custom(format!("negative size {size}")))
}

fn null_as_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn absurd_sizes_are_refused() {
        for size in ["-1", "1e3", "\"12\"", "1.0", "9223372036854775808", "null"] {
            let text = format!(r#"{{"mediaType":"x","digest":"{DIGEST}","size":{size}}}"#);
            assert!(serde_json::from_str::<Descriptor>(&text).is_err(), "{size}");
        }
        let largest = format!(r#"{{"mediaType":"x","digest":"{DIGEST}","size":9223372036854775807}}"#);
        assert_eq!(serde_json::from_str::<Descriptor>(&largest).expect("i64::MAX").size, i64::MAX as u64);
    }

    #[test]
    fn wire_names_and_nulls() {
        let text = format!(
            r#"{{"mediaType":"m","digest":"{DIGEST}","size":0,"urls":null,"annotations":null,"artifactType":"a",
               "platform":{{"architecture":"amd64","os":"windows","os.version":"10.0.1"}},"unknown":1}}"#
        );
        let descriptor: Descriptor = serde_json::from_str(&text).expect("valid");
        assert_eq!(
            descriptor.platform.as_ref().and_then(|platform| platform.os_version.as_deref()),
            Some("10.0.1")
        );
        assert_eq!(
            serde_json::to_string(&descriptor).expect("serialises"),
            format!(
                r#"{{"mediaType":"m","digest":"{DIGEST}","size":0,"platform":{{"architecture":"amd64","os":"windows","os.version":"10.0.1"}},"artifactType":"a"}}"#
            )
        );
    }

    #[test]
    fn embedded_data_must_match() {
        let mut descriptor = Descriptor::of("x", b"{}");
        assert_eq!(descriptor.embedded(), None);
        descriptor.data = Some("e30=".into());
        assert_eq!(descriptor.embedded(), Some(b"{}".to_vec()));
        descriptor.digest = crate::Algorithm::Sha512.digest(b"{}");
        assert_eq!(descriptor.embedded(), Some(b"{}".to_vec()));
        for bad in ["e30", "W10=", "!!"] {
            descriptor.data = Some(bad.into());
            assert_eq!(descriptor.embedded(), None, "{bad}");
        }
    }
}
