//! Walks over all blobs: every one once, those that match, and no further than the visitor wants.

use std::sync::Arc;

use crate::{
    digest::Digest,
    error::{Error, ErrorKind},
    filter::FilterSet,
    store::{Info, Store},
};

use super::probe::{Check, Promise, bytes, equal, labels, promise, put, put_labelled, refused, walk};

pub(super) const PROMISES: &[Promise] = &[
    promise!("walk-visits-all", "a walk visits every blob once, as its info describes it", visits_all),
    promise!(
        "walk-filters",
        "a walk visits what one of its filters matches, by digest, size and labels",
        filters
    ),
    promise!("walk-stops", "an error of the visitor ends the walk and is the walk's error", stops),
];

fn sorted(mut digests: Vec<Digest>) -> Vec<Digest> {
    digests.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    digests
}

async fn visits_all(store: Arc<dyn Store>) -> Check {
    let mut infos = Vec::new();
    store.walk(&FilterSet::all(), &mut |_| Err(Error::internal("there is nothing to visit"))).await?;
    for seed in 1..6 {
        let digest = put(store.as_ref(), &bytes(100, seed)).await?.digest;
        store.update(&digest, &labels(&[("seed", &seed.to_string())]), &[]).await?;
        infos.push(store.info(&digest).await?);
    }
    let mut found = Vec::new();
    let mut visit = |info: Info| {
        found.push(info);
        Ok(())
    };
    store.walk(&FilterSet::all(), &mut visit).await?;
    for infos in [&mut infos, &mut found] {
        infos.sort_by(|a, b| a.digest.as_str().cmp(b.digest.as_str()));
    }
    equal("what a walk visits", found, infos)
}

async fn filters(store: Arc<dyn Store>) -> Check {
    let one = put_labelled(store.as_ref(), &bytes(100, 1), &[("a.b/c", "x"), ("d", "")]).await?.digest;
    let two = put_labelled(store.as_ref(), &bytes(200, 2), &[("a.b/c", "y")]).await?.digest;
    let three = put(store.as_ref(), &bytes(200, 3)).await?.digest;
    let by_digest = format!("digest=={three}");
    let cases: [(&[&str], &[&Digest]); 9] = [
        (&[""], &[&one, &two, &three]),
        (&[&by_digest], &[&three]),
        (&["size==200"], &[&two, &three]),
        (&["labels.\"a.b/c\""], &[&one, &two]),
        (&["labels.\"a.b/c\"==y"], &[&two]),
        (&["labels.\"a.b/c\"!=y"], &[&one, &three]),
        (&["labels.\"a.b/c\"~=^[xy]$,size==100"], &[&one]),
        (&["size==100", &by_digest], &[&one, &three]),
        (&["labels.none"], &[]),
    ];
    for (filters, expected) in cases {
        let expected = sorted(expected.iter().map(|digest| (*digest).clone()).collect());
        equal(&format!("a walk of {filters:?}"), walk(store.as_ref(), filters).await?, expected)?;
    }
    Ok(())
}

async fn stops(store: Arc<dyn Store>) -> Check {
    for seed in 1..3 {
        put(store.as_ref(), &bytes(100, seed)).await?;
    }
    let mut visits = 0;
    let mut visit = |_| {
        visits += 1;
        Err(Error::conflict("seen enough"))
    };
    let walked = store.walk(&FilterSet::all(), &mut visit).await;
    refused("a walk whose visitor fails", walked, ErrorKind::Conflict)?;
    equal("the visits", visits, 1)
}
