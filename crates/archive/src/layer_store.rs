//! Unpacked layers in a store's directory, each by itself, so that images share them and overlayfs puts them together.
//!
//! ```text
//! layers/<alg>-<chain id>/fs           the layer alone; what it hides is marked as overlayfs marks it
//! layers/<alg>-<chain id>/layer.json   its diff id, the chain id of the layer below, and whom files belong to
//! layers/.new-<process>-<n>/           in the making, or on its way out; locked by who is at work on it
//! ```
//!
//! A chain id names a layer together with all below it (OCI image specification, config.md, "Layer ChainID"), so that what is there under one
//! is right for every image that has it. A directory is there whole and synced, or not at all. It is kept as long as an image's config
//! refers to it by the label [`LABEL`], or a lease does, and goes with a collection in which a [`LayerStore`] is a source. Only stores in a
//! directory have layers.

mod above;
mod collect;
mod idle;
mod image_layers;
mod inherit;
mod lower;
mod reach;
mod staging;

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use wharf_content::{
    Algorithm, Catalogue, Descriptor, Digest, Error, Provider, Resource, Result, ResultExt, Store, blocking,
    read_blob,
};
use wharf_images::{Selection, diff_id::chain_ids, image};

pub(crate) use image_layers::{Plan, Planned, Staged, Stager};
pub use image_layers::{UnpackedLayer, UnpackedLayers, unpack_layers};

use crate::apply::{Ownership, Whiteouts};

/// The name of these layers among the snapshots of leases and labels.
pub const NAME: &str = "wharf";
/// Label on an image's config that keeps its layers: the chain id of the topmost (containerd: `core/unpack`).
pub const LABEL: &str = "containerd.io/gc.ref.snapshot.wharf";

/// A directory with nothing in it, for overlays of one layer.
const EMPTY: &str = ".empty";
/// The file beside a layer's directory.
const RECORD: &str = "layer.json";

/// Where the unpacked layers of a store are.
#[derive(Clone, Debug)]
pub struct LayerStore {
    directory: PathBuf,
}

/// What is known of an unpacked layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    diff_id: Digest,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<Digest>,
    kind: Kind,
}

/// Whom the files of a layer belong to, and with that how hidden names are marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Image,
    User,
}

impl Kind {
    fn of(ownership: Ownership) -> Self {
        match ownership {
            Ownership::Image => Self::Image,
            Ownership::User => Self::User,
        }
    }

    fn whiteouts(self) -> Whiteouts {
        match self {
            Self::Image => Whiteouts::Overlay,
            Self::User => Whiteouts::UserOverlay,
        }
    }
}

impl LayerStore {
    /// The layers of a store.
    ///
    /// # Errors
    /// `NotImplemented` for a store that is in no directory.
    pub fn of(store: &dyn Store) -> Result<Self> {
        let metadata = store.metadata().ok_or_else(|| {
            Error::not_implemented("this store is in no directory, and there is no place for unpacked layers")
        })?;
        Ok(Self { directory: metadata.root().join("layers") })
    }

    /// The directory of a layer's files, whether it is there or not.
    pub fn directory(&self, chain_id: &Digest) -> PathBuf {
        self.place(chain_id).join("fs")
    }

    /// Whether a layer is unpacked. Blocks for as long as a look into a directory takes.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn has(&self, chain_id: &Digest) -> Result<bool> {
        Ok(self.record(chain_id)?.is_some())
    }

    /// Whether all layers of an image's best manifest are unpacked; one without layers never is.
    ///
    /// # Errors
    /// `NotFound` when the image has no fitting platform, or its manifest or config are missing; those of the store.
    ///
    /// # Cancellation
    /// Nothing is changed.
    pub async fn has_image(
        &self,
        provider: &dyn Provider,
        target: &Descriptor,
        selection: &Selection,
        catalogue: &Catalogue,
    ) -> Result<bool> {
        let manifest = image::manifest(provider, target, selection, catalogue).await?;
        let config = read_blob(provider, manifest.config()?, image::MAX_CONFIG_LEN).await?;
        let chain_ids = chain_ids(&image::rootfs(&config)?);
        let layers = self.clone();
        blocking::run(move || {
            for chain_id in &chain_ids {
                if !layers.has(chain_id)? {
                    return Ok(false);
                }
            }
            Ok(!chain_ids.is_empty())
        })
        .await
    }

    /// What a lease or a label calls a layer.
    pub fn resource(chain_id: &Digest) -> Resource {
        Resource::Snapshot(format!("{NAME}/{chain_id}"))
    }

    /// A directory of the store with something else in it.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.directory.with_file_name(name)
    }

    /// A directory with nothing in it.
    pub(crate) fn empty(&self) -> Result<PathBuf> {
        let path = self.directory.join(EMPTY);
        match fs::create_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(error).context(|| format!("cannot make {}", path.display()))
            }
            _ => Ok(path),
        }
    }

    fn place(&self, chain_id: &Digest) -> PathBuf {
        self.directory.join(format!("{}-{}", chain_id.algorithm().as_str(), chain_id.hex()))
    }

    fn record(&self, chain_id: &Digest) -> Result<Option<Record>> {
        let path = self.place(chain_id).join(RECORD);
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| {
                let what =
                    format!("{} is damaged: remove {}", path.display(), self.place(chain_id).display());
                Error::data_loss(what).with_source(error)
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io(format!("cannot read {}", path.display()), error)),
        }
    }

    /// Whether a layer is unpacked for files of this ownership.
    fn has_of(&self, chain_id: &Digest, kind: Kind) -> Result<bool> {
        match self.record(chain_id)? {
            None => Ok(false),
            Some(record) if record.kind == kind => Ok(true),
            Some(_) => Err(Error::failed_precondition(format!(
                "{} was unpacked by {}: use a store of your own, or remove it",
                self.place(chain_id).display(),
                if kind == Kind::User {
                    "root, with the owners of the image"
                } else {
                    "a user who is not root, without the image's owners"
                }
            ))),
        }
    }

    /// Every layer that is unpacked, by chain id.
    fn list(&self) -> Result<Vec<Digest>> {
        let failed = || format!("cannot list {}", self.directory.display());
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.context(failed)?,
        };
        let mut found = Vec::new();
        for entry in entries {
            found.extend(entry.context(failed)?.file_name().to_str().and_then(chain_id_of));
        }
        Ok(found)
    }

    /// Makes the place for layers, and removes what killed processes left in it.
    fn prepare(&self) -> Result<()> {
        let made = DirBuilder::new().mode(0o700).recursive(true).create(&self.directory);
        made.context(|| format!("cannot make {}", self.directory.display()))?;
        staging::sweep(&self.directory)
    }
}

fn chain_id_of(name: &str) -> Option<Digest> {
    let (algorithm, hex) = name.split_once('-')?;
    Algorithm::from_name(algorithm)?;
    format!("{algorithm}:{hex}").parse().ok()
}

/// Gives one directory the owner, the mode, the attributes and the time of another.
pub(crate) fn copy_directory(from: &Path, to: &Path) -> Result<()> {
    inherit::copy_root(&inherit::Root::open(from)?, &inherit::Root::open(to)?)
        .map_err(|error| Error::io(format!("cannot complete {}", to.display()), error.into()))
}

/// Makes the directory of a layer's files, whatever the mask of the process.
fn make_root(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;

    DirBuilder::new()
        .create(path)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o755)))
        .context(|| format!("cannot make {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_chain_ids() {
        let digest = Digest::sha256(b"x");
        let name = format!("sha256-{}", digest.hex());
        assert_eq!(chain_id_of(&name), Some(digest));
        for name in ["sha256-x", "x", ".new-1-2", "md5-00", "sha256", "-"] {
            assert_eq!(chain_id_of(name), None, "{name}");
        }
    }
}
