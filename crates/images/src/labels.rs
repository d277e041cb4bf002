//! The labels on a parent that hold its children against collection.
//!
//! Because edges are labels, a collector needs to know no media type (containerd: `core/images/mediatypes.go`, `ChildGCLabels`).

use std::collections::BTreeMap;

use wharf_content::{Descriptor, Labels, Manager, Result, labels::GC_REF_CONTENT};

use crate::media_types;

/// The key for a child, without the index that tells several apart. A key that ends in `.` always takes an index.
pub fn child_key(child: &Descriptor) -> String {
    let media_type = child.media_type.as_str();
    let suffix = if media_types::is_known_config(media_type) {
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

/// The labels that hold `children`.
pub fn child_labels(children: &[Descriptor]) -> Labels {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let mut labels = Labels::new();
    for child in children {
        let key = child_key(child);
        let count = counts.entry(key.clone()).or_default();
        let label = if key.ends_with('.') || *count > 0 { format!("{key}{count}") } else { key };
        *count += 1;
        labels.insert(label, child.digest.to_string());
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
    let wanted = child_labels(children);
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
}
