//! Collection and leases as a user runs them.

mod support;

use serde_json::Value;
use support::{Wharf, three_platforms};
use wharf_tests::TestRegistry;

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
