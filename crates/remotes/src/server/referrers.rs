//! Listing what refers to a manifest ("Listing Referrers").
//!
//! Referrers are found by a label that their push wrote. Those that came into the store in other ways have none and are not listed.

use http::{HeaderName, StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, json};
use wharf_content::{Descriptor, Digest, ErrorKind, Info, filter::FilterSet, read_blob};
use wharf_images::{decode, media_types};

use super::{
    Registry,
    delete::is_deleted,
    media_type::{LABEL_MEDIA_TYPE, OCTET_STREAM},
    names::Repository,
    refusal::Refusal,
    reply::Reply,
};

/// Label on a manifest with the digest of the subject that it refers to.
pub const LABEL_SUBJECT: &str = "dev.wharf.subject";

const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");

/// A page ends once it has so many bytes: clients read indexes of at most 4 MiB.
const PAGE_LEN: usize = 2 * 1024 * 1024;

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

impl Registry {
    pub(super) async fn list_referrers(
        &self,
        repository: &Repository,
        subject: &Digest,
        filter: Option<&str>,
        last: Option<&Digest>,
    ) -> Result<Reply, Refusal> {
        let mut referrers: Vec<Info> = Vec::new();
        let labelled = FilterSet::parse([format!("labels.\"{LABEL_SUBJECT}\"=={subject}")])?;
        self.store()
            .walk(&labelled, &mut |info| {
                if last.is_none_or(|last| info.digest > *last) && !is_deleted(&info.labels, repository) {
                    referrers.push(info);
                }
                Ok(())
            })
            .await?;
        referrers.sort_by(|a, b| a.digest.cmp(&b.digest));

        let mut listing = Listing::new(filter);
        let mut next = None;
        let mut referrers = referrers.iter().peekable();
        while let Some(info) = referrers.next() {
            let Some(described) = self.describe(info).await? else { continue };
            if listing.is_filled_by(described) && referrers.peek().is_some() {
                next = Some(&info.digest);
                break;
            }
        }
        Ok(listing.reply(repository, subject, next))
    }

    /// The descriptor of a referrer; `None` where it is gone by now.
    async fn describe(&self, info: &Info) -> Result<Option<Value>, Refusal> {
        let media_type = info.labels.get(LABEL_MEDIA_TYPE).map_or(OCTET_STREAM, String::as_str);
        let descriptor = Descriptor::new(media_type, info.digest.clone(), info.size);
        let limit = decode::MAX_MANIFEST_LEN.max(self.options().max_manifest_len);
        let bytes = match read_blob(self.store(), &descriptor, limit).await {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            bytes => bytes?,
        };
        let facts: Facts = serde_json::from_slice(&bytes).unwrap_or_default();
        let mut described = json!({
            "mediaType": media_type,
            "digest": info.digest.as_str(),
            "size": info.size,
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

    /// Adds a referrer, unless the filter leaves it out, and tells whether the page is as large as one may be.
    pub(super) fn is_filled_by(&mut self, described: Value) -> bool {
        if self.filter.is_none_or(|filter| described["artifactType"] == filter) {
            self.len += described.to_string().len();
            self.page.push(described);
        }
        self.len >= PAGE_LEN
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
