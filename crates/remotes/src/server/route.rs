//! From a method, a path and a query to a [`Call`]: pure, and the only place that reads URLs.
//!
//! A path is split at its slashes first and decoded afterwards, so that an encoded slash or dot is a character of a name, where the
//! grammar refuses it. Of a URL nothing is kept but checked names, digests and numbers.

use std::borrow::Cow;

use http::Method;
use percent_encoding::percent_decode_str;
use wharf_content::{Algorithm, Digest, DigestError};

use super::{
    names::{Repository, Tag, UploadId},
    refusal::{Code, Refusal},
};

/// What a client wants ("Endpoints").
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Call {
    Version,
    Metrics,
    ReadManifest { repository: Repository, reference: Reference },
    PutManifest(Push),
    DeleteManifest { repository: Repository, reference: Reference },
    ReadBlob { repository: Repository, digest: Digest },
    DeleteBlob { repository: Repository, digest: Digest },
    StartUpload { repository: Repository, start: Start },
    UploadStatus { upload: Upload },
    AppendUpload { upload: Upload },
    FinishUpload { upload: Upload, digest: Digest },
    CancelUpload { upload: Upload },
    ListRepositories { page: Page },
    ListTags { repository: Repository, page: Page },
    ListReferrers { repository: Repository, subject: Digest, filter: Option<String>, last: Option<Digest> },
}

impl Call {
    /// Which of the registry's endpoints it is, for counting.
    pub(super) fn endpoint(&self) -> &'static str {
        match self {
            Self::Version => "version",
            Self::Metrics => "metrics",
            Self::ReadManifest { .. } | Self::PutManifest(_) | Self::DeleteManifest { .. } => "manifests",
            Self::ReadBlob { .. } | Self::DeleteBlob { .. } => "blobs",
            Self::StartUpload { .. }
            | Self::UploadStatus { .. }
            | Self::AppendUpload { .. }
            | Self::FinishUpload { .. }
            | Self::CancelUpload { .. } => "uploads",
            Self::ListRepositories { .. } => "catalog",
            Self::ListTags { .. } => "tags",
            Self::ListReferrers { .. } => "referrers",
        }
    }

    /// Whether it may change the store.
    pub(super) fn writes(&self) -> bool {
        match self {
            Self::PutManifest(_)
            | Self::DeleteManifest { .. }
            | Self::DeleteBlob { .. }
            | Self::StartUpload { .. }
            | Self::AppendUpload { .. }
            | Self::FinishUpload { .. }
            | Self::CancelUpload { .. } => true,
            Self::Version
            | Self::Metrics
            | Self::ReadManifest { .. }
            | Self::ReadBlob { .. }
            | Self::UploadStatus { .. }
            | Self::ListRepositories { .. }
            | Self::ListTags { .. }
            | Self::ListReferrers { .. } => false,
        }
    }
}

/// By what a manifest is called.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reference {
    Tag(Tag),
    Digest(Digest),
}

/// A manifest that is pushed: what its bytes must hash to, if the client says so, and the tags that are to point at it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Push {
    pub(super) repository: Repository,
    pub(super) digest: Option<Digest>,
    pub(super) tags: Vec<Tag>,
    /// The tags came as parameters, so that the answer names those that were made.
    pub(super) by_parameter: bool,
}

/// How an upload begins.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// The bytes come later, and their digest is to be one of this algorithm, or of another after all.
    Empty(Algorithm),
    /// The bytes are in this request and hash to this.
    Whole(Digest),
    /// The bytes may be here already.
    Mount(Digest),
}

impl Start {
    /// The algorithm of the digest that the bytes will have, as far as it is known.
    pub(super) fn algorithm(&self) -> Algorithm {
        match self {
            Self::Empty(algorithm) => *algorithm,
            Self::Whole(digest) | Self::Mount(digest) => digest.algorithm(),
        }
    }
}

/// An upload in its repository.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Upload {
    pub(super) repository: Repository,
    pub(super) id: UploadId,
}

impl Upload {
    /// The name of its ingest in the store.
    pub(super) fn ingest(&self) -> String {
        self.id.ingest(&self.repository)
    }
}

/// A part of a sorted list: so many after that one.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) limit: Option<usize>,
    pub(super) last: Option<String>,
}

/// The most tags that one push may name.
const MAX_TAGS: usize = 64;

/// Reads a request line.
pub(super) fn parse(method: &Method, path: &str, query: Option<&str>) -> Result<Call, Refusal> {
    if path == "/metrics" {
        return allow(method, &[Method::GET, Method::HEAD]).map(|()| Call::Metrics);
    }
    let segments = segments(path)?;
    let segments: Vec<&str> = segments.iter().map(AsRef::as_ref).collect();
    let query = Query::parse(query.unwrap_or_default());
    let Some(["v2", rest @ ..]) = segments.split_first().map(|(_, rest)| rest) else {
        return Err(unknown());
    };
    match rest {
        [] | [""] => allow(method, &[Method::GET, Method::HEAD]).map(|()| Call::Version),
        ["_catalog"] => {
            allow(method, &[Method::GET, Method::HEAD])?;
            Ok(Call::ListRepositories { page: query.page()? })
        }
        [name @ .., "tags", "list"] => {
            let repository = repository(name)?;
            allow(method, &[Method::GET, Method::HEAD])?;
            Ok(Call::ListTags { repository, page: query.page()? })
        }
        [name @ .., "blobs", "uploads"] | [name @ .., "blobs", "uploads", ""] => {
            let repository = repository(name)?;
            allow(method, &[Method::POST])?;
            Ok(Call::StartUpload { repository, start: query.start()? })
        }
        [name @ .., "blobs", "uploads", id] => upload(method, repository(name)?, id, &query),
        [name @ .., "manifests", reference] => manifest(method, repository(name)?, reference, &query),
        [name @ .., "blobs", digest] => {
            let repository = repository(name)?;
            allow(method, &[Method::GET, Method::HEAD, Method::DELETE])?;
            let digest = digest.parse()?;
            match *method {
                Method::DELETE => Ok(Call::DeleteBlob { repository, digest }),
                _ => Ok(Call::ReadBlob { repository, digest }),
            }
        }
        [name @ .., "referrers", digest] => {
            let repository = repository(name)?;
            allow(method, &[Method::GET, Method::HEAD])?;
            let filter = query.one("artifactType").map(str::to_owned);
            let last = query.one("last").map(str::parse).transpose()?;
            Ok(Call::ListReferrers { repository, subject: digest.parse()?, filter, last })
        }
        _ => Err(unknown()),
    }
}

/// The registry whose content a client wants, where it says so: containerd tells it to mirrors.
pub(super) fn namespace(query: Option<&str>) -> Option<String> {
    Query::parse(query?).one("ns").map(str::to_owned)
}

fn upload(method: &Method, repository: Repository, id: &str, query: &Query<'_>) -> Result<Call, Refusal> {
    allow(method, &[Method::GET, Method::PATCH, Method::PUT, Method::DELETE])?;
    let id = UploadId::parse(id).ok_or_else(Refusal::upload_unknown)?;
    let upload = Upload { repository, id };
    match *method {
        Method::PATCH => Ok(Call::AppendUpload { upload }),
        Method::PUT => match query.digest("digest")? {
            Some(digest) => Ok(Call::FinishUpload { upload, digest }),
            None => Err(Refusal::bad(Code::DigestInvalid, "an upload ends with the parameter digest")),
        },
        Method::DELETE => Ok(Call::CancelUpload { upload }),
        _ => Ok(Call::UploadStatus { upload }),
    }
}

fn manifest(
    method: &Method,
    repository: Repository,
    reference: &str,
    query: &Query<'_>,
) -> Result<Call, Refusal> {
    allow(method, &[Method::GET, Method::HEAD, Method::PUT, Method::DELETE])?;
    let reference = if reference.contains(':') {
        Reference::Digest(reference.parse()?)
    } else {
        match Tag::parse(reference) {
            Some(tag) => Reference::Tag(tag),
            // It cannot be there. Only who wants to make it is told why.
            None if method != Method::PUT => return Err(Refusal::manifest_unknown()),
            None => {
                return Err(Refusal::bad(
                    Code::ManifestInvalid,
                    "what the manifest is to be called is no tag",
                ));
            }
        }
    };
    match *method {
        Method::PUT => {}
        Method::DELETE => return Ok(Call::DeleteManifest { repository, reference }),
        _ => return Ok(Call::ReadManifest { repository, reference }),
    }
    let named = query.digest("digest")?;
    let push = match reference {
        Reference::Tag(tag) => Push { repository, digest: named, tags: vec![tag], by_parameter: false },
        Reference::Digest(digest) => {
            if named.is_some_and(|named| named != digest) {
                return Err(Refusal::bad(Code::DigestInvalid, "path and parameter name different digests"));
            }
            let tags = query.tags()?;
            Push { repository, digest: Some(digest), by_parameter: !tags.is_empty(), tags }
        }
    };
    Ok(Call::PutManifest(push))
}

fn segments(path: &str) -> Result<Vec<Cow<'_, str>>, Refusal> {
    let decode = |segment| percent_decode_str(segment).decode_utf8();
    path.split('/').map(decode).collect::<Result<_, _>>().map_err(|_| name_invalid())
}

fn repository(name: &[&str]) -> Result<Repository, Refusal> {
    // A slash that was encoded is none: joined again it would be one.
    if name.iter().any(|component| component.contains('/')) {
        return Err(name_invalid());
    }
    Repository::parse(&name.join("/")).ok_or_else(name_invalid)
}

fn name_invalid() -> Refusal {
    Refusal::bad(
        Code::NameInvalid,
        "the name of a repository is components of lower-case letters and digits, with single separators, joined by slashes",
    )
}

fn unknown() -> Refusal {
    Refusal::missing(Code::Unsupported, "there is no such endpoint")
}

fn allow(method: &Method, allowed: &[Method]) -> Result<(), Refusal> {
    if allowed.contains(method) {
        return Ok(());
    }
    let names: Vec<&str> = allowed.iter().map(Method::as_str).collect();
    Err(Refusal::method(&names.join(", ")))
}

/// The parameters of a request. A plus is a plus, as in media types.
struct Query<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> Query<'a> {
    fn parse(text: &'a str) -> Self {
        let decode = |part: &'a str| percent_decode_str(part).decode_utf8_lossy();
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        Self(
            pairs
                .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
                .map(|(k, v)| (decode(k), decode(v)))
                .collect(),
        )
    }

    fn all(&self, key: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(name, _)| name == key).map(|(_, value)| value.as_ref())
    }

    /// The first value that is not empty.
    fn one(&self, key: &str) -> Option<&str> {
        self.all(key).find(|value| !value.is_empty())
    }

    fn digest(&self, key: &str) -> Result<Option<Digest>, DigestError> {
        self.all(key).next().map(str::parse).transpose()
    }

    fn start(&self) -> Result<Start, Refusal> {
        // What cannot be mounted is uploaded. Blobs are those of the store, so that it is no matter from where they are to be mounted.
        if let Some(Ok(digest)) = self.one("mount").map(str::parse) {
            return Ok(Start::Mount(digest));
        }
        if let Some(digest) = self.digest("digest")? {
            return Ok(Start::Whole(digest));
        }
        // The digest at the end says the same again; who would name one there that cannot be checked is told now.
        let named = self.one("digest-algorithm").map_or(Some(Algorithm::default()), Algorithm::from_name);
        named.map(Start::Empty).ok_or_else(|| {
            Refusal::bad(Code::DigestInvalid, "the parameter digest-algorithm is none that can be checked")
        })
    }

    fn page(&self) -> Result<Page, Refusal> {
        let limit = self.one("n").map(|n| {
            let counted = n.bytes().all(|byte| byte.is_ascii_digit());
            counted.then(|| n.parse().unwrap_or(usize::MAX))
        });
        if limit == Some(None) {
            return Err(Refusal::bad(Code::Unsupported, "the parameter n is not a number"));
        }
        Ok(Page { limit: limit.flatten(), last: self.one("last").map(str::to_owned) })
    }

    fn tags(&self) -> Result<Vec<Tag>, Refusal> {
        let mut tags = Vec::new();
        for text in self.all("tag") {
            let Some(tag) = Tag::parse(text) else {
                return Err(Refusal::bad(Code::ManifestInvalid, "a parameter tag is no tag"));
            };
            if tags.contains(&tag) {
                continue;
            }
            if tags.len() == MAX_TAGS {
                let message = format!("a push names at most {MAX_TAGS} tags");
                return Err(Refusal::new(http::StatusCode::URI_TOO_LONG, Code::Unsupported, message));
            }
            tags.push(tag);
        }
        Ok(tags)
    }
}

#[cfg(test)]
mod tests;
