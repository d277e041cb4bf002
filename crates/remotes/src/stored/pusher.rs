//! Content into a store: verified by the store, held by a lease, labelled, and recorded last.

use std::sync::Arc;

use async_trait::async_trait;
use wharf_content::{
    Catalogue, CommitOptions, Descriptor, Digest, Error, ErrorKind, IngestOptions, Labels, LeasedStore,
    Manager, Provider, Result, copy, open_writer,
};
use wharf_images::{
    Children, Handler, Image, ImageStore, Kind, Reference, Selection, decode,
    decode::kind,
    image,
    labels::{ANNOTATION_SUBJECT, child_labels},
    record,
    transport::{Delivery, Place, Pusher, Shipment},
};

use super::{found, holding::Holding, plain};
use crate::{fetch::ingest_name, source::DistributionSource};

/// Puts content into a store, and a record under a name.
#[derive(Debug)]
pub(super) struct StorePusher {
    holding: Holding,
    images: Arc<dyn ImageStore>,
    catalogue: Catalogue,
    reference: Reference,
}

impl StorePusher {
    pub(super) fn new(
        holding: Holding,
        images: Arc<dyn ImageStore>,
        catalogue: Catalogue,
        reference: Reference,
    ) -> Self {
        Self { holding, images, catalogue, reference }
    }

    /// Writes content, unless it is there.
    async fn write(&self, leased: &LeasedStore, shipment: &Shipment) -> Result<Delivery> {
        let descriptor = &shipment.descriptor;
        let options =
            IngestOptions::new(ingest_name(descriptor, &self.catalogue)?).with_descriptor(descriptor);
        let mut writer = match open_writer(leased, options, &|_| ()).await {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let size = leased.reader(descriptor).await?.size();
                if size == descriptor.size {
                    return Ok(Delivery::Exists);
                }
                return Err(Error::failed_precondition(format!(
                    "size mismatch for {}: described with {} bytes, and the store has it with {size}",
                    descriptor.digest, descriptor.size
                )));
            }
            writer => writer?,
        };
        copy(writer.as_mut(), shipment.source.as_ref(), descriptor, CommitOptions::default()).await?;
        Ok(Delivery::Sent)
    }

    /// Writes the labels that hold what a manifest refers to, and the manifest to what it is about.
    async fn label(&self, leased: &Arc<LeasedStore>, manifest: &Descriptor) -> Result<()> {
        let provider: Arc<dyn Provider> = Arc::clone(leased) as Arc<dyn Provider>;
        let manager: Arc<dyn Manager> = Arc::clone(leased) as Arc<dyn Manager>;
        let children = Children::new(Arc::clone(&provider)).with_catalogue(self.catalogue.clone());
        children.with_labels(manager).handle(manifest).await?;
        let decoded = decode(provider.as_ref(), manifest, &self.catalogue).await?;
        let Some(subject) = decoded.and_then(|decoded| decoded.subject) else { return Ok(()) };
        let referrer = plain(manifest).with_annotation(ANNOTATION_SUBJECT, subject.digest.as_str());
        let labels = child_labels(&[referrer]);
        let paths: Vec<String> = labels.keys().map(|key| format!("labels.{key}")).collect();
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        // Its subject may come later, or never.
        found(leased.update(&subject.digest, &labels, &paths).await).map(drop)
    }

    /// Makes the name mean the root; what else the record says stays.
    async fn record(&self, root: &Descriptor) -> Result<Delivery> {
        let name = self.reference.to_string();
        if found(self.images.get(&name).await)?.is_some_and(|image| image.target == plain(root)) {
            return Ok(Delivery::Exists);
        }
        let image = Image::new(name, plain(root)).with_labels(Labels::new());
        match found(self.images.update(image.clone(), &["target"]).await)? {
            Some(_) => {}
            None => drop(record::put(self.images.as_ref(), image).await?),
        }
        Ok(Delivery::Sent)
    }
}

#[async_trait]
impl Pusher for StorePusher {
    async fn push(&self, shipment: &Shipment) -> Result<Delivery> {
        let descriptor = &shipment.descriptor;
        if let (Place::Root, Some(pinned)) = (shipment.place, self.reference.digest())
            && *pinned != descriptor.digest
        {
            return Err(Error::failed_precondition(format!(
                "digest mismatch: the name is pinned to {pinned}, and what is pushed is {}",
                descriptor.digest
            )));
        }
        let leased = self.holding.leased().await?;
        let mut delivery = self.write(&leased, shipment).await?;
        for origin in &shipment.origins {
            if let Some(source) = DistributionSource::new(Arc::clone(&leased) as Arc<dyn Manager>, origin) {
                source.label(&descriptor.digest).await?;
            }
        }
        if shipment.place != Place::Blob {
            self.label(&leased, descriptor).await?;
        }
        if shipment.place == Place::Root && self.record(descriptor).await? == Delivery::Sent {
            delivery = Delivery::Sent;
        }
        Ok(delivery)
    }

    async fn has(&self, descriptor: &Descriptor, place: Place) -> Result<bool> {
        if place == Place::Root {
            let name = self.reference.to_string();
            let recorded = found(self.images.get(&name).await)?;
            if recorded.is_none_or(|image| image.target.digest != descriptor.digest) {
                return Ok(false);
            }
        }
        let leased = self.holding.leased().await?;
        // What is found to be here stays.
        leased.add(&descriptor.digest).await?;
        let provider: Arc<dyn Provider> = Arc::clone(&leased) as Arc<dyn Provider>;
        if found(provider.reader(descriptor).await)?.is_none_or(|reader| reader.size() != descriptor.size) {
            return Ok(false);
        }
        if kind(&descriptor.media_type, &self.catalogue)? == Some(Kind::Manifest) {
            let check = image::check(provider, descriptor, &Selection::all(), &self.catalogue).await?;
            if !check.is_complete() {
                return Ok(false);
            }
        }
        self.label(&leased, descriptor).await?;
        Ok(true)
    }

    fn pinned(&self) -> Option<&Digest> {
        self.reference.digest()
    }

    async fn finish(&self) -> Result<()> {
        self.holding.release().await
    }
}
