//! Directories that a layer needs and does not describe at that time: what is made for them is a stand-in for a directory of the layers
//! below, which has the owner, the mode and the times.

use wharf_content::{Error, ErrorKind, Result};

/// The most bytes of paths that are remembered. A layer that people make has a few thousand.
const MAX_LEN: usize = 64 * 1024 * 1024;

/// Directories of one path that were implied: the last so many of its components.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Implied {
    /// A path below the root, without links.
    pub(crate) path: Vec<u8>,
    /// How many of its components were made, from its end.
    pub(crate) made: usize,
}

/// Collects them. What is made below each other in one go is one.
#[derive(Debug, Default)]
pub(super) struct List {
    list: Vec<Implied>,
    len: usize,
}

impl List {
    /// Adds a directory.
    ///
    /// # Errors
    /// `ResourceExhausted` for more than anybody needs.
    pub(super) fn add(&mut self, path: Vec<u8>) -> Result<()> {
        let parent = path.iter().rposition(|byte| *byte == b'/').map(|at| &path[..at]);
        match self.list.last_mut() {
            Some(last) if parent == Some(&last.path[..]) => {
                self.len += path.len() - last.path.len();
                last.path = path;
                last.made += 1;
            }
            _ => {
                self.len += path.len() + size_of::<Implied>();
                self.list.push(Implied { path, made: 1 });
            }
        }
        if self.len > MAX_LEN {
            let what = "more directories are implied by names in them than anybody needs";
            return Err(Error::new(ErrorKind::ResourceExhausted, what));
        }
        Ok(())
    }

    pub(super) fn finish(self) -> Vec<Implied> {
        self.list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_in_one_go_is_one() {
        let mut list = List::default();
        for path in ["a", "a/b", "a/b/c", "a/d", "ab", "x/y"] {
            list.add(path.into()).expect("adds");
        }
        let found: Vec<_> = list
            .finish()
            .into_iter()
            .map(|one| (String::from_utf8(one.path).expect("text"), one.made))
            .collect();
        let expected = [("a/b/c", 3), ("a/d", 1), ("ab", 1), ("x/y", 1)];
        assert_eq!(found, expected.map(|(path, made)| (path.to_owned(), made)));
    }
}
