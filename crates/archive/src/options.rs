//! How images are exported. Which images, and where to, are parameters of the export itself.

use std::sync::Arc;

use wharf_content::Catalogue;
use wharf_images::{
    Limits, Selection,
    progress::{Silent, Sink},
};

/// The format of an export that names none.
pub const DEFAULT_FORMAT: &str = "oci-archive";

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
