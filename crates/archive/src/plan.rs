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

use std::{collections::BTreeMap, sync::Arc};

use wharf_content::{Descriptor, Digest, Error, Provider, Result, ResultExt};
use wharf_images::{Children, Image, Kind, Selection, decode::kind, image, progress::Event};

use crate::{
    docker::Entries,
    index::index_json,
    options::ExportOptions,
    parts::{Part, Parts},
};

/// How many missing parts an error names.
const MAX_NAMED: usize = 8;

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

/// The contents of an archive.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) blobs: BTreeMap<Digest, Blob>,
    pub(crate) index_json: Vec<u8>,
    pub(crate) manifest_json: Option<Vec<u8>>,
}

impl Plan {
    /// Plans an archive of `images`.
    pub(crate) async fn make(
        provider: &Arc<dyn Provider>,
        images: &[Image],
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
        let children = Arc::new(children);
        let mut blobs = BTreeMap::new();
        let mut missing = Vec::new();
        for image in &images {
            let name: Arc<str> = image.name.as_str().into();
            let parts = Parts::find(provider, image, &children, options)
                .await
                .context(|| format!("cannot export {name:?}"))?;
            for part in parts.present {
                let blob = |part| Blob { part, image: Arc::clone(&name) };
                blobs.entry(part.descriptor.digest.clone()).or_insert_with(|| blob(part));
            }
            missing.extend(parts.missing.into_iter().map(|descriptor| (*image, descriptor)));
            if parts.skipped > 0 {
                let text =
                    format!("{} layers of {name:?} may not be distributed and are left out", parts.skipped);
                options.sink.event(&Event::Warning { text: &text });
            }
        }
        if !missing.is_empty() {
            return Err(incomplete(provider, &missing, options).await);
        }
        let mut entries = Entries::default();
        if options.docker_manifest {
            for image in &images {
                entries
                    .add(provider.as_ref(), image, options, |digest| blobs.contains_key(digest))
                    .await
                    .context(|| format!("cannot export {:?}", image.name))?;
            }
        }
        Ok(Self { index_json: index_json(&images)?, manifest_json: entries.manifest_json()?, blobs })
    }
}

/// The images sorted by name, each once.
fn in_order(images: &[Image]) -> Result<Vec<&Image>> {
    if images.is_empty() {
        return Err(Error::invalid_argument("there is no image to export: name at least one"));
    }
    let mut sorted: Vec<&Image> = images.iter().collect();
    for image in &sorted {
        image.validate()?;
    }
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    sorted.dedup_by(|a, b| a.name == b.name && a.target == b.target);
    match sorted.windows(2).find(|pair| pair[0].name == pair[1].name) {
        Some(pair) => Err(Error::conflict(format!(
            "two images in one archive cannot both have the name {:?}: {} and {}",
            pair[0].name, pair[0].target.digest, pair[1].target.digest
        ))),
        None => Ok(sorted),
    }
}

/// Says what is missing, and what can be done about it.
async fn incomplete(
    provider: &Arc<dyn Provider>,
    missing: &[(&Image, Descriptor)],
    options: &ExportOptions,
) -> Error {
    let named: Vec<String> = missing
        .iter()
        .take(MAX_NAMED)
        .map(|(image, part)| format!("{} ({:?}) of {:?}", part.digest, part.media_type, image.name))
        .collect();
    let more = match missing.len().saturating_sub(MAX_NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let (image, _) = missing[0];
    let is_index =
        kind(&image.target.media_type, &options.catalogue).is_ok_and(|kind| kind == Some(Kind::Index));
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
    Error::not_found(format!(
        "the store lacks parts of what is to be exported: {}{more}; {advice}",
        named.join(", ")
    ))
}

/// The platforms of an image that could be exported. It is advice only, so that what goes wrong here is not told.
async fn complete_platforms(
    provider: &Arc<dyn Provider>,
    image: &Image,
    options: &ExportOptions,
) -> Vec<String> {
    let catalogue = &options.catalogue;
    let platforms = image::present_platforms(provider.as_ref(), &image.target, catalogue).await;
    let mut complete = Vec::new();
    for platform in platforms.unwrap_or_default().iter().take(MAX_ADVISED) {
        let selection = Selection::best([platform]);
        let check = image::check(Arc::clone(provider), &image.target, &selection, catalogue).await;
        if check.is_ok_and(|check| check.is_complete()) {
            complete.push(wharf_platforms::format_all(platform));
        }
    }
    complete
}
