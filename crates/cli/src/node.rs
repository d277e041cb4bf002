//! What decoders say of one node, for `tree` and `inspect`: bounded, since it comes from strangers, and with what is wrong with a leaf in
//! place of an error.

use std::collections::BTreeMap;

use serde::Serialize;
use wharf_content::{Catalogue, Descriptor, Digest, ErrorKind, Provider, Result};
use wharf_images::{
    Decoded, Kind,
    decode::{MAX_LEAF_LEN, kind},
    describe,
};
use wharf_remotes::RemoteError;

use crate::output::escape;

/// The most bytes that are fetched of a leaf at a remote place only to describe it.
const MAX_REMOTE_LEAF_LEN: u64 = 256 * 1024;

/// How much is shown, in characters and facts.
const MAX_LINE: usize = 200;
const MAX_NAME: usize = 128;
const MAX_VALUE: usize = 1024;
const MAX_FACTS: usize = 64;

/// Where a node is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The store.
    Local,
    /// Somewhere else: whatever is read is fetched.
    Remote,
}

/// What is shown of a node beside its descriptor.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Said {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) description: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<Digest>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    facts: BTreeMap<String, String>,
    /// How many facts are not shown.
    #[serde(skip_serializing_if = "is_zero")]
    facts_left_out: usize,
    /// Why a leaf says nothing, where it should.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

impl Said {
    /// What is shown of `decoded`.
    pub(crate) fn new(decoded: &Decoded) -> Self {
        let artifact = || Some(format!("artifact {}", decoded.artifact_type.as_ref()?));
        Self {
            description: decoded.description.clone().or_else(artifact).map(|text| cut(&text, MAX_LINE)),
            subject: decoded.subject.as_ref().map(|subject| subject.digest.clone()),
            facts: decoded
                .facts
                .iter()
                .take(MAX_FACTS)
                .map(|(name, value)| (cut(name, MAX_NAME), cut(value, MAX_VALUE)))
                .collect(),
            facts_left_out: decoded.facts.len().saturating_sub(MAX_FACTS),
            problem: None,
        }
    }

    /// The lines below the first, made harmless for a terminal.
    pub(crate) fn lines(&self) -> Vec<String> {
        let subject = self.subject.iter().map(|digest| format!("subject: {digest}"));
        let facts = self.facts.iter().map(|(name, value)| format!("{}: {}", escape(name), escape(value)));
        let more = (self.facts_left_out > 0).then(|| format!("and {} more facts", self.facts_left_out));
        let problem = self.problem.iter().map(|problem| format!("problem: {}", escape(problem)));
        subject.chain(facts).chain(more).chain(problem).collect()
    }
}

/// The beginning of a text that may be long.
pub(crate) fn cut(text: &str, most: usize) -> String {
    let mut characters = text.chars();
    let mut shown: String = characters.by_ref().take(most).collect();
    if characters.next().is_some() {
        shown.push('…');
    }
    shown
}

/// Reads a node, and says what is shown of it. A leaf that cannot be read says why; one that is not there says nothing.
///
/// # Errors
/// Those of reading a manifest or index, and of reaching a remote place.
pub(crate) async fn read(
    provider: &dyn Provider,
    descriptor: &Descriptor,
    place: Place,
    catalogue: &Catalogue,
) -> Result<(Decoded, Said)> {
    let limit = match place {
        Place::Local => MAX_LEAF_LEN,
        Place::Remote => MAX_REMOTE_LEAF_LEN,
    };
    let is_leaf = !kind(&descriptor.media_type, catalogue)?.is_some_and(Kind::is_manifest);
    match describe(provider, descriptor, limit, catalogue).await {
        Ok(decoded) => {
            let said = Said::new(&decoded);
            Ok((decoded, said))
        }
        Err(error) if is_leaf => match error.kind() {
            ErrorKind::NotFound if place == Place::Local => Ok(Default::default()),
            // What a decoder makes of it, or a plugin that fails, says something of the leaf alone.
            kind if kind != ErrorKind::Aborted && RemoteError::of(&error).is_none() => {
                let problem = Some(cut(&error.report(), MAX_VALUE));
                Ok((Decoded::default(), Said { problem, ..Said::default() }))
            }
            _ => Err(error),
        },
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_strangers_say_is_bounded_and_harmless() {
        let mut decoded = Decoded::default();
        decoded.description = Some("é".repeat(10_000));
        decoded.facts =
            (0..1000).map(|at| (format!("{at:04}\u{1b}]52"), "v\r\n\u{202e}".repeat(5000))).collect();
        let said = Said::new(&decoded);
        assert_eq!(said.description.as_ref().map(|text| text.chars().count()), Some(MAX_LINE + 1));
        let lines = said.lines();
        assert_eq!(lines.len(), MAX_FACTS + 1);
        assert!(lines.iter().all(|line| !line.contains(char::is_control) && !line.contains('\u{202e}')));
        assert!(lines.iter().all(|line| line.chars().count() < 20 * MAX_VALUE));
        assert_eq!(lines.last().map(String::as_str), Some("and 936 more facts"));
    }

    #[test]
    fn an_artifact_without_a_description_is_told_by_its_type() {
        let mut decoded = Decoded::default();
        assert_eq!(Said::new(&decoded).description, None);
        decoded.artifact_type = Some("application/x-thing".into());
        assert_eq!(Said::new(&decoded).description.as_deref(), Some("artifact application/x-thing"));
    }
}
