//! Content into one repository of a registry: looked for first, then mounted or sent (distribution specification, "Push"; containerd:
//! `core/remotes/docker/pusher.go`).
//!
//! How the bytes of a blob are sent is in [`upload`](super::upload). Nothing here knows what refers to what, nor in which order it is
//! to be pushed.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use reqwest::{
    Method, StatusCode,
    header::{HeaderMap, HeaderName},
};
use tokio::sync::Mutex;
use wharf_content::{Algorithm, Descriptor, Digest, Error, ErrorKind, Result, copying::Source};
use wharf_images::{
    Reference,
    decode::MAX_MANIFEST_LEN,
    transport::{Delivery, Place, Pusher, Shipment},
};

use super::{
    client::{Ask, Client},
    failure,
    payload::Payload,
    referrers,
    resolver::ACCEPT,
    upload::Upload,
};
use crate::error::RemoteError;

const DOCKER_CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
/// Says that the registry itself lists the manifest among the referrers of its subject.
const OCI_SUBJECT: HeaderName = HeaderName::from_static("oci-subject");

/// Pushes under one name.
#[derive(Debug)]
pub(super) struct RegistryPusher {
    client: Arc<Client>,
    reference: Reference,
    scope: String,
    /// Held while a list of referrers is read, changed and written.
    listing: Mutex<()>,
}

/// What must be allowed to write to a repository, and to look what is there.
pub(super) fn push_scope(path: &str) -> String {
    format!("repository:{path}:pull,push")
}

impl RegistryPusher {
    pub(super) fn new(client: Arc<Client>, reference: Reference) -> Self {
        let scope = push_scope(reference.path());
        Self { client, reference, scope, listing: Mutex::default() }
    }

    fn ask(&self, method: Method, endpoint: &str) -> Ask {
        Ask::new(method, format!("{}/{endpoint}", self.reference.path()), &*self.scope)
    }

    async fn push_blob(&self, shipment: &Shipment) -> Result<Delivery> {
        let ask = self.ask(Method::HEAD, &format!("blobs/{}", shipment.descriptor.digest));
        let is_it = |headers: &HeaderMap| {
            digest_header(headers).is_none_or(|claimed| {
                claimed.is_ok_and(|claimed| {
                    claimed.algorithm() != shipment.descriptor.digest.algorithm()
                        || claimed == shipment.descriptor.digest
                })
            })
        };
        if self.found(&ask).await?.is_some_and(|headers| is_it(&headers)) {
            return Ok(Delivery::Exists);
        }
        // Another repository of this registry; what the label names of other registries is of no use here.
        let origin = shipment.origins.iter().find_map(|origin| {
            let (domain, path) = origin.split_once('/')?;
            (domain == self.reference.domain() && path != self.reference.path()).then_some(path)
        });
        Upload::new(&self.client, self.reference.path(), &self.scope, shipment).run(&ask, origin).await
    }

    /// The headers of what is there; `None` where it is not, or the registry does not tell by HEAD: then the attempt to put it
    /// there is answered, with a body that says why.
    async fn found(&self, ask: &Ask) -> Result<Option<HeaderMap>> {
        match self.client.send(ask).await {
            Ok(response) => Ok(Some(response.headers().clone())),
            Err(error) => match status(&error) {
                Some(400 | 401 | 403 | 404 | 405 | 501) => Ok(None),
                _ => Err(error),
            },
        }
    }

    async fn push_manifest(&self, shipment: &Shipment) -> Result<Delivery> {
        let descriptor = &shipment.descriptor;
        let digest = descriptor.digest.as_str();
        let tag = match shipment.place {
            Place::Root => self.reference.tag(),
            _ => None,
        };
        if let (Place::Root, Some(pinned)) = (shipment.place, self.reference.digest())
            && *pinned != descriptor.digest
        {
            return Err(Error::failed_precondition(format!(
                "digest mismatch: the destination is pinned to {pinned}, and what is pushed is {digest}"
            )));
        }
        let bytes = whole(shipment.source.as_ref(), descriptor).await?;
        let referrer = referrers::Referrer::read(descriptor, &bytes);
        // Whether the registry lists referrers itself is told by its answer to a push only, so that one is always pushed.
        if referrer.is_none() {
            let mut head = self.ask(Method::HEAD, &format!("manifests/{}", tag.unwrap_or(digest)));
            head.accept = Some(ACCEPT);
            let there = self.found(&head).await?;
            if there.is_some_and(|headers| is_same(&headers, &bytes, tag.is_some())) {
                return Ok(Delivery::Exists);
            }
        }
        let mut answer = HeaderMap::new();
        let mut source = Arc::clone(&shipment.source);
        if tag.is_none() || descriptor.digest.algorithm() != Algorithm::Sha256 {
            answer = self.put(&format!("manifests/{digest}"), source, descriptor, &bytes).await?;
            source = Arc::new(bytes.clone());
        }
        if let Some(tag) = tag {
            // A registry takes a tag for SHA-256 unless it is told the digest (distribution specification 1.1, "Pushing Manifests").
            let parameter = match descriptor.digest.algorithm() {
                Algorithm::Sha256 => String::new(),
                _ => format!("?digest={digest}"),
            };
            let endpoint = format!("manifests/{tag}{parameter}");
            answer = self.put(&endpoint, source, descriptor, &bytes).await?;
        }
        if let Some(referrer) = referrer.filter(|_| !answer.contains_key(OCI_SUBJECT)) {
            let _alone = self.listing.lock().await;
            referrer.list(&self.client, self.reference.path(), &self.scope).await?;
        }
        Ok(Delivery::Sent)
    }

    /// Puts the bytes of a manifest somewhere, and checks what the registry understood.
    async fn put(
        &self,
        endpoint: &str,
        source: Arc<dyn Source>,
        descriptor: &Descriptor,
        bytes: &Bytes,
    ) -> Result<HeaderMap> {
        let mut ask = self.ask(Method::PUT, endpoint);
        ask.payload = Some(Payload::whole(source, descriptor.size, &*descriptor.media_type));
        let response = self.client.send(&ask).await?;
        let host = failure::host(response.url());
        check_digest(response.headers(), &host, |claimed| claimed.algorithm().digest(bytes))?;
        Ok(response.headers().clone())
    }
}

/// Whether what is there is these bytes: what is asked for by its digest is, and what has the digest.
fn is_same(headers: &HeaderMap, bytes: &Bytes, is_tag: bool) -> bool {
    match digest_header(headers) {
        Some(Ok(claimed)) => claimed.algorithm().digest(bytes) == claimed,
        Some(Err(_)) => false,
        None => !is_tag,
    }
}

/// The digest that an answer names, where it names one.
fn digest_header(headers: &HeaderMap) -> Option<Result<Digest>> {
    let value = headers.get(DOCKER_CONTENT_DIGEST)?.to_str().unwrap_or("?").trim();
    (!value.is_empty()).then(|| value.parse::<Digest>().map_err(Error::from))
}

/// Fails where the registry names another digest than the content has.
pub(super) fn check_digest(
    headers: &HeaderMap,
    host: &str,
    digest: impl Fn(&Digest) -> Digest,
) -> Result<()> {
    let Some(claimed) = digest_header(headers) else { return Ok(()) };
    let claimed = claimed.map_err(|error| {
        Error::failed_precondition(format!("{host} answered with a Docker-Content-Digest that is none"))
            .with_source(error)
    })?;
    let real = digest(&claimed);
    if real == claimed {
        return Ok(());
    }
    Err(Error::failed_precondition(format!(
        "digest mismatch: {real} was pushed, and {host} says that it has taken in {claimed}"
    )))
}

/// The bytes of a manifest, verified.
async fn whole(source: &dyn Source, descriptor: &Descriptor) -> Result<Bytes> {
    let mut stream = source.open(0).await?;
    let mut bytes = BytesMut::new();
    while let Some(chunk) = stream.next().await {
        bytes.extend_from_slice(&chunk?);
        if bytes.len() as u64 > MAX_MANIFEST_LEN {
            return Err(Error::resource_exhausted(format!(
                "{} ({:?}) is larger than the {MAX_MANIFEST_LEN} bytes that a manifest may have",
                descriptor.digest, descriptor.media_type
            )));
        }
    }
    let bytes = bytes.freeze();
    descriptor.verify(&bytes)?;
    Ok(bytes)
}

pub(super) fn status(error: &Error) -> Option<u16> {
    RemoteError::of(error).and_then(|error| error.status)
}

#[async_trait]
impl Pusher for RegistryPusher {
    async fn push(&self, shipment: &Shipment) -> Result<Delivery> {
        let pushed = match shipment.place {
            Place::Blob => self.push_blob(shipment).await,
            _ => self.push_manifest(shipment).await,
        };
        pushed.map_err(|error| {
            let host = self.reference.domain();
            match status(&error).and_then(|status| StatusCode::from_u16(status).ok()) {
                Some(StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED) => {
                    let kind = ErrorKind::PermissionDenied;
                    Error::new(kind, format!("the registry {host} takes no pushes: it is read-only"))
                        .with_source(error)
                }
                Some(StatusCode::PAYLOAD_TOO_LARGE) => {
                    let size = shipment.descriptor.size;
                    error.context(format!("{size} bytes at once are too many for the registry {host}"))
                }
                _ => error,
            }
        })
    }

    async fn has(&self, descriptor: &Descriptor, place: Place) -> Result<bool> {
        let tag = self.reference.tag().filter(|_| place == Place::Root);
        let object = tag.unwrap_or(descriptor.digest.as_str());
        let mut head = self.ask(Method::HEAD, &format!("manifests/{object}"));
        head.accept = Some(ACCEPT);
        // A registry takes no manifest before it has what that is made of (distribution specification 1.1, "Pushing Manifests").
        let Some(headers) = self.found(&head).await? else { return Ok(false) };
        Ok(match digest_header(&headers) {
            Some(Ok(claimed)) => claimed == descriptor.digest,
            Some(Err(_)) => false,
            None => tag.is_none(),
        })
    }

    fn repository(&self) -> Option<&str> {
        Some(self.reference.repository())
    }

    fn pinned(&self) -> Option<&Digest> {
        self.reference.digest()
    }
}
