//! What manifests promise of their parts, so that an upstream need not be asked for it.
//!
//! A promise is anybody's word: what it says of content is checked when that comes, and one that was wrong is forgotten. It counts in the
//! repository of who has given it, so that nobody speaks for another one's content.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use wharf_content::{Descriptor, Digest, Error, ErrorKind};

/// The most promises that are remembered; beyond it the upstream is asked.
const MAX_REMEMBERED: usize = 16 * 1024;
/// A part with a longer type is not remembered: no type that anybody knows is as long.
const MAX_TYPE_LEN: usize = 256;

/// Descriptors of content that may be asked for.
#[derive(Debug, Default)]
pub(super) struct Promises(Mutex<HashMap<(String, Digest), Descriptor>>);

impl Promises {
    /// Remembers parts of a manifest of the repository, by type and size alone.
    pub(super) fn note<'a>(&self, repository: &str, parts: impl IntoIterator<Item = &'a Descriptor>) {
        let mut promises = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for part in parts.into_iter().filter(|part| part.media_type.len() <= MAX_TYPE_LEN) {
            if promises.len() >= MAX_REMEMBERED {
                promises.clear();
            }
            let plain = Descriptor::new(&*part.media_type, part.digest.clone(), part.size);
            promises.insert((repository.to_owned(), part.digest.clone()), plain);
        }
    }

    pub(super) fn of(&self, repository: &str, digest: &Digest) -> Option<Descriptor> {
        let key = (repository.to_owned(), digest.clone());
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned()
    }

    /// Forgets one that came to nothing, unless the same may yet come to something.
    pub(super) fn broken(&self, repository: &str, digest: &Digest, error: &Error) {
        if !matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Aborted) {
            let key = (repository.to_owned(), digest.clone());
            self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn promises_are_bounded_and_can_be_taken_back() {
        let promises = Promises::default();
        let part = Descriptor::of("a/b", b"part").with_annotation("key", "long");
        promises.note("r", [&part]);
        assert_eq!(promises.of("r", &part.digest), Some(Descriptor::of("a/b", b"part")));
        assert_eq!(promises.of("other", &part.digest), None, "nobody speaks for another repository");
        promises.broken("r", &part.digest, &Error::new(ErrorKind::Unavailable, "later"));
        assert!(promises.of("r", &part.digest).is_some());
        for error in
            [Error::not_found("no"), Error::failed_precondition("no"), Error::resource_exhausted("no")]
        {
            promises.note("r", [&part]);
            promises.broken("r", &part.digest, &error);
            assert_eq!(promises.of("r", &part.digest), None);
        }
        promises.note("r", [&Descriptor::of("a".repeat(MAX_TYPE_LEN + 1), b"part")]);
        assert_eq!(promises.of("r", &part.digest), None, "strangers choose how long a type is");
        let many: Vec<Descriptor> =
            (0..=MAX_REMEMBERED).map(|number| Descriptor::of("a/b", number.to_string().as_bytes())).collect();
        promises.note("r", &many);
        assert!(promises.0.lock().expect("not poisoned").len() <= MAX_REMEMBERED);
        assert!(promises.of("r", &many[MAX_REMEMBERED].digest).is_some());
    }
}
