//! How much an image takes (containerd: `core/images/usage/calculator.go`).
//!
//! Unpacked layers are not counted.

use std::{num::NonZeroUsize, sync::Arc};

use async_trait::async_trait;
use tokio::sync::Mutex;
use wharf_content::{Catalogue, Descriptor, Error, ErrorKind, Provider, Result};
use wharf_platforms::Matcher;

use crate::{
    children::Children,
    filters::LimitManifests,
    handler::{Flow, Handler},
    walk::{Limits, walk},
};

/// What is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Basis {
    /// The bytes that are in the store.
    #[default]
    Store,
    /// The sizes that manifests tell, whether the content is there or not.
    Manifests,
}

/// Which manifests of an index are counted.
#[derive(Clone, Debug, Default)]
enum Manifests {
    /// Those that are there.
    #[default]
    Present,
    /// The best few, all of which must be there; without a number, every one.
    Best(Arc<dyn Matcher>, Option<NonZeroUsize>),
}

/// How usage is counted.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct UsageOptions {
    basis: Basis,
    manifests: Manifests,
    catalogue: Catalogue,
    limits: Limits,
}

impl Default for UsageOptions {
    fn default() -> Self {
        Self {
            basis: Basis::default(),
            manifests: Manifests::default(),
            catalogue: Catalogue::linked().clone(),
            limits: Limits::default(),
        }
    }
}

impl UsageOptions {
    /// Counts what is in the store, of every manifest that is there.
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts on this basis.
    #[must_use]
    pub fn with_basis(mut self, basis: Basis) -> Self {
        self.basis = basis;
        self
    }

    /// Counts of each index the `limit` manifests that fit best, and fails where their documents are not there; without a limit all
    /// manifests are required. Otherwise what is not there is passed over.
    #[must_use]
    pub fn with_manifest_limit(mut self, matcher: Arc<dyn Matcher>, limit: Option<NonZeroUsize>) -> Self {
        self.manifests = Manifests::Best(matcher, limit);
        self
    }

    /// Decodes with this catalogue.
    #[must_use]
    pub fn with_catalogue(mut self, catalogue: Catalogue) -> Self {
        self.catalogue = catalogue;
        self
    }

    /// How deep and how large an image may be.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }
}

/// Counts the bytes of an image, each blob once.
///
/// # Errors
/// `NotFound` where a manifest limit is set and one of those manifests is not there; `OutOfRange` when the sum overflows; those of the
/// decoders and of the store.
///
/// # Cancellation
/// Nothing remains.
pub async fn usage(provider: Arc<dyn Provider>, target: &Descriptor, options: &UsageOptions) -> Result<u64> {
    let children = Children::new(Arc::clone(&provider)).with_catalogue(options.catalogue.clone());
    let (inner, is_strict): (Arc<dyn Handler>, bool) = match &options.manifests {
        Manifests::Present => (Arc::new(children), false),
        Manifests::Best(matcher, limit) => {
            let limited = LimitManifests::new(children, Arc::clone(matcher), *limit);
            (Arc::new(limited.with_catalogue(options.catalogue.clone())), true)
        }
    };
    let counter = Counter { inner, provider, basis: options.basis, is_strict, sum: Mutex::default() };
    // The walk visits each digest once.
    walk(&counter, std::slice::from_ref(target), options.limits).await?;
    let sum = *counter.sum.lock().await;
    Ok(sum)
}

#[derive(Debug)]
struct Counter {
    inner: Arc<dyn Handler>,
    provider: Arc<dyn Provider>,
    basis: Basis,
    is_strict: bool,
    sum: Mutex<u64>,
}

impl Counter {
    async fn size(&self, descriptor: &Descriptor) -> Result<u64> {
        if self.basis == Basis::Manifests {
            return Ok(descriptor.size);
        }
        match self.provider.reader(descriptor).await {
            Ok(reader) => Ok(reader.size()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(0),
            Err(error) => Err(error),
        }
    }
}

#[async_trait]
impl Handler for Counter {
    async fn handle(&self, descriptor: &Descriptor) -> Result<Flow> {
        let flow = match self.inner.handle(descriptor).await {
            Err(error) if error.kind() == ErrorKind::NotFound && !self.is_strict => Flow::leaf(),
            flow => flow?,
        };
        let size = self.size(descriptor).await?;
        let mut sum = self.sum.lock().await;
        *sum = sum.checked_add(size).ok_or_else(|| {
            Error::out_of_range(format!(
                "the image's parts add up to more bytes than 64 bits hold, at {}",
                descriptor.digest
            ))
        })?;
        Ok(flow)
    }
}
