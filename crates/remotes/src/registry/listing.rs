//! Listing the referrers of a manifest (distribution specification 1.1, "Listing Referrers" and "Referrers Tag Schema").
//!
//! A registry that does not know the request is asked for the index under the fallback tag. What is listed is what somebody says: whether
//! a manifest really refers to the subject tells its own content alone.
//!
//! Of several hosts the first one that has a list counts: a mirror that knows nothing of lists says nothing of what there is.

use std::collections::HashSet;

use async_trait::async_trait;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Method, header::HeaderMap};
use serde::Deserialize;
use wharf_content::{Descriptor, Digest, Error, Result, ResultExt};
use wharf_images::{
    Reference,
    labels::ANNOTATION_SUBJECT,
    media_types,
    referrers::{ReferrersProvider, fallback_tag},
};

use super::{
    client::{Ask, Client},
    failover::Failures,
    hosts::Site,
    pages::Pages,
    pusher::status,
    resolver::{media_type, pull_scope},
};

/// The most referrers of one manifest.
const MAX_REFERRERS: usize = 100_000;

/// Lists the referrers of the manifests of one repository.
#[derive(Debug)]
pub(super) struct RegistryReferrers {
    sites: Vec<Site>,
    reference: Reference,
}

/// What is read of an index.
#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

/// How a list is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// By the request for it, which registries of before do not know.
    Request,
    /// By the fallback tag.
    Tag,
}

impl Way {
    /// Whether an answer says that there is no list to be had in this way.
    fn is_closed(self, error: &Error) -> bool {
        match self {
            Self::Request => matches!(status(error), Some(400 | 404 | 405 | 406)),
            Self::Tag => status(error) == Some(404),
        }
    }
}

impl RegistryReferrers {
    pub(super) fn new(sites: Vec<Site>, reference: Reference) -> Self {
        Self { sites, reference }
    }

    async fn list(&self, subject: &Digest, artifact_type: Option<&str>) -> Result<Vec<Descriptor>> {
        let mut failures = None::<Failures>;
        let mut found = None;
        for site in &self.sites {
            match listed_at(site, subject, artifact_type).await {
                Ok(Some(listed)) => {
                    found = Some(listed);
                    failures = None;
                    break;
                }
                // The last one to say that there is none knows best.
                Ok(None) => failures = None,
                Err(error) => failures.get_or_insert_default().add(error),
            }
        }
        if let Some(failures) = failures {
            return Err(failures.into_error());
        }
        let mut listed = found.unwrap_or_default();
        // A list may go on while it changes, so that a page has what the one before it had.
        let mut seen = HashSet::new();
        listed.retain(|referrer| seen.insert(referrer.digest.clone()));
        // Whom they are about is what was asked for, whatever they say.
        for referrer in &mut listed {
            referrer.annotations.remove(ANNOTATION_SUBJECT);
        }
        // Whatever the registry says that it filtered: a fallback tag never is.
        if let Some(artifact_type) = artifact_type {
            listed.retain(|referrer| referrer.artifact_type.as_deref() == Some(artifact_type));
        }
        Ok(listed)
    }

    async fn told(&self, subject: &Digest, artifact_type: Option<&str>) -> Result<Vec<Descriptor>> {
        let repository = self.reference.repository();
        let listed = self.list(subject, artifact_type).await;
        listed.context(|| format!("cannot list the referrers of {repository}@{subject}"))
    }
}

/// The list at one host; `None` where there is none to be had there.
async fn listed_at(
    site: &Site,
    subject: &Digest,
    artifact_type: Option<&str>,
) -> Result<Option<Vec<Descriptor>>> {
    let (client, path) = (site.client().await?, &site.path);
    let mut endpoint = format!("{path}/referrers/{subject}");
    if let Some(artifact_type) = artifact_type {
        let encoded = utf8_percent_encode(artifact_type, NON_ALPHANUMERIC);
        endpoint.push_str(&format!("?artifactType={encoded}"));
    }
    if let Some(listed) = pages(&client, path, Way::Request, &endpoint).await? {
        return Ok(Some(listed));
    }
    let tag = fallback_tag(subject);
    let listed = pages(&client, path, Way::Tag, &format!("{path}/manifests/{tag}")).await;
    listed.context(|| format!("the list under the tag {tag}"))
}

/// All pages of a list; `None` where there is none to be had in this way.
async fn pages(client: &Client, path: &str, way: Way, endpoint: &str) -> Result<Option<Vec<Descriptor>>> {
    let mut ask = Ask::new(Method::GET, endpoint, pull_scope(path));
    ask.accept = Some(media_types::OCI_INDEX);
    let mut pages = Pages::new(client, ask);
    let mut listed = None::<Vec<Descriptor>>;
    loop {
        let (headers, body) = match pages.next().await {
            Ok(Some(page)) => page,
            Ok(None) => return Ok(listed),
            Err(error) if listed.is_none() && way.is_closed(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        match serde_json::from_slice::<Index>(&body) {
            Ok(Index { manifests }) => listed.get_or_insert_default().extend(manifests),
            // A page for people that some registries show wherever they know nothing.
            Err(_) if listed.is_none() && way == Way::Request && !is_index(&headers) => return Ok(None),
            Err(error) => {
                let what = "the registry answered with something that is no list of referrers";
                return Err(Error::failed_precondition(what).with_source(error));
            }
        }
        if listed.as_ref().is_some_and(|listed| listed.len() > MAX_REFERRERS) {
            let too_many = format!("there are more than the {MAX_REFERRERS} referrers that are read");
            return Err(Error::resource_exhausted(too_many));
        }
    }
}

/// Whether an answer says of itself that it is an index.
fn is_index(headers: &HeaderMap) -> bool {
    media_type(headers).is_some_and(|media_type| media_types::is_index(&media_type))
}

#[async_trait]
impl ReferrersProvider for RegistryReferrers {
    async fn referrers(&self, subject: &Descriptor) -> Result<Vec<Descriptor>> {
        self.told(&subject.digest, None).await
    }

    async fn referrers_of_type(&self, subject: &Descriptor, artifact_type: &str) -> Result<Vec<Descriptor>> {
        self.told(&subject.digest, Some(artifact_type)).await
    }
}
