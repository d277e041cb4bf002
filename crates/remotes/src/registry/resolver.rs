//! What a reference means at a registry (containerd: `core/remotes/docker/resolver.go`).

use std::sync::Arc;

use async_trait::async_trait;
use reqwest::{
    Method,
    header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap},
};
use wharf_content::{Catalogue, Descriptor, Digest, Error, Result, ResultExt};
use wharf_images::{
    Reference,
    decode::MAX_MANIFEST_LEN,
    media_types as types,
    referrers::ReferrersProvider,
    schema1, sniff,
    transport::{Fetcher, Pusher, Resolved, Resolver, explicit},
};

use super::{
    client::{Ask, Client},
    deletion::Deletion,
    failover, failure,
    fetcher::RegistryFetcher,
    hosts::{Capabilities, Hosts, Site},
    listing::RegistryReferrers,
    pusher::RegistryPusher,
    settings::RegistrySettings,
    tags,
};
use crate::{credentials::Audience, error::RemoteError};

/// What is asked for: what can be decoded first, and anything else too, so that the registry names it.
pub(super) const ACCEPT: &str = "application/vnd.docker.distribution.manifest.v2+json, \
application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.oci.image.manifest.v1+json, \
application/vnd.oci.image.index.v1+json, */*";

/// Resolves references at registries. Connections and tokens are kept for each host.
///
/// A reference may have several hosts, as its settings say: mirrors are asked before its own host, and one that does not answer, or not
/// with success, is left for the next one at once. Only the last one is asked again. Files of configuration are read at the first use
/// of what they are for, and not again.
#[derive(Debug)]
pub struct RegistryResolver {
    hosts: Arc<Hosts>,
    catalogue: Catalogue,
}

impl RegistryResolver {
    /// Makes a resolver; nothing is contacted yet.
    pub fn new(settings: RegistrySettings) -> Self {
        Self { hosts: Arc::new(Hosts::new(settings)), catalogue: Catalogue::linked().clone() }
    }

    /// Decides by this catalogue which media types registries keep as manifests.
    #[must_use]
    pub fn with_catalogue(mut self, catalogue: Catalogue) -> Self {
        self.catalogue = catalogue;
        self
    }

    /// The hosts of a reference that have a capability, in the order in which they are asked.
    async fn sites(&self, reference: &Reference, wanted: Capabilities) -> Result<Vec<Site>> {
        let (hosts, reference) = (Arc::clone(&self.hosts), reference.clone());
        let read = tokio::task::spawn_blocking(move || hosts.sites(&reference, wanted));
        read.await.map_err(|error| Error::internal("the hosts were not found out").with_source(error))?
    }

    /// What speaks to a host itself, and to none that stands for it.
    pub(super) async fn own_client(&self, host: &str) -> Result<Arc<Client>> {
        let reference = Reference::parse(&format!("{host}/any"))?;
        if Audience::new(reference.domain()) != Audience::new(host) {
            return Err(Error::invalid_argument(format!(
                "{host:?} is not a registry's host, which has a dot or a port or is localhost: {host}/any is read as {}",
                reference.repository()
            )));
        }
        let hosts = Arc::clone(&self.hosts);
        let read = tokio::task::spawn_blocking(move || hosts.own_site(&reference)).await;
        let own =
            read.map_err(|error| Error::internal("the host was not found out").with_source(error))??;
        own.client().await
    }
}

/// What must be allowed to read a repository.
pub(super) fn pull_scope(path: &str) -> String {
    format!("repository:{path}:pull")
}

#[async_trait]
impl Resolver for RegistryResolver {
    async fn resolve(&self, name: &str) -> Result<Resolved> {
        let reference = Reference::parse(name)?;
        let cannot = || format!("cannot resolve {reference}");
        let sites = self.sites(&reference, Capabilities::RESOLVE).await.context(cannot)?;
        let look_up = |client, path| Lookup { client, path, reference: &reference }.resolved();
        failover::first(&sites, look_up).await.context(cannot)
    }

    async fn fetcher(&self, name: &str) -> Result<Arc<dyn Fetcher>> {
        let reference = Reference::parse(name)?;
        let sites = self.sites(&reference, Capabilities::PULL).await?;
        Ok(Arc::new(RegistryFetcher::new(sites, &reference, self.catalogue.clone())))
    }

    async fn pusher(&self, name: &str) -> Result<Arc<dyn Pusher>> {
        let reference = Reference::parse(name)?;
        let cannot = || format!("cannot push to {reference}");
        let sites = self.sites(&reference, Capabilities::PUSH).await.context(cannot)?;
        let client = failover::first(&sites, |client, _| async { Ok(client) }).await.context(cannot)?;
        Ok(Arc::new(RegistryPusher::new(client, reference)))
    }

    fn beside(&self, name: &str, tag: &str) -> Option<String> {
        Reference::beside(name, tag)
    }

    async fn tags(&self, repository: &str) -> Result<Vec<String>> {
        let reference = tags::repository(repository)?;
        let sites = self.sites(&reference, Capabilities::RESOLVE).await?;
        let list = |client: Arc<Client>, path: Arc<str>| {
            let reference = &reference;
            async move { tags::list(client.as_ref(), &path, reference).await }
        };
        failover::first(&sites, list).await
    }

    async fn referrers(&self, name: &str) -> Result<Arc<dyn ReferrersProvider>> {
        let reference = Reference::parse(name)?;
        let sites = self.sites(&reference, Capabilities::REFERRERS).await?;
        Ok(Arc::new(RegistryReferrers::new(sites, reference)))
    }

    async fn delete(&self, name: &str) -> Result<()> {
        let reference = explicit(name)?;
        let cannot = || format!("cannot delete {}", reference.full());
        let sites = self.sites(&reference, Capabilities::PUSH).await.context(cannot)?;
        let client = failover::first(&sites, |client, _| async { Ok(client) }).await.context(cannot)?;
        Deletion::new(&client, &reference).run().await.context(cannot)
    }
}

/// What a reference means at one host.
struct Lookup<'a> {
    client: Arc<Client>,
    path: Arc<str>,
    reference: &'a Reference,
}

impl Lookup<'_> {
    async fn resolved(self) -> Result<Resolved> {
        let resolved = |descriptor| Resolved::new(self.reference.to_string(), descriptor);
        let manifest = format!("{}/manifests/{}", self.path, self.reference.object());
        let outcome = self.look(&manifest).await.map(resolved);
        let (Err(error), Some(digest)) = (&outcome, self.reference.digest()) else { return outcome };
        if status(error) != Some(404) {
            return outcome;
        }
        // Content that is no manifest can be named by its digest too.
        match self.blob(&format!("{}/blobs/{digest}", self.path), digest).await {
            Err(second) if status(&second) == Some(404) => outcome,
            found => found.map(|descriptor| resolved(descriptor).as_blob()),
        }
    }

    fn host(&self) -> String {
        failure::host(self.client.base())
    }

    /// HEAD alone: registries give blobs a general type, and a blob may be too large to be read for its own.
    async fn blob(&self, path: &str, digest: &Digest) -> Result<Descriptor> {
        let response = match self.client.send(&self.ask(Method::HEAD, path)).await {
            Err(error) if matches!(status(&error), Some(403 | 405)) => return self.look(path).await,
            response => response?,
        };
        let size = header(response.headers(), CONTENT_LENGTH.as_str()).and_then(|value| value.parse().ok());
        match (self.described(response.headers())?, size) {
            (Some(descriptor), _) => Ok(descriptor),
            (None, Some(size)) if size > MAX_MANIFEST_LEN => {
                Ok(Descriptor::new(GENERAL_TYPE, digest.clone(), size))
            }
            _ => self.look(path).await,
        }
    }

    fn ask(&self, method: Method, path: &str) -> Ask {
        Ask { accept: Some(ACCEPT), ..Ask::new(method, path, pull_scope(&self.path)) }
    }

    /// HEAD, and GET where HEAD does not tell enough.
    async fn look(&self, path: &str) -> Result<Descriptor> {
        match self.client.send(&self.ask(Method::HEAD, path)).await {
            Ok(response) => {
                if let Some(descriptor) = self.described(response.headers())? {
                    return Ok(descriptor);
                }
            }
            // Some registries do not do HEAD; a refusal has a body only with GET.
            Err(error) if matches!(status(&error), Some(403 | 405)) => {}
            Err(error) => return Err(error),
        }
        let (answer, body) = self.client.read(&self.ask(Method::GET, path), MAX_MANIFEST_LEN).await?;
        self.read(media_type(answer.headers()), &body)
    }

    /// What the headers of a HEAD tell, where they tell everything.
    fn described(&self, headers: &HeaderMap) -> Result<Option<Descriptor>> {
        let size = header(headers, CONTENT_LENGTH.as_str()).and_then(|value| value.parse::<u64>().ok());
        let media_type = media_type(headers);
        let claimed = header(headers, "docker-content-digest").filter(|value| !value.is_empty());
        let claimed = claimed.map(str::parse::<Digest>).transpose().map_err(|error| {
            let host = self.host();
            Error::from(error).context(format!("{host} answered with a Docker-Content-Digest that is none"))
        })?;
        if let (Some(wanted), Some(claimed)) = (self.reference.digest(), &claimed)
            && wanted.algorithm() == claimed.algorithm()
            && wanted != claimed
        {
            return Err(Error::failed_precondition(format!(
                "digest mismatch: {wanted} was asked for, and {} answered with {claimed}",
                self.host()
            )));
        }
        let digest = self.reference.digest().cloned().or(claimed);
        Ok(match (digest, size, media_type) {
            (Some(digest), Some(size), Some(media_type)) if size > 0 && is_telling(&media_type) => {
                Some(Descriptor::new(media_type, digest, size))
            }
            _ => None,
        })
    }

    /// Describes a manifest by its bytes.
    fn read(&self, media_type: Option<String>, body: &[u8]) -> Result<Descriptor> {
        let media_type = match media_type {
            Some(media_type) if is_telling(&media_type) => media_type,
            other => sniff::document(body).or(other).ok_or_else(|| {
                Error::invalid_argument(format!(
                    "{} does not say of what type {} is, and neither does the content",
                    self.host(),
                    Digest::sha256(body)
                ))
            })?,
        };
        let is_schema1 = types::is_schema1(&media_type);
        let digest = match self.reference.digest() {
            Some(wanted) => {
                let found = wanted.algorithm().digest(body);
                // The digest of a signed manifest is that of what was signed.
                if found != *wanted && !(is_schema1 && schema1::is_digest_of(wanted, body)) {
                    return Err(Error::failed_precondition(format!(
                        "digest mismatch: {wanted} was asked for, and {} answered with content of {found}",
                        self.host()
                    )));
                }
                wanted.clone()
            }
            None if is_schema1 => Digest::sha256(&schema1::payload(body)?),
            None => Digest::sha256(body),
        };
        Ok(Descriptor::new(media_type, digest, body.len() as u64))
    }
}

fn status(error: &Error) -> Option<u16> {
    RemoteError::of(error).and_then(|error| error.status)
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

/// The content type without its parameters.
pub(super) fn media_type(headers: &HeaderMap) -> Option<String> {
    sniff::content_type(header(headers, CONTENT_TYPE.as_str())?).map(str::to_ascii_lowercase)
}

/// The type of what may be anything.
const GENERAL_TYPE: &str = "application/octet-stream";

/// Whether a content type tells what the content is. Old registries serve manifests under general ones.
fn is_telling(media_type: &str) -> bool {
    !matches!(media_type, "application/json" | "text/plain" | GENERAL_TYPE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accepted_types_are_the_ones_that_are_decoded() {
        for media_type in [types::DOCKER_MANIFEST, types::DOCKER_LIST, types::OCI_MANIFEST, types::OCI_INDEX]
        {
            assert!(ACCEPT.split(", ").any(|accepted| accepted == media_type), "{media_type}");
        }
    }
}
