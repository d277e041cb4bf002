//! Listings: complete, in order, filtered; and the view of the records.

use wharf_content::filter::FilterSet;

use crate::{media_types, record::ImageStore};

use super::probe::{Check, Promise, annotated, equal, image, list, promise, target};

pub(super) const PROMISES: &[Promise] = &[
    promise!(
        "list-sorted",
        "a listing has every record once, as get gives it, sorted by the bytes of the name",
        sorted
    ),
    promise!(
        "list-filters",
        "a listing has what one of the filters matches, and everything where there is none",
        filters
    ),
    promise!(
        "view-current",
        "after a change the view of the records, where there is one, is not stale",
        view
    ),
];

async fn sorted(store: &dyn ImageStore) -> Check {
    equal("the listing of an empty store", list(store, &[]).await?, Vec::<String>::new())?;
    let mut names: Vec<String> = (0..20).map(|at| format!("localhost:5000/n-{}", at * 7 % 20)).collect();
    names.extend(["Z", "a", "é", "a/b", "a-b"].map(str::to_owned));
    for name in &names {
        store.create(image(name, target(name), &[("n", name)])).await?;
    }
    names.sort();
    let found = store.list(&FilterSet::all()).await?;
    equal("the listing", found.iter().map(|image| image.name.clone()).collect::<Vec<_>>(), names)?;
    for image in found {
        equal("a record as get gives it", store.get(&image.name).await?, image)?;
    }
    Ok(())
}

async fn filters(store: &dyn ImageStore) -> Check {
    let mut index = annotated("three", &[("x.y/z", "1")]);
    index.media_type = media_types::OCI_INDEX.into();
    store.create(image("one", target("one"), &[("a.b/c", "x"), ("d", "")])).await?;
    store.create(image("two", target("two"), &[("a.b/c", "y")])).await?;
    store.create(image("three", index.clone(), &[])).await?;
    let by_digest = format!("target.digest=={}", target("two").digest);
    let by_type = format!("target.mediatype=={}", media_types::OCI_INDEX);
    let both = format!("{by_digest},name!=two");
    let cases: [(&[&str], &[&str]); 15] = [
        (&[""], &["one", "three", "two"]),
        (&["name"], &["one", "three", "two"]),
        (&["name==two"], &["two"]),
        (&["name~=^t"], &["three", "two"]),
        (&["name!=two"], &["one", "three"]),
        (&[&by_digest], &["two"]),
        (&[&by_type], &["three"]),
        (&["labels.\"a.b/c\""], &["one", "two"]),
        (&["labels.\"a.b/c\"==y"], &["two"]),
        (&["labels.\"a.b/c\"!=y"], &["one", "three"]),
        (&["labels.d==\"\""], &["one"]),
        (&["annotations.\"x.y/z\"==1"], &["three"]),
        (&["labels.\"a.b/c\"~=/^[xy]$/,name==one", "annotations.\"x.y/z\""], &["one", "three"]),
        (&[&both], &[]),
        (&["labels", "annotations.none", "nothing"], &[]),
    ];
    for (filters, expected) in cases {
        equal(&format!("a listing of {filters:?}"), list(store, filters).await?, expected)?;
    }
    Ok(())
}

async fn view(store: &dyn ImageStore) -> Check {
    let current = async |when: &str| -> Check {
        equal(&format!("what is wrong with the view {when}"), store.stale_view().await?, None)
    };
    store.create(image("one", target("one"), &[])).await?;
    current("after a create").await?;
    store.create(image("two", target("two"), &[])).await?;
    store.update(image("one", target("other"), &[("a", "1")]), &[]).await?;
    current("after an update").await?;
    store.delete("two", None).await?;
    current("after a delete").await?;
    store.rewrite_view().await?;
    current("after it was written again").await?;
    equal("what is there", list(store, &[]).await?, ["one"])
}
