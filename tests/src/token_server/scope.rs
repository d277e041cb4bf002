//! Scopes in the words of distribution's token specification: `repository:team/app:pull,push`.

use std::{collections::BTreeSet, fmt, str::FromStr};

/// What a token allows, what a request needs, or what an account may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// The kind of resource: `repository`, `registry`.
    pub kind: String,
    /// Which one. Where an account is described, `*` at the end stands for whatever follows.
    pub name: String,
    /// What may be done with it, or `*`.
    pub actions: BTreeSet<String>,
}

/// It has no name or no actions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotScope;

impl fmt::Display for NotScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a scope is KIND:NAME:ACTIONS, as repository:team/app:pull,push")
    }
}

impl std::error::Error for NotScope {}

impl FromStr for Scope {
    type Err = NotScope;

    fn from_str(text: &str) -> Result<Self, NotScope> {
        // A name may have a port in it.
        let (kind, rest) = text.split_once(':').ok_or(NotScope)?;
        let (name, actions) = rest.rsplit_once(':').ok_or(NotScope)?;
        if kind.is_empty() || name.is_empty() {
            return Err(NotScope);
        }
        let actions = actions.split(',').filter(|action| !action.is_empty()).map(str::to_owned).collect();
        Ok(Self { kind: kind.to_owned(), name: name.to_owned(), actions })
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let actions: Vec<&str> = self.actions.iter().map(String::as_str).collect();
        write!(f, "{}:{}:{}", self.kind, self.name, actions.join(","))
    }
}

impl Scope {
    /// A scope of one repository.
    pub fn repository(name: &str, actions: &[&str]) -> Self {
        let actions = actions.iter().map(|action| (*action).to_owned()).collect();
        Self { kind: "repository".to_owned(), name: name.to_owned(), actions }
    }

    /// What of `wanted` this allows; `None` for nothing.
    pub fn share(&self, wanted: &Self) -> Option<Self> {
        let is_named = match self.name.strip_suffix('*') {
            Some(prefix) => wanted.name.starts_with(prefix),
            None => wanted.name == self.name,
        };
        let allowed = |action: &&String| self.actions.contains("*") || self.actions.contains(*action);
        let actions: BTreeSet<String> = wanted.actions.iter().filter(allowed).cloned().collect();
        (self.kind == wanted.kind && is_named && !actions.is_empty())
            .then(|| Self { actions, ..wanted.clone() })
    }
}

/// What of `wanted` these allow together, each resource once.
pub fn granted(allowed: &[Scope], wanted: &[Scope]) -> Vec<Scope> {
    let mut granted = Vec::new();
    for wanted in wanted {
        let shares = allowed.iter().filter_map(|allowed| allowed.share(wanted));
        let actions: BTreeSet<String> = shares.flat_map(|share| share.actions).collect();
        if !actions.is_empty() {
            granted.push(Scope { actions, ..wanted.clone() });
        }
    }
    granted
}

/// Whether these allow all of `needed`.
pub fn suffice(allowed: &[Scope], needed: &[Scope]) -> bool {
    granted(allowed, needed) == needed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scopes(texts: &[&str]) -> Vec<Scope> {
        texts.iter().map(|text| text.parse().expect("a scope")).collect()
    }

    #[test]
    fn texts() {
        for text in ["repository:a/b:pull", "repository:localhost:5000/a:pull,push", "registry:catalog:*"] {
            assert_eq!(text.parse::<Scope>().expect(text).to_string(), text);
        }
        assert_eq!(scopes(&["repository:a:push,pull"]), [Scope::repository("a", &["pull", "push"])]);
        for bad in ["", "repository", "repository:a", "repository::pull", ":a:pull"] {
            assert_eq!(bad.parse::<Scope>(), Err(NotScope), "{bad:?}");
        }
    }

    #[test]
    fn no_more_than_is_allowed_is_granted() {
        for (allowed, wanted, given) in [
            (&["repository:*:*"][..], &["repository:a/b:pull,push"][..], &["repository:a/b:pull,push"][..]),
            (&["repository:a/*:pull"], &["repository:a/b:pull,push"], &["repository:a/b:pull"]),
            (&["repository:a/*:pull"], &["repository:b/a:pull"], &[]),
            (
                &["repository:a:pull", "repository:a:push"],
                &["repository:a:pull,push"],
                &["repository:a:pull,push"],
            ),
            (&["repository:a:pull"], &["repository:ab:pull"], &[]),
            (&["repository:*:*"], &["registry:catalog:*"], &[]),
            (&["repository:*:*"], &["repository:a:"], &[]),
        ] {
            let (allowed, wanted, given) = (scopes(allowed), scopes(wanted), scopes(given));
            assert_eq!(granted(&allowed, &wanted), given, "{wanted:?}");
            assert_eq!(suffice(&allowed, &wanted), wanted == given, "{wanted:?}");
        }
    }
}
