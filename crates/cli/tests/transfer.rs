//! How the program moves large blobs: what a process that was killed leaves to the next one, and ranges.

mod support;

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use wharf_tests::{ImageFixture, Layer, TestRegistry, image::noise};

use support::{Wharf, partial, stalling};

const MIB: u64 = 1 << 20;

fn large() -> ImageFixture {
    ImageFixture::new().with("linux/amd64", vec![Layer::of("data", noise(8 << 20, 5))])
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_the_middle_the_next_process_takes_the_rest_and_no_more() {
    let registry = TestRegistry::start().await;
    let name = registry.put("big:1", &large()).await.expect("puts");
    let image = registry.image(&name).await.expect("there");
    let slow = stalling(&registry, &image, 5 << 20).await;
    let wharf = Wharf::new();
    let mut child = wharf
        .command(&["pull", &format!("{}/big:1", slow.address())])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("starts");
    let ingest = wharf.dir.path().join("store/ingest");
    let begun = Instant::now();
    while partial(&ingest) < 3 * MIB {
        assert!(begun.elapsed() < Duration::from_secs(30), "{} bytes arrived", partial(&ingest));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    child.kill().expect("is killed");
    tokio::task::spawn_blocking(move || child.wait()).await.expect("no panic").expect("waits");

    let kept = partial(&ingest);
    registry.take_log();
    wharf.run(&["pull", &name]).await.succeeded();
    let log = registry.take_log();
    let rest: Vec<_> = log.iter().filter(|record| record.range.is_some()).collect();
    assert_eq!(rest.len(), 1, "{log:?}");
    assert_eq!(rest[0].range.as_deref(), Some(format!("bytes={kept}-").as_str()), "it goes on where it was");
    assert_eq!(rest[0].status, 206);
    // What the first process had of it in memory, two batches at most, is all that is sent twice.
    let size = kept + rest[0].bytes;
    let served = 5 * MIB + log.iter().map(|record| record.bytes).sum::<u64>();
    assert!(size > 8 * MIB, "{size}");
    assert!(served <= size + 2 * MIB + 64 * 1024, "{served} bytes for {size}");
}

#[tokio::test(flavor = "multi_thread")]
async fn chunk_size_splits_what_is_longer() {
    let registry = TestRegistry::start().await;
    let name = registry.put("big:1", &large()).await.expect("puts");
    let wharf = Wharf::new();
    wharf.run(&["pull", "--platform", "linux/amd64", "--chunk-size", "3MiB", &name]).await.succeeded();
    let mut ranges: Vec<String> = registry.take_log().into_iter().filter_map(|record| record.range).collect();
    ranges.sort();
    assert_eq!(ranges.len(), 3, "{ranges:?}");
    assert_eq!(ranges[0], "bytes=0-3145727");
    assert_eq!(ranges[1], "bytes=3145728-6291455");
    assert!(ranges[2].starts_with("bytes=6291456-"), "{ranges:?}");
    wharf.run(&["verify"]).await.succeeded();

    for bad in ["0", "none", "-1"] {
        let refused = wharf.run(&["pull", &format!("--chunk-size={bad}"), &name]).await.failed(3);
        assert!(refused.contains("16MiB"), "{refused}");
    }
}
