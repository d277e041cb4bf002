//! Questions about one image in a store: its manifest, config, platforms, size, and whether it is all there.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use serde::Deserialize;
use tokio::sync::Mutex;
use wharf_content::{
    Catalogue, Descriptor, Digest, Error, ErrorKind, Provider, Result, ResultExt, read_blob,
};
use wharf_platforms::Platform;

use crate::{
    children::{Children, decode},
    decode::{Decoded, Kind, Role, kind},
    handler::{Flow, Handler, handler_fn},
    platforms::{Selection, is_known, no_match},
    walk::{Limits, walk},
};

/// The most bytes that are read of a config.
pub const MAX_CONFIG_LEN: u64 = 4 * 1024 * 1024;

/// A manifest with what it says.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Manifest {
    /// Where it is.
    pub descriptor: Descriptor,
    /// Its children.
    pub decoded: Decoded,
}

impl Manifest {
    /// Pairs a manifest and what it says.
    pub fn new(descriptor: Descriptor, decoded: Decoded) -> Self {
        Self { descriptor, decoded }
    }

    /// The descriptor of the config.
    ///
    /// # Errors
    /// `InvalidArgument` where the manifest has none.
    pub fn config(&self) -> Result<&Descriptor> {
        self.decoded.child(Role::Config).ok_or_else(|| {
            Error::invalid_argument(format!("manifest {} has no config", self.descriptor.digest))
        })
    }

    /// The layers, lowest first.
    pub fn layers(&self) -> impl Iterator<Item = &Descriptor> {
        self.decoded.children_of(Role::Layer)
    }
}

/// Finds the manifest of an image that fits best: the target itself where it is one, else the best of the index, at every level.
///
/// A candidate without a platform is checked by its config's; one whose manifest or config is not in the store gives way to the next.
///
/// # Errors
/// `NotFound` when none fits, naming the platforms that there are, or when those that fit are not in the store, naming what was asked for.
pub async fn manifest(
    provider: &dyn Provider,
    target: &Descriptor,
    selection: &Selection,
    catalogue: &Catalogue,
) -> Result<Manifest> {
    let mut seen = Vec::new();
    let mut absent = None;
    let mut indexes = HashSet::new();
    // What need not be tried again: an index has room for tens of thousands of entries of one manifest.
    let (mut gone, mut unfit) = (HashSet::new(), HashSet::new());
    let mut configs = ConfigPlatforms::default();
    // Depth first, the best candidate on top.
    let mut stack = vec![(target.clone(), 0_usize)];
    let mut budget = Limits::default().max_nodes;
    while let Some((descriptor, depth)) = stack.pop() {
        budget = budget.checked_sub(1).ok_or_else(|| {
            Error::resource_exhausted(format!("the image {} has too many parts", target.digest))
        })?;
        let key = Key::of(&descriptor);
        if is_index_again(&mut indexes, &descriptor, catalogue)?
            || gone.contains(&key)
            || (descriptor.platform.is_none() && unfit.contains(&key))
        {
            continue;
        }
        let decoded = match decode(provider, &descriptor, catalogue).await {
            Ok(Some(decoded)) => decoded,
            Ok(None) => continue,
            Err(error) if error.kind() == ErrorKind::NotFound && depth > 0 => {
                absent = absent.or(Some(error));
                gone.insert(key);
                continue;
            }
            Err(error) => return Err(error),
        };
        match kind(&descriptor.media_type, catalogue)? {
            Some(Kind::Index) if depth < Limits::DEFAULT_MAX_DEPTH => {
                let mut children = decoded.descriptors();
                seen.extend(children.iter().filter_map(|child| child.platform.clone()));
                children.retain(|child| {
                    child.platform.as_ref().is_none_or(|platform| selection.matches(platform))
                });
                children.sort_by(|a, b| match (&a.platform, &b.platform) {
                    (Some(a), Some(b)) => selection.compare(a, b),
                    (a, b) => a.is_none().cmp(&b.is_none()),
                });
                stack.extend(children.into_iter().rev().map(|child| (child, depth + 1)));
            }
            Some(Kind::Manifest) => {
                let manifest = Manifest::new(descriptor, decoded);
                if depth == 0 || manifest.descriptor.platform.is_some() {
                    return Ok(manifest);
                }
                match configs.tell(provider, &manifest).await {
                    Ok(Some(platform)) if !selection.matches(&platform) => seen.push(platform),
                    Ok(_) => return Ok(manifest),
                    Err(error) if error.kind() == ErrorKind::NotFound => absent = absent.or(Some(error)),
                    Err(error) => return Err(error),
                }
                unfit.insert(key);
            }
            _ => {}
        }
    }
    match absent {
        Some(error) => {
            let which = format!("platform {} of {} is not here", selection.names(), target.digest);
            Err(error.context(which))
        }
        None => Err(no_match(target, &selection.names(), seen.iter())),
    }
}

/// The platform that a manifest's config tells, normalised; `None` where the config is of another kind or tells none.
///
/// # Errors
/// `NotFound` when the config is not in the store.
pub async fn config_platform(provider: &dyn Provider, manifest: &Manifest) -> Result<Option<Platform>> {
    let Some(config) = manifest.decoded.child(Role::Config) else { return Ok(None) };
    if !crate::media_types::is_config(&config.media_type) {
        return Ok(None);
    }
    let bytes = read_blob(provider, config, MAX_CONFIG_LEN).await?;
    Ok(platform_of_config(&bytes))
}

/// What stands for one document however often it is named. The size and whether the bytes come along decide over how it is read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key(Digest, String, u64, bool);

impl Key {
    fn of(descriptor: &Descriptor) -> Self {
        let Descriptor { digest, media_type, size, .. } = descriptor;
        Self(digest.clone(), media_type.clone(), *size, descriptor.embedded().is_some())
    }
}

/// The platforms that configs tell, as [`config_platform`], each config read once: many manifests may share one.
#[derive(Debug, Default)]
pub struct ConfigPlatforms(HashMap<Key, Option<Platform>>);

impl ConfigPlatforms {
    /// The platform that a manifest's config tells, normalised; `None` where the config is of another kind or tells none.
    ///
    /// # Errors
    /// As [`config_platform`]. A config that could not be read is tried again.
    ///
    /// # Cancellation
    /// Nothing remains.
    pub async fn tell(&mut self, provider: &dyn Provider, manifest: &Manifest) -> Result<Option<Platform>> {
        let Some(key) = manifest.decoded.child(Role::Config).map(Key::of) else { return Ok(None) };
        if let Some(known) = self.0.get(&key) {
            return Ok(known.clone());
        }
        let platform = config_platform(provider, manifest).await?;
        self.0.insert(key, platform.clone());
        Ok(platform)
    }
}

/// Checks an image that is no index: it has one platform, which only its config tells. An index, and a selection that nobody asked for,
/// pass unread; so does an image whose manifest or config is missing, which is for others to tell.
///
/// # Errors
/// `NotFound` when that platform is not among those that were asked for; those of reading the manifest and the config.
pub async fn check_platform(
    provider: &dyn Provider,
    target: &Descriptor,
    selection: &Selection,
    catalogue: &Catalogue,
) -> Result<()> {
    if !selection.is_explicit() || kind(&target.media_type, catalogue)? != Some(Kind::Manifest) {
        return Ok(());
    }
    let platform = async {
        let Some(decoded) = decode(provider, target, catalogue).await? else { return Ok(None) };
        config_platform(provider, &Manifest::new(target.clone(), decoded)).await
    };
    match platform.await {
        Ok(Some(platform)) if !selection.matches(&platform) => {
            Err(no_match(target, &selection.names(), [&platform].into_iter()))
        }
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The platform that the bytes of an image config tell, normalised.
pub fn platform_of_config(bytes: &[u8]) -> Option<Platform> {
    let platform: Platform = serde_json::from_slice(bytes).ok()?;
    is_known(&platform).then(|| wharf_platforms::normalize(&platform))
}

/// The diff ids of an image config: the digests of its layers without compression, lowest first.
///
/// # Errors
/// `InvalidArgument` when the bytes are no image config.
pub fn rootfs(config: &[u8]) -> Result<Vec<Digest>> {
    #[derive(Deserialize)]
    struct View {
        rootfs: RootFs,
    }
    #[derive(Deserialize)]
    struct RootFs {
        #[serde(default)]
        diff_ids: Option<Vec<Digest>>,
    }
    let view: View = serde_json::from_slice(config)
        .map_err(|error| Error::invalid_argument("not an image config").with_source(error))?;
    Ok(view.rootfs.diff_ids.unwrap_or_default())
}

/// The platforms that an image claims to have, in order and each once: of the index where it says, else of the configs in the store.
///
/// # Errors
/// `NotFound` when the image's own document is not in the store.
pub async fn platforms(
    provider: &dyn Provider,
    target: &Descriptor,
    catalogue: &Catalogue,
) -> Result<Vec<Platform>> {
    Ok(unique(manifests(provider, target, catalogue).await?.into_iter().filter_map(|found| found.platform)))
}

/// The platforms of an image whose manifest is in the store, in order and each once.
///
/// # Errors
/// As [`platforms`].
pub async fn present_platforms(
    provider: &dyn Provider,
    target: &Descriptor,
    catalogue: &Catalogue,
) -> Result<Vec<Platform>> {
    let found = manifests(provider, target, catalogue).await?;
    Ok(unique(found.into_iter().filter(|found| found.present).filter_map(|found| found.platform)))
}

fn unique(platforms: impl Iterator<Item = Platform>) -> Vec<Platform> {
    let mut kept = Vec::new();
    for platform in platforms {
        if !kept.contains(&platform) {
            kept.push(platform);
        }
    }
    kept
}

/// A manifest that an image names.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Named {
    /// Where it is.
    pub descriptor: Descriptor,
    /// Its platform, where it is known and says something.
    pub platform: Option<Platform>,
    /// Whether the manifest itself is in the store.
    pub present: bool,
}

/// Every manifest that an image names, in the order of its indexes.
///
/// # Errors
/// `NotFound` when the image's own document is not in the store.
pub async fn manifests(
    provider: &dyn Provider,
    target: &Descriptor,
    catalogue: &Catalogue,
) -> Result<Vec<Named>> {
    let mut found = Vec::new();
    let mut indexes = HashSet::new();
    let (mut opened, mut configs) = (HashMap::<Key, Opened>::new(), ConfigPlatforms::default());
    let mut stack = vec![(target.clone(), 0_usize)];
    while let Some((descriptor, depth)) = stack.pop() {
        if is_index_again(&mut indexes, &descriptor, catalogue)? {
            continue;
        }
        if found.len() + stack.len() > Limits::DEFAULT_MAX_NODES || depth > Limits::DEFAULT_MAX_DEPTH {
            return Err(Error::resource_exhausted(format!("the image {} has too many parts", target.digest)));
        }
        let key = Key::of(&descriptor);
        if !opened.contains_key(&key) {
            let (present, manifest) = match decode(provider, &descriptor, catalogue).await {
                Err(error) if error.kind() == ErrorKind::NotFound && depth > 0 => (false, None),
                Err(error) => return Err(error),
                Ok(Some(decoded)) if kind(&descriptor.media_type, catalogue)? == Some(Kind::Index) => {
                    stack.extend(decoded.descriptors().into_iter().rev().map(|child| (child, depth + 1)));
                    continue;
                }
                Ok(decoded) => (true, decoded.map(|decoded| config_alone(&descriptor, decoded))),
            };
            opened.insert(key.clone(), Opened { present, manifest, platform: None });
        }
        let opened = opened.get_mut(&key).expect("because it was put there above");
        let platform = if let Some(platform) = &descriptor.platform {
            Some(wharf_platforms::normalize(platform))
        } else {
            if let Some(manifest) = opened.manifest.take() {
                opened.platform = match configs.tell(provider, &manifest).await {
                    Err(error) if error.kind() == ErrorKind::NotFound => None,
                    platform => platform?,
                };
            }
            opened.platform.clone()
        };
        found.push(Named { descriptor, platform: platform.filter(is_known), present: opened.present });
    }
    Ok(found)
}

/// What is remembered of a manifest that may be named again.
struct Opened {
    present: bool,
    /// The manifest with nothing but its config, until that is asked for the platform.
    manifest: Option<Manifest>,
    /// What the config told.
    platform: Option<Platform>,
}

fn config_alone(descriptor: &Descriptor, mut decoded: Decoded) -> Manifest {
    decoded.children.retain(|child| child.role == Role::Config);
    Manifest::new(descriptor.clone(), Decoded::new(decoded.children))
}

/// Whether this is an index that was seen. Two platforms may share a manifest, but an index that is named twice says nothing new, and
/// there may be 2^40 ways to it.
fn is_index_again(
    seen: &mut HashSet<Digest>,
    descriptor: &Descriptor,
    catalogue: &Catalogue,
) -> Result<bool> {
    let is_index = kind(&descriptor.media_type, catalogue)? == Some(Kind::Index);
    Ok(is_index && !seen.insert(descriptor.digest.clone()))
}

/// What of an image is in the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Check {
    /// Everything that the wanted platforms need, each once.
    pub required: Vec<Descriptor>,
    /// What of it is in the store with the right size.
    pub present: Vec<Descriptor>,
    /// What is not.
    pub missing: Vec<Descriptor>,
}

impl Check {
    /// Whether nothing is missing.
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty()
    }

    /// The bytes of what is required.
    ///
    /// # Errors
    /// `OutOfRange` when the sum of the claimed sizes overflows.
    pub fn required_size(&self) -> Result<u64> {
        sum(&self.required)
    }

    /// The bytes of what is present.
    ///
    /// # Errors
    /// `OutOfRange` when the sum overflows.
    pub fn present_size(&self) -> Result<u64> {
        sum(&self.present)
    }
}

fn sum(descriptors: &[Descriptor]) -> Result<u64> {
    descriptors
        .iter()
        .try_fold(0_u64, |sum, descriptor| sum.checked_add(descriptor.size))
        .ok_or_else(|| Error::out_of_range("the sizes of the image's parts add up to more than 64 bits hold"))
}

/// Looks which parts of an image are in the store. Contents are not hashed.
///
/// # Errors
/// `NotFound` when the image's index lacks a wanted platform; those of decoders.
pub async fn check(
    provider: Arc<dyn Provider>,
    target: &Descriptor,
    selection: &Selection,
    catalogue: &Catalogue,
) -> Result<Check> {
    let children = Children::new(Arc::clone(&provider))
        .with_catalogue(catalogue.clone())
        .with_selection(selection.clone())
        .skipping_missing();
    let children = Arc::new(children);
    let found = Arc::new(Mutex::new(Check::default()));
    let gathered = Arc::clone(&found);
    let handler = handler_fn(move |descriptor: Descriptor| {
        let (provider, children, gathered) =
            (Arc::clone(&provider), Arc::clone(&children), Arc::clone(&gathered));
        async move {
            let present = match provider.reader(&descriptor).await {
                Ok(reader) => reader.size() == descriptor.size,
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::DataLoss) => false,
                Err(error) => return Err(error),
            };
            let mut check = gathered.lock().await;
            check.required.push(descriptor.clone());
            if present {
                check.present.push(descriptor.clone());
                drop(check);
                return children.handle(&descriptor).await;
            }
            check.missing.push(descriptor);
            Ok(Flow::leaf())
        }
    });
    walk(&handler, std::slice::from_ref(target), Limits::default()).await?;
    Ok(std::mem::take(&mut *found.lock().await))
}

/// The bytes of an image's parts for the wanted platforms, as their descriptors tell them, each counted once.
///
/// # Errors
/// `NotFound` when a document that must be read is missing; `OutOfRange` when the sum overflows.
pub async fn size(
    provider: Arc<dyn Provider>,
    target: &Descriptor,
    selection: &Selection,
    catalogue: &Catalogue,
) -> Result<u64> {
    check(provider, target, selection, catalogue)
        .await
        .context(|| format!("cannot add up the size of {}", target.digest))?
        .required_size()
}
