//! The conformance suite against the stores of this crate, and against stores of which each has a fault.

#[path = "conformance/faulty.rs"]
mod faulty;
#[path = "conformance/faulty_writer.rs"]
mod faulty_writer;

use std::collections::BTreeSet;

use faulty::{FAULTS, Faulty};
use wharf_content::{
    LocalStore, MemoryStore, Store, conformance,
    local::{Durability, LocalOptions},
};

#[tokio::test]
async fn the_memory_store_keeps_its_promises() {
    conformance::assert_conformant(|| async { Ok(MemoryStore::new()) }).await;
}

/// Opens a new store below `dir` each time.
fn fresh(dir: &tempfile::TempDir, count: &mut u32) -> std::path::PathBuf {
    *count += 1;
    dir.path().join(count.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_local_store_keeps_its_promises() {
    let (dir, mut count) = (tempfile::tempdir().expect("temporary directory"), 0);
    conformance::assert_conformant(|| LocalStore::open(fresh(&dir, &mut count))).await;
}

/// What SQLite is told of the connection of a store: 0 is off, 2 is full.
async fn synchronous(store: &LocalStore) -> u32 {
    let metadata = store.metadata().expect("has a database");
    let read =
        metadata.read(|connection| Ok(connection.pragma_query_value(None, "synchronous", |row| row.get(0))?));
    read.await.expect("reads")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_syncs_nothing_keeps_its_promises_too() {
    let (dir, mut count) = (tempfile::tempdir().expect("temporary directory"), 0);
    let options = LocalOptions::default().with_durability(Durability::None);
    conformance::assert_conformant(|| LocalStore::open_with(fresh(&dir, &mut count), options.clone())).await;

    let store = LocalStore::open_with(fresh(&dir, &mut count), options).await.expect("opens");
    assert_eq!(synchronous(&store).await, 0);
    // It is a matter of the handle and not of the store.
    assert_eq!(synchronous(&LocalStore::open(store.root()).await.expect("opens")).await, 2);
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
    let report = conformance::run(|| async { Ok(MemoryStore::new()) }).await;
    let promises: BTreeSet<_> = report.outcomes().iter().map(|outcome| outcome.name).collect();
    let faults: BTreeSet<_> = FAULTS.iter().map(|(_, promise)| *promise).collect();
    assert_eq!(promises, faults);
}
