//! Refusals: the errors of the specification ("Error Codes") and how errors of the store become some.
//!
//! A refusal never tells what the store said: that goes to the log, as it may name paths.

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};
use wharf_content::{DigestError, Error, ErrorKind};

use super::{body::Content, reply::Reply};

/// The codes of the specification, and the two that registries have long used for trouble of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    BlobUnknown,
    BlobUploadInvalid,
    BlobUploadUnknown,
    Denied,
    DigestInvalid,
    ManifestBlobUnknown,
    ManifestInvalid,
    ManifestUnknown,
    NameInvalid,
    NameUnknown,
    SizeInvalid,
    TooManyRequests,
    Unauthorized,
    Unavailable,
    Unknown,
    Unsupported,
}

impl Code {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::BlobUnknown => "BLOB_UNKNOWN",
            Self::BlobUploadInvalid => "BLOB_UPLOAD_INVALID",
            Self::BlobUploadUnknown => "BLOB_UPLOAD_UNKNOWN",
            Self::Denied => "DENIED",
            Self::DigestInvalid => "DIGEST_INVALID",
            Self::ManifestBlobUnknown => "MANIFEST_BLOB_UNKNOWN",
            Self::ManifestInvalid => "MANIFEST_INVALID",
            Self::ManifestUnknown => "MANIFEST_UNKNOWN",
            Self::NameInvalid => "NAME_INVALID",
            Self::NameUnknown => "NAME_UNKNOWN",
            Self::SizeInvalid => "SIZE_INVALID",
            Self::TooManyRequests => "TOOMANYREQUESTS",
            Self::Unauthorized => "UNAUTHORIZED",
            Self::Unavailable => "UNAVAILABLE",
            Self::Unknown => "UNKNOWN",
            Self::Unsupported => "UNSUPPORTED",
        }
    }
}

/// A request that is not fulfilled, and what the client is told.
#[derive(Debug)]
pub(super) struct Refusal(Box<Told>);

#[derive(Debug)]
struct Told {
    status: StatusCode,
    code: Code,
    message: String,
    detail: Option<Value>,
    headers: HeaderMap,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, code: Code, message: impl Into<String>) -> Self {
        let message = message.into();
        Self(Box::new(Told { status, code, message, detail: None, headers: HeaderMap::new() }))
    }

    /// A mistake of the client (400).
    pub(super) fn bad(code: Code, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    /// Something that is not there (404).
    pub(super) fn missing(code: Code, message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, message)
    }

    /// Something that this client may not do (403).
    pub(super) fn denied(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, Code::Denied, message)
    }

    /// More bytes than are taken (413).
    pub(super) fn too_large(message: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, Code::SizeInvalid, message)
    }

    /// Busy for the moment (503).
    pub(super) fn busy(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable, message)
            .with_header(header::RETRY_AFTER, "1")
    }

    /// A change of what can only be read here (405).
    pub(super) fn not_allowed(message: impl Into<String>) -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, Code::Unsupported, message)
            .with_header(header::ALLOW, "GET, HEAD")
    }

    /// A method that an endpoint does not have (405).
    pub(super) fn method(allowed: &str) -> Self {
        let message = format!("the endpoint does not have this method: it has {allowed}");
        Self::new(StatusCode::METHOD_NOT_ALLOWED, Code::Unsupported, message)
            .with_header(header::ALLOW, allowed)
    }

    pub(super) fn manifest_unknown() -> Self {
        Self::missing(Code::ManifestUnknown, "the manifest is not known to the registry")
    }

    pub(super) fn blob_unknown() -> Self {
        Self::missing(Code::BlobUnknown, "the blob is not known to the registry")
    }

    pub(super) fn upload_unknown() -> Self {
        Self::missing(Code::BlobUploadUnknown, "the upload is not known to the registry")
    }

    /// Whether it says that something is not there.
    pub(super) fn is_missing(&self) -> bool {
        self.0.status == StatusCode::NOT_FOUND
    }

    /// Whether the store had no room for what was sent.
    pub(super) fn is_for_want_of_room(&self) -> bool {
        self.0.status == StatusCode::INSUFFICIENT_STORAGE
    }

    pub(super) fn with_detail(mut self, detail: Value) -> Self {
        self.0.detail = Some(detail);
        self
    }

    pub(super) fn with_header(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.0.headers.insert(name, value);
        }
        self
    }

    #[cfg(test)]
    pub(super) fn parts(&self) -> (u16, Code) {
        (self.0.status.as_u16(), self.0.code)
    }

    pub(super) fn into_response(self) -> Response<Content> {
        let Told { status, code, message, detail, headers } = *self.0;
        let mut error = json!({ "code": code.as_str(), "message": message });
        if let Some(detail) = detail {
            error["detail"] = detail;
        }
        let mut response = Reply::json(&json!({ "errors": [error] })).with_status(status).into_response();
        response.headers_mut().extend(headers);
        response
    }
}

impl From<DigestError> for Refusal {
    fn from(error: DigestError) -> Self {
        Self::bad(Code::DigestInvalid, error.to_string())
    }
}

/// Whether there was no room for what was to be written.
pub(super) fn is_full(error: &Error) -> bool {
    use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    error
        .find_source::<std::io::Error>()
        .is_some_and(|error| matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge))
}

/// Errors of the store that no handler expected.
impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::from(&error)
    }
}

impl From<&Error> for Refusal {
    fn from(error: &Error) -> Self {
        tracing::warn!(error = %error.report(), "the store failed a request");
        match error.kind() {
            ErrorKind::Unavailable => Self::busy("the store is busy"),
            ErrorKind::ResourceExhausted if is_full(error) => {
                Self::new(StatusCode::INSUFFICIENT_STORAGE, Code::Unavailable, "the store is full")
            }
            ErrorKind::ResourceExhausted => Self::busy("the registry has reached a limit"),
            _ => Self::new(StatusCode::INTERNAL_SERVER_ERROR, Code::Unknown, "the store failed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_store_tell_nothing() {
        let io = |kind: std::io::ErrorKind| Error::io("cannot write /secret/path", kind.into());
        for (error, status) in [
            (Error::unavailable("/secret/path"), 503),
            (io(std::io::ErrorKind::StorageFull), 507),
            (io(std::io::ErrorKind::PermissionDenied), 500),
            (Error::io("open /secret/path", std::io::Error::from_raw_os_error(24)), 503),
            (Error::data_loss("/secret/path"), 500),
        ] {
            let refusal = Refusal::from(error);
            assert_eq!(refusal.parts().0, status);
            assert!(!refusal.0.message.contains("secret"), "{refusal:?}");
        }
    }
}
