//! Transports: the traits by which images come from and go to other places.
//!
//! A transport is found in the catalogue by the scheme of a location (`docker://`, `oci:`) and makes a resolver; a resolver finds
//! what a name means there and makes the fetcher that has the bytes (containerd: `core/remotes/resolver.go`).

use std::{
    any::{Any, TypeId},
    collections::HashMap,
    fmt::{self, Debug},
    sync::Arc,
};

use async_trait::async_trait;
use wharf_content::{ByteStream, Catalogue, Descriptor, Result, plugin::Point};

/// What a name was found to mean.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Resolved {
    /// The name in the form in which it is recorded.
    pub name: String,
    /// The root of the image. Its platform is unknown.
    pub descriptor: Descriptor,
}

impl Resolved {
    /// Pairs a name and what it means.
    pub fn new(name: impl Into<String>, descriptor: Descriptor) -> Self {
        Self { name: name.into(), descriptor }
    }
}

/// Finds what names mean at one kind of place.
#[async_trait]
pub trait Resolver: Debug + Send + Sync + 'static {
    /// Resolves a name.
    ///
    /// # Errors
    /// `InvalidArgument` for a malformed name; `NotFound`; `Unauthenticated`, `PermissionDenied`, `Unavailable` as the place
    /// answers.
    async fn resolve(&self, name: &str) -> Result<Resolved>;

    /// Makes what fetches the content of a name.
    ///
    /// # Errors
    /// `InvalidArgument` for a malformed name.
    async fn fetcher(&self, name: &str) -> Result<Arc<dyn Fetcher>>;
}

/// Fetches content by descriptor.
#[async_trait]
pub trait Fetcher: Debug + Send + Sync + 'static {
    /// Opens content at `offset`. Nothing about the bytes may be trusted: size and digest are the reader's to check.
    ///
    /// # Errors
    /// `NotFound`; `Unavailable` after retries; `OutOfRange` past the end.
    ///
    /// # Cancellation
    /// Dropping the stream ends the transfer.
    async fn fetch(&self, descriptor: &Descriptor, offset: u64) -> Result<ByteStream>;

    /// The repository that the content is from, as `domain/path`; `None` where that is not a registry's.
    fn repository(&self) -> Option<&str> {
        None
    }
}

/// Makes resolvers for the locations of one scheme.
pub trait Transport: Debug + Send + Sync + 'static {
    /// Makes a resolver.
    ///
    /// # Errors
    /// `InvalidArgument` for options that contradict each other.
    fn resolver(&self, options: &TransportOptions) -> Result<Arc<dyn Resolver>>;
}

/// The extension point of transports; a key is a scheme.
#[derive(Debug)]
pub struct Transports;

impl Point for Transports {
    const NAME: &'static str = "transport";
    const KEY: &'static str = "scheme";
    type Item = dyn Transport;
}

/// Registers a [`Transport`] with the catalogue: `name`, `keys` (schemes), optionally `priority`, and `make`.
#[macro_export]
macro_rules! register_transport {
    ($($registration:tt)*) => {
        $crate::content::__register! { $crate::transport::Transports, $($registration)* }
    };
}

/// What a transport is told. Each transport documents the type of its own settings, of which at most one value is held.
#[derive(Clone)]
#[non_exhaustive]
pub struct TransportOptions {
    /// The catalogue of the caller.
    pub catalogue: Catalogue,
    settings: HashMap<TypeId, Arc<dyn Any + Send + Sync>>,
}

impl TransportOptions {
    /// No settings, and the catalogue that is linked.
    pub fn new() -> Self {
        Self { catalogue: Catalogue::linked().clone(), settings: HashMap::new() }
    }

    /// Uses this catalogue.
    #[must_use]
    pub fn with_catalogue(mut self, catalogue: Catalogue) -> Self {
        self.catalogue = catalogue;
        self
    }

    /// Sets the settings of the transport that reads type `T`.
    #[must_use]
    pub fn with<T: Any + Send + Sync>(mut self, settings: T) -> Self {
        self.settings.insert(TypeId::of::<T>(), Arc::new(settings));
        self
    }

    /// The settings of type `T`.
    pub fn settings<T: Any + Send + Sync>(&self) -> Option<&T> {
        self.settings.get(&TypeId::of::<T>())?.downcast_ref()
    }
}

impl Default for TransportOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl Debug for TransportOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransportOptions").field("settings", &self.settings.len()).finish_non_exhaustive()
    }
}
