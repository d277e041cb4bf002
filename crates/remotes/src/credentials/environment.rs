//! The environment in which the files of docker and podman are looked for: handed in, so that nothing depends on the process's own.

use std::{ffi::OsString, fmt, path::PathBuf, sync::Arc};

type Lookup = dyn Fn(&str) -> Option<OsString> + Send + Sync;

/// Environment variables.
#[derive(Clone)]
pub struct Environment {
    lookup: Arc<Lookup>,
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The values are nobody's business: there are passwords among them.
        f.debug_struct("Environment").finish_non_exhaustive()
    }
}

impl Environment {
    /// The variables of this process, read when they are needed.
    pub fn process() -> Self {
        Self { lookup: Arc::new(|name| std::env::var_os(name)) }
    }

    /// These variables and no others.
    pub fn of<N: Into<String>, V: Into<OsString>>(variables: impl IntoIterator<Item = (N, V)>) -> Self {
        let variables: Vec<(String, OsString)> =
            variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        let lookup = move |wanted: &str| {
            variables.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone())
        };
        Self { lookup: Arc::new(lookup) }
    }

    /// A variable that is set to something.
    pub(super) fn variable(&self, name: &str) -> Option<OsString> {
        (self.lookup)(name).filter(|value| !value.is_empty())
    }

    /// A variable that is set to a path.
    pub(super) fn path(&self, name: &str) -> Option<PathBuf> {
        self.variable(name).map(PathBuf::from)
    }

    /// A directory, by an absolute path; the XDG base directory specification wants others to be ignored.
    pub(super) fn directory(&self, name: &str) -> Option<PathBuf> {
        self.path(name).filter(|path| path.is_absolute())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_shown_and_nothing_empty_is_set() {
        let environment = Environment::of([("A", "canary"), ("B", ""), ("C", "relative")]);
        assert_eq!(environment.variable("A"), Some("canary".into()));
        assert_eq!((environment.variable("B"), environment.variable("PATH")), (None, None));
        assert_eq!((environment.path("C"), environment.directory("C")), (Some("relative".into()), None));
        assert!(!format!("{environment:?}").contains("canary"));
    }
}
