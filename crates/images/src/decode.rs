//! Manifest decoders: for a media type, what a document says, above all which children it has.
//!
//! A decoder is synchronous and does no input or output of its own accord; one that does, says that it
//! [blocks](ManifestDecoder::blocks). It is the extension point for new media types: nothing in wharf switches on media types to find
//! children.

use std::{collections::BTreeMap, fmt::Debug};

use wharf_content::{
    Descriptor, Result,
    plugin::{Catalogue, Point},
};
use wharf_platforms::Platform;

/// The most bytes that are read of a manifest or index (containerd: `core/remotes/docker/resolver.go`).
pub const MAX_MANIFEST_LEN: u64 = 4_393_216;

/// The most bytes that are read of a leaf for what it says of itself.
pub const MAX_LEAF_LEN: u64 = 4 * 1024 * 1024;

/// What a media type is in the graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// Lists alternatives, one of which is chosen by platform. Registries keep it as a manifest.
    Index,
    /// Lists the parts of one thing, all of which belong to it. Registries keep it as a manifest.
    Manifest,
    /// Has no children, and those that a decoder gives are not looked at. Registries keep it as a blob.
    Leaf,
}

impl Kind {
    /// Whether registries serve it under `manifests/`.
    pub fn is_manifest(self) -> bool {
        matches!(self, Self::Index | Self::Manifest)
    }
}

/// What a child is to its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Role {
    /// The configuration of an image or artifact.
    Config,
    /// A layer of a file system, or the payload of an artifact.
    Layer,
    /// A manifest or index.
    Manifest,
    /// Anything else.
    Other,
}

/// A child with its role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    /// Where it points.
    pub descriptor: Descriptor,
    /// What it is to its parent.
    pub role: Role,
}

/// What a decoder found in a document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Decoded {
    /// The children, in the document's order.
    pub children: Vec<Child>,
    /// The platform, where the document tells it.
    pub platform: Option<Platform>,
    /// What the document is about, where it refers to another one.
    pub subject: Option<Descriptor>,
    /// The type of an artifact.
    pub artifact_type: Option<String>,
    /// One line for people, in `tree` and `inspect`.
    pub description: Option<String>,
    /// Further named facts, for `tree` and `inspect`. Of manifests and indexes: their annotations.
    pub facts: BTreeMap<String, String>,
    /// Whether the document vouches for children whose media type nobody decodes: they are leaves by its word, parts of an artifact of
    /// which only its users know what is in it. They are neither reported nor refused as unknown.
    pub vouches: bool,
}

impl Decoded {
    /// Nothing but children.
    pub fn new(children: Vec<Child>) -> Self {
        Self { children, ..Self::default() }
    }

    /// Sets the line for people.
    #[must_use]
    pub fn with_description(mut self, description: impl Into<String>) -> Self {
        self.description = Some(description.into());
        self
    }

    /// Adds a fact.
    #[must_use]
    pub fn with_fact(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.facts.insert(name.into(), value.into());
        self
    }

    /// Sets the platform.
    #[must_use]
    pub fn with_platform(mut self, platform: Platform) -> Self {
        self.platform = Some(platform);
        self
    }

    /// [Vouches](Decoded::vouches) for children whose media type nobody decodes.
    #[must_use]
    pub fn vouching(mut self) -> Self {
        self.vouches = true;
        self
    }

    /// The descriptors of the children.
    pub fn descriptors(self) -> Vec<Descriptor> {
        self.children.into_iter().map(|child| child.descriptor).collect()
    }

    /// The first child of this role.
    pub fn child(&self, role: Role) -> Option<&Descriptor> {
        self.children_of(role).next()
    }

    /// The children of this role.
    pub fn children_of(&self, role: Role) -> impl Iterator<Item = &Descriptor> {
        self.children.iter().filter(move |child| child.role == role).map(|child| &child.descriptor)
    }
}

/// Decodes documents of some media types.
pub trait ManifestDecoder: Debug + Send + Sync + 'static {
    /// What such a document is in the graph.
    fn kind(&self) -> Kind;

    /// Whether [`ManifestDecoder::decode`] needs the bytes. Where it does not, they are neither read nor fetched for its sake, and it is
    /// given none.
    ///
    /// A leaf is read only where somebody asks what it says of itself ([`describe`](crate::describe)), and only up to
    /// [`MAX_LEAF_LEN`]; what cannot be read then is no obstacle to anything.
    fn reads_content(&self) -> bool {
        self.kind().is_manifest()
    }

    /// Whether [`ManifestDecoder::decode`] takes its time, because it waits for something or computes for more than some milliseconds. It
    /// is then called on a thread that may block. A caller that is cancelled leaves the call to end by itself.
    fn blocks(&self) -> bool {
        false
    }

    /// Reads a document whose bytes have been verified against its descriptor.
    ///
    /// # Errors
    /// `InvalidArgument` for a document that is malformed or contradicts its media type.
    ///
    /// # Security
    /// The bytes come from a stranger: no panic, no allocation by a number that they claim.
    fn decode(&self, descriptor: &Descriptor, bytes: &[u8]) -> Result<Decoded>;
}

/// The extension point of manifest decoders; a key is a media type.
#[derive(Debug)]
pub struct ManifestDecoders;

impl Point for ManifestDecoders {
    const NAME: &'static str = "manifest decoder";
    const KEY: &'static str = "media type";
    type Item = dyn ManifestDecoder;
}

/// Registers a [`ManifestDecoder`] with the catalogue: `name`, `keys` (media types), optionally `priority`, and `make`, an
/// expression for the decoder.
///
/// ```
/// use wharf_content::{Catalogue, Descriptor, Result};
/// use wharf_images::decode::{Decoded, Kind, ManifestDecoder, ManifestDecoders};
///
/// #[derive(Debug)]
/// struct Recipe;
///
/// impl ManifestDecoder for Recipe {
///     fn kind(&self) -> Kind {
///         Kind::Leaf
///     }
///     fn decode(&self, _: &Descriptor, _: &[u8]) -> Result<Decoded> {
///         Ok(Decoded::default())
///     }
/// }
///
/// wharf_images::register_manifest_decoder! {
///     name: "recipe", keys: ["application/vnd.example.recipe.v1+json"], make: Recipe
/// }
///
/// # fn main() -> Result<()> {
/// let found = Catalogue::linked().find::<ManifestDecoders>("application/vnd.example.recipe.v1+json")?;
/// assert_eq!(found.map(|decoder| decoder.kind()), Some(Kind::Leaf));
/// # Ok(())
/// # }
/// ```
#[macro_export]
macro_rules! register_manifest_decoder {
    ($($registration:tt)*) => {
        $crate::content::__register! { $crate::decode::ManifestDecoders, $($registration)* }
    };
}

/// What the media type is in the graph; `None` where nobody decodes it.
///
/// # Errors
/// `Conflict` when several decoders claim it.
pub fn kind(media_type: &str, catalogue: &Catalogue) -> Result<Option<Kind>> {
    Ok(catalogue.find::<ManifestDecoders>(media_type)?.map(|decoder| decoder.kind()))
}
