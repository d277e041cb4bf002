//! The error type of wharf's libraries: what failed, what a caller can do about it, and why.
//!
//! Layers above content use this type too; it carries no type of an HTTP client or database.

use std::{error::Error as StdError, fmt, io};

/// Result of wharf's library functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Source = Box<dyn StdError + Send + Sync + 'static>;

/// What a caller can do about an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The call's own input is wrong; the same call never succeeds.
    InvalidArgument,
    /// What was asked for does not exist.
    NotFound,
    /// What was to be made exists already; often a success.
    AlreadyExists,
    /// The state does not allow it: a size or digest mismatch, a closed writer.
    FailedPrecondition,
    /// Busy or out of reach now; the same call may succeed later.
    Unavailable,
    /// Credentials are missing or were refused.
    Unauthenticated,
    /// The caller is known and may not do this.
    PermissionDenied,
    /// An offset or a count is outside the object.
    OutOfRange,
    /// Not offered for this input.
    NotImplemented,
    /// Two parties claim the same thing.
    Conflict,
    /// Given up on request, or because a sibling failed.
    Aborted,
    /// A limit was reached: disk space, open files, a size cap, a request rate.
    ResourceExhausted,
    /// Bytes were lost or damaged.
    DataLoss,
    /// A defect or an unexpected answer of the system.
    Internal,
}

impl ErrorKind {
    /// Returns the kind's name as it is printed in messages, in words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidArgument => "invalid argument",
            Self::NotFound => "not found",
            Self::AlreadyExists => "already exists",
            Self::FailedPrecondition => "failed precondition",
            Self::Unavailable => "unavailable",
            Self::Unauthenticated => "unauthenticated",
            Self::PermissionDenied => "permission denied",
            Self::OutOfRange => "out of range",
            Self::NotImplemented => "not implemented",
            Self::Conflict => "conflict",
            Self::Aborted => "aborted",
            Self::ResourceExhausted => "resource exhausted",
            Self::DataLoss => "data loss",
            Self::Internal => "internal",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An error of a wharf library: a kind to act on, a sentence to read, and the error behind it.
///
/// `Display` prints the sentence only; [`Error::report`] prints the whole chain.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    context: String,
    source: Option<Source>,
}

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident => $kind:ident;)*) => {
        $(
            $(#[$doc])*
            pub fn $name(context: impl Into<String>) -> Self {
                Self::new(ErrorKind::$kind, context)
            }
        )*
    };
}

impl Error {
    /// Makes an error of `kind` whose message is `context`.
    pub fn new(kind: ErrorKind, context: impl Into<String>) -> Self {
        Self { kind, context: context.into(), source: None }
    }

    constructors! {
        /// Makes an [`ErrorKind::InvalidArgument`].
        invalid_argument => InvalidArgument;
        /// Makes an [`ErrorKind::NotFound`].
        not_found => NotFound;
        /// Makes an [`ErrorKind::AlreadyExists`].
        already_exists => AlreadyExists;
        /// Makes an [`ErrorKind::FailedPrecondition`].
        failed_precondition => FailedPrecondition;
        /// Makes an [`ErrorKind::Unavailable`].
        unavailable => Unavailable;
        /// Makes an [`ErrorKind::OutOfRange`].
        out_of_range => OutOfRange;
        /// Makes an [`ErrorKind::NotImplemented`].
        not_implemented => NotImplemented;
        /// Makes an [`ErrorKind::Conflict`].
        conflict => Conflict;
        /// Makes an [`ErrorKind::ResourceExhausted`].
        resource_exhausted => ResourceExhausted;
        /// Makes an [`ErrorKind::DataLoss`].
        data_loss => DataLoss;
        /// Makes an [`ErrorKind::Internal`].
        internal => Internal;
    }

    /// Makes an error of an input or output operation on local files, its kind taken from the system's. `DataLoss` is for bytes that were
    /// read and are wrong or too few.
    pub fn io(context: impl Into<String>, source: io::Error) -> Self {
        let kind = match source.kind() {
            io::ErrorKind::NotFound => ErrorKind::NotFound,
            io::ErrorKind::AlreadyExists => ErrorKind::AlreadyExists,
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                ErrorKind::PermissionDenied
            }
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge
            | io::ErrorKind::OutOfMemory => ErrorKind::ResourceExhausted,
            io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData => ErrorKind::DataLoss,
            _ => match source.raw_os_error() {
                Some(EMFILE | ENFILE) => ErrorKind::ResourceExhausted,
                // EIO is among them: a disk that fails to write or to read says nothing of what is on it.
                _ => ErrorKind::Internal,
            },
        };
        Self::new(kind, context).with_source(source)
    }

    /// Attaches the error that led to this one.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Source>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Says what was being done when this error came up; the kind stays.
    #[must_use]
    pub fn context(self, context: impl Into<String>) -> Self {
        Self { kind: self.kind, context: context.into(), source: Some(Box::new(self)) }
    }

    /// The kind, for a caller to act on.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The message and those of all errors behind it, joined by `: `.
    pub fn report(&self) -> String {
        let mut text = self.to_string();
        let mut next = self.source();
        while let Some(error) = next {
            text.push_str(": ");
            text.push_str(&error.to_string());
            next = error.source();
        }
        text
    }

    /// Finds an error of type `T` in the chain of sources, this error excluded.
    pub fn find_source<T: StdError + 'static>(&self) -> Option<&T> {
        let mut next = self.source();
        while let Some(error) = next {
            if let Some(found) = error.downcast_ref::<T>() {
                return Some(found);
            }
            next = error.source();
        }
        None
    }
}

/// Numbers of errors for which the standard library has no stable kind; equal on Linux, macOS and the BSDs.
const ENFILE: i32 = 23;
const EMFILE: i32 = 24;

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

impl From<wharf_platforms::Error> for Error {
    fn from(error: wharf_platforms::Error) -> Self {
        // The message already names the specifier and the mistake, so it is not put behind another one.
        Self::invalid_argument(error.to_string())
    }
}

/// Adds context to the errors of a [`Result`].
pub trait ResultExt<T> {
    /// Says what was being done; the kind stays.
    fn context<C: Into<String>>(self, context: impl FnOnce() -> C) -> Result<T>;
}

impl<T> ResultExt<T> for Result<T> {
    fn context<C: Into<String>>(self, context: impl FnOnce() -> C) -> Result<T> {
        self.map_err(|error| error.context(context()))
    }
}

impl<T> ResultExt<T> for io::Result<T> {
    fn context<C: Into<String>>(self, context: impl FnOnce() -> C) -> Result<T> {
        self.map_err(|error| Error::io(context(), error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_prints_each_source_once() {
        let error = Error::io("writing blob", io::Error::from_raw_os_error(28)).context("pulling busybox");
        assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
        assert_eq!(error.to_string(), "pulling busybox");
        assert_eq!(error.report(), "pulling busybox: writing blob: No space left on device (os error 28)");
        assert_eq!(error.find_source::<io::Error>().and_then(io::Error::raw_os_error), Some(28));
    }

    #[test]
    fn kinds_of_system_errors() {
        for (number, kind) in [
            (2, ErrorKind::NotFound),
            (5, ErrorKind::Internal),
            (13, ErrorKind::PermissionDenied),
            (24, ErrorKind::ResourceExhausted),
            (28, ErrorKind::ResourceExhausted),
            (30, ErrorKind::PermissionDenied),
        ] {
            assert_eq!(Error::io("x", io::Error::from_raw_os_error(number)).kind(), kind, "errno {number}");
        }
        for kind in [io::ErrorKind::InvalidData, io::ErrorKind::UnexpectedEof] {
            assert_eq!(Error::io("x", kind.into()).kind(), ErrorKind::DataLoss, "{kind}");
        }
    }
}
