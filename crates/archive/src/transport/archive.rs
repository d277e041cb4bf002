//! The transports `oci-archive` and `docker-archive`: one file with images, read in place and written whole.
//!
//! What is written is an OCI image layout in both cases, so that every digest stays; for Docker `manifest.json` is beside it, which `docker load`
//! and others read. Of an archive that has both, the layout is read, as Docker itself does since version 25.

use std::{collections::HashMap, path::PathBuf, sync::Arc};

use async_trait::async_trait;
use tokio::sync::Mutex;
use wharf_content::{Catalogue, Error, Provider, Result, blocking};
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
use crate::{destination::Destination, options::ImportOptions};

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

    fn scheme(&self) -> &'static str {
        match self.kind {
            ArchiveKind::Oci => "oci-archive",
            ArchiveKind::Docker => "docker-archive",
        }
    }

    /// What was typed, unless a directory is there.
    async fn file(&self, name: &str) -> Result<Location> {
        let location = self.location(name)?;
        let path = location.path.clone();
        blocking::run(move || {
            if path.is_dir() {
                return Err(Error::invalid_argument(format!(
                    "{0} is a directory and no archive: say oci:{0} for a layout in a directory",
                    path.display()
                )));
            }
            Ok(location)
        })
        .await
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
        let location = self.file(name).await?;
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
        let archive = self.archive(&self.file(name).await?).await?;
        Ok(Arc::new(LocalFetcher(archive as Arc<dyn Provider>)))
    }

    /// Makes what collects an image beside the file, and writes the file when it is told to finish. An archive that is there keeps its
    /// other images; one that is compressed, or was made by an older Docker, is refused, `AlreadyExists`.
    async fn pusher(&self, name: &str) -> Result<Arc<dyn Pusher>> {
        let location = self.file(name).await?;
        let own = location.path.clone();
        // What is behind a standard stream is not replaced but written to, and is no archive yet.
        let is_file = blocking::run(move || {
            Ok(own.metadata().is_ok_and(|metadata| metadata.is_file()) && !Destination::is_direct(&own))
        });
        let is_file = is_file.await?;
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
        let location = self.file(repository).await?;
        directory_only(&location, repository)?;
        Ok(entries::tags(&self.archive(&location).await?.entries))
    }

    async fn referrers(&self, name: &str) -> Result<Arc<dyn ReferrersProvider>> {
        let location = self.file(name).await?;
        let found = match self.look(&location).await? {
            Some(archive) => {
                ListedReferrers::gather(archive.as_ref(), &archive.entries, &self.catalogue).await?
            }
            // Nothing is there to read.
            None => ListedReferrers::default(),
        };
        Ok(Arc::new(found))
    }

    /// Nothing is taken out of a file: it would have to be written anew, which a copy of what is to stay does.
    async fn delete(&self, name: &str) -> Result<()> {
        let location = self.location(name)?;
        let (path, scheme) = (location.path.display(), self.scheme());
        if location.is_bare() {
            return Err(Error::invalid_argument(format!(
                "{name:?} names an archive, which is a file: remove it as one"
            )));
        }
        Err(Error::not_implemented(format!(
            "no image is deleted out of an archive file: remove {path} where nothing in it is wanted any more, else copy each image that \
             is to stay, as with `wharf copy {scheme}:{path}:NAME {scheme}:OTHER-FILE:NAME`"
        )))
    }
}

#[cfg(test)]
mod tests {
    use wharf_content::ErrorKind;

    use super::*;

    #[tokio::test]
    async fn deleting_out_of_an_archive_says_what_to_do() {
        for (kind, word) in [(ArchiveKind::Oci, "oci-archive:"), (ArchiveKind::Docker, "docker-archive:")] {
            let resolver = ArchiveResolver::new(kind);
            let error = resolver.delete("/srv/image.tar:1").await.expect_err("is not possible");
            assert_eq!(error.kind(), ErrorKind::NotImplemented);
            assert!(error.to_string().contains(&format!("wharf copy {word}/srv/image.tar:NAME")), "{error}");
            let error = resolver.delete("/srv/image.tar").await.expect_err("names none");
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        }
    }
}
