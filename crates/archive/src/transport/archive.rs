//! The transports `oci-archive` and `docker-archive`: one file with images, read in place and written whole.
//!
//! What is written is an OCI image layout in both cases, so that every digest stays; for Docker `manifest.json` is beside it, which `docker load`
//! and others read. Of an archive that has both, the layout is read, as Docker itself does since version 25.

use std::{collections::HashMap, path::PathBuf, sync::Arc};

use async_trait::async_trait;
use tokio::sync::Mutex;
use wharf_content::{Catalogue, Error, MemoryStore, Provider, Result, blocking};
use wharf_images::{
    referrers::ReferrersProvider,
    transport::{Fetcher, Pusher, Resolved, Resolver, Transport, TransportOptions},
};

use super::{
    entries::{self, choose},
    fetcher::{ListedReferrers, LocalFetcher},
    location::{Location, Words},
    oci::{absent, directory_only, document, resolved},
    opened::{Identity, Opened},
    packing::ArchivePusher,
};
use crate::options::ImportOptions;

wharf_images::register_transport! {
    name: "oci-archive", keys: ["oci-archive"], make: Archives(ArchiveKind::Oci)
}
wharf_images::register_transport! {
    name: "docker-archive", keys: ["docker-archive"], make: Archives(ArchiveKind::Docker)
}

/// For whom an archive is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ArchiveKind {
    /// An OCI image layout.
    Oci,
    /// What `docker save` writes and `docker load` reads.
    Docker,
}

#[derive(Debug)]
struct Archives(ArchiveKind);

impl Transport for Archives {
    fn resolver(&self, options: &TransportOptions) -> Result<Arc<dyn Resolver>> {
        Ok(Arc::new(ArchiveResolver::new(self.0).with_catalogue(options.catalogue.clone())))
    }
}

/// Resolves names in archive files: `FILE`, `FILE:TAG` or `FILE:NAME`, and `FILE@DIGEST`.
///
/// An archive that was looked into stays open as long as the resolver is there.
#[derive(Debug)]
pub struct ArchiveResolver {
    kind: ArchiveKind,
    catalogue: Catalogue,
    opened: Mutex<HashMap<PathBuf, Arc<Opened>>>,
}

impl ArchiveResolver {
    /// Archives of one kind, with the catalogue that is linked.
    pub fn new(kind: ArchiveKind) -> Self {
        Self { kind, catalogue: Catalogue::linked().clone(), opened: Mutex::default() }
    }

    /// Decodes with this catalogue.
    #[must_use]
    pub fn with_catalogue(mut self, catalogue: Catalogue) -> Self {
        self.catalogue = catalogue;
        self
    }

    fn location(&self, name: &str) -> Result<Location> {
        Location::parse(name, self.words())
    }

    fn words(&self) -> Words {
        match self.kind {
            ArchiveKind::Oci => Words::Tags,
            ArchiveKind::Docker => Words::Repositories,
        }
    }

    /// The archive, opened once as long as nobody changes it; `None` where there is none.
    async fn look(&self, location: &Location) -> Result<Option<Arc<Opened>>> {
        let path = location.path.clone();
        let mut all = self.opened.lock().await;
        if let Some(known) = all.get(&path) {
            let own = path.clone();
            if blocking::run(move || Ok(Identity::of(&own))).await? == Some(known.identity) {
                return Ok(Some(Arc::clone(known)));
            }
            all.remove(&path);
        }
        let options = ImportOptions::new().with_catalogue(self.catalogue.clone());
        let Some(opened) = Opened::open(&path, &options).await? else { return Ok(None) };
        if self.kind == ArchiveKind::Oci && !opened.is_layout {
            return Err(Error::invalid_argument(format!(
                "{0} is no OCI archive but one of `docker save`: say docker-archive:{0}",
                path.display()
            )));
        }
        let opened = Arc::new(opened);
        all.insert(path, Arc::clone(&opened));
        Ok(Some(opened))
    }

    async fn archive(&self, location: &Location) -> Result<Arc<Opened>> {
        self.look(location)
            .await?
            .ok_or_else(|| Error::not_found(format!("there is no archive {}", location.path.display())))
    }
}

#[async_trait]
impl Resolver for ArchiveResolver {
    async fn resolve(&self, name: &str) -> Result<Resolved> {
        let location = self.location(name)?;
        let archive = self.archive(&location).await?;
        if let Some(entry) = choose(&archive.entries, &location)? {
            return Ok(resolved(&location, entry, self.words()));
        }
        let found = match &location.digest {
            Some(digest) => document(archive.as_ref(), digest).await?,
            None => None,
        };
        found.map(|found| resolved(&location, &found, self.words())).ok_or_else(|| absent(&location))
    }

    async fn fetcher(&self, name: &str) -> Result<Arc<dyn Fetcher>> {
        let archive = self.archive(&self.location(name)?).await?;
        Ok(Arc::new(LocalFetcher(archive as Arc<dyn Provider>)))
    }

    /// Makes what collects an image beside the file, and writes the file when it is told to finish. An archive that is there keeps its
    /// other images; one that is compressed, or was made by an older Docker, is refused, `AlreadyExists`.
    async fn pusher(&self, name: &str) -> Result<Arc<dyn Pusher>> {
        let location = self.location(name)?;
        let own = location.path.clone();
        let is_file =
            blocking::run(move || Ok(own.metadata().is_ok_and(|metadata| metadata.is_file()))).await?;
        let there = if is_file { self.look(&location).await? } else { None };
        if let Some(there) = &there
            && (there.is_compressed || !there.is_layout)
        {
            return Err(Error::already_exists(format!(
                "{} is there already, and is an archive to which nothing is added: it is {}; remove it, or write to another file",
                location.path.display(),
                if there.is_compressed { "compressed" } else { "one of an older Docker" }
            )));
        }
        Ok(Arc::new(ArchivePusher::begin(self.kind, location, there, self.catalogue.clone()).await?))
    }

    async fn tags(&self, repository: &str) -> Result<Vec<String>> {
        let location = self.location(repository)?;
        directory_only(&location, repository)?;
        Ok(entries::tags(&self.archive(&location).await?.entries))
    }

    async fn referrers(&self, name: &str) -> Result<Arc<dyn ReferrersProvider>> {
        let location = self.location(name)?;
        let catalogue = self.catalogue.clone();
        let archive = self.look(&location).await?;
        let entries = archive.as_ref().map(|archive| archive.entries.clone()).unwrap_or_default();
        let provider: Arc<dyn Provider> = match archive {
            Some(archive) => archive,
            // Nothing is there to read.
            None => Arc::new(MemoryStore::new()),
        };
        Ok(Arc::new(ListedReferrers { provider, entries, catalogue }))
    }
}
