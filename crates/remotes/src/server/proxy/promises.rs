//! What manifests promise of their parts, so that an upstream need not be asked for it.
//!
//! A promise is anybody's word: what it says of content is checked when that comes, and one that was wrong is forgotten.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use wharf_content::{Descriptor, Digest};

/// The most promises that are remembered; beyond it the upstream is asked.
const MAX_REMEMBERED: usize = 16 * 1024;
/// A part with a longer type is not remembered: no type that anybody knows is as long.
const MAX_TYPE_LEN: usize = 256;

/// Descriptors of content that may be asked for.
#[derive(Debug, Default)]
pub(super) struct Promises(Mutex<HashMap<Digest, Descriptor>>);

impl Promises {
    /// Remembers parts, by type and size alone.
    pub(super) fn note<'a>(&self, parts: impl IntoIterator<Item = &'a Descriptor>) {
        let mut promises = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for part in parts.into_iter().filter(|part| part.media_type.len() <= MAX_TYPE_LEN) {
            if promises.len() >= MAX_REMEMBERED {
                promises.clear();
            }
            let plain = Descriptor::new(&*part.media_type, part.digest.clone(), part.size);
            promises.insert(part.digest.clone(), plain);
        }
    }

    pub(super) fn of(&self, digest: &Digest) -> Option<Descriptor> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(digest).cloned()
    }

    pub(super) fn forget(&self, digest: &Digest) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(digest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn promises_are_bounded_and_can_be_taken_back() {
        let promises = Promises::default();
        let part = Descriptor::of("a/b", b"part").with_annotation("key", "long");
        promises.note([&part]);
        assert_eq!(promises.of(&part.digest), Some(Descriptor::of("a/b", b"part")));
        promises.forget(&part.digest);
        assert_eq!(promises.of(&part.digest), None);
        promises.note([&Descriptor::of("a".repeat(MAX_TYPE_LEN + 1), b"part")]);
        assert_eq!(promises.of(&part.digest), None, "strangers choose how long a type is");
        let many: Vec<Descriptor> =
            (0..=MAX_REMEMBERED).map(|number| Descriptor::of("a/b", number.to_string().as_bytes())).collect();
        promises.note(&many);
        assert!(promises.0.lock().expect("not poisoned").len() <= MAX_REMEMBERED);
        assert!(promises.of(&many[MAX_REMEMBERED].digest).is_some());
    }
}
