//! Writers from their opening to their closing: status, digest so far, truncation, and what closed writers refuse.

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    digest::{Algorithm, Digest},
    error::ErrorKind,
    filter::FilterSet,
    labels::Labels,
    store::{CommitOptions, IngestOptions, Store, Writer},
};

use super::probe::{
    Check, Promise, begin, bytes, commit, describe, ensure, equal, expecting, holds, promise, put, refused,
    walk,
};

pub(super) const PROMISES: &[Promise] = &[
    promise!(
        "writers-side-by-side",
        "many writers are open at once, told nothing, a size, a digest, or both, and do not mix",
        side_by_side
    ),
    promise!("status-after-write", "a writer's status is exact after every write", status_after_write),
    promise!("empty-reference-refused", "an ingest without a name is InvalidArgument", empty_reference),
    promise!(
        "digest-so-far",
        "a writer tells the digest of all bytes so far, of the expected algorithm",
        digest
    ),
    promise!(
        "progress-invisible",
        "what is not committed is NotFound to readers, infos and updates, and no walk visits it",
        progress_invisible
    ),
    promise!(
        "closed-writers-refuse",
        "write, digest, truncate and commit are FailedPrecondition after close and after commit",
        closed_refuse
    ),
    promise!("close-again", "closing keeps the progress, and closing again does nothing", close_again),
    promise!(
        "sync-keeps-writer",
        "a writer that says that it has synced has all its bytes in the status, keeps the ingest, and goes on",
        sync
    ),
    promise!(
        "truncate-and-rewrite",
        "a truncated writer is empty, and what is written then is what is committed",
        truncate
    ),
    promise!(
        "truncate-to-zero-only",
        "truncating to another size than 0 is InvalidArgument",
        truncate_elsewhere
    ),
];

async fn side_by_side(store: Arc<dyn Store>) -> Check {
    let mut writers: Vec<(Bytes, Box<dyn Writer>)> = Vec::new();
    for index in 0..8_u8 {
        let content = bytes(3000 + usize::from(index), index);
        let mut options = expecting(&format!("side/{index}"), &describe(&content));
        if index & 1 == 0 {
            options.digest = None;
        }
        if index & 2 == 0 {
            options.total = None;
        }
        writers.push((content, store.writer(options).await?));
    }
    for at in (0..3000).step_by(1000) {
        for (content, writer) in &mut writers {
            let end = if at == 2000 { content.len() } else { at + 1000 };
            writer.write(content.slice(at..end)).await?;
        }
    }
    for (content, writer) in &mut writers {
        commit(writer.as_mut(), &describe(content)).await?;
    }
    for (content, _) in writers {
        holds(store.as_ref(), &describe(&content), &content).await?;
    }
    Ok(())
}

async fn status_after_write(store: Arc<dyn Store>) -> Check {
    let content = bytes(5 * 300_000, 1);
    let descriptor = describe(&content);
    let mut writer = store.writer(expecting("status", &descriptor)).await?;
    let first = writer.status();
    equal("the name", first.reference.as_str(), "status")?;
    equal("the total", first.total, Some(descriptor.size))?;
    equal("the expected digest", first.expected.as_ref(), Some(&descriptor.digest))?;
    equal("the offset before any write", first.offset, 0)?;
    ensure!(first.started_at <= first.updated_at, "begun after its last change: {first:?}");
    for (index, piece) in content.chunks(300_000).enumerate() {
        writer.write(Bytes::copy_from_slice(piece)).await?;
        let status = writer.status();
        let expected = (index as u64 + 1) * 300_000;
        equal("the offset after a write", status.offset, expected)?;
        equal("the beginning after a write", status.started_at, first.started_at)?;
        let seen = store.status("status").await?.offset;
        ensure!(seen <= expected, "the store sees {seen} bytes where {expected} were written");
    }
    writer.write(Bytes::new()).await?;
    equal("the offset after a write of nothing", writer.status().offset, descriptor.size)
}

async fn empty_reference(store: Arc<dyn Store>) -> Check {
    let opened = store.writer(IngestOptions::new("")).await;
    refused("an ingest without a name", opened, ErrorKind::InvalidArgument)?;
    equal("the ingests", store.list_statuses(&FilterSet::all()).await?.len(), 0)
}

async fn digest(store: Arc<dyn Store>) -> Check {
    let content = bytes(5000, 1);
    let expectations = [None, Some(Algorithm::Sha256), Some(Algorithm::Sha512)];
    for (index, algorithm) in expectations.into_iter().enumerate() {
        let mut options = IngestOptions::new(format!("digest/{index}"));
        options.digest = algorithm.map(|algorithm| algorithm.digest(&content));
        let algorithm = algorithm.unwrap_or_default();
        let mut writer = store.writer(options).await?;
        equal("the digest of nothing", writer.digest().await?, algorithm.digest(b""))?;
        for end in [1000, 3000, 5000] {
            let start = usize::try_from(writer.status().offset).unwrap_or(usize::MAX);
            ensure!(start < end, "the offset is {start} before the write that ends at {end}");
            writer.write(content.slice(start..end)).await?;
            equal("the digest so far", writer.digest().await?, algorithm.digest(&content[..end]))?;
        }
    }
    Ok(())
}

async fn progress_invisible(store: Arc<dyn Store>) -> Check {
    let content = bytes(100, 1);
    let descriptor = describe(&content);
    let mut writer = store.writer(expecting("invisible", &descriptor)).await?;
    writer.write(content).await?;
    for state in ["open", "closed"] {
        refused(
            &format!("a reader of an {state} ingest"),
            store.reader(&descriptor).await,
            ErrorKind::NotFound,
        )?;
        let info = store.info(&descriptor.digest).await;
        refused(&format!("the info of an {state} ingest"), info, ErrorKind::NotFound)?;
        let updated = store.update(&descriptor.digest, &Labels::new(), &[]).await;
        refused(&format!("an update of an {state} ingest"), updated, ErrorKind::NotFound)?;
        equal("a walk", walk(store.as_ref(), &[]).await?.len(), 0)?;
        writer.close().await?;
    }
    Ok(())
}

async fn closed_refuse(store: Arc<dyn Store>) -> Check {
    let content = bytes(100, 1);
    let descriptor = describe(&content);
    for how in ["closed", "committed"] {
        let mut writer = store.writer(expecting("refuse", &descriptor)).await?;
        if how == "closed" {
            writer.write(content.clone()).await?;
            writer.close().await?;
        } else {
            commit(writer.as_mut(), &descriptor).await?;
        }
        let kind = ErrorKind::FailedPrecondition;
        refused(&format!("a write to a {how} writer"), writer.write("x".into()).await, kind)?;
        refused(&format!("the digest of a {how} writer"), writer.digest().await, kind)?;
        refused(&format!("truncating a {how} writer"), writer.truncate(0).await, kind)?;
        let again = writer.commit(None, Some(&descriptor.digest), CommitOptions::default()).await;
        refused(&format!("committing a {how} writer"), again, kind)?;
        writer.close().await?;
    }
    holds(store.as_ref(), &descriptor, &content).await
}

async fn close_again(store: Arc<dyn Store>) -> Check {
    let content = bytes(100, 1);
    let descriptor = describe(&content);
    let mut writer = store.writer(expecting("close", &descriptor)).await?;
    writer.write(content.slice(..70)).await?;
    writer.close().await?;
    equal("the offset after closing", store.status("close").await?.offset, 70)?;
    writer.close().await?;
    equal("the offset after closing again", store.status("close").await?.offset, 70)?;
    let mut second = store.writer(expecting("close", &descriptor)).await?;
    equal("the offset of the next writer", second.status().offset, 70)?;
    // The first one has no say in it any more.
    writer.close().await?;
    drop(writer);
    second.write(content.slice(70..)).await?;
    commit(second.as_mut(), &descriptor).await?;
    second.close().await?;
    holds(store.as_ref(), &descriptor, &content).await
}

async fn sync(store: Arc<dyn Store>) -> Check {
    let content = bytes(1_500_000, 1);
    let descriptor = describe(&content);
    let options = IngestOptions::new("sync");
    let mut writer = store.writer(options.clone()).await?;
    for piece in [content.slice(..1_400_000), content.slice(1_400_000..)] {
        writer.write(piece).await?;
        if writer.sync().await? {
            let (offset, found) = (writer.status().offset, store.status("sync").await?.offset);
            equal("the offset after syncing", found, offset)?;
            refused(
                "another writer after syncing",
                store.writer(options.clone()).await,
                ErrorKind::Unavailable,
            )?;
        }
    }
    commit(writer.as_mut(), &descriptor).await?;
    holds(store.as_ref(), &descriptor, &content).await
}

async fn truncate(store: Arc<dyn Store>) -> Check {
    let content = bytes(2_000_000, 1);
    let descriptor = describe(&content);
    let wrong = bytes(2_500_000, 2);
    let mut writer = store.writer(expecting("truncate", &descriptor)).await?;
    writer.write(wrong.clone()).await?;
    writer.write(wrong.slice(..100)).await?;
    writer.truncate(0).await?;
    equal("the offset of a truncated writer", writer.status().offset, 0)?;
    equal("the digest of a truncated writer", writer.digest().await?, Digest::sha256(b""))?;
    equal("the offset that the store sees", store.status("truncate").await?.offset, 0)?;
    writer.write(content.clone()).await?;
    commit(writer.as_mut(), &descriptor).await?;
    holds(store.as_ref(), &descriptor, &content).await?;

    // What a writer finds can be thrown away as well, and stays thrown away.
    begin(store.as_ref(), IngestOptions::new("found"), &wrong.slice(..90)).await?;
    let mut writer = store.writer(IngestOptions::new("found")).await?;
    writer.truncate(0).await?;
    writer.close().await?;
    equal(
        "the offset of a truncated ingest",
        store.writer(IngestOptions::new("found")).await?.status().offset,
        0,
    )
}

async fn truncate_elsewhere(store: Arc<dyn Store>) -> Check {
    let kept = put(store.as_ref(), &bytes(10, 9)).await?;
    let content = bytes(100, 1);
    let mut writer = store.writer(IngestOptions::new("elsewhere")).await?;
    writer.write(content.clone()).await?;
    for size in [1, 99, 100, 101, u64::MAX] {
        let truncated = writer.truncate(size).await;
        refused(&format!("truncating 100 bytes to {size}"), truncated, ErrorKind::InvalidArgument)?;
    }
    equal("the offset afterwards", writer.status().offset, 100)?;
    commit(writer.as_mut(), &describe(&content)).await?;
    holds(store.as_ref(), &kept, &bytes(10, 9)).await
}
