//! The file `oci-layout`, by which other tools know the root for an OCI image layout (image-spec, image-layout.md): whether it says what
//! it must, and writing it again.

use std::{fs, io};

use serde::Deserialize;

use crate::error::{Error, ErrorKind, Result, ResultExt};

use super::{Inner, ingest::read_text, layout::OCI_LAYOUT, quarantine};

const NAME: &str = "oci-layout";

/// The version of the layout that the store has.
const VERSION: &str = "1.0.0";

/// What the file says. Fields of later versions may be beside it.
#[derive(Debug, Deserialize)]
struct Marker {
    #[serde(rename = "imageLayoutVersion")]
    version: String,
}

/// What is wrong with the file, in words.
///
/// # Errors
/// `ResourceExhausted` when it cannot be opened for want of memory or descriptors.
pub(super) fn check(inner: &Inner) -> Result<Option<String>> {
    let path = inner.root.join(NAME);
    let text = match read_text(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some("it is missing".into())),
        Err(error) => {
            let error = Error::io(format!("cannot read {}", path.display()), error);
            if error.kind() == ErrorKind::ResourceExhausted {
                return Err(error);
            }
            let is_file = fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_file());
            return Ok(Some(if is_file { error.report() } else { "it is not a regular file".into() }));
        }
    };
    Ok(match serde_json::from_str::<Marker>(&text) {
        Ok(marker) if marker.version == VERSION => None,
        Ok(marker) => Some(format!("it names version {:?} and not {VERSION:?}", marker.version)),
        Err(error) => Some(format!("it does not name the version of the layout: {error}")),
    })
}

/// Writes the file again, unless it is right. A directory in its place goes into quarantine, for it may hold something.
pub(super) fn rewrite(inner: &Inner) -> Result<()> {
    if check(inner)?.is_none() {
        return Ok(());
    }
    let path = inner.root.join(NAME);
    if fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_dir()) {
        quarantine::move_stray(inner, &path, NAME)?;
    }
    inner
        .durability
        .replace(&path, OCI_LAYOUT.as_bytes(), 0o600)
        .context(|| format!("cannot write {}", path.display()))
}
