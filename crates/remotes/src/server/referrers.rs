//! Listing what refers to a manifest ("Listing Referrers").
//!
//! ```text
//! pushed: the label LABEL_SUBJECT ────────────────────────────────────────────────┐
//! pulled or imported with its subject, whose labels hold it ─┬─> does it refer? ──┴─> there, and not deleted here? ─> listed
//! in the index under the tag of the referrers tag schema ────┘
//! ```
//!
//! What came without its subject and is in no such index is not listed: nothing leads to it.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::{HeaderName, StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, json};
use wharf_content::{Descriptor, Digest, Error, ErrorKind, Info, filter::FilterSet, read_blob};
use wharf_images::{
    Kind,
    children::decode_bytes,
    decode::{self, ManifestDecoders},
    labels::held_referrers,
    media_types,
    referrers::fallback_tag,
    sniff,
};

use super::{
    Registry,
    delete::is_deleted,
    media_type::{LABEL_MEDIA_TYPE, OCTET_STREAM},
    names::{Host, Repository, Tag},
    refusal::Refusal,
    reply::Reply,
};

/// Label on a manifest with the digest of the subject that it refers to.
pub const LABEL_SUBJECT: &str = "dev.wharf.subject";

const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");

/// The most bytes that a page has of descriptors, unless it is of one alone: clients read indexes of at most 4 MiB.
const PAGE_LEN: usize = 2 * 1024 * 1024;
/// A page ends once so many candidates were looked at, whether they refer to the subject or not.
const MAX_CANDIDATES: usize = 16 * 1024;
/// A page ends once so many bytes were read of candidates.
const MAX_READ: u64 = 64 * 1024 * 1024;
/// As how many bytes a decoder counts that is more than a computation.
const BLOCKING_COST: u64 = 1024 * 1024;

/// The facts that a referrer's descriptor takes from its manifest.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Facts {
    artifact_type: Option<String>,
    config: Option<Config>,
    annotations: Option<serde_json::Map<String, Value>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    #[serde(default)]
    media_type: Option<String>,
}

/// What may refer to a subject, by digest: no more than one page looks at.
struct Candidates<'a> {
    /// Where the page before ended.
    last: Option<&'a Digest>,
    /// With what is known of those that were pushed, which do refer to it.
    found: BTreeMap<Digest, Option<Known>>,
    /// Whether there are more behind these.
    more: bool,
}

/// What the store tells of a candidate.
struct Known {
    size: u64,
    media_type: Option<String>,
}

impl Known {
    fn new(info: &Info) -> Self {
        let media_type = info.labels.get(LABEL_MEDIA_TYPE).filter(|label| sniff::is_media_type(label));
        Self { size: info.size, media_type: media_type.cloned() }
    }
}

impl<'a> Candidates<'a> {
    fn new(last: Option<&'a Digest>) -> Self {
        Self { last, found: BTreeMap::new(), more: false }
    }

    fn add(&mut self, digest: Digest, pushed: Option<Known>) {
        if self.last.is_some_and(|last| digest <= *last) {
            return;
        }
        let slot = self.found.entry(digest).or_default();
        *slot = slot.take().or(pushed);
        if self.found.len() > MAX_CANDIDATES {
            self.found.pop_last();
            self.more = true;
        }
    }
}

impl Registry {
    pub(super) async fn list_referrers(
        &self,
        repository: &Repository,
        host: &Host,
        subject: &Digest,
        filter: Option<&str>,
        last: Option<&Digest>,
    ) -> Result<Reply, Refusal> {
        let mut candidates = self.candidates(repository, host, subject, last).await?;
        let mut listing = Listing::new(filter);
        let (mut read, mut before, mut next) = (0, None, None);
        while let Some((digest, pushed)) = candidates.found.pop_first() {
            let described = self.describe(repository, subject, &digest, pushed, &mut read).await?;
            if described.is_some_and(|described| !listing.takes(described)) {
                next = before;
                break;
            }
            let is_last = candidates.found.is_empty();
            if (read >= MAX_READ || is_last) && (candidates.more || !is_last) {
                next = Some(digest);
                break;
            }
            before = Some(digest);
        }
        Ok(listing.reply(repository, subject, next.as_ref()))
    }

    async fn candidates<'a>(
        &self,
        repository: &Repository,
        host: &Host,
        subject: &Digest,
        last: Option<&'a Digest>,
    ) -> Result<Candidates<'a>, Refusal> {
        let mut candidates = Candidates::new(last);
        let labelled = FilterSet::parse([format!("labels.\"{LABEL_SUBJECT}\"=={subject}")])?;
        let mut add = |info: Info| {
            if !is_deleted(&info.labels, repository) {
                let pushed = Known::new(&info);
                candidates.add(info.digest, Some(pushed));
            }
            Ok(())
        };
        self.store().walk(&labelled, &mut add).await?;
        match self.store().info(subject).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            info => held_referrers(&info?.labels).for_each(|digest| candidates.add(digest, None)),
        }
        for listed in self.listed_under_tag(repository, host, subject).await? {
            candidates.add(listed.digest, None);
        }
        Ok(candidates)
    }

    /// What the index lists that is tagged as the referrers tag schema has it, from before the registry listed referrers itself
    /// ("Enabling the Referrers API"). A tag of something else lists nothing.
    async fn listed_under_tag(
        &self,
        repository: &Repository,
        host: &Host,
        subject: &Digest,
    ) -> Result<Vec<Descriptor>, Refusal> {
        let Some(tag) = Tag::parse(&fallback_tag(subject)) else { return Ok(Vec::new()) };
        let Some(image) = self.find(repository, host, &tag).await? else { return Ok(Vec::new()) };
        let catalogue = &self.options().catalogue;
        let is_index = decode::kind(&image.target.media_type, catalogue)? == Some(Kind::Index);
        if !is_index || image.target.size > decode::MAX_MANIFEST_LEN {
            return Ok(Vec::new());
        }
        match wharf_images::decode(self.store(), &image.target, catalogue).await {
            Ok(decoded) => Ok(decoded.unwrap_or_default().descriptors()),
            Err(error) if error.kind() == ErrorKind::NotFound || is_unreadable(&error) => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }

    /// The descriptor of a candidate; `None` where it is gone by now, or does not refer to the subject. Counts what that costs.
    async fn describe(
        &self,
        repository: &Repository,
        subject: &Digest,
        digest: &Digest,
        pushed: Option<Known>,
        read: &mut u64,
    ) -> Result<Option<Value>, Refusal> {
        let is_referrer = pushed.is_some();
        let Known { size, media_type } = match pushed {
            Some(pushed) => pushed,
            None => match self.present(repository, digest, Refusal::manifest_unknown).await {
                Err(refusal) if refusal.is_missing() => return Ok(None),
                info => Known::new(&info?),
            },
        };
        if size > self.manifest_limit() {
            return Ok(None);
        }
        let descriptor = Descriptor::new(OCTET_STREAM, digest.clone(), size);
        let bytes = match read_blob(self.store(), &descriptor, size).await {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            bytes => bytes?,
        };
        *read += size;
        let media_type = media_type.or_else(|| sniff::document(&bytes));
        let media_type = media_type.unwrap_or_else(|| OCTET_STREAM.to_owned());
        let descriptor = Descriptor { media_type, ..descriptor };
        if !is_referrer && !self.refers(subject, &descriptor, &bytes, read).await? {
            return Ok(None);
        }
        let facts: Facts = serde_json::from_slice(&bytes).unwrap_or_default();
        let mut described = json!({
            "mediaType": descriptor.media_type,
            "digest": digest.as_str(),
            "size": size,
        });
        let own = facts.artifact_type.filter(|own| !own.is_empty());
        if let Some(artifact_type) = own.or_else(|| facts.config?.media_type) {
            described["artifactType"] = artifact_type.into();
        }
        if let Some(annotations) = facts.annotations.filter(|annotations| !annotations.is_empty()) {
            described["annotations"] = annotations.into();
        }
        Ok(Some(described))
    }

    /// Whether a document is a manifest that refers to the subject.
    async fn refers(
        &self,
        subject: &Digest,
        document: &Descriptor,
        bytes: &Bytes,
        read: &mut u64,
    ) -> Result<bool, Refusal> {
        let catalogue = &self.options().catalogue;
        let decoder = catalogue.find::<ManifestDecoders>(&document.media_type)?;
        let Some(decoder) = decoder.filter(|decoder| decoder.kind().is_manifest()) else { return Ok(false) };
        if decoder.blocks() {
            *read += BLOCKING_COST;
        }
        match decode_bytes(decoder, document, bytes.clone(), catalogue).await {
            Ok(decoded) => Ok(decoded.subject.is_some_and(|own| own.digest == *subject)),
            Err(error) if is_unreadable(&error) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// Whether an error of a decoder means that the document is nothing that it reads, and not that it failed to.
fn is_unreadable(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::InvalidArgument | ErrorKind::NotImplemented)
}

/// A page of referrers in the making.
pub(super) struct Listing<'a> {
    filter: Option<&'a str>,
    page: Vec<Value>,
    len: usize,
}

impl<'a> Listing<'a> {
    pub(super) fn new(filter: Option<&'a str>) -> Self {
        Self { filter, page: Vec::new(), len: 0 }
    }

    /// Adds a referrer, unless the filter leaves it out. It is not taken where the page has others and no room for it.
    pub(super) fn takes(&mut self, described: Value) -> bool {
        if self.filter.is_some_and(|filter| described["artifactType"] != filter) {
            return true;
        }
        let len = self.len + described.to_string().len();
        if len > PAGE_LEN && !self.page.is_empty() {
            return false;
        }
        self.len = len;
        self.page.push(described);
        true
    }

    /// The answer; `next` is the last one of the page, where there are more behind it.
    pub(super) fn reply(self, repository: &Repository, subject: &Digest, next: Option<&Digest>) -> Reply {
        let index =
            json!({ "schemaVersion": 2, "mediaType": media_types::OCI_INDEX, "manifests": self.page });
        let mut reply = Reply::new(StatusCode::OK)
            .with(header::CONTENT_TYPE, media_types::OCI_INDEX)
            .with_bytes(index.to_string().into_bytes().into());
        if self.filter.is_some() {
            reply = reply.with(FILTERS_APPLIED, "artifactType");
        }
        if let Some(last) = next {
            let encode = |text| {
                percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
            };
            let filter =
                self.filter.map(|filter| format!("artifactType={}&", encode(filter))).unwrap_or_default();
            let path = format!("/v2/{}/referrers/{subject}", repository.as_str());
            reply = reply.with(header::LINK, &format!("<{path}?{filter}last={last}>; rel=\"next\""));
        }
        reply
    }
}
