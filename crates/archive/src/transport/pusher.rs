//! Content into a layout: verified while it is written, named last.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::StreamExt;
use tokio::{fs::File, io::AsyncWriteExt};
use wharf_content::{Catalogue, Descriptor, Digest, Error, Hasher, Provider, Result, ResultExt, blocking};
use wharf_images::{
    Kind, decode,
    decode::kind,
    transport::{Delivery, Place, Pusher, Shipment},
};

use super::{directory::Layout, entries, location::Location};

/// Puts content into a layout and makes a name there mean the root.
#[derive(Debug)]
pub(super) struct LayoutPusher {
    layout: Layout,
    location: Location,
    catalogue: Catalogue,
}

impl LayoutPusher {
    pub(super) fn new(layout: Layout, location: Location, catalogue: Catalogue) -> Self {
        Self { layout, location, catalogue }
    }

    /// Writes a blob, unless one of that size is there.
    async fn write(&self, shipment: &Shipment) -> Result<Delivery> {
        let Descriptor { digest, size, media_type, .. } = &shipment.descriptor;
        if self.layout.size(digest).await? == Some(*size) {
            return Ok(Delivery::Exists);
        }
        let cannot = || format!("cannot write {digest} into {}", self.layout.root().display());
        let (layout, wanted) = (self.layout.clone(), digest.clone());
        // Dropped at any time, it takes its temporary file with it.
        let mut pending = blocking::run(move || layout.begin_blob(&wanted)).await?;
        let mut file = File::from_std(pending.file().try_clone().context(cannot)?);
        let mut hasher = Hasher::new(digest.algorithm());
        let mut at = 0;
        let mut stream = shipment.source.open(0).await?;
        while let Some(chunk) = stream.next().await {
            let chunk = chunk?;
            at += chunk.len() as u64;
            if at > *size {
                return Err(Error::failed_precondition(format!(
                    "size mismatch for {digest} ({media_type:?}): described with {size} bytes, and there are more"
                )));
            }
            hasher.update(&chunk);
            file.write_all(&chunk).await.context(cannot)?;
            shipment.source.taken(&chunk);
        }
        file.flush().await.context(cannot)?;
        drop(file);
        if at < *size {
            return Err(Error::unavailable(format!("{digest} ended after {at} of {size} bytes")));
        }
        let found = hasher.finish();
        if found != *digest {
            return Err(Error::failed_precondition(format!(
                "digest mismatch for {digest} ({media_type:?}): the bytes have the digest {found}"
            )));
        }
        blocking::run(move || Ok(pending.publish())).await?.context(cannot)?;
        Ok(Delivery::Sent)
    }

    /// Lists an image under the name that is pushed to, or something that refers to an image without one.
    async fn list(&self, target: &Descriptor, place: Place) -> Result<bool> {
        let title = self.location.title.clone().filter(|_| place == Place::Root);
        let (layout, target, location) = (self.layout.clone(), entries::plain(target), self.location.clone());
        if let (Some(_), Some(listed)) = (&title, self.layout.entries(&self.catalogue).await?) {
            // A tag that several images have is given to none of them by chance.
            entries::choose(&listed, &Location { digest: None, ..location })?;
        }
        blocking::run(move || {
            layout.change(|index| {
                index.put(&target, title.as_ref());
                Ok(index.is_changed)
            })
        })
        .await
    }

    async fn is_listed(&self, digest: &Digest) -> Result<bool> {
        let Some(listed) = self.layout.entries(&self.catalogue).await? else { return Ok(false) };
        let title = &self.location.title;
        Ok(listed
            .iter()
            .any(|entry| entry.digest == *digest && title.as_ref().is_none_or(|title| title.means(entry))))
    }
}

#[async_trait]
impl Pusher for LayoutPusher {
    async fn push(&self, shipment: &Shipment) -> Result<Delivery> {
        let descriptor = &shipment.descriptor;
        if let (Place::Root, Some(pinned)) = (shipment.place, self.pinned())
            && *pinned != descriptor.digest
        {
            return Err(Error::failed_precondition(format!(
                "digest mismatch: the name is pinned to {pinned}, and what is pushed is {}",
                descriptor.digest
            )));
        }
        let mut delivery = self.write(shipment).await?;
        let is_listed = match shipment.place {
            Place::Root => true,
            Place::Manifest => {
                let decoded = decode(&self.layout, descriptor, &self.catalogue).await?;
                decoded.is_some_and(|decoded| decoded.subject.is_some())
            }
            _ => false,
        };
        if is_listed && self.list(descriptor, shipment.place).await? {
            delivery = Delivery::Sent;
        }
        Ok(delivery)
    }

    async fn has(&self, descriptor: &Descriptor, place: Place) -> Result<bool> {
        if place == Place::Root && !self.is_listed(&descriptor.digest).await? {
            return Ok(false);
        }
        if self.layout.size(&descriptor.digest).await? != Some(descriptor.size) {
            return Ok(false);
        }
        if kind(&descriptor.media_type, &self.catalogue)? != Some(Kind::Manifest) {
            return Ok(true);
        }
        let provider: &dyn Provider = &self.layout;
        // What is damaged is not there.
        let Ok(Some(decoded)) = decode(provider, descriptor, &self.catalogue).await else { return Ok(false) };
        if place == Place::Manifest && decoded.subject.is_some() && !self.is_listed_at_all(descriptor).await?
        {
            return Ok(false);
        }
        for child in &decoded.children {
            if self.layout.size(&child.descriptor.digest).await? != Some(child.descriptor.size) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn pinned(&self) -> Option<&Digest> {
        self.location.digest.as_ref()
    }
}

impl LayoutPusher {
    async fn is_listed_at_all(&self, descriptor: &Descriptor) -> Result<bool> {
        let listed = self.layout.entries(&self.catalogue).await?.unwrap_or_default();
        Ok(listed.iter().any(|entry| entry.digest == descriptor.digest))
    }
}

/// A pusher as what a resolver gives.
impl From<LayoutPusher> for Arc<dyn Pusher> {
    fn from(pusher: LayoutPusher) -> Self {
        Arc::new(pusher)
    }
}
