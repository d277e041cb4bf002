//! What an archive will hold, decided and found to be all there before the first byte is written.
//!
//! ```text
//! blobs/                     0755
//! blobs/sha256/              0755
//! blobs/sha256/<hex>         0444   documents, configs and layers, each once, as the store has them
//! index.json                 0644   the images, with their names
//! manifest.json              0644   for Docker, where there is anything that it can load
//! oci-layout                 0444
//! ```
//!
//! The list is in the order of names, which depends on nothing but the images.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use wharf_content::{Descriptor, Digest, Error, Provider, Result, ResultExt};
use wharf_images::{
    Children, Handler, Image, Kind, Selection,
    decode::kind,
    image,
    progress::Event,
    referrers::{ReferrersProvider, SetReferrers},
};

use crate::{
    docker::Entries,
    index::{self, index_json},
    options::{ExportOptions, Missing},
    parts::{Part, Parts},
    referrers::Found,
    transport::Title,
};

/// How many missing parts an error names: whoever brings them by other means needs all of them, and no image that people make has more.
const MAX_NAMED: usize = 200;

/// How many platforms are tried for one that could be exported instead.
const MAX_ADVISED: usize = 16;

/// The path of a blob in a layout.
pub(crate) fn blob_name(digest: &Digest) -> String {
    format!("{}{}", blob_directory(digest), digest.hex())
}

/// The directory of a blob in a layout, with its slash.
pub(crate) fn blob_directory(digest: &Digest) -> String {
    format!("blobs/{}/", digest.algorithm())
}

/// A blob of the archive, and the image for which it was found first.
#[derive(Debug)]
pub(crate) struct Blob {
    pub(crate) part: Part,
    pub(crate) image: Arc<str>,
}

/// An image that an archive is to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// What it is called in errors: its name, else its digest.
    pub(crate) label: String,
    /// What is written into index.json of it.
    pub(crate) entry: Descriptor,
}

impl Wanted {
    /// An image with its name.
    ///
    /// # Errors
    /// `InvalidArgument` for what can be no image.
    pub(crate) fn of_image(image: &Image) -> Result<Self> {
        image.validate()?;
        Ok(Self { label: image.name.clone(), entry: index::entry(image) })
    }

    /// An image as an index.json lists it.
    pub(crate) fn listed(entry: Descriptor) -> Self {
        let label = Title::of_entry(&entry).map(|title| title.shown().to_owned());
        Self { label: label.unwrap_or_else(|| entry.digest.to_string()), entry }
    }

    /// The whole name, where it has one.
    pub(crate) fn full_name(&self) -> Option<String> {
        Title::of_entry(&self.entry)?.full
    }
}

/// The contents of an archive.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) blobs: BTreeMap<Digest, Blob>,
    pub(crate) index_json: Vec<u8>,
    pub(crate) manifest_json: Option<Vec<u8>>,
    /// The files that manifest.json names.
    pub(crate) docker_files: BTreeSet<String>,
    /// The images that are not in manifest.json.
    pub(crate) unloadable: Vec<String>,
}

impl Plan {
    /// Plans an archive of `images`.
    pub(crate) async fn make(
        provider: &Arc<dyn Provider>,
        images: Vec<Wanted>,
        options: &ExportOptions,
    ) -> Result<Self> {
        let images = in_order(images)?;
        let mut children = Children::new(Arc::clone(provider))
            .with_catalogue(options.catalogue.clone())
            .with_selection(options.selection.clone())
            .with_sink(Arc::clone(&options.sink));
        if options.strict_types {
            children = children.with_strict_types();
        }
        let found = options.referrers.as_ref().map(|referrers| Arc::new(Found::new(Arc::clone(referrers))));
        let children: Arc<dyn Handler> = match &found {
            Some(found) => {
                let referrers = Arc::clone(found) as Arc<dyn ReferrersProvider>;
                Arc::new(SetReferrers::new(children, referrers).with_catalogue(options.catalogue.clone()))
            }
            None => Arc::new(children),
        };
        let mut blobs = BTreeMap::new();
        let mut missing = Vec::new();
        for image in &images {
            let name: Arc<str> = image.label.as_str().into();
            let parts = Parts::find(provider, &image.entry, &children, options)
                .await
                .context(|| format!("cannot export {name:?}"))?;
            for part in parts.present {
                let blob = |part| Blob { part, image: Arc::clone(&name) };
                blobs.entry(part.descriptor.digest.clone()).or_insert_with(|| blob(part));
            }
            missing.extend(parts.missing.into_iter().map(|descriptor| (image, descriptor)));
            if parts.skipped > 0 {
                let text =
                    format!("{} layers of {name:?} may not be distributed and are left out", parts.skipped);
                options.sink.event(&Event::Warning { text: &text });
            }
        }
        let is_rootless = |(image, part): &(&Wanted, Descriptor)| part.digest == image.entry.digest;
        if !missing.is_empty() && (options.missing == Missing::Fail || missing.iter().any(is_rootless)) {
            return Err(incomplete(provider, &missing, options).await);
        }
        if !missing.is_empty() {
            let text = format!("what the store lacks is left out: {}", list(&missing));
            options.sink.event(&Event::Warning { text: &text });
        }
        let (mut entries, mut unloadable) = (Entries::default(), Vec::new());
        if options.docker_manifest {
            for image in &images {
                let is_added = entries
                    .add(provider.as_ref(), image, options, |digest| blobs.contains_key(digest))
                    .await
                    .context(|| format!("cannot export {:?}", image.label))?;
                if !is_added {
                    unloadable.push(image.label.clone());
                }
            }
        }
        let referrers = found.map(|found| found.all()).unwrap_or_default();
        let unnamed = referrers
            .into_iter()
            .filter(|referrer| {
                blobs.contains_key(&referrer.digest)
                    && !images.iter().any(|image| image.entry.digest == referrer.digest)
            })
            .map(Wanted::listed);
        let listed = in_order(images.iter().cloned().chain(unnamed).collect())?;
        let (index_json, manifest_json) =
            (index_json(listed.iter().map(|image| &image.entry))?, entries.manifest_json()?);
        Ok(Self { index_json, manifest_json, docker_files: entries.files(), unloadable, blobs })
    }
}

/// The images sorted by name, each once.
fn in_order(mut images: Vec<Wanted>) -> Result<Vec<Wanted>> {
    if images.is_empty() {
        return Err(Error::invalid_argument("there is no image to export: name at least one"));
    }
    images.sort_by(|a, b| a.label.cmp(&b.label));
    images.dedup();
    match images.windows(2).find(|pair| pair[0].label == pair[1].label) {
        Some(pair) => Err(Error::conflict(format!(
            "two images in one archive cannot both have the name {:?}: {} and {}",
            pair[0].label, pair[0].entry.digest, pair[1].entry.digest
        ))),
        None => Ok(images),
    }
}

/// Names the first few of what is missing.
fn list(missing: &[(&Wanted, Descriptor)]) -> String {
    let named: Vec<String> = missing
        .iter()
        .take(MAX_NAMED)
        .map(|(image, part)| format!("{} ({:?}) of {:?}", part.digest, part.media_type, image.label))
        .collect();
    let more = match missing.len().saturating_sub(MAX_NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("{}{more}", named.join(", "))
}

/// Says what is missing, and what can be done about it.
async fn incomplete(
    provider: &Arc<dyn Provider>,
    missing: &[(&Wanted, Descriptor)],
    options: &ExportOptions,
) -> Error {
    let (image, _) = missing[0];
    let is_index =
        kind(&image.entry.media_type, &options.catalogue).is_ok_and(|kind| kind == Some(Kind::Index));
    let advice = if is_index {
        let complete = complete_platforms(provider, image, options).await;
        let mut advice =
            "pull the image again with --all-platforms or for the platform that is wanted".to_owned();
        if !complete.is_empty() {
            advice.push_str(", or export with --platform what is complete here: ");
            advice.push_str(&complete.join(", "));
        }
        advice
    } else {
        "pull the image again".to_owned()
    };
    Error::not_found(format!("the store lacks parts of what is to be exported: {}; {advice}", list(missing)))
}

/// The platforms of an image that could be exported. It is advice only, so that what goes wrong here is not told.
async fn complete_platforms(
    provider: &Arc<dyn Provider>,
    image: &Wanted,
    options: &ExportOptions,
) -> Vec<String> {
    let catalogue = &options.catalogue;
    let platforms = image::present_platforms(provider.as_ref(), &image.entry, catalogue).await;
    let mut complete = Vec::new();
    for platform in platforms.unwrap_or_default().iter().take(MAX_ADVISED) {
        let selection = Selection::best([platform]);
        let check = image::check(Arc::clone(provider), &image.entry, &selection, catalogue).await;
        if check.is_ok_and(|check| check.is_complete()) {
            complete.push(wharf_platforms::format_all(platform));
        }
    }
    complete
}
