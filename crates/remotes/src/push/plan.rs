//! What a push will send, decided and found to be all there before the first request.
//!
//! Nodes are put into tiers: blobs first, then each manifest one tier above the highest of its children, indexes after all else. What
//! is in one tier does not refer to anything else in it, so that a registry that checks references never misses one.

use std::{
    collections::{HashMap, HashSet},
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use wharf_content::{Descriptor, Digest, Error, ErrorKind, Provider, Result};
use wharf_images::{
    Flow, Handler, Kind, Role, Selection, decode,
    decode::kind,
    image, media_types,
    progress::{Event, Skip},
    transport::Place,
    walk,
};

use super::{Portion, PushOptions};

/// How many missing parts an error names.
const MAX_NAMED: usize = 8;
/// How many platforms are tried for one that could be pushed instead.
const MAX_ADVISED: usize = 16;

/// What is pushed, and in which order.
#[derive(Debug)]
pub(super) struct Plan {
    /// The root, which gets the name.
    pub(super) root: Descriptor,
    /// What may be pushed at the same time, tier after tier; the root is alone in the last one.
    pub(super) tiers: Vec<Vec<(Descriptor, Place)>>,
    /// Layers that may not be distributed and are left out.
    pub(super) skipped: usize,
}

impl Plan {
    /// Plans the push of an image.
    pub(super) async fn make(
        provider: &Arc<dyn Provider>,
        target: &Descriptor,
        options: &PushOptions,
    ) -> Result<Self> {
        let catalogue = &options.catalogue;
        let (root, selection) = match &options.portion {
            Portion::Whole => (target.clone(), Selection::all()),
            Portion::Best(selection) => {
                image::check_platform(provider.as_ref(), target, selection, catalogue).await?;
                let is_index = kind(&target.media_type, catalogue)? == Some(Kind::Index);
                let root = if is_index {
                    image::manifest(provider.as_ref(), target, selection, catalogue).await?.descriptor
                } else {
                    target.clone()
                };
                (root, Selection::all())
            }
            Portion::Sparse(selection) => {
                image::check_platform(provider.as_ref(), target, selection, catalogue).await?;
                (target.clone(), selection.clone())
            }
        };
        let finder = Finder {
            provider: Arc::clone(provider),
            options: options.clone(),
            selection,
            found: Mutex::default(),
            unknown: Mutex::default(),
        };
        finder.found().places.insert(root.digest.clone(), Place::Root);
        walk(&finder, std::slice::from_ref(&root), options.limits).await?;
        let found = mem::take(&mut *finder.found());
        if !found.missing.is_empty() {
            return Err(incomplete(provider, target, &found.missing, options).await);
        }
        let skipped = found.skipped;
        Ok(Self { root, tiers: found.tiers()?, skipped })
    }
}

/// What was found of an image.
#[derive(Debug, Default)]
struct Found {
    /// In the order in which they were found.
    nodes: Vec<Descriptor>,
    places: HashMap<Digest, Place>,
    children: HashMap<Digest, Vec<Digest>>,
    missing: Vec<Descriptor>,
    /// Children of parents that vouch for what nobody decodes.
    vouched: HashSet<Digest>,
    skipped: usize,
}

impl Found {
    /// Puts the nodes into tiers.
    fn tiers(self) -> Result<Vec<Vec<(Descriptor, Place)>>> {
        let Self { nodes, places, children, .. } = self;
        let place = |digest: &Digest| places.get(digest).copied().unwrap_or(Place::Blob);
        let (blobs, mut waiting): (Vec<_>, Vec<_>) =
            nodes.into_iter().partition(|node| place(&node.digest) == Place::Blob);
        let mut above: HashSet<Digest> = waiting.iter().map(|node| node.digest.clone()).collect();
        let mut tiers = vec![blobs.into_iter().map(|node| (node, Place::Blob)).collect::<Vec<_>>()];
        while !waiting.is_empty() {
            let ready = |node: &Descriptor| {
                let children = children.get(&node.digest);
                children.is_none_or(|children| !children.iter().any(|child| above.contains(child)))
            };
            let (now, later): (Vec<_>, Vec<_>) = waiting.into_iter().partition(ready);
            if now.is_empty() {
                // Only a store that gives other bytes each time could make a digest contain itself.
                return Err(Error::internal("the parts of the image refer to each other in a circle"));
            }
            for node in &now {
                above.remove(&node.digest);
            }
            tiers.push(
                now.into_iter()
                    .map(|node| {
                        let place = place(&node.digest);
                        (node, place)
                    })
                    .collect(),
            );
            waiting = later;
        }
        Ok(tiers)
    }
}

/// Looks each node up, and then goes on with its children.
#[derive(Debug)]
struct Finder {
    provider: Arc<dyn Provider>,
    options: PushOptions,
    selection: Selection,
    found: Mutex<Found>,
    unknown: Mutex<HashSet<String>>,
}

impl Finder {
    fn found(&self) -> MutexGuard<'_, Found> {
        // Nothing panics while it is held.
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As what a child is pushed: by its type, and where nobody knows that, by what it is to its parent.
    fn place(&self, child: &Descriptor, role: Role) -> Result<Place> {
        Ok(match kind(&child.media_type, &self.options.catalogue)? {
            Some(kind) if kind.is_manifest() => Place::Manifest,
            None if role == Role::Manifest => Place::Manifest,
            _ => Place::Blob,
        })
    }

    fn report_unknown(&self, descriptor: &Descriptor) {
        if self.found().vouched.contains(&descriptor.digest) {
            return;
        }
        let mut unknown = self.unknown.lock().unwrap_or_else(PoisonError::into_inner);
        if unknown.insert(descriptor.media_type.clone()) {
            self.options.sink.event(&Event::UnknownType { descriptor });
        }
    }
}

#[async_trait]
impl Handler for Finder {
    async fn handle(&self, descriptor: &Descriptor) -> Result<Flow> {
        if !self.options.non_distributable && media_types::is_non_distributable(&descriptor.media_type) {
            self.found().skipped += 1;
            self.options.sink.event(&Event::Skipped { descriptor, why: Skip::NotDistributable });
            return Ok(Flow::Skip);
        }
        match self.provider.reader(descriptor).await {
            Ok(reader) => check_size(descriptor, reader.size())?,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                if descriptor.embedded().is_none() {
                    self.found().missing.push(descriptor.clone());
                    return Ok(Flow::leaf());
                }
            }
            Err(error) => return Err(error),
        }
        self.found().nodes.push(descriptor.clone());
        let catalogue = &self.options.catalogue;
        let Some(decoded) = decode(self.provider.as_ref(), descriptor, catalogue).await? else {
            self.report_unknown(descriptor);
            return Ok(Flow::leaf());
        };
        if decoded.vouches {
            let children = decoded.children.iter().map(|child| child.descriptor.digest.clone());
            self.found().vouched.extend(children);
        }
        let mut places = HashMap::new();
        for child in &decoded.children {
            places.insert(child.descriptor.digest.clone(), self.place(&child.descriptor, child.role)?);
        }
        let mut children = decoded.descriptors();
        if kind(&descriptor.media_type, catalogue)? == Some(Kind::Index) {
            let listed = children.clone();
            children = self.selection.choose(descriptor, children)?;
            for left_out in listed.iter().filter(|child| !children.contains(child)) {
                self.options.sink.event(&Event::Skipped { descriptor: left_out, why: Skip::OtherPlatform });
            }
        }
        let mut found = self.found();
        for child in &children {
            let place = places.get(&child.digest).copied().unwrap_or(Place::Blob);
            // What is the root stays it, and what is a manifest to anybody is one.
            let entry = found.places.entry(child.digest.clone()).or_insert(place);
            if *entry == Place::Blob {
                *entry = place;
            }
        }
        let digests = children.iter().map(|child| child.digest.clone()).collect();
        found.children.insert(descriptor.digest.clone(), digests);
        drop(found);
        Ok(Flow::Children(children))
    }
}

/// Refuses a blob that is shorter or longer than it is described.
fn check_size(descriptor: &Descriptor, found: u64) -> Result<()> {
    if found == descriptor.size {
        return Ok(());
    }
    Err(Error::failed_precondition(format!(
        "size mismatch for {} ({:?}): described with {} bytes, and the store has {found}",
        descriptor.digest, descriptor.media_type, descriptor.size
    )))
}

/// Says what is missing, and what can be done about it.
async fn incomplete(
    provider: &Arc<dyn Provider>,
    target: &Descriptor,
    missing: &[Descriptor],
    options: &PushOptions,
) -> Error {
    let named: Vec<String> = missing
        .iter()
        .take(MAX_NAMED)
        .map(|part| {
            match part.platform.as_ref().filter(|platform| wharf_images::platforms::is_known(platform)) {
                Some(platform) => format!("{} ({})", part.digest, wharf_platforms::format_all(platform)),
                None => format!("{} ({:?})", part.digest, part.media_type),
            }
        })
        .collect();
    let more = match missing.len().saturating_sub(MAX_NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let complete = complete_platforms(provider, target, options).await;
    let advice = if complete.is_empty() {
        "pull the image again".to_owned()
    } else {
        let complete = complete.join(", ");
        format!(
            "pull the image with --all-platforms, or push with --platform what is complete here: {complete}"
        )
    };
    Error::not_found(format!(
        "the store lacks parts of what is to be pushed: {}{more}; {advice}",
        named.join(", ")
    ))
}

/// The platforms of an index that could be pushed. It is advice only, so that what goes wrong here is not told.
async fn complete_platforms(
    provider: &Arc<dyn Provider>,
    target: &Descriptor,
    options: &PushOptions,
) -> Vec<String> {
    let catalogue = &options.catalogue;
    if !kind(&target.media_type, catalogue).is_ok_and(|kind| kind == Some(Kind::Index)) {
        return Vec::new();
    }
    let platforms = image::present_platforms(provider.as_ref(), target, catalogue).await;
    let mut complete = Vec::new();
    for platform in platforms.unwrap_or_default().iter().take(MAX_ADVISED) {
        let selection = Selection::best([platform]);
        let check = image::check(Arc::clone(provider), target, &selection, catalogue).await;
        if check.is_ok_and(|check| check.is_complete()) {
            complete.push(wharf_platforms::format_all(platform));
        }
    }
    complete
}
