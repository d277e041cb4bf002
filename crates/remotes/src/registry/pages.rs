//! Lists that come in pages: following `Link: <URL>; rel="next"` (RFC 8288; distribution specification 1.1, "Listing Tags" and
//! "Listing Referrers").
//!
//! A registry chooses where its next page is, so that it is followed only within the registry's own origin, never to a page that was
//! seen, and not for ever. What a page says is its reader's to check.

use std::collections::HashSet;

use bytes::Bytes;
use reqwest::{
    Url,
    header::{HeaderMap, LINK},
};
use wharf_content::{Error, Result};

use super::{
    client::{Ask, Client},
    host::{Origin, redacted},
};

/// The most pages of one list.
const MAX_PAGES: usize = 10_000;
/// The most bytes of one page. Some registries give the whole list as one.
const MAX_PAGE_LEN: u64 = 8 * 1024 * 1024;
/// The most bytes of all pages.
const MAX_LEN: u64 = 128 * 1024 * 1024;

/// The pages of one list, asked for one after the other.
pub(super) struct Pages<'a> {
    client: &'a Client,
    /// What is asked for next; `None` after the last page.
    ask: Option<Ask>,
    trail: Trail,
}

impl<'a> Pages<'a> {
    /// Begins with this request.
    pub(super) fn new(client: &'a Client, ask: Ask) -> Self {
        Self { client, ask: Some(ask), trail: Trail::new(Origin::of(client.base()), MAX_PAGES) }
    }

    /// The headers and the body of the next page; `None` after the last.
    ///
    /// # Errors
    /// `FailedPrecondition` for a link that must not be followed and for a page that is too large; `ResourceExhausted` for too many
    /// pages or bytes; those of the registry.
    pub(super) async fn next(&mut self) -> Result<Option<(HeaderMap, Bytes)>> {
        let Some(ask) = self.ask.take() else { return Ok(None) };
        self.trail.enter(&self.client.url(&ask.path)?)?;
        let (answer, body) = self.client.read(&ask, MAX_PAGE_LEN).await?;
        let (url, headers) = (answer.url().clone(), answer.headers().clone());
        self.trail.take(body.len() as u64)?;
        let next = self.trail.next(&url, &headers)?;
        self.ask = next.map(|next| Ask { path: self.client.within_namespace(next).into(), ..ask });
        Ok(Some((headers, body)))
    }
}

/// Where a list has led so far.
struct Trail {
    origin: Origin,
    seen: HashSet<Url>,
    most: usize,
    /// The bytes that may still come.
    left: u64,
}

impl Trail {
    fn new(origin: Origin, most: usize) -> Self {
        Self { origin, seen: HashSet::new(), most, left: MAX_LEN }
    }

    /// Takes a page for seen.
    fn enter(&mut self, url: &Url) -> Result<()> {
        if self.seen.len() >= self.most {
            return Err(Error::resource_exhausted(format!(
                "the list has more than the {} pages that are read",
                self.most
            )));
        }
        if !self.seen.insert(url.clone()) {
            return Err(Error::failed_precondition(format!(
                "the list goes in a circle: it leads back to {}",
                redacted(url)
            )));
        }
        Ok(())
    }

    /// Counts the bytes of a page.
    fn take(&mut self, len: u64) -> Result<()> {
        self.left = self.left.checked_sub(len).ok_or_else(|| {
            Error::resource_exhausted(format!("the list has more than the {MAX_LEN} bytes that are read"))
        })?;
        Ok(())
    }

    /// Where the page at `url` says that the next one is.
    fn next(&self, url: &Url, headers: &HeaderMap) -> Result<Option<Url>> {
        let unusable = || Error::failed_precondition("the list goes on at a place that cannot be read");
        for value in headers.get_all(LINK) {
            let value = value.to_str().map_err(|error| unusable().with_source(error))?;
            let Some(target) = next_link(value).map_err(|NotLinks| unusable())? else { continue };
            let mut next = url.join(target).map_err(|error| unusable().with_source(error))?;
            next.set_fragment(None);
            let has_user = !next.username().is_empty() || next.password().is_some();
            if Origin::of(&next) != self.origin || has_user {
                return Err(Error::failed_precondition(format!(
                    "the list goes on at another place, which is not followed: {}",
                    redacted(&next)
                )));
            }
            return Ok(Some(next));
        }
        Ok(None)
    }
}

/// A header's value that is no list of links.
#[derive(Debug, PartialEq, Eq)]
struct NotLinks;

/// The target of relation `next` in a header's value.
fn next_link(value: &str) -> Result<Option<&str>, NotLinks> {
    let mut rest = value.trim();
    while !rest.is_empty() {
        let (target, behind) =
            rest.strip_prefix('<').and_then(|rest| rest.split_once('>')).ok_or(NotLinks)?;
        let (mut parameters, others) = split_unquoted(behind, ',');
        while !parameters.is_empty() {
            let (parameter, more) = split_unquoted(parameters, ';');
            parameters = more;
            let Some((name, value)) = parameter.split_once('=') else { continue };
            let is_next = || {
                value
                    .trim()
                    .trim_matches('"')
                    .split_ascii_whitespace()
                    .any(|relation| relation.eq_ignore_ascii_case("next"))
            };
            if name.trim().eq_ignore_ascii_case("rel") && is_next() {
                return Ok(Some(target.trim()));
            }
        }
        rest = others.trim_start();
    }
    Ok(None)
}

/// Splits at the first separator that is not in quotes; what is behind it is empty where there is none.
fn split_unquoted(text: &str, separator: char) -> (&str, &str) {
    let (mut is_quoted, mut is_escaped) = (false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' if is_quoted => is_escaped = true,
            '"' => is_quoted = !is_quoted,
            c if c == separator && !is_quoted => return (&text[..at], &text[at + c.len_utf8()..]),
            _ => {}
        }
    }
    (text, "")
}

#[cfg(test)]
mod tests {
    use wharf_content::ErrorKind;

    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).expect("valid")
    }

    #[test]
    fn links_are_read_as_rfc_8288_writes_them() {
        for (value, expected) in [
            (r#"</v2/a/tags/list?n=1&last=b>; rel="next""#, Ok(Some("/v2/a/tags/list?n=1&last=b"))),
            ("<x>; REL=Next", Ok(Some("x"))),
            (r#"<p>; rel="prev", <n,;>; title="a, <b>; rel=next"; rel="last next""#, Ok(Some("n,;"))),
            (r#"<p>; rel="prev""#, Ok(None)),
            (r#"<p>; title="a\", rel=next""#, Ok(None)),
            ("<p>", Ok(None)),
            ("", Ok(None)),
            ("/v2/a; rel=next", Err(NotLinks)),
            ("<p; rel=next", Err(NotLinks)),
        ] {
            assert_eq!(next_link(value), expected, "{value}");
        }
    }

    #[test]
    fn the_next_page_is_at_the_same_origin() {
        let at = url("https://r.example/v2/a/tags/list");
        let trail = Trail::new(Origin::of(&at), 9);
        let next = |link: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(LINK, format!("<{link}>; rel=\"next\"").parse().expect("a header"));
            trail.next(&at, &headers)
        };
        for (link, expected) in [
            ("/v2/a/tags/list?last=x", "https://r.example/v2/a/tags/list?last=x"),
            ("?last=x#fragment", "https://r.example/v2/a/tags/list?last=x"),
            ("https://r.example:443/v2/b", "https://r.example/v2/b"),
        ] {
            assert_eq!(next(link).expect(link), Some(url(expected)));
        }
        for link in [
            "http://r.example/v2/a",
            "https://r.example:444/v2/a",
            "//10.0.0.1/v2/a",
            "https://canary@r.example/v2/a",
            "file:///etc/passwd",
            "https://",
        ] {
            let error = next(link).expect_err(link);
            assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
            assert!(!error.report().contains("canary"), "{}", error.report());
        }
        assert_eq!(trail.next(&at, &HeaderMap::new()).expect("no link"), None);
    }

    #[test]
    fn circles_and_endless_lists_end() {
        let at = url("https://r.example/v2/a?last=1");
        let mut trail = Trail::new(Origin::of(&at), 3);
        trail.enter(&at).expect("new");
        assert_eq!(trail.enter(&at).expect_err("seen").kind(), ErrorKind::FailedPrecondition);
        for last in [2, 3] {
            trail.enter(&url(&format!("https://r.example/v2/a?last={last}"))).expect("new");
        }
        let error = trail.enter(&url("https://r.example/v2/a?last=4")).expect_err("too many");
        assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
        for len in [MAX_LEN - 1, 1] {
            trail.take(len).expect("fits");
        }
        assert_eq!(trail.take(1).expect_err("too long").kind(), ErrorKind::ResourceExhausted);
    }
}
