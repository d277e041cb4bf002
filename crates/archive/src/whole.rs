//! Whether the images of an archive are whole, and the labels that hold their parts against collection.
//!
//! An archive may have fewer platforms than its index names: exports for one platform do. So what is there is taken, unless certain platforms
//! are demanded; but a platform that is there by half is told, and an image of which nothing is whole is refused.
//!
//! A parent is labelled before its children are looked up, so that a collection does not take what was found: not everything must have been
//! in the archive, the store may have had it.

use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use wharf_content::{
    CommitOptions, Descriptor, Error, ErrorKind, Labels, Provider, Result, ResultExt, Store, write_blob,
};
use wharf_images::{
    Children, Flow, Handler, Image, Selection, decode, image, labels, media_types, progress::Event, walk,
};

use crate::options::ImportOptions;

/// How many missing parts an error names.
const MAX_NAMED: usize = 8;

/// Looks images of an archive through.
pub(crate) struct Wholeness<'a> {
    store: Arc<dyn Store>,
    options: &'a ImportOptions,
    children: Arc<Children>,
}

impl<'a> Wholeness<'a> {
    pub(crate) fn new(store: Arc<dyn Store>, options: &'a ImportOptions) -> Self {
        let children = Children::new(Arc::clone(&store) as Arc<dyn Provider>)
            .with_catalogue(options.catalogue.clone())
            .with_selection(options.selection.clone().unwrap_or_else(Selection::all))
            .with_sink(Arc::clone(&options.sink))
            .skipping_missing();
        Self { store, options, children: Arc::new(children) }
    }

    /// Checks that an image is there as far as the options demand, and labels what is.
    ///
    /// # Errors
    /// `NotFound` for parts that are missing, naming them, and for a platform that the image does not have; `FailedPrecondition` for a
    /// part of another size than it is described with; `InvalidArgument` for a malformed document.
    pub(crate) async fn check(&self, image: &Image) -> Result<()> {
        let target = &image.target;
        if let Some(selection) = &self.options.selection {
            image::check_platform(self.store.as_ref(), target, selection, &self.options.catalogue).await?;
        }
        let missing = self.missing(target).await?;
        if missing.is_empty() {
            return Ok(());
        }
        if missing.iter().any(|part| part.digest == target.digest) {
            return Err(incomplete(&missing));
        }
        match &self.options.selection {
            None => self.check_any(image).await,
            Some(selection) if selection.is_all() => {
                Err(incomplete(&missing).context("not every platform of the image is there"))
            }
            Some(selection) => {
                let which = format!("platform {} of the image is not there as a whole", selection.names());
                Err(incomplete(&missing).context(which))
            }
        }
    }

    /// Checks that one platform is whole, and tells of those that are not.
    async fn check_any(&self, image: &Image) -> Result<()> {
        let manifests = image::manifests(self.store.as_ref(), &image.target, &self.options.catalogue).await?;
        // Attestations alone are no image; artifacts have no platform at all.
        let has_platforms = manifests.iter().any(|manifest| manifest.platform.is_some());
        let (mut is_any_whole, mut halves, mut absent) = (false, Vec::new(), Vec::new());
        for manifest in manifests {
            if !manifest.present {
                absent.push(manifest.descriptor);
                continue;
            }
            let missing = self.missing(&manifest.descriptor).await?;
            if missing.is_empty() {
                is_any_whole |= manifest.platform.is_some() || !has_platforms;
            } else {
                let platform = manifest.platform.as_ref().map(wharf_platforms::format_all);
                halves.push((platform.unwrap_or_else(|| manifest.descriptor.digest.to_string()), missing));
            }
        }
        if !is_any_whole {
            let missing = halves.into_iter().next().map_or(absent, |(_, missing)| missing);
            return Err(incomplete(&missing));
        }
        for (platform, missing) in halves {
            let text = format!("{platform} of {:?} is not whole: {}", image.name, list(&missing));
            self.options.sink.event(&Event::Warning { text: &text });
        }
        Ok(())
    }

    /// What is missing below a root.
    ///
    /// # Errors
    /// As [`Wholeness::check`], but that something is missing.
    pub(crate) async fn missing(&self, root: &Descriptor) -> Result<Vec<Descriptor>> {
        let finder = Finder {
            store: Arc::clone(&self.store),
            children: Arc::clone(&self.children),
            catalogue: self.options.catalogue.clone(),
            missing: Mutex::default(),
        };
        walk(&finder, std::slice::from_ref(root), self.options.limits).await?;
        let missing = mem::take(&mut *finder.missing());
        Ok(missing)
    }
}

fn incomplete(missing: &[Descriptor]) -> Error {
    Error::not_found(format!("the archive and the store lack parts of it: {}", list(missing)))
}

fn list(missing: &[Descriptor]) -> String {
    let named: Vec<_> = missing
        .iter()
        .take(MAX_NAMED)
        .map(|part| format!("{} ({:?})", part.digest, part.media_type))
        .collect();
    let more = match missing.len().saturating_sub(MAX_NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("{}{more}", named.join(", "))
}

/// Looks each node up, labels it, and then goes on with its children.
#[derive(Debug)]
struct Finder {
    store: Arc<dyn Store>,
    children: Arc<Children>,
    catalogue: wharf_content::Catalogue,
    missing: Mutex<Vec<Descriptor>>,
}

impl Finder {
    fn missing(&self) -> MutexGuard<'_, Vec<Descriptor>> {
        // Nothing panics while it is held.
        self.missing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the store has a part. What only its descriptor has is written now, so that the image does not depend on it.
    async fn is_present(&self, descriptor: &Descriptor) -> Result<bool> {
        match self.store.reader(descriptor).await {
            Ok(reader) if reader.size() == descriptor.size => Ok(true),
            Ok(reader) => Err(Error::failed_precondition(format!(
                "size mismatch for {} ({:?}): described with {} bytes, and it has {}",
                descriptor.digest,
                descriptor.media_type,
                descriptor.size,
                reader.size()
            ))),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let Some(bytes) = descriptor.embedded() else { return Ok(false) };
                let name = format!("import-{}", descriptor.digest);
                let commit = CommitOptions::default();
                write_blob(self.store.as_ref(), &name, descriptor, bytes.into(), commit).await?;
                Ok(true)
            }
            Err(error) => Err(error),
        }
    }

    /// Writes the labels that hold the chosen children. Their keys are those that they have among all children, so that imports and pulls of
    /// different platforms do not overwrite each other's.
    async fn hold(&self, parent: &Descriptor, chosen: &[Descriptor]) -> Result<()> {
        let Some(decoded) = decode(self.store.as_ref(), parent, &self.catalogue).await? else {
            return Ok(());
        };
        let mut wanted: Labels = labels::child_labels(&decoded.descriptors());
        wanted.retain(|_, digest| chosen.iter().any(|child| child.digest.as_str() == digest));
        let current = self.store.info(&parent.digest).await?.labels;
        if wanted.iter().all(|(key, value)| current.get(key) == Some(value)) {
            return Ok(());
        }
        let paths: Vec<String> = wanted.keys().map(|key| format!("labels.{key}")).collect();
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        self.store.update(&parent.digest, &wanted, &paths).await.map(drop)
    }
}

#[async_trait]
impl Handler for Finder {
    async fn handle(&self, descriptor: &Descriptor) -> Result<Flow> {
        if !self.is_present(descriptor).await? {
            // Many archives leave out what may not be distributed; it can be pulled.
            if !media_types::is_non_distributable(&descriptor.media_type) {
                self.missing().push(descriptor.clone());
            }
            return Ok(Flow::leaf());
        }
        let flow = self.children.handle(descriptor).await?;
        if let Flow::Children(chosen) = &flow
            && !chosen.is_empty()
        {
            self.hold(descriptor, chosen).await.context(|| format!("cannot label {}", descriptor.digest))?;
        }
        Ok(flow)
    }
}
