//! The format `oci-archive`: an OCI image layout as one tar, which Docker reads, too. Registered like any other.
//!
//! What `docker save` wrote is read as well. Which of the two an archive is, shows in the middle of the tar, when much of it has passed; that
//! is why it is one format. An archive that is both is read as a layout (containerd: `core/images/archive/importer.go`).

use std::sync::Arc;

use async_trait::async_trait;
use wharf_content::{Descriptor, Error, Provider, Result, Store};
use wharf_images::Image;

use crate::{
    copy::copy_blob,
    docker_archive,
    format::{ArchiveFormat, Exported, Input, Output, Sniff},
    index::OCI_LAYOUT,
    intake::take_in,
    layout,
    options::{DEFAULT_FORMAT, ExportOptions, ImportOptions},
    plan::{Plan, blob_directory},
    tar::TarWriter,
    untar::is_tar,
};

crate::register_archive_format! { name: "oci-archive", keys: [DEFAULT_FORMAT], make: OciArchive }

/// containerd gives its documents these modes (`core/images/archive/exporter.go`).
const INDEX_MODE: u32 = 0o644;
const LAYOUT_MODE: u32 = 0o444;

#[derive(Debug)]
struct OciArchive;

#[async_trait]
impl ArchiveFormat for OciArchive {
    async fn export(
        &self,
        provider: Arc<dyn Provider>,
        images: &[Image],
        options: &ExportOptions,
        output: &mut Output<'_>,
    ) -> Result<Exported> {
        let plan = Plan::make(&provider, images, options).await?;
        let mut tar = TarWriter::new(output);
        tar.directory("blobs/").await?;
        let mut directory = String::new();
        // Sorted by algorithm and digits, as their names are.
        for (digest, blob) in &plan.blobs {
            if blob_directory(digest) != directory {
                directory = blob_directory(digest);
                tar.directory(&directory).await?;
            }
            copy_blob(&mut tar, provider.as_ref(), blob, options.sink.as_ref()).await?;
        }
        tar.file("index.json", INDEX_MODE, &plan.index_json).await?;
        if let Some(manifest) = &plan.manifest_json {
            tar.file("manifest.json", INDEX_MODE, manifest).await?;
        }
        tar.file("oci-layout", LAYOUT_MODE, OCI_LAYOUT).await?;
        Ok(Exported::new(tar.finish().await?, plan.blobs.len()))
    }

    fn sniff(&self, head: &[u8]) -> Sniff {
        if is_tar(head) { Sniff::Container } else { Sniff::No }
    }

    async fn import(
        &self,
        store: Arc<dyn Store>,
        input: Input,
        options: &ImportOptions,
    ) -> Result<Vec<Descriptor>> {
        let contents = take_in(Arc::clone(&store), input, options).await?;
        if let Some(images) = layout::images(&contents, store.as_ref(), &options.catalogue).await? {
            return Ok(images);
        }
        if let Some(images) = docker_archive::images(&contents, store.as_ref()).await? {
            return Ok(images);
        }
        Err(Error::invalid_argument(
            "not an image archive: it is a tar with neither oci-layout nor manifest.json at its root",
        ))
    }
}
