//! Ingests that are left and taken up again: by another writer, in lists, by an abort.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};

use crate::{
    copying::{self, Source},
    error::{Error, ErrorKind, Result},
    filter::FilterSet,
    memory::MemoryStore,
    reading::{BlobSource, ByteStream},
    store::{CommitOptions, IngestOptions, Provider, Store, Writer},
};

use super::probe::{
    Check, Promise, begin, bytes, commit, describe, ensure, equal, expecting, holds, promise, put, refused,
    reopen,
};

pub(super) const PROMISES: &[Promise] = &[
    promise!(
        "resume",
        "an ingest goes on where it was left: at any part of any size, from sources that write, seek, read or discard",
        resume
    ),
    promise!("resume-other-total", "an ingest of another total begins from zero", other_total),
    promise!("drop-keeps-progress", "a dropped writer leaves its bytes and frees the ingest", dropped),
    promise!("statuses", "ingests are listed by name, filtered, and described as they were left", statuses),
    promise!("abort", "an aborted ingest is gone, and its name begins anew", abort),
    promise!("absent-ingests", "the status and the abort of an unknown ingest are NotFound", absent),
];

/// The sizes that are resumed, in bytes; the largest takes several batches and ends inside one.
const SIZES: [usize; 4] = [500, 5_000, 50_000, 2_600_000];

/// How much of it is there, in percent.
const PARTS: [usize; 5] = [0, 10, 50, 90, 100];

/// Where the rest comes from.
#[derive(Clone, Copy, Debug)]
enum Way {
    Write,
    Seek,
    ReadAt,
    Discard,
}

async fn resume(store: Arc<dyn Store>) -> Check {
    let mut seed = 0;
    for size in SIZES {
        for part in PARTS {
            for way in [Way::Write, Way::Seek, Way::ReadAt, Way::Discard] {
                // All content differs from its first byte on, so that nothing is there already.
                seed += 1;
                resume_one(store.as_ref(), &bytes(size, seed), size * part / 100, way).await.map_err(
                    |failure| {
                        let found = failure.0;
                        super::probe::Failure(format!("{size} bytes at {part} % by {way:?}: {found}"))
                    },
                )?;
            }
        }
    }
    equal("the ingests that are left", store.list_statuses(&FilterSet::all()).await?.len(), 0)
}

async fn resume_one(store: &dyn Store, content: &Bytes, at: usize, way: Way) -> Check {
    let descriptor = describe(content);
    begin(store, expecting("resume", &descriptor), &content.slice(..at)).await?;
    let mut writer = store.writer(expecting("resume", &descriptor)).await?;
    equal("the offset", writer.status().offset, at as u64)?;
    match way {
        Way::Write => {
            writer.write(content.slice(at..)).await?;
            commit(writer.as_mut(), &descriptor).await?;
        }
        Way::Seek => copy(writer.as_mut(), content, content).await?,
        Way::ReadAt => {
            let other = MemoryStore::new();
            put(&other, content).await?;
            copy(writer.as_mut(), &BlobSource::new(other.reader(&descriptor).await?), content).await?;
        }
        Way::Discard => copy(writer.as_mut(), &Unseekable(content.clone()), content).await?,
    }
    holds(store, &descriptor, content).await
}

async fn copy(writer: &mut dyn Writer, source: &dyn Source, content: &Bytes) -> Check {
    Ok(copying::copy(writer, source, &describe(content), CommitOptions::default()).await?)
}

/// A source that starts at its beginning whatever is asked for, and throws away what is before.
#[derive(Debug)]
struct Unseekable(Bytes);

#[async_trait]
impl Source for Unseekable {
    async fn open(&self, offset: u64) -> Result<ByteStream> {
        let mut left = usize::try_from(offset).map_err(|_| Error::out_of_range("beyond the content"))?;
        let chunks: Vec<Bytes> = self.0.chunks(999).map(Bytes::copy_from_slice).collect();
        Ok(Box::pin(stream::iter(chunks).filter_map(move |mut chunk| {
            let rest = chunk.split_off(left.min(chunk.len()));
            left -= chunk.len();
            async { (!rest.is_empty()).then_some(Ok(rest)) }
        })))
    }
}

async fn other_total(store: Arc<dyn Store>) -> Check {
    let wrong = bytes(60, 2);
    begin(store.as_ref(), expecting("total", &describe(&bytes(200, 2))), &wrong).await?;
    let content = bytes(90, 1);
    let descriptor = describe(&content);
    let mut writer = store.writer(expecting("total", &descriptor)).await?;
    let status = writer.status();
    equal("the offset", status.offset, 0)?;
    equal("the total", status.total, Some(90))?;
    equal("the offset that the store sees", store.status("total").await?.offset, 0)?;
    writer.write(content.clone()).await?;
    commit(writer.as_mut(), &descriptor).await?;
    holds(store.as_ref(), &descriptor, &content).await
}

async fn dropped(store: Arc<dyn Store>) -> Check {
    // One within a batch of any kind, one beyond.
    for (index, size) in [90, 4_000_000].into_iter().enumerate() {
        let content = bytes(size, 1);
        let options = IngestOptions::new(format!("dropped/{index}"));
        let mut writer = store.writer(options.clone()).await?;
        for at in 0..3 {
            writer.write(content.slice(at * size / 3..(at + 1) * size / 3)).await?;
        }
        let written = writer.status().offset;
        drop(writer);
        let mut writer = reopen(store.as_ref(), options).await?;
        equal("the offset after a drop", writer.status().offset, written)?;
        let descriptor = describe(&content);
        let at = usize::try_from(written).unwrap_or(usize::MAX).min(size);
        writer.write(content.slice(at..)).await?;
        commit(writer.as_mut(), &descriptor).await?;
        holds(store.as_ref(), &descriptor, &content).await?;
    }
    Ok(())
}

async fn statuses(store: Arc<dyn Store>) -> Check {
    equal("an empty list", store.list_statuses(&FilterSet::all()).await?.len(), 0)?;
    // Made in another order than that of their names.
    for (index, name) in ["b/one", "c", "a/two", "b/two"].into_iter().enumerate() {
        let content = bytes(30, 1);
        let mut options = IngestOptions::new(name);
        options.total = (index != 1).then_some(30 + index as u64);
        begin(store.as_ref(), options, &content.slice(..20 + index)).await?;
    }
    let list = async |filters: &[&str]| -> Check<Vec<String>> {
        let statuses = store.list_statuses(&FilterSet::parse(filters)?).await?;
        Ok(statuses.into_iter().map(|status| status.reference).collect())
    };
    equal("the list", list(&[]).await?, ["a/two", "b/one", "b/two", "c"])?;
    equal("the list of one name", list(&["ref==c"]).await?, ["c"])?;
    equal("the list of a pattern", list(&["ref~=^b/"]).await?, ["b/one", "b/two"])?;
    equal("the list of either", list(&["ref==c", "ref~=two$"]).await?, ["a/two", "b/two", "c"])?;
    equal("the list of no name", list(&["ref==d"]).await?.len(), 0)?;
    let one = store.status("b/two").await?;
    equal("the name", one.reference.as_str(), "b/two")?;
    equal("the offset", one.offset, 23)?;
    equal("the total", one.total, Some(33))?;
    equal("the total that nobody gave", store.status("c").await?.total, None)?;

    let resumed = store.writer(IngestOptions::new("b/two")).await?.status();
    equal("the beginning when resumed", resumed.started_at, one.started_at)?;
    equal("the total when resumed", resumed.total, one.total)?;
    ensure!(resumed.updated_at >= one.updated_at, "resumed before it was left: {resumed:?}");
    Ok(())
}

async fn abort(store: Arc<dyn Store>) -> Check {
    let content = bytes(90, 1);
    let descriptor = describe(&content);
    begin(store.as_ref(), expecting("abort", &descriptor), &bytes(70, 2)).await?;
    begin(store.as_ref(), IngestOptions::new("other"), &content).await?;
    store.abort("abort").await?;
    refused("the status of an aborted ingest", store.status("abort").await, ErrorKind::NotFound)?;
    equal("the other ingest", store.status("other").await?.offset, 90)?;
    let mut writer = store.writer(expecting("abort", &descriptor)).await?;
    equal("the offset afterwards", writer.status().offset, 0)?;
    writer.write(content.clone()).await?;
    commit(writer.as_mut(), &descriptor).await?;
    holds(store.as_ref(), &descriptor, &content).await
}

async fn absent(store: Arc<dyn Store>) -> Check {
    refused("the status of an unknown ingest", store.status("unknown").await, ErrorKind::NotFound)?;
    refused("aborting an unknown ingest", store.abort("unknown").await, ErrorKind::NotFound)
}
