//! Reading blobs, whole or in part ("Pulling blobs").
//!
//! Blobs are those of the store, whatever the repository. Their bytes were verified when they came in and are not hashed again.

use std::sync::Arc;

use http::{HeaderName, HeaderValue, StatusCode, header, request::Parts};
use wharf_content::{BlobReader, Descriptor, Digest, ErrorKind};

use super::{
    Registry,
    condition::{etag, is_known},
    media_type::OCTET_STREAM,
    names::Repository,
    range::{self, Selection},
    refusal::{Code, Refusal},
    reply::Reply,
};

const BYTES: (HeaderName, HeaderValue) = (header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));

impl Registry {
    pub(super) async fn read_blob(
        &self,
        repository: &Repository,
        digest: &Digest,
        head: &Parts,
    ) -> Result<Reply, Refusal> {
        self.present(repository, digest, Refusal::blob_unknown).await?;
        // What is there after this cannot go.
        self.hold_asked(digest, head).await?;
        // Only the digest of the descriptor is looked at.
        let descriptor = Descriptor::new(OCTET_STREAM, digest.clone(), 0);
        let reader = match self.store().reader(&descriptor).await {
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(Refusal::blob_unknown()),
            reader => reader?,
        };
        send(digest, reader, head)
    }
}

/// Answers a blob, or the part of it that a request asks for.
pub(super) fn send(digest: &Digest, reader: Arc<dyn BlobReader>, head: &Parts) -> Result<Reply, Refusal> {
    let size = reader.size();
    let etag = etag(digest);
    // A range means something to GET alone (RFC 9110, 14.2), and nothing where the blob is not sent at all (13.2.2).
    let selection = match head.method {
        http::Method::GET if !is_known(&head.headers, etag.as_bytes()) => {
            range::select(&head.headers, &etag, size)
        }
        _ => Selection::Whole,
    };
    match selection {
        Selection::Whole => Ok(described(digest, StatusCode::OK).with_blob(reader, 0, size)),
        Selection::Part { start, len } => Ok(described(digest, StatusCode::PARTIAL_CONTENT)
            .with(header::CONTENT_RANGE, &format!("bytes {start}-{}/{size}", start + len - 1))
            .with_blob(reader, start, len)),
        Selection::Unsatisfiable => Err(Refusal::new(
            StatusCode::RANGE_NOT_SATISFIABLE,
            Code::SizeInvalid,
            format!("the range is not one of a blob of {size} bytes"),
        )
        .with_header(header::CONTENT_RANGE, &format!("bytes */{size}"))),
    }
}

/// What is said of a blob in front of its bytes.
pub(super) fn described(digest: &Digest, status: StatusCode) -> Reply {
    Reply::new(status)
        .with(header::CONTENT_TYPE, OCTET_STREAM)
        .with(header::ETAG, &etag(digest))
        .with_value(BYTES.0, BYTES.1)
        .with_digest(digest)
}
