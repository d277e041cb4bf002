//! Reading manifests by tag and by digest ("Pulling manifests").
//!
//! The bytes are those that are in the store. `Accept` is not looked at: there is one form of a manifest, the one it was pushed in. Blobs are
//! no manifests, though both are content of the store: see [`Registry::open_typed`].

use std::{cmp::Reverse, sync::Arc};

use bytes::Bytes;
use http::{Method, StatusCode, header, request::Parts};
use wharf_content::{BlobReader, Descriptor, Digest, ErrorKind, Labels, filter::FilterSet};
use wharf_images::{
    Image, Reference,
    decode::{self, ManifestDecoders},
    sniff,
};

use super::{
    Registry,
    condition::etag,
    delete::is_hidden,
    media_type::{LABEL_MEDIA_TYPE, OCTET_STREAM},
    names::{Host, Repository, Tag},
    refusal::Refusal,
    reply::Reply,
};

/// A manifest that is open, and what it is.
pub(super) struct Typed {
    media_type: String,
    reader: Arc<dyn BlobReader>,
    /// Its bytes, where they had to be read.
    read: Option<Bytes>,
}

impl Registry {
    /// Answers the manifest that a tag points at, as the type that its record gives.
    pub(super) async fn read_tagged(
        &self,
        repository: &Repository,
        host: &Host,
        tag: &Tag,
    ) -> Result<Reply, Refusal> {
        let image = self.find(repository, host, tag).await?.ok_or_else(Refusal::manifest_unknown)?;
        self.read_target(repository, &image.target).await
    }

    /// Answers the manifest that a record points at.
    pub(super) async fn read_target(
        &self,
        repository: &Repository,
        target: &Descriptor,
    ) -> Result<Reply, Refusal> {
        if !sniff::is_media_type(&target.media_type) {
            return self.read_manifest(repository, &target.digest).await;
        }
        let reader = self.open_manifest(&target.digest).await?;
        Ok(reply(&target.digest, &target.media_type, reader, None))
    }

    /// The most bytes that a manifest has which is answered.
    pub(super) fn manifest_limit(&self) -> u64 {
        decode::MAX_MANIFEST_LEN.max(self.options().max_manifest_len)
    }

    /// Answers a manifest by its digest.
    pub(super) async fn read_pinned(
        &self,
        repository: &Repository,
        digest: &Digest,
        head: &Parts,
    ) -> Result<Reply, Refusal> {
        if head.method == Method::HEAD {
            // What is not there is not held; what is there after that cannot go.
            self.present_manifest(repository, digest).await?;
            self.hold_asked(digest, head).await?;
        }
        self.read_manifest(repository, digest).await
    }

    /// Answers a manifest of any repository.
    pub(super) async fn read_manifest(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Reply, Refusal> {
        let labels = self.present_manifest(repository, digest).await?.labels;
        let Typed { media_type, reader, read } = self.open_typed(digest, &labels).await?;
        Ok(reply(digest, &media_type, reader, read))
    }

    /// Opens a manifest and tells what it is. That says, in this order: the label of its push, a record that points at it, the document
    /// itself. Content of which none of them says that it is a manifest is none (404): it came as a blob.
    pub(super) async fn open_typed(&self, digest: &Digest, labels: &Labels) -> Result<Typed, Refusal> {
        let reader = self.open_manifest(digest).await?;
        if let Some(label) = labels.get(LABEL_MEDIA_TYPE).filter(|label| sniff::is_media_type(label)) {
            return Ok(Typed { media_type: label.clone(), reader, read: None });
        }
        let recorded = self.recorded_types(digest).await?;
        if let Some(recorded) = recorded.iter().find(|media_type| sniff::is_media_type(media_type)) {
            return Ok(Typed { media_type: recorded.clone(), reader, read: None });
        }
        let len = usize::try_from(reader.size()).map_err(|_| Refusal::manifest_unknown())?;
        let bytes = reader.read_at(0, len).await?;
        let sniffed = sniff::document(&bytes);
        let is_manifest = labels.contains_key(LABEL_MEDIA_TYPE)
            || !recorded.is_empty()
            || sniffed.as_deref().is_some_and(|sniffed| self.is_manifest(sniffed, digest, &bytes));
        if !is_manifest {
            return Err(Refusal::manifest_unknown());
        }
        let media_type = sniffed.unwrap_or_else(|| OCTET_STREAM.to_owned());
        Ok(Typed { media_type, reader, read: Some(bytes) })
    }

    /// Whether a document that nobody has pushed as a manifest is one. What seems to be a manifest by its shape may be a blob, as an image's
    /// config is, which only its decoder tells. A type that nobody decodes is one that the document calls itself, and may be an index' part.
    fn is_manifest(&self, sniffed: &str, digest: &Digest, bytes: &Bytes) -> bool {
        match self.options().catalogue.find::<ManifestDecoders>(sniffed) {
            Ok(Some(decoder)) if !decoder.kind().is_manifest() => false,
            Ok(Some(decoder)) if !decoder.blocks() => {
                let decoded =
                    decoder.decode(&Descriptor::new(sniffed, digest.clone(), bytes.len() as u64), bytes);
                !decoded.is_err_and(|error| error.kind() == ErrorKind::InvalidArgument)
            }
            _ => true,
        }
    }

    /// Finds the record that a repository and tag stand for; see the module [`server`](super) for the order.
    pub(super) async fn find(
        &self,
        repository: &Repository,
        host: &Host,
        tag: &Tag,
    ) -> Result<Option<Image>, Refusal> {
        for meaning in repository.meanings(host) {
            match self.images().get(&format!("{meaning}:{}", tag.as_str())).await {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Ok(image) if is_hidden(&image, repository) => {}
                image => return Ok(Some(image?)),
            }
        }
        let fits = |image: &Image| {
            let is_called_so = Reference::parse(&image.name)
                .is_ok_and(|name| name.path() == repository.as_str() && name.tag() == Some(tag.as_str()));
            is_called_so && !is_hidden(image, repository)
        };
        let mut images = self.images().list(&FilterSet::all()).await?;
        images.retain(fits);
        images.sort_by_key(|image| Reverse(image.updated_at));
        Ok(images.into_iter().next())
    }

    /// Opens a blob as a manifest. What is larger than any manifest is none.
    async fn open_manifest(&self, digest: &Digest) -> Result<Arc<dyn BlobReader>, Refusal> {
        let limit = self.manifest_limit();
        match self.store().reader(&Descriptor::new(OCTET_STREAM, digest.clone(), 0)).await {
            Err(error) if error.kind() == ErrorKind::NotFound => Err(Refusal::manifest_unknown()),
            Ok(reader) if reader.size() > limit => Err(Refusal::manifest_unknown()),
            reader => Ok(reader?),
        }
    }

    /// The types that records give of what they point at.
    async fn recorded_types(&self, digest: &Digest) -> Result<Vec<String>, Refusal> {
        let filter = FilterSet::parse([format!("target.digest=={digest}")])?;
        let images = self.images().list(&filter).await?;
        Ok(images.into_iter().map(|image| image.target.media_type).collect())
    }
}

fn reply(digest: &Digest, media_type: &str, reader: Arc<dyn BlobReader>, read: Option<Bytes>) -> Reply {
    let reply = Reply::new(StatusCode::OK)
        .with(header::CONTENT_TYPE, media_type)
        .with(header::ETAG, &etag(digest))
        .with_digest(digest);
    if let Some(bytes) = read {
        return reply.with_bytes(bytes);
    }
    let size = reader.size();
    reply.with_blob(reader, 0, size)
}
