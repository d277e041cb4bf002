//! `cargo xtask fuzz`: the targets of `tests/fuzz`, built with the stable compiler and run for a while each.
//!
//! cargo-fuzz wants the nightly compiler for its sanitizers. Coverage needs none of them: LLVM's own pass puts in the counters, and
//! libFuzzer is linked from source. `cargo fuzz run --fuzz-dir tests/fuzz NAME` runs the same targets with sanitizers.
//!
//! ```text
//! target/fuzz/HOST/release/NAME   the programs
//! target/fuzz/seeds/NAME          what each begins with, made anew by the target itself
//! target/fuzz/corpus/NAME         what led to new places, kept for the next run
//! target/fuzz/artifacts/NAME      inputs that broke something, kept until somebody removes them
//! ```

mod campaign;
mod target;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::cargo::Workspace;
use crate::failure::{Context, Result, ensure};
use crate::process::Tool;
use crate::programs;

use campaign::Campaign;
use target::Target;

/// How many targets run at a time unless somebody says otherwise.
pub(crate) const JOBS: usize = 2;

/// What makes the compiler count where a program goes, and tell libFuzzer what it compares.
const INSTRUMENTATION: &str = "--cfg fuzzing \
    -C passes=sancov-module \
    -C llvm-args=-sanitizer-coverage-level=4 \
    -C llvm-args=-sanitizer-coverage-inline-8bit-counters \
    -C llvm-args=-sanitizer-coverage-pc-table \
    -C llvm-args=-sanitizer-coverage-trace-compares";

/// How the targets run.
#[derive(Debug)]
pub(crate) struct Options {
    /// The names of the targets; none for all.
    pub(crate) targets: Vec<String>,
    /// How long each runs.
    pub(crate) each: Duration,
    /// Where randomness begins; by the clock if it is not said.
    pub(crate) seed: Option<u32>,
    /// How many run at a time.
    pub(crate) jobs: usize,
}

/// Where everything of the targets is.
#[derive(Debug)]
struct Place {
    /// The package.
    package: PathBuf,
    /// Where it is built, and what the runs leave.
    target: PathBuf,
    /// The triple of this machine.
    host: String,
}

impl Place {
    fn find(workspace: &Workspace) -> Result<Self> {
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let version = Tool::new(rustc).arg("-vV").text()?;
        let host = version.lines().find_map(|line| line.strip_prefix("host: "));
        Ok(Self {
            package: workspace.root.join("tests/fuzz"),
            target: workspace.target.join("fuzz"),
            host: host.context("rustc -vV does not name its host")?.to_owned(),
        })
    }

    /// A call of cargo that compiles the package with instrumentation. What runs while compiling is built for the named host, too, and
    /// therefore without it.
    fn compile(&self, workspace: &Workspace, what: &[&str]) -> Tool {
        let manifest = self.package.join("Cargo.toml");
        let (tool, target) = (workspace.cargo().args(what), &self.target);
        tool.arg("--manifest-path")
            .arg(manifest)
            .arg("--target-dir")
            .arg(target)
            .args(["--release", "--locked", "--target", &self.host])
            .env("RUSTFLAGS", INSTRUMENTATION)
            .without("CARGO_ENCODED_RUSTFLAGS")
    }

    fn program(&self, name: &str) -> PathBuf {
        self.target.join(&self.host).join("release").join(name)
    }
}

/// Checks the sources of the targets: their format, and what clippy says. The workspace's own checks do not see them.
pub(crate) fn check() -> Result<()> {
    programs::require(programs::FUZZ, true)?;
    let workspace = Workspace::find()?;
    let place = Place::find(&workspace)?;
    let manifest = place.package.join("Cargo.toml");
    workspace.cargo().args(["fmt", "--check", "--manifest-path"]).arg(manifest).pass_through()?;
    let clippy = place.compile(&workspace, &["clippy", "--lib", "--bins"]);
    clippy.args(["--", "-D", "warnings"]).pass_through()
}

/// Builds the targets and runs them.
pub(crate) fn run(options: &Options) -> Result<()> {
    programs::require(programs::FUZZ, true)?;
    run_in(&Workspace::find()?, options)
}

/// Builds the targets and runs them, where what is needed has been seen to.
///
/// # Errors
/// What broke, with the inputs that broke it; a target that did next to nothing.
pub(crate) fn run_in(workspace: &Workspace, options: &Options) -> Result<()> {
    let targets = target::choose(&options.targets)?;
    let place = Place::find(workspace)?;
    let mut build = place.compile(workspace, &["build"]);
    for target in &targets {
        build = build.args(["--bin", target.name]);
    }
    build.pass_through()?;
    // 0 would leave the choice to libFuzzer.
    let seed = options.seed.unwrap_or_else(by_the_clock).max(1);
    let failures = at_a_time(options.jobs, &targets, |target| {
        Campaign::prepare(&place, target).and_then(|campaign| campaign.run(options.each, seed))
    });
    ensure(failures.is_empty(), || failures.join("\n  "))
}

fn by_the_clock() -> u32 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u32::try_from(since.as_secs() & u64::from(u32::MAX)).unwrap_or(1)
}

/// Does something for each target, so many at a time, and tells what came of it; gives what failed.
fn at_a_time(
    jobs: usize,
    targets: &[&'static Target],
    run: impl Fn(&'static Target) -> Result<String> + Sync,
) -> Vec<String> {
    let left: Mutex<VecDeque<_>> = Mutex::new(targets.iter().copied().collect());
    let failures = Mutex::new(Vec::new());
    let next = || left.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    thread::scope(|scope| {
        for _ in 0..jobs.clamp(1, targets.len().max(1)) {
            scope.spawn(|| {
                while let Some(target) = next() {
                    match run(target) {
                        Ok(told) => println!("  {told}"),
                        Err(failure) => failures
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .push(format!("{}: {failure}", target.name)),
                    }
                }
            });
        }
    });
    failures.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// A path as it is short to type from the workspace.
fn shown(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(here).unwrap_or(path).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Failure;

    #[test]
    fn every_target_runs_and_every_failure_is_told() {
        let targets = target::choose(&[]).unwrap();
        let ran = Mutex::new(0);
        let mut failures = at_a_time(2, &targets, |target| {
            *ran.lock().unwrap() += 1;
            match target.name {
                "hosts" | "reference" => Err(Failure::new("broke")),
                name => Ok(name.to_owned()),
            }
        });
        failures.sort();
        assert_eq!(*ran.lock().unwrap(), targets.len());
        assert_eq!(failures, ["hosts: broke", "reference: broke"]);
    }
}
