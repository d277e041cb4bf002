//! The children of a node, found by the catalogue, chosen by platform, and held against collection by labels.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use wharf_content::{Catalogue, Descriptor, ErrorKind, Manager, Provider, Result, ResultExt, read_blob};

use crate::{
    decode::{Decoded, Kind, MAX_MANIFEST_LEN, ManifestDecoders, kind},
    handler::{Flow, Handler},
    labels,
    platforms::Selection,
    progress::{Event, Sink},
};

/// Decodes a node from the store; `None` where no decoder knows its media type.
///
/// # Errors
/// `NotFound` when the document is not in the store; `ResourceExhausted` above [`MAX_MANIFEST_LEN`]; those of the decoder.
pub async fn decode(
    provider: &dyn Provider,
    descriptor: &Descriptor,
    catalogue: &Catalogue,
) -> Result<Option<Decoded>> {
    let Some(decoder) = catalogue.find::<ManifestDecoders>(&descriptor.media_type)? else {
        return Ok(None);
    };
    if !decoder.reads_content() {
        return decoder.decode(descriptor, &[]).map(Some);
    }
    let bytes = read_blob(provider, descriptor, MAX_MANIFEST_LEN)
        .await
        .context(|| format!("cannot read {} ({})", descriptor.digest, descriptor.media_type))?;
    decoder.decode(descriptor, &bytes).map(Some)
}

/// A handler that gives the children of a node that is in the store.
///
/// A type that nobody decodes has none and is reported once. In this order: decode, label, choose.
#[derive(Debug)]
pub struct Children {
    provider: Arc<dyn Provider>,
    catalogue: Catalogue,
    selection: Selection,
    manager: Option<Arc<dyn Manager>>,
    sink: Option<Arc<dyn Sink>>,
    skip_missing: bool,
    unknown: Mutex<HashSet<String>>,
}

impl Children {
    /// Gives all children, of the types that are linked.
    pub fn new(provider: Arc<dyn Provider>) -> Self {
        Self {
            provider,
            catalogue: Catalogue::linked().clone(),
            selection: Selection::all(),
            manager: None,
            sink: None,
            skip_missing: false,
            unknown: Mutex::default(),
        }
    }

    /// Decodes with this catalogue.
    #[must_use]
    pub fn with_catalogue(mut self, catalogue: Catalogue) -> Self {
        self.catalogue = catalogue;
        self
    }

    /// Chooses among the children of an index.
    #[must_use]
    pub fn with_selection(mut self, selection: Selection) -> Self {
        self.selection = selection;
        self
    }

    /// Writes the labels that hold children onto their parents.
    #[must_use]
    pub fn with_labels(mut self, manager: Arc<dyn Manager>) -> Self {
        self.manager = Some(manager);
        self
    }

    /// Reports types that nobody decodes.
    #[must_use]
    pub fn with_sink(mut self, sink: Arc<dyn Sink>) -> Self {
        self.sink = Some(sink);
        self
    }

    /// Takes a document that is not in the store for a leaf.
    #[must_use]
    pub fn skipping_missing(mut self) -> Self {
        self.skip_missing = true;
        self
    }

    fn report_unknown(&self, descriptor: &Descriptor) {
        let mut unknown = self.unknown.lock().unwrap_or_else(PoisonError::into_inner);
        if unknown.insert(descriptor.media_type.clone())
            && let Some(sink) = &self.sink
        {
            sink.event(&Event::UnknownType { descriptor });
        }
    }
}

#[async_trait]
impl Handler for Children {
    async fn handle(&self, descriptor: &Descriptor) -> Result<Flow> {
        let decoded = match decode(self.provider.as_ref(), descriptor, &self.catalogue).await {
            Err(error) if self.skip_missing && error.kind() == ErrorKind::NotFound => return Ok(Flow::leaf()),
            decoded => decoded?,
        };
        let Some(decoded) = decoded else {
            self.report_unknown(descriptor);
            return Ok(Flow::leaf());
        };
        let children = decoded.descriptors();
        if let Some(manager) = self.manager.as_ref().filter(|_| !children.is_empty()) {
            labels::hold_children(manager.as_ref(), descriptor, &children).await?;
        }
        if kind(&descriptor.media_type, &self.catalogue)? == Some(Kind::Index) {
            return Ok(Flow::Children(self.selection.choose(descriptor, children)?));
        }
        Ok(Flow::Children(children))
    }
}
