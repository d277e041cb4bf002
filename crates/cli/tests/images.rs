//! The commands that look after image records, as a user runs them.

mod support;

use serde_json::{Value, json};
use support::{Wharf, three_platforms};
use wharf_content::Digest;
use wharf_tests::TestRegistry;

/// A store with an image of which one platform of three was pulled, and the image's name.
async fn one_platform() -> (Wharf, String) {
    let registry = TestRegistry::start().await;
    let name = registry.put("a/b:1", &three_platforms()).await.expect("puts");
    let wharf = Wharf::new();
    wharf.run(&["pull", "--platform", "linux/amd64", "--label", "from=test", &name]).await.succeeded();
    (wharf, name)
}

async fn json_of(wharf: &Wharf, arguments: &[&str]) -> Value {
    let printed = wharf.run(&[arguments, &["--format", "json"]].concat()).await.succeeded();
    serde_json::from_str(&printed).expect("JSON")
}

async fn names(wharf: &Wharf, filters: &[&str]) -> Vec<String> {
    let listed = wharf.run(&[&["images", "ls", "-q"], filters].concat()).await.succeeded();
    listed.lines().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_are_images_of_their_own() {
    let (wharf, name) = one_platform().await;
    let tagged = wharf
        .run(&["images", "tag", &name, "app", "docker://team/app:2", "store:app:latest", "localhost:5/x"])
        .await;
    let expected = ["docker.io/library/app:latest", "docker.io/team/app:2", "localhost:5/x:latest"];
    assert_eq!(tagged.succeeded(), expected.map(|name| format!("{name}\n")).concat());
    assert_eq!(wharf.run(&["lease", "ls", "-q"]).await.succeeded(), "", "no lease is left");

    let rows = json_of(&wharf, &["images", "ls"]).await;
    let rows = rows.as_array().expect("an array");
    assert_eq!(rows.len(), 4);
    for row in rows {
        assert_eq!((&row["target"], &row["labels"]), (&rows[0]["target"], &json!({ "from": "test" })));
    }

    // The short command does the same, and says so in JSON too. A digest is accepted where it is the image's.
    let pinned = format!("pinned@{}", rows[0]["target"]["digest"].as_str().expect("a digest"));
    let made = json_of(&wharf, &["tag", "app", &pinned]).await;
    assert_eq!(made, json!([{ "name": format!("docker.io/library/{pinned}"), "target": rows[0]["target"] }]));
    wharf.run(&["images", "rm", &pinned]).await.succeeded();

    wharf.run(&["images", "rm", "--sync", &name, "app", "team/app:2"]).await.succeeded();
    wharf.run(&["images", "check", "localhost:5/x"]).await.succeeded();
    assert_eq!(names(&wharf, &[]).await, ["localhost:5/x:latest"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_are_taken_stay_unless_forced() {
    let registry = TestRegistry::start().await;
    let one = registry.put("a/one:1", &three_platforms()).await.expect("puts");
    let two = registry.put("a/two:1", &three_platforms().docker()).await.expect("puts");
    let wharf = Wharf::new();
    let digest_of = async |name: &str| {
        let rows = json_of(&wharf, &["images", "ls", &format!("name=={name}")]).await;
        rows[0]["target"]["digest"].as_str().map(str::to_owned)
    };
    for name in [&one, &two] {
        wharf.run(&["pull", "--platform", "linux/amd64", name]).await.succeeded();
    }
    wharf.run(&["tag", &one, "app:1"]).await.succeeded();
    let error = wharf.run(&["tag", &two, "new", "app:1"]).await.failed(1);
    assert!(
        error.starts_with("error[already exists]: nothing was tagged: docker.io/library/app:1 is taken"),
        "{error}"
    );
    let error = wharf.run(&["tag", &two, "app:1", &one, "--format", "json"]).await.failed(1);
    let error: Value = serde_json::from_str(&error).expect("JSON");
    assert_eq!(error["error"]["kind"], "already exists");
    assert!(error["error"]["message"].as_str().is_some_and(|text| text.contains(&one)), "{error}");
    assert_eq!(names(&wharf, &["name~=new"]).await, [""; 0], "all of them or none");
    assert_eq!(digest_of("docker.io/library/app:1").await, digest_of(&one).await);

    wharf.run(&["tag", "--force", &two, "new", "app:1"]).await.succeeded();
    assert_ne!(digest_of(&one).await, digest_of(&two).await);
    assert_eq!(digest_of("docker.io/library/app:1").await, digest_of(&two).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_tagged() {
    let (wharf, name) = one_platform().await;
    let other = format!("x@{}", Digest::sha256(b"other"));
    for (arguments, code, said) in [
        (vec![&*name], 3, "DST"),
        (vec![&name, "good", "Bad"], 3, "lower case"),
        (vec![&name, "good", "a:-b"], 3, "invalid tag"),
        (vec![&name, "good", ""], 3, "names no repository"),
        (vec![&name, "good", "dir:/tmp/x"], 3, "known are docker://, store:"),
        (vec![&name, "good", "oci:foo"], 3, "`wharf copy store:SRC oci:foo` writes the image there"),
        (vec![&name, "good", "oci-archive:foo.tar"], 3, "is no name in the store"),
        (vec![&name, "good", "oci:/tmp/x"], 3, "is no name in the store"),
        (vec![&name, "good", "https://example.com/a"], 3, "drop \"https://\""),
        (vec![&name, "good", &other], 3, "and not sha256:"),
        (vec!["absent", "good"], 2, "docker.io/library/absent:latest"),
    ] {
        let error = wharf.run(&[&["images", "tag"], &arguments[..]].concat()).await.failed(code);
        assert!(error.contains(said), "{arguments:?}: {error}");
    }
    assert_eq!(names(&wharf, &[]).await, [name.as_str()], "nothing was tagged");

    // What says whose name it is can be named by the same words.
    for typed in ["docker://oci:foo", "store:oci:foo"] {
        assert_eq!(wharf.run(&["tag", &name, typed]).await.succeeded(), "docker.io/library/oci:foo\n");
        wharf.run(&["rm", typed]).await.succeeded();
    }
    assert_eq!(wharf.run(&["lease", "ls", "-q"]).await.succeeded(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_are_set_and_removed() {
    let (wharf, name) = one_platform().await;
    let set = wharf.run(&["images", "label", &name, "team=storage", "note=a=b c", "empty="]).await;
    assert_eq!(set.succeeded(), "from=test\nnote=a=b c\nteam=storage\n");
    assert_eq!(names(&wharf, &["labels.team==storage"]).await, [name.as_str()]);
    let left = wharf.run(&["images", "label", &name, "note=", "from=", "absent="]).await.succeeded();
    assert_eq!(left, "team=storage\n");
    assert_eq!(wharf.run(&["images", "label", &name]).await.succeeded(), "team=storage\n", "nothing changes");
    let as_json = json_of(&wharf, &["images", "label", &name, "x=1"]).await;
    assert_eq!(as_json, json!({ "name": name, "labels": { "team": "storage", "x": "1" } }));
    assert_eq!(wharf.run(&["images", "label", "-q", &name, "x="]).await.succeeded(), format!("{name}\n"));

    let long = format!("key={}", "v".repeat(4096));
    for (arguments, code, said) in [
        (vec![&*name, "novalue"], 3, "KEY=VALUE"),
        (vec![&name, "=x"], 3, "KEY=VALUE"),
        (vec![&name, "good=1", &long], 3, "4096"),
        (vec!["absent", "x=1"], 2, "docker.io/library/absent:latest"),
    ] {
        let error = wharf.run(&[&["images", "label"], &arguments[..]].concat()).await.failed(code);
        assert!(error.contains(said), "{arguments:?}: {error}");
    }
    assert_eq!(wharf.run(&["images", "label", &name]).await.succeeded(), "team=storage\n");
}

/// The columns STATUS and SIZE of the only image.
fn status(table: &str) -> (String, String) {
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 2, "{table}");
    let cells = |line: &str| {
        line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).map(str::to_owned).collect()
    };
    let (head, row): (Vec<String>, Vec<String>) = (cells(lines[0]), cells(lines[1]));
    assert_eq!(head, ["REF", "TYPE", "DIGEST", "STATUS", "SIZE", "UNPACKED"]);
    assert_eq!(row[5], "no");
    (row[3].clone(), row[4].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_complete_and_what_is_not() {
    let (wharf, name) = one_platform().await;
    let rows = json_of(&wharf, &["images", "check"]).await;
    assert_eq!(rows[0]["status"], "complete", "the platforms that nobody pulled are not missed");
    assert_eq!((&rows[0]["present"], &rows[0]["required"]), (&json!(5), &json!(5)));
    assert_eq!(rows[0]["presentBytes"], rows[0]["requiredBytes"]);
    assert_eq!((&rows[0]["missing"], &rows[0]["unpacked"]), (&json!([]), &json!(false)));
    let table = wharf.run(&["images", "check", &name]).await.succeeded();
    assert_eq!(status(&table).0, "complete (5/5)");
    assert_eq!(wharf.run(&["images", "check", "-q"]).await.succeeded(), format!("{name}\n"));
    wharf.run(&["images", "check", "--platform", "linux/amd64"]).await.succeeded();

    // The others are there by name only, so that nobody knows all that they consist of.
    for (arguments, expected) in [
        (&["--all-platforms"][..], "incomplete (5/7+)"),
        (&["--platform", "linux/arm64"], "incomplete (1/2+)"),
        (&["--platform", "all"], "incomplete (5/7+)"),
    ] {
        let done = wharf.run(&[&["images", "check"], arguments].concat()).await;
        assert_eq!((done.code(), status(&done.out()).0.as_str()), (5, expected), "{arguments:?}");
        assert!(done.err().contains("1 of 1 image is not complete"), "{}", done.err());
    }
    let done = wharf.run(&["images", "check", "--platform", "linux/riscv64"]).await;
    assert_eq!((done.code(), status(&done.out())), (2, ("error".into(), "-".into())));
    assert!(done.err().contains(&name) && done.err().contains("linux/s390x"), "{}", done.err());

    // A layer that is gone is missed, with its bytes; an index that is gone takes the knowledge with it.
    wharf.run(&["tag", &name, "app"]).await.succeeded();
    let index = rows[0]["target"]["digest"].as_str().expect("a digest");
    let layer = json_of(&wharf, &["inspect", "--local", "--platform", "linux/amd64", "app"]).await;
    let layer = layer["manifest"]["layers"][0]["digest"].as_str().expect("a digest").to_owned();
    wharf.run(&["content", "rm", &layer]).await.succeeded();
    let done = wharf.run(&["images", "check", "app"]).await;
    assert_eq!((done.code(), status(&done.out()).0.as_str()), (5, "incomplete (4/5)"));
    let done = wharf.run(&["images", "check", "app", "--format", "json"]).await;
    let row: Value = serde_json::from_str(&done.out()).expect("JSON");
    assert_eq!((&row[0]["missing"][0]["digest"], &row[0]["atLeast"]), (&json!(layer), &json!(false)));
    assert!(row[0]["presentBytes"].as_u64() < row[0]["requiredBytes"].as_u64());
    assert_eq!(wharf.run(&["images", "check", "-q"]).await.failed(5).lines().count(), 1);

    wharf.run(&["content", "rm", index]).await.succeeded();
    let done = wharf.run(&["images", "check", "app"]).await;
    assert_eq!((done.code(), status(&done.out())), (5, ("unavailable (0/?)".into(), "0 B/?".into())));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_partly_done_has_a_code_of_its_own() {
    let (wharf, name) = one_platform().await;
    wharf.run(&["images", "tag", &name, "a:1", "b:1", "c:1"]).await.succeeded();
    for (arguments, code) in [
        (vec!["images", "rm", "none:1", "nor:1"], 2),
        (vec!["images", "rm", "none:1", "a:1", "nor:1"], 7),
        (vec!["images", "rm", "a:1"], 2),
        (vec!["delete", "store:none:1", "store:b:1"], 7),
        (vec!["delete", "store:none:1", "store:b:1"], 2),
        (vec!["content", "abort", "none"], 2),
        (vec!["images", "check", "c:1", "a:1"], 7),
        (vec!["images", "check", "a:1", "b:1"], 2),
        (vec!["images", "rm", "c:1", "--format", "json"], 0),
    ] {
        let done = wharf.run(&arguments).await;
        assert_eq!(done.code(), code, "{arguments:?}: {}", done.err());
    }
    let done = wharf.run(&["images", "rm", &name, "none:1", "--format", "json"]).await;
    let error: Value = serde_json::from_str(done.err().lines().last().expect("an error")).expect("JSON");
    assert_eq!((done.code(), &error["error"]["exit"]), (7, &json!(7)));
    assert!(wharf.run(&["--help"]).await.succeeded().contains("7 partly done"));
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_are_not_there_do_not_hide_the_others() {
    let (wharf, name) = one_platform().await;
    let done = wharf.run(&["images", "check", "absent", &name, "A"]).await;
    assert_eq!((done.code(), status(&done.out()).0.as_str()), (7, "complete (5/5)"), "{}", done.err());
    assert_eq!(done.err().matches("error[").count(), 2, "{}", done.err());
    wharf.run(&["images", "check", "absent"]).await.failed(2);
    let empty = Wharf::new();
    assert_eq!(empty.run(&["images", "check", "-q"]).await.succeeded(), "");
    assert_eq!(json_of(&empty, &["images", "check"]).await, json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn listings_are_filtered() {
    let (wharf, name) = one_platform().await;
    wharf.run(&["tag", &name, "app"]).await.succeeded();
    wharf.run(&["images", "label", "app", "team=a b"]).await.succeeded();
    let digest = json_of(&wharf, &["images", "ls"]).await[0]["target"]["digest"].clone();
    let app = "docker.io/library/app:latest";
    for (filters, expected) in [
        (&[&*format!("target.digest=={}", digest.as_str().expect("a digest"))][..], &[&*name, app][..]),
        (&["target.mediatype~=index"], &[&name, app]),
        (&["labels.team==\"a b\""], &[app]),
        (&["labels.team!=\"a b\""], &[&name]),
        (&["annotations.none"], &[]),
        (&["name~=^docker,labels.team", &format!("name=={name}")], &[&name, app]),
    ] {
        assert_eq!(names(&wharf, filters).await, expected, "{filters:?}");
    }
    for (filter, position) in [("name==", 6), ("name=x", 4), ("name~=(", 6), ("name,,x", 5), ("name==\"x", 6)]
    {
        let error = wharf.run(&["images", "ls", filter]).await.failed(3);
        assert!(error.contains(&format!("at position {position}: ")), "{filter}: {error}");
    }
    let table = wharf.run(&["images", "ls"]).await.succeeded();
    let head: Vec<&str> = table.lines().next().expect("a line").split_whitespace().collect();
    assert_eq!(head, ["REF", "TYPE", "DIGEST", "SIZE", "PLATFORMS", "LABELS"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn help_is_exact() {
    let wharf = Wharf::new();
    for (command, begins, ends) in [
        (
            "tag",
            "Give an image of the store more names\n\nUsage: wharf images tag [OPTIONS] <SRC> <DST>...\n\nArguments:\n  \
             <SRC>\n          The image\n\n  <DST>...\n          Its new names, read as Docker reads them: `app` is \
             docker.io/library/app:latest\n\nOptions:\n      --force\n          Take names away from the images that have them\n",
            "\nExamples:\n  wharf images tag busybox localhost:5000/busybox:mirrored\n  wharf images tag --force app:1.2 app:1 \
             app:latest\n",
        ),
        (
            "label",
            "Set and remove labels of an image, and print those it has then\n\nUsage: wharf images label [OPTIONS] <NAME> \
             [KEY=VALUE]...\n\nArguments:\n  <NAME>\n          The image\n\n  [KEY=VALUE]...\n          Labels to set; an \
             empty value removes\n",
            "\nExamples:\n  wharf images label busybox team=storage stage=\n  wharf images ls labels.team==storage\n",
        ),
        (
            "check",
            "Tell whether all parts of images are in the store\n\nUsage: wharf images check [OPTIONS] \
             [NAME]...\n\nArguments:\n  [NAME]...\n          Check these images only\n\nOptions:\n      --platform <P>\n",
            "\nExamples:\n  wharf images check\n  wharf images check --all-platforms busybox\n  wharf images check -q | xargs \
             -r wharf export -o all.tar\n",
        ),
    ] {
        let help = wharf.run(&["images", command, "--help"]).await.succeeded();
        assert!(help.starts_with(begins), "{command}: {help}");
        assert!(help.ends_with(ends), "{command}: {help}");
    }
    let short = wharf.run(&["tag", "--help"]).await.succeeded();
    assert!(short.contains("Usage: wharf tag [OPTIONS] <SRC> <DST>..."), "{short}");
}
