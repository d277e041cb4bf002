//! Copies one blob from the store into the archive, hashing it on the way.
//!
//! Two chunks are in memory: one that is hashed and written while the next is read.

use std::sync::Arc;

use bytes::Bytes;
use wharf_content::{BlobReader, Error, Hasher, Provider, Result, ResultExt, reading::CHUNK_LEN};
use wharf_images::progress::{Event, Sink};

use crate::{
    parts::check_size,
    plan::{Blob, blob_name},
    tar::TarWriter,
};

/// Blobs are never changed, so nobody may write them (containerd: `core/images/archive/exporter.go`).
pub(crate) const BLOB_MODE: u32 = 0o444;

/// Writes the record of a blob.
pub(crate) async fn copy_blob(
    tar: &mut TarWriter<'_, '_>,
    provider: &dyn Provider,
    blob: &Blob,
    sink: &dyn Sink,
) -> Result<()> {
    let descriptor = &blob.part.descriptor;
    let cannot = || format!("cannot export {:?}", blob.image);
    let reader: Arc<dyn BlobReader> = match &blob.part.embedded {
        Some(bytes) => Arc::new(bytes.clone()),
        None => provider.reader(descriptor).await.context(cannot)?,
    };
    check_size(descriptor, reader.size()).context(cannot)?;
    sink.event(&Event::Started { descriptor, offset: 0 });
    tar.begin(&blob_name(&descriptor.digest), BLOB_MODE, descriptor.size).await?;

    let mut hasher = Hasher::new(descriptor.digest.algorithm());
    let mut at = 0;
    let mut chunk = read(reader.as_ref(), at, descriptor.size).await.context(cannot)?;
    while at < descriptor.size {
        at += chunk.len() as u64;
        let write = async {
            hasher.update(&chunk);
            tar.put(&chunk).await
        };
        // The read is polled first: it goes on elsewhere while this thread hashes.
        let (next, written) = tokio::join!(biased; read(reader.as_ref(), at, descriptor.size), write);
        written?;
        sink.event(&Event::Bytes { descriptor, count: chunk.len() as u64 });
        chunk = next.context(cannot)?;
    }
    tar.end(descriptor.size).await?;

    let found = hasher.finish();
    if found != descriptor.digest {
        return Err(Error::failed_precondition(format!(
            "blob {} ({:?}) is damaged: its bytes have the digest {found}; remove it and pull the image again",
            descriptor.digest, descriptor.media_type
        ))
        .context(cannot()));
    }
    sink.event(&Event::Done { descriptor });
    Ok(())
}

/// Reads the next chunk of a blob of `size` bytes; it is empty at the end only.
async fn read(reader: &dyn BlobReader, at: u64, size: u64) -> Result<Bytes> {
    let wanted = usize::try_from(size - at).unwrap_or(usize::MAX).min(CHUNK_LEN);
    if wanted == 0 {
        return Ok(Bytes::new());
    }
    let chunk = reader.read_at(at, wanted).await?;
    if chunk.is_empty() {
        return Err(Error::data_loss(format!(
            "a blob ended at byte {at} and not at {size}: it was cut short"
        )));
    }
    if chunk.len() > wanted {
        return Err(Error::internal(format!("a store gave {} bytes instead of {wanted}", chunk.len())));
    }
    Ok(chunk)
}
