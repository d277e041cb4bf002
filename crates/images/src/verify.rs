//! What is wrong with a store and which images suffer from it: blobs, graphs, the records' view.
//!
//! An index's manifests that were never pulled are not missed; a manifest that is there needs all its parts. Nothing is changed and
//! nothing fetched here.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use async_trait::async_trait;
use wharf_content::{
    Catalogue, Descriptor, Digest, ErrorKind, Resource, Result, Status, Store,
    filter::FilterSet,
    gc,
    verify::{self as blobs, Checked, Damage, Stray, VerifyOptions},
};

use crate::{
    children::decode,
    decode::{Kind, kind},
    handler::{Flow, Handler},
    record::{Image, ImageStore},
    walk::{Limits, walk},
};

/// What is wrong at one node of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Problem {
    /// The content is needed and not there.
    Missing,
    /// The content is damaged.
    Damaged(Damage),
    /// The content is whole, and its size is not the one that the image gives it.
    Size {
        /// The size in the store in bytes.
        found: u64,
    },
    /// The document is whole, and does not make sense.
    Malformed(String),
    /// Of all that the index offers nothing is there.
    Empty,
}

impl Problem {
    /// One word for programs: `missing`, `damaged`, `size`, `malformed` or `empty`.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Damaged(_) => "damaged",
            Self::Size { .. } => "size",
            Self::Malformed(_) => "malformed",
            Self::Empty => "empty",
        }
    }

    /// Whether fetching the content again can help.
    pub fn is_fetchable(&self) -> bool {
        matches!(self, Self::Missing | Self::Damaged(_))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("is missing"),
            Self::Damaged(damage) => write!(f, "is damaged: {damage}"),
            Self::Size { found } => write!(f, "has {found} bytes and is described with another size"),
            Self::Malformed(reason) => write!(f, "makes no sense: {reason}"),
            Self::Empty => f.write_str("offers platforms of which none is here"),
        }
    }
}

/// Something wrong with an image.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fault {
    /// The image's name.
    pub image: String,
    /// The part that is concerned, as the image describes it.
    pub descriptor: Descriptor,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What was found of a store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// How many blobs were hashed.
    pub blobs: u64,
    /// How many bytes they have.
    pub bytes: u64,
    /// The images that were checked, as they are recorded.
    pub images: Vec<Image>,
    /// The blobs that are damaged.
    pub damaged: BTreeMap<Digest, Damage>,
    /// What is wrong with the images, in their order.
    pub faults: Vec<Fault>,
    /// What stands where blobs or ingests stand and is none.
    pub strays: Vec<Stray>,
    /// The blobs that no image needs, that a lease or a label keeps, and that went into quarantine and have not come back.
    pub lost: BTreeSet<Digest>,
    /// What is wrong with the view of the records.
    pub view: Option<String>,
    /// What is wrong with the file `oci-layout`.
    pub layout: Option<String>,
    /// What was begun and not finished; a later pull goes on there, or a collection removes it. No fault.
    pub ingests: Vec<Status>,
    hashed: BTreeSet<Digest>,
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.damaged.is_empty()
            && self.faults.is_empty()
            && self.strays.is_empty()
            && self.lost.is_empty()
            && self.view.is_none()
            && self.layout.is_none()
    }

    /// The names of the images that need a blob and suffer from what is wrong with it.
    pub fn images_of<'a>(&'a self, digest: &'a Digest) -> impl Iterator<Item = &'a str> {
        let faults = self.faults.iter().filter(move |fault| fault.descriptor.digest == *digest);
        faults.map(|fault| fault.image.as_str())
    }
}

/// Hashes every blob of a store again, checks the graphs of all images, the view of the records, and that what leases keep is there.
///
/// # Errors
/// Those of the store and the records. What is wrong with them is in the report and no error.
///
/// # Cancellation
/// Nothing is changed.
pub async fn verify(
    store: Arc<dyn Store>,
    images: &dyn ImageStore,
    options: &VerifyOptions,
    catalogue: &Catalogue,
) -> Result<Report> {
    let census = blobs::census(store.as_ref()).await?;
    let mut report = Report {
        strays: census.strays,
        layout: census.layout,
        ingests: store.list_statuses(&FilterSet::all()).await?,
        view: images.stale_view().await?,
        ..Report::default()
    };
    report.hashed.extend(census.blobs.iter().cloned());
    hash(store.as_ref(), census.blobs, options, &mut report).await?;
    // Listed after the blobs: what is recorded by now was verified when it was committed.
    report.images = images.list(&FilterSet::all()).await?;
    check_again(Arc::clone(&store), images, &mut report, options, catalogue).await?;
    report.lost = lost(store.as_ref(), &report).await?;
    Ok(report)
}

/// What is in quarantine and not in the store, of which no image tells, and which is kept all the same.
async fn lost(store: &dyn Store, report: &Report) -> Result<BTreeSet<Digest>> {
    let Some(custodian) = store.custodian() else { return Ok(BTreeSet::new()) };
    let mut lost: BTreeSet<Digest> = custodian
        .lost()
        .await?
        .into_iter()
        .filter(|gone| gone.is_quarantined)
        .map(|gone| gone.digest)
        .collect();
    lost.retain(|digest| report.images_of(digest).next().is_none());
    if !lost.is_empty() {
        let kept = gc::kept(store, &[], SystemTime::now()).await?;
        lost.retain(|digest| kept.contains(&Resource::Content(digest.clone())));
    }
    Ok(lost)
}

/// Hashes again what `only` consist of and checks their graphs, and nothing else of the store.
///
/// # Errors
/// As [`verify`].
///
/// # Cancellation
/// Nothing is changed.
pub async fn verify_images(
    store: Arc<dyn Store>,
    images: &dyn ImageStore,
    only: Vec<Image>,
    options: &VerifyOptions,
    catalogue: &Catalogue,
) -> Result<Report> {
    let mut report = Report { images: only, ..Report::default() };
    check_again(store, images, &mut report, options, catalogue).await?;
    Ok(report)
}

/// Checks the graphs of a report's images anew, by the damage that it knows of, and hashes what they consist of and was not hashed yet.
///
/// # Errors
/// As [`verify`].
pub async fn check_again(
    store: Arc<dyn Store>,
    images: &dyn ImageStore,
    report: &mut Report,
    options: &VerifyOptions,
    catalogue: &Catalogue,
) -> Result<()> {
    let lost = blobs::census(store.as_ref()).await?.quarantined;
    loop {
        let mut nodes = check(Arc::clone(&store), images, report, &lost, catalogue).await?;
        nodes.retain(|digest| !report.hashed.contains(digest));
        if nodes.is_empty() {
            return Ok(());
        }
        report.hashed.extend(nodes.iter().cloned());
        hash(store.as_ref(), nodes, options, report).await?;
    }
}

async fn hash(
    store: &dyn Store,
    digests: impl IntoIterator<Item = Digest> + Send,
    options: &VerifyOptions,
    report: &mut Report,
) -> Result<()> {
    let mut visit = |checked: Checked| {
        report.blobs += 1;
        report.bytes += checked.size;
        if let Some(damage) = checked.damage {
            report.damaged.insert(checked.digest, damage);
        }
        Ok(())
    };
    blobs::verify(store, digests, options, &mut visit).await
}

/// Checks every graph, and gives the blobs that the images consist of.
async fn check(
    store: Arc<dyn Store>,
    images: &dyn ImageStore,
    report: &mut Report,
    lost: &BTreeSet<Digest>,
    catalogue: &Catalogue,
) -> Result<BTreeSet<Digest>> {
    let mut nodes = BTreeSet::new();
    let mut checked = Vec::with_capacity(report.images.len());
    report.faults.clear();
    for image in std::mem::take(&mut report.images) {
        let inspector = Inspector {
            store: Arc::clone(&store),
            catalogue: catalogue.clone(),
            damaged: report.damaged.clone(),
            lost: lost.clone(),
            found: Mutex::default(),
        };
        let walked = walk(&inspector, std::slice::from_ref(&image.target), Limits::default()).await;
        let mut found = std::mem::take(&mut *inspector.found());
        match walked {
            Err(error) if error.kind() == ErrorKind::ResourceExhausted && !is_local(&error) => {
                found.problems.push((image.target.clone(), Problem::Malformed(error.report())));
            }
            walked => walked?,
        }
        if !found.problems.is_empty() && !is_recorded(images, &image).await? {
            continue;
        }
        let fault = |(descriptor, problem)| Fault { image: image.name.clone(), descriptor, problem };
        report.faults.extend(found.problems.into_iter().map(fault));
        report.damaged.extend(found.damaged);
        nodes.extend(found.nodes);
        checked.push(image);
    }
    report.images = checked;
    Ok(nodes)
}

/// Whether the machine gave out, and not a limit on what an image may be.
fn is_local(error: &wharf_content::Error) -> bool {
    error.find_source::<std::io::Error>().is_some()
}

/// Whether the image still is what it was; one that has been removed meanwhile may have lost its content since.
async fn is_recorded(images: &dyn ImageStore, image: &Image) -> Result<bool> {
    match images.get(&image.name).await {
        Ok(now) => Ok(now.target.digest == image.target.digest),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// What was found of one image.
#[derive(Debug, Default)]
struct Found {
    nodes: Vec<Digest>,
    problems: Vec<(Descriptor, Problem)>,
    damaged: Vec<(Digest, Damage)>,
}

/// Looks at each node, and gives those of its children that must be there.
#[derive(Debug)]
struct Inspector {
    store: Arc<dyn Store>,
    catalogue: Catalogue,
    damaged: BTreeMap<Digest, Damage>,
    lost: BTreeSet<Digest>,
    found: Mutex<Found>,
}

impl Inspector {
    fn found(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, descriptor: &Descriptor, problem: Problem) -> Flow {
        self.found().problems.push((descriptor.clone(), problem));
        Flow::leaf()
    }

    /// Whether a child of an index was never pulled: nothing of it is there, nor in quarantine.
    async fn is_elsewhere(&self, child: &Descriptor) -> Result<bool> {
        if self.damaged.contains_key(&child.digest) || self.lost.contains(&child.digest) {
            return Ok(false);
        }
        match self.store.reader(child).await {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(child.embedded().is_none()),
            _ => Ok(false),
        }
    }

    /// The children of an index that are here, or were.
    async fn chosen(&self, index: &Descriptor, children: Vec<Descriptor>) -> Result<Flow> {
        let is_empty = children.is_empty();
        let mut here = Vec::new();
        for child in children {
            if !self.is_elsewhere(&child).await? {
                here.push(child);
            }
        }
        if here.is_empty() && !is_empty {
            return Ok(self.tell(index, Problem::Empty));
        }
        Ok(Flow::Children(here))
    }
}

#[async_trait]
impl Handler for Inspector {
    async fn handle(&self, descriptor: &Descriptor) -> Result<Flow> {
        if let Some(damage) = self.damaged.get(&descriptor.digest) {
            return Ok(self.tell(descriptor, Problem::Damaged(damage.clone())));
        }
        match self.store.reader(descriptor).await {
            Ok(reader) => {
                self.found().nodes.push(descriptor.digest.clone());
                if reader.size() != descriptor.size {
                    let found = reader.size();
                    return Ok(self.tell(descriptor, Problem::Size { found }));
                }
            }
            Err(error) => match error.kind() {
                ErrorKind::NotFound if descriptor.embedded().is_some() => {}
                ErrorKind::NotFound => return Ok(self.tell(descriptor, Problem::Missing)),
                ErrorKind::ResourceExhausted => return Err(error),
                _ => {
                    // It is hashed with the others, which finds out what it is.
                    self.found().nodes.push(descriptor.digest.clone());
                    let damage = Damage::unreadable(&error);
                    return Ok(self.tell(descriptor, Problem::Damaged(damage)));
                }
            },
        }
        let decoded = match decode(self.store.as_ref(), descriptor, &self.catalogue).await {
            Ok(Some(decoded)) => decoded,
            // Kept whole and not looked into.
            Ok(None) => return Ok(Flow::leaf()),
            Err(error) => {
                return match error.kind() {
                    ErrorKind::InvalidArgument => {
                        Ok(self.tell(descriptor, Problem::Malformed(error.report())))
                    }
                    ErrorKind::NotImplemented => Ok(Flow::leaf()),
                    // The bytes are not those of the name.
                    ErrorKind::FailedPrecondition => {
                        let damage = Damage::unreadable(&error);
                        self.found().damaged.push((descriptor.digest.clone(), damage.clone()));
                        Ok(self.tell(descriptor, Problem::Damaged(damage)))
                    }
                    ErrorKind::NotFound => Ok(self.tell(descriptor, Problem::Missing)),
                    _ => Err(error),
                };
            }
        };
        let children = decoded.descriptors();
        if kind(&descriptor.media_type, &self.catalogue)? == Some(Kind::Index) {
            return self.chosen(descriptor, children).await;
        }
        Ok(Flow::Children(children))
    }
}
