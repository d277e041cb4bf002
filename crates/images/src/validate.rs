//! The validator: whether an image in a store is right to the last byte.
//!
//! Checked are: that every part is there, with the size and digest by which it is named; that documents can be decoded; that a config has
//! as many diff ids as the manifest has layers, and as many entries of history, where it has history; that every layer, unwrapped, has the
//! diff id that the config gives it; that a manifest's config is for the platform that the index names.
//!
//! Labels are not believed, and nothing is fetched, repaired or written. Whether a store as a whole is healthy, and which images suffer
//! where it is not, is for [`verify`](crate::verify); it hashes and does not unwrap.

mod finding;
mod inspect;

use std::sync::Arc;

use wharf_content::{Catalogue, Descriptor, Provider, Result};

pub use finding::{Finding, Flaw, Validation};

use crate::{layer::LayerOptions, walk::Limits};

/// Which manifests of an index have to be right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Manifests {
    /// Those that are there; at least one of each index.
    #[default]
    Present,
    /// Every one.
    All,
}

/// How an image is validated.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ValidateOptions {
    /// Which manifests of an index are looked at.
    pub manifests: Manifests,
    /// The decoders of documents and layers.
    pub catalogue: Catalogue,
    /// How deep and how large the image may be.
    pub limits: Limits,
    /// What a layer may cost to unwrap.
    pub layers: LayerOptions,
}

impl Default for ValidateOptions {
    fn default() -> Self {
        Self {
            manifests: Manifests::default(),
            catalogue: Catalogue::linked().clone(),
            limits: Limits::default(),
            layers: LayerOptions::default(),
        }
    }
}

impl ValidateOptions {
    /// Whatever is there, with the decoders that are linked.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets which manifests of an index are looked at.
    #[must_use]
    pub fn with_manifests(mut self, manifests: Manifests) -> Self {
        self.manifests = manifests;
        self
    }

    /// Sets the decoders.
    #[must_use]
    pub fn with_catalogue(mut self, catalogue: Catalogue) -> Self {
        self.catalogue = catalogue;
        self
    }

    /// Sets how deep and how large the image may be.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets what a layer may cost to unwrap.
    #[must_use]
    pub fn with_layers(mut self, layers: LayerOptions) -> Self {
        self.layers = layers;
        self
    }
}

/// Validates an image.
///
/// # Errors
/// Those of the store other than that content is missing or damaged; `ResourceExhausted` beyond the limits; `Conflict` of decoders. What is
/// wrong with the image is in the report and no error; [`Validation::into_result`] makes one of it.
///
/// # Cancellation
/// Nothing remains.
pub async fn validate(
    provider: Arc<dyn Provider>,
    target: &Descriptor,
    options: &ValidateOptions,
) -> Result<Validation> {
    inspect::Inspector::new(provider, options).inspect(target).await
}
