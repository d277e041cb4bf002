//! Collection and leases as a user runs them.

mod support;

use std::{
    io::Read,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;
use support::{Wharf, three_platforms};
use wharf_tests::{FakeServer, ImageFixture, Layer, Reply, TestRegistry};

fn blobs(wharf: &Wharf) -> usize {
    let path = wharf.path("store/blobs/sha256");
    std::fs::read_dir(path).map_or(0, Iterator::count)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_image_needs_goes() {
    let registry = TestRegistry::start().await;
    let name = registry.put("a/b:1", &three_platforms()).await.expect("puts");
    let wharf = Wharf::new();
    wharf.run(&["pull", "--all-platforms", &name]).await.succeeded();
    assert_eq!(
        blobs(&wharf),
        11,
        "an index; three manifests with a config and a layer each; a layer that they share"
    );
    assert_eq!(wharf.run(&["gc"]).await.succeeded(), "", "everything is needed");
    wharf.run(&["images", "rm", &name]).await.succeeded();
    let would = wharf.run(&["gc", "--dry-run", "-q"]).await.succeeded();
    assert_eq!((would.lines().count(), blobs(&wharf)), (11, 11));
    let json = wharf.run(&["gc", "--dry-run", "--format", "json"]).await.succeeded();
    let json: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["collected"].as_array().map(Vec::len), Some(11));
    let done = wharf.run(&["gc"]).await;
    assert!(done.err().starts_with("removed 11 things of "), "{}", done.err());
    let removed = done.succeeded();
    assert!(
        removed.lines().all(|line| line.starts_with("sha256:") && line.split(' ').count() == 2),
        "{removed}"
    );
    assert_eq!((wharf.run(&["gc"]).await.succeeded(), blobs(&wharf)), (String::new(), 0));

    wharf.run(&["pull", "--all-platforms", &name]).await.succeeded();
    wharf.run(&["images", "rm", "--sync", &name]).await.succeeded();
    assert_eq!(blobs(&wharf), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_keeps_what_no_image_names() {
    let registry = TestRegistry::start().await;
    let name = registry.put("a/b:1", &three_platforms()).await.expect("puts");
    let wharf = Wharf::new();
    assert_eq!(
        wharf.run(&["lease", "create", "--id", "mine", "--expire", "1h", "for=tests"]).await.succeeded(),
        "mine\n"
    );
    wharf.run(&["lease", "create", "--id", "mine"]).await.failed(1);
    wharf.run(&["pull", "--lease", "nothing", &name]).await.failed(2);
    assert_eq!(blobs(&wharf), 0, "found out before anything is fetched");
    wharf.run(&["pull", "--lease", "mine", "--platform", "linux/amd64", &name]).await.succeeded();
    wharf.run(&["images", "rm", "--sync", &name]).await.succeeded();
    assert_eq!(blobs(&wharf), 5);
    let listed = wharf.run(&["lease", "ls", "--format", "json"]).await.succeeded();
    let listed: Value = serde_json::from_str(&listed).expect("JSON");
    assert_eq!((&listed[0]["id"], &listed[0]["labels"]["for"]), (&"mine".into(), &"tests".into()));
    assert_eq!((&listed[0]["resources"], &listed[0]["held"]), (&1.into(), &false.into()));
    assert_eq!(wharf.run(&["lease", "ls", "-q", "labels.for==tests"]).await.succeeded(), "mine\n");
    assert_eq!(wharf.run(&["lease", "rm", "mine"]).await.succeeded(), "mine\n");
    assert_eq!(wharf.run(&["gc", "-q"]).await.succeeded().lines().count(), 5);
    wharf.run(&["lease", "rm", "mine"]).await.failed(2);
    wharf.run(&["lease", "create", "--expire", "soon"]).await.failed(3);
    assert_eq!(wharf.run(&["lease", "ls", "-q"]).await.succeeded(), "", "pulls leave none");
}

#[tokio::test]
async fn what_was_removed_is_listed_as_asked_for() {
    let registry = TestRegistry::start().await;
    let name = registry.put("a/b:1", &three_platforms()).await.expect("puts");
    let wharf = Wharf::new();
    let pull = ["pull", "--platform", "linux/amd64", &name];
    wharf.run(&pull).await.succeeded();
    wharf.run(&["lease", "create", "--id", "one"]).await.succeeded();
    wharf.run(&["lease", "create", "--id", "two"]).await.succeeded();
    let list = |done: support::Done| serde_json::from_str::<Value>(&done.out()).expect("JSON");
    let removed = wharf.run(&["lease", "rm", "one", "none", "two", "--format", "json"]).await;
    assert_eq!(removed.code(), 7, "partly done");
    assert_eq!(list(removed), serde_json::json!(["one", "two"]));
    let removed = wharf.run(&["images", "rm", &name, "--format", "json"]).await;
    assert_eq!(removed.code(), 0);
    assert_eq!(list(removed), serde_json::json!([name]));
    wharf.run(&["images", "rm", &name, "--format", "json"]).await.failed(2);
    wharf.run(&["lease", "rm", "one", "--format", "json"]).await.failed(2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_on_the_way_does_not_leave_the_rest_undone() {
    let registry = TestRegistry::start().await;
    let names = ["a/b:1", "a/b:2"];
    let mut pulled = Vec::new();
    let wharf = Wharf::new();
    for name in names {
        pulled.push(registry.put(name, &three_platforms()).await.expect("puts"));
    }
    let pull = async || {
        for name in &pulled {
            wharf.run(&["pull", "--platform", "linux/amd64", name]).await.succeeded();
        }
    };

    pull().await;
    let bad = ["images", "rm", "--sync", &pulled[0], "BAD//name", &pulled[1]];
    assert!(wharf.run(&bad).await.failed(3).contains("BAD//name"));
    assert_eq!(
        wharf.run(&["ls", "-q"]).await.succeeded().lines().count(),
        2,
        "a typing error removes nothing"
    );
    let missing = wharf.run(&["images", "rm", "--sync", &pulled[0], "nothing", &pulled[1]]).await;
    assert_eq!((missing.code(), missing.out()), (7, format!("{}\n{}\n", pulled[0], pulled[1])));
    assert_eq!(blobs(&wharf), 0);

    pull().await;
    let full = wharf.run_into_full(&["images", "rm", "--sync", &pulled[0], &pulled[1]]).await.failed(8);
    assert!(full.contains("standard output"), "{full}");
    assert_eq!(wharf.run(&["ls", "-q"]).await.succeeded(), "");
    assert_eq!(blobs(&wharf), 0, "collected all the same");

    for id in ["one", "two"] {
        wharf.run(&["lease", "create", "--id", id]).await.succeeded();
    }
    wharf.run_into_full(&["lease", "rm", "one", "two"]).await.failed(8);
    assert_eq!(wharf.run(&["lease", "ls", "-q"]).await.succeeded(), "");
    wharf.run_into_full(&["lease", "create"]).await.failed(8);
    assert_eq!(wharf.run(&["lease", "ls", "-q"]).await.succeeded(), "", "nobody could ever remove it");
}

const LABEL: &str = "containerd.io/gc.expire";

#[tokio::test]
async fn when_a_lease_ends() {
    let wharf = Wharf::new();
    let past = format!("{LABEL}=2001-02-03T04:05:06Z");
    for (arguments, words) in [
        (&["--expire", "0s"][..], "never ends"),
        (&["--expire", "5"], "90s"),
        (&["--expire", ""], "90s"),
        // More than a date can say, more than the system's clock can, and more than a number of seconds can.
        (&["--expire", "9999999d"], ": the lease lasts too long\n"),
        (&["--expire", "9999999999d"], ": the lease lasts too long\n"),
        (&["--expire", "9223372036854775807s"], ": the lease lasts too long\n"),
        (&["--expire", "18446744073709551615s"], ": the lease lasts too long\n"),
        (&["--expire", "18446744073709551616s"], ": the lease lasts too long\n"),
        (&["--expire", "9999999999999999999d"], ": the lease lasts too long\n"),
        (&["--expire", "213503982334602d"], ": the lease lasts too long\n"),
        (&[&format!("{LABEL}=tomorrow")], "tomorrow"),
        (&[&format!("{LABEL}=")], LABEL),
        (&["--expire", "1h", &past], LABEL),
        (&["--id", ""], "an id"),
        (&["=x"], "KEY=VALUE"),
    ] {
        let error = wharf.run(&[&["lease", "create"], arguments].concat()).await.failed(3);
        assert!(error.contains(words), "{arguments:?}: {error}");
    }
    assert_eq!(wharf.run(&["lease", "ls", "-q"]).await.succeeded(), "");

    wharf.run(&["lease", "create", "--id", "past", &past, "for=tests"]).await.succeeded();
    for command in [
        &["pull", "--lease", "past", "localhost:1/x"][..],
        &["content", "ingest", "r", "/dev/null", "--lease", "past"],
    ] {
        let error = wharf.run(command).await.failed(2);
        assert!(error.contains("\"past\" has expired"), "{error}");
    }
    wharf.run(&["lease", "create", "--id", "ever"]).await.succeeded();
    let made = wharf
        .run(&["lease", "create", "--id", "soon", "--expires", "1h", "--format", "json"])
        .await
        .succeeded();
    let made: Value = serde_json::from_str(&made).expect("JSON");
    assert_eq!(made["expires"], made["labels"][LABEL]);
    let table = wharf.run(&["lease", "ls"]).await.succeeded();
    let row = |id: &str| table.lines().find(|line| line.starts_with(id)).expect("a row").to_owned();
    assert!(row("past").contains("2001-02-03T04:05:06Z") && row("past").ends_with("  for=tests"), "{table}");
    assert!(row("ever").contains("  never  ") && row("ever").ends_with("  -"), "{table}");
    let listed = wharf.run(&["lease", "ls", "--format", "json"]).await.succeeded();
    let listed: Value = serde_json::from_str(&listed).expect("JSON");
    let expires: Vec<&Value> =
        listed.as_array().expect("a list").iter().map(|lease| &lease["expires"]).collect();
    assert_eq!(expires, [&Value::Null, &"2001-02-03T04:05:06Z".into(), &made["expires"]]);
    assert_eq!(wharf.run(&["gc"]).await.succeeded(), "leases/past\n");
}

/// Waits until a command that runs holds what it works on.
async fn held(wharf: &Wharf) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let listed = wharf.run(&["lease", "ls", "--format", "json"]).await.succeeded();
        let listed: Value = serde_json::from_str(&listed).expect("JSON");
        if listed[0]["resources"] == 1 && listed[0]["held"] == true {
            return;
        }
        assert!(Instant::now() < deadline, "{listed}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Interrupts a command of which nobody reads the output; gives its exit code and what it said.
async fn interrupt(mut child: Child) -> (Option<i32>, String) {
    let done = tokio::task::spawn_blocking(move || {
        let id = child.id().to_string();
        assert!(Command::new("kill").args(["-INT", &id]).status().expect("kill runs").success());
        let code = child.wait().expect("it ends").code();
        let mut said = String::new();
        child.stderr.take().expect("piped").read_to_string(&mut said).expect("text");
        (code, said)
    });
    done.await.expect("no panic")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_only_read_is_not_kept_by_who_is_interrupted() {
    let registry = TestRegistry::start().await;
    // More than a pipe takes.
    let image = ImageFixture::new().with("linux/amd64", vec![Layer::noise("data", 1_000_000, 1)]);
    let name = registry.put("a/b:1", &image).await.expect("puts");
    // It has nothing, and says nothing to who sends something.
    let silent = FakeServer::start(|request| match request.method.as_str() {
        "HEAD" => Reply::new(404, &[], ""),
        "GET" => Reply::new(200, &[], ""),
        _ => Reply::raw("").stalling(),
    })
    .await;
    let to = format!("{}/a/b:1", silent.address());
    let from = format!("store:{name}");
    for (arguments, told) in [
        (&["export", "--all-platforms", &name][..], "nothing was finished, and the same command begins anew"),
        (&["push", &name, &to], "what was sent stays there, and the same command sends the rest"),
        (&["copy", &from, &to], "what was sent stays there, and the same command sends the rest"),
    ] {
        let wharf = Wharf::new();
        wharf.run(&["pull", "--all-platforms", &name]).await.succeeded();
        let mut command = wharf.command(arguments);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
        held(&wharf).await;
        let all = blobs(&wharf);
        wharf.run(&["rm", "--sync", &name]).await.succeeded();
        assert!(all > 0 && blobs(&wharf) == all, "it is at work: {arguments:?}");
        let (code, said) = interrupt(child).await;
        assert_eq!(code, Some(130), "{arguments:?}: {said}");
        assert!(said.contains(&format!("interrupted; {told}")), "{arguments:?}: {said}");
        wharf.run(&["gc"]).await.succeeded();
        assert_eq!(blobs(&wharf), 0, "{arguments:?}");
        assert_eq!(wharf.run(&["lease", "ls", "-q"]).await.succeeded(), "", "{arguments:?}");
    }
}
