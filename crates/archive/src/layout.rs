//! An archive as an OCI image layout: `oci-layout` says so, `index.json` names the images (OCI image specification, `image-layout.md`).

use bytes::Bytes;
use serde::Deserialize;
use wharf_content::{Catalogue, Descriptor, Error, Provider, Result, ResultExt};
use wharf_images::{children::decode_bytes, decode::ManifestDecoders, media_types};

use crate::{contents::Contents, intake::MAX_DOCUMENT_LEN};

/// The only version that there is.
const VERSION: &str = "1.0.0";

/// The text of a layout's `index.json`; `None` where the archive is no layout.
///
/// # Errors
/// `InvalidArgument` for another version, and for an index.json that is missing.
pub(crate) async fn index(contents: &Contents, provider: &dyn Provider) -> Result<Option<Bytes>> {
    let Some(marker) = contents.read(provider, "oci-layout", MAX_DOCUMENT_LEN).await? else {
        return Ok(None);
    };
    check_version(&marker)?;
    let index = contents.read(provider, "index.json", MAX_DOCUMENT_LEN).await?;
    index.map(Some).ok_or_else(|| {
        Error::invalid_argument("the archive is an OCI image layout without its index.json: it is not whole")
    })
}

/// What the text of an `index.json` lists.
///
/// # Errors
/// `InvalidArgument` where it is malformed.
pub(crate) async fn entries(index: Bytes, catalogue: &Catalogue) -> Result<Vec<Descriptor>> {
    let descriptor = Descriptor::of(media_types::OCI_INDEX, &index);
    let decoder = catalogue.find::<ManifestDecoders>(media_types::OCI_INDEX)?;
    let decoder = decoder.ok_or_else(|| Error::not_implemented("nothing here reads an OCI index"))?;
    let decoded = decode_bytes(decoder, &descriptor, index, catalogue)
        .await
        .context(|| "cannot read index.json of the archive")?;
    Ok(decoded.descriptors())
}

/// Checks what `oci-layout` says.
///
/// # Errors
/// `InvalidArgument` for another version.
pub(crate) fn check_version(marker: &[u8]) -> Result<()> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Marker {
        image_layout_version: String,
    }
    let marker: Marker = serde_json::from_slice(marker).map_err(|error| {
        Error::invalid_argument("cannot read oci-layout of the archive").with_source(error)
    })?;
    if marker.image_layout_version == VERSION {
        return Ok(());
    }
    let shown: String = marker.image_layout_version.chars().take(32).collect();
    Err(Error::invalid_argument(format!(
        "the archive is an OCI image layout of version {shown:?}, and {VERSION:?} is the one that is read"
    )))
}

#[cfg(test)]
mod tests {
    use std::{
        sync::Arc,
        thread::{self, ThreadId},
    };

    use wharf_content::plugin::Registration;
    use wharf_images::{Decoded, Kind, ManifestDecoder};

    use super::*;

    /// A decoder of indexes that waits, as a plugin does.
    #[derive(Debug)]
    struct Waiting(ThreadId);

    impl ManifestDecoder for Waiting {
        fn kind(&self) -> Kind {
            Kind::Index
        }

        fn blocks(&self) -> bool {
            true
        }

        fn decode(&self, _: &Descriptor, bytes: &[u8]) -> Result<Decoded> {
            assert_ne!(thread::current().id(), self.0, "it would hold up everything else");
            Err(Error::invalid_argument(format!("{} bytes were looked at", bytes.len())))
        }
    }

    #[tokio::test]
    async fn an_index_is_decoded_where_one_may_wait() {
        let decoder = Arc::new(Waiting(thread::current().id()));
        let keys = [media_types::OCI_INDEX.to_owned()];
        let entry = Registration::<ManifestDecoders>::shared("waiting", keys, 0, module_path!(), decoder);
        let catalogue = Catalogue::empty().with(entry);
        let error = entries("{}".into(), &catalogue).await.expect_err("refuses");
        assert!(error.report().ends_with("2 bytes were looked at"), "{}", error.report());
    }

    #[test]
    fn versions() {
        for (text, is_fine) in [
            (r#"{"imageLayoutVersion":"1.0.0"}"#, true),
            ("{\n  \"imageLayoutVersion\": \"1.0.0\", \"more\": 1\n}\n", true),
            (r#"{"imageLayoutVersion":"1.0.1"}"#, false),
            (r#"{"imageLayoutVersion":"1.0.0","imageLayoutVersion":"2.0.0"}"#, false),
            (r#"{"imageLayoutVersion":1}"#, false),
            ("{}", false),
            ("", false),
        ] {
            assert_eq!(check_version(text.as_bytes()).is_ok(), is_fine, "{text}");
        }
    }
}
