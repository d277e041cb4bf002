//! Reading manifests by tag and by digest ("Pulling manifests").
//!
//! The bytes are those that are in the store. `Accept` is not looked at: there is one form of a manifest, the one it was pushed in.

use std::{cmp::Reverse, sync::Arc};

use bytes::Bytes;
use http::{Method, StatusCode, header, request::Parts};
use wharf_content::{BlobReader, Descriptor, Digest, ErrorKind, filter::FilterSet};
use wharf_images::{Image, Reference, decode, sniff};

use super::{
    Registry,
    condition::etag,
    delete::is_hidden,
    media_type::{LABEL_MEDIA_TYPE, OCTET_STREAM},
    names::{Host, Repository, Tag},
    refusal::Refusal,
    reply::Reply,
};

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

    /// Answers a manifest of any repository. What it is says, in this order: the label of its push, a record that points at it, the
    /// document itself.
    pub(super) async fn read_manifest(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Reply, Refusal> {
        let labels = self.present_manifest(repository, digest).await?.labels;
        let reader = self.open_manifest(digest).await?;
        if let Some(label) = labels.get(LABEL_MEDIA_TYPE).filter(|label| sniff::is_media_type(label)) {
            return Ok(reply(digest, label, reader, None));
        }
        if let Some(recorded) = self.recorded_type(digest).await? {
            return Ok(reply(digest, &recorded, reader, None));
        }
        let len = usize::try_from(reader.size()).map_err(|_| Refusal::manifest_unknown())?;
        let bytes = reader.read_at(0, len).await?;
        let sniffed = sniff::document(&bytes);
        Ok(reply(digest, sniffed.as_deref().unwrap_or(OCTET_STREAM), reader, Some(bytes)))
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

    async fn recorded_type(&self, digest: &Digest) -> Result<Option<String>, Refusal> {
        let filter = FilterSet::parse([format!("target.digest=={digest}")])?;
        let images = self.images().list(&filter).await?;
        let mut types = images.into_iter().map(|image| image.target.media_type);
        Ok(types.find(|media_type| sniff::is_media_type(media_type)))
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
