//! What clients are told when the upstream does not give what it should.
//!
//! They are told what it means for them. What the upstream said goes to the log: it may name hosts and users that are no client's business.

use http::{StatusCode, header};
use wharf_content::{Error, ErrorKind};

use super::Upstream;
use crate::{
    error::RemoteError,
    server::refusal::{Code, Refusal},
};

/// Whether an error says nothing of the content itself, so that what the store has of it may still be right.
pub(super) fn may_pass(error: &Error) -> bool {
    !matches!(
        error.kind(),
        ErrorKind::NotFound
            | ErrorKind::Unauthenticated
            | ErrorKind::PermissionDenied
            | ErrorKind::NotImplemented
    )
}

/// Whether the upstream did not answer, or wants to be left alone, so that what the store knows has to do for what it would say.
pub(super) fn is_silent(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Aborted)
        || RemoteError::of(error).is_some_and(|error| error.status == Some(429))
}

/// The refusal for an error of a fetch; `unknown` is the one for content that is not there.
pub(super) fn refusal(upstream: &Upstream, error: &Error, unknown: fn() -> Refusal) -> Refusal {
    let status = RemoteError::of(error).and_then(|error| error.status);
    if error.kind() != ErrorKind::NotFound {
        tracing::warn!(%upstream, error = %error.report(), "the upstream did not give what it was asked for");
    }
    let gateway = |code, message: String| Refusal::new(StatusCode::BAD_GATEWAY, code, message);
    let failed = |what| gateway(Code::Unavailable, format!("the upstream {upstream} {what}"));
    match (error.kind(), status) {
        (ErrorKind::NotFound, _) => unknown(),
        (ErrorKind::Unauthenticated | ErrorKind::PermissionDenied, _) => {
            Refusal::denied(format!("the upstream {upstream} does not let this registry have it"))
        }
        (_, Some(429)) => {
            let message = format!("the upstream {upstream} wants to be asked less often");
            let refusal = Refusal::new(StatusCode::TOO_MANY_REQUESTS, Code::TooManyRequests, message);
            match RemoteError::of(error).and_then(RemoteError::retry_after) {
                Some(wait) => refusal.with_header(header::RETRY_AFTER, &wait.as_secs().max(1).to_string()),
                None => refusal,
            }
        }
        // Told on as it is: nobody is to try it again.
        (_, Some(508)) => Refusal::new(
            StatusCode::LOOP_DETECTED,
            Code::Unsupported,
            format!("the upstream {upstream} leads back to itself"),
        ),
        (ErrorKind::NotImplemented, _) => gateway(
            Code::Unsupported,
            format!("what the upstream {upstream} has is nothing that is kept here"),
        ),
        (_, Some(_)) => failed("did not answer as it should"),
        (ErrorKind::FailedPrecondition | ErrorKind::InvalidArgument, None) => {
            failed("gave something else than it should")
        }
        (ErrorKind::Unavailable | ErrorKind::Aborted, None) => failed("cannot be reached, or broke off"),
        _ => Refusal::from(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_told_what_it_means_for_them() {
        let upstream = Upstream::parse("https://registry.example").expect("a URL");
        let answered =
            |status| RemoteError::new("canary", "GET canary").with_status(status).into_error("canary");
        for (error, status, code, passes, is_alone) in [
            (Error::not_found("canary"), 404, Code::BlobUnknown, false, false),
            (answered(404), 404, Code::BlobUnknown, false, false),
            (answered(401), 403, Code::Denied, false, false),
            (answered(403), 403, Code::Denied, false, false),
            (answered(429), 429, Code::TooManyRequests, true, true),
            (answered(500), 502, Code::Unavailable, true, true),
            (answered(503), 502, Code::Unavailable, true, true),
            (answered(508), 508, Code::Unsupported, true, true),
            (answered(418), 502, Code::Unavailable, true, false),
            (RemoteError::new("canary", "GET").into_error("canary"), 502, Code::Unavailable, true, true),
            (Error::failed_precondition("canary"), 502, Code::Unavailable, true, false),
            (Error::not_implemented("canary"), 502, Code::Unsupported, false, false),
            (
                Error::io("canary", std::io::ErrorKind::StorageFull.into()),
                507,
                Code::Unavailable,
                true,
                false,
            ),
            (Error::internal("canary"), 500, Code::Unknown, true, false),
        ] {
            let refusal = refusal(&upstream, &error, Refusal::blob_unknown);
            assert_eq!((refusal.parts(), may_pass(&error)), ((status, code), passes), "{error:?}");
            assert_eq!(is_silent(&error), is_alone, "{error:?}");
            assert!(!format!("{refusal:?}").contains("canary"), "{refusal:?}");
        }
    }
}
