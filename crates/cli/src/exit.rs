//! From an error to what the user sees and the exit code.

use std::{io, process::ExitCode};

use serde_json::json;
use wharf_content::{Error, ErrorKind};
use wharf_remotes::RemoteError;

use crate::{args::Format, output::escape};

/// Exit codes, which scripts rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    Other = 1,
    NotFound = 2,
    Usage = 3,
    Denied = 4,
    Mismatch = 5,
    Network = 6,
    Local = 8,
    Interrupted = 130,
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        Self::from(code as u8)
    }
}

/// What the error means to a script: first where it came from, then its kind.
pub(crate) fn code(error: &Error) -> Code {
    let kind = error.kind();
    if RemoteError::of(error).is_some() {
        return match kind {
            ErrorKind::NotFound => Code::NotFound,
            ErrorKind::Unauthenticated | ErrorKind::PermissionDenied => Code::Denied,
            ErrorKind::FailedPrecondition => Code::Mismatch,
            ErrorKind::Unavailable | ErrorKind::ResourceExhausted => Code::Network,
            _ => Code::Other,
        };
    }
    if error.find_source::<io::Error>().is_some() {
        return Code::Local;
    }
    match kind {
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::InvalidArgument => Code::Usage,
        ErrorKind::Unauthenticated | ErrorKind::PermissionDenied => Code::Denied,
        ErrorKind::FailedPrecondition | ErrorKind::DataLoss => Code::Mismatch,
        ErrorKind::Unavailable => Code::Network,
        ErrorKind::Aborted => Code::Interrupted,
        _ => Code::Other,
    }
}

/// What can be done, where there is something.
fn hint(error: &Error) -> Option<&'static str> {
    if let Some(remote) = RemoteError::of(error) {
        if remote.is_tls && remote.message.as_ref().is_some_and(|message| message.contains("corrupt message"))
        {
            return Some("the registry seems to speak plain HTTP: try --plain-http");
        }
        if remote.is_tls {
            return Some(
                "trust its certificate with --ca-file FILE, or accept any with --insecure-skip-verify",
            );
        }
        return match (remote.status, error.kind()) {
            (Some(401 | 403), _) => Some("the image is private, or there is none of that name"),
            (Some(400), _) => Some("if the registry speaks HTTPS only, leave out --plain-http"),
            (Some(404), _) => Some("check the name and the tag"),
            (Some(429), _) => {
                Some("the registry limits requests: wait, or raise --retry-times and --retry-delay")
            }
            (None, ErrorKind::Unavailable) => Some(
                "check the host, the port and the network; what was fetched is kept, and pulling again goes on there",
            ),
            _ => None,
        };
    }
    match (code(error), error.kind()) {
        (Code::Local, ErrorKind::ResourceExhausted) => {
            Some("make room; images of the store are intact, and the same command goes on where it was")
        }
        (Code::Local, ErrorKind::PermissionDenied) => {
            Some("choose another place with --root DIR or WHARF_ROOT, or change its permissions")
        }
        (Code::NotFound, _) if error.to_string().starts_with("no match for platform") => {
            Some("choose one of those with --platform, or take them all with --all-platforms")
        }
        (Code::Mismatch, _) if error.report().contains(" is damaged: ") => {
            Some("`wharf verify --repair` moves damaged content away and fetches it again")
        }
        (Code::NotFound, _) if error.to_string().starts_with("there is no image") => {
            Some("`wharf images ls` lists the images, `wharf pull` fetches one")
        }
        _ => None,
    }
}

/// Prints the error, and says with which code to exit.
#[expect(clippy::print_stderr, reason = "this is where errors are printed")]
pub(crate) fn report(error: &Error, format: Format) -> Code {
    let code = code(error);
    let report = error.report();
    let message = escape(&report);
    match format {
        Format::Text => {
            eprintln!("error[{}]: {message}", error.kind());
            if let Some(hint) = hint(error) {
                eprintln!("hint: {hint}");
            }
        }
        Format::Json => {
            let object = json!({
                "error": { "kind": error.kind().as_str(), "message": message, "hint": hint(error), "exit": code as u8 }
            });
            eprintln!("{object}");
        }
    }
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_follow_the_origin_and_the_kind() {
        let remote = |status| RemoteError::new("h", "GET x").with_status(status).into_error("x");
        let os = |number| Error::io("x", io::Error::from_raw_os_error(number));
        for (error, expected) in [
            (remote(404), Code::NotFound),
            (remote(401), Code::Denied),
            (remote(403), Code::Denied),
            (remote(429), Code::Network),
            (remote(503), Code::Network),
            (RemoteError::new("h", "GET x").with_retryable().into_error("x"), Code::Network),
            (os(28), Code::Local),
            (os(13), Code::Local),
            (os(5), Code::Local),
            (os(2), Code::Local),
            (Error::invalid_argument("x"), Code::Usage),
            (Error::not_found("x"), Code::NotFound),
            (Error::failed_precondition("x"), Code::Mismatch),
            (Error::data_loss("x").context("y"), Code::Mismatch),
            (Error::conflict("x"), Code::Other),
        ] {
            assert_eq!(code(&error), expected, "{error:?}");
        }
    }
}
