//! Conditions on what is there (RFC 9110, 13.1): what a client has already is not sent again, and what somebody else has changed meanwhile is
//! not replaced. The entity tag of content is its digest.

use http::{HeaderMap, HeaderName, StatusCode, header};
use wharf_content::Digest;

use super::refusal::{Code, Refusal};

/// The entity tag of content.
pub(super) fn etag(digest: &Digest) -> String {
    format!("\"{digest}\"")
}

/// Whether a client has already what has this entity tag (`If-None-Match`; RFC 9110, 13.1.2).
pub(super) fn is_known(request: &HeaderMap, etag: &[u8]) -> bool {
    // Compared weakly: the same content is meant.
    lists(request, &header::IF_NONE_MATCH, |tag| tag.strip_prefix(b"W/").unwrap_or(tag) == etag)
}

/// Whether a request is to do something under a condition only.
pub(super) fn is_conditional(request: &HeaderMap) -> bool {
    request.contains_key(header::IF_MATCH) || request.contains_key(header::IF_NONE_MATCH)
}

/// Refuses to replace what is not what the client takes it for (412; RFC 9110, 13.2.2); `None` where there is nothing.
pub(super) fn check(request: &HeaderMap, current: Option<&Digest>) -> Result<(), Refusal> {
    let current = current.map(etag);
    let matches = |name: &HeaderName| match &current {
        Some(current) => lists(request, name, |tag| tag == current.as_bytes()),
        None => false,
    };
    let is_met = if request.contains_key(header::IF_MATCH) {
        matches(&header::IF_MATCH)
    } else {
        !current.as_deref().is_some_and(|current| is_known(request, current.as_bytes()))
    };
    if is_met {
        return Ok(());
    }
    let message = match &current {
        Some(current) => {
            format!("what is there is {current}, which the request does not allow to be replaced")
        }
        None => "nothing is there that the request allows to be replaced".to_owned(),
    };
    Err(Refusal::new(StatusCode::PRECONDITION_FAILED, Code::Denied, message))
}

/// Whether a header lists an entity tag, or any. None of ours has a comma.
fn lists(request: &HeaderMap, name: &HeaderName, is_it: impl Fn(&[u8]) -> bool) -> bool {
    let values = request.get_all(name).iter();
    let mut tags =
        values.flat_map(|list| list.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
    tags.any(|tag| tag == b"*" || is_it(tag))
}
