//! Exporting images: into any stream, or into a file that appears whole or not at all.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::{fs::File, io::AsyncWriteExt};
use wharf_content::{Error, Provider, Result, ResultExt, blocking};
use wharf_images::Image;

use crate::{
    compress::Compressed,
    destination::Destination,
    format::{ArchiveFormat, ArchiveFormats, Exported, Output},
    options::ExportOptions,
};

/// Writes one archive of `images` into `output`, and flushes it.
///
/// The same images give the same bytes, in whatever order they are named and whenever they were pulled. Every blob is hashed while it is
/// copied, and none is held in memory.
///
/// # Errors
/// Before anything is written: `InvalidArgument` for no image, an unknown format or a malformed document; `Conflict` for two images
/// of one name; `NotFound` for a platform that an image lacks, and for content that is not in the store, naming it; `FailedPrecondition`
/// for a document of another digest, or any content of another size, than it is described with.
///
/// Afterwards: `FailedPrecondition` for a blob whose bytes do not have its digest; `DataLoss` for one that ends early; those of the store
/// and of the output. What was written is then no archive.
///
/// # Cancellation
/// What was written so far remains in the output; it is no archive.
pub async fn export(
    provider: Arc<dyn Provider>,
    images: &[Image],
    options: &ExportOptions,
    output: &mut Output<'_>,
) -> Result<Exported> {
    let format = format(options)?;
    let mut output = Compressed::new(output, options.compression)?;
    let mut exported = format.export(provider, images, options, &mut output).await?;
    exported.len = output.finish().await.context(|| "cannot write the archive")?;
    output.flush().await.context(|| "cannot write the archive")?;
    Ok(exported)
}

/// Writes one archive of `images` to `path`.
///
/// It is written to a temporary file beside it, synced, and renamed, so that there is a whole archive or what was there before.
/// Links are followed, and the file at their end is replaced; a new file has the mode that the umask leaves, a replaced one keeps its
/// own. What is not a file is written directly: a FIFO, a device, and the process's own descriptors such as `/dev/stdout`.
///
/// # Errors
/// Those of [`export`]. `NotFound` when the directory does not exist; `InvalidArgument` for a path that names a directory or nothing;
/// `PermissionDenied` and `ResourceExhausted` as the system tells.
///
/// # Cancellation
/// The temporary file is removed and `path` is as it was. Dropped in its last step, it may still put the finished archive in place.
/// Opening a FIFO waits for a reader on a blocking thread, and goes on waiting there.
pub async fn export_to_file(
    path: impl Into<PathBuf>,
    provider: Arc<dyn Provider>,
    images: &[Image],
    options: &ExportOptions,
) -> Result<Exported> {
    let path: Arc<Path> = path.into().into();
    let cannot = || format!("cannot write the archive {}", path.display());
    let opening = Arc::clone(&path);
    match blocking::run(move || Destination::open(&opening)).await? {
        Destination::Direct(file) => export(provider, images, options, &mut File::from_std(file)).await,
        Destination::Pending(mut pending) => {
            let mut file = File::from_std(pending.file().try_clone().context(cannot)?);
            let exported = export(provider, images, options, &mut file).await?;
            drop(file);
            blocking::run(move || Ok(pending.publish())).await?.context(cannot)?;
            Ok(exported)
        }
    }
}

/// The format that the options ask for.
fn format(options: &ExportOptions) -> Result<Arc<dyn ArchiveFormat>> {
    options.catalogue.find::<ArchiveFormats>(&options.format)?.ok_or_else(|| {
        Error::invalid_argument(format!(
            "unknown archive format {:?}: known are {}",
            options.format,
            options.catalogue.keys::<ArchiveFormats>().join(", ")
        ))
    })
}
