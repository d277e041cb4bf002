//! Why a text is not a reference, and how such a text is shown.
//!
//! The errors keep no more of the text than they show. It may be large, a stranger may have written it, and it may
//! contain a password that was typed in a wrong place.

use wharf_content::{DigestError, Error, ErrorKind};

/// Says why a text is not a reference, and what to do about it.
///
/// Every `input` is the beginning of the text in question, quoted and escaped for a terminal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReferenceError {
    /// The domain or the path does not follow the grammar, or the text is something else altogether.
    #[error("invalid reference {input}: {reason}")]
    InvalidFormat {
        /// What was read.
        input: String,
        /// What is wrong with it and what to write instead.
        reason: &'static str,
    },
    /// What follows the colon after the name is not a tag.
    #[error(
        "invalid tag in {input}: a tag has 1 to 128 letters, digits, underscores, dots and hyphens \
         and starts with neither a dot nor a hyphen"
    )]
    InvalidTag {
        /// What was read.
        input: String,
    },
    /// What follows the `@` does not look like a digest.
    #[error(
        "invalid digest in {input}: after @ write algorithm:hex, such as sha256: and 64 lower-case hexadecimal digits"
    )]
    InvalidDigest {
        /// What was read.
        input: String,
    },
    /// The path has upper-case letters and is fine otherwise.
    #[error("invalid reference {input}: the repository path must be in lower case")]
    ContainsUppercase {
        /// What was read.
        input: String,
    },
    /// There is no path.
    #[error(
        "invalid reference {input}: it names no repository; write one, as in busybox or registry.example.com/team/app"
    )]
    EmptyName {
        /// What was read.
        input: String,
    },
    /// The domain or the path is too long.
    #[error("invalid reference {input}: the {part} has {len} characters, at most {limit} are allowed")]
    NameTooLong {
        /// What was read.
        input: String,
        /// `domain` or `path`.
        part: &'static str,
        /// Its length in characters, after normalisation.
        len: usize,
        /// The most characters that are allowed.
        limit: usize,
    },
    /// A reference, but not in canonical form where that is asked for.
    #[error("reference {input} is not in canonical form: write {canonical}")]
    NotCanonical {
        /// What was read.
        input: String,
        /// The canonical form.
        canonical: String,
    },
    /// What follows the `@` looks like a digest and is none that is supported.
    #[error("invalid digest in {input}")]
    Digest {
        /// What was read.
        input: String,
        /// What is wrong with the digest.
        source: DigestError,
    },
}

impl From<ReferenceError> for Error {
    fn from(error: ReferenceError) -> Self {
        let message = error.to_string();
        match error {
            // The digest's own error knows its kind: an unsupported algorithm is NotImplemented.
            ReferenceError::Digest { source, .. } => {
                Self::new(Self::from(source).kind(), message).with_source(source)
            }
            _ => Self::new(ErrorKind::InvalidArgument, message),
        }
    }
}

/// The most characters of a text that are shown.
const EXCERPT_LEN: usize = 200;

/// The beginning of `text` in quotes, escaped; the user and password of a URL are left out.
pub(crate) fn excerpt(text: &str) -> String {
    let (before, after) = without_user_info(text);
    let mut shown = String::from("\"");
    let mut characters = before.chars().chain(after.chars());
    shown.extend(characters.by_ref().take(EXCERPT_LEN).flat_map(char::escape_debug));
    shown.push('"');
    if characters.next().is_some() {
        shown.push('…');
    }
    shown
}

/// What stands before and after the user info of a URL; all and nothing where there is none.
fn without_user_info(text: &str) -> (&str, &str) {
    let Some((_, after)) = text.split_once("://") else {
        return (text, "");
    };
    let authority = after.split('/').next().unwrap_or(after);
    match authority.rfind('@') {
        Some(at) => (&text[..text.len() - after.len()], &after[at + 1..]),
        None => (text, ""),
    }
}

#[cfg(test)]
mod tests {
    use wharf_content::Digest;

    use super::*;

    #[test]
    fn excerpts() {
        let long = "é".repeat(300);
        let cut = format!("\"{}\"…", "é".repeat(200));
        let exact = "a".repeat(200);
        let quoted = format!("\"{exact}\"");
        for (text, expected) in [
            ("busybox", "\"busybox\""),
            ("", "\"\""),
            ("a\u{1b}]52;x\u{9b}\r\n\0", "\"a\\u{1b}]52;x\\u{9b}\\r\\n\\0\""),
            ("\u{202e}gnp", "\"\\u{202e}gnp\""),
            ("https://me:secret@host/x", "\"https://host/x\""),
            ("https://me:s@cret@host", "\"https://host\""),
            ("https://host/x@y", "\"https://host/x@y\""),
            (long.as_str(), cut.as_str()),
            (exact.as_str(), quoted.as_str()),
        ] {
            assert_eq!(excerpt(text), expected);
        }
    }

    #[test]
    fn kinds() {
        let input = excerpt("x");
        for (error, kind) in [
            (ReferenceError::EmptyName { input: input.clone() }, ErrorKind::InvalidArgument),
            (
                ReferenceError::Digest { input: input.clone(), source: DigestError::Unsupported },
                ErrorKind::NotImplemented,
            ),
            (
                ReferenceError::Digest { input: input.clone(), source: DigestError::InvalidFormat },
                ErrorKind::InvalidArgument,
            ),
        ] {
            assert_eq!(Error::from(error).kind(), kind);
        }
    }

    #[test]
    fn report_prints_the_digests_error_once() {
        let source = "md5:0".parse::<Digest>().expect_err("unsupported");
        let error = Error::from(ReferenceError::Digest { input: excerpt("a@md5:0"), source });
        assert_eq!(error.to_string(), "invalid digest in \"a@md5:0\"");
        assert_eq!(error.report(), format!("invalid digest in \"a@md5:0\": {source}"));
        assert_eq!(error.find_source::<DigestError>(), Some(&source));
    }
}
