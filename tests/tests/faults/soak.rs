//! Faults of every kind by seed: a pull or a push ends in success or in an error of a kind that callers are told of, keeps nothing that
//! is wrong, and succeeds when it is tried again and nothing interferes.

use std::{collections::BTreeMap, future::Future, time::Duration};

use tokio::task::JoinSet;
use wharf_content::{Error, ErrorKind, MemoryStore, Result, filter::FilterSet, read_blob};
use wharf_images::Selection;
use wharf_remotes::{
    PullOptions, RemoteError,
    registry::{RegistryResolver, RegistrySettings},
};
use wharf_tests::{Client, FaultProxy, ImageFixture, Layer, TestRegistry, fault_proxy::plan::Mixed};

use super::{BOUND, pull_into, push_from, settings};

const SEEDS: u64 = 60;
/// How many run at a time.
const TOGETHER: usize = 6;
const LAYER: usize = 12_000;

/// What a registry or the way to it can make of a pull or a push. An `Internal` or `InvalidArgument` would blame somebody else.
const KINDS: [ErrorKind; 6] = [
    ErrorKind::Unavailable,
    ErrorKind::FailedPrecondition,
    ErrorKind::ResourceExhausted,
    ErrorKind::Unauthenticated,
    ErrorKind::PermissionDenied,
    ErrorKind::NotFound,
];

fn image(seed: u64) -> ImageFixture {
    let layers = (0..3).map(|at| Layer::noise("data", LAYER, seed * 10 + at)).collect();
    ImageFixture::new().with("linux/amd64", layers)
}

/// Patience for what is slow, and none for what is silent.
fn hasty() -> RegistrySettings {
    settings().with_timeouts(Duration::from_secs(5), Duration::from_millis(250))
}

/// What the runs met: kinds of faults, and how the runs ended.
#[derive(Debug, Default)]
struct Met(BTreeMap<String, usize>);

impl Met {
    fn count(&mut self, what: impl Into<String>) {
        *self.0.entry(what.into()).or_default() += 1;
    }

    fn add<T>(&mut self, seed: u64, proxy: &FaultProxy, result: &Result<T>) {
        proxy.faults().into_iter().for_each(|kind| self.count(kind));
        match result {
            Ok(_) => self.count("success"),
            Err(error) => {
                assert_told(seed, error, proxy);
                self.count("error");
            }
        }
    }
}

/// An error names what happened: its kind is one of those, and who failed is in it.
fn assert_told(seed: u64, error: &Error, proxy: &FaultProxy) {
    let report = error.report();
    assert!(KINDS.contains(&error.kind()), "seed {seed}: {}: {report}", error.kind());
    let is_named = report.contains(&proxy.address()) || report.contains("sha256:");
    assert!(is_named || RemoteError::of(error).is_some(), "seed {seed}: {report}");
    // A machine that is busy with something else can be silent for that long too.
    let interfered = !proxy.faults().is_empty() || error.kind() == ErrorKind::Unavailable;
    assert!(interfered, "seed {seed} failed though nothing interfered: {report}");
}

/// Runs all seeds, some at a time, and gives what they met.
async fn soak<F: Future<Output = Met> + Send + 'static>(run: impl Fn(u64) -> F) -> Met {
    let (mut met, mut runs) = (Met::default(), JoinSet::new());
    let mut gather = |ended: Met| {
        ended.0.into_iter().for_each(|(what, count)| *met.0.entry(what).or_default() += count);
    };
    for seed in 0..SEEDS {
        if runs.len() >= TOGETHER {
            gather(runs.join_next().await.expect("one runs").expect("no panic"));
        }
        runs.spawn(run(seed));
    }
    while let Some(ended) = runs.join_next().await {
        gather(ended.expect("no panic"));
    }
    met
}

/// Fails unless the soak was one: faults of many kinds happened, and runs ended both ways.
fn assert_soaked(met: &Met, least: usize) {
    for what in ["success", "error"] {
        assert!(met.0.contains_key(what), "no {what} in {met:?}");
    }
    assert!(met.0.len() >= least + 2, "fewer than {least} kinds of fault: {met:?}");
}

async fn pull_with_faults(seed: u64) -> Met {
    let (registry, image) = (TestRegistry::start().await, image(seed));
    registry.put("soak:1", &image).await.expect("puts");
    let expected = image.write(&MemoryStore::new()).await.expect("writes").digest;
    let elsewhere = FaultProxy::start(&registry.address(), |_| None).await;
    let plan = Mixed::new(seed, LAYER as u64).with_elsewhere(&elsewhere.address()).plan();
    let proxy = FaultProxy::start(&registry.address(), plan).await;
    let (client, name) = (Client::new().await, proxy.reference("soak:1"));

    let mut met = Met::default();
    let resolver = RegistryResolver::new(hasty());
    let options = || PullOptions::new().with_selection(Selection::all());
    let work = wharf_remotes::pull(client.store(), client.images.as_ref(), &resolver, &name, options());
    let result = tokio::time::timeout(BOUND, work).await.expect("bounded in time");
    met.add(seed, &proxy, &result);
    assert_eq!(
        client.images.list(&FilterSet::all()).await.expect("lists").len(),
        usize::from(result.is_ok())
    );
    assert!(client.verify().await.is_clean(), "seed {seed}");
    if let Ok(image) = &result {
        assert_eq!(image.target.digest, expected, "seed {seed}");
    }

    proxy.calm();
    let image = client.pull(&name, options()).await;
    let image = image.unwrap_or_else(|error| panic!("seed {seed}, again: {}", error.report()));
    assert_eq!(image.target.digest, expected, "seed {seed}");
    assert_eq!(client.blobs().await.len(), 5, "seed {seed}");
    assert!(client.verify().await.is_clean(), "seed {seed}");
    met
}

#[tokio::test]
async fn pulls_end_well_or_in_an_error_and_succeed_later() {
    let met = soak(pull_with_faults).await;
    assert_soaked(&met, 10);
}

async fn push_with_faults(seed: u64) -> Met {
    let registry = TestRegistry::start().await;
    let proxy = FaultProxy::start(&registry.address(), Mixed::new(seed, LAYER as u64).plan()).await;
    let (store, image) = super::origin(&image(seed)).await;
    let name = proxy.reference("soak:1");

    let mut met = Met::default();
    let result = push_from(hasty(), store.clone(), &image, &name).await;
    met.add(seed, &proxy, &result);
    let recorded = registry.image(&name).await;
    // An answer that is lost leaves the image there and the push without success; never the other way.
    assert!(result.is_err() || recorded.is_ok(), "seed {seed}");
    if let Ok(recorded) = recorded {
        // What has a name is whole.
        assert_eq!(recorded.target.digest, image.target.digest, "seed {seed}");
        let pulled = pull_into(std::sync::Arc::new(MemoryStore::new()), &registry.reference("soak:1")).await;
        pulled.unwrap_or_else(|error| panic!("seed {seed}: {}", error.report()));
    }

    proxy.calm();
    let again = push_from(settings(), store.clone(), &image, &name).await;
    again.unwrap_or_else(|error| panic!("seed {seed}, again: {}", error.report()));
    let there = read_blob(registry.store(), &image.target, 1 << 20).await.expect("arrived");
    assert_eq!(there, read_blob(store.as_ref(), &image.target, 1 << 20).await.expect("reads"));
    met
}

#[tokio::test]
async fn pushes_end_well_or_in_an_error_and_succeed_later() {
    let met = soak(push_with_faults).await;
    assert_soaked(&met, 4);
}
