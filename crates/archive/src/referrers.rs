//! What refers to images of an archive, such as signatures: which of it goes into one, and how it is held when it comes out.
//!
//! In `index.json` it stands as an entry without a name, by which it is found again.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use wharf_content::{Descriptor, Digest, Provider, Result, ResultExt, Store, reading::exists};
use wharf_images::{
    Image, Selection, image,
    labels::{self, ANNOTATION_SUBJECT},
    progress::Event,
    referrers::ReferrersProvider,
};

use crate::{
    naming::list,
    options::ImportOptions,
    transport::{ListedReferrers, Title, plain},
    whole::Wholeness,
};

/// Remembers what was found.
#[derive(Debug)]
pub(crate) struct Found {
    inner: Arc<dyn ReferrersProvider>,
    found: Mutex<BTreeMap<Digest, Descriptor>>,
}

impl Found {
    pub(crate) fn new(inner: Arc<dyn ReferrersProvider>) -> Self {
        Self { inner, found: Mutex::default() }
    }

    fn found(&self) -> MutexGuard<'_, BTreeMap<Digest, Descriptor>> {
        // Nothing panics while it is held.
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All of it, without what descriptions add, by digest.
    pub(crate) fn all(&self) -> Vec<Descriptor> {
        self.found().values().map(plain).collect()
    }
}

#[async_trait]
impl ReferrersProvider for Found {
    async fn referrers(&self, subject: &Descriptor) -> Result<Vec<Descriptor>> {
        let found = self.inner.referrers(subject).await?;
        self.found().extend(found.iter().map(|referrer| (referrer.digest.clone(), referrer.clone())));
        Ok(found)
    }
}

/// Takes out of `entries` those without a name that refer to something that the store has, unless there is nothing else.
///
/// # Errors
/// Those of the store and the catalogue.
pub(crate) async fn take_out(
    entries: &mut Vec<Descriptor>,
    store: &dyn Store,
    options: &ImportOptions,
) -> Result<ListedReferrers> {
    let is_unnamed = |entry: &Descriptor| Title::of_entry(entry).is_none();
    let unnamed: Vec<Descriptor> = entries.iter().filter(|entry| is_unnamed(entry)).cloned().collect();
    let mut listed = ListedReferrers::gather(store, &unnamed, &options.catalogue).await?;
    for subject in listed.subjects() {
        if !exists(store, &subject).await? {
            listed.forget(&subject);
        }
    }
    let taken: BTreeSet<&Digest> = listed.all().map(|referrer| &referrer.digest).collect();
    let is_other = |entry: &Descriptor| !is_unnamed(entry) || !taken.contains(&entry.digest);
    if entries.iter().any(is_other) {
        entries.retain(is_other);
        return Ok(listed);
    }
    Ok(ListedReferrers::default())
}

/// Holds what refers to images by labels on what it refers to. What is not whole, or refers to nothing of these images, is left out with a
/// warning.
///
/// # Errors
/// Those of the store and the decoders.
pub(crate) async fn hold(
    store: &Arc<dyn Store>,
    images: &[Image],
    listed: &ListedReferrers,
    options: &ImportOptions,
) -> Result<()> {
    if listed.all().next().is_none() {
        return Ok(());
    }
    let selection = options.selection.clone().unwrap_or_else(Selection::all);
    let wholeness = Wholeness::new(Arc::clone(store), options);
    let provider = Arc::clone(store) as Arc<dyn Provider>;
    let targets: BTreeMap<&Digest, &Descriptor> =
        images.iter().map(|image| (&image.target.digest, &image.target)).collect();
    let mut roots: Vec<Descriptor> = targets.into_values().cloned().collect();
    let mut seen = BTreeSet::new();
    while let Some(root) = roots.pop() {
        let check = image::check(Arc::clone(&provider), &root, &selection, &options.catalogue).await?;
        for part in check.present {
            if !seen.insert(part.digest.clone()) {
                continue;
            }
            let mut held = Vec::new();
            for referrer in listed.referrers(&part).await? {
                if wholeness.missing(&referrer).await?.is_empty() {
                    roots.push(referrer.clone());
                    held.push(referrer.with_annotation(ANNOTATION_SUBJECT, part.digest.as_str()));
                }
            }
            if !held.is_empty() {
                labels::hold_children(store.as_ref(), &part, &held)
                    .await
                    .context(|| format!("cannot label {}", part.digest))?;
            }
        }
    }
    let strays: Vec<String> = listed
        .all()
        .filter(|referrer| !seen.contains(&referrer.digest))
        .map(|referrer| referrer.digest.to_string())
        .collect();
    if !strays.is_empty() {
        let text = format!(
            "what refers to images is left out where it is not whole, or refers to none of those that are imported: {}",
            list(&strays)
        );
        options.sink.event(&Event::Warning { text: &text });
    }
    Ok(())
}
