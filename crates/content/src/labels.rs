//! Labels: the small mutable facts beside immutable content.

use std::collections::BTreeMap;

use crate::error::{Error, Result};

/// Labels of a blob, an image or a lease, sorted by key.
pub type Labels = BTreeMap<String, String>;

/// The most bytes that key and value of one label have together (containerd: `pkg/labels/validate.go`).
pub const MAX_LABEL_LEN: usize = 4096;

/// The prefix of the labels that steer collection. Content never sets one of its own accord.
pub const GC_PREFIX: &str = "containerd.io/gc.";

/// Label on a parent that keeps a child from being collected; a suffix starting with `.` or `/` tells several apart.
pub const GC_REF_CONTENT: &str = "containerd.io/gc.ref.content";

/// Label prefix that records the repositories of a registry host from which a blob came.
pub const DISTRIBUTION_SOURCE: &str = "containerd.io/distribution.source.";

/// Checks every label against [`MAX_LABEL_LEN`].
///
/// # Errors
/// `InvalidArgument` names the first label that is too long or has an empty key.
pub fn validate(labels: &Labels) -> Result<()> {
    for (key, value) in labels {
        validate_one(key, value)?;
    }
    Ok(())
}

/// Checks one label against [`MAX_LABEL_LEN`].
///
/// # Errors
/// `InvalidArgument` when key and value are too long together, or the key is empty.
pub fn validate_one(key: &str, value: &str) -> Result<()> {
    if key.is_empty() {
        return Err(Error::invalid_argument("a label needs a key"));
    }
    let len = key.len() + value.len();
    if len > MAX_LABEL_LEN {
        let shown: String = key.chars().take(64).collect();
        return Err(Error::invalid_argument(format!(
            "label {shown:?} is too long: key and value have {len} bytes, at most {MAX_LABEL_LEN} are allowed"
        )));
    }
    Ok(())
}

/// Changes `labels` as an update by field paths asks: `labels` replaces all, `labels.<key>` sets or removes one, and no
/// path at all replaces all (containerd: `core/content`, `Manager.Update`).
///
/// # Errors
/// `InvalidArgument` for a field path that names nothing that can be changed, or a label that is too long.
pub fn apply(labels: &mut Labels, wanted: &Labels, fieldpaths: &[&str]) -> Result<()> {
    if fieldpaths.is_empty() {
        return replace(labels, wanted);
    }
    for path in fieldpaths {
        if *path == "labels" {
            replace(labels, wanted)?;
        } else if let Some(key) = path.strip_prefix("labels.") {
            match wanted.get(key).filter(|value| !value.is_empty()) {
                Some(value) => {
                    validate_one(key, value)?;
                    labels.insert(key.to_owned(), value.clone());
                }
                None => {
                    labels.remove(key);
                }
            }
        } else {
            return Err(Error::invalid_argument(format!(
                "cannot update field {path:?}: only labels and labels.<key> can be changed"
            )));
        }
    }
    Ok(())
}

fn replace(labels: &mut Labels, wanted: &Labels) -> Result<()> {
    validate(wanted)?;
    labels.clone_from(wanted);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    type Pairs<'a> = &'a [(&'a str, &'a str)];

    fn labels(pairs: Pairs<'_>) -> Labels {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn limit_is_inclusive() {
        assert!(validate_one("k", &"v".repeat(4095)).is_ok());
        assert!(validate_one("k", &"v".repeat(4096)).is_err());
        assert!(validate_one("", "v").is_err());
    }

    #[test]
    fn fieldpaths() {
        let start = labels(&[("a", "1"), ("b", "2")]);
        let cases: &[(Pairs<'_>, &[&str], Pairs<'_>)] = &[
            (&[("c", "3")], &[], &[("c", "3")]),
            (&[("c", "3")], &["labels"], &[("c", "3")]),
            (&[("c", "3"), ("d", "4")], &["labels.c"], &[("a", "1"), ("b", "2"), ("c", "3")]),
            (&[("a", "")], &["labels.a"], &[("b", "2")]),
            (&[], &["labels.a", "labels.b"], &[]),
        ];
        for (wanted, paths, expected) in cases {
            let mut now = start.clone();
            apply(&mut now, &labels(wanted), paths).expect("valid paths");
            assert_eq!(now, labels(expected), "{paths:?}");
        }
        assert!(apply(&mut start.clone(), &start, &["size"]).is_err());
    }
}
