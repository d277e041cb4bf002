//! The content of a layout in a directory, brought into the store: what its images are made of, and nothing else of what is there.
//!
//! Each blob is verified by the store; links and other irregular files are refused. Whether all is there is looked at afterwards, as with an
//! archive: the store may have what the layout lacks.

use std::{path::Path, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use wharf_content::{
    BlobReader, ByteStream, CommitOptions, Descriptor, Error, ErrorKind, IngestOptions, Provider, Result,
    ResultExt, Store, copy, copying::Source, open_writer, stream_blob,
};
use wharf_images::{Children, Flow, Handler, Selection, progress::Event, walk};

use crate::{
    index,
    naming::{self, check_count},
    options::ImportOptions,
    transport::Layout,
};

/// Brings the images of the layout at `path` into the store, and gives them as its index.json describes them.
///
/// # Errors
/// `InvalidArgument` for what is no layout or a malformed one; `FailedPrecondition` for content of another digest or size; those of the
/// store and the file system.
///
/// # Cancellation
/// What was committed remains in the store.
pub(crate) async fn images(
    path: &Path,
    store: Arc<dyn Store>,
    options: &ImportOptions,
) -> Result<Vec<Descriptor>> {
    let layout = Layout::new(path);
    let index = layout.index().await?.map(Bytes::from).ok_or_else(|| {
        Error::invalid_argument(format!("{} is a directory and no OCI image layout", path.display()))
    })?;
    let mut entries = layout.entries_of(index.clone(), &options.catalogue).await?;
    check_count(entries.len())?;
    let layout: Arc<dyn Provider> = Arc::new(layout);
    let children = Children::new(Arc::clone(&layout))
        .with_catalogue(options.catalogue.clone())
        .with_selection(options.selection.clone().unwrap_or_else(Selection::all))
        .skipping_missing();
    let bringer = Bringer { layout, store: Arc::clone(&store), children, options: options.clone() };
    walk(&bringer, &entries, options.limits).await.context(|| format!("cannot import {}", path.display()))?;
    if let Some(name) = naming::index_name(options)? {
        entries.push(index::keep(&name, index, store.as_ref()).await?);
    }
    Ok(entries)
}

/// Brings each node, and then goes on with its children.
#[derive(Debug)]
struct Bringer {
    layout: Arc<dyn Provider>,
    store: Arc<dyn Store>,
    children: Children,
    options: ImportOptions,
}

#[async_trait]
impl Handler for Bringer {
    async fn handle(&self, descriptor: &Descriptor) -> Result<Flow> {
        let reader = match self.layout.reader(descriptor).await {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Flow::leaf()),
            reader => reader?,
        };
        let ingest = IngestOptions::new(format!("import-{}", descriptor.digest)).with_descriptor(descriptor);
        match open_writer(self.store.as_ref(), ingest, &|_| ()).await {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            writer => {
                let sink = &self.options.sink;
                sink.event(&Event::Started { descriptor, offset: 0 });
                let source = Read { reader, descriptor: descriptor.clone(), options: self.options.clone() };
                copy(writer?.as_mut(), &source, descriptor, CommitOptions::default()).await?;
                sink.event(&Event::Done { descriptor });
            }
        }
        self.children.handle(descriptor).await
    }
}

/// A blob of the layout.
#[derive(Debug)]
struct Read {
    reader: Arc<dyn BlobReader>,
    descriptor: Descriptor,
    options: ImportOptions,
}

#[async_trait]
impl Source for Read {
    async fn open(&self, offset: u64) -> Result<ByteStream> {
        Ok(stream_blob(Arc::clone(&self.reader), offset))
    }

    async fn local(&self) -> Option<Arc<dyn BlobReader>> {
        Some(Arc::clone(&self.reader))
    }

    fn taken(&self, chunk: &Bytes) {
        self.shared(chunk.len() as u64);
    }

    fn shared(&self, count: u64) {
        let descriptor = &self.descriptor;
        self.options.sink.event(&Event::Bytes { descriptor, count });
    }
}
