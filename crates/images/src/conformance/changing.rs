//! Records that are changed, by field path or whole, and deleted.

use std::time::Duration;

use wharf_content::{Descriptor, ErrorKind};

use crate::record::ImageStore;

use super::probe::{
    Check, Pairs, Promise, annotated, ensure, equal, holds, image, labels, list, promise, refused, target,
};

pub(super) const PROMISES: &[Promise] = &[
    promise!("update-replaces", "an update of no field replaces target and labels", replaces),
    promise!("update-labels", "an update of labels replaces all of them, and nothing else", all_labels),
    promise!(
        "labels-by-fieldpath",
        "an update of labels.<key> sets that label, or removes it where it is absent or empty, and no other",
        labels_by_fieldpath
    ),
    promise!(
        "update-target",
        "an update of target replaces it with its annotations, and no labels",
        whole_target
    ),
    promise!(
        "update-annotations",
        "an update of annotations replaces all of them, and nothing else",
        all_annotations
    ),
    promise!(
        "annotations-by-fieldpath",
        "an update of annotations.<key> sets that annotation, or removes it where it is absent, and no other",
        annotations_by_fieldpath
    ),
    promise!("fieldpaths-together", "an update of several fields changes each of them", together),
    promise!(
        "other-fields-refused",
        "an update of anything else is InvalidArgument and changes nothing, not even in part",
        other_fields
    ),
    promise!("updates-dated", "an update changes updated_at, and created_at stays", dated),
    promise!("delete", "a deleted record is gone for good, and no other is", delete),
    promise!(
        "delete-expected",
        "a delete that expects a target of another digest is NotFound and deletes nothing",
        delete_expected
    ),
];

/// What the record of each case begins with.
const LABELS: Pairs<'_> = &[("a", "1"), ("b.c/d", "2")];
const ANNOTATIONS: Pairs<'_> = &[("k", "1"), ("l.m/n", "2")];

fn start() -> Descriptor {
    annotated("start", ANNOTATIONS)
}

type Case<'a> = (&'a [&'a str], (Descriptor, Pairs<'a>), (Descriptor, Pairs<'a>));

/// Updates a new record for each case, and demands what comes out of it.
async fn update_all(store: &dyn ImageStore, cases: &[Case<'_>]) -> Check {
    for (at, (fieldpaths, wanted, expected)) in cases.iter().enumerate() {
        let name = format!("case-{at}");
        store.create(image(&name, start(), LABELS)).await?;
        let updated = store.update(image(&name, wanted.0.clone(), wanted.1), fieldpaths).await?;
        equal(&format!("the target that an update of {fieldpaths:?} gave"), &updated.target, &expected.0)?;
        equal(
            &format!("the labels that an update of {fieldpaths:?} gave"),
            &updated.labels,
            &labels(expected.1),
        )?;
        equal(&format!("the record after an update of {fieldpaths:?}"), &store.get(&name).await?, &updated)?;
    }
    Ok(())
}

async fn replaces(store: &dyn ImageStore) -> Check {
    let other = annotated("other", &[("x", "9")]);
    update_all(
        store,
        &[
            (&[], (other.clone(), &[("x", "3")]), (other, &[("x", "3")])),
            (&[], (target("bare"), &[]), (target("bare"), &[])),
        ],
    )
    .await
}

async fn all_labels(store: &dyn ImageStore) -> Check {
    let other = || annotated("other", &[("x", "9")]);
    update_all(
        store,
        &[
            (&["labels"], (other(), &[("a", "4"), ("x", "3")]), (start(), &[("a", "4"), ("x", "3")])),
            (&["labels"], (other(), &[]), (start(), &[])),
        ],
    )
    .await
}

async fn labels_by_fieldpath(store: &dyn ImageStore) -> Check {
    let other = || annotated("other", &[("x", "9")]);
    let cases: &[(&[&str], Pairs<'_>, Pairs<'_>)] = &[
        (&["labels.x"], &[("x", "3"), ("y", "4")], &[("a", "1"), ("b.c/d", "2"), ("x", "3")]),
        (&["labels.b.c/d"], &[("b.c/d", "5")], &[("a", "1"), ("b.c/d", "5")]),
        (&["labels.a"], &[("a", "")], &[("b.c/d", "2")]),
        (&["labels.a", "labels.none"], &[], &[("b.c/d", "2")]),
        (&["labels.a", "labels.x"], &[("x", "3")], &[("b.c/d", "2"), ("x", "3")]),
    ];
    let cases: Vec<Case<'_>> = cases
        .iter()
        .map(|(paths, wanted, expected)| (*paths, (other(), *wanted), (start(), *expected)))
        .collect();
    update_all(store, &cases).await
}

async fn whole_target(store: &dyn ImageStore) -> Check {
    let other = annotated("other", &[("x", "9")]);
    update_all(
        store,
        &[
            (&["target"], (other.clone(), &[("x", "3")]), (other, LABELS)),
            (&["target"], (target("bare"), &[]), (target("bare"), LABELS)),
        ],
    )
    .await
}

async fn all_annotations(store: &dyn ImageStore) -> Check {
    update_all(
        store,
        &[
            (
                &["annotations"],
                (annotated("other", &[("k", "3"), ("x", "")]), &[("x", "3")]),
                (annotated("start", &[("k", "3"), ("x", "")]), LABELS),
            ),
            (&["annotations"], (target("other"), &[]), (target("start"), LABELS)),
        ],
    )
    .await
}

async fn annotations_by_fieldpath(store: &dyn ImageStore) -> Check {
    let cases: &[(&[&str], Pairs<'_>, Pairs<'_>)] = &[
        (&["annotations.x"], &[("x", "3"), ("y", "4")], &[("k", "1"), ("l.m/n", "2"), ("x", "3")]),
        (&["annotations.l.m/n"], &[("l.m/n", "5")], &[("k", "1"), ("l.m/n", "5")]),
        (&["annotations.k"], &[], &[("l.m/n", "2")]),
        (&["annotations.k", "annotations.none"], &[("x", "3")], &[("l.m/n", "2")]),
    ];
    let cases: Vec<Case<'_>> = cases
        .iter()
        .map(|(paths, wanted, expected)| {
            (*paths, (annotated("other", wanted), &[("x", "3")][..]), (annotated("start", expected), LABELS))
        })
        .collect();
    update_all(store, &cases).await
}

async fn together(store: &dyn ImageStore) -> Check {
    let other = annotated("other", &[("x", "9")]);
    update_all(
        store,
        &[
            (
                &["target", "labels.x"],
                (other.clone(), &[("x", "3")]),
                (other.clone(), &[("a", "1"), ("b.c/d", "2"), ("x", "3")]),
            ),
            (&["labels", "target"], (other.clone(), &[("x", "3")]), (other.clone(), &[("x", "3")])),
            (
                &["labels.a", "annotations.x"],
                (other, &[]),
                (annotated("start", &[("k", "1"), ("l.m/n", "2"), ("x", "9")]), &[("b.c/d", "2")]),
            ),
        ],
    )
    .await
}

async fn other_fields(store: &dyn ImageStore) -> Check {
    let before = store.create(image("fixed", start(), LABELS)).await?;
    for fieldpaths in [
        &["name"][..],
        &["created_at"],
        &["target.digest"],
        &["label.x"],
        &["labels."],
        &["annotations."],
        &["Labels"],
        &[""],
        &["target", "labels", "size"],
        &["size", "target"],
    ] {
        let updated = store.update(image("fixed", target("other"), &[("x", "3")]), fieldpaths).await;
        refused(&format!("an update of {fieldpaths:?}"), updated, ErrorKind::InvalidArgument)?;
        equal(&format!("the record after an update of {fieldpaths:?}"), &store.get("fixed").await?, &before)?;
    }
    Ok(())
}

async fn dated(store: &dyn ImageStore) -> Check {
    let mut before = store.create(image("dated", start(), LABELS)).await?;
    for fieldpaths in [&[][..], &["labels.a"], &["target"]] {
        // Longer than coarse clocks take from one tick to the next.
        tokio::time::sleep(Duration::from_millis(20)).await;
        let after = store.update(image("dated", target("other"), &[]), fieldpaths).await?;
        equal(&format!("created_at after an update of {fieldpaths:?}"), after.created_at, before.created_at)?;
        ensure!(
            after.updated_at > before.updated_at,
            "updated_at is {:?} after an update of {fieldpaths:?} and was {:?} before",
            after.updated_at,
            before.updated_at
        );
        before = after;
    }
    Ok(())
}

async fn delete(store: &dyn ImageStore) -> Check {
    store.create(image("gone", start(), LABELS)).await?;
    store.create(image("stays", start(), LABELS)).await?;
    store.delete("gone", None).await?;
    refused("a get after a delete", store.get("gone").await, ErrorKind::NotFound)?;
    equal("what is there after a delete", list(store, &[]).await?, ["stays"])?;
    holds(store, "of another record", "stays", &start(), LABELS).await?;
    refused("a second delete", store.delete("gone", None).await, ErrorKind::NotFound)?;
    store.create(image("gone", target("new"), &[("x", "3")])).await?;
    holds(store, "of a name that had another record", "gone", &target("new"), &[("x", "3")]).await
}

async fn delete_expected(store: &dyn ImageStore) -> Check {
    let before = store.create(image("held", start(), LABELS)).await?;
    let deleted = store.delete("held", Some(&target("other"))).await;
    refused("a delete that expects another target", deleted, ErrorKind::NotFound)?;
    equal("the record that was not deleted", store.get("held").await?, before)?;
    // The digest decides: how the target is described may have changed since.
    let described = Descriptor { media_type: "application/x-other".into(), ..target("start") };
    store.delete("held", Some(&described)).await?;
    refused("a get after a delete", store.get("held").await, ErrorKind::NotFound)
}
