//! The error of parsing a specifier: which one, what is wrong with it, and what to write instead.
//!
//! Everything else in this crate cannot fail. The error deliberately keeps no copy of the whole specifier: it may be
//! large and it may come from a stranger, so only a short, escaped excerpt is kept and shown.

use std::fmt;

/// Says why a specifier is not a platform.
///
/// ```
/// use wharf_platforms::{ErrorKind, parse};
///
/// let error = parse("linux/*").unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::Wildcard);
/// assert_eq!(
///     error.to_string(),
///     r#"invalid platform specifier "linux/*": wildcards are not supported; name one platform, as in "linux/amd64""#,
/// );
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[error("invalid platform specifier {specifier}: {problem}")]
pub struct Error {
    kind: ErrorKind,
    specifier: Excerpt,
    problem: Problem,
}

/// What is wrong with a specifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// There is nothing in it.
    Empty,
    /// It has a `*`; wildcards are not supported.
    Wildcard,
    /// It has more than three parts.
    TooManyParts,
    /// The name of the operating system is empty or has a character that is not allowed.
    InvalidOs,
    /// What stands in parentheses after the operating system is not of the form `(version+feature+feature)`.
    InvalidOptions,
    /// A percent escape in the version or in a feature is broken or does not decode to UTF-8.
    InvalidEscape,
    /// The architecture is empty or has a character that is not allowed.
    InvalidArchitecture,
    /// The variant is empty or has a character that is not allowed.
    InvalidVariant,
    /// Its only part is an architecture with version or features, which belong to an operating system.
    OptionsWithoutOs,
    /// Its only part is neither a known operating system nor a known architecture.
    Unknown,
}

impl Error {
    /// An error about `part` of `specifier`; `part` is shown where the message speaks of one.
    pub(crate) fn new(kind: ErrorKind, specifier: &str, part: &str) -> Self {
        Self { kind, specifier: Excerpt::new(specifier), problem: Problem { kind, part: Excerpt::new(part) } }
    }

    /// What is wrong, for a program to act on.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

/// The part of the message after the specifier: what is wrong and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Problem {
    kind: ErrorKind,
    part: Excerpt,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = &self.part;
        match self.kind {
            ErrorKind::Empty => f.write_str(r#"it is empty; name a platform, as in "linux/amd64""#),
            ErrorKind::Wildcard => {
                f.write_str(r#"wildcards are not supported; name one platform, as in "linux/amd64""#)
            }
            ErrorKind::TooManyParts => {
                f.write_str("it has more than three parts; write os/architecture/variant at most")
            }
            ErrorKind::InvalidOs => write!(
                f,
                "the operating system {part} is not a name of letters, digits, '_' and '-'; \
                 write one as in \"linux/amd64\""
            ),
            ErrorKind::InvalidOptions => write!(
                f,
                "the options of the operating system {part} are not of the form (version+feature+feature); \
                 write them as in \"windows(10.0.20348+win32k)/amd64\" and other characters as %XX"
            ),
            ErrorKind::InvalidEscape => write!(
                f,
                "{part} has a percent escape that cannot be decoded; \
                 write '%' and two hexadecimal digits for each byte of UTF-8, and %25 for a percent sign"
            ),
            ErrorKind::InvalidArchitecture => write!(
                f,
                "the architecture {part} is not a word of letters, digits, '_', '.' and '-'; \
                 write one as in \"linux/arm64\""
            ),
            ErrorKind::InvalidVariant => write!(
                f,
                "the variant {part} is not a word of letters, digits, '_', '.' and '-'; \
                 write one as in \"linux/arm/v7\" or leave it out together with its '/'"
            ),
            ErrorKind::OptionsWithoutOs => write!(
                f,
                "{part} is an architecture, and version and features belong to an operating system; \
                 write both, as in \"windows(10.0.20348)/amd64\""
            ),
            ErrorKind::Unknown => write!(
                f,
                "{part} is neither a known operating system nor a known architecture; \
                 write both, as in \"linux/amd64\""
            ),
        }
    }
}

/// The beginning of a text, escaped, so that it can be shown on a terminal or in a log.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Excerpt {
    text: String,
    /// How many bytes the whole text has, if it is longer than the excerpt.
    cut_from: Option<usize>,
}

impl Excerpt {
    /// How many characters are shown: more than any real specifier has.
    const LIMIT: usize = 80;

    fn new(whole: &str) -> Self {
        let mut rest = whole.chars();
        let text: String = rest.by_ref().take(Self::LIMIT).flat_map(char::escape_debug).collect();
        let cut_from = (!rest.as_str().is_empty()).then_some(whole.len());
        Self { text, cut_from }
    }
}

impl fmt::Display for Excerpt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.cut_from {
            None => write!(f, "\"{}\"", self.text),
            Some(bytes) => write!(f, "\"{}…\" ({bytes} bytes)", self.text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_and_what_to_do() {
        for (kind, part, expected) in [
            (ErrorKind::InvalidArchitecture, "&arm", r#"the architecture "&arm" is not a word"#),
            (ErrorKind::InvalidVariant, "", r#"the variant "" is not a word"#),
            (ErrorKind::Unknown, "m68k", r#""m68k" is neither"#),
            (ErrorKind::Unknown, "a\"b", r#""a\"b" is neither"#),
            (ErrorKind::TooManyParts, "", "at most"),
        ] {
            let message = Error::new(kind, "the/whole", part).to_string();
            assert!(message.starts_with(r#"invalid platform specifier "the/whole": "#), "{message}");
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn escapes_what_a_terminal_would_obey() {
        let message = Error::new(ErrorKind::InvalidOs, "a\u{1b}[2J\n\u{202e}\"", "\u{7}\u{9b}").to_string();
        assert!(!message.chars().any(|c| c.is_control() || c == '\u{202e}'), "{message:?}");
        assert!(message.contains(r#"\u{1b}[2J\n\u{202e}\""#), "{message}");
    }

    #[test]
    fn cuts_huge_input_between_characters() {
        for unit in ["a", "ü", "😀", "\u{1b}", "e\u{301}"] {
            let huge = unit.repeat(64 * 1024);
            let error = Error::new(ErrorKind::InvalidOs, &huge, &huge);
            let message = error.to_string();
            assert!(message.len() < 2500, "{} bytes", message.len());
            assert!(message.contains(&format!("…\" ({} bytes)", huge.len())), "{message}");
        }
    }

    #[test]
    fn is_an_error_that_can_be_passed_around() {
        fn check<T: std::error::Error + Send + Sync + 'static>() {}
        check::<Error>();
    }
}
