//! `index.json` and `oci-layout`: what makes an archive an OCI image layout, and which images it says are inside.

use bytes::Bytes;
use serde::Serialize;
use wharf_content::{CommitOptions, Descriptor, Error, Result, Store, write_blob};
use wharf_images::{
    Image, Reference, media_types,
    sqlite::{ANNOTATION_IMAGE_NAME, ANNOTATION_REF_NAME},
};

/// The whole file `oci-layout` (OCI image specification, `image-layout.md`).
pub(crate) const OCI_LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// The text of `index.json`: an image index with an entry for each image, in the order given.
pub(crate) fn index_json<'a>(entries: impl Iterator<Item = &'a Descriptor>) -> Result<Vec<u8>> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Index {
        schema_version: u8,
        media_type: &'static str,
        manifests: Vec<Descriptor>,
    }
    let manifests = entries.cloned().collect();
    to_json(&Index { schema_version: 2, media_type: media_types::OCI_INDEX, manifests })
}

/// Writes the index of a whole archive into the store as an image of that name, and describes it.
///
/// # Errors
/// Those of the store.
pub(crate) async fn keep(name: &str, text: Bytes, store: &dyn Store) -> Result<Descriptor> {
    let index = Descriptor::of(media_types::OCI_INDEX, &text);
    let reference = format!("import-{}", index.digest);
    write_blob(store, &reference, &index, text, CommitOptions::default()).await?;
    Ok(index.with_annotation(ANNOTATION_IMAGE_NAME, name))
}

/// The entry of an image.
pub(crate) fn entry(image: &Image) -> Descriptor {
    let entry = image.target.clone().with_annotation(ANNOTATION_IMAGE_NAME, &image.name);
    entry.with_annotation(ANNOTATION_REF_NAME, ref_name(&image.name))
}

/// What tools choose an image by: its tag, its digest where there is no tag, else the name as it is.
fn ref_name(name: &str) -> String {
    match Reference::parse(name) {
        Ok(reference) => reference.tag().unwrap_or_else(|| reference.object()).to_owned(),
        Err(_) => name.to_owned(),
    }
}

/// The text of a document that belongs to the archive and not to an image.
pub(crate) fn to_json<T: Serialize>(value: &T) -> Result<Vec<u8>> {
    serde_json::to_vec(value)
        .map_err(|error| Error::internal("a document of the archive cannot be written").with_source(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_tools_choose_by() {
        let digest = Descriptor::of("x", b"").digest;
        for (name, expected) in [
            ("docker.io/library/busybox:1.36".to_owned(), "1.36".to_owned()),
            ("localhost:5000/a/b:v1".to_owned(), "v1".to_owned()),
            (format!("docker.io/library/busybox:1.36@{digest}"), "1.36".to_owned()),
            (format!("docker.io/library/busybox@{digest}"), digest.to_string()),
            ("not a reference".to_owned(), "not a reference".to_owned()),
        ] {
            assert_eq!(ref_name(&name), expected, "{name}");
        }
    }
}
