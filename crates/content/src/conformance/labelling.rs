//! Labels of blobs: replaced whole, changed one by one, bounded, and dated.

use std::{sync::Arc, time::Duration};

use crate::{
    digest::Digest,
    error::ErrorKind,
    labels::{Labels, MAX_LABEL_LEN},
    store::{CommitOptions, Store},
};

use super::probe::{
    Check, Pairs, Promise, bytes, describe, ensure, equal, expecting, labels, promise, put, put_labelled,
    refused,
};

pub(super) const PROMISES: &[Promise] = &[
    promise!("labels-replaced", "an update of labels, or of no field, replaces all of them", replaced),
    promise!(
        "labels-by-fieldpath",
        "an update of labels.<key> sets that label, or removes it where its value is empty, and no other",
        by_fieldpath
    ),
    promise!(
        "labels-bounded",
        "a label whose key and value are longer than 4096 bytes is InvalidArgument",
        bounded
    ),
    promise!(
        "labels-only",
        "an update of anything else is InvalidArgument and changes nothing, not even in part",
        nothing_else
    ),
    promise!(
        "labels-dated",
        "an update changes updated_at, which was created_at before, and nothing else",
        dated
    ),
];

type Case<'a> = (Pairs<'a>, &'a [&'a str], Pairs<'a>);

async fn update_all(store: &dyn Store, cases: &[Case<'_>]) -> Check {
    for (index, (wanted, fieldpaths, expected)) in (1..).zip(cases) {
        let digest = put_labelled(store, &bytes(100, index), &[("a", "1"), ("b.c/d", "2")]).await?.digest;
        let info = store.update(&digest, &labels(wanted), fieldpaths).await?;
        equal(&format!("what an update of {fieldpaths:?} gave"), &info.labels, &labels(expected))?;
        let found = store.info(&digest).await?.labels;
        equal(&format!("the labels after an update of {fieldpaths:?}"), &found, &labels(expected))?;
    }
    Ok(())
}

async fn replaced(store: Arc<dyn Store>) -> Check {
    let cases: &[Case<'_>] = &[
        (&[("x", "3")], &[], &[("x", "3")]),
        (&[("a", "4"), ("x", "3")], &["labels"], &[("a", "4"), ("x", "3")]),
        (&[], &["labels"], &[]),
    ];
    update_all(store.as_ref(), cases).await
}

async fn by_fieldpath(store: Arc<dyn Store>) -> Check {
    let cases: &[Case<'_>] = &[
        (&[("x", "3"), ("y", "4")], &["labels.x"], &[("a", "1"), ("b.c/d", "2"), ("x", "3")]),
        (&[("b.c/d", "5")], &["labels.b.c/d"], &[("a", "1"), ("b.c/d", "5")]),
        (&[("a", "")], &["labels.a"], &[("b.c/d", "2")]),
        (&[], &["labels.a", "labels.none"], &[("b.c/d", "2")]),
        (&[("a", ""), ("x", "3")], &["labels.a", "labels.x"], &[("b.c/d", "2"), ("x", "3")]),
    ];
    update_all(store.as_ref(), cases).await
}

/// Labels of which one has this many bytes.
fn long(len: usize) -> Labels {
    labels(&[("ok", "1"), ("key", &"v".repeat(len - 3))])
}

async fn bounded(store: Arc<dyn Store>) -> Check {
    let digest = put(store.as_ref(), &bytes(100, 1)).await?.digest;
    let longest = long(MAX_LABEL_LEN);
    equal("the longest label", &store.update(&digest, &longest, &[]).await?.labels, &longest)?;
    for fieldpaths in [&[][..], &["labels"], &["labels.key"]] {
        let updated = store.update(&digest, &long(MAX_LABEL_LEN + 1), fieldpaths).await;
        refused(&format!("too long a label by {fieldpaths:?}"), updated, ErrorKind::InvalidArgument)?;
    }
    equal("the labels afterwards", store.info(&digest).await?.labels, longest)?;

    let content = bytes(100, 2);
    let descriptor = describe(&content);
    let mut writer = store.writer(expecting("bounded", &descriptor)).await?;
    writer.write(content).await?;
    let options = CommitOptions::default().with_labels(long(MAX_LABEL_LEN + 1));
    let committed = writer.commit(None, Some(&descriptor.digest), options).await;
    refused("too long a label at commit", committed, ErrorKind::InvalidArgument)?;
    refused("what was not committed", store.info(&descriptor.digest).await, ErrorKind::NotFound)
}

async fn nothing_else(store: Arc<dyn Store>) -> Check {
    let digest: Digest = put_labelled(store.as_ref(), &bytes(100, 1), &[("a", "1")]).await?.digest;
    let before = store.info(&digest).await?;
    for fieldpaths in [&["size"][..], &["digest"], &["labels.x", "created_at"], &["label.x"], &[""]] {
        let updated = store.update(&digest, &labels(&[("x", "2")]), fieldpaths).await;
        refused(&format!("an update of {fieldpaths:?}"), updated, ErrorKind::InvalidArgument)?;
        equal(&format!("the blob after an update of {fieldpaths:?}"), &store.info(&digest).await?, &before)?;
    }
    Ok(())
}

async fn dated(store: Arc<dyn Store>) -> Check {
    let digest = put(store.as_ref(), &bytes(100, 1)).await?.digest;
    let before = store.info(&digest).await?;
    equal("updated_at of a new blob", before.updated_at, before.created_at)?;
    // Longer than the clocks of file systems take from one tick to the next.
    tokio::time::sleep(Duration::from_millis(20)).await;
    let after = store.update(&digest, &labels(&[("a", "1")]), &["labels.a"]).await?;
    equal("what an update gave", &after, &store.info(&digest).await?)?;
    equal("created_at after an update", after.created_at, before.created_at)?;
    equal("the size after an update", after.size, before.size)?;
    ensure!(
        after.updated_at > before.updated_at,
        "updated_at is {:?} after an update and was {:?} before",
        after.updated_at,
        before.updated_at
    );
    Ok(())
}
