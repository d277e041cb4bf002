//! A registry in memory: every trait of a transport over maps, for tests, and for programs that keep nothing.
//!
//! It keeps content by repository as registries do, and verifies what it takes. Unlike most of them it does not demand that what a manifest
//! refers to is there. Its names are [references](Reference), of any domain.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use wharf_content::{ByteStream, Catalogue, Descriptor, Digest, Error, Result, copying::Source};

use super::{
    Delivery, Fetcher, Place, Pusher, Resolved, Resolver, Shipment, Transport, TransportOptions, explicit,
};
use crate::{
    children::decode_bytes,
    decode::{Kind, ManifestDecoders, kind},
    reference::Reference,
    referrers::{ReferrersProvider, referrer},
};

/// The registry. Clones share their content; as a [`Transport`] it is the resolver that it makes.
#[derive(Clone, Debug, Default)]
pub struct MemoryRegistry {
    repositories: Arc<Mutex<BTreeMap<String, Repository>>>,
}

#[derive(Debug, Default)]
struct Repository {
    blobs: HashMap<Digest, Bytes>,
    manifests: BTreeMap<Digest, (Descriptor, Bytes)>,
    tags: BTreeMap<String, Digest>,
}

impl Repository {
    fn content(&self, digest: &Digest) -> Option<Bytes> {
        let manifest = self.manifests.get(digest).map(|(_, bytes)| bytes.clone());
        manifest.or_else(|| self.blobs.get(digest).cloned())
    }

    fn meant(&self, reference: &Reference) -> Option<Descriptor> {
        let digest = match (reference.digest(), reference.tag()) {
            (Some(digest), _) => digest,
            (None, tag) => self.tags.get(tag?)?,
        };
        self.manifests.get(digest).map(|(descriptor, _)| descriptor.clone())
    }
}

impl MemoryRegistry {
    /// An empty registry.
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Repository>> {
        // Each single change of the maps is complete in itself.
        self.repositories.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Transport for MemoryRegistry {
    fn resolver(&self, _: &TransportOptions) -> Result<Arc<dyn Resolver>> {
        Ok(Arc::new(self.clone()))
    }
}

fn absent(reference: &Reference) -> Error {
    Error::not_found(format!("there is no {} in memory", reference.full()))
}

#[async_trait]
impl Resolver for MemoryRegistry {
    async fn resolve(&self, name: &str) -> Result<Resolved> {
        let reference = Reference::parse(name)?;
        let found = self.lock().get(reference.repository()).and_then(|found| found.meant(&reference));
        Ok(Resolved::new(reference.to_string(), found.ok_or_else(|| absent(&reference))?))
    }

    async fn fetcher(&self, name: &str) -> Result<Arc<dyn Fetcher>> {
        Ok(Arc::new(Named { registry: self.clone(), reference: Reference::parse(name)? }))
    }

    async fn pusher(&self, name: &str) -> Result<Arc<dyn Pusher>> {
        Ok(Arc::new(Named { registry: self.clone(), reference: Reference::parse(name)? }))
    }

    fn beside(&self, name: &str, tag: &str) -> Option<String> {
        Reference::beside(name, tag)
    }

    async fn tags(&self, repository: &str) -> Result<Vec<String>> {
        let reference = Reference::parse(repository)?;
        if !Reference::is_bare(repository) {
            return Err(Error::invalid_argument(format!(
                "{repository:?} names an image: give its repository, {}, without a tag or digest",
                reference.repository()
            )));
        }
        let repositories = self.lock();
        let found = repositories.get(reference.repository());
        let found = found.filter(|found| !found.manifests.is_empty() || !found.blobs.is_empty());
        Ok(found.ok_or_else(|| absent(&reference))?.tags.keys().cloned().collect())
    }

    async fn referrers(&self, name: &str) -> Result<Arc<dyn ReferrersProvider>> {
        Ok(Arc::new(Named { registry: self.clone(), reference: Reference::parse(name)? }))
    }

    async fn delete(&self, name: &str) -> Result<()> {
        let reference = explicit(name)?;
        let mut repositories = self.lock();
        let repository = repositories.get_mut(reference.repository()).ok_or_else(|| absent(&reference))?;
        let found = match (reference.digest(), reference.tag()) {
            (Some(digest), _) => {
                repository.tags.retain(|_, tagged| tagged != digest);
                repository.manifests.remove(digest).is_some()
            }
            (None, tag) => tag.is_some_and(|tag| repository.tags.remove(tag).is_some()),
        };
        if found { Ok(()) } else { Err(absent(&reference)) }
    }
}

/// What reads and writes under one name.
#[derive(Debug)]
struct Named {
    registry: MemoryRegistry,
    reference: Reference,
}

impl Named {
    fn content(&self, digest: &Digest) -> Option<Bytes> {
        self.registry.lock().get(self.reference.repository())?.content(digest)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Repository) -> T) -> T {
        change(self.registry.lock().entry(self.reference.repository().to_owned()).or_default())
    }

    async fn push_blob(&self, shipment: &Shipment) -> Result<Delivery> {
        let digest = &shipment.descriptor.digest;
        if self.change(|repository| repository.blobs.contains_key(digest)) {
            return Ok(Delivery::Exists);
        }
        let mounted = shipment.origins.iter().find_map(|origin| {
            let repositories = self.registry.lock();
            let bytes = repositories.get(origin)?.blobs.get(digest)?.clone();
            Some((origin.clone(), bytes))
        });
        if let Some((origin, bytes)) = mounted {
            self.change(|repository| repository.blobs.insert(digest.clone(), bytes));
            return Ok(Delivery::Mounted(origin));
        }
        let bytes = read(shipment.source.as_ref(), &shipment.descriptor).await?;
        self.change(|repository| repository.blobs.insert(digest.clone(), bytes));
        Ok(Delivery::Sent)
    }

    async fn push_manifest(&self, shipment: &Shipment) -> Result<Delivery> {
        let Descriptor { media_type, digest, size, .. } = &shipment.descriptor;
        let tag = self.reference.tag().filter(|_| shipment.place == Place::Root);
        if let (Place::Root, Some(pinned)) = (shipment.place, self.reference.digest())
            && pinned != digest
        {
            return Err(Error::failed_precondition(format!(
                "digest mismatch: the name is pinned to {pinned}, and what is pushed is {digest}"
            )));
        }
        if self.has(&shipment.descriptor, shipment.place).await? {
            return Ok(Delivery::Exists);
        }
        let bytes = read(shipment.source.as_ref(), &shipment.descriptor).await?;
        let kept = Descriptor::new(media_type, digest.clone(), *size);
        self.change(|repository| {
            repository.manifests.insert(digest.clone(), (kept, bytes));
            if let Some(tag) = tag {
                repository.tags.insert(tag.to_owned(), digest.clone());
            }
        });
        Ok(Delivery::Sent)
    }
}

/// All the bytes of a source, if they are what they should be.
async fn read(source: &dyn Source, descriptor: &Descriptor) -> Result<Bytes> {
    let mut stream = source.open(0).await?;
    let mut bytes = BytesMut::new();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk?;
        bytes.extend_from_slice(&chunk);
        if bytes.len() as u64 > descriptor.size {
            break;
        }
        source.taken(&chunk);
    }
    descriptor.verify(&bytes)?;
    Ok(bytes.freeze())
}

#[async_trait]
impl Fetcher for Named {
    async fn fetch(&self, descriptor: &Descriptor, offset: u64) -> Result<ByteStream> {
        let bytes = self.content(&descriptor.digest).ok_or_else(|| {
            Error::not_found(format!("{} has no {}", self.reference.repository(), descriptor.digest))
        })?;
        bytes.open(offset).await
    }

    async fn size(&self, digest: &Digest, _: &str) -> Result<u64> {
        let bytes = self.content(digest);
        let absent = || Error::not_found(format!("{} has no {digest}", self.reference.repository()));
        Ok(bytes.ok_or_else(absent)?.len() as u64)
    }

    fn repository(&self) -> Option<&str> {
        Some(self.reference.repository())
    }
}

#[async_trait]
impl Pusher for Named {
    async fn push(&self, shipment: &Shipment) -> Result<Delivery> {
        match shipment.place {
            Place::Blob => self.push_blob(shipment).await,
            Place::Manifest | Place::Root => self.push_manifest(shipment).await,
        }
    }

    async fn has(&self, descriptor: &Descriptor, place: Place) -> Result<bool> {
        let digest = &descriptor.digest;
        let tag = self.reference.tag().filter(|_| place == Place::Root);
        let parts = {
            let repositories = self.registry.lock();
            let Some(repository) = repositories.get(self.reference.repository()) else { return Ok(false) };
            let Some((known, bytes)) = repository.manifests.get(digest) else { return Ok(false) };
            if tag.is_some_and(|tag| repository.tags.get(tag) != Some(digest)) {
                return Ok(false);
            }
            (known.clone(), bytes.clone())
        };
        let catalogue = Catalogue::linked();
        let Some(decoder) = catalogue.find::<ManifestDecoders>(&parts.0.media_type)? else { return Ok(true) };
        if decoder.kind() != Kind::Manifest {
            return Ok(true);
        }
        let decoded = decode_bytes(decoder, &parts.0, parts.1, catalogue).await?;
        Ok(decoded.children.iter().all(|child| self.content(&child.descriptor.digest).is_some()))
    }

    fn repository(&self) -> Option<&str> {
        Some(self.reference.repository())
    }

    fn pinned(&self) -> Option<&Digest> {
        self.reference.digest()
    }
}

#[async_trait]
impl ReferrersProvider for Named {
    async fn referrers(&self, subject: &Descriptor) -> Result<Vec<Descriptor>> {
        let manifests: Vec<_> =
            self.change(|repository| repository.manifests.values().cloned().collect::<Vec<_>>());
        let catalogue = Catalogue::linked();
        let mut found = Vec::new();
        for (manifest, bytes) in manifests {
            if !kind(&manifest.media_type, catalogue)?.is_some_and(Kind::is_manifest) {
                continue;
            }
            let Some(decoder) = catalogue.find::<ManifestDecoders>(&manifest.media_type)? else { continue };
            // What cannot be read refers to nothing.
            let Ok(decoded) = decode_bytes(decoder, &manifest, bytes.clone(), catalogue).await else {
                continue;
            };
            let described = referrer(manifest, &bytes, &decoded);
            found.extend(described.filter(|(about, _)| *about == subject.digest).map(|(_, found)| found));
        }
        Ok(found)
    }
}
