//! Deleting from a repository (distribution specification 1.1, "Content Management").
//!
//! A tag is deleted alone, where the registry can do that; never is a tag's manifest deleted in its place, which would take all of that
//! manifest's tags with it. Blobs are not deleted: whether another manifest needs one only the registry knows.

use reqwest::Method;
use wharf_content::{Digest, Error, ErrorKind, Result, ResultExt};
use wharf_images::{Reference, decode::MAX_MANIFEST_LEN};

use super::{
    client::{Ask, Client},
    pusher::{push_scope, status},
    referrers::Referrer,
    resolver::{ACCEPT, media_type},
};
use crate::error::RemoteError;

/// What is to be deleted.
#[derive(Debug)]
pub(super) struct Deletion<'a> {
    client: &'a Client,
    reference: &'a Reference,
}

/// What must be allowed to delete, and to look what is deleted.
fn delete_scope(path: &str) -> String {
    format!("repository:{path}:delete,pull")
}

/// Whether a registry refuses to delete at all, or in this way.
fn is_refusal(error: &Error) -> bool {
    matches!(status(error), Some(400 | 405 | 501))
}

impl<'a> Deletion<'a> {
    pub(super) fn new(client: &'a Client, reference: &'a Reference) -> Self {
        Self { client, reference }
    }

    fn ask(&self, method: Method, object: &str) -> Ask {
        let path = self.reference.path();
        Ask::new(method, format!("{path}/manifests/{object}"), delete_scope(path))
    }

    pub(super) async fn run(&self) -> Result<()> {
        match (self.reference.digest(), self.reference.tag()) {
            (Some(digest), _) => self.manifest(digest).await,
            (None, tag) => self.tag(tag.unwrap_or_default()).await,
        }
    }

    /// A refusal of which it has to be guessed whether it is meant for this way of deleting only.
    ///
    /// # Errors
    /// The refusal, where the registry is only read, and says itself what is to be done instead.
    fn guessed(&self, refused: Error) -> Result<Error> {
        if RemoteError::of(&refused).is_some_and(RemoteError::is_read_only) {
            let what = format!("the registry {} takes no changes", self.reference.domain());
            return Err(Error::not_implemented(what).with_source(refused));
        }
        Ok(refused)
    }

    async fn tag(&self, tag: &str) -> Result<()> {
        let refused = match self.client.send(&self.ask(Method::DELETE, tag)).await {
            Err(error) if is_refusal(&error) => error,
            outcome => return outcome.map(drop),
        };
        let refused = self.guessed(refused)?;
        // What is not there cannot be deleted in any other way.
        let mut head = self.ask(Method::HEAD, tag);
        head.accept = Some(ACCEPT);
        let found = self.client.send(&head).await?;
        let digest = found.headers().get("docker-content-digest").and_then(|value| value.to_str().ok());
        let digest = digest.and_then(|text| text.trim().parse::<Digest>().ok());
        let digest = digest.map_or_else(|| "DIGEST".to_owned(), |digest| digest.to_string());
        let (host, repository) = (self.reference.domain(), self.reference.repository());
        Err(Error::not_implemented(format!(
            "the registry {host} deletes no tag by itself; deleting {repository}@{digest} removes the manifest with every tag that it has, if \
             the registry allows deletion at all"
        ))
        .with_source(refused))
    }

    async fn manifest(&self, digest: &Digest) -> Result<()> {
        let referrer = self.referrer(digest).await?;
        match self.client.send(&self.ask(Method::DELETE, digest.as_str())).await {
            Err(error) if is_refusal(&error) => {
                let error = self.guessed(error)?;
                let host = self.reference.domain();
                return Err(Error::not_implemented(format!(
                    "the registry {host} does not allow deletion; who runs it can (for docker-registry by REGISTRY_STORAGE_DELETE_ENABLED=true)"
                ))
                .with_source(error));
            }
            outcome => outcome.map(drop)?,
        }
        // A registry that lists referrers itself takes it off the list itself.
        let Some(referrer) = referrer else { return Ok(()) };
        let path = self.reference.path();
        let ask = Ask::new(Method::GET, referrer.endpoint(path), delete_scope(path));
        match self.client.send(&ask).await {
            Ok(_) => Ok(()),
            Err(error) if matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::ResourceExhausted) => {
                Err(error).context(|| "it is deleted, and may still be listed as a referrer".to_owned())
            }
            Err(_) => referrer.unlist(self.client, path, &push_scope(path)).await,
        }
    }

    /// The manifest as a referrer, where it is one. What nobody could have listed as one is not.
    async fn referrer(&self, digest: &Digest) -> Result<Option<Referrer>> {
        let mut ask = self.ask(Method::GET, digest.as_str());
        ask.accept = Some(ACCEPT);
        let (answer, bytes) = self.client.read(&ask, MAX_MANIFEST_LEN).await?;
        let media_type = media_type(answer.headers()).unwrap_or_default();
        let descriptor = wharf_content::Descriptor::new(media_type, digest.clone(), bytes.len() as u64);
        Ok(descriptor.verify(&bytes).ok().and_then(|()| Referrer::read(&descriptor, &bytes)))
    }
}
