//! What a validation found.

use std::fmt;

use wharf_content::{Descriptor, Digest, Error, Result};
use wharf_platforms::Platform;

/// What is wrong with a part of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Flaw {
    /// It is not in the store.
    Missing,
    /// It has another size than its descriptor says.
    Size {
        /// The size in the store in bytes.
        found: u64,
    },
    /// Its bytes have another digest.
    Digest {
        /// The digest of the bytes in the store.
        found: Digest,
    },
    /// It cannot be read from the store; why.
    Unreadable(String),
    /// A document that cannot be decoded; why.
    Malformed(String),
    /// An index of whose manifests none is there.
    Empty,
    /// A manifest whose config has another number of diff ids.
    LayerCount {
        /// The layers of the manifest.
        layers: usize,
        /// The diff ids of the config.
        diff_ids: usize,
    },
    /// A manifest whose config has another number of entries of history that made a layer.
    HistoryCount {
        /// The layers of the manifest.
        layers: usize,
        /// The entries of the config's history that are not marked as empty.
        history: usize,
    },
    /// A layer that cannot be unwrapped; why.
    Layer(String),
    /// A layer with another diff id than the config gives it.
    DiffId {
        /// What the config says.
        expected: Digest,
        /// What its bytes say.
        found: Digest,
    },
    /// A manifest whose index names another platform than its config.
    Platform {
        /// What the index says.
        expected: Platform,
        /// What the config says; `None` where it says nothing.
        found: Option<Platform>,
    },
}

impl Flaw {
    /// One word for programs.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Size { .. } => "size",
            Self::Digest { .. } => "digest",
            Self::Unreadable(_) => "unreadable",
            Self::Malformed(_) => "malformed",
            Self::Empty => "empty",
            Self::LayerCount { .. } => "layer-count",
            Self::HistoryCount { .. } => "history-count",
            Self::Layer(_) => "layer",
            Self::DiffId { .. } => "diff-id",
            Self::Platform { .. } => "platform",
        }
    }
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("is missing"),
            Self::Size { found } => write!(f, "has {found} bytes and is described with another size"),
            Self::Digest { found } => write!(f, "has the digest {found}"),
            Self::Unreadable(reason) => write!(f, "cannot be read: {reason}"),
            Self::Malformed(reason) => write!(f, "makes no sense: {reason}"),
            Self::Empty => f.write_str("lists manifests of which none is here"),
            Self::LayerCount { layers, diff_ids } => {
                write!(f, "has {layers} layers and a config with {diff_ids} diff ids")
            }
            Self::HistoryCount { layers, history } => {
                write!(f, "has {layers} layers and a config whose history made {history}")
            }
            Self::Layer(reason) => write!(f, "cannot be unwrapped: {reason}"),
            Self::DiffId { expected, found } => {
                write!(f, "has the diff id {found}, and the config says {expected}")
            }
            Self::Platform { expected, found: Some(found) } => write!(
                f,
                "is listed for {} and its config is for {}",
                wharf_platforms::format_all(expected),
                wharf_platforms::format_all(found)
            ),
            Self::Platform { expected, found: None } => write!(
                f,
                "is listed for {} and its config names no platform",
                wharf_platforms::format_all(expected)
            ),
        }
    }
}

/// Something wrong with an image.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// The part that is concerned, as its parent describes it.
    pub descriptor: Descriptor,
    /// The document that names it; `None` for the image itself.
    pub parent: Option<Digest>,
    /// What is wrong with it.
    pub flaw: Flaw,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}) {}", self.descriptor.digest, self.descriptor.media_type, self.flaw)
    }
}

/// What was found of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Validation {
    /// What is wrong, in the order of the image.
    pub findings: Vec<Finding>,
    /// How many blobs were hashed.
    pub blobs: u64,
    /// How many bytes they have.
    pub bytes: u64,
    /// How many layers were unwrapped and have their diff id.
    pub layers: u64,
    /// Manifests that an index lists and that are not there, where they need not be.
    pub absent: Vec<Descriptor>,
    /// Layers whose diff id could not be told, since nobody decodes their media type: encrypted ones as a rule.
    pub unchecked: Vec<Descriptor>,
    /// Parts that no manifest decoder knows. They are whole, and what they refer to was not looked at.
    pub unknown: Vec<Descriptor>,
}

impl Validation {
    /// Whether nothing is wrong with what could be checked.
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }

    /// Whether everything could be checked, down to each diff id and each document.
    pub fn is_complete(&self) -> bool {
        self.unchecked.is_empty() && self.unknown.is_empty()
    }

    /// The report where nothing is wrong.
    ///
    /// # Errors
    /// `FailedPrecondition` tells every finding.
    pub fn into_result(self) -> Result<Self> {
        if self.is_clean() {
            return Ok(self);
        }
        let findings: Vec<String> = self.findings.iter().map(ToString::to_string).collect();
        Err(Error::failed_precondition(format!("the image is not valid: {}", findings.join("; "))))
    }
}
