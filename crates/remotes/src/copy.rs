//! The one copy: from any transport to any other, without anything between them but memory.
//!
//! It is a push whose cargo is at another place: documents are fetched into memory and verified, planned as a push plans them, and every
//! blob that the destination lacks flows from the source's fetcher into the destination's pusher, hashed on the way. Nothing is
//! compressed or written anew, so that every digest stays.
//!
//! ```text
//! name ─> Resolver ─> root ─> walk the documents ── has it? ──> destination
//!                              │ what it lacks
//!             Fetcher ── bytes from any offset ── hash ──> Pusher: mount │ send
//! ```

mod documents;
mod remote;

use std::{fmt, num::NonZeroUsize, sync::Arc};

use wharf_content::{Catalogue, Error, Result, ResultExt};
use wharf_images::{
    Limits,
    media_types::is_schema1,
    progress::{Event, Sink},
    transport::{Fetcher, Pusher, Resolved, Resolver},
    verifier::{Verifier, accept},
};

use self::remote::Remote;
use crate::push::{
    Portion, PushOptions, Pushed,
    companions::{Companions, Named},
    voyage::Voyage,
};

/// How an image is copied.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct CopyOptions {
    push: PushOptions,
    verifiers: Vec<Arc<dyn Verifier>>,
}

impl CopyOptions {
    /// The whole image but for layers that may not be distributed, six pieces of content at once, no progress.
    pub fn new() -> Self {
        Self::default()
    }

    /// What of an index is copied.
    #[must_use]
    pub fn with_portion(mut self, portion: Portion) -> Self {
        self.push = self.push.with_portion(portion);
        self
    }

    /// How many pieces of content are copied at once.
    #[must_use]
    pub fn with_concurrency(mut self, concurrency: NonZeroUsize) -> Self {
        self.push = self.push.with_concurrency(concurrency);
        self
    }

    /// Copies layers that may not be distributed, too. Whether that is allowed is for the caller to know.
    #[must_use]
    pub fn allowing_non_distributable(mut self) -> Self {
        self.push = self.push.allowing_non_distributable();
        self
    }

    /// Where progress is told.
    #[must_use]
    pub fn with_sink(mut self, sink: Arc<dyn Sink>) -> Self {
        self.push = self.push.with_sink(sink);
        self
    }

    /// The catalogue of decoders.
    #[must_use]
    pub fn with_catalogue(mut self, catalogue: Catalogue) -> Self {
        self.push = self.push.with_catalogue(catalogue);
        self
    }

    /// How deep and how large an image may be.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.push = self.push.with_limits(limits);
        self
    }

    /// Copies what refers to the image too, such as signatures and bills of materials, and what refers to that; and what cosign has put
    /// under tags made of the digests of the image's index and manifests, three of which are asked for of each.
    #[must_use]
    pub fn with_referrers(mut self) -> Self {
        self.push = self.push.with_referrers();
        self
    }

    /// Adds a verifier. All are asked, in this order, when the name is resolved and before anything else is, and all must accept.
    #[must_use]
    pub fn with_verifier(mut self, verifier: Arc<dyn Verifier>) -> Self {
        self.verifiers.push(verifier);
        self
    }
}

impl fmt::Debug for CopyOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CopyOptions").field("push", &self.push).field("verifiers", &self.verifiers).finish()
    }
}

/// Copies the image that `from` names at the source to the destination's name `to`.
///
/// A manifest that the destination has, with what it is made of, is not looked into: a copy of what is there already moves nothing. The
/// root is put there last, so that the name never means something incomplete; referrers come after it.
///
/// Into a [store](crate::StoreResolver) it is a pull of every platform: the content is held while it comes in, labelled with its children
/// and where it is from, and recorded last. The handlers that a pull runs at each stage are not run: they are promised each node before
/// what is below it, which may be left out for what they say, while a copy moves what is below first and leaves nothing out, so that the
/// destination never has a document without its parts.
///
/// # Errors
/// `NotFound` when there is no such image, it lacks a wanted platform, or the source lacks a part of it; `FailedPrecondition` for content
/// of another size or digest than is promised, which the destination never gets whole, for a `to` that is pinned to another digest,
/// and where the destination understood another digest; `NotImplemented` for Docker's schema 1; `ResourceExhausted` for documents that are too large, too many or nested too
/// deep; `NotImplemented` for a destination that takes no content, or a source that lists no referrers where they were asked for; those
/// of both transports and of the verifiers.
///
/// # Cancellation
/// What is at the destination stays there, and the next copy does not move it again; the name means what it meant.
pub async fn copy(
    source: &dyn Resolver,
    from: &str,
    destination: &dyn Resolver,
    to: &str,
    options: &CopyOptions,
) -> Result<Pushed> {
    let sink = &options.push.sink;
    sink.event(&Event::Resolving { name: from });
    let resolved = source.resolve(from).await?;
    sink.event(&Event::Resolved { name: &resolved.name, descriptor: &resolved.descriptor });
    if is_schema1(&resolved.descriptor.media_type) {
        // Its digest is not that of what a registry sends, and no registry of today takes it.
        return Err(Error::not_implemented(format!(
            "{} is a Docker schema 1 manifest ({}), which is not copied as it is: pull it, which converts it, and push or copy that",
            resolved.name, resolved.descriptor.digest
        )));
    }
    for verifier in &options.verifiers {
        accept(verifier.as_ref(), &resolved.name, &resolved.descriptor).await?;
    }
    let fetcher = source.fetcher(&resolved.name).await?;
    let pusher = destination.pusher(to).await?;
    let copied = copy_resolved(source, &resolved, &fetcher, destination, to, &pusher, options).await;
    // What failed is told first.
    let finished = [fetcher.finish().await, pusher.finish().await];
    let copied = copied.context(|| format!("cannot copy {} to {to}", resolved.name))?;
    finished.into_iter().collect::<Result<()>>()?;
    Ok(copied)
}

async fn copy_resolved(
    source: &dyn Resolver,
    resolved: &Resolved,
    fetcher: &Arc<dyn Fetcher>,
    destination: &dyn Resolver,
    to: &str,
    pusher: &Arc<dyn Pusher>,
    options: &CopyOptions,
) -> Result<Pushed> {
    let companions = if options.push.referrers {
        let here = source.referrers(&resolved.name).await?;
        let from = Named { resolver: source, name: &resolved.name };
        let to = Named { resolver: destination, name: to };
        Some(Companions::between(here, Some(from), to).await?)
    } else {
        None
    };
    let cargo = Arc::new(Remote::new(Arc::clone(fetcher)));
    Voyage::new(cargo, Arc::clone(pusher), &options.push)
        .asking_first()
        .run(&resolved.name, &resolved.descriptor, companions.as_ref())
        .await
}
