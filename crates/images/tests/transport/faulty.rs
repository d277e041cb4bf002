//! A registry in memory with one fault, for each promise at least one that breaks it and no other.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use tokio::task::yield_now;
use wharf_content::{Algorithm, ByteStream, Descriptor, Digest, Error, ErrorKind, Result, copying::Source};
use wharf_images::{
    Reference, media_types as types,
    referrers::ReferrersProvider,
    transport::{Delivery, Fetcher, MemoryRegistry, Place, Pusher, Resolved, Resolver, Shipment},
};

macro_rules! faults {
    ($($fault:ident => $promise:literal,)*) => {
        /// What is wrong with a registry.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Fault {
            /// Nothing but what may be: it lists and deletes nothing.
            OffersLess,
            $($fault,)*
        }

        /// Every fault with the promise that it breaks.
        pub(crate) const FAULTS: &[(Fault, &str)] = &[$((Fault::$fault, $promise),)*];
    };
}

faults! {
    KeepsFirst => "resolve-tag",
    DigestsUnknown => "resolve-digest",
    AbsentIsDown => "resolve-absent",
    FetchesFromAnyName => "malformed-names",
    ReformatsConfigs => "fetch-exact",
    IgnoresOffsets => "fetch-offset",
    PastEndIsEmpty => "fetch-past-end",
    AbsenceIsTheStreams => "fetch-absent",
    NoEmptyBlobs => "empty-blobs",
    OneAlgorithm => "sha512",
    AlwaysReads => "push-once",
    NeverTells => "push-tells",
    DamageIsInvalid => "push-damaged",
    BelievesShort => "push-short",
    HidesSourceErrors => "push-source-fails",
    NamesManifests => "push-unnamed",
    HidesPins => "push-pinned",
    StaysBusy => "push-cancelled",
    RefusesTheSecond => "pushes-race",
    BelievesOrigins => "origins-are-hints",
    HasEverything => "has-is-true",
    ForgetsATag => "tags-listed",
    TagsOfAnything => "tags-of-images",
    ForgetsAnnotations => "referrers-listed",
    IgnoresTypes => "referrers-chosen",
    DeletesManifests => "delete-tag",
    DigestLeavesNames => "delete-digest",
    DeletesAnything => "delete-absent",
    DeletesLatest => "delete-explicit",
}

/// The registry, and what reads and writes under one of its names.
#[derive(Clone, Debug)]
pub(crate) struct Faulty {
    inner: MemoryRegistry,
    fault: Fault,
    busy: Arc<Mutex<HashSet<Digest>>>,
}

#[derive(Debug)]
struct Named<T: ?Sized> {
    faulty: Faulty,
    name: String,
    inner: Arc<T>,
}

impl Faulty {
    pub(crate) fn new(fault: Fault) -> Self {
        Self { inner: MemoryRegistry::new(), fault, busy: Arc::default() }
    }

    fn named<T: ?Sized>(&self, name: &str, inner: Arc<T>) -> Arc<Named<T>> {
        Arc::new(Named { faulty: self.clone(), name: name.to_owned(), inner })
    }
}

#[async_trait]
impl Resolver for Faulty {
    async fn resolve(&self, name: &str) -> Result<Resolved> {
        let reference = Reference::parse(name)?;
        match self.fault {
            Fault::DigestsUnknown if reference.digest().is_some() => {
                return Err(Error::not_found("only tags are known"));
            }
            Fault::AbsentIsDown if self.inner.tags(reference.repository()).await.is_err() => {
                return Err(Error::unavailable("there is no such repository"));
            }
            _ => {}
        }
        self.inner.resolve(name).await
    }

    async fn fetcher(&self, name: &str) -> Result<Arc<dyn Fetcher>> {
        let any = self.fault == Fault::FetchesFromAnyName && name.is_empty();
        Ok(self.named(name, self.inner.fetcher(if any { "any" } else { name }).await?))
    }

    async fn pusher(&self, name: &str) -> Result<Arc<dyn Pusher>> {
        Ok(self.named(name, self.inner.pusher(name).await?))
    }

    async fn tags(&self, repository: &str) -> Result<Vec<String>> {
        match self.fault {
            Fault::OffersLess => Err(Error::not_implemented("no tags")),
            Fault::TagsOfAnything => self.inner.tags(Reference::parse(repository)?.repository()).await,
            Fault::ForgetsATag => {
                let mut tags = self.inner.tags(repository).await?;
                tags.pop();
                Ok(tags)
            }
            _ => self.inner.tags(repository).await,
        }
    }

    async fn referrers(&self, name: &str) -> Result<Arc<dyn ReferrersProvider>> {
        if self.fault == Fault::OffersLess {
            return Err(Error::not_implemented("no referrers"));
        }
        Ok(self.named(name, self.inner.referrers(name).await?))
    }

    async fn delete(&self, name: &str) -> Result<()> {
        let reference = Reference::parse(name)?;
        match self.fault {
            Fault::OffersLess => return Err(Error::not_implemented("nothing is deleted")),
            Fault::DeletesManifests if reference.digest().is_none() && !Reference::is_bare(name) => {
                let digest = self.inner.resolve(name).await?.descriptor.digest;
                return self.inner.delete(&reference.with_digest(digest).full()).await;
            }
            Fault::DigestLeavesNames if reference.digest().is_some() => {
                self.inner.resolve(name).await?;
                return self.inner.delete(&format!("{}:1", reference.repository())).await;
            }
            Fault::DeletesLatest if Reference::is_bare(name) => {
                return self.inner.delete(&reference.full()).await;
            }
            _ => {}
        }
        match self.inner.delete(name).await {
            Err(error) if error.kind() == ErrorKind::NotFound && self.fault == Fault::DeletesAnything => {
                Ok(())
            }
            deleted => deleted,
        }
    }
}

#[async_trait]
impl Fetcher for Named<dyn Fetcher> {
    async fn fetch(&self, descriptor: &Descriptor, offset: u64) -> Result<ByteStream> {
        let fault = self.faulty.fault;
        let offset = if fault == Fault::IgnoresOffsets && offset <= descriptor.size { 0 } else { offset };
        let opened = self.inner.fetch(descriptor, offset).await;
        match (fault, opened) {
            (Fault::PastEndIsEmpty, Err(error)) if error.kind() == ErrorKind::OutOfRange => {
                Ok(Box::pin(stream::empty()))
            }
            (Fault::AbsenceIsTheStreams, Err(error)) => Ok(Box::pin(stream::iter([Err(error)]))),
            (Fault::ReformatsConfigs, Ok(opened)) if descriptor.media_type == types::OCI_CONFIG => {
                Ok(Box::pin(opened.chain(stream::iter([Ok(Bytes::from_static(b"\n"))]))))
            }
            (_, opened) => opened,
        }
    }

    fn repository(&self) -> Option<&str> {
        self.inner.repository()
    }
}

/// A blob that somebody pushes, until this is dropped.
struct Busy<'a>(&'a Mutex<HashSet<Digest>>, &'a Digest);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.lock().expect("no panic").remove(self.1);
    }
}

impl Named<dyn Pusher> {
    fn begin(&self, digest: &Digest) -> Result<()> {
        if self.faulty.busy.lock().expect("no panic").insert(digest.clone()) {
            return Ok(());
        }
        Err(Error::unavailable("somebody pushes it"))
    }

    async fn push_blob(&self, shipment: &Shipment) -> Result<Delivery> {
        let descriptor = &shipment.descriptor;
        match self.faulty.fault {
            Fault::NoEmptyBlobs if descriptor.size == 0 => Err(Error::invalid_argument("a blob of no bytes")),
            Fault::OneAlgorithm if descriptor.digest.algorithm() != Algorithm::Sha256 => {
                Err(Error::not_implemented("SHA-256 only"))
            }
            Fault::AlwaysReads => {
                drop(shipment.source.open(0).await?);
                self.inner.push(shipment).await
            }
            Fault::NeverTells => {
                let mut silent = shipment.clone();
                silent.source = Arc::new(Untold(Arc::clone(&shipment.source)));
                self.inner.push(&silent).await
            }
            Fault::DamageIsInvalid => self.inner.push(shipment).await.map_err(|error| match error.kind() {
                ErrorKind::FailedPrecondition => Error::invalid_argument("other bytes"),
                _ => error,
            }),
            Fault::BelievesShort => {
                let pushed = self.inner.push(shipment).await;
                let is_wrong =
                    pushed.as_ref().is_err_and(|error| error.kind() == ErrorKind::FailedPrecondition);
                let is_short =
                    is_wrong && (gather(shipment.source.as_ref()).await?.len() as u64) < descriptor.size;
                if is_short { Ok(Delivery::Sent) } else { pushed }
            }
            Fault::HidesSourceErrors => self.inner.push(shipment).await.map_err(|error| match error.kind() {
                ErrorKind::DataLoss => Error::unavailable("something broke"),
                _ => error,
            }),
            Fault::StaysBusy => {
                self.begin(&descriptor.digest)?;
                let pushed = self.inner.push(shipment).await;
                self.faulty.busy.lock().expect("no panic").remove(&descriptor.digest);
                pushed
            }
            Fault::RefusesTheSecond => {
                self.begin(&descriptor.digest)?;
                let _busy = Busy(&self.faulty.busy, &descriptor.digest);
                yield_now().await;
                self.inner.push(shipment).await
            }
            Fault::BelievesOrigins if !shipment.origins.is_empty() => {
                Ok(Delivery::Mounted(shipment.origins[0].clone()))
            }
            _ => self.inner.push(shipment).await,
        }
    }
}

#[async_trait]
impl Pusher for Named<dyn Pusher> {
    async fn push(&self, shipment: &Shipment) -> Result<Delivery> {
        let mut shipment = shipment.clone();
        match (self.faulty.fault, shipment.place) {
            (_, Place::Blob) => return self.push_blob(&shipment).await,
            (Fault::KeepsFirst, Place::Root) if self.faulty.inner.resolve(&self.name).await.is_ok() => {
                shipment.place = Place::Manifest;
            }
            (Fault::NamesManifests, Place::Manifest) if self.name.ends_with(":1") => {
                shipment.place = Place::Root;
            }
            _ => {}
        }
        self.inner.push(&shipment).await
    }

    async fn has(&self, descriptor: &Descriptor, place: Place) -> Result<bool> {
        Ok(self.faulty.fault == Fault::HasEverything || self.inner.has(descriptor, place).await?)
    }

    fn pinned(&self) -> Option<&Digest> {
        self.inner.pinned().filter(|_| self.faulty.fault != Fault::HidesPins)
    }
}

#[async_trait]
impl ReferrersProvider for Named<dyn ReferrersProvider> {
    async fn referrers(&self, subject: &Descriptor) -> Result<Vec<Descriptor>> {
        let mut referrers = self.inner.referrers(subject).await?;
        if self.faulty.fault == Fault::ForgetsAnnotations {
            for referrer in &mut referrers {
                referrer.annotations.clear();
            }
        }
        Ok(referrers)
    }

    async fn referrers_of_type(&self, subject: &Descriptor, artifact_type: &str) -> Result<Vec<Descriptor>> {
        if self.faulty.fault == Fault::IgnoresTypes {
            return self.inner.referrers(subject).await;
        }
        self.inner.referrers_of_type(subject, artifact_type).await
    }
}

/// A source that is told nothing.
#[derive(Debug)]
struct Untold(Arc<dyn Source>);

#[async_trait]
impl Source for Untold {
    async fn open(&self, offset: u64) -> Result<ByteStream> {
        self.0.open(offset).await
    }
}

async fn gather(source: &dyn Source) -> Result<Bytes> {
    let mut stream = source.open(0).await?;
    let mut bytes = BytesMut::new();
    while let Some(chunk) = stream.next().await {
        bytes.extend_from_slice(&chunk?);
    }
    Ok(bytes.freeze())
}
