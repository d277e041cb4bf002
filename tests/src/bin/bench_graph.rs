//! Goes through graphs in memory and decodes a large manifest: the part of `cargo xtask bench graph` that has to use the library.
//!
//! It measures and prints; what the figures should be is xtask's. Where two figures are compared they are seconds of processor time, or a
//! busy machine would weigh on the longer of the two the more.
//!
//! ```text
//! bench_graph visit COUNT ROUNDS     an index of COUNT manifests with three children each; a line for each round: seconds of a walk and
//!                                    of a dispatch
//! bench_graph shapes                 a diamond of 2^40 paths and a chain of 10,000 with and without the limit on depth; a line for
//!                                    each: name, nodes visited, how it ended, seconds
//! bench_graph decode LAYERS ROUNDS   a manifest; a line for each round: seconds of our decoder and of oci-spec's type
//! ```
#![expect(clippy::print_stdout, reason = "the figures are what it is run for")]

use std::{
    error::Error,
    hint::black_box,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use oci_spec::image::ImageManifest;
use serde_json::{Value, json};
use wharf_content::{Catalogue, Descriptor, ErrorKind, MemoryStore};
use wharf_images::{
    Children, Handler, Limits, decode::ManifestDecoders, dispatch, handler::handler_fn, media_types as types,
    walk,
};
use wharf_tests::image::put;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// How often a manifest is decoded for one figure.
const DECODES: u32 = 50;

const USAGE: &str = "usage: bench_graph visit COUNT ROUNDS | shapes | decode LAYERS ROUNDS";

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["visit", count, rounds] => visit(count.parse()?, rounds.parse()?).await,
        ["shapes"] => shapes().await,
        ["decode", layers, rounds] => decode(layers.parse()?, rounds.parse()?),
        _ => Err(USAGE.into()),
    }
}

async fn put_json(store: &MemoryStore, media_type: &str, document: &Value) -> Result<Descriptor> {
    Ok(put(store, media_type, serde_json::to_vec(document)?).await?)
}

async fn put_index(store: &MemoryStore, manifests: &[Descriptor]) -> Result<Descriptor> {
    put_json(store, types::OCI_INDEX, &json!({ "schemaVersion": 2, "manifests": manifests })).await
}

fn leaf(media_type: &str, name: &str) -> Descriptor {
    Descriptor::of(media_type, name.as_bytes())
}

async fn visit(count: usize, rounds: u32) -> Result<()> {
    let store = MemoryStore::new();
    let mut manifests = Vec::with_capacity(count);
    for number in 0..count {
        let layers = ["a", "b"].map(|name| leaf(types::OCI_LAYER_GZIP, &format!("{name}{number}")));
        let config = leaf(types::OCI_CONFIG, &number.to_string());
        let manifest = json!({ "schemaVersion": 2, "config": config, "layers": layers });
        manifests.push(put_json(&store, types::OCI_MANIFEST, &manifest).await?);
    }
    let root = put_index(&store, &manifests).await?;
    let nodes = 1 + 4 * count;
    // The first round warms up.
    for round in 0..=rounds {
        let (counter, children) = counting(&store);
        let begun = processor_time()?;
        walk(children.as_ref(), std::slice::from_ref(&root), Limits::default()).await?;
        let walked = processor_time()? - begun;
        expect(nodes, counter.swap(0, Ordering::Relaxed))?;
        let begun = processor_time()?;
        dispatch(children, vec![root.clone()], None, Limits::default()).await?;
        let dispatched = processor_time()? - begun;
        expect(nodes, counter.load(Ordering::Relaxed))?;
        if round > 0 {
            println!("{walked:.6} {dispatched:.6}");
        }
    }
    Ok(())
}

/// The processor time of all threads so far, in seconds (Linux, `Documentation/scheduler/sched-stats.rst`).
fn processor_time() -> Result<f64> {
    let mut nanoseconds = 0.0;
    for task in std::fs::read_dir("/proc/self/task")? {
        let stat = std::fs::read_to_string(task?.path().join("schedstat"))?;
        nanoseconds += stat.split(' ').next().unwrap_or_default().parse::<f64>()?;
    }
    Ok(nanoseconds / 1e9)
}

fn expect(nodes: usize, visited: usize) -> Result<()> {
    if nodes == visited { Ok(()) } else { Err(format!("{visited} nodes were visited, not {nodes}").into()) }
}

/// The children of whatever is in the store, counted.
fn counting(store: &MemoryStore) -> (Arc<AtomicUsize>, Arc<dyn Handler>) {
    let counter = Arc::new(AtomicUsize::new(0));
    let (counted, children) = (Arc::clone(&counter), Arc::new(Children::new(Arc::new(store.clone()))));
    let handler = handler_fn(move |descriptor: Descriptor| {
        counted.fetch_add(1, Ordering::Relaxed);
        let children = Arc::clone(&children);
        async move { children.handle(&descriptor).await }
    });
    (counter, Arc::new(handler))
}

async fn shapes() -> Result<()> {
    let store = MemoryStore::new();
    let mut diamond = put_index(&store, &[]).await?;
    for level in 0..40 {
        let twin = diamond.clone().with_annotation("way", level.to_string());
        diamond = put_index(&store, &[diamond, twin]).await?;
    }
    let mut chain = put_index(&store, &[]).await?;
    for _ in 0..10_000 {
        chain = put_index(&store, &[chain]).await?;
    }
    let deep = Limits::default().with_max_depth(10_000);
    for (name, root, limits) in [
        ("diamond", &diamond, Limits::default()),
        ("chain", &chain, Limits::default()),
        ("chain-allowed", &chain, deep),
    ] {
        for parallel in [false, true] {
            let (counter, children) = counting(&store);
            let begun = Instant::now();
            let outcome = if parallel {
                dispatch(children, vec![root.clone()], None, limits).await
            } else {
                walk(children.as_ref(), std::slice::from_ref(root), limits).await
            };
            let seconds = begun.elapsed().as_secs_f64();
            let ended = match outcome {
                Ok(()) => "visited",
                Err(error) if error.kind() == ErrorKind::ResourceExhausted => "refused",
                Err(error) => return Err(error.into()),
            };
            println!("{name} {} {ended} {seconds:.6}", counter.load(Ordering::Relaxed));
        }
    }
    Ok(())
}

fn decode(layers: usize, rounds: u32) -> Result<()> {
    let layers: Vec<_> = (0..layers).map(|number| leaf(types::OCI_LAYER_GZIP, &number.to_string())).collect();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": types::OCI_MANIFEST, "config": leaf(types::OCI_CONFIG, "c"), "layers": layers,
    });
    let bytes = serde_json::to_vec(&manifest)?;
    let descriptor = Descriptor::of(types::OCI_MANIFEST, &bytes);
    let decoder = Catalogue::linked().find::<ManifestDecoders>(types::OCI_MANIFEST)?.ok_or("no decoder")?;
    // The first round warms up.
    for round in 0..=rounds {
        let begun = processor_time()?;
        for _ in 0..DECODES {
            let decoded = decoder.decode(&descriptor, black_box(&bytes))?;
            expect(1 + layers.len(), black_box(decoded).children.len())?;
        }
        let ours = (processor_time()? - begun) / f64::from(DECODES);
        let begun = processor_time()?;
        for _ in 0..DECODES {
            let manifest: ImageManifest = serde_json::from_slice(black_box(&bytes))?;
            expect(layers.len(), black_box(manifest).layers().len())?;
        }
        let theirs = (processor_time()? - begun) / f64::from(DECODES);
        if round > 0 {
            println!("{ours:.9} {theirs:.9}");
        }
    }
    Ok(())
}
