//! What an archive was found to hold: names, and what each of them is. Names are not paths of any file system; links lead to other names
//! of the same archive or nowhere.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use wharf_content::{Descriptor, Digest, Error, Provider, Result, ResultExt, read_blob};

/// The most bytes of all names together.
const MAX_NAMES_LEN: usize = 32 << 20;

/// The most links from a name to its file, as Linux has it: each look at the name follows all of them.
const MAX_LINKS: usize = 40;

/// What stands under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Node {
    /// A file that is kept in memory.
    Document(Bytes),
    /// A file that is in the store.
    Blob(Digest, u64),
    /// A link, to a name that was cleaned; `None` where it leads out of the archive.
    Link(Option<String>),
}

/// The names of an archive.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    nodes: HashMap<String, Node>,
    names_len: usize,
}

impl Contents {
    /// Adds an entry. One that is there already must be the same: some programs take the first and some the last.
    ///
    /// # Errors
    /// `InvalidArgument` for another entry of the same name; `ResourceExhausted` where there are too many names.
    pub(crate) fn add(&mut self, name: String, node: Node) -> Result<()> {
        match self.nodes.get(&name) {
            Some(there) if *there == node => return Ok(()),
            Some(_) => {
                return Err(Error::invalid_argument(format!(
                    "the archive has {name:?} twice, and not the same: which one is meant cannot be told"
                )));
            }
            None => {}
        }
        let link_len = if let Node::Link(Some(target)) = &node { target.len() } else { 0 };
        self.names_len += name.len() + link_len;
        if self.names_len > MAX_NAMES_LEN {
            return Err(Error::resource_exhausted(format!(
                "the names in the archive are longer than {MAX_NAMES_LEN} bytes altogether"
            )));
        }
        self.nodes.insert(name, node);
        Ok(())
    }

    /// Finds a file, through links; `None` where there is no such name.
    ///
    /// # Errors
    /// `InvalidArgument` for links that lead round in a circle, out of the archive, or to nothing, and for more than 40 in a row.
    pub(crate) fn file(&self, name: &str) -> Result<Option<&Node>> {
        let Some(mut node) = self.nodes.get(name) else { return Ok(None) };
        let mut seen = HashSet::from([name]);
        while let Node::Link(target) = node {
            let dangling = |to: &str| {
                Error::invalid_argument(format!("{name:?} in the archive is a link that leads to {to}"))
            };
            let target = target.as_deref().ok_or_else(|| dangling("something outside of it"))?;
            if !seen.insert(target) {
                return Err(dangling("itself"));
            }
            // The name itself is among them.
            if seen.len() > MAX_LINKS + 1 {
                return Err(dangling(&format!("a row of more than {MAX_LINKS} links")));
            }
            let missing = || dangling(&format!("{target:?}, which the archive does not have"));
            node = self.nodes.get(target).ok_or_else(missing)?;
        }
        Ok(Some(node))
    }

    /// Reads a whole file, through links.
    ///
    /// # Errors
    /// As [`Contents::file`]; `ResourceExhausted` when it is longer than `limit`; those of the store.
    pub(crate) async fn read(
        &self,
        provider: &dyn Provider,
        name: &str,
        limit: u64,
    ) -> Result<Option<Bytes>> {
        match self.file(name)? {
            None | Some(Node::Link(_)) => Ok(None),
            Some(Node::Document(bytes)) => Ok(Some(bytes.clone())),
            Some(Node::Blob(digest, size)) => {
                let descriptor = Descriptor::new("", digest.clone(), *size);
                let cannot = || format!("cannot read {name:?} of the archive");
                read_blob(provider, &descriptor, limit).await.context(cannot).map(Some)
            }
        }
    }
}

/// Cleans a name: no empty parts, no `.`, no `..`, no slash at the start. `None` for one that leads out of the archive, is not text,
/// or names the archive itself.
pub(crate) fn clean(name: &[u8]) -> Option<String> {
    join("", std::str::from_utf8(name).ok()?)
}

/// Where a symbolic link leads. An absolute one starts at the archive's root.
pub(crate) fn link_target(name: &str, link: &[u8]) -> Option<String> {
    let directory = name.rsplit_once('/').map_or("", |(directory, _)| directory);
    join(directory, std::str::from_utf8(link).ok()?)
}

fn join(directory: &str, path: &str) -> Option<String> {
    let directory = if path.starts_with('/') { "" } else { directory };
    let mut parts = Vec::new();
    for part in directory.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cleaned() {
        for (name, expected) in [
            (&b"index.json"[..], Some("index.json")),
            (b"./index.json", Some("index.json")),
            (b"/a//b/./c/", Some("a/b/c")),
            (b"a/../b", Some("b")),
            (b"..a/b..", Some("..a/b..")),
            (b"../a", None),
            (b"a/../../a", None),
            (b"/../a", None),
            (b"", None),
            (b"./", None),
            (b"a/..", None),
            (b"\xff", None),
        ] {
            assert_eq!(clean(name).as_deref(), expected, "{}", String::from_utf8_lossy(name));
        }
    }

    #[test]
    fn links_stay_inside() {
        for (name, link, expected) in [
            ("a/layer.tar", "../b/layer.tar", Some("b/layer.tar")),
            ("a/layer.tar", "layer2.tar", Some("a/layer2.tar")),
            ("layer.tar", "b/layer.tar", Some("b/layer.tar")),
            ("a/layer.tar", "/b/layer.tar", Some("b/layer.tar")),
            ("a/layer.tar", "/etc/shadow", Some("etc/shadow")),
            ("a/layer.tar", "../../etc/shadow", None),
            ("layer.tar", "../layer.tar", None),
        ] {
            assert_eq!(link_target(name, link.as_bytes()).as_deref(), expected, "{name} -> {link}");
        }
    }

    #[test]
    fn links_are_followed_to_a_file_or_refused() {
        let mut contents = Contents::default();
        let file = Node::Document(Bytes::from_static(b"x"));
        let link = |to: &str| Node::Link(Some(to.to_owned()));
        for (name, node) in [
            ("file", file.clone()),
            ("one", link("file")),
            ("two", link("one")),
            ("self", link("self")),
            ("a", link("b")),
            ("b", link("a")),
            ("into", link("a")),
            ("dangling", link("nothing")),
            ("out", Node::Link(None)),
        ] {
            contents.add(name.to_owned(), node).expect("new");
        }
        for name in ["file", "one", "two"] {
            assert_eq!(contents.file(name).expect("there"), Some(&file), "{name}");
        }
        assert_eq!(contents.file("nothing").expect("looks"), None);
        for (name, words) in [
            ("self", "itself"),
            ("a", "itself"),
            ("into", "itself"),
            ("dangling", "\"nothing\""),
            ("out", "outside"),
        ] {
            let error = contents.file(name).expect_err(name).to_string();
            assert!(error.contains(words), "{error}");
        }
        contents.add("file".into(), file).expect("the same again");
        contents.add("file".into(), Node::Document(Bytes::from_static(b"y"))).expect_err("another one");
        contents.add("one".into(), link("two")).expect_err("another link");
    }

    #[test]
    fn links_in_a_row_are_limited() {
        let mut contents = Contents::default();
        let file = Node::Document(Bytes::from_static(b"x"));
        contents.add("0".into(), file.clone()).expect("new");
        for at in 1..=1000 {
            contents.add(at.to_string(), Node::Link(Some((at - 1).to_string()))).expect("new");
        }
        assert_eq!(contents.file("40").expect("40 links"), Some(&file));
        for name in ["41", "1000"] {
            let error = contents.file(name).expect_err("too many");
            assert_eq!(error.kind(), wharf_content::ErrorKind::InvalidArgument);
            let told = error.to_string();
            assert!(told.contains(&format!("{name:?}")) && told.contains("more than 40"), "{told}");
        }
    }

    #[test]
    fn names_are_limited() {
        let mut contents = Contents::default();
        let outcome = (0..20_000)
            .try_for_each(|at| contents.add(format!("{at}{}", "x".repeat(4000)), Node::Link(None)));
        assert_eq!(outcome.expect_err("too many").kind(), wharf_content::ErrorKind::ResourceExhausted);
    }
}
