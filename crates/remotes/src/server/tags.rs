//! Listing tags ("Listing Tags").
//!
//! The tags of a repository are those of all records that its name can stand for, in the order of their bytes. One that has lost its last
//! tag is known, and empty, until what was deleted in it is collected.

use std::collections::BTreeSet;

use http::header;
use serde_json::json;
use wharf_content::filter::FilterSet;
use wharf_images::Reference;

use super::{
    Registry,
    names::{Host, Repository},
    refusal::{Code, Refusal},
    reply::Reply,
    route::Page,
};

/// The most tags in one answer.
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
        let names = images.iter().filter_map(|image| Reference::parse(&image.name).ok());
        let mut known = false;
        let mut tags = BTreeSet::new();
        for name in names.filter(|name| repository.covers(&meanings, name)) {
            known = true;
            tags.extend(name.tag().map(str::to_owned));
        }
        if !known && !self.had_content(repository).await? {
            return Err(unknown());
        }
        Ok(answer(repository, &tags, page))
    }
}

/// What is said of a repository that nobody knows.
pub(super) fn unknown() -> Refusal {
    Refusal::missing(Code::NameUnknown, "the repository is not known to the registry")
}

/// A page of the tags of a repository.
pub(super) fn answer(repository: &Repository, tags: &BTreeSet<String>, page: &Page) -> Reply {
    let (shown, more) = select(tags, page);
    let reply = Reply::json(&json!({ "name": repository.as_str(), "tags": shown }));
    match shown.last().filter(|_| more) {
        Some(last) => {
            let link = format!(
                "</v2/{}/tags/list?n={}&last={last}>; rel=\"next\"",
                repository.as_str(),
                shown.len()
            );
            reply.with(header::LINK, &link)
        }
        None => reply,
    }
}

/// The tags of a page, and whether there are more behind it. A page of none has no successor.
fn select<'a>(tags: &'a BTreeSet<String>, page: &Page) -> (Vec<&'a str>, bool) {
    let limit = page.limit.unwrap_or(MAX_PAGE).min(MAX_PAGE);
    let mut rest =
        tags.iter().map(String::as_str).filter(|tag| page.last.as_deref().is_none_or(|last| *tag > last));
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
