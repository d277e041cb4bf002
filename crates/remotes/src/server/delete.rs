//! Deleting tags, manifests and blobs ("Content Management").
//!
//! Repositories share the content of the store. What one of them deletes may be part of another's images, or of one that somebody pulled,
//! so that a label on the content says in which repositories it is deleted. The content itself goes with the next collection after nothing
//! holds it any more. Pushing or mounting it again takes the label away.
//!
//! A tag may stand for images that are none of this registry: pulled from others, and served because their path is the repository's. Their
//! records are the store's. They stay, with a label that hides them here, until they get another target.

use http::StatusCode;
use wharf_content::{Digest, Error, ErrorKind, Info, Labels, filter::FilterSet};
use wharf_images::{Image, Reference as ImageReference};

use super::{
    Registry,
    names::{Host, Repository},
    push::LABEL_PUSHED,
    refusal::Refusal,
    reply::Reply,
    route::Reference,
};

/// Begins the labels on content that is deleted in a repository, which follows. On an image record it hides the record from that repository,
/// as long as its value is the name and digest of the record.
pub const LABEL_DELETED: &str = "dev.wharf.deleted.";
/// Begins the labels on manifests that have lost a tag in a repository, which follows.
const LABEL_UNTAGGED: &str = "dev.wharf.untagged.";

fn label(repository: &Repository) -> String {
    format!("{LABEL_DELETED}{}", repository.as_str())
}

fn untagged(repository: &Repository) -> String {
    format!("{LABEL_UNTAGGED}{}", repository.as_str())
}

/// The path of the field that says of content, or of a record, that it is deleted in a repository.
pub(super) fn deleted_field(repository: &Repository) -> String {
    format!("labels.{}", label(repository))
}

/// Whether content is deleted in a repository.
pub(super) fn is_deleted(labels: &Labels, repository: &Repository) -> bool {
    // Looked for by its beginning first: next to nothing has one.
    labels.keys().any(|key| key.starts_with(LABEL_DELETED)) && labels.contains_key(&label(repository))
}

/// Whether a record was hidden from a repository, and is still what it was then.
pub(super) fn is_hidden(image: &Image, repository: &Repository) -> bool {
    !image.labels.is_empty() && image.labels.get(&label(repository)) == Some(&mark_of(image))
}

/// By what a record that was marked is known again. Labels go along where an image gets another name.
pub(super) fn mark_of(image: &Image) -> String {
    format!("{}@{}", image.name, image.target.digest)
}

impl Registry {
    pub(super) async fn delete_manifest(
        &self,
        repository: &Repository,
        host: &Host,
        reference: &Reference,
    ) -> Result<Reply, Refusal> {
        let _tagging = self.inner.tagging.lock().await;
        match reference {
            Reference::Tag(tag) => {
                let mut image =
                    self.find(repository, host, tag).await?.ok_or_else(Refusal::manifest_unknown)?;
                // Behind a record there may be another that the name stands for, too: none of them is to be read afterwards.
                loop {
                    // It only tells that the repository was there.
                    if let Err(refusal) = self.mark(&image.target.digest, untagged(repository)).await {
                        tracing::warn!(digest = %image.target.digest, ?refusal, "a manifest is not marked as untagged");
                    }
                    self.put_away(repository, image).await?;
                    match self.find(repository, host, tag).await? {
                        Some(next) => image = next,
                        None => break,
                    }
                }
            }
            Reference::Digest(digest) => {
                let labels = self.present(repository, digest, Refusal::manifest_unknown).await?.labels;
                self.open_typed(digest, &labels).await?;
                let meanings = repository.meanings(host);
                let recorded = FilterSet::parse([format!("target.digest=={digest}")])?;
                for image in self.images().list(&recorded).await? {
                    let name = ImageReference::parse(&image.name);
                    if name.is_ok_and(|name| repository.covers(&meanings, &name)) {
                        self.put_away(repository, image).await?;
                    }
                }
                self.mark(digest, label(repository)).await?;
            }
        }
        Ok(Reply::new(StatusCode::ACCEPTED))
    }

    pub(super) async fn delete_blob(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Reply, Refusal> {
        self.present(repository, digest, Refusal::blob_unknown).await?;
        self.mark(digest, label(repository)).await?;
        Ok(Reply::new(StatusCode::ACCEPTED))
    }

    /// Whether something was deleted in a repository that is not collected yet: it is known, though it has no tag any more.
    pub(super) async fn had_content(&self, repository: &Repository) -> Result<bool, Refusal> {
        let labelled = [label(repository), untagged(repository)].map(|key| format!("labels.\"{key}\""));
        let (labelled, mut found) = (FilterSet::parse(labelled)?, false);
        let mut stop = |_| {
            found = true;
            Err(Error::new(ErrorKind::Aborted, "one is enough"))
        };
        let walked = self.store().walk(&labelled, &mut stop).await;
        match walked {
            Err(error) if !found => Err(error.into()),
            _ => Ok(found),
        }
    }

    /// What the store knows of content that is there and not deleted in a repository.
    pub(super) async fn present(
        &self,
        repository: &Repository,
        digest: &Digest,
        unknown: fn() -> Refusal,
    ) -> Result<Info, Refusal> {
        match self.store().info(digest).await {
            Ok(info) if is_deleted(&info.labels, repository) => Err(unknown()),
            Err(error) if error.kind() == ErrorKind::NotFound => Err(unknown()),
            info => Ok(info?),
        }
    }

    /// As [`Registry::present`], for a manifest. One that was deleted in a repository is there again when an image of it is called after the
    /// repository, which may have come by another way than a push.
    pub(super) async fn present_manifest(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Info, Refusal> {
        let unknown = Refusal::manifest_unknown;
        let refused = match self.present(repository, digest, unknown).await {
            Err(refusal) if refusal.is_missing() => refusal,
            present => return present,
        };
        let recorded = FilterSet::parse([format!("target.digest=={digest}")])?;
        let images = self.images().list(&recorded).await?;
        let is_called_so = |image: &Image| {
            let is_covered =
                ImageReference::parse(&image.name).is_ok_and(|name| name.path() == repository.as_str());
            is_covered && !is_hidden(image, repository)
        };
        if !images.iter().any(is_called_so) {
            return Err(refused);
        }
        match self.store().info(digest).await {
            Err(error) if error.kind() == ErrorKind::NotFound => Err(unknown()),
            info => Ok(info?),
        }
    }

    /// Takes back that content is deleted in a repository, for somebody has pushed it, or something made of it.
    pub(super) async fn restore(&self, repository: &Repository, digest: &Digest) -> Result<(), Error> {
        let info = self.store().info(digest).await?;
        if !is_deleted(&info.labels, repository) {
            return Ok(());
        }
        let path = deleted_field(repository);
        self.store().update(digest, &Labels::new(), &[&path]).await.map(drop)
    }

    async fn mark(&self, digest: &Digest, key: String) -> Result<(), Refusal> {
        let path = format!("labels.{key}");
        match self.store().update(digest, &Labels::from([(key, "true".to_owned())]), &[&path]).await {
            // Collected meanwhile: there is nothing to be said of it.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            updated => Ok(updated.map(drop)?),
        }
    }

    /// Removes the record of an image of this registry, and hides one that is not.
    async fn put_away(&self, repository: &Repository, image: Image) -> Result<(), Refusal> {
        let outcome = if image.labels.get(LABEL_PUSHED) == Some(&mark_of(&image)) {
            // What it points to by now may be something else.
            self.images().delete(&image.name, Some(&image.target)).await
        } else {
            let label = Labels::from([(label(repository), mark_of(&image))]);
            let hidden = image.with_labels(label);
            self.images().update(hidden, &[&deleted_field(repository)]).await.map(drop)
        };
        match outcome {
            // Somebody else was faster.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            done => Ok(done?),
        }
    }
}
