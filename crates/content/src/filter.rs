//! The filter language of listings: `fieldpath[op value]`, joined by commas for AND, several filters for OR.
//!
//! The grammar is containerd's (`pkg/filters`). Unlike there, a regular expression that does not compile is an error and not a
//! filter that never matches.

use std::borrow::Cow;

use regex::Regex;

use crate::error::{Error, Result};

/// The longest filter that is read, in bytes.
pub const MAX_FILTER_LEN: usize = 64 * 1024;

/// Something that filters look at: a value for each field path, or `None` where the field is absent.
pub trait Fields {
    /// The value of the field at `path`.
    fn field(&self, path: &[String]) -> Option<Cow<'_, str>>;
}

/// Several filters of which one must match; none at all matches everything.
#[derive(Clone, Debug, Default)]
pub struct FilterSet {
    filters: Vec<Vec<Selector>>,
}

#[derive(Clone, Debug)]
struct Selector {
    path: Vec<String>,
    condition: Condition,
}

#[derive(Clone, Debug)]
enum Condition {
    Present,
    Equals(String),
    Differs(String),
    Matches(Regex),
}

impl FilterSet {
    /// Matches everything.
    pub fn all() -> Self {
        Self::default()
    }

    /// Reads filters. An empty filter matches everything.
    ///
    /// # Errors
    /// `InvalidArgument` names the filter and the position of the mistake, counted in bytes from 0.
    pub fn parse<S: AsRef<str>>(filters: impl IntoIterator<Item = S>) -> Result<Self> {
        let filters = filters.into_iter().map(|filter| Parser::new(filter.as_ref()).filter());
        Ok(Self { filters: filters.collect::<Result<_>>()? })
    }

    /// Whether one of the filters matches.
    pub fn matches(&self, object: &dyn Fields) -> bool {
        self.filters.is_empty()
            || self.filters.iter().any(|selectors| selectors.iter().all(|selector| selector.matches(object)))
    }

    /// Texts of which one at least stands in the labels, written as compact JSON, of all that matches. `None` where something without any labels
    /// may match, too.
    pub(crate) fn texts_in_labels(&self) -> Option<Vec<String>> {
        let of_one = |selectors: &Vec<Selector>| {
            selectors.iter().filter_map(Selector::text_in_labels).max_by_key(String::len)
        };
        let texts: Option<Vec<String>> = self.filters.iter().map(of_one).collect();
        texts.filter(|texts| !texts.is_empty())
    }
}

impl Selector {
    /// What stands in the labels of all that it matches.
    fn text_in_labels(&self) -> Option<String> {
        let (root, key) = self.path.split_first()?;
        if root != "labels" || key.is_empty() {
            return None;
        }
        let key = serde_json::to_string(&key.join(".")).ok()?;
        match &self.condition {
            Condition::Equals(value) => Some(format!("{key}:{}", serde_json::to_string(value).ok()?)),
            Condition::Present | Condition::Matches(_) => Some(format!("{key}:")),
            Condition::Differs(_) => None,
        }
    }

    fn matches(&self, object: &dyn Fields) -> bool {
        let value = object.field(&self.path);
        match (&self.condition, value) {
            (Condition::Present, value) => value.is_some(),
            (Condition::Equals(wanted), value) => value.is_some_and(|value| value == wanted.as_str()),
            (Condition::Differs(wanted), value) => value.is_none_or(|value| value != wanted.as_str()),
            (Condition::Matches(regex), value) => value.is_some_and(|value| regex.is_match(&value)),
        }
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    fn error(&self, at: usize, message: &str) -> Error {
        let shown: String = self.text.chars().take(200).collect();
        Error::invalid_argument(format!("invalid filter {shown:?} at position {at}: {message}"))
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn take(&mut self, prefix: &str) -> bool {
        let found = self.rest().starts_with(prefix);
        if found {
            self.at += prefix.len();
        }
        found
    }

    fn take_while(&mut self, keep: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let len = rest.find(|c| !keep(c)).unwrap_or(rest.len());
        self.at += len;
        &rest[..len]
    }

    fn skip_space(&mut self) {
        self.take_while(char::is_whitespace);
    }

    fn filter(mut self) -> Result<Vec<Selector>> {
        if self.text.len() > MAX_FILTER_LEN {
            return Err(self.error(MAX_FILTER_LEN, "longer than 64 KiB"));
        }
        let mut selectors = Vec::new();
        self.skip_space();
        if self.rest().is_empty() {
            return Ok(selectors);
        }
        loop {
            selectors.push(self.selector()?);
            self.skip_space();
            if self.rest().is_empty() {
                return Ok(selectors);
            }
            if !self.take(",") {
                return Err(self.error(self.at, "expected ',' or the end"));
            }
        }
    }

    fn selector(&mut self) -> Result<Selector> {
        self.skip_space();
        let mut path = vec![self.field()?];
        while self.take(".") {
            path.push(self.field()?);
        }
        self.skip_space();
        let condition = if self.take("==") {
            Condition::Equals(self.value(false)?)
        } else if self.take("!=") {
            Condition::Differs(self.value(false)?)
        } else if self.take("~=") {
            self.skip_space();
            let start = self.at;
            let pattern = self.value(true)?;
            let regex = Regex::new(&pattern).map_err(|error| {
                // It shows the expression over several lines, and says in the last one what is wrong.
                let why = error.to_string();
                let why = why.lines().next_back().unwrap_or_default().trim_start_matches("error: ");
                self.error(start, &format!("the regular expression does not compile: {why}"))
            })?;
            Condition::Matches(regex)
        } else if matches!(self.peek(), None | Some(',')) {
            Condition::Present
        } else {
            return Err(self.error(self.at, "expected ==, !=, ~= or ','"));
        };
        Ok(Selector { path, condition })
    }

    fn field(&mut self) -> Result<String> {
        if self.peek() == Some('"') {
            return self.quoted('"');
        }
        let start = self.at;
        let field = self.take_while(|c| c.is_ascii_alphanumeric() || c == '_');
        if field.is_empty() {
            return Err(self.error(start, "expected a field name or a quoted one"));
        }
        Ok(field.to_owned())
    }

    fn value(&mut self, pattern: bool) -> Result<String> {
        self.skip_space();
        match self.peek() {
            Some('"') => self.quoted('"'),
            Some(quote @ ('/' | '|')) if pattern => self.quoted(quote),
            _ => {
                let start = self.at;
                let value = self.take_while(|c| c != ',' && c != '"' && !c.is_whitespace());
                if value.is_empty() {
                    return Err(self.error(start, "expected a value; quote an empty one"));
                }
                Ok(value.to_owned())
            }
        }
    }

    /// Reads up to the closing quote. A backslash escapes the quote and itself; in double quotes also n, r and t.
    fn quoted(&mut self, quote: char) -> Result<String> {
        let start = self.at;
        let mut value = String::new();
        let mut chars = self.rest().char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            if c == quote {
                self.at += at + quote.len_utf8();
                return Ok(value);
            }
            if c != '\\' {
                value.push(c);
                continue;
            }
            match (quote, chars.next()) {
                (_, Some((_, next))) if next == quote => value.push(next),
                ('"', Some((_, '\\'))) => value.push('\\'),
                ('"', Some((_, 'n'))) => value.push('\n'),
                ('"', Some((_, 'r'))) => value.push('\r'),
                ('"', Some((_, 't'))) => value.push('\t'),
                // In a regular expression a backslash belongs to the expression.
                ('/' | '|', Some((_, next))) => value.extend(['\\', next]),
                _ => return Err(self.error(start + at, "unknown escape in a quoted text")),
            }
        }
        Err(self.error(start, "the quote is not closed"))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    struct Object(BTreeMap<&'static str, &'static str>);

    impl Fields for Object {
        fn field(&self, path: &[String]) -> Option<Cow<'_, str>> {
            self.0.get(path.join("/").as_str()).map(|value| Cow::Borrowed(*value))
        }
    }

    fn object() -> Object {
        Object([("name", "docker.io/library/busybox:latest"), ("labels/a.b/c", "x y"), ("empty", "")].into())
    }

    #[test]
    fn matches() {
        for (filter, expected) in [
            ("", true),
            ("name", true),
            ("absent", false),
            ("empty", true),
            ("empty==\"\"", true),
            ("name==docker.io/library/busybox:latest", true),
            ("name==busybox", false),
            ("name!=busybox", true),
            ("absent!=busybox", true),
            ("name~=busybox", true),
            ("name~=^busybox", false),
            ("name ~= /busybox:[a-z]+$/", true),
            ("name~=|docker.io/|", true),
            (r"name~=/io\/library/", true),
            ("name~=busybox,absent", false),
            ("name~=busybox , empty", true),
            ("labels.\"a.b/c\"==\"x y\"", true),
        ] {
            assert_eq!(FilterSet::parse([filter]).expect(filter).matches(&object()), expected, "{filter}");
        }
        let either = FilterSet::parse(["absent", "name"]).expect("valid");
        assert!(either.matches(&object()));
    }

    #[test]
    fn mistakes_name_their_position() {
        for (filter, position) in [
            ("name==", 6),
            ("name=busybox", 4),
            ("name,,x", 5),
            ("name,", 5),
            ("name==\"open", 6),
            ("name~=(", 6),
            ("na-me==x", 2),
            ("name==a b", 8),
            ("name==\"\\q\"", 7),
            ("é==x", 0),
        ] {
            let error = FilterSet::parse([filter]).expect_err(filter);
            assert!(error.to_string().contains(&format!("position {position}:")), "{filter}: {error}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in any::<String>()) {
            if let Ok(filters) = FilterSet::parse([&text]) {
                filters.matches(&object());
            }
        }
    }
}
