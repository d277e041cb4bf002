//! Listing the tags of a repository (distribution specification 1.1, "Listing Tags").

use reqwest::Method;
use serde::Deserialize;
use wharf_content::{Error, Result, ResultExt};
use wharf_images::Reference;

use super::{
    client::{Ask, Client},
    pages::Pages,
    resolver::pull_scope,
};

/// How many tags are asked for at once. Registries that allow fewer give fewer, and some refuse to be asked for more.
const PAGE: usize = 1000;
/// The most tags of one repository.
const MAX_TAGS: usize = 1_000_000;

#[derive(Deserialize)]
struct List {
    /// Null where there are none, from some registries.
    #[serde(default)]
    tags: Option<Vec<String>>,
}

/// Reads a name of a repository, which has neither tag nor digest.
pub(super) fn repository(name: &str) -> Result<Reference> {
    let reference = Reference::parse(name)?;
    // A tag that is filled in cannot be told from one that was typed; but what has none can be given one.
    Reference::parse(&format!("{name}:tag")).map_err(|_| {
        Error::invalid_argument(format!(
            "{name:?} names an image: give its repository, {}, without a tag or digest",
            reference.repository()
        ))
    })
}

/// Lists the tags, in the order of the registry. What the grammar of tags does not allow can name nothing and is left out.
/// `path` is where the host has the repository.
pub(super) async fn list(client: &Client, path: &str, reference: &Reference) -> Result<Vec<String>> {
    let endpoint = format!("{path}/tags/list?n={PAGE}");
    let mut pages = Pages::new(client, Ask::new(Method::GET, endpoint, pull_scope(path)));
    let cannot = || format!("cannot list the tags of {}", reference.repository());
    let mut tags = Vec::new();
    while let Some((_, body)) = pages.next().await.context(cannot)? {
        let list: List = serde_json::from_slice(&body)
            .map_err(|error| {
                Error::failed_precondition("the registry answered with something that is no list of tags")
                    .with_source(error)
            })
            .context(cannot)?;
        for tag in list.tags.unwrap_or_default() {
            if reference.with_tag(&tag).is_ok() {
                tags.push(tag);
            } else {
                tracing::warn!(
                    repository = reference.repository(),
                    ?tag,
                    "the registry lists what is no tag"
                );
            }
        }
        if tags.len() > MAX_TAGS {
            let too_many = format!("the repository has more than the {MAX_TAGS} tags that are read");
            return Err(Error::resource_exhausted(too_many).context(cannot()));
        }
    }
    Ok(tags)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_have_no_tag() {
        let digest = wharf_content::Digest::sha256(b"x");
        for (name, expected) in [
            ("busybox", Some("docker.io/library/busybox")),
            ("localhost:5000/a/b", Some("localhost:5000/a/b")),
            ("[::1]:5000/a", Some("[::1]:5000/a")),
            ("busybox:latest", None),
            ("localhost:5000/a:1", None),
            ("localhost:5000", None),
            (&format!("busybox@{digest}"), None),
            (&format!("busybox:1@{digest}"), None),
            ("Upper", None),
            ("", None),
        ] {
            let found = repository(name).ok();
            assert_eq!(found.as_ref().map(Reference::repository), expected, "{name}");
        }
    }
}
