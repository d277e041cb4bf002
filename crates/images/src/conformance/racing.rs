//! Changes at the same time, and changes whose futures are dropped.

use std::time::Duration;

use futures_util::future::join_all;
use wharf_content::ErrorKind;

use crate::record::{Image, ImageStore};

use super::probe::{
    Check, Failure, Promise, annotated, cancelled, ensure, equal, image, list, promise, target,
};

pub(super) const PROMISES: &[Promise] = &[
    promise!(
        "creates-race",
        "of several creates of a name at the same time one succeeds, and the others are AlreadyExists",
        creates
    ),
    promise!(
        "updates-race",
        "updates of different labels at the same time are all there afterwards",
        updates
    ),
    promise!(
        "cancelled-create",
        "a create that is cancelled has made the whole record or none, and others go on",
        cancelled_create
    ),
    promise!(
        "cancelled-update",
        "an update that is cancelled has happened wholly or not at all, and others go on",
        cancelled_update
    ),
    promise!(
        "cancelled-delete",
        "a delete that is cancelled has happened wholly or not at all, and others go on",
        cancelled_delete
    ),
];

/// How many changes are begun at the same time.
const CROWD: usize = 8;

async fn creates(store: &dyn ImageStore) -> Check {
    let begun = (0..CROWD).map(|at| store.create(image("raced", target(&at.to_string()), &[])));
    let mut made: Vec<Image> = Vec::new();
    for outcome in join_all(begun).await {
        match outcome {
            Ok(image) => made.push(image),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error.into()),
        }
    }
    equal("the creates that succeeded", made.len(), 1)?;
    equal("what is there", list(store, &[]).await?, ["raced"])
}

async fn updates(store: &dyn ImageStore) -> Check {
    store.create(image("raced", target("raced"), &[])).await?;
    let keys: Vec<String> = (0..CROWD).map(|at| format!("key{at}")).collect();
    let paths: Vec<String> = keys.iter().map(|key| format!("labels.{key}")).collect();
    let paths: Vec<[&str; 1]> = paths.iter().map(|path| [path.as_str()]).collect();
    let begun = keys
        .iter()
        .zip(&paths)
        .map(|(key, path)| store.update(image("raced", target("raced"), &[(key, "1")]), path));
    for outcome in join_all(begun).await {
        outcome?;
    }
    let found: Vec<String> = store.get("raced").await?.labels.into_keys().collect();
    equal("the labels afterwards", found, keys)
}

/// After this many polls a change is dropped: before it, in its midst, and about when it is done.
const POLLS: std::ops::RangeInclusive<u32> = 1..=4;

/// What goes on in the background after a change was dropped has this long to show.
const LATER: Duration = Duration::from_millis(30);

/// Demands that a record is, now and a little later, one of those that it may be, and that other changes go on.
async fn settled(store: &dyn ImageStore, name: &str, allowed: &[Option<&Image>]) -> Check {
    let is_allowed = |found: &Option<Image>| {
        allowed.iter().any(|allowed| match (allowed, found) {
            (None, None) => true,
            (Some(allowed), Some(found)) => {
                (&allowed.target, &allowed.labels) == (&found.target, &found.labels)
            }
            _ => false,
        })
    };
    for _ in 0..2 {
        let found = match store.get(name).await {
            Ok(image) => Some(image),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error.into()),
        };
        ensure!(is_allowed(&found), "the record afterwards is {found:?}, which is neither before nor after");
        tokio::time::sleep(LATER).await;
    }
    let next = format!("{name}-next");
    store.create(image(&next, target("next"), &[])).await?;
    store.delete(&next, None).await.map_err(Failure::from)
}

async fn cancelled_create(store: &dyn ImageStore) -> Check {
    for polls in POLLS {
        let name = format!("image-{polls}");
        let wanted = image(&name, annotated("target", &[("k", "1")]), &[("a", "1")]);
        drop(cancelled(polls, store.create(wanted.clone())).await);
        settled(store, &name, &[None, Some(&wanted)]).await?;
    }
    Ok(())
}

async fn cancelled_update(store: &dyn ImageStore) -> Check {
    for polls in POLLS {
        let name = format!("image-{polls}");
        let before = store.create(image(&name, target("before"), &[("a", "1"), ("b", "2")])).await?;
        let after = image(&name, target("after"), &[("c", "3")]);
        drop(cancelled(polls, store.update(after.clone(), &[])).await);
        settled(store, &name, &[Some(&before), Some(&after)]).await?;
    }
    Ok(())
}

async fn cancelled_delete(store: &dyn ImageStore) -> Check {
    for polls in POLLS {
        let name = format!("image-{polls}");
        let before = store.create(image(&name, target("before"), &[("a", "1")])).await?;
        drop(cancelled(polls, store.delete(&name, None)).await);
        settled(store, &name, &[Some(&before), None]).await?;
    }
    Ok(())
}
