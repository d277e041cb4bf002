//! Conversion of what a name means, where that is of a form that nothing else reads: Docker's schema 1, and the config type that Docker's
//! first manifests of schema 2 had.
//!
//! ```text
//! what the registry has                       what is recorded
//!   sha256:D  ── bref.content.converted ──>     sha256:M
//! ```
//!
//! A conversion gives the same bytes each time, and D stays for as long as M is there: its label holds it, and tells M to the next pull,
//! which needs to fetch nothing then. This is the only place where wharf writes a document anew that it fetched.

mod legacy;
mod schema1;

use std::{num::NonZeroUsize, sync::Arc};

use bytes::Bytes;
use wharf_content::{
    Catalogue, CommitOptions, Descriptor, Digest, Error, ErrorKind, IngestOptions, Labels, Manager, Provider,
    Result, Store, labels::GC_PREFIX, write_blob,
};
use wharf_images::{
    Role, Selection, decode, media_types as types,
    progress::{Event, Sink},
    transport::Fetcher,
};

use crate::{fetch::ingest_name, lazy::LazyProvider};

/// Label on a document with the digest of what it was converted to. It holds the document for as long as that is there.
pub(crate) fn label() -> String {
    format!("{GC_PREFIX}bref.content.converted")
}

/// Whether Docker's schema 1 is converted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Schema1 {
    #[default]
    Converted,
    Refused,
}

/// What a conversion works with. Whatever it fetches or writes is held by the lease of the store.
pub(crate) struct Conversion<'a> {
    pub(crate) store: &'a Arc<dyn Store>,
    pub(crate) fetcher: &'a Arc<dyn Fetcher>,
    /// The store, and behind it the fetcher.
    pub(crate) ahead: &'a LazyProvider,
    pub(crate) sink: &'a Arc<dyn Sink>,
    pub(crate) catalogue: &'a Catalogue,
    pub(crate) selection: &'a Selection,
    pub(crate) concurrency: NonZeroUsize,
    pub(crate) schema1: Schema1,
}

/// What something was converted to.
pub(crate) struct Converted {
    pub(crate) target: Descriptor,
    /// What was made here, and is at no registry.
    pub(crate) made: Vec<Digest>,
}

impl Conversion<'_> {
    /// Converts what `name` means, where that needs it.
    ///
    /// # Errors
    /// `NotImplemented` for schema 1 where that is not to be converted, or for layers that nobody decodes; `InvalidArgument` for a
    /// malformed manifest; `FailedPrecondition` for one of another digest; those of the fetcher, the store and the layers.
    ///
    /// # Cancellation
    /// What was fetched stays, as that of a pull does.
    pub(crate) async fn convert(&self, name: &str, root: &Descriptor) -> Result<Option<Converted>> {
        let is_schema1 = types::is_schema1(&root.media_type);
        if is_schema1 && self.schema1 == Schema1::Refused {
            return Err(Error::not_implemented(format!(
                "{name} is a Docker schema 1 manifest ({}), which nothing reads, and converting it was switched off",
                root.digest
            )));
        }
        if !is_schema1 && !types::is_manifest(&root.media_type) {
            return Ok(None);
        }
        let media_type = if is_schema1 { types::DOCKER_MANIFEST } else { root.media_type.as_str() };
        let converted = match self.again(root, media_type).await? {
            Some(converted) => converted,
            None if is_schema1 => self.schema1(root).await?,
            None => match self.legacy(root).await? {
                Some(converted) => converted,
                None => return Ok(None),
            },
        };
        let what = if is_schema1 {
            "is a Docker schema 1 manifest"
        } else {
            "has its config under the type application/octet-stream"
        };
        let (from, to) = (&root.digest, &converted.target.digest);
        let text = format!("{name} {what} ({from}): it was converted, and is recorded as {to}");
        self.sink.event(&Event::Warning { text: &text });
        Ok(Some(converted))
    }

    /// What an earlier pull converted it to, if that is there still.
    async fn again(&self, root: &Descriptor, media_type: &str) -> Result<Option<Converted>> {
        let Some(info) = present(self.store.info(&root.digest).await)? else { return Ok(None) };
        let digest = info.labels.get(&label()).and_then(|digest| digest.parse::<Digest>().ok());
        let Some(digest) = digest else { return Ok(None) };
        let Some(info) = present(self.store.info(&digest).await)? else { return Ok(None) };
        let target = Descriptor::new(media_type, digest, info.size);
        if !self.is_held(&target).await? {
            return Ok(None);
        }
        let decoded = decode(self.store.as_ref(), &target, self.catalogue).await?.unwrap_or_default();
        let mut made = vec![target.digest.clone()];
        if types::is_schema1(&root.media_type) {
            let Some(config) = decoded.child(Role::Config) else { return Ok(None) };
            if !self.is_held(config).await? {
                return Ok(None);
            }
            made.push(config.digest.clone());
        }
        Ok(Some(Converted { target, made }))
    }

    /// Whether the lease holds a blob from now on, since it is there.
    async fn is_held(&self, descriptor: &Descriptor) -> Result<bool> {
        let options =
            IngestOptions::new(ingest_name(descriptor, self.catalogue)?).with_descriptor(descriptor);
        match self.store.writer(options).await {
            Ok(mut writer) => writer.close().await.map(|()| false),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(true),
            Err(error) if error.kind() == ErrorKind::Unavailable => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Writes a document, or holds it where it is there.
    async fn write(&self, descriptor: &Descriptor, bytes: Bytes) -> Result<()> {
        let reference = ingest_name(descriptor, self.catalogue)?;
        let options = CommitOptions::default();
        write_blob(self.store.as_ref(), &reference, descriptor, bytes, options).await
    }

    /// Remembers what a document was converted to.
    async fn remember(&self, from: &Digest, to: &Digest) -> Result<()> {
        let labels = Labels::from([(label(), to.to_string())]);
        let path = format!("labels.{}", label());
        Manager::update(self.store.as_ref(), from, &labels, &[&path]).await.map(drop)
    }

    fn provider(&self) -> &dyn Provider {
        self.store.as_ref()
    }
}

/// Takes what is not there for no error.
fn present<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
