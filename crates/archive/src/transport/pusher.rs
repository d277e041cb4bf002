//! Content into a layout: verified while it is written, named last.

use std::{fs::File, sync::Arc};

use async_trait::async_trait;
use futures_util::StreamExt;
use tokio::{io::AsyncWriteExt, sync::Mutex};
use wharf_content::{
    Algorithm, Catalogue, Descriptor, Digest, Error, Hasher, Provider, Result, ResultExt, blocking,
    local::sharing, stream_blob,
};
use wharf_images::{
    Kind, decode,
    decode::kind,
    transport::{Delivery, Place, Pusher, Shipment},
};

use super::{
    directory::{Hold, Layout},
    entries,
    location::Location,
    section::Section,
};

/// Puts content into a layout and makes a name there mean the root.
#[derive(Debug)]
pub(super) struct LayoutPusher {
    layout: Layout,
    location: Location,
    catalogue: Catalogue,
    /// Nobody removes blobs that were found to be there, until all is listed.
    held: Mutex<Option<File>>,
}

impl LayoutPusher {
    pub(super) fn new(layout: Layout, location: Location, catalogue: Catalogue) -> Self {
        Self { layout, location, catalogue, held: Mutex::default() }
    }

    /// Holds the blobs of the layout, which is made where it is not there.
    async fn hold(&self, algorithm: Algorithm) -> Result<()> {
        let mut held = self.held.lock().await;
        if held.is_none() {
            let layout = self.layout.clone();
            *held = blocking::run(move || {
                layout.create(algorithm.as_str())?;
                layout.hold(Hold::Shared)
            })
            .await?;
        }
        Ok(())
    }

    /// Writes a blob, unless one of that size is there.
    async fn write(&self, shipment: &Shipment) -> Result<Delivery> {
        let Descriptor { digest, size, media_type, .. } = &shipment.descriptor;
        self.hold(digest.algorithm()).await?;
        if self.layout.size(digest).await? == Some(*size) {
            return Ok(Delivery::Exists);
        }
        let cannot = || format!("cannot write {digest} into {}", self.layout.root().display());
        let (layout, wanted) = (self.layout.clone(), digest.clone());
        // Dropped at any time, it takes its temporary file with it.
        let mut pending = blocking::run(move || layout.begin_blob(&wanted)).await?;
        let mut file = tokio::fs::File::from_std(pending.file().try_clone().context(cannot)?);
        let is_shared = share(shipment, pending.file().try_clone().context(cannot)?).await?;
        let mut hasher = Hasher::new(digest.algorithm());
        let mut at = 0;
        let mut stream = if is_shared {
            // What is hashed is what is there now.
            stream_blob(Arc::new(Section::whole(pending.file().try_clone().context(cannot)?, *size)), 0)
        } else {
            shipment.source.open(0).await?
        };
        while let Some(chunk) = stream.next().await {
            let chunk = chunk?;
            at += chunk.len() as u64;
            if at > *size {
                return Err(Error::failed_precondition(format!(
                    "size mismatch for {digest} ({media_type:?}): described with {size} bytes, and there are more"
                )));
            }
            hasher.update(&chunk);
            if !is_shared {
                file.write_all(&chunk).await.context(cannot)?;
                shipment.source.taken(&chunk);
            }
        }
        file.flush().await.context(cannot)?;
        drop(file);
        if at < *size {
            return Err(Error::unavailable(format!("{digest} ended after {at} of {size} bytes")));
        }
        let found = hasher.finish();
        if found != *digest {
            if is_shared {
                // Who gives the bytes knows what it means that they are others, and says so where they are read.
                let mut given = shipment.source.open(0).await?;
                while let Some(chunk) = given.next().await {
                    chunk?;
                }
            }
            return Err(Error::failed_precondition(format!(
                "digest mismatch for {digest} ({media_type:?}): the bytes have the digest {found}"
            )));
        }
        if is_shared {
            shipment.source.shared(*size);
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
        // Nothing is made where nothing is.
        if self.layout.size(&descriptor.digest).await?.is_none() {
            return Ok(false);
        }
        self.hold(descriptor.digest.algorithm()).await?;
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

    async fn finish(&self) -> Result<()> {
        self.held.lock().await.take();
        Ok(())
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

/// Has a file that is empty share the blocks of the one that is pushed, and tells whether it does.
async fn share(shipment: &Shipment, target: File) -> Result<bool> {
    let size = shipment.descriptor.size;
    if size < sharing::MIN_LEN {
        return Ok(false);
    }
    let reader = shipment.source.local().await.filter(|reader| reader.size() == size);
    let Some(source) = reader.and_then(|reader| reader.file()?.try_clone().ok()) else { return Ok(false) };
    blocking::run(move || Ok(sharing::share(&source, &target))).await
}

/// A pusher as what a resolver gives.
impl From<LayoutPusher> for Arc<dyn Pusher> {
    fn from(pusher: LayoutPusher) -> Self {
        Arc::new(pusher)
    }
}
