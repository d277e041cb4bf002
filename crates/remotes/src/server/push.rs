//! Taking in manifests ("Pushing Manifests").
//!
//! First everything is checked, then the bytes are committed, then the tags are made: a record never precedes its content. Bytes are
//! kept as they came. A [condition](super::condition) of the request is looked at before anything is read, and again before anything is changed. What a manifest is made of should be there before it, and the client is warned where it is not, or
//! [refused](super::RegistryOptions::with_complete_manifests); what an index lists may come later, or never.

use std::{collections::HashSet, iter, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, StatusCode, header, request::Parts};
use serde_json::json;
use tokio::task;
use wharf_content::{
    CommitOptions, Descriptor, Digest, Error, ErrorKind, Labels, LeasedStore, Resource, Store, blocking,
    labels::GC_PREFIX, reading, write_blob,
};
use wharf_images::{
    Decoded, Image, ImageStore, Kind,
    decode::{ManifestDecoder, ManifestDecoders},
    labels::child_labels,
    media_types::{self, is_schema1},
    record, sniff,
};

use super::{
    Registry,
    condition::{self, is_conditional},
    delete::{deleted_field, mark_of},
    media_type::LABEL_MEDIA_TYPE,
    names::Host,
    referrers::LABEL_SUBJECT,
    refusal::{Code, Refusal},
    reply::Reply,
    request_body::{RequestBody, Whole},
    route::Push,
};

/// Tells the client that the registry lists the manifest among the referrers of its subject.
const OCI_SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
/// Names a tag that was made from a parameter.
const OCI_TAG: HeaderName = HeaderName::from_static("oci-tag");
/// On the record of an image that was pushed to the registry. Its value is the record's name and digest (`NAME@DIGEST`): labels go along where
/// an image gets another name, and stay where a name gets another image.
pub const LABEL_PUSHED: &str = "dev.wharf.pushed";
/// How many missing blobs an error names.
const SHOWN: usize = 32;

/// What came of a manifest that was taken in.
struct Taken {
    subject: Option<Descriptor>,
    /// How many of its blobs are not there.
    missing: usize,
}

impl Registry {
    pub(super) async fn put_manifest(
        &self,
        push: Push,
        host: Host,
        head: &Parts,
        body: &mut RequestBody,
    ) -> Result<Reply, Refusal> {
        let declared = match head.headers.get(header::CONTENT_TYPE) {
            None => None,
            Some(value) => match value.to_str().ok().and_then(sniff::content_type) {
                None => {
                    return Err(Refusal::bad(Code::ManifestInvalid, "the Content-Type is not a media type"));
                }
                declared => declared,
            },
        };
        let whole = body.whole(self.options().max_manifest_len, &self.inner.room).await?;
        if whole.bytes.is_empty() {
            return Err(Refusal::bad(Code::ManifestInvalid, "the manifest is empty"));
        }
        let digest = verified_digest(push.digest.as_ref(), &whole.bytes)?;
        let media_type = self.agreed_type(declared, &whole.bytes)?;
        let descriptor = Descriptor::new(media_type, digest, whole.bytes.len() as u64);
        // To its end, also where the client does not wait for that: nothing is left half done.
        // So many at a time, whether their clients are still there or not.
        let place = Arc::clone(&self.inner.pushes).acquire_owned();
        let place = tokio::time::timeout(self.options().body_timeout, place).await;
        let place = place.map_err(|_| Refusal::busy("the registry is busy with other manifests"))?;
        let (registry, headers) = (self.clone(), head.headers.clone());
        let taken = task::spawn(async move {
            let _place = place;
            registry.take_whole(push, host, headers, descriptor, whole).await
        });
        taken.await.map_err(|error| Error::internal("a push ended early").with_source(error))?
    }

    /// Takes in a manifest of which every byte is there, and says so.
    async fn take_whole(
        &self,
        push: Push,
        host: Host,
        headers: HeaderMap,
        descriptor: Descriptor,
        whole: Whole,
    ) -> Result<Reply, Refusal> {
        // What is found to be there stays until the manifest holds it, and the manifest until the tags hold that.
        let leased = LeasedStore::hold_while_at_work(Arc::clone(&self.inner.store)).await?;
        let taken = self.take_in(&leased, &push, &host, &headers, &descriptor, &whole.bytes).await;
        let released = leased.release().await;
        let taken = taken?;
        released?;

        let location = format!("/v2/{}/manifests/{}", push.repository.as_str(), descriptor.digest);
        let mut reply =
            Reply::new(StatusCode::CREATED).with(header::LOCATION, &location).with_digest(&descriptor.digest);
        if let Some(subject) = &taken.subject {
            reply = reply.with(OCI_SUBJECT, subject.digest.as_str());
        }
        if taken.missing > 0 {
            let warning = format!("299 - \"{}\"", incomplete(taken.missing));
            reply = reply.with(header::WARNING, &warning);
        }
        for tag in push.tags.iter().filter(|_| push.by_parameter) {
            reply = reply.with_another(OCI_TAG, tag.as_str());
        }
        Ok(reply)
    }

    /// Checks, commits and tags a manifest.
    async fn take_in(
        &self,
        leased: &LeasedStore,
        push: &Push,
        host: &Host,
        headers: &HeaderMap,
        descriptor: &Descriptor,
        bytes: &Bytes,
    ) -> Result<Taken, Refusal> {
        let is_conditional = is_conditional(headers);
        if is_conditional {
            self.check_condition(push, host, headers).await?;
        }
        let (decoded, missing) = self.decode_pushed(leased, descriptor, bytes).await?;
        let mut tagging = None;
        if is_conditional || !push.tags.is_empty() {
            tagging = Some(self.inner.tagging.lock().await);
        }
        if is_conditional {
            // Reading it may have taken long. From here on nobody else changes what the condition is about.
            self.check_condition(push, host, headers).await?;
        }
        keep(leased, descriptor, bytes.clone(), labels(descriptor, &decoded)).await?;
        if push.tags.is_empty() {
            // Nothing holds it yet but what will list or tag it.
            self.inner.keeper.hold(self.store(), Resource::Content(descriptor.digest.clone())).await?;
        }
        self.restore(&push.repository, &descriptor.digest).await?;
        for child in &decoded.children {
            match self.restore(&push.repository, &child.descriptor.digest).await {
                // Not everything that a manifest names need be there.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                restored => restored?,
            }
        }
        let (repository, shown) = (push.repository.pushed(host), deleted_field(&push.repository));
        for tag in &push.tags {
            let name = format!("{repository}:{}", tag.as_str());
            let image = Image::new(name, descriptor.clone());
            let labels = Labels::from([(LABEL_PUSHED.to_owned(), mark_of(&image))]);
            let image = image.with_labels(labels);
            retarget(self.images(), image, Some(&shown)).await?;
        }
        drop(tagging);
        Ok(Taken { subject: decoded.subject, missing })
    }

    /// Refuses a push whose condition is not met now.
    async fn check_condition(&self, push: &Push, host: &Host, headers: &HeaderMap) -> Result<(), Refusal> {
        condition::check(headers, self.standing(push, host).await?.as_ref())
    }

    /// What is there now under the name that a push is for.
    async fn standing(&self, push: &Push, host: &Host) -> Result<Option<Digest>, Refusal> {
        match (&push.digest, &push.tags[..]) {
            (_, [tag]) if !push.by_parameter => {
                Ok(self.find(&push.repository, host, tag).await?.map(|image| image.target.digest))
            }
            (Some(digest), _) => {
                match self.present(&push.repository, digest, Refusal::manifest_unknown).await {
                    Err(refusal) if refusal.is_missing() => Ok(None),
                    present => present.map(|_| Some(digest.clone())),
                }
            }
            (None, _) => Ok(None),
        }
    }

    /// The type of a manifest: what the request says, which must be what the document says of itself. Repositories share what is in the
    /// store, and what a manifest is made of is held by what its type tells, so that nobody may call one something else.
    fn agreed_type(&self, declared: Option<&str>, bytes: &[u8]) -> Result<String, Refusal> {
        let Some(declared) = declared else {
            return sniff::document(bytes)
                .ok_or_else(|| Refusal::bad(Code::ManifestInvalid, "the request has no Content-Type"));
        };
        let found = match sniff::own_type(bytes) {
            // In the document's spelling: decoders know no other.
            Some(own) if own.eq_ignore_ascii_case(declared) => return Ok(own),
            // Signed or not is what the request alone says.
            Some(own) if is_schema1(&own) && is_schema1(declared) => None,
            Some(own) => Some(own),
            // Nobody knows the type, but what it is made of can be seen.
            None if self.options().catalogue.find::<ManifestDecoders>(declared)?.is_none() => {
                sniff::document(bytes)
            }
            None => None,
        };
        match found {
            None => Ok(declared.to_owned()),
            Some(found) => Err(Refusal::bad(
                Code::ManifestInvalid,
                format!("the Content-Type is {declared}, and the manifest is {found}"),
            )),
        }
    }

    /// Reads a manifest and counts its parts that are not there. A type that nobody decodes has no parts.
    async fn decode_pushed(
        &self,
        leased: &LeasedStore,
        descriptor: &Descriptor,
        bytes: &Bytes,
    ) -> Result<(Decoded, usize), Refusal> {
        let Some(decoder) = self.options().catalogue.find::<ManifestDecoders>(&descriptor.media_type)? else {
            return Ok((Decoded::default(), 0));
        };
        if !decoder.kind().is_manifest() {
            let message = format!("{} is the type of a blob and not of a manifest", descriptor.media_type);
            return Err(Refusal::bad(Code::ManifestInvalid, message));
        }
        let decoded = if decoder.blocks() {
            let (decoder, descriptor, bytes) = (Arc::clone(&decoder), descriptor.clone(), bytes.clone());
            blocking::run(move || decoder.decode(&descriptor, &bytes)).await
        } else {
            decoder.decode(descriptor, bytes)
        };
        let decoded = decoded.map_err(|error| match error.kind() {
            ErrorKind::InvalidArgument => Refusal::bad(Code::ManifestInvalid, told(decoder.as_ref(), &error)),
            ErrorKind::NotImplemented => Refusal::bad(Code::Unsupported, told(decoder.as_ref(), &error)),
            _ => Refusal::from(error),
        })?;
        if decoder.kind() != Kind::Manifest {
            return Ok((decoded, 0));
        }
        let mut missing = missing_parts(leased, &decoded).await?;
        let count = missing.len();
        if count > 0 && self.options().complete_manifests {
            missing.truncate(SHOWN);
            return Err(Refusal::missing(Code::ManifestBlobUnknown, incomplete(count))
                .with_detail(json!({ "digests": missing })));
        }
        Ok((decoded, count))
    }
}

/// What a client is told of a decoder's error. Of one that is a program the client learns the reason, and not where the program is.
fn told(decoder: &dyn ManifestDecoder, error: &Error) -> String {
    if !decoder.blocks() {
        return error.report();
    }
    tracing::debug!(error = %error.report(), "a decoder refuses a manifest");
    let mut reason: &dyn std::error::Error = error;
    while let Some(source) = reason.source() {
        reason = source;
    }
    reason.to_string()
}

fn incomplete(missing: usize) -> String {
    format!("{missing} of the blobs that the manifest names are not in the registry")
}

/// The parts of a manifest that are not there. Holds those that are.
async fn missing_parts<'a>(leased: &LeasedStore, decoded: &'a Decoded) -> Result<Vec<&'a str>, Refusal> {
    let mut seen = HashSet::new();
    let children = decoded.children.iter().map(|child| &child.descriptor);
    let parts: Vec<&Digest> = children
        .filter(|child| !media_types::is_non_distributable(&child.media_type) && seen.insert(&child.digest))
        .map(|child| &child.digest)
        .collect();
    // Held first: what is there after that cannot go.
    leased.add_all(parts.iter().copied()).await?;
    let mut missing = Vec::new();
    for part in parts {
        if !reading::exists(leased, part).await? {
            missing.push(part.as_str());
        }
    }
    Ok(missing)
}

/// Commits a manifest with its labels.
async fn keep(store: &dyn Store, descriptor: &Descriptor, bytes: Bytes, labels: Labels) -> Result<(), Error> {
    let ingest = format!("manifest-{}", descriptor.digest);
    let options = CommitOptions::default().with_labels(labels.clone());
    write_blob(store, &ingest, descriptor, bytes, options).await?;
    // It may have been there before.
    label(store, &descriptor.digest, &labels).await
}

/// Labels a manifest that is there. Labels that it has already stay unless these say otherwise.
pub(super) async fn label(store: &dyn Store, digest: &Digest, labels: &Labels) -> Result<(), Error> {
    let present = store.info(digest).await?.labels;
    let changed = labels.iter().filter(|(key, value)| present.get(*key) != Some(value));
    let paths: Vec<String> = changed.map(|(key, _)| format!("labels.{key}")).collect();
    if !paths.is_empty() {
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        store.update(digest, labels, &paths).await?;
    }
    Ok(())
}

fn verified_digest(expected: Option<&Digest>, bytes: &[u8]) -> Result<Digest, Refusal> {
    let Some(expected) = expected else {
        return Ok(Digest::sha256(bytes));
    };
    let found = expected.algorithm().digest(bytes);
    if found != *expected {
        let message = format!("the manifest is {found} and not {expected}");
        return Err(Refusal::bad(Code::DigestInvalid, message));
    }
    Ok(found)
}

/// What is written beside a manifest: its type, what it is about, and its children, which hold them against collection.
pub(super) fn labels(descriptor: &Descriptor, decoded: &Decoded) -> Labels {
    let children: Vec<Descriptor> = decoded.children.iter().map(|child| child.descriptor.clone()).collect();
    let mut labels = child_labels(&children);
    labels.insert(LABEL_MEDIA_TYPE.to_owned(), descriptor.media_type.clone());
    if let Some(subject) = &decoded.subject {
        labels.insert(LABEL_SUBJECT.to_owned(), subject.digest.to_string());
        // Kept for as long as what it is about.
        labels.insert(format!("{GC_PREFIX}bref.content.subject"), subject.digest.to_string());
    }
    labels
}

/// Points a record at a new target, whether there was one or not. Labels of one that was stay unless this one has them too, or `cleared` is the
/// path of one.
pub(super) async fn retarget(
    images: &dyn ImageStore,
    image: Image,
    cleared: Option<&str>,
) -> Result<Image, Error> {
    let labels: Vec<String> = image.labels.keys().map(|key| format!("labels.{key}")).collect();
    let changed = iter::once("target").chain(cleared).chain(labels.iter().map(String::as_str));
    let changed: Vec<&str> = changed.collect();
    match images.update(image.clone(), &changed).await {
        Err(error) if error.kind() == ErrorKind::NotFound => record::put(images, image).await,
        outcome => outcome,
    }
}
