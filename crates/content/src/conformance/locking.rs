//! Several parties at one ingest: one of them writes, the others wait or are refused.

use std::{sync::Arc, time::Duration};

use futures_util::future::{join, join_all};

use crate::{
    copying::{open_writer, write_blob},
    error::{ErrorKind, ResultExt},
    store::{CommitOptions, IngestOptions, Store},
};

use super::probe::{
    Check, Promise, bytes, commit, describe, ensure, equal, expecting, holds, promise, refused, reopen, walk,
};

pub(super) const PROMISES: &[Promise] = &[
    promise!(
        "one-writer-per-reference",
        "while a writer has an ingest another one is Unavailable, however many ask at once",
        one_writer
    ),
    promise!(
        "waiters-find-the-blob",
        "who waited for an ingest goes on with what is left of it, or finds that the content is there",
        waiters
    ),
    promise!("abort-spares-writers", "aborting an ingest that a writer has is Unavailable", abort_spares),
];

const PARTIES: usize = 8;

async fn one_writer(store: Arc<dyn Store>) -> Check {
    let options = IngestOptions::new("one");
    let opened = join_all((0..PARTIES).map(|_| store.writer(options.clone()))).await;
    let (writers, errors): (Vec<_>, Vec<_>) = opened.into_iter().partition(Result::is_ok);
    equal("the writers that were opened at once", writers.len(), 1)?;
    for error in errors {
        refused("one of many writers", error, ErrorKind::Unavailable)?;
    }
    refused("another writer", store.writer(options.clone()).await, ErrorKind::Unavailable)?;
    // Another ingest is nobody's business.
    store.writer(IngestOptions::new("another")).await?.close().await?;
    for mut writer in writers.into_iter().flatten() {
        writer.close().await?;
        store
            .writer(options.clone())
            .await
            .context(|| "after the close of the first writer")?
            .close()
            .await?;
        drop(writer);
    }
    drop(store.writer(options.clone()).await.context(|| "after the end of the first writer")?);
    reopen(store.as_ref(), options).await.context(|| "after a drop")?;
    Ok(())
}

async fn waiters(store: Arc<dyn Store>) -> Check {
    let content = bytes(90_000, 1);
    let descriptor = describe(&content);
    let options = expecting("waited", &descriptor);
    let mut first = store.writer(options.clone()).await?;
    first.write(content.slice(..40_000)).await?;
    // One that gets in by mistake gives way to the next.
    let wait = async || open_writer(store.as_ref(), options.clone(), &|_| ()).await.map(drop);
    let waiting = (0..PARTIES).map(|_| wait());
    let finish = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        first.write(content.slice(40_000..)).await?;
        commit(first.as_mut(), &descriptor).await
    };
    let (waited, finished) = join(join_all(waiting), finish).await;
    finished?;
    for waiter in waited {
        refused("a writer that waited for content", waiter, ErrorKind::AlreadyExists)?;
    }
    holds(store.as_ref(), &descriptor, &content).await?;

    // Many copies of one blob, of which the first writer gives up half-way.
    let content = bytes(90_000, 2);
    let descriptor = describe(&content);
    let mut first = store.writer(expecting("copied", &descriptor)).await?;
    first.write(content.slice(..40_000)).await?;
    let copies = (0..PARTIES).map(|_| {
        write_blob(store.as_ref(), "copied", &descriptor, content.clone(), CommitOptions::default())
    });
    let give_up = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        first.close().await
    };
    let (copied, closed) = join(join_all(copies), give_up).await;
    closed?;
    for copy in copied {
        copy.context(|| "one of many copies")?;
    }
    holds(store.as_ref(), &descriptor, &content).await?;
    equal("the blobs", walk(store.as_ref(), &[]).await?.len(), 2)
}

async fn abort_spares(store: Arc<dyn Store>) -> Check {
    let content = bytes(100, 1);
    let descriptor = describe(&content);
    let mut writer = store.writer(expecting("spared", &descriptor)).await?;
    writer.write(content.slice(..30)).await?;
    refused("aborting what a writer has", store.abort("spared").await, ErrorKind::Unavailable)?;
    writer.write(content.slice(30..)).await?;
    ensure!(writer.status().offset == 100, "the writer lost something: {:?}", writer.status());
    commit(writer.as_mut(), &descriptor).await?;
    holds(store.as_ref(), &descriptor, &content).await
}
