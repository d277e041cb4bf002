//! Replies: what a handler answers when it fulfils a request.
//!
//! A reply says how long its body is, always: nothing is sent in chunks of unknown number.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use serde_json::Value;
use wharf_content::{BlobReader, Digest};

use super::{body::Content, condition::is_known};

/// The digest of what an answer is about ("Pulling manifests").
pub(super) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// A response under construction.
pub(super) struct Reply(Response<Content>);

impl Reply {
    /// Nothing but a status and headers.
    pub(super) fn new(status: StatusCode) -> Self {
        let mut response = Response::new(Content::Empty);
        *response.status_mut() = status;
        if status != StatusCode::NO_CONTENT {
            response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(0));
        }
        Self(response)
    }

    /// A document (200).
    pub(super) fn json(document: &Value) -> Self {
        Self::new(StatusCode::OK)
            .with_bytes(document.to_string().into_bytes().into())
            .with_value(header::CONTENT_TYPE, JSON)
    }

    pub(super) fn with_status(mut self, status: StatusCode) -> Self {
        *self.0.status_mut() = status;
        self
    }

    /// Sets a header. What cannot stand in one is left out.
    pub(super) fn with(self, name: HeaderName, value: &str) -> Self {
        match HeaderValue::from_str(value) {
            Ok(value) => self.with_value(name, value),
            Err(_) => self,
        }
    }

    pub(super) fn with_value(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.headers_mut().insert(name, value);
        self
    }

    /// Adds a header that may stand several times.
    pub(super) fn with_another(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.0.headers_mut().append(name, value);
        }
        self
    }

    pub(super) fn with_digest(self, digest: &Digest) -> Self {
        self.with(CONTENT_DIGEST, digest.as_str())
    }

    pub(super) fn with_bytes(self, bytes: bytes::Bytes) -> Self {
        let len = bytes.len() as u64;
        self.with_content(Content::Whole(bytes), len)
    }

    /// A part of a blob.
    pub(super) fn with_blob(self, reader: Arc<dyn BlobReader>, offset: u64, len: u64) -> Self {
        self.with_content(Content::of_blob(reader, offset, len), len)
    }

    fn with_content(mut self, content: Content, len: u64) -> Self {
        *self.0.body_mut() = content;
        self.with_value(header::CONTENT_LENGTH, HeaderValue::from(len))
    }

    /// Leaves out what the client has already, which it says by the entity tag (304; RFC 9110, 13.1.2).
    pub(super) fn unless_known(mut self, request: &HeaderMap) -> Self {
        let headers = self.0.headers_mut();
        if headers.get(header::ETAG).is_some_and(|etag| is_known(request, etag.as_bytes())) {
            for name in [header::CONTENT_LENGTH, header::CONTENT_RANGE, header::CONTENT_TYPE] {
                headers.remove(name);
            }
            *self.0.status_mut() = StatusCode::NOT_MODIFIED;
            *self.0.body_mut() = Content::Empty;
        }
        self
    }

    pub(super) fn into_response(self) -> Response<Content> {
        self.0
    }
}
