//! `cargo xtask bench pull`: wharf, curl and skopeo take the same image from the same registry on loopback, in
//! turn, so that whatever the machine is doing besides weighs on all of them alike. Medians are compared.
//!
//! `cargo xtask bench store` and `bench graph` are in files of their own.
//!
//! The figures are printed beside their targets and judged by whoever reads them: a busy machine is no reason for
//! a task to fail.

mod figures;
mod graph;
mod graph_figures;
mod store;
mod store_figures;

pub(crate) use graph::graph;
pub(crate) use store::store;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cargo::Workspace;
use crate::failure::{Context, Result, ensure};
use crate::process::Tool;
use crate::programs;
use crate::random;
use crate::registry::{Registry, http};
use crate::scratch::Scratch;

use figures::{Sample, report};

/// The layers, in bytes of noise: 365 MB.
const LAYERS: &[u64] = &[128_000_000, 96_000_000, 72_000_000, 48_000_000, 21_000_000];

/// Repository and tag of the image.
const REPOSITORY: &str = "bench/noise";
const TAG: &str = "365";

/// How often `wharf version` runs for each round.
const VERSIONS: u32 = 10;

/// One program that is measured, on an empty directory of its own.
type Contender = fn(&Bench, &Path) -> Result<Sample>;

/// What is compared, by name.
const CONTENDERS: &[(&str, Contender)] = &[("wharf", wharf), ("curl", curl), ("skopeo", skopeo)];

#[derive(Debug)]
struct Bench {
    wharf: PathBuf,
    registry: Registry,
    blobs: Vec<String>,
    scratch: Scratch,
}

/// Measures, and prints what came out.
pub(crate) fn pull(rounds: u32, program: Option<&Path>) -> Result<()> {
    programs::require(programs::BENCH, true)?;
    let workspace = Workspace::find()?;
    let wharf = workspace.wharf(program)?;
    // Beside what cargo builds, for there the disk is a real one.
    let directory = workspace.target.join("bench");
    fs::create_dir_all(&directory).context(directory.display())?;
    let scratch = Scratch::within(&directory, "run")?;
    let storage = prepare(&directory)?;
    let registry = Registry::start(&storage, &scratch.dir("registry")?)?;
    let blobs = blobs(&registry)?;
    let bench = Bench { wharf, registry, blobs, scratch };

    let mut samples: Vec<Vec<Sample>> = CONTENDERS.iter().map(|_| Vec::new()).collect();
    let mut versions = Vec::new();
    // Round 0 warms the page cache and is not counted.
    for round in 0..=rounds {
        for turn in 0..CONTENDERS.len() {
            // Another one begins in every round.
            let which = (turn + round as usize) % CONTENDERS.len();
            let (name, contender) = CONTENDERS[which];
            let place = bench.scratch.dir(name)?;
            let sample = contender(&bench, &place)?;
            fs::remove_dir_all(&place).context(place.display())?;
            if round > 0 {
                samples[which].push(sample);
            }
        }
        if round > 0 {
            versions.extend((0..VERSIONS).map(|_| version(&bench)).collect::<Result<Vec<_>>>()?);
        }
    }
    print!("{}", report(&samples[0], &samples[1], &samples[2], &versions));
    Ok(())
}

/// The registry's storage with the image in it; made once and kept.
fn prepare(directory: &Path) -> Result<PathBuf> {
    let storage = directory.join("registry");
    let done = directory.join("registry.done");
    if done.exists() {
        return Ok(storage);
    }
    println!("making the image, once");
    if storage.exists() {
        fs::remove_dir_all(&storage).context(storage.display())?;
    }
    let work = Scratch::within(directory, "make")?;
    let layout = work.path().join("layout");
    let image = format!("{}:noise", layout.display());
    Tool::new("umoci").args(["init", "--layout"]).arg(&layout).success()?;
    Tool::new("umoci").args(["new", "--image", &image]).success()?;
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let platform = ["--os", "linux", "--architecture", architecture];
    Tool::new("umoci").args(["config", "--image", &image]).args(platform).success()?;
    for (number, length) in (1..).zip(LAYERS) {
        let file = work.path().join("noise");
        random::write(&file, *length, number)?;
        let insert = Tool::new("umoci").args(["insert", "--image", &image]).arg(&file);
        insert.arg(format!("/noise-{number}")).success()?;
    }
    let registry = Registry::start(&storage, work.path())?;
    let target = format!("docker://{}", registry.image(&format!("{REPOSITORY}:{TAG}")));
    skopeo_tool(work.path()).args(["--dest-tls-verify=false", &format!("oci:{image}"), &target]).success()?;
    drop(registry);
    fs::write(&done, "").context(done.display())?;
    Ok(storage)
}

/// The paths of the blobs, config first, as the manifest has them.
fn blobs(registry: &Registry) -> Result<Vec<String>> {
    let manifest = http::get_manifest(registry.port(), REPOSITORY, TAG)?;
    let manifest: Value = serde_json::from_slice(&manifest).context("the manifest")?;
    let layers = manifest["layers"].as_array().context("the manifest has no layers")?;
    ensure(layers.len() == LAYERS.len(), || format!("{} layers", layers.len()))?;
    let digests = std::iter::once(&manifest["config"]).chain(layers).map(|blob| blob["digest"].as_str());
    let paths = digests.map(|digest| Some(format!("/v2/{REPOSITORY}/blobs/{}", digest?)));
    paths.collect::<Option<_>>().context("the manifest lacks a digest")
}

fn wharf(bench: &Bench, place: &Path) -> Result<Sample> {
    let mut command = Command::new(&bench.wharf);
    command.arg("--root").arg(place.join("root")).args(["--progress", "none", "pull"]);
    command.arg(bench.registry.image(&format!("{REPOSITORY}:{TAG}")));
    measure(&bench.scratch.path().join("errors"), command)
}

/// One curl for all blobs: it keeps its connection, and is the faster for it.
fn curl(bench: &Bench, place: &Path) -> Result<Sample> {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--fail"]);
    for (number, blob) in bench.blobs.iter().enumerate() {
        command.arg("--output").arg(place.join(number.to_string())).arg(bench.registry.url(blob));
    }
    measure(&bench.scratch.path().join("errors"), command)
}

fn skopeo(bench: &Bench, place: &Path) -> Result<Sample> {
    let source = format!("docker://{}", bench.registry.image(&format!("{REPOSITORY}:{TAG}")));
    let target = format!("oci:{}:copy", place.join("layout").display());
    let tool = skopeo_tool(place).args(["--src-tls-verify=false", &source, &target]);
    measure(&bench.scratch.path().join("errors"), tool.into_command())
}

fn skopeo_tool(home: &Path) -> Tool {
    Tool::new("skopeo").env("HOME", home).args(["--insecure-policy", "copy", "--quiet"])
}

fn version(bench: &Bench) -> Result<Duration> {
    let mut command = Command::new(&bench.wharf);
    command.arg("version");
    Ok(measure(&bench.scratch.path().join("errors"), command)?.time)
}

/// Runs a program to its end. The high-water mark of its memory is the kernel's own (`VmHWM`), read while it runs:
/// it only ever grows, so that all that can be missed is what happens in the last millisecond. What it says on
/// standard error goes to the file `log`.
fn measure(log: &Path, mut command: Command) -> Result<Sample> {
    let shown = format!("{command:?}");
    command.env("NO_PROXY", "127.0.0.1").env("no_proxy", "127.0.0.1");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(log).context(log.display())?);
    let started = Instant::now();
    let mut child = command.spawn().context(&shown)?;
    let done = Arc::new(AtomicBool::new(false));
    let watcher = {
        let (done, status) = (Arc::clone(&done), format!("/proc/{}/status", child.id()));
        thread::spawn(move || watch(Path::new(&status), &done))
    };
    let status = child.wait().context(&shown)?;
    let time = started.elapsed();
    done.store(true, Ordering::Relaxed);
    let peak = watcher.join().unwrap_or_default();
    ensure(status.success(), || {
        format!("{shown}: {status}\n{}", fs::read_to_string(log).unwrap_or_default())
    })?;
    Ok(Sample { time, peak })
}

/// The largest resident set seen until `done`, in bytes.
fn watch(status: &Path, done: &AtomicBool) -> u64 {
    let mut peak = 0;
    while !done.load(Ordering::Relaxed) {
        // The file is gone, or has no such line, once the program has ended.
        let found = fs::read_to_string(status).ok().and_then(|text| figures::high_water(&text));
        peak = peak.max(found.unwrap_or_default());
        thread::sleep(Duration::from_millis(1));
    }
    peak
}
