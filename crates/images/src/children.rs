//! The children of a node, found by the catalogue, chosen by platform, and held against collection by labels.
//!
//! A leaf is not read for its children, since it has none; what it says of itself is for whoever shows it ([`describe`]). So neither a
//! malformed config nor one that is missing stands in the way of a pull.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use wharf_content::{
    Catalogue, Descriptor, Digest, Error, ErrorKind, Manager, Provider, Result, ResultExt, blocking,
    read_blob,
};

use crate::{
    artifact::{self, TITLE},
    decode::{Decoded, Kind, MAX_MANIFEST_LEN, ManifestDecoder, ManifestDecoders, Role, kind},
    handler::{Flow, Handler},
    labels::{self, LabelKeys},
    platforms::Selection,
    progress::{Event, Sink, Skip},
    reference::excerpt,
};

/// Decodes a node from the store, with what artifact decoders add; `None` where no decoder knows its media type. A leaf is not read.
///
/// # Errors
/// `NotFound` when the document is not in the store; `ResourceExhausted` above [`MAX_MANIFEST_LEN`]; those of the decoders.
///
/// # Cancellation
/// A decoder that [blocks](ManifestDecoder::blocks) goes on to its end in the background.
pub async fn decode(
    provider: &dyn Provider,
    descriptor: &Descriptor,
    catalogue: &Catalogue,
) -> Result<Option<Decoded>> {
    match catalogue.find::<ManifestDecoders>(&descriptor.media_type)? {
        None => Ok(None),
        Some(decoder) if decoder.kind() == Kind::Leaf => Ok(Some(Decoded::default())),
        Some(decoder) => read(provider, descriptor, decoder, MAX_MANIFEST_LEN, catalogue).await.map(Some),
    }
}

/// Decodes a node for somebody who wants to see what it says: as [`decode`], and leaves are read as well, unless they are larger than
/// `max_leaf_len` bytes.
///
/// A leaf that says nothing of itself is described by the title that its parent gives it. Where no decoder knows its media type, that is
/// all that is told, and only if its parent [vouches](Decoded::vouches) for it should the caller show it as known.
///
/// # Errors
/// As [`decode`]. Of a leaf, `InvalidArgument` means that it is malformed, which only matters to who wants to read it.
///
/// # Cancellation
/// As [`decode`].
pub async fn describe(
    provider: &dyn Provider,
    descriptor: &Descriptor,
    max_leaf_len: u64,
    catalogue: &Catalogue,
) -> Result<Decoded> {
    let mut decoded = match catalogue.find::<ManifestDecoders>(&descriptor.media_type)? {
        None => Decoded::default(),
        Some(decoder) if decoder.kind() != Kind::Leaf => {
            return read(provider, descriptor, decoder, MAX_MANIFEST_LEN, catalogue).await;
        }
        Some(decoder) if decoder.reads_content() && descriptor.size > max_leaf_len => Decoded::default(),
        Some(decoder) => read(provider, descriptor, decoder, max_leaf_len, catalogue).await?,
    };
    if decoded.description.is_none() {
        decoded.description = descriptor.annotations.get(TITLE).cloned();
    }
    Ok(decoded)
}

/// Decodes bytes that somebody has at hand, with what artifact decoders add, on a thread that may block if the decoder
/// [blocks](ManifestDecoder::blocks).
///
/// # Errors
/// Those of the decoders.
///
/// # Cancellation
/// As [`decode`].
pub async fn decode_bytes(
    decoder: Arc<dyn ManifestDecoder>,
    descriptor: &Descriptor,
    bytes: bytes::Bytes,
    catalogue: &Catalogue,
) -> Result<Decoded> {
    let kind = decoder.kind();
    let decoded = if decoder.blocks() {
        let own = descriptor.clone();
        blocking::run(move || decoder.decode(&own, &bytes)).await?
    } else {
        decoder.decode(descriptor, &bytes)?
    };
    if kind == Kind::Manifest { artifact::refine(descriptor, decoded, catalogue) } else { Ok(decoded) }
}

async fn read(
    provider: &dyn Provider,
    descriptor: &Descriptor,
    decoder: Arc<dyn ManifestDecoder>,
    limit: u64,
    catalogue: &Catalogue,
) -> Result<Decoded> {
    let bytes = if decoder.reads_content() {
        read_blob(provider, descriptor, limit)
            .await
            .context(|| format!("cannot read {} ({})", descriptor.digest, descriptor.media_type))?
    } else {
        bytes::Bytes::new()
    };
    decode_bytes(decoder, descriptor, bytes, catalogue).await
}

/// A handler that gives the children of a node that is in the store.
///
/// A type that nobody decodes has none and is reported once, or is an error with [strict types](Children::with_strict_types). In this
/// order: decode, label, choose, look at the types of what was chosen.
#[derive(Debug)]
pub struct Children {
    provider: Arc<dyn Provider>,
    catalogue: Catalogue,
    selection: Selection,
    manager: Option<Arc<dyn Manager>>,
    keys: LabelKeys,
    sink: Option<Arc<dyn Sink>>,
    metadata_only: bool,
    skip_missing: bool,
    strict: bool,
    /// Types that were reported.
    unknown: Mutex<HashSet<String>>,
    /// Nodes of unknown types for which a parent vouches.
    vouched: Mutex<HashSet<Digest>>,
}

impl Children {
    /// Gives all children, of the types that are linked.
    pub fn new(provider: Arc<dyn Provider>) -> Self {
        Self {
            provider,
            catalogue: Catalogue::linked().clone(),
            selection: Selection::all(),
            manager: None,
            keys: LabelKeys::default(),
            sink: None,
            metadata_only: false,
            skip_missing: false,
            strict: false,
            unknown: Mutex::default(),
            vouched: Mutex::default(),
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

    /// Writes those labels under keys of the caller's.
    #[must_use]
    pub fn with_label_keys(mut self, keys: LabelKeys) -> Self {
        self.keys = keys;
        self
    }

    /// Gives of a manifest its configs and the manifests below it only. Labels hold the others all the same, for when they come.
    #[must_use]
    pub fn with_metadata_only(mut self) -> Self {
        self.metadata_only = true;
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

    /// Takes a type that nobody decodes for an error, `FailedPrecondition`. It is found at the parent, before anybody fetches the node.
    #[must_use]
    pub fn with_strict_types(mut self) -> Self {
        self.strict = true;
        self
    }

    /// Takes a node of an unknown type for a leaf, if it may be here at all.
    fn unknown(&self, descriptor: &Descriptor) -> Result<Flow> {
        if lock(&self.vouched).contains(&descriptor.digest) {
            return Ok(Flow::leaf());
        }
        if self.strict {
            return Err(unknown_type(descriptor, None));
        }
        if let Some(sink) = &self.sink
            && lock(&self.unknown).insert(descriptor.media_type.clone())
        {
            sink.event(&Event::UnknownType { descriptor });
        }
        Ok(Flow::leaf())
    }

    /// Looks at the types of children before anybody does anything with them.
    fn look_at(&self, parent: &Descriptor, children: &[Descriptor], vouches: bool) -> Result<()> {
        if !vouches && !self.strict {
            return Ok(());
        }
        for child in children {
            if kind(&child.media_type, &self.catalogue)?.is_some() {
                continue;
            }
            if !vouches {
                return Err(unknown_type(child, Some(parent)));
            }
            lock(&self.vouched).insert(child.digest.clone());
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each single change of these sets is complete in itself.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unknown_type(descriptor: &Descriptor, parent: Option<&Descriptor>) -> Error {
    let below = parent.map_or_else(String::new, |parent| format!(", which {} lists,", parent.digest));
    Error::failed_precondition(format!(
        "unknown media type {}: no decoder is registered for it, and {}{below} has it; strict types were asked for",
        excerpt(&descriptor.media_type),
        descriptor.digest
    ))
}

#[async_trait]
impl Handler for Children {
    async fn handle(&self, descriptor: &Descriptor) -> Result<Flow> {
        let kind = match kind(&descriptor.media_type, &self.catalogue)? {
            None => return self.unknown(descriptor),
            Some(Kind::Leaf) => return Ok(Flow::leaf()),
            Some(kind) => kind,
        };
        let decoded = match decode(self.provider.as_ref(), descriptor, &self.catalogue).await {
            Err(error) if self.skip_missing && error.kind() == ErrorKind::NotFound => return Ok(Flow::leaf()),
            decoded => decoded?.unwrap_or_default(),
        };
        let vouches = decoded.vouches;
        let metadata: Vec<Descriptor> = decoded
            .children
            .iter()
            .filter(|child| self.metadata_only && matches!(child.role, Role::Config | Role::Manifest))
            .map(|child| child.descriptor.clone())
            .collect();
        let mut children = decoded.descriptors();
        if let Some(manager) = self.manager.as_ref().filter(|_| !children.is_empty()) {
            labels::hold_children_mapped(manager.as_ref(), descriptor, &children, &self.keys).await?;
        }
        if self.metadata_only {
            children = metadata;
        }
        if kind == Kind::Index {
            let listed = self.sink.as_ref().map(|_| children.clone()).unwrap_or_default();
            children = self.selection.choose(descriptor, children)?;
            if let Some(sink) = &self.sink {
                for left_out in listed.iter().filter(|child| !children.contains(child)) {
                    sink.event(&Event::Skipped { descriptor: left_out, why: Skip::OtherPlatform });
                }
            }
        }
        self.look_at(descriptor, &children, vouches)?;
        Ok(Flow::Children(children))
    }
}
