//! The conformance suite of transports against the registry in memory, and against registries of which each has a fault.

#[path = "transport/faulty.rs"]
mod faulty;

use std::collections::BTreeSet;

use faulty::{FAULTS, Fault, Faulty};
use wharf_images::{
    conformance::transport::{self, Subject},
    transport::MemoryRegistry,
};

async fn in_memory() -> wharf_content::Result<Subject> {
    Ok(Subject::new(MemoryRegistry::new(), "registry.example"))
}

#[tokio::test]
async fn the_registry_in_memory_keeps_its_promises() {
    transport::assert_conformant(in_memory).await;
}

/// The names of the promises that a registry with a fault breaks.
async fn broken(fault: Fault) -> Vec<(&'static str, Option<String>)> {
    let report = transport::run(|| async { Ok(Subject::new(Faulty::new(fault), "registry.example")) }).await;
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
    let report = transport::run(in_memory).await;
    let promises: BTreeSet<_> = report.outcomes().iter().map(|outcome| outcome.name).collect();
    let faults: BTreeSet<_> = FAULTS.iter().map(|(_, promise)| *promise).collect();
    assert_eq!(promises, faults);
}

#[tokio::test]
async fn what_need_not_be_offered_need_not_be_there() {
    let make = || async { Ok(Subject::new(Faulty::new(Fault::OffersLess), "registry.example")) };
    transport::assert_conformant(make).await;
}

#[tokio::test]
#[should_panic(expected = "FAIL  delete-tag: deleting a tag takes that name alone")]
async fn a_fault_fails_the_test_of_a_third_party() {
    transport::assert_conformant(|| async {
        Ok(Subject::new(Faulty::new(Fault::DeletesManifests), "registry.example"))
    })
    .await;
}
