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
use tokio::sync::Semaphore;
use wharf_content::{Descriptor, Digest, Error, Provider, Result};
use wharf_images::{
    Flow, Handler, Kind, Role, Selection, decode,
    decode::kind,
    dispatch, image, media_types,
    progress::{Event, Skip},
    transport::{Place, Pusher},
    walk,
};

use super::{Portion, PushOptions, cargo::Cargo, voyage::Voyage};

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
    /// What the destination was found to have, and needs not be pushed.
    pub(super) existing: Vec<Descriptor>,
    /// Whether the root is at the destination.
    pub(super) has_root: bool,
    /// The root and what it consists of that can be referred to.
    pub(super) documents: Vec<Descriptor>,
    /// Layers that may not be distributed and are left out.
    pub(super) skipped: usize,
}

impl Plan {
    /// Plans the push of an image.
    pub(super) async fn make(voyage: &Voyage<'_>, target: &Descriptor) -> Result<Self> {
        let options = voyage.options;
        let documents = voyage.cargo.documents();
        let (provider, catalogue) = (documents.as_ref(), &options.catalogue);
        let (root, selection) = match &options.portion {
            Portion::Whole => (target.clone(), Selection::all()),
            Portion::Best(selection) => {
                image::check_platform(provider, target, selection, catalogue).await?;
                let is_index = kind(&target.media_type, catalogue)? == Some(Kind::Index);
                let root = if is_index {
                    image::manifest(provider, target, selection, catalogue).await?.descriptor
                } else {
                    target.clone()
                };
                (root, Selection::all())
            }
            Portion::Sparse(selection) => {
                image::check_platform(provider, target, selection, catalogue).await?;
                (target.clone(), selection.clone())
            }
        };
        Self::below(voyage, root, Place::Root, selection, target).await
    }

    /// Plans the push of what refers to an image, which has no name.
    pub(super) async fn of_referrer(voyage: &Voyage<'_>, referrer: &Descriptor) -> Result<Self> {
        Self::below(voyage, referrer.clone(), Place::Manifest, Selection::all(), referrer).await
    }

    /// Plans the push of all of what has a name of its own.
    pub(super) async fn whole(voyage: &Voyage<'_>, target: &Descriptor) -> Result<Self> {
        Self::below(voyage, target.clone(), Place::Root, Selection::all(), target).await
    }

    /// Plans the push of a root, of `target`, and all below it.
    async fn below(
        voyage: &Voyage<'_>,
        root: Descriptor,
        place: Place,
        selection: Selection,
        target: &Descriptor,
    ) -> Result<Self> {
        let options = voyage.options;
        let documents = voyage.cargo.documents();
        // What a manifest that is there lacks of it may be what could not be pushed then.
        let asks_first = voyage.asks_first && !options.non_distributable;
        let finder = Arc::new(Finder {
            cargo: Arc::clone(&voyage.cargo),
            documents: Arc::clone(&documents),
            pusher: asks_first.then(|| Arc::clone(&voyage.pusher)),
            options: options.clone(),
            root: root.digest.clone(),
            selection,
            found: Mutex::default(),
            unknown: Mutex::default(),
        });
        finder.found().places.insert(root.digest.clone(), place);
        if voyage.asks_first {
            // Each node is a request or two.
            let most = options.concurrency.get().min(Semaphore::MAX_PERMITS);
            let limiter = Arc::new(Semaphore::new(most));
            let handler = Arc::clone(&finder) as Arc<dyn Handler>;
            dispatch(handler, vec![root.clone()], Some(limiter), options.limits).await?;
        } else {
            walk(finder.as_ref(), std::slice::from_ref(&root), options.limits).await?;
        }
        let mut found = mem::take(&mut *finder.found());
        if !found.missing.is_empty() {
            return Err(incomplete(&documents, target, &found.missing, options).await);
        }
        let (existing, documents) = (mem::take(&mut found.existing), mem::take(&mut found.documents));
        let (skipped, has_root) = (found.skipped, found.has_root);
        Ok(Self { root, tiers: found.tiers()?, existing, has_root, documents, skipped })
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
    existing: Vec<Descriptor>,
    has_root: bool,
    documents: Vec<Descriptor>,
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

/// What the destination has of a document.
enum There {
    /// Nothing, as far as is known.
    No,
    /// The document.
    Itself,
    /// The document and all below it.
    Whole,
}

/// Looks each node up, and then goes on with its children.
#[derive(Debug)]
struct Finder {
    cargo: Arc<dyn Cargo>,
    documents: Arc<dyn Provider>,
    /// The destination, where it is to be asked what it has.
    pusher: Option<Arc<dyn Pusher>>,
    options: PushOptions,
    root: Digest,
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

    /// What the destination has of a document, where it is asked. A root that is there and not under its name is still sent, and so is
    /// a referrer that may not be listed.
    async fn there(&self, descriptor: &Descriptor, kind: Option<Kind>) -> Result<There> {
        let (Some(pusher), Some(kind)) = (&self.pusher, kind.filter(|kind| kind.is_manifest())) else {
            return Ok(There::No);
        };
        let place = self.found().places.get(&descriptor.digest).copied().unwrap_or(Place::Manifest);
        let (is_root, is_index) = (descriptor.digest == self.root, kind == Kind::Index);
        if place == Place::Root && pusher.has(descriptor, Place::Root).await? {
            self.found().existing.push(descriptor.clone());
            self.found().has_root = true;
            return Ok(if is_index { There::Itself } else { There::Whole });
        }
        if (is_root && is_index) || !pusher.has(descriptor, Place::Manifest).await? {
            return Ok(There::No);
        }
        let mut found = self.found();
        if is_root {
            found.has_root = true;
            found.nodes.push(descriptor.clone());
        } else {
            found.existing.push(descriptor.clone());
        }
        Ok(if is_index { There::Itself } else { There::Whole })
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
        let catalogue = &self.options.catalogue;
        let kind = kind(&descriptor.media_type, catalogue)?;
        if kind.is_some_and(Kind::is_manifest) {
            self.found().documents.push(descriptor.clone());
        }
        match self.there(descriptor, kind).await? {
            There::Whole => return Ok(Flow::leaf()),
            // What it lists is looked at in any case.
            There::Itself => {}
            There::No if self.cargo.has(descriptor).await? => self.found().nodes.push(descriptor.clone()),
            There::No => {
                self.found().missing.push(descriptor.clone());
                return Ok(Flow::leaf());
            }
        }
        let Some(decoded) = decode(self.documents.as_ref(), descriptor, catalogue).await? else {
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
        if kind == Some(Kind::Index) {
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
