//! Transports: the traits by which images come from and go to other places.
//!
//! A transport is found in the catalogue by the scheme of a location (`docker://`, `oci:`) and makes a resolver; a resolver finds
//! what a name means there and makes the fetcher that has the bytes, and where the place takes content, the pusher that puts it there
//! (containerd: `core/remotes/resolver.go`).
//!
//! [`MemoryRegistry`] is all of them in memory; `wharf_images::conformance::transport` checks what they promise.

mod memory;

use std::{
    any::{Any, TypeId},
    collections::HashMap,
    fmt::{self, Debug},
    sync::Arc,
};

use async_trait::async_trait;
use wharf_content::{
    ByteStream, Catalogue, Descriptor, Digest, Error, Provider, Result, copying::Source, plugin::Point,
};

use crate::{progress::Sink, reference::Reference, referrers::ReferrersProvider};

pub use memory::MemoryRegistry;

/// What a name was found to mean.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Resolved {
    /// The name in the form in which it is recorded.
    pub name: String,
    /// The root of the image. Its platform is unknown.
    pub descriptor: Descriptor,
    /// The name that the place gives the image, where its own names are those of files; it is recorded under that one.
    pub image_name: Option<String>,
    /// Whether the place has it as a blob and not as a manifest, which only a name by digest can mean.
    pub is_blob: bool,
}

impl Resolved {
    /// Pairs a name and what it means.
    pub fn new(name: impl Into<String>, descriptor: Descriptor) -> Self {
        Self { name: name.into(), descriptor, image_name: None, is_blob: false }
    }

    /// Says that the place has it as a blob.
    #[must_use]
    pub fn as_blob(mut self) -> Self {
        self.is_blob = true;
        self
    }

    /// Sets the name that the place gives the image.
    #[must_use]
    pub fn with_image_name(mut self, name: impl Into<String>) -> Self {
        self.image_name = Some(name.into());
        self
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

    /// Makes what puts content under a name. By default nothing can be put there.
    ///
    /// # Errors
    /// `InvalidArgument` for a malformed name; `NotImplemented` for a place that takes no content.
    async fn pusher(&self, name: &str) -> Result<Arc<dyn Pusher>> {
        Err(Error::not_implemented(format!(
            "nothing can be pushed to {name:?}: its transport only gives content"
        )))
    }

    /// Lists the tags of a repository, in the order of the place. By default nothing can be listed.
    ///
    /// # Errors
    /// `InvalidArgument` for what is no name of a repository, such as one with a tag; `NotImplemented` for a place that lists no tags;
    /// `NotFound` where there is no such repository; `ResourceExhausted` for more tags than are read; those of the place.
    ///
    /// # Cancellation
    /// Nothing remains.
    async fn tags(&self, repository: &str) -> Result<Vec<String>> {
        Err(Error::not_implemented(format!("the tags of {repository:?} cannot be listed by its transport")))
    }

    /// Makes what lists the manifests that refer to others in the repository of a name. By default nothing can be listed.
    ///
    /// # Errors
    /// `InvalidArgument` for a malformed name; `NotImplemented` for a place that lists no referrers.
    async fn referrers(&self, name: &str) -> Result<Arc<dyn ReferrersProvider>> {
        Err(Error::not_implemented(format!("the referrers of {name:?} cannot be listed by its transport")))
    }

    /// The name of another tag in the repository of a name; `None` where names are not made of a repository and a tag, as is so by default.
    fn beside(&self, _name: &str, _tag: &str) -> Option<String> {
        None
    }

    /// Removes what a name means: of a name with a digest the manifest, and with it every other name that it has in the same place; of
    /// any other that one name, so that the manifest stays for who knows another. What was removed may be kept by the place until it
    /// cleans up. By default nothing can be removed.
    ///
    /// # Errors
    /// `InvalidArgument` for a malformed name, and for one that says neither which tag nor which digest; `NotFound`; `NotImplemented` for
    /// a place that removes nothing, or not in this way; those of the place.
    ///
    /// # Cancellation
    /// It may have been removed.
    async fn delete(&self, name: &str) -> Result<()> {
        Err(Error::not_implemented(format!("{name:?} cannot be deleted by its transport")))
    }
}

/// Reads the name of what is to be deleted, which has to say which tag or digest: one that is filled in is not what somebody meant.
///
/// # Errors
/// `InvalidArgument`.
pub fn explicit(name: &str) -> Result<Reference> {
    let reference = Reference::parse(name)?;
    if Reference::is_bare(name) {
        return Err(Error::invalid_argument(format!(
            "{name:?} names a repository: say what of it is to be deleted, {0}:TAG or {0}@DIGEST",
            reference.repository()
        )));
    }
    Ok(reference)
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

    /// The size of content of which only the digest and the type are known, in bytes. By default nobody knows.
    ///
    /// # Errors
    /// `NotFound`; `NotImplemented` for a place that cannot tell; those of the place.
    ///
    /// # Cancellation
    /// Nothing remains.
    async fn size(&self, digest: &Digest, media_type: &str) -> Result<u64> {
        Err(Error::not_implemented(format!("the size of {digest} ({media_type}) is told by nobody")))
    }

    /// The repository that the content is from, as `domain/path`; `None` where that is not a registry's.
    fn repository(&self) -> Option<&str> {
        None
    }

    /// Repositories, as `domain/path`, that are said to have the content, for who takes it to the repository `destination`: the likeliest
    /// first. By default the one that it is fetched from.
    ///
    /// # Errors
    /// Those of the place. That nobody is known to have it is none.
    async fn origins(&self, _descriptor: &Descriptor, _destination: Option<&str>) -> Result<Vec<String>> {
        Ok(self.repository().map(str::to_owned).into_iter().collect())
    }

    /// What reads the content in place, where the place is of this machine. Nothing about the bytes may be trusted either.
    fn local(&self) -> Option<Arc<dyn Provider>> {
        None
    }

    /// Told that the bytes that came of this content were not those of its digest. True where some of them were of a place that is not
    /// asked for it again, so that it is worth while to fetch it anew from its start. By default there is one place and no other.
    fn refused(&self, _descriptor: &Descriptor) -> bool {
        false
    }

    /// What to say of content of which the bytes turned out to have the digest `found`, where the place is known to keep what it once verified:
    /// that it is damaged there. By default nothing is known of the place but that it gave other bytes.
    fn damage(&self, _descriptor: &Descriptor, _found: &Digest) -> Option<Error> {
        None
    }

    /// Told when nothing more is fetched, so that what was kept for it is let go. Who is cancelled does not tell it.
    ///
    /// # Errors
    /// Those of the place.
    async fn finish(&self) -> Result<()> {
        Ok(())
    }
}

/// As what a place keeps a piece of content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Place {
    /// As a blob, found by its digest.
    Blob,
    /// As a manifest, found by its digest.
    Manifest,
    /// As the manifest that the pusher's name means.
    Root,
}

/// A piece of content on its way to a place.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Shipment {
    /// What it is.
    pub descriptor: Descriptor,
    /// As what it is kept.
    pub place: Place,
    /// Its bytes, which may be read again from any offset. A pusher tells it of each chunk that it has sent.
    pub source: Arc<dyn Source>,
    /// Repositories, as `domain/path`, that are said to have it too: the likeliest first. A place that can take it from there does.
    pub origins: Vec<String>,
}

impl Shipment {
    /// Content that nobody else is known to have.
    pub fn new(descriptor: Descriptor, place: Place, source: Arc<dyn Source>) -> Self {
        Self { descriptor, place, source, origins: Vec::new() }
    }

    /// Names repositories that may have it too.
    #[must_use]
    pub fn with_origins(mut self, origins: Vec<String>) -> Self {
        self.origins = origins;
        self
    }
}

/// How content came to be at the place where it was pushed to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Delivery {
    /// It was there already.
    Exists,
    /// It was taken over from another repository of the same place, which this names.
    Mounted(String),
    /// Its bytes were sent.
    Sent,
}

/// Puts content under one name.
#[async_trait]
pub trait Pusher: Debug + Send + Sync + 'static {
    /// Puts one piece of content there, unless it is there. What it refers to must be there before.
    ///
    /// # Errors
    /// `FailedPrecondition` where the place understood another size or digest, or the name is pinned to another digest;
    /// `Unauthenticated`, `PermissionDenied`, `NotImplemented`, `ResourceExhausted`, `Unavailable` as the place answers; those of the
    /// source.
    ///
    /// # Cancellation
    /// The content is there wholly or not at all. What was sent of it may stay at the place until that cleans up.
    async fn push(&self, shipment: &Shipment) -> Result<Delivery>;

    /// Whether a manifest is there, with all that it is made of, so that nothing of it need be pushed; of an index, whether that list is
    /// there, whatever there is of what it lists. Of a [root](Place::Root) the name must mean it. False where that is not known, as it is
    /// by default.
    ///
    /// # Errors
    /// Those of the place.
    async fn has(&self, _descriptor: &Descriptor, _place: Place) -> Result<bool> {
        Ok(false)
    }

    /// Told when nothing more is pushed, so that what was kept for it is let go. Who is cancelled does not tell it.
    ///
    /// # Errors
    /// Those of the place.
    async fn finish(&self) -> Result<()> {
        Ok(())
    }

    /// The repository that the content goes to, as `domain/path`; `None` where that is not a registry's.
    fn repository(&self) -> Option<&str> {
        None
    }

    /// The digest that the name is pinned to, where it is.
    fn pinned(&self) -> Option<&Digest> {
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
    sink: Option<Arc<dyn Sink>>,
}

impl TransportOptions {
    /// No settings, and the catalogue that is linked.
    pub fn new() -> Self {
        Self { catalogue: Catalogue::linked().clone(), settings: HashMap::new(), sink: None }
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

    /// Has the transport tell there what happens to it beside what its callers see: transfers that break and are taken up again, places
    /// that want to be left alone for a while, their warnings.
    #[must_use]
    pub fn with_sink(mut self, sink: Arc<dyn Sink>) -> Self {
        self.sink = Some(sink);
        self
    }

    /// Where the transport tells what happens, where somebody wants to know.
    pub fn sink(&self) -> Option<&Arc<dyn Sink>> {
        self.sink.as_ref()
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
