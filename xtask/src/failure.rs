//! Why a task failed, as one text for the person who runs it. Nothing here is meant to be matched on.

use std::fmt::{self, Display};

/// The result of everything in this program.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// Why a task failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Everything has been said already; only the exit status is left.
    Told,
    /// What failed, for what, and why.
    Because(String),
}

impl Failure {
    /// A failure with its explanation.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self::Because(message.into())
    }
}

impl Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Told => formatter.write_str("see above"),
            Self::Because(message) => formatter.write_str(message),
        }
    }
}

/// Says what was being done when something failed.
pub(crate) trait Context<T> {
    /// Puts `doing` before the error.
    fn context(self, doing: impl Display) -> Result<T>;
}

impl<T, E: Display> Context<T> for std::result::Result<T, E> {
    fn context(self, doing: impl Display) -> Result<T> {
        self.map_err(|error| Failure::new(format!("{doing}: {error}")))
    }
}

impl<T> Context<T> for Option<T> {
    fn context(self, doing: impl Display) -> Result<T> {
        self.ok_or_else(|| Failure::new(doing.to_string()))
    }
}

/// Fails with `message` unless `condition` holds.
pub(crate) fn ensure(condition: bool, message: impl FnOnce() -> String) -> Result<()> {
    if condition { Ok(()) } else { Err(Failure::new(message())) }
}

/// Fails unless both are equal; `what` names the thing compared.
pub(crate) fn ensure_equal<T: PartialEq + fmt::Debug>(what: &str, found: &T, expected: &T) -> Result<()> {
    ensure(found == expected, || format!("{what} is {found:?}, not {expected:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ensure_fails_only_when_it_should() {
        assert!(ensure_equal("the answer", &42, &42).is_ok());
        let error = ensure_equal("the answer", &41, &42).unwrap_err();
        assert_eq!(error.to_string(), "the answer is 41, not 42");
    }

    #[test]
    fn context_comes_first() {
        let error = Err::<(), _>("it is gone").context("cannot read x").unwrap_err();
        assert_eq!(error.to_string(), "cannot read x: it is gone");
    }
}
