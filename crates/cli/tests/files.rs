//! `wharf ls-files` and `wharf cat`, on images of the store and of a registry.

#![cfg(target_os = "linux")]

mod support;

use serde_json::Value;
use wharf_tests::{ImageFixture, Layer, TestRegistry, image::noise};

use support::Wharf;

fn image() -> ImageFixture {
    ImageFixture::new().with(
        "linux/amd64",
        vec![
            Layer::of("data/large", noise(3 << 20, 1)),
            Layer::of("etc/a", "one").with("bin/tool", "#!/bin/sh", 0o4755),
            Layer::of("etc/b", "two"),
        ],
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_the_store_and_of_a_registry_are_the_same() {
    let registry = TestRegistry::start().await;
    let name = registry.put("a/b:1", &image()).await.expect("puts");
    let wharf = Wharf::new();
    let at = ["--platform", "linux/amd64"];
    let run = async |arguments: &[&str]| wharf.run(&[arguments, &at].concat()).await;
    let remote = run(&["ls-files", &name]).await.succeeded();
    assert_eq!(wharf.run(&["content", "ls", "-q"]).await.succeeded(), "", "nothing is put on disk");
    wharf.run(&["pull", "--platform", "linux/amd64", &name]).await.succeeded();
    registry.take_log();
    let local = run(&["ls-files", &name]).await.succeeded();
    assert_eq!(local, remote);
    assert!(registry.take_log().is_empty(), "what is in the store is not asked for");
    let lines: Vec<&str> = local.lines().collect();
    assert_eq!(lines.len(), 7, "{local}");
    assert!(lines[1].starts_with("-rwsr-xr-x ") && lines[1].ends_with("  2 /bin/tool"), "{local}");
    assert!(
        lines[2].starts_with("drwxr-xr-x ") && lines[2].ends_with(" -                      1 /data"),
        "{local}"
    );
    assert_eq!(run(&["ls-files", "-q", &name, "etc"]).await.succeeded(), "/etc\n/etc/a\n/etc/b\n");
    let listed: Value =
        serde_json::from_str(&run(&["ls-files", "--format", "json", &name]).await.succeeded()).expect("JSON");
    assert_eq!(listed.as_array().map(Vec::len), Some(7));
    assert_eq!((&listed[3]["path"], &listed[3]["size"]), (&"/data/large".into(), &(3 << 20).into()));
    assert_eq!(listed[3]["layer"]["number"], 1);
    let line = run(&["ls-files", "--jsonl", &name, "/etc/b"]).await.succeeded();
    assert_eq!(line.lines().count(), 1);
    let line: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(line["layer"]["number"], 3);
    for place in ["--local", "--remote"] {
        assert_eq!(run(&["cat", place, &name, "/etc/a"]).await.succeeded(), "one", "{place}");
        let done = run(&["cat", place, &name, "data/large"]).await;
        assert!(done.0.stdout == noise(3 << 20, 1), "{place}");
        let missing = run(&["cat", place, &name, "/etc/c"]).await.failed(2);
        assert!(missing.contains("there is no \"/etc/c\" in the image"), "{missing}");
        let directory = run(&["cat", place, &name, "etc"]).await.failed(3);
        assert!(directory.contains("is a directory"), "{directory}");
        run(&["ls-files", place, &name, "/nothing"]).await.failed(2);
    }
}

/// A layer as programs write them that name directories too: what is in it is certain.
#[tokio::test(flavor = "multi_thread")]
async fn of_a_remote_image_only_the_upper_layers_are_fetched() {
    let registry = TestRegistry::start().await;
    let image = ImageFixture::new()
        .with("linux/amd64", vec![Layer::of("data", noise(3 << 20, 1)), Layer::of("motd", "hello")]);
    let name = registry.put("a/b:1", &image).await.expect("puts");
    let wharf = Wharf::new();
    let read = wharf.run(&["cat", "--platform", "linux/amd64", &name, "motd"]).await.succeeded();
    assert_eq!(read, "hello");
    let fetched: u64 = registry.take_log().iter().map(|record| record.bytes).sum();
    assert!(fetched < 100_000, "{fetched}");
    let done = wharf.run_into_full(&["cat", "--platform", "linux/amd64", &name, "motd"]).await;
    assert_eq!(done.code(), 8, "{}", done.err());
}
