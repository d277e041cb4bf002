//! Committed blobs: reading at offsets, describing, removing.

use std::{io::Write, os::unix::fs::FileExt, sync::Arc};

use crate::{
    descriptor::Descriptor,
    error::{Error, ErrorKind},
    store::Store,
};

use super::probe::{
    Check, Promise, bytes, describe, ensure, equal, holds, labels, promise, put, put_labelled, refused,
    same_bytes, walk,
};

pub(super) const PROMISES: &[Promise] = &[
    promise!("read-at-offsets", "a read gives all the bytes that it asks for and that are there", at_offsets),
    promise!(
        "read-past-the-end",
        "a read across the end gives what is before it, one past it nothing",
        past_the_end
    ),
    promise!("only-the-digest-counts", "a reader is opened by the digest of a descriptor alone", by_digest),
    promise!("blobs-read-only", "the file of a blob holds exactly the blob and cannot be written", read_only),
    promise!("absent-blobs", "reader, info, update and delete of an unknown blob are NotFound", absent),
    promise!("delete", "a removed blob is gone with its labels, and can be written again", delete),
    promise!("info", "an info has the digest, the size and the labels of its blob", info),
];

async fn at_offsets(store: Arc<dyn Store>) -> Check {
    let content = bytes(3_000_000, 1);
    let descriptor = put(store.as_ref(), &content).await?;
    let reader = store.reader(&descriptor).await?;
    equal("the size", reader.size(), descriptor.size)?;
    for (offset, len) in
        [(0, 3_000_000), (0, 1), (1, 1), (0, 0), (70_000, 5), (1_000_000, 1_999_999), (2_999_999, 1)]
    {
        let read = reader.read_at(offset as u64, len).await?;
        same_bytes(&format!("{len} bytes at {offset}"), &read, &content[offset..offset + len])?;
    }
    Ok(())
}

async fn past_the_end(store: Arc<dyn Store>) -> Check {
    let content = bytes(100, 1);
    let descriptor = put(store.as_ref(), &content).await?;
    let reader = store.reader(&descriptor).await?;
    same_bytes("size + 1 bytes", &reader.read_at(0, 101).await?, &content)?;
    same_bytes("20 bytes of the last 10", &reader.read_at(90, 20).await?, &content[90..])?;
    same_bytes("as many bytes as there can be", &reader.read_at(1, usize::MAX).await?, &content[1..])?;
    for offset in [100, 101, u64::MAX] {
        equal("the bytes past the end", reader.read_at(offset, 1).await?.len(), 0)?;
    }
    Ok(())
}

async fn by_digest(store: Arc<dyn Store>) -> Check {
    let content = bytes(100, 1);
    let descriptor = put(store.as_ref(), &content).await?;
    for size in [0, 1, 99, 101, u64::MAX] {
        let other = Descriptor::new("application/x-other", descriptor.digest.clone(), size);
        equal("the size", store.reader(&other).await?.size(), 100)?;
        holds(store.as_ref(), &other, &content).await?;
    }
    Ok(())
}

async fn read_only(store: Arc<dyn Store>) -> Check {
    let content = bytes(100, 1);
    let descriptor = put(store.as_ref(), &content).await?;
    let reader = store.reader(&descriptor).await?;
    let Some(mut file) = reader.file() else {
        // There is nothing that could be written.
        return Ok(());
    };
    let io = |error| Error::io("cannot look at the file of a blob", error);
    let metadata = file.metadata().map_err(io)?;
    equal("the size of the file", metadata.len(), 100)?;
    ensure!(metadata.permissions().readonly(), "the file of a blob has a mode that lets it be written");
    ensure!(file.write(b"x").is_err(), "the open file of a blob can be written");
    let mut found = vec![0; 100];
    file.read_exact_at(&mut found, 0).map_err(io)?;
    same_bytes("the file", &found, &content)
}

async fn absent(store: Arc<dyn Store>) -> Check {
    put(store.as_ref(), &bytes(100, 1)).await?;
    let unknown = describe(&bytes(100, 2));
    let digest = &unknown.digest;
    refused("a reader", store.reader(&unknown).await, ErrorKind::NotFound)?;
    refused("an info", store.info(digest).await, ErrorKind::NotFound)?;
    refused("an update", store.update(digest, &labels(&[("a", "1")]), &[]).await, ErrorKind::NotFound)?;
    refused("a delete", store.delete(digest).await, ErrorKind::NotFound)
}

async fn delete(store: Arc<dyn Store>) -> Check {
    let content = bytes(100, 1);
    let kept = put(store.as_ref(), &bytes(100, 2)).await?;
    let descriptor = put_labelled(store.as_ref(), &content, &[("a", "1")]).await?;
    store.delete(&descriptor.digest).await?;
    refused("a reader", store.reader(&descriptor).await, ErrorKind::NotFound)?;
    refused("an info", store.info(&descriptor.digest).await, ErrorKind::NotFound)?;
    equal("a walk", walk(store.as_ref(), &[]).await?, [kept.digest])?;
    put(store.as_ref(), &content).await?;
    holds(store.as_ref(), &descriptor, &content).await?;
    let found = store.info(&descriptor.digest).await?.labels;
    equal("the labels of a blob that was written again", found, labels(&[]))
}

async fn info(store: Arc<dyn Store>) -> Check {
    for (seed, size) in [(1, 1), (2, 100), (3, 2_000_000)] {
        let descriptor = put_labelled(store.as_ref(), &bytes(size, seed), &[("a", "1")]).await?;
        let info = store.info(&descriptor.digest).await?;
        equal("the digest", &info.digest, &descriptor.digest)?;
        equal("the size", info.size, descriptor.size)?;
        equal("the labels", info.labels, labels(&[("a", "1")]))?;
        ensure!(info.created_at <= info.updated_at, "updated before it was created");
    }
    Ok(())
}
