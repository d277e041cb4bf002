//! The labels on a parent that hold its children against collection.
//!
//! Because edges are labels, a collector needs to know no media type (containerd: `core/images/mediatypes.go`, `ChildGCLabels`).

use std::{collections::BTreeMap, fmt, sync::Arc};

use wharf_content::{Descriptor, Digest, Labels, Manager, Result, labels::GC_REF_CONTENT};

use crate::media_types;

/// Annotation on the descriptor of a referrer with the digest of its subject. It is set by whoever finds the referrer
/// (containerd: `core/images/annotations.go`).
pub const ANNOTATION_SUBJECT: &str = "io.containerd.manifest.subject";

/// What stands behind [`GC_REF_CONTENT`] in the keys of referrers, before the digits that tell them apart.
const REFERRER: &str = ".referrer.sha256.";

/// How many hexadecimal digits of a child's digest tell it from others under a key that ends in `.sha256.`.
const SHORT_LEN: usize = 12;

/// The key for a child, without what tells several apart: a key that ends in `.sha256.` always takes the first digits of the digest, another
/// that ends in `.` always an index.
pub fn child_key(child: &Descriptor) -> String {
    let media_type = child.media_type.as_str();
    let suffix = if child.annotations.contains_key(ANNOTATION_SUBJECT) {
        REFERRER
    } else if media_types::is_known_config(media_type) {
        ".config"
    } else if media_types::is_manifest(media_type) {
        ".m."
    } else if media_types::is_layer(media_type) {
        ".l."
    } else {
        "."
    };
    format!("{GC_REF_CONTENT}{suffix}")
}

/// Tells the keys of the labels that a child gets on its parent; none for a child that the parent does not hold.
#[derive(Clone)]
pub struct LabelKeys(Arc<KeyFn>);

type KeyFn = dyn Fn(&Descriptor) -> Vec<String> + Send + Sync;

impl LabelKeys {
    /// Keys of the caller's. Only those that begin with `containerd.io/gc.ref.content` hold anything against collection.
    pub fn new(keys: impl Fn(&Descriptor) -> Vec<String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(keys))
    }
}

impl Default for LabelKeys {
    /// Those of [`child_key`].
    fn default() -> Self {
        Self::new(|child| vec![child_key(child)])
    }
}

impl fmt::Debug for LabelKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LabelKeys")
    }
}

/// The referrers that the labels of a subject hold under the keys of [`child_key`]. Whether they refer to it tells their own content alone.
pub fn held_referrers(labels: &Labels) -> impl Iterator<Item = Digest> {
    let held = labels.iter().filter(|(key, _)| {
        key.strip_prefix(GC_REF_CONTENT).is_some_and(|suffix| suffix.starts_with(REFERRER))
    });
    held.filter_map(|(_, value)| value.parse().ok())
}

/// The labels that hold `children`.
pub fn child_labels(children: &[Descriptor]) -> Labels {
    mapped_labels(children, &LabelKeys::default())
}

/// The labels of `children` under keys of the caller's.
pub fn mapped_labels(children: &[Descriptor], keys: &LabelKeys) -> Labels {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let mut labels = Labels::new();
    for child in children {
        let digest = child.digest.to_string();
        for key in (keys.0)(child) {
            let count = counts.entry(key.clone()).or_default();
            let mut label = if key.ends_with(".sha256.") {
                format!("{key}{}", &child.digest.hex()[..SHORT_LEN])
            } else if key.ends_with('.') || *count > 0 {
                format!("{key}{count}")
            } else {
                key.clone()
            };
            *count += 1;
            // Twelve digits can be made to meet on purpose, and both children have to be held.
            if labels.get(&label).is_some_and(|held| *held != digest) {
                label = format!("{key}{}", child.digest.hex());
            }
            labels.insert(label, digest.clone());
        }
    }
    labels
}

/// Writes the labels that hold `children` onto `parent`; its other labels stay.
///
/// # Errors
/// `NotFound` when the parent is not in the store.
pub async fn hold_children(
    manager: &dyn Manager,
    parent: &Descriptor,
    children: &[Descriptor],
) -> Result<()> {
    hold_children_mapped(manager, parent, children, &LabelKeys::default()).await
}

/// As [`hold_children`], under keys of the caller's.
///
/// # Errors
/// `NotFound` when the parent is not in the store; `InvalidArgument` for a key that is empty or too long.
pub async fn hold_children_mapped(
    manager: &dyn Manager,
    parent: &Descriptor,
    children: &[Descriptor],
    keys: &LabelKeys,
) -> Result<()> {
    let wanted = mapped_labels(children, keys);
    let current = manager.info(&parent.digest).await?.labels;
    if wanted.iter().all(|(key, value)| current.get(key) == Some(value)) {
        return Ok(());
    }
    let paths: Vec<String> = wanted.keys().map(|key| format!("labels.{key}")).collect();
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    manager.update(&parent.digest, &wanted, &paths).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_follow_the_kind_of_the_child() {
        let child = |media_type: &str| Descriptor::of(media_type, media_type.as_bytes());
        let children = [
            child(media_types::OCI_CONFIG),
            child(media_types::OCI_LAYER),
            child(media_types::DOCKER_LAYER_GZIP),
            child(media_types::OCI_MANIFEST),
            child(media_types::OCI_INDEX),
            child("application/x-other"),
            child(media_types::DOCKER_CONFIG),
        ];
        let labels = child_labels(&children);
        let keys: Vec<_> =
            labels.keys().map(|key| key.strip_prefix(GC_REF_CONTENT).expect("prefix")).collect();
        assert_eq!(keys, [".0", ".1", ".config", ".config1", ".l.0", ".l.1", ".m.0"]);
        assert_eq!(labels["containerd.io/gc.ref.content.l.1"], children[2].digest.as_str());
    }

    #[test]
    fn referrers_are_told_apart_by_their_digest() {
        let referrer = |text: &str| {
            Descriptor::of(media_types::OCI_MANIFEST, text.as_bytes())
                .with_annotation(ANNOTATION_SUBJECT, "x")
        };
        let children = [referrer("a"), referrer("b"), Descriptor::of(media_types::OCI_MANIFEST, b"c")];
        let labels = child_labels(&children);
        let prefix = "containerd.io/gc.ref.content.referrer.sha256.";
        for child in &children[..2] {
            assert_eq!(labels[&format!("{prefix}{}", &child.digest.hex()[..12])], child.digest.as_str());
        }
        assert_eq!(labels["containerd.io/gc.ref.content.m.0"], children[2].digest.as_str());
        let mut expected: Vec<Digest> = children[..2].iter().map(|child| child.digest.clone()).collect();
        expected.sort_by_key(|digest| digest.hex()[..12].to_owned());
        let mut odd = labels.clone();
        odd.insert(format!("{prefix}odd"), "no digest".to_owned());
        odd.insert("containerd.io/gc.ref.content".to_owned(), children[2].digest.to_string());
        for labels in [&labels, &odd] {
            assert_eq!(held_referrers(labels).collect::<Vec<_>>(), expected);
        }

        // One prefix, two digests: neither is let go.
        let with_end = |end: &str| {
            let digest = format!("sha256:{}{end}", "0".repeat(63)).parse().expect("a digest");
            Descriptor::new("x", digest, 1).with_annotation(ANNOTATION_SUBJECT, "x")
        };
        let children = [with_end("1"), with_end("2"), with_end("1")];
        let labels = child_labels(&children);
        let held: Vec<_> = labels.values().map(String::as_str).collect();
        assert_eq!(held, [children[0].digest.as_str(), children[1].digest.as_str()]);
        assert_eq!(held_referrers(&labels).count(), 2);
    }

    /// For keys of one child each: the labels.
    #[test]
    fn indexes_follow_the_keys_of_the_caller() {
        let children = ["a", "b", "c"].map(|text| Descriptor::of("x", text.as_bytes()));
        let hex = |at: usize| children[at].digest.hex()[..12].to_owned();
        let cases: [(&[&str], Vec<String>); 5] = [
            (&["k"], vec!["k".into(), "k1".into(), "k2".into()]),
            (&["k."], vec!["k.0".into(), "k.1".into(), "k.2".into()]),
            (&["k.sha256."], (0..3).map(|at| format!("k.sha256.{}", hex(at))).collect()),
            (&[], vec![]),
            (&["k", "j."], ["k", "j.0", "k1", "j.1", "k2", "j.2"].map(str::to_owned).to_vec()),
        ];
        for (keys, mut expected) in cases {
            let owned: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
            let labels = mapped_labels(&children, &LabelKeys::new(move |_| owned.clone()));
            expected.sort();
            assert_eq!(labels.into_keys().collect::<Vec<_>>(), expected, "{keys:?}");
        }
    }
}
