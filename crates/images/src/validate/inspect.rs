//! Going through an image and checking each part. Every edge is looked at, for two descriptors may say different things of one blob; what
//! costs is done once for each blob.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use bytes::Bytes;
use serde::Deserialize;
use wharf_content::{Catalogue, Descriptor, Digest, Error, ErrorKind, Provider, Result, read_blob};
use wharf_platforms::Platform;

use super::{Finding, Flaw, Manifests, ValidateOptions, Validation};
use crate::{
    children::decode_bytes,
    decode::{Decoded, Kind, MAX_LEAF_LEN, MAX_MANIFEST_LEN, ManifestDecoders, Role},
    diff_id,
    image::{MAX_CONFIG_LEN, platform_of_config},
    media_types,
    platforms::is_known,
};

/// An edge of the graph.
struct Edge {
    descriptor: Descriptor,
    parent: Option<Digest>,
    depth: usize,
    /// Whether it may be missing.
    is_optional: bool,
}

pub(super) struct Inspector<'a> {
    provider: Arc<dyn Provider>,
    options: &'a ValidateOptions,
    report: Validation,
    /// What was hashed, with what was found of its digest.
    hashed: HashMap<Digest, Option<Flaw>>,
    /// What was looked into, with the platform that its config tells.
    opened: HashMap<Key, Option<ConfigPlatform>>,
    /// What was told of a blob and is not to be told again.
    told: HashSet<Key>,
    /// Parts for which what lists them vouches, whatever their type.
    vouched: HashSet<Digest>,
    /// The diff ids of what was unwrapped.
    unwrapped: HashMap<Key, Unwrapped>,
}

/// A blob and how it is read.
type Key = (Digest, String);

fn key(descriptor: &Descriptor) -> Key {
    (descriptor.digest.clone(), descriptor.media_type.clone())
}

/// The platform of an image config.
#[derive(Clone)]
struct ConfigPlatform {
    platform: Option<Platform>,
    /// Whether the config itself names a variant, and not the rules for those that name none.
    has_variant: bool,
}

#[derive(Clone)]
enum Unwrapped {
    DiffId(Digest),
    Unknown,
    Failed(String),
}

impl<'a> Inspector<'a> {
    pub(super) fn new(provider: Arc<dyn Provider>, options: &'a ValidateOptions) -> Self {
        Self {
            provider,
            options,
            report: Validation::default(),
            hashed: HashMap::new(),
            opened: HashMap::new(),
            told: HashSet::new(),
            vouched: HashSet::new(),
            unwrapped: HashMap::new(),
        }
    }

    fn catalogue(&self) -> &'a Catalogue {
        &self.options.catalogue
    }

    pub(super) async fn inspect(mut self, target: &Descriptor) -> Result<Validation> {
        let root = Edge { descriptor: target.clone(), parent: None, depth: 0, is_optional: false };
        let mut stack = vec![root];
        let mut edges = 0_usize;
        while let Some(edge) = stack.pop() {
            edges += 1;
            let limits = self.options.limits;
            if edges + stack.len() > limits.max_nodes || edge.depth > limits.max_depth {
                return Err(Error::resource_exhausted(format!(
                    "the image {} is too large to be validated: it has more than {} parts or nests deeper than {} levels",
                    target.digest, limits.max_nodes, limits.max_depth
                )));
            }
            let Some(children) = self.enter(&edge).await? else { continue };
            let (parent, depth) = (&edge.descriptor.digest, edge.depth + 1);
            stack.extend(children.into_iter().rev().map(|(descriptor, is_optional)| Edge {
                descriptor,
                parent: Some(parent.clone()),
                depth,
                is_optional,
            }));
        }
        Ok(self.report)
    }

    fn tell(&mut self, edge: &Edge, flaw: Flaw) {
        let (descriptor, parent) = (edge.descriptor.clone(), edge.parent.clone());
        self.report.findings.push(Finding { descriptor, parent, flaw });
    }

    /// Checks one part, and gives its children where it has not been looked into before.
    async fn enter(&mut self, edge: &Edge) -> Result<Option<Vec<(Descriptor, bool)>>> {
        let descriptor = &edge.descriptor;
        if let Some(flaw) = self.check_bytes(descriptor).await? {
            if flaw != Flaw::Missing || !edge.is_optional {
                self.tell(edge, flaw);
            } else if self.told.insert(key(descriptor)) {
                self.report.absent.push(descriptor.clone());
            }
            return Ok(None);
        }
        if let Some(platform) = self.opened.get(&key(descriptor)).cloned() {
            // Another descriptor may name another platform.
            self.check_platform(edge, platform);
            return Ok(None);
        }
        self.opened.insert(key(descriptor), None);
        let Some((kind, decoded)) = self.decode(edge).await? else { return Ok(None) };
        if kind == Kind::Manifest {
            self.check_manifest(edge, &decoded).await?;
        }
        if decoded.vouches {
            self.vouched.extend(decoded.children.iter().map(|child| child.descriptor.digest.clone()));
        }
        let is_optional = kind == Kind::Index && self.options.manifests == Manifests::Present;
        let children = decoded.descriptors();
        if is_optional && !children.is_empty() && !self.any_present(&children).await? {
            self.tell(edge, Flaw::Empty);
            return Ok(None);
        }
        Ok(Some(children.into_iter().map(|child| (child, is_optional)).collect()))
    }

    /// Decodes a part whose bytes are right.
    async fn decode(&mut self, edge: &Edge) -> Result<Option<(Kind, Decoded)>> {
        let descriptor = &edge.descriptor;
        let Some(decoder) = self.catalogue().find::<ManifestDecoders>(&descriptor.media_type)? else {
            if !self.vouched.contains(&descriptor.digest) {
                self.report.unknown.push(descriptor.clone());
            }
            return Ok(None);
        };
        let (kind, blocks) = (decoder.kind(), decoder.blocks());
        let limit = if kind == Kind::Leaf { MAX_LEAF_LEN } else { MAX_MANIFEST_LEN };
        let bytes = if !decoder.reads_content() {
            Ok(Bytes::new())
        } else if kind == Kind::Leaf && descriptor.size > limit {
            // What it says of itself is not worth it: its bytes are right, and children it has none.
            return Ok(Some((kind, Decoded::default())));
        } else {
            read_blob(self.provider.as_ref(), descriptor, limit).await
        };
        let decoded = match bytes {
            Ok(bytes) => match decode_bytes(decoder, descriptor, bytes, self.catalogue()).await {
                // It took too long or said too much, which tells nothing of the document.
                Err(error) if blocks && error.kind() == ErrorKind::ResourceExhausted => return Err(error),
                decoded => decoded,
            },
            Err(error) => Err(error),
        };
        match decoded {
            Ok(decoded) => Ok(Some((kind, decoded))),
            Err(error) if is_of_content(&error) => {
                self.tell(edge, Flaw::Malformed(error.report()));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    async fn any_present(&self, children: &[Descriptor]) -> Result<bool> {
        for child in children {
            match self.provider.reader(child).await {
                Err(error) if error.kind() == ErrorKind::NotFound && child.embedded().is_none() => {}
                // Damaged is there.
                _ => return Ok(true),
            }
        }
        Ok(false)
    }

    /// Checks that the bytes are there and those that the descriptor promises.
    async fn check_bytes(&mut self, descriptor: &Descriptor) -> Result<Option<Flaw>> {
        let found = match self.provider.reader(descriptor).await {
            Ok(reader) => reader.size(),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Ok(descriptor.embedded().is_none().then_some(Flaw::Missing));
            }
            Err(error) if error.kind() == ErrorKind::DataLoss => {
                return Ok(Some(Flaw::Unreadable(error.report())));
            }
            Err(error) => return Err(error),
        };
        if found != descriptor.size {
            return Ok(Some(Flaw::Size { found }));
        }
        if let Some(known) = self.hashed.get(&descriptor.digest) {
            return Ok(known.clone());
        }
        let flaw = match diff_id::stored(self.provider.as_ref(), descriptor).await {
            Ok(digest) if digest == descriptor.digest => None,
            Ok(found) => Some(Flaw::Digest { found }),
            Err(error) if error.kind() == ErrorKind::DataLoss => Some(Flaw::Unreadable(error.report())),
            Err(error) => return Err(error),
        };
        self.report.blobs += 1;
        self.report.bytes += found;
        self.hashed.insert(descriptor.digest.clone(), flaw.clone());
        Ok(flaw)
    }

    /// Checks a manifest against its config.
    async fn check_manifest(&mut self, edge: &Edge, decoded: &Decoded) -> Result<()> {
        let Some(config) =
            decoded.child(Role::Config).filter(|config| media_types::is_config(&config.media_type))
        else {
            return Ok(());
        };
        if self.check_bytes(config).await?.is_some() {
            // Told where the walk comes to it.
            return Ok(());
        }
        let below = |descriptor: &Descriptor| Edge {
            descriptor: descriptor.clone(),
            parent: Some(edge.descriptor.digest.clone()),
            depth: edge.depth + 1,
            is_optional: false,
        };
        let read = read_blob(self.provider.as_ref(), config, MAX_CONFIG_LEN).await.and_then(|bytes| {
            let view: ConfigView = serde_json::from_slice(&bytes)
                .map_err(|error| Error::invalid_argument("not an image config").with_source(error))?;
            Ok((view, platform_of_config(&bytes)))
        });
        let (view, platform) = match read {
            Ok(read) => read,
            Err(error) if is_of_content(&error) => {
                self.tell_once(&below(config), Flaw::Malformed(error.report()));
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let has_variant = view.variant.is_some_and(|variant| !variant.is_empty());
        let platform = Some(ConfigPlatform { platform, has_variant });
        self.opened.insert(key(&edge.descriptor), platform.clone());
        self.check_platform(edge, platform);
        let layers: Vec<&Descriptor> = decoded.children_of(Role::Layer).collect();
        let diff_ids = view.rootfs.diff_ids.unwrap_or_default();
        if layers.len() != diff_ids.len() {
            self.tell(edge, Flaw::LayerCount { layers: layers.len(), diff_ids: diff_ids.len() });
        }
        if let Some(history) = view.history.filter(|history| !history.is_empty()) {
            let history = history.iter().filter(|entry| !entry.empty_layer.unwrap_or(false)).count();
            if history != layers.len() {
                self.tell(edge, Flaw::HistoryCount { layers: layers.len(), history });
            }
        }
        for (layer, expected) in layers.into_iter().zip(diff_ids) {
            self.check_layer(&below(layer), expected).await?;
        }
        Ok(())
    }

    /// As [`Self::tell`], of what several documents may lead to in the same way.
    fn tell_once(&mut self, edge: &Edge, flaw: Flaw) {
        if self.told.insert(key(&edge.descriptor)) {
            self.tell(edge, flaw);
        }
    }

    /// Checks the platform of a manifest's descriptor, where it names one and there is an image config to compare it with.
    fn check_platform(&mut self, edge: &Edge, config: Option<ConfigPlatform>) {
        let Some(ConfigPlatform { platform: found, has_variant }) = config else { return };
        let Some(expected) = edge.descriptor.platform.clone().filter(is_known) else { return };
        let named = wharf_platforms::normalize(&expected);
        let is_same = found.as_ref().is_some_and(|found| {
            let versions =
                [&named.os_version, &found.os_version].map(|version| version.as_deref().unwrap_or_default());
            named.os == found.os
                && named.architecture == found.architecture
                // Many configs leave these out, and are for what the index names.
                && (!has_variant || named.variant == found.variant)
                && (versions[0] == versions[1] || versions.contains(&""))
        });
        if !is_same {
            self.tell(edge, Flaw::Platform { expected, found });
        }
    }

    /// Checks that a layer has the diff id that its config gives it.
    async fn check_layer(&mut self, edge: &Edge, expected: Digest) -> Result<()> {
        let layer = &edge.descriptor;
        if self.check_bytes(layer).await?.is_some() {
            // Told where the walk comes to it.
            return Ok(());
        }
        let unwrapped = match self.unwrapped.get(&key(layer)) {
            Some(unwrapped) => unwrapped.clone(),
            None => self.unwrap(layer).await?,
        };
        self.unwrapped.insert(key(layer), unwrapped.clone());
        match unwrapped {
            Unwrapped::DiffId(found) if found == expected => self.report.layers += 1,
            Unwrapped::DiffId(found) => self.tell(edge, Flaw::DiffId { expected, found }),
            // What is no layer of a file system, as an attestation, has nothing to be unwrapped from.
            Unwrapped::Unknown if !media_types::is_layer(&layer.media_type) && layer.digest == expected => {
                self.report.layers += 1;
            }
            Unwrapped::Unknown if self.told.insert(key(layer)) => {
                self.report.unchecked.push(layer.clone());
            }
            Unwrapped::Unknown => {}
            Unwrapped::Failed(reason) => self.tell_once(edge, Flaw::Layer(reason)),
        }
        Ok(())
    }

    async fn unwrap(&self, layer: &Descriptor) -> Result<Unwrapped> {
        let provider = self.provider.as_ref();
        match diff_id::computed(provider, layer, self.catalogue(), &self.options.layers).await {
            Ok(digest) => Ok(Unwrapped::DiffId(digest)),
            Err(error) if error.kind() == ErrorKind::NotImplemented => Ok(Unwrapped::Unknown),
            Err(error) if is_of_content(&error) => Ok(Unwrapped::Failed(error.report())),
            Err(error) => Err(error),
        }
    }
}

/// Whether an error tells something of the image, and not of the machine.
fn is_of_content(error: &Error) -> bool {
    match error.kind() {
        ErrorKind::InvalidArgument
        | ErrorKind::FailedPrecondition
        | ErrorKind::NotImplemented
        | ErrorKind::OutOfRange => true,
        // A limit on what an image may be, or a disk that is full or gave out.
        ErrorKind::ResourceExhausted | ErrorKind::DataLoss => error.find_source::<std::io::Error>().is_none(),
        _ => false,
    }
}

/// What is read of a config.
#[derive(Deserialize)]
struct ConfigView {
    rootfs: RootFs,
    #[serde(default)]
    history: Option<Vec<Entry>>,
    #[serde(default)]
    variant: Option<String>,
}

#[derive(Deserialize)]
struct RootFs {
    #[serde(default)]
    diff_ids: Option<Vec<Digest>>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    empty_layer: Option<bool>,
}
