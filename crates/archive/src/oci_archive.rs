//! The format `oci-archive`: an OCI image layout as one tar, which Docker reads, too. Registered like any other.

use std::sync::Arc;

use async_trait::async_trait;
use wharf_content::{Provider, Result};
use wharf_images::Image;

use crate::{
    copy::copy_blob,
    format::{ArchiveFormat, Exported, Output},
    index::OCI_LAYOUT,
    options::{DEFAULT_FORMAT, ExportOptions},
    plan::{Plan, blob_directory},
    tar::TarWriter,
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
}
