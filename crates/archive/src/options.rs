//! How images are exported and imported. Which images, where to and where from are parameters of the functions themselves.

use std::sync::Arc;

use wharf_content::Catalogue;
use wharf_images::{
    Limits, Selection,
    layer::LayerOptions,
    progress::{Silent, Sink},
    referrers::ReferrersProvider,
};

#[cfg(target_os = "linux")]
use crate::unpacker::Unpacker;

/// The format of an export that names none.
pub const DEFAULT_FORMAT: &str = "oci-archive";

/// The format of an archive that is for Docker alone: its `manifest.json` with configs and layers, and no layout.
pub const DOCKER_FORMAT: &str = "docker-archive";

/// What an export does where the store lacks a part of an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Missing {
    /// It fails and names what is missing.
    #[default]
    Fail,
    /// It leaves out what is missing, with a warning. An image whose own manifest or index is missing is an error in any case.
    LeaveOut,
}

/// What an import does with images whose own full names lie outside of the base name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum FullNames {
    /// It takes them in under the names that they have.
    #[default]
    Keep,
    /// It leaves them out: of full names only those of the base name's repository are taken, and of repositories below it
    /// (containerd: `core/images/archive/reference.go`, `FilterRefPrefix`).
    Filter,
}

/// How a whole archive is compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ArchiveCompression {
    /// Not at all: layers are compressed already.
    #[default]
    None,
    /// With gzip (RFC 1952), without name and time.
    Gzip,
    /// With zstd (RFC 8878).
    Zstd,
}

/// How images are exported.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ExportOptions {
    /// The name of the archive format; [`DEFAULT_FORMAT`] by default.
    pub format: String,
    /// Which platforms of an index are exported; the host's by default.
    pub selection: Selection,
    /// Whether Docker's `manifest.json` is written; it is by default.
    pub docker_manifest: bool,
    /// Whether layers that may not be distributed are left out, present or not. By default they are parts like all others:
    /// exported, and an error where they are missing.
    pub skip_non_distributable: bool,
    /// Where what refers to an image is found, such as signatures, which then goes along; nowhere by default.
    pub referrers: Option<Arc<dyn ReferrersProvider>>,
    /// What is done where the store lacks a part of an image.
    pub missing: Missing,
    /// How the whole archive is compressed; not at all by default.
    pub compression: ArchiveCompression,
    /// Whether a media type that no decoder knows is an error, `FailedPrecondition`. By default such content is kept whole.
    pub strict_types: bool,
    /// The catalogue of formats and decoders; what is linked by default.
    pub catalogue: Catalogue,
    /// How deep and how large an image may be.
    pub limits: Limits,
    /// Where progress is told; nowhere by default.
    pub sink: Arc<dyn Sink>,
}

impl Default for ExportOptions {
    fn default() -> Self {
        Self {
            format: DEFAULT_FORMAT.to_owned(),
            selection: Selection::host(),
            docker_manifest: true,
            skip_non_distributable: false,
            referrers: None,
            missing: Missing::Fail,
            compression: ArchiveCompression::None,
            strict_types: false,
            catalogue: Catalogue::linked().clone(),
            limits: Limits::default(),
            sink: Arc::new(Silent),
        }
    }
}

impl ExportOptions {
    /// The host's platform in OCI's format, readable by Docker, too.
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes this format.
    #[must_use]
    pub fn with_format(mut self, format: impl Into<String>) -> Self {
        self.format = format.into();
        self
    }

    /// Exports these platforms.
    #[must_use]
    pub fn with_selection(mut self, selection: Selection) -> Self {
        self.selection = selection;
        self
    }

    /// Writes no `manifest.json`. Docker loads such an archive only where it keeps its images in containerd.
    #[must_use]
    pub fn without_docker_manifest(mut self) -> Self {
        self.docker_manifest = false;
        self
    }

    /// Leaves out layers that may not be distributed. The image's documents still name them. An image that lacks a layer is not in
    /// `manifest.json`, since Docker refuses an archive without all the files that it names there.
    #[must_use]
    pub fn skipping_non_distributable(mut self) -> Self {
        self.skip_non_distributable = true;
        self
    }

    /// Takes along what refers to the manifests and indexes that are exported, as `referrers` tells, and what refers to that. It is listed
    /// in `index.json` without a name, as [`LayoutResolver`](crate::LayoutResolver) lists it. An archive for Docker alone has no place for it.
    #[must_use]
    pub fn with_referrers(mut self, referrers: Arc<dyn ReferrersProvider>) -> Self {
        self.referrers = Some(referrers);
        self
    }

    /// Leaves out what the store lacks. The image's documents still name it. An image that lacks a layer is not in `manifest.json`.
    #[must_use]
    pub fn skipping_missing(mut self) -> Self {
        self.missing = Missing::LeaveOut;
        self
    }

    /// Compresses the whole archive. The same images give the same bytes still, as long as the same version of this program writes them.
    #[must_use]
    pub fn with_compression(mut self, compression: ArchiveCompression) -> Self {
        self.compression = compression;
        self
    }

    /// Fails where some part has a media type that no decoder of the catalogue knows.
    #[must_use]
    pub fn with_strict_types(mut self) -> Self {
        self.strict_types = true;
        self
    }

    /// Finds the format and decoders in this catalogue.
    #[must_use]
    pub fn with_catalogue(mut self, catalogue: Catalogue) -> Self {
        self.catalogue = catalogue;
        self
    }

    /// Sets how deep and how large an image may be.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Tells progress to `sink`: each blob as it is started, copied and done, and media types that nobody decodes.
    #[must_use]
    pub fn with_sink(mut self, sink: Arc<dyn Sink>) -> Self {
        self.sink = sink;
        self
    }
}

/// How images are imported.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ImportOptions {
    /// The name of the archive format; by default the one that knows the first bytes.
    pub format: Option<String>,
    /// The repository of images that the archive gives a bare tag or no name at all, such as `ghcr.io/owner/image`.
    pub base_name: Option<String>,
    /// What becomes of images whose own full names lie outside of the base name; they are kept by default.
    pub full_names: FullNames,
    /// Whether each image is recorded by its digest too, in the base name or its own repository; it is not by default.
    pub digests: bool,
    /// The name under which the archive's own index is recorded, with all images of the archive; it is not by default.
    pub index_name: Option<String>,
    /// Whether a name goes to the image of the archive where another image has it here; by default that is an error, `AlreadyExists`.
    pub replace: bool,
    /// The platforms that must be there, and be whole, and are kept; by default those that there are, of which one must be whole.
    pub selection: Option<Selection>,
    /// The catalogue of formats and decoders; what is linked by default.
    pub catalogue: Catalogue,
    /// How deep and how large an image may be.
    pub limits: Limits,
    /// The most bytes of an archive without its compression.
    pub max_len: u64,
    /// How many times the compressed bytes may come out, above the first GiB.
    pub max_ratio: u64,
    /// The most entries of an archive.
    pub max_entries: usize,
    /// Where progress is told; nowhere by default.
    pub sink: Arc<dyn Sink>,
    /// What unpacks the images before they are recorded; they are not unpacked by default.
    #[cfg(target_os = "linux")]
    pub(crate) unpacker: Option<Arc<Unpacker>>,
}

impl ImportOptions {
    /// 1 TiB.
    pub const DEFAULT_MAX_LEN: u64 = 1 << 40;
    /// As for layers, which are compressed already.
    pub const DEFAULT_MAX_RATIO: u64 = LayerOptions::DEFAULT_MAX_RATIO;
    /// A hundred images of a hundred layers have some ten thousand.
    pub const DEFAULT_MAX_ENTRIES: usize = 250_000;

    /// What there is, under the names that the archive gives.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads the archive as this format, whatever its first bytes are.
    #[must_use]
    pub fn with_format(mut self, format: impl Into<String>) -> Self {
        self.format = Some(format.into());
        self
    }

    /// Sets the repository of images that have a bare tag or no name. Images with a full name keep it.
    #[must_use]
    pub fn with_base_name(mut self, base_name: impl Into<String>) -> Self {
        self.base_name = Some(base_name.into());
        self
    }

    /// Leaves out images whose own full names are not of the base name, which must be set.
    #[must_use]
    pub fn filtering_names(mut self) -> Self {
        self.full_names = FullNames::Filter;
        self
    }

    /// Records each image by its digest too.
    #[must_use]
    pub fn with_digests(mut self) -> Self {
        self.digests = true;
        self
    }

    /// Records the archive's index by this name, too, which is read as Docker reads it: an OCI layout's `index.json` as it stands; for what
    /// Docker wrote one is made. What it lists and is not there is missing then.
    #[must_use]
    pub fn with_index_name(mut self, index_name: impl Into<String>) -> Self {
        self.index_name = Some(index_name.into());
        self
    }

    /// Takes names away from the images that have them here, with a warning. Their labels go with them.
    #[must_use]
    pub fn replacing(mut self) -> Self {
        self.replace = true;
        self
    }

    /// Demands these platforms, whole, and keeps no others.
    #[must_use]
    pub fn with_selection(mut self, selection: Selection) -> Self {
        self.selection = Some(selection);
        self
    }

    /// Finds formats and decoders in this catalogue.
    #[must_use]
    pub fn with_catalogue(mut self, catalogue: Catalogue) -> Self {
        self.catalogue = catalogue;
        self
    }

    /// Sets how deep and how large an image may be.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets the most bytes of an archive without its compression.
    #[must_use]
    pub fn with_max_len(mut self, max_len: u64) -> Self {
        self.max_len = max_len;
        self
    }

    /// Sets the largest ratio of compression, at least 1, above the first GiB.
    #[must_use]
    pub fn with_max_ratio(mut self, max_ratio: u64) -> Self {
        self.max_ratio = max_ratio.max(1);
        self
    }

    /// Sets the most entries of an archive.
    #[must_use]
    pub fn with_max_entries(mut self, max_entries: usize) -> Self {
        self.max_entries = max_entries;
        self
    }

    /// Tells progress to `sink`: each blob as it is taken in, and what a person should know.
    #[must_use]
    pub fn with_sink(mut self, sink: Arc<dyn Sink>) -> Self {
        self.sink = sink;
        self
    }

    /// Unpacks the platforms that are demanded, else the host's, of each image. Nothing is recorded where that fails. The unpacker is one
    /// for the same store, and its lease is to stand until the import has returned.
    #[cfg(target_os = "linux")]
    #[must_use]
    pub fn with_unpacker(mut self, unpacker: Arc<Unpacker>) -> Self {
        self.unpacker = Some(unpacker);
        self
    }
}

impl Default for ImportOptions {
    fn default() -> Self {
        Self {
            format: None,
            base_name: None,
            full_names: FullNames::Keep,
            digests: false,
            index_name: None,
            replace: false,
            selection: None,
            catalogue: Catalogue::linked().clone(),
            limits: Limits::default(),
            max_len: Self::DEFAULT_MAX_LEN,
            max_ratio: Self::DEFAULT_MAX_RATIO,
            max_entries: Self::DEFAULT_MAX_ENTRIES,
            sink: Arc::new(Silent),
            #[cfg(target_os = "linux")]
            unpacker: None,
        }
    }
}
