//! The parts of one image that an archive takes: found by walking its graph, each looked up in the store, what is missing set apart.
//!
//! Documents are read and verified here, since they say what comes next. Other content is only looked up; it is hashed when it is
//! copied.

use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use wharf_content::{Descriptor, Error, ErrorKind, Provider, Result};
use wharf_images::{Flow, Handler, image, media_types, walk};

use crate::options::ExportOptions;

/// A blob that the archive takes.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) descriptor: Descriptor,
    /// The content, where the descriptor has it and the store does not.
    pub(crate) embedded: Option<Bytes>,
}

/// What was found of an image.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    pub(crate) present: Vec<Part>,
    pub(crate) missing: Vec<Descriptor>,
    /// Left out on request.
    pub(crate) skipped: usize,
}

impl Parts {
    /// Finds the parts of the image `target` for the platforms that `children` choose.
    pub(crate) async fn find(
        provider: &Arc<dyn Provider>,
        target: &Descriptor,
        children: &Arc<dyn Handler>,
        options: &ExportOptions,
    ) -> Result<Self> {
        let (selection, catalogue) = (&options.selection, &options.catalogue);
        image::check_platform(provider.as_ref(), target, selection, catalogue).await?;
        let finder = Finder {
            provider: Arc::clone(provider),
            children: Arc::clone(children),
            skip_non_distributable: options.skip_non_distributable,
            parts: Mutex::default(),
        };
        walk(&finder, std::slice::from_ref(target), options.limits).await?;
        let parts = mem::take(&mut *finder.parts());
        Ok(parts)
    }
}

/// Looks each node up, and then goes on with its children.
#[derive(Debug)]
struct Finder {
    provider: Arc<dyn Provider>,
    children: Arc<dyn Handler>,
    skip_non_distributable: bool,
    parts: Mutex<Parts>,
}

impl Finder {
    fn parts(&self) -> MutexGuard<'_, Parts> {
        // Nothing panics while it is held.
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Handler for Finder {
    async fn handle(&self, descriptor: &Descriptor) -> Result<Flow> {
        if self.skip_non_distributable && media_types::is_non_distributable(&descriptor.media_type) {
            self.parts().skipped += 1;
            return Ok(Flow::Skip);
        }
        let embedded = match self.provider.reader(descriptor).await {
            Ok(reader) => {
                check_size(descriptor, reader.size())?;
                None
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let Some(bytes) = descriptor.embedded() else {
                    self.parts().missing.push(descriptor.clone());
                    return Ok(Flow::leaf());
                };
                Some(Bytes::from(bytes))
            }
            Err(error) => return Err(error),
        };
        self.parts().present.push(Part { descriptor: descriptor.clone(), embedded });
        self.children.handle(descriptor).await
    }
}

/// Refuses a blob that is shorter or longer than it is described.
pub(crate) fn check_size(descriptor: &Descriptor, found: u64) -> Result<()> {
    if found == descriptor.size {
        return Ok(());
    }
    Err(Error::failed_precondition(format!(
        "size mismatch for {} ({:?}): described with {} bytes, and the store has {found}; where it is the blob that is damaged, \
         remove it and pull the image again",
        descriptor.digest, descriptor.media_type, descriptor.size
    )))
}
