//! Artifact decoders: what is known of a manifest by the type of the artifact that it holds.
//!
//! Most artifacts come in an OCI image manifest, whose media type tells nothing of them. So what the decoder of the manifest found is
//! handed to the artifact decoder for [any type](ANY_TYPE) and then to the one of its own artifact type, which may add to it. They are
//! given no content but that: what the parts say, the manifest decoders of their own media types say.

use std::fmt::Debug;

use wharf_content::{Catalogue, Descriptor, Result, plugin::Point};

use crate::decode::Decoded;

/// The key of an artifact decoder for all types; that of the type itself comes after it and has the last word.
pub const ANY_TYPE: &str = "*";

/// The annotation with the name of a thing (OCI image specification, `annotations.md`).
pub const TITLE: &str = "org.opencontainers.image.title";
/// The annotation with the version of a thing (OCI image specification, `annotations.md`).
pub const VERSION: &str = "org.opencontainers.image.version";

/// Knows artifacts of some types.
pub trait ArtifactDecoder: Debug + Send + Sync + 'static {
    /// Adds to what the manifest's own decoder found: a description, facts, better roles,
    /// [`vouches`](Decoded::vouches).
    ///
    /// # Errors
    /// `InvalidArgument` for an artifact that contradicts its type. It fails whatever is done with the artifact, so that it is for
    /// what would mislead, not for what is missing.
    ///
    /// # Security
    /// All texts come from a stranger: no panic, no allocation by a number that they claim.
    fn refine(&self, descriptor: &Descriptor, decoded: Decoded) -> Result<Decoded>;
}

/// The extension point of artifact decoders; a key is an artifact type, or [`ANY_TYPE`].
#[derive(Debug)]
pub struct ArtifactDecoders;

impl Point for ArtifactDecoders {
    const NAME: &'static str = "artifact decoder";
    const KEY: &'static str = "artifact type";
    type Item = dyn ArtifactDecoder;
}

/// Registers an [`ArtifactDecoder`] with the catalogue: `name`, `keys` (artifact types), optionally `priority`, and `make`.
///
/// ```
/// use wharf_content::{Catalogue, Descriptor, Result};
/// use wharf_images::{Decoded, artifact::{ArtifactDecoder, ArtifactDecoders}};
///
/// #[derive(Debug)]
/// struct Model;
///
/// impl ArtifactDecoder for Model {
///     fn refine(&self, _: &Descriptor, decoded: Decoded) -> Result<Decoded> {
///         let name = decoded.facts.get("com.example.model").cloned().unwrap_or_default();
///         // Its weights may have any media type.
///         Ok(decoded.with_description(format!("model {name}")).vouching())
///     }
/// }
///
/// wharf_images::register_artifact_decoder! {
///     name: "model", keys: ["application/vnd.example.model.v1"], make: Model
/// }
///
/// # fn main() -> Result<()> {
/// assert!(Catalogue::linked().find::<ArtifactDecoders>("application/vnd.example.model.v1")?.is_some());
/// # Ok(())
/// # }
/// ```
#[macro_export]
macro_rules! register_artifact_decoder {
    ($($registration:tt)*) => {
        $crate::content::__register! { $crate::artifact::ArtifactDecoders, $($registration)* }
    };
}

/// Lets the artifact decoders add to what a manifest's own decoder found; what is no artifact stays as it is.
///
/// # Errors
/// `Conflict` when several decoders claim the type; those of the decoder.
pub fn refine(descriptor: &Descriptor, decoded: Decoded, catalogue: &Catalogue) -> Result<Decoded> {
    let Some(artifact_type) = decoded.artifact_type.clone() else { return Ok(decoded) };
    [ANY_TYPE, &artifact_type].into_iter().try_fold(decoded, |decoded, key| {
        match catalogue.find::<ArtifactDecoders>(key)? {
            Some(decoder) => decoder.refine(descriptor, decoded),
            None => Ok(decoded),
        }
    })
}
