//! Referrers that travel with an image: found where it is pulled from, fetched with it, and held by labels on what they refer to.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use wharf_content::{Catalogue, Descriptor, Digest, Error, Manager, Result, Store};
use wharf_images::{
    Chain, Flow, Handler, Image, image,
    labels::{self, LabelKeys},
    referrers::{ReferrersProvider, SetReferrers},
    transport::{Resolved, Resolver},
};

use super::PullOptions;
use crate::push::companions::{self, Named};

/// The most referrers that are pulled with one image, and those of them with it.
pub const MAX_REFERRERS: usize = 1000;

/// What the attachment tags mean of the documents that the store has of an image, which is called `name` at the resolver.
pub(super) async fn attachments(
    store: &dyn Store,
    resolver: &dyn Resolver,
    name: &str,
    image: &Image,
    options: &PullOptions,
) -> Result<Vec<Resolved>> {
    let manifests = image::manifests(store, &image.target, &options.catalogue).await?;
    let documents = manifests.into_iter().filter(|named| named.present).map(|named| named.descriptor.digest);
    let documents: Vec<Digest> = documents.chain([image.target.digest.clone()]).collect();
    let from = Named { resolver, name };
    let found = companions::attachments(from, documents, options.concurrency.get()).await?;
    Ok(found.into_iter().map(|(_, resolved)| resolved).collect())
}

/// Gives the referrers of each manifest and index, and labels these with them.
#[derive(Debug)]
pub(super) struct Referrers {
    found: SetReferrers<Chain>,
    manager: Arc<dyn Manager>,
    keys: LabelKeys,
    count: AtomicUsize,
}

impl Referrers {
    pub(super) fn new(
        provider: Arc<dyn ReferrersProvider>,
        manager: Arc<dyn Manager>,
        keys: LabelKeys,
        catalogue: Catalogue,
    ) -> Self {
        // The children are another handler's.
        let found = SetReferrers::new(Chain::new(), provider).with_catalogue(catalogue);
        Self { found, manager, keys, count: AtomicUsize::new(0) }
    }
}

#[async_trait]
impl Handler for Referrers {
    async fn handle(&self, descriptor: &Descriptor) -> Result<Flow> {
        let flow = self.found.handle(descriptor).await?;
        if let Flow::Children(referrers) = &flow
            && !referrers.is_empty()
        {
            let count = self.count.fetch_add(referrers.len(), Ordering::Relaxed) + referrers.len();
            if count > MAX_REFERRERS {
                return Err(Error::resource_exhausted(format!(
                    "the image has more than {MAX_REFERRERS} referrers, at {}: pull it without them",
                    descriptor.digest
                )));
            }
            labels::hold_children_mapped(self.manager.as_ref(), descriptor, referrers, &self.keys).await?;
        }
        Ok(flow)
    }
}
