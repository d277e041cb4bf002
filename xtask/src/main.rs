//! `cargo xtask`: everything a developer of wharf runs. This file reads the command line and dispatches.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "what these commands have to say goes to the terminal of the developer who runs them"
)]

mod bench;
mod cargo;
mod debian;
mod failure;
mod fuzz;
mod integration;
mod process;
mod programs;
mod random;
mod registry;
mod scratch;
mod tidy;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::failure::Failure;

/// Everything a developer of wharf runs.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
struct Arguments {
    #[command(subcommand)]
    command: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Runs every test that needs no system package.
    Test,
    /// Builds wharf and shows it at work on a registry of its own.
    Demo,
    /// Checks the rules of the workspace: layers, dependencies, files, licences, packages.
    Tidy,
    /// Checks wharf against docker-registry, skopeo, umoci and containerd.
    Integration {
        /// Leaves the temporary directory of the run where it is, and names it.
        #[arg(long)]
        keep: bool,
        /// Kills this many processes at least, where processes are killed.
        #[arg(long, value_name = "N", default_value_t = 220)]
        kills: u32,
        /// Runs the loops that get into each other's way for this long.
        #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
        seconds: u64,
        /// Runs each fuzz target for this long.
        #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86400))]
        fuzz_seconds: u64,
        /// Runs only the steps whose name contains this.
        #[arg(long, value_name = "NAME")]
        only: Option<String>,
        /// Installs nothing; fails if something is missing.
        #[arg(long)]
        skip_install: bool,
        /// Checks this program instead of building one.
        #[arg(long, value_name = "FILE")]
        wharf: Option<PathBuf>,
    },
    /// Builds the fuzz targets with the stable compiler and runs each for a while.
    Fuzz {
        /// Runs this target, and others that are named; all of them if none is.
        #[arg(long = "target", value_name = "NAME")]
        targets: Vec<String>,
        /// Runs each target for this long.
        #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86400))]
        seconds: u64,
        /// Begins randomness here; by the clock if it is not said.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        seed: Option<u32>,
        /// Runs this many targets at a time.
        #[arg(long, value_name = "N", default_value_t = fuzz::JOBS)]
        jobs: usize,
        /// Runs nothing, but checks the sources of the targets: their format, and what clippy says.
        #[arg(long, conflicts_with_all = ["targets", "seconds", "seed", "jobs"])]
        check: bool,
    },
    /// Compares wharf with other programs on the same machine.
    Bench {
        #[command(subcommand)]
        what: Bench,
    },
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// Pulls images of three shapes from a registry on loopback: wharf, curl, skopeo and ctr in turn.
    Pull(Moving),
    /// Pushes them to a registry on loopback: wharf and skopeo in turn.
    Push(Moving),
    /// Copies them from one registry on loopback to another: wharf and skopeo in turn.
    Copy(Moving),
    /// Exports them to an archive: wharf from a store and skopeo from a layout, in turn.
    Export(Moving),
    /// Imports them from an archive: wharf into a store and skopeo into a layout, in turn.
    Import(Moving),
    /// Pulls and unpacks the Debian image beside ctr, umoci and tar, and unpacks what is hard to unpack.
    Unpack(Moving),
    /// Sends blobs and manifests to a client that costs little: wharf serve and docker-registry in turn.
    Serve {
        /// How often each server is asked; the medians are compared.
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
        rounds: u32,
        /// Asks only for what contains this, such as "manifests".
        #[arg(long, value_name = "TEXT")]
        only: Option<String>,
        /// Measures this program instead of building one.
        #[arg(long, value_name = "FILE")]
        wharf: Option<PathBuf>,
    },
    /// Commits many small blobs and a large one, beside sha256sum and cp, and looks through 100,000.
    Store {
        /// How often the large file is taken by each contender; the medians are compared.
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
        rounds: u32,
        /// Measures this program instead of building one, where the program itself is measured.
        #[arg(long, value_name = "FILE")]
        wharf: Option<PathBuf>,
    },
    /// Walks and dispatches large and absurd graphs in memory, and decodes a large manifest.
    Graph {
        /// How often everything is done; the medians are compared.
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
        rounds: u32,
    },
}

/// How images are moved.
#[derive(Debug, clap::Args)]
struct Moving {
    /// How often each program runs; the medians are compared.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Moves only the images whose description contains this, such as "1 GiB".
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Measures this program instead of building one.
    #[arg(long, value_name = "FILE")]
    wharf: Option<PathBuf>,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Task::Test => cargo::test(),
        Task::Demo => cargo::demo(),
        Task::Tidy => tidy::run(),
        Task::Integration { keep, kills, seconds, fuzz_seconds, only, skip_install, wharf } => {
            let (loops, fuzz) = (Duration::from_secs(seconds), Duration::from_secs(fuzz_seconds));
            integration::run(&integration::Options { keep, kills, loops, fuzz, only, skip_install, wharf })
        }
        Task::Fuzz { check: true, .. } => fuzz::check(),
        Task::Fuzz { targets, seconds, seed, jobs, check: false } => {
            fuzz::run(&fuzz::Options { targets, each: Duration::from_secs(seconds), seed, jobs })
        }
        Task::Bench { what: Bench::Pull(Moving { rounds, only, wharf }) } => {
            bench::pull(rounds, only.as_deref(), wharf.as_deref())
        }
        Task::Bench { what: Bench::Push(Moving { rounds, only, wharf }) } => {
            bench::push(rounds, only.as_deref(), wharf.as_deref())
        }
        Task::Bench { what: Bench::Copy(Moving { rounds, only, wharf }) } => {
            bench::copy(rounds, only.as_deref(), wharf.as_deref())
        }
        Task::Bench { what: Bench::Export(Moving { rounds, only, wharf }) } => {
            bench::export(rounds, only.as_deref(), wharf.as_deref())
        }
        Task::Bench { what: Bench::Import(Moving { rounds, only, wharf }) } => {
            bench::import(rounds, only.as_deref(), wharf.as_deref())
        }
        Task::Bench { what: Bench::Unpack(Moving { rounds, only, wharf }) } => {
            bench::unpack(rounds, only.as_deref(), wharf.as_deref())
        }
        Task::Bench { what: Bench::Serve { rounds, only, wharf } } => {
            bench::serve(rounds, only.as_deref(), wharf.as_deref())
        }
        Task::Bench { what: Bench::Store { rounds, wharf } } => bench::store(rounds, wharf.as_deref()),
        Task::Bench { what: Bench::Graph { rounds } } => bench::graph(rounds),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Told) => ExitCode::FAILURE,
        Err(Failure::Because(message)) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}
