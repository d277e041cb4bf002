//! What a repair fetches, and who describes it: an image, a document that is still here, or nobody.

use std::collections::{BTreeMap, BTreeSet};

use wharf_content::{
    Catalogue, Descriptor, Digest, Info, Labels, Result, Store, filter::FilterSet, labels::GC_REF_CONTENT,
    read_blob,
};
use wharf_images::{decode, decode::MAX_MANIFEST_LEN, sniff};

/// What is to be fetched.
#[derive(Clone, Debug)]
pub(super) enum Wanted {
    /// As an image or another document describes it.
    Described(Box<Descriptor>),
    /// What only a lease or a label keeps and nothing describes; how large it is and of what type, a registry has to tell.
    Named(Digest),
}

impl Wanted {
    pub(super) fn digest(&self) -> &Digest {
        match self {
            Self::Described(descriptor) => &descriptor.digest,
            Self::Named(digest) => digest,
        }
    }
}

/// Whether the labels of a blob say that it refers to others.
pub(super) fn is_parent(labels: &Labels) -> bool {
    labels.keys().any(|key| key.starts_with(GC_REF_CONTENT))
}

/// What documents of the store say of some blobs. A document is found by its labels; one that cannot be read describes nothing.
///
/// # Errors
/// Those of the store's walk.
pub(super) async fn descriptions(
    store: &dyn Store,
    lost: &BTreeSet<Digest>,
    catalogue: &Catalogue,
) -> Result<BTreeMap<Digest, Descriptor>> {
    let mut parents = Vec::new();
    let is_lost = |value: &String| value.parse().is_ok_and(|digest: Digest| lost.contains(&digest));
    let mut visit = |info: Info| {
        if info.labels.iter().any(|(key, value)| key.starts_with(GC_REF_CONTENT) && is_lost(value)) {
            parents.push(Descriptor::new("", info.digest, info.size));
        }
        Ok(())
    };
    store.walk(&FilterSet::all(), &mut visit).await?;
    let mut found = BTreeMap::new();
    for mut parent in parents {
        let Ok(bytes) = read_blob(store, &parent, MAX_MANIFEST_LEN).await else { continue };
        let Some(media_type) = sniff::document(&bytes) else { continue };
        parent.media_type = media_type;
        let Ok(Some(decoded)) = decode(store, &parent, catalogue).await else { continue };
        let children = decoded.descriptors().into_iter().filter(|child| lost.contains(&child.digest));
        found.extend(children.map(|child| (child.digest.clone(), child)));
    }
    Ok(found)
}
