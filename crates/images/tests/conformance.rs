//! The conformance suite against the stores of this crate, and against stores of which each has a fault.

#[path = "conformance/faulty.rs"]
mod faulty;

use std::collections::BTreeSet;

use faulty::{FAULTS, Faulty};
use wharf_content::{LocalStore, Store};
use wharf_images::{MemoryImages, SqliteImages, conformance};

#[tokio::test]
async fn the_records_in_memory_keep_their_promises() {
    conformance::assert_conformant(|| async { Ok(MemoryImages::new()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_records_of_a_local_store_keep_their_promises() {
    let (dir, mut count) = (tempfile::tempdir().expect("temporary directory"), 0);
    conformance::assert_conformant(|| {
        count += 1;
        let root = dir.path().join(count.to_string());
        async move {
            let store = LocalStore::open(root).await?;
            SqliteImages::open(store.metadata().expect("because local stores have a database").clone())
        }
    })
    .await;
}

/// The names of the promises that a store with a fault breaks.
async fn broken(fault: faulty::Fault) -> Vec<(&'static str, Option<String>)> {
    let report = conformance::run(|| async { Ok(Faulty::new(fault)) }).await;
    report.failures().map(|outcome| (outcome.name, outcome.failure.clone())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_breaks_its_promise_and_no_other() {
    let runs: Vec<_> =
        FAULTS.iter().map(|&(fault, promise)| (fault, promise, tokio::spawn(broken(fault)))).collect();
    let mut wrong = Vec::new();
    for (fault, promise, run) in runs {
        let broken = run.await.expect("no panic");
        if broken.iter().map(|(name, _)| *name).ne([promise]) {
            wrong.push(format!("{fault:?} is to break {promise} alone, and breaks {broken:#?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn there_is_a_fault_for_each_promise() {
    let report = conformance::run(|| async { Ok(MemoryImages::new()) }).await;
    let promises: BTreeSet<_> = report.outcomes().iter().map(|outcome| outcome.name).collect();
    let faults: BTreeSet<_> = FAULTS.iter().map(|(_, promise)| *promise).collect();
    assert_eq!(promises, faults);
}

#[tokio::test]
#[should_panic(expected = "FAIL  create-once: creating a record of a name that is taken")]
async fn a_fault_fails_the_test_of_a_third_party() {
    conformance::assert_conformant(|| async { Ok(Faulty::new(faulty::Fault::CreateOverwrites)) }).await;
}
