//! Commits: what is verified, what a failed one leaves, and content that is there already.

use std::sync::Arc;

use crate::{
    descriptor::Descriptor,
    digest::Algorithm,
    error::ErrorKind,
    filter::FilterSet,
    store::{CommitOptions, IngestOptions, Store},
};

use super::probe::{
    Check, Promise, bytes, commit, describe, equal, expecting, holds, labels, promise, put, put_labelled,
    refused, walk,
};

pub(super) const PROMISES: &[Promise] = &[
    promise!(
        "commit-publishes",
        "a commit with or without an expected size or digest publishes the bytes and gives their digest",
        publishes
    ),
    promise!(
        "wrong-digest-refused",
        "a wrong digest is FailedPrecondition, and nothing is published",
        wrong_digest
    ),
    promise!(
        "wrong-size-refused",
        "a wrong size is FailedPrecondition, and nothing is published",
        wrong_size
    ),
    promise!(
        "failed-commit-keeps-ingest",
        "after a wrong digest or size the writer is open and locked, and its bytes can be resumed and committed",
        failed_keeps
    ),
    promise!(
        "failed-commit-put-right",
        "after a wrong digest or size the same writer can be truncated, written and committed",
        put_right
    ),
    promise!("existing-on-open", "a writer for content that is there is AlreadyExists", existing_on_open),
    promise!(
        "existing-on-commit",
        "a commit of content that is there is AlreadyExists, removes the ingest and changes no blob",
        existing_on_commit
    ),
    promise!("empty-blob", "a blob of no bytes can be committed and read", empty_blob),
    promise!(
        "committed-is-no-ingest",
        "what is committed has no status, is in no list, and its name begins anew",
        no_ingest
    ),
    promise!("labels-at-commit", "a new blob has the labels that the commit gave", labels_at_commit),
    promise!(
        "algorithms-side-by-side",
        "one content under several algorithms is as many blobs that do not depend on each other",
        algorithms
    ),
    promise!(
        "algorithm-at-commit",
        "a digest of another algorithm than the writer's can be expected at commit",
        algorithm_at_commit
    ),
];

async fn publishes(store: Arc<dyn Store>) -> Check {
    for index in 0..8_u8 {
        let content = bytes(2000, index);
        let descriptor = describe(&content);
        let mut options = IngestOptions::new(format!("publish/{index}"));
        options.digest = (index & 1 != 0).then(|| descriptor.digest.clone());
        let expected = (index & 2 != 0).then_some(&descriptor.digest);
        let size = (index & 4 != 0).then_some(descriptor.size);
        let mut writer = store.writer(options).await?;
        writer.write(content.slice(..1000)).await?;
        writer.write(content.slice(1000..)).await?;
        let digest = writer.commit(size, expected, CommitOptions::default()).await?;
        equal("the digest that a commit gave", &digest, &descriptor.digest)?;
        holds(store.as_ref(), &descriptor, &content).await?;
    }
    Ok(())
}

async fn wrong_digest(store: Arc<dyn Store>) -> Check {
    let (content, other) = (bytes(100, 1), describe(&bytes(100, 2)));
    for how in ["when opening", "at commit", "at commit, of another algorithm"] {
        let mut options = IngestOptions::new(how);
        let later = if how == "when opening" {
            options.digest = Some(other.digest.clone());
            None
        } else if how == "at commit" {
            Some(other.digest.clone())
        } else {
            Some(Algorithm::Sha512.digest(b"something else"))
        };
        let mut writer = store.writer(options).await?;
        writer.write(content.clone()).await?;
        let committed = writer.commit(Some(100), later.as_ref(), CommitOptions::default()).await;
        refused(&format!("a wrong digest {how}"), committed, ErrorKind::FailedPrecondition)?;
    }
    refused("what was expected", store.info(&other.digest).await, ErrorKind::NotFound)?;
    refused("what was written", store.info(&describe(&content).digest).await, ErrorKind::NotFound)?;
    equal("a walk", walk(store.as_ref(), &[]).await?.len(), 0)
}

async fn wrong_size(store: Arc<dyn Store>) -> Check {
    let content = bytes(100, 1);
    let descriptor = describe(&content);
    for size in [0, 1, 99, 101, u64::MAX] {
        let mut writer = store.writer(IngestOptions::new(format!("size/{size}"))).await?;
        writer.write(content.clone()).await?;
        let committed = writer.commit(Some(size), Some(&descriptor.digest), CommitOptions::default()).await;
        refused(&format!("100 bytes as {size}"), committed, ErrorKind::FailedPrecondition)?;
    }
    refused("what was written", store.info(&descriptor.digest).await, ErrorKind::NotFound)
}

async fn failed_keeps(store: Arc<dyn Store>) -> Check {
    let content = bytes(100, 1);
    let descriptor = describe(&content);
    let other = describe(&bytes(100, 2));
    let mut first = true;
    for (what, wrong) in [("a wrong digest", (100, &other)), ("a wrong size", (101, &descriptor))] {
        let mut writer = store.writer(IngestOptions::new("keeps")).await?;
        if first {
            writer.write(content.clone()).await?;
            first = false;
        }
        equal(&format!("the offset before {what}"), writer.status().offset, 100)?;
        let committed = writer.commit(Some(wrong.0), Some(&wrong.1.digest), CommitOptions::default()).await;
        refused(what, committed, ErrorKind::FailedPrecondition)?;
        let second = store.writer(IngestOptions::new("keeps")).await;
        refused(&format!("a second writer after {what}"), second, ErrorKind::Unavailable)?;
        equal(&format!("the offset after {what}"), writer.status().offset, 100)?;
        writer.close().await?;
        equal(&format!("what is kept after {what}"), store.status("keeps").await?.offset, 100)?;
    }
    let mut writer = store.writer(IngestOptions::new("keeps")).await?;
    commit(writer.as_mut(), &descriptor).await?;
    holds(store.as_ref(), &descriptor, &content).await
}

async fn put_right(store: Arc<dyn Store>) -> Check {
    let content = bytes(100, 1);
    let descriptor = describe(&content);
    for (what, wrong) in [("a wrong digest", bytes(100, 2)), ("a wrong size", bytes(120, 2))] {
        let mut writer = store.writer(expecting("right", &descriptor)).await?;
        writer.write(wrong).await?;
        let committed = writer.commit(Some(100), Some(&descriptor.digest), CommitOptions::default()).await;
        refused(what, committed, ErrorKind::FailedPrecondition)?;
        writer.truncate(0).await?;
        writer.write(content.clone()).await?;
        commit(writer.as_mut(), &descriptor).await?;
        holds(store.as_ref(), &descriptor, &content).await?;
        store.delete(&descriptor.digest).await?;
    }
    Ok(())
}

async fn existing_on_open(store: Arc<dyn Store>) -> Check {
    let descriptor = put(store.as_ref(), &bytes(100, 1)).await?;
    let opened = store.writer(expecting("open", &descriptor)).await;
    refused("a writer told size and digest", opened, ErrorKind::AlreadyExists)?;
    let mut options = IngestOptions::new("open");
    options.digest = Some(descriptor.digest);
    refused("a writer told the digest", store.writer(options).await, ErrorKind::AlreadyExists)?;
    equal("the ingests", store.list_statuses(&FilterSet::all()).await?.len(), 0)
}

async fn existing_on_commit(store: Arc<dyn Store>) -> Check {
    let content = bytes(100, 1);
    let descriptor = describe(&content);
    let mut late = store.writer(expecting("late", &descriptor)).await?;
    late.write(content.clone()).await?;
    put_labelled(store.as_ref(), &content, &[("kept", "1")]).await?;
    let before = store.info(&descriptor.digest).await?;
    let committed =
        late.commit(Some(descriptor.size), Some(&descriptor.digest), CommitOptions::default()).await;
    refused("a late commit", committed, ErrorKind::AlreadyExists)?;
    equal("the ingests", store.list_statuses(&FilterSet::all()).await?.len(), 0)?;
    refused("a write to the late writer", late.write(content.clone()).await, ErrorKind::FailedPrecondition)?;
    equal("the blob", store.info(&descriptor.digest).await?, before)?;
    holds(store.as_ref(), &descriptor, &content).await
}

async fn empty_blob(store: Arc<dyn Store>) -> Check {
    let descriptor = describe(b"");
    let mut writer = store.writer(expecting("empty", &descriptor)).await?;
    commit(writer.as_mut(), &descriptor).await?;
    equal("the size", store.info(&descriptor.digest).await?.size, 0)?;
    holds(store.as_ref(), &descriptor, b"").await
}

async fn no_ingest(store: Arc<dyn Store>) -> Check {
    let content = bytes(100, 1);
    let descriptor = describe(&content);
    let mut writer = store.writer(expecting("done", &descriptor)).await?;
    writer.write(content).await?;
    commit(writer.as_mut(), &descriptor).await?;
    refused("the status of what is committed", store.status("done").await, ErrorKind::NotFound)?;
    equal("the ingests", store.list_statuses(&FilterSet::all()).await?.len(), 0)?;
    let next = store.writer(IngestOptions::new("done")).await?;
    equal("the offset of the next writer of that name", next.status().offset, 0)
}

async fn labels_at_commit(store: Arc<dyn Store>) -> Check {
    let content = bytes(100, 1);
    let descriptor = describe(&content);
    let given = labels(&[("containerd.io/gc.ref.content.0", "x"), ("plain", "y"), ("empty", "")]);
    let mut writer = store.writer(expecting("labels", &descriptor)).await?;
    writer.write(content).await?;
    writer
        .commit(None, Some(&descriptor.digest), CommitOptions::default().with_labels(given.clone()))
        .await?;
    equal("the labels", store.info(&descriptor.digest).await?.labels, given)
}

async fn algorithms(store: Arc<dyn Store>) -> Check {
    let content = bytes(70_000, 1);
    let blobs = Algorithm::ALL
        .map(|algorithm| Descriptor::new("x", algorithm.digest(&content), content.len() as u64));
    let mut writers = Vec::new();
    for blob in &blobs {
        let mut writer = store.writer(expecting(blob.digest.algorithm().as_str(), blob)).await?;
        writer.write(content.clone()).await?;
        writers.push(writer);
    }
    for (blob, writer) in blobs.iter().zip(&mut writers) {
        commit(writer.as_mut(), blob).await?;
    }
    equal("a walk", walk(store.as_ref(), &[]).await?.len(), blobs.len())?;
    store.delete(&blobs[0].digest).await?;
    for blob in &blobs[1..] {
        holds(store.as_ref(), blob, &content).await?;
    }
    Ok(())
}

async fn algorithm_at_commit(store: Arc<dyn Store>) -> Check {
    let content = bytes(70_000, 1);
    let blob = Descriptor::new("x", Algorithm::Sha512.digest(&content), content.len() as u64);
    let mut writer = store.writer(IngestOptions::new("late")).await?;
    writer.write(content.slice(..1000)).await?;
    writer.close().await?;
    let mut writer = store.writer(IngestOptions::new("late")).await?;
    writer.write(content.slice(1000..)).await?;
    commit(writer.as_mut(), &blob).await?;
    holds(store.as_ref(), &blob, &content).await
}
