//! Records that are made: kept as they were given, made once, refused where they are wrong, and dated.

use std::time::{Duration, SystemTime};

use wharf_content::{Descriptor, ErrorKind, labels::MAX_LABEL_LEN};
use wharf_platforms::Platform;

use crate::record::{Image, ImageStore};

use super::probe::{
    Check, Promise, annotated, ensure, equal, holds, image, labels, list, promise, refused, target,
};

pub(super) const PROMISES: &[Promise] = &[
    promise!(
        "create-and-get",
        "a record is found by its name as it was created, with all of its target and its labels",
        create_and_get
    ),
    promise!(
        "create-once",
        "creating a record of a name that is taken is AlreadyExists and changes nothing",
        create_once
    ),
    promise!(
        "absent-names",
        "finding, updating and deleting a record that is not there is NotFound and makes none",
        absent
    ),
    promise!("names-exact", "a name is any text, and only the same text finds its record", names_exact),
    promise!("nameless-refused", "creating or updating a record of no name is InvalidArgument", nameless),
    promise!(
        "targets-checked",
        "a target without media type, of no bytes, or of more than i64::MAX is InvalidArgument",
        targets_checked
    ),
    promise!(
        "labels-bounded",
        "a label without a key, or whose key and value are longer than 4096 bytes, is InvalidArgument",
        labels_bounded
    ),
    promise!(
        "creates-dated",
        "a new record has the time of its creation in created_at and updated_at, whatever it was given",
        dated
    ),
];

async fn create_and_get(store: &dyn ImageStore) -> Check {
    let mut whole = annotated("whole", &[("a.b/c", "1"), ("empty", "")])
        .with_platform(Platform::new("linux", "arm").with_variant("v7"));
    whole.artifact_type = Some("application/vnd.example.thing".into());
    whole.urls = vec!["https://example.com/whole".into()];
    for (name, target, pairs) in [
        ("plain", target("plain"), &[][..]),
        ("docker.io/library/whole:1", whole, &[("a", "1"), ("b.c/d", "2 \"x\" ünï\n")]),
    ] {
        let made = store.create(image(name, target.clone(), pairs)).await?;
        equal("the name that a create gave", &made.name, name)?;
        equal("the target that a create gave", &made.target, &target)?;
        equal("the labels that a create gave", &made.labels, &labels(pairs))?;
        equal("a record that was created", store.get(name).await?, made)?;
    }
    Ok(())
}

async fn create_once(store: &dyn ImageStore) -> Check {
    let made = store.create(image("taken", target("first"), &[("a", "1")])).await?;
    for again in
        [image("taken", target("second"), &[("b", "2")]), image("taken", target("first"), &[("a", "1")])]
    {
        refused("a second create", store.create(again).await, ErrorKind::AlreadyExists)?;
        equal("the record after a second create", &store.get("taken").await?, &made)?;
    }
    Ok(())
}

async fn absent(store: &dyn ImageStore) -> Check {
    store.create(image("other", target("other"), &[])).await?;
    for name in ["absent", "othe", "other:latest"] {
        refused("a get", store.get(name).await, ErrorKind::NotFound)?;
        for fieldpaths in [&[][..], &["labels"], &["labels.a"], &["target"]] {
            let updated = store.update(image(name, target("x"), &[("a", "1")]), fieldpaths).await;
            refused(&format!("an update of {fieldpaths:?}"), updated, ErrorKind::NotFound)?;
        }
        refused("a delete", store.delete(name, None).await, ErrorKind::NotFound)?;
        refused(
            "a delete of a target",
            store.delete(name, Some(&target("other"))).await,
            ErrorKind::NotFound,
        )?;
    }
    equal("what is there", list(store, &[]).await?, ["other"])
}

async fn names_exact(store: &dyn ImageStore) -> Check {
    let names = [
        "busybox",
        "Busybox",
        "busybox ",
        "docker.io/library/busybox:latest",
        "../../x",
        "/",
        "%_*?",
        "'; --",
        "\"q\"",
        "é",
        "e\u{301}",
        "a\nb",
        "nul\0l",
        "nul\0m",
        "\u{1f980}",
    ];
    for name in names {
        store.create(image(name, target(name), &[])).await?;
    }
    for name in names {
        holds(store, &format!("of {name:?}"), name, &target(name), &[]).await?;
    }
    store.delete("Busybox", None).await?;
    refused("a get of what was deleted", store.get("Busybox").await, ErrorKind::NotFound)?;
    holds(store, "of the other case", "busybox", &target("busybox"), &[]).await?;
    refused("a get of half a name", store.get("nul").await, ErrorKind::NotFound)
}

async fn nameless(store: &dyn ImageStore) -> Check {
    refused("a create", store.create(image("", target("x"), &[])).await, ErrorKind::InvalidArgument)?;
    for fieldpaths in [&[][..], &["labels"]] {
        let updated = store.update(image("", target("x"), &[]), fieldpaths).await;
        refused(&format!("an update of {fieldpaths:?}"), updated, ErrorKind::InvalidArgument)?;
    }
    equal("what is there", list(store, &[]).await?, Vec::<String>::new())
}

async fn targets_checked(store: &dyn ImageStore) -> Check {
    let good = target("good");
    let sized = |size| Descriptor { size, ..good.clone() };
    let before = store.create(image("good", good.clone(), &[])).await?;
    let largest = sized(i64::MAX.unsigned_abs());
    store.create(image("largest", largest.clone(), &[])).await?;
    holds(store, "of the largest size", "largest", &largest, &[]).await?;
    for (what, bad) in [
        ("without media type", Descriptor { media_type: String::new(), ..good.clone() }),
        ("of no bytes", sized(0)),
        ("of 2^63 bytes", sized(1 << 63)),
    ] {
        let created = store.create(image("bad", bad.clone(), &[])).await;
        refused(&format!("a create {what}"), created, ErrorKind::InvalidArgument)?;
        for fieldpaths in [&[][..], &["target"]] {
            let updated = store.update(image("good", bad.clone(), &[]), fieldpaths).await;
            refused(&format!("an update of {fieldpaths:?} {what}"), updated, ErrorKind::InvalidArgument)?;
        }
    }
    equal("the record after refused updates", store.get("good").await?, before)?;
    equal("what is there", list(store, &[]).await?, ["good", "largest"])
}

/// A record of which one label has this many bytes.
fn long(name: &str, len: usize) -> Image {
    image(name, target("x"), &[("ok", "1"), ("key", &"v".repeat(len - 3))])
}

async fn labels_bounded(store: &dyn ImageStore) -> Check {
    let longest = store.create(long("longest", MAX_LABEL_LEN)).await?;
    let nameless = || image("new", target("x"), &[("", "x")]);
    for (what, bad) in
        [("too long a label", long("new", MAX_LABEL_LEN + 1)), ("a label without a key", nameless())]
    {
        refused(
            &format!("a create with {what}"),
            store.create(bad.clone()).await,
            ErrorKind::InvalidArgument,
        )?;
        for fieldpaths in [&[][..], &["labels"]] {
            let bad = Image { name: "longest".into(), ..bad.clone() };
            let updated = store.update(bad, fieldpaths).await;
            refused(&format!("{what} by {fieldpaths:?}"), updated, ErrorKind::InvalidArgument)?;
        }
    }
    let updated = store.update(long("longest", MAX_LABEL_LEN + 1), &["labels.key"]).await;
    refused("too long a label by its own path", updated, ErrorKind::InvalidArgument)?;
    equal("the record afterwards", store.get("longest").await?, longest)?;
    refused("a get of what was refused", store.get("new").await, ErrorKind::NotFound)
}

async fn dated(store: &dyn ImageStore) -> Check {
    // Clocks of stores may be coarser than this one.
    const SLACK: Duration = Duration::from_secs(2);
    let mut given = image("dated", target("dated"), &[]);
    given.created_at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    given.updated_at = given.created_at + Duration::from_secs(1);
    let begun = SystemTime::now();
    let made = store.create(given).await?;
    let is_now = made.created_at + SLACK >= begun && made.created_at <= SystemTime::now() + SLACK;
    ensure!(is_now, "created_at of a new record is {:?}, and it was made at {begun:?}", made.created_at);
    equal("updated_at of a new record", made.updated_at, made.created_at)
}
