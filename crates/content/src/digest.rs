//! Digests: a hash algorithm and a value, validated when they enter the program and never later.
//!
//! Only algorithms that can be computed here are accepted. What is well formed but unknown is told apart from what is
//! malformed. See the descriptor section of the OCI image specification.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest as _, Sha256, Sha384, Sha512};

use crate::error::{Error, ErrorKind};

/// A hash algorithm that names content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[non_exhaustive]
pub enum Algorithm {
    /// SHA-256, the canonical one.
    #[default]
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl Algorithm {
    /// Every algorithm that is supported.
    pub const ALL: [Self; 3] = [Self::Sha256, Self::Sha384, Self::Sha512];

    /// The name as it stands before the colon of a digest.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }

    /// The exact number of hexadecimal characters of a value.
    pub fn hex_len(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha384 => 96,
            Self::Sha512 => 128,
        }
    }

    /// Finds an algorithm by its exact name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.as_str() == name)
    }

    /// Hashes `bytes` in one call.
    pub fn digest(self, bytes: &[u8]) -> Digest {
        let mut hasher = Hasher::new(self);
        hasher.update(bytes);
        hasher.finish()
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a text is not a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DigestError {
    /// Not `algorithm:encoded`, or characters that neither part may have.
    #[error(
        "invalid digest format: expected algorithm:hex, such as sha256: and 64 lower-case hexadecimal digits"
    )]
    InvalidFormat,
    /// A known algorithm with a value of the wrong length.
    #[error("invalid digest length: {algorithm} takes exactly {} hexadecimal digits", algorithm.hex_len())]
    InvalidLength {
        /// The algorithm that the text names.
        algorithm: Algorithm,
    },
    /// Well formed, of an algorithm that is not supported.
    #[error("unsupported digest algorithm: known are sha256, sha384 and sha512")]
    Unsupported,
}

impl From<DigestError> for Error {
    fn from(error: DigestError) -> Self {
        let kind = match error {
            DigestError::Unsupported => ErrorKind::NotImplemented,
            _ => ErrorKind::InvalidArgument,
        };
        Self::new(kind, error.to_string())
    }
}

/// A validated digest, `algorithm:hex` with lower-case digits. Cheap to clone.
///
/// # Security
/// A value of this type is safe to use as part of a path or URL; nothing else may be used in its place.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest {
    algorithm: Algorithm,
    text: Arc<str>,
}

impl Digest {
    /// Hashes `bytes` with SHA-256.
    pub fn sha256(bytes: &[u8]) -> Self {
        Algorithm::Sha256.digest(bytes)
    }

    /// The algorithm.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The value after the colon, in lower-case hexadecimal.
    pub fn hex(&self) -> &str {
        &self.text[self.algorithm.as_str().len() + 1..]
    }

    /// The whole digest.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let (name, encoded) = text.split_once(':').ok_or(DigestError::InvalidFormat)?;
        let Some(algorithm) = Algorithm::from_name(name) else {
            return Err(if is_algorithm(name) && is_encoded(encoded) {
                DigestError::Unsupported
            } else {
                DigestError::InvalidFormat
            });
        };
        if encoded.is_empty() || !encoded.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(DigestError::InvalidFormat);
        }
        if encoded.len() != algorithm.hex_len() {
            return Err(DigestError::InvalidLength { algorithm });
        }
        Ok(Self { algorithm, text: text.into() })
    }
}

/// `[a-z0-9]+([.+_-][a-z0-9]+)*`
fn is_algorithm(name: &str) -> bool {
    name.split(['.', '+', '_', '-'])
        .all(|part| !part.is_empty() && part.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9')))
}

/// `[a-zA-Z0-9=_-]+`
fn is_encoded(encoded: &str) -> bool {
    !encoded.is_empty()
        && encoded.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'=' | b'_' | b'-'))
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl AsRef<str> for Digest {
    fn as_ref(&self) -> &str {
        &self.text
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Digest;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a digest")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Digest, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

impl From<&Digest> for oci_spec::image::Digest {
    fn from(digest: &Digest) -> Self {
        digest.as_str().parse().expect("a validated digest satisfies oci-spec's weaker grammar")
    }
}

impl TryFrom<&oci_spec::image::Digest> for Digest {
    type Error = DigestError;

    fn try_from(digest: &oci_spec::image::Digest) -> Result<Self, DigestError> {
        digest.as_ref().parse()
    }
}

/// Computes a [`Digest`] over bytes that come in pieces.
#[derive(Clone, Debug)]
pub struct Hasher(State);

#[derive(Clone, Debug)]
enum State {
    Sha256(Sha256),
    Sha384(Sha384),
    Sha512(Sha512),
}

impl Hasher {
    /// Starts a hash of nothing.
    pub fn new(algorithm: Algorithm) -> Self {
        Self(match algorithm {
            Algorithm::Sha256 => State::Sha256(Sha256::new()),
            Algorithm::Sha384 => State::Sha384(Sha384::new()),
            Algorithm::Sha512 => State::Sha512(Sha512::new()),
        })
    }

    /// The algorithm in use.
    pub fn algorithm(&self) -> Algorithm {
        match self.0 {
            State::Sha256(_) => Algorithm::Sha256,
            State::Sha384(_) => Algorithm::Sha384,
            State::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::Sha256(hasher) => hasher.update(bytes),
            State::Sha384(hasher) => hasher.update(bytes),
            State::Sha512(hasher) => hasher.update(bytes),
        }
    }

    /// The digest of all bytes so far.
    pub fn finish(self) -> Digest {
        let algorithm = self.algorithm();
        match self.0 {
            State::Sha256(hasher) => encode(algorithm, &hasher.finalize()),
            State::Sha384(hasher) => encode(algorithm, &hasher.finalize()),
            State::Sha512(hasher) => encode(algorithm, &hasher.finalize()),
        }
    }
}

fn encode(algorithm: Algorithm, value: &[u8]) -> Digest {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(algorithm.as_str().len() + 1 + algorithm.hex_len());
    text.push_str(algorithm.as_str());
    text.push(':');
    for byte in value {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    Digest { algorithm, text: text.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_texts_are_told_apart() {
        let hex = "a".repeat(64);
        let cases = [
            (String::new(), DigestError::InvalidFormat),
            ("sha256".into(), DigestError::InvalidFormat),
            ("sha256:".into(), DigestError::InvalidFormat),
            (format!(":{hex}"), DigestError::InvalidFormat),
            (format!("sha256:{}", "A".repeat(64)), DigestError::InvalidFormat),
            ("sha256:../../x".into(), DigestError::InvalidFormat),
            (format!("sha256:{}\0", "a".repeat(63)), DigestError::InvalidFormat),
            (format!("sha256:{}", "é".repeat(32)), DigestError::InvalidFormat),
            (format!("sha256:{hex}:"), DigestError::InvalidFormat),
            (
                format!("sha256:{}", "a".repeat(63)),
                DigestError::InvalidLength { algorithm: Algorithm::Sha256 },
            ),
            (
                format!("sha256:{}", "a".repeat(65)),
                DigestError::InvalidLength { algorithm: Algorithm::Sha256 },
            ),
            (format!("sha512:{hex}"), DigestError::InvalidLength { algorithm: Algorithm::Sha512 }),
            (format!("md5:{}", "a".repeat(32)), DigestError::Unsupported),
            ("multihash+base58:QmRZxt2b".into(), DigestError::Unsupported),
            (format!("SHA256:{hex}"), DigestError::InvalidFormat),
            (format!("sha256+:{hex}"), DigestError::InvalidFormat),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse::<Digest>(), Err(expected), "{text:?}");
        }
    }

    #[test]
    fn known_values() {
        let empty = Digest::sha256(b"");
        assert_eq!(empty.as_str(), "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(empty.hex().len(), 64);
        for algorithm in Algorithm::ALL {
            let digest = algorithm.digest(b"wharf");
            assert_eq!(digest.as_str().parse::<Digest>(), Ok(digest.clone()));
            assert_eq!(Digest::try_from(&oci_spec::image::Digest::from(&digest)), Ok(digest));
        }
    }
}
