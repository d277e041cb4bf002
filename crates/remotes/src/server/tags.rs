//! Listing tags ("Listing Tags"), and the repositories that have some, as Docker's registry does (`_catalog`), which the specification leaves out.
//!
//! The tags of a repository are those of all records that its name can stand for, in the order of their bytes. One that has lost its last
//! tag is known, and empty, until what was deleted in it is collected.

use std::collections::BTreeSet;

use http::header;
use serde_json::{Value, json};
use wharf_content::filter::FilterSet;
use wharf_images::Reference;

use super::{
    Registry,
    delete::is_hidden,
    names::{Host, Repository},
    proxy::Relay,
    refusal::{Code, Refusal},
    reply::Reply,
    route::Page,
};

/// The most tags, or repositories, in one answer.
const MAX_PAGE: usize = 10_000;

impl Registry {
    pub(super) async fn list_tags(
        &self,
        repository: &Repository,
        host: &Host,
        page: &Page,
    ) -> Result<Reply, Refusal> {
        let images = self.images().list(&FilterSet::all()).await?;
        let meanings = repository.meanings(host);
        let mut known = false;
        let mut tags = BTreeSet::new();
        for image in &images {
            let Ok(name) = Reference::parse(&image.name) else { continue };
            if repository.covers(&meanings, &name) {
                known = true;
                tags.extend(name.tag().filter(|_| !is_hidden(image, repository)).map(str::to_owned));
            }
        }
        if !known && !self.had_content(repository).await? {
            return Err(unknown());
        }
        Ok(answer(repository, &tags, page))
    }

    /// The repositories under which the images of the store are served.
    pub(super) async fn list_repositories(&self, page: &Page) -> Result<Reply, Refusal> {
        let served = self.inner.relay.as_ref().map(Relay::domain);
        let images = self.images().list(&FilterSet::all()).await?;
        let names = images.iter().filter_map(|image| Reference::parse(&image.name).ok());
        let served = names.filter(|name| served.is_none_or(|domain| name.domain() == domain));
        let repositories = served.map(|name| name.path().to_owned()).collect();
        Ok(paged("/v2/_catalog", &repositories, page, |shown| json!({ "repositories": shown })))
    }
}

/// What is said of a repository that nobody knows.
pub(super) fn unknown() -> Refusal {
    Refusal::missing(Code::NameUnknown, "the repository is not known to the registry")
}

/// A page of the tags of a repository.
pub(super) fn answer(repository: &Repository, tags: &BTreeSet<String>, page: &Page) -> Reply {
    let name = repository.as_str();
    paged(&format!("/v2/{name}/tags/list"), tags, page, |shown| json!({ "name": name, "tags": shown }))
}

/// A page of a list, and where the next one is.
fn paged(path: &str, all: &BTreeSet<String>, page: &Page, document: impl FnOnce(&[&str]) -> Value) -> Reply {
    let (shown, more) = select(all, page);
    let reply = Reply::json(&document(&shown));
    match shown.last().filter(|_| more) {
        Some(last) => {
            reply.with(header::LINK, &format!("<{path}?n={}&last={last}>; rel=\"next\"", shown.len()))
        }
        None => reply,
    }
}

/// What is on a page, and whether there is more behind it. A page of nothing has no successor.
fn select<'a>(all: &'a BTreeSet<String>, page: &Page) -> (Vec<&'a str>, bool) {
    let limit = page.limit.unwrap_or(MAX_PAGE).min(MAX_PAGE);
    let mut rest =
        all.iter().map(String::as_str).filter(|one| page.last.as_deref().is_none_or(|last| *one > last));
    let shown: Vec<&str> = rest.by_ref().take(limit).collect();
    (shown, limit > 0 && rest.next().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    type Case<'a> = (Option<usize>, Option<&'a str>, &'a [&'a str], bool);

    #[test]
    fn pages() {
        let tags: BTreeSet<String> = ["b", "a", "C", "d"].into_iter().map(str::to_owned).collect();
        let cases: [Case<'_>; 7] = [
            (None, None, &["C", "a", "b", "d"], false),
            (Some(2), None, &["C", "a"], true),
            (Some(2), Some("a"), &["b", "d"], false),
            (Some(4), None, &["C", "a", "b", "d"], false),
            (Some(0), None, &[], false),
            (Some(9), Some("bb"), &["d"], false),
            (None, Some("z"), &[], false),
        ];
        for (limit, last, expected, more) in cases {
            let page = Page { limit, last: last.map(str::to_owned) };
            assert_eq!(select(&tags, &page), (expected.to_vec(), more), "{page:?}");
        }
    }
}
