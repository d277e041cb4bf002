//! `cargo xtask bench graph`: what walking and dispatching a large graph takes, how graphs of absurd shape end, and what our decoder of
//! manifests takes beside oci-spec's type. A small program that uses the library (`tests/src/bin/bench_graph.rs`) does it in memory.
//!
//! As with the other benchmarks, figures are printed beside their targets and fail nothing.

use std::path::Path;
use std::time::Duration;

use super::graph_figures::{Shape, pairs, report, shapes};
use crate::cargo::Workspace;
use crate::failure::Result;
use crate::process::Tool;

/// The manifests of the index; the other index has twice as many.
const MANIFESTS: u32 = 10_000;

/// The layers of the manifest that is decoded.
const LAYERS: u32 = 1_000;

/// How long one run of the program may take.
const LIMIT: Duration = Duration::from_secs(600);

/// Measures, and prints what came out.
pub(crate) fn graph(rounds: u32) -> Result<()> {
    let program = Workspace::find()?.build_bench_graph()?;
    println!("an index of {MANIFESTS} manifests with three children each, and one of twice as many");
    let mut small = Vec::new();
    let mut large = Vec::new();
    // In turn, so that whatever the machine is doing besides weighs on both.
    for _ in 0..rounds {
        small.extend(pairs(&run(&program, &["visit", &MANIFESTS.to_string(), "1"])?)?);
        large.extend(pairs(&run(&program, &["visit", &(2 * MANIFESTS).to_string(), "1"])?)?);
    }
    let shapes: Vec<Shape> = shapes(&run(&program, &["shapes"])?)?;
    let decode = pairs(&run(&program, &["decode", &LAYERS.to_string(), &(4 * rounds).to_string()])?)?;
    print!("{}", report(&small, &large, &shapes, &decode));
    Ok(())
}

fn run(program: &Path, arguments: &[&str]) -> Result<String> {
    Tool::new(program).args(arguments).limit(LIMIT).text()
}
