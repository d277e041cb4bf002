//! The format `oci-archive`: an OCI image layout as one tar, which Docker reads, too. Registered like any other.
//!
//! What `docker save` wrote is read as well. Which of the two an archive is, shows in the middle of the tar, when much of it has passed; that
//! is why one format reads both; the format `docker-archive` only writes for Docker alone. An archive that is both is read as a layout (containerd: `core/images/archive/importer.go`).

use std::sync::Arc;

use async_trait::async_trait;
use wharf_content::{Descriptor, Error, Provider, Result, Store};
use wharf_images::Image;

use crate::{
    copy::copy_blob,
    docker_archive,
    format::{ArchiveFormat, Exported, Input, Output, Sniff},
    index::{self, OCI_LAYOUT},
    intake::take_in,
    layout, naming,
    options::{DEFAULT_FORMAT, DOCKER_FORMAT, ExportOptions, ImportOptions},
    plan::{Plan, Wanted, blob_directory, blob_name},
    tar::TarWriter,
    untar::is_tar,
};

crate::register_archive_format! { name: "oci-archive", keys: [DEFAULT_FORMAT], make: OciArchive }
crate::register_archive_format! { name: "docker-archive", keys: [DOCKER_FORMAT], make: DockerArchive }

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
        let images = images.iter().map(Wanted::of_image).collect::<Result<_>>()?;
        write(&provider, &Plan::make(&provider, images, options).await?, options, output).await
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
        let index_name = naming::index_name(options)?;
        if let Some(text) = layout::index(&contents, store.as_ref()).await? {
            let mut images = layout::entries(text.clone(), &options.catalogue).await?;
            if let Some(name) = index_name {
                images.push(index::keep(&name, text, store.as_ref()).await?);
            }
            return Ok(images);
        }
        if let Some(mut images) = docker_archive::images(&contents, store.as_ref(), store.as_ref()).await? {
            if let Some(name) = index_name {
                let text = index::index_json(images.iter())?;
                images.push(index::keep(&name, text.into(), store.as_ref()).await?);
            }
            return Ok(images);
        }
        Err(Error::invalid_argument(
            "not an image archive: it is a tar with neither oci-layout nor manifest.json at its root",
        ))
    }
}

/// Writes what was planned.
pub(crate) async fn write(
    provider: &Arc<dyn Provider>,
    plan: &Plan,
    options: &ExportOptions,
    output: &mut Output<'_>,
) -> Result<Exported> {
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

/// For Docker alone.
#[derive(Debug)]
struct DockerArchive;

#[async_trait]
impl ArchiveFormat for DockerArchive {
    async fn export(
        &self,
        provider: Arc<dyn Provider>,
        images: &[Image],
        options: &ExportOptions,
        output: &mut Output<'_>,
    ) -> Result<Exported> {
        let mut options = options.clone();
        options.docker_manifest = true;
        let images = images.iter().map(Wanted::of_image).collect::<Result<_>>()?;
        let plan = Plan::make(&provider, images, &options).await?;
        check_loadable(&plan)?;
        let mut tar = TarWriter::new(output);
        tar.directory("blobs/").await?;
        let (mut directory, mut count) = (String::new(), 0);
        for (digest, blob) in &plan.blobs {
            if !plan.docker_files.contains(&blob_name(digest)) {
                continue;
            }
            if blob_directory(digest) != directory {
                directory = blob_directory(digest);
                tar.directory(&directory).await?;
            }
            copy_blob(&mut tar, provider.as_ref(), blob, options.sink.as_ref()).await?;
            count += 1;
        }
        tar.file("manifest.json", INDEX_MODE, plan.manifest_json.as_deref().unwrap_or_default()).await?;
        Ok(Exported::new(tar.finish().await?, count))
    }

    /// Both are read alike; which of them an archive is tells no start of it.
    async fn import(
        &self,
        store: Arc<dyn Store>,
        input: Input,
        options: &ImportOptions,
    ) -> Result<Vec<Descriptor>> {
        OciArchive.import(store, input, options).await
    }
}

/// Refuses images of which Docker would see nothing.
pub(crate) fn check_loadable(plan: &Plan) -> Result<()> {
    if plan.unloadable.is_empty() && plan.manifest_json.is_some() {
        return Ok(());
    }
    Err(Error::failed_precondition(format!(
        "there is nothing in {} that Docker loads: an image config and layers, all of them there; write an OCI archive instead",
        plan.unloadable.join(", ")
    )))
}
