//! Futures that are dropped half-way: at their first wait, at their second, and so on until they get through.
//!
//! Work may go on in the background after that, so the checks wait for an ingest to be free again, though not for ever.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;

use crate::{
    descriptor::Descriptor,
    error::{Error, ErrorKind, ResultExt},
    filter::FilterSet,
    store::{CommitOptions, Info, IngestOptions, Store, Writer},
};

use super::probe::{
    Check, Promise, SETTLE, begin, bytes, cancelled, commit, describe, ensure, equal, expecting, holds,
    labels, promise, put_labelled, refused, reopen, same_bytes, walk,
};

pub(super) const PROMISES: &[Promise] = &[
    promise!("cancelled-open", "opening a writer, cancelled, does not keep the ingest locked", open),
    promise!("cancelled-write", "after a cancelled write the status tells how many bytes were taken", write),
    promise!(
        "cancelled-commit",
        "a cancelled commit happens wholly, labels included, or not at all",
        committed
    ),
    promise!("cancelled-truncate", "a cancelled truncate leaves all the bytes or none", truncate),
    promise!("cancelled-close", "a cancelled close loses nothing and frees the ingest", close),
    promise!(
        "cancelled-update",
        "a cancelled update leaves the labels as they were or as they are to be",
        update
    ),
    promise!("cancelled-delete", "a cancelled delete leaves the blob whole or not at all", delete),
    promise!("cancelled-abort", "a cancelled abort leaves the ingest whole or not at all, and free", abort),
    promise!("cancelled-reads", "reads of all kinds, cancelled, change nothing for those that follow", reads),
];

/// A future that needs more polls than this is not cancelled at each of them.
const MOST_POLLS: u32 = 6;

/// More than a batch of any store, so that a writer has something to wait for.
const LEN: usize = 2_500_000;

/// A writer that has taken the content in two pieces.
async fn written(store: &dyn Store, options: IngestOptions, content: &Bytes) -> Check<Box<dyn Writer>> {
    let mut writer = store.writer(options).await?;
    writer.write(content.slice(..LEN - 10)).await?;
    writer.write(content.slice(LEN - 10..)).await?;
    Ok(writer)
}

/// Demands that an ingest is free and holds all of the content or, where that is possible too, nothing; and finishes it.
async fn whole(store: &dyn Store, options: IngestOptions, content: &Bytes, or_nothing: bool) -> Check {
    let mut writer = reopen(store, options).await.context(|| "taking the ingest up again")?;
    let offset = writer.status().offset;
    if or_nothing && offset == 0 {
        writer.write(content.clone()).await?;
    } else {
        equal("the bytes that are left", offset, content.len() as u64)?;
    }
    let descriptor = describe(content);
    commit(writer.as_mut(), &descriptor).await?;
    holds(store, &descriptor, content).await
}

async fn open(store: Arc<dyn Store>) -> Check {
    for polls in 1..=MOST_POLLS {
        let options = IngestOptions::new(format!("open/{polls}"));
        let done = cancelled(polls, store.writer(options.clone())).await.is_some();
        reopen(store.as_ref(), options).await.context(|| "opening it again")?.close().await?;
        if done {
            break;
        }
    }
    Ok(())
}

async fn write(store: Arc<dyn Store>) -> Check {
    let content = bytes(2 * LEN, 1);
    let descriptor = describe(&content);
    let mut writer = store.writer(expecting("write", &descriptor)).await?;
    let mut at = 0;
    for turn in 0_u32.. {
        if at == content.len() {
            break;
        }
        let end = content.len().min(at + 700_000);
        // Every other write gets through, so that there is an end.
        let polls = if turn % 2 == 0 { 1 } else { u32::MAX };
        let done = cancelled(polls, writer.write(content.slice(at..end))).await.transpose()?.is_some();
        let now = usize::try_from(writer.status().offset).unwrap_or(usize::MAX);
        ensure!((at..=end).contains(&now), "the offset is {now} after a write from {at} to {end}");
        ensure!(!done || now == end, "the offset is {now} after a whole write to {end}");
        at = now;
    }
    commit(writer.as_mut(), &descriptor).await?;
    holds(store.as_ref(), &descriptor, &content).await
}

async fn committed(store: Arc<dyn Store>) -> Check {
    let given = labels(&[("a", "1")]);
    for polls in 1..=MOST_POLLS {
        let content = bytes(LEN, u8::try_from(polls).unwrap_or(u8::MAX));
        let descriptor = describe(&content);
        let options = expecting(&format!("commit/{polls}"), &descriptor);
        let mut writer = written(store.as_ref(), options.clone(), &content).await?;
        let with_labels = CommitOptions::default().with_labels(given.clone());
        let commit = writer.commit(Some(descriptor.size), Some(&descriptor.digest), with_labels);
        let done = cancelled(polls, commit).await.transpose()?.is_some();
        drop(writer);
        match reopen(store.as_ref(), options.clone()).await {
            Ok(writer) => {
                ensure!(!done, "the commit succeeded and the content is not there");
                drop(writer);
                whole(store.as_ref(), options, &content, false).await?;
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                holds(store.as_ref(), &descriptor, &content).await?;
                labelled(store.as_ref(), &descriptor, &given).await?;
            }
            Err(error) => return Err(error.into()),
        }
        if done {
            break;
        }
    }
    Ok(())
}

/// Waits until a blob has these labels.
async fn labelled(store: &dyn Store, descriptor: &Descriptor, expected: &crate::Labels) -> Check {
    let started = Instant::now();
    loop {
        let found = store.info(&descriptor.digest).await?.labels;
        if found == *expected || started.elapsed() >= SETTLE {
            return equal("the labels", &found, expected);
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn truncate(store: Arc<dyn Store>) -> Check {
    for polls in 1..=MOST_POLLS {
        let content = bytes(LEN, u8::try_from(polls).unwrap_or(u8::MAX));
        let options = expecting(&format!("truncate/{polls}"), &describe(&content));
        let mut writer = written(store.as_ref(), options.clone(), &content).await?;
        let done = cancelled(polls, writer.truncate(0)).await.transpose()?.is_some();
        drop(writer);
        whole(store.as_ref(), options, &content, true).await?;
        if done {
            break;
        }
    }
    Ok(())
}

async fn close(store: Arc<dyn Store>) -> Check {
    for polls in 1..=MOST_POLLS {
        let content = bytes(LEN, u8::try_from(polls).unwrap_or(u8::MAX));
        let options = expecting(&format!("close/{polls}"), &describe(&content));
        let mut writer = written(store.as_ref(), options.clone(), &content).await?;
        let done = cancelled(polls, writer.close()).await.transpose()?.is_some();
        drop(writer);
        whole(store.as_ref(), options, &content, false).await?;
        if done {
            break;
        }
    }
    Ok(())
}

async fn update(store: Arc<dyn Store>) -> Check {
    for polls in 1..=MOST_POLLS {
        let content = bytes(100, u8::try_from(polls).unwrap_or(u8::MAX));
        let (before, after) = (labels(&[("a", "1"), ("b", "2")]), labels(&[("a", "3"), ("c", "4")]));
        let digest = put_labelled(store.as_ref(), &content, &[("a", "1"), ("b", "2")]).await?.digest;
        let done = cancelled(polls, store.update(&digest, &after, &[])).await.transpose()?.is_some();
        let found = store.info(&digest).await?.labels;
        ensure!(found == after || (found == before && !done), "the labels are {found:?}");
        if done {
            break;
        }
    }
    Ok(())
}

async fn delete(store: Arc<dyn Store>) -> Check {
    for polls in 1..=MOST_POLLS {
        let content = bytes(100, u8::try_from(polls).unwrap_or(u8::MAX));
        let descriptor = put_labelled(store.as_ref(), &content, &[("a", "1")]).await?;
        let done = cancelled(polls, store.delete(&descriptor.digest)).await.transpose()?.is_some();
        match store.info(&descriptor.digest).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                refused("a reader of what is gone", store.reader(&descriptor).await, ErrorKind::NotFound)?;
            }
            info => {
                ensure!(!done, "the delete succeeded and the blob is there");
                equal("the labels of what is there", info?.labels, labels(&[("a", "1")]))?;
            }
        }
        if done {
            break;
        }
    }
    Ok(())
}

async fn abort(store: Arc<dyn Store>) -> Check {
    for polls in 1..=MOST_POLLS {
        let content = bytes(100, u8::try_from(polls).unwrap_or(u8::MAX));
        let reference = format!("abort/{polls}");
        let options = expecting(&reference, &describe(&content));
        begin(store.as_ref(), options.clone(), &content).await?;
        let done = cancelled(polls, store.abort(&reference)).await.transpose()?.is_some();
        whole(store.as_ref(), options, &content, true).await?;
        if done {
            break;
        }
    }
    Ok(())
}

async fn reads(store: Arc<dyn Store>) -> Check {
    let content = bytes(100_000, 1);
    let descriptor = put_labelled(store.as_ref(), &content, &[("a", "1")]).await?;
    begin(store.as_ref(), IngestOptions::new("left"), &content).await?;
    for polls in 1..=MOST_POLLS {
        let mut visit = |_: Info| Ok::<_, Error>(());
        drop(cancelled(polls, store.reader(&descriptor)).await.transpose()?);
        cancelled(polls, store.info(&descriptor.digest)).await.transpose()?;
        cancelled(polls, store.walk(&FilterSet::all(), &mut visit)).await.transpose()?;
        cancelled(polls, store.status("left")).await.transpose()?;
        cancelled(polls, store.list_statuses(&FilterSet::all())).await.transpose()?;
        let reader = store.reader(&descriptor).await?;
        cancelled(polls, reader.read_at(10, 50_000)).await.transpose()?;
        same_bytes("the next read", &reader.read_at(100, 90_000).await?, &content[100..90_100])?;
        equal("the next info", store.info(&descriptor.digest).await?.labels, labels(&[("a", "1")]))?;
        equal("the next walk", walk(store.as_ref(), &[]).await?.len(), 1)?;
        equal("the next status", store.status("left").await?.offset, 100_000)?;
        equal("the next list", store.list_statuses(&FilterSet::all()).await?.len(), 1)?;
    }
    Ok(())
}
