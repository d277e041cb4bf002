//! `cargo xtask bench store`: what the content store takes for many small blobs, for a large one beside sha256sum and
//! cp of the same file, and for looking through 100,000 blobs. A small program that uses the library
//! (`tests/src/bin/bench_store.rs`) does the commits.
//!
//! As with the other benchmark, figures are printed beside their targets and fail nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::contest::measure;
use super::figures::Sample;
use super::store_figures::{Large, Small, report};
use crate::cargo::Workspace;
use crate::failure::{Context, Result, ensure};
use crate::process::Tool;
use crate::random;
use crate::scratch::Scratch;

/// The small blobs: how many, and how long in bytes.
const SMALL: (u32, u32) = (10_000, 4096);

/// How often all of them are committed, at most: without a fast disk they take their time.
const SMALL_ROUNDS: u32 = 3;

/// How many writers commit small blobs at once, from one to what a pull is like.
const WRITERS: &[u32] = &[1, 8];

/// The large blob, in bytes.
const LARGE: u64 = 1 << 30;

/// The blobs of the store that is looked through.
const MANY: u32 = 100_000;

/// How long they are in the two stores whose memory is compared.
const LENGTHS: [u32; 2] = [16, 4096];

/// How long the commits of small blobs may take.
const LIMIT: Duration = Duration::from_secs(1200);

#[derive(Debug)]
struct Bench {
    wharf: PathBuf,
    committer: PathBuf,
    scratch: Scratch,
}

/// Measures, and prints what came out.
pub(crate) fn store(rounds: u32, program: Option<&Path>) -> Result<()> {
    let workspace = Workspace::find()?;
    let committer = workspace.build_bench_store()?;
    let wharf = workspace.wharf(program)?;
    // Beside what cargo builds, for there the disk is a real one.
    let directory = workspace.target.join("bench");
    fs::create_dir_all(&directory).context(directory.display())?;
    let bench = Bench { wharf, committer, scratch: Scratch::within(&directory, "store")? };
    let large = bench.large(rounds)?;
    let small = bench.small(rounds)?;
    let many = bench.many()?;
    print!("{}", report(&large, &small, &many));
    Ok(())
}

impl Bench {
    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// Runs a command, with its errors in a file of ours.
    fn measure(&self, command: Command) -> Result<Sample> {
        measure(&self.path("errors"), command)
    }

    fn committer(&self, root: &Path, what: &str) -> Command {
        let mut command = Command::new(&self.committer);
        command.arg(what).arg(root);
        command
    }

    /// One large blob: sha256sum, cp, cp with sync and two commits in each round, another one first each time.
    fn large(&self, rounds: u32) -> Result<Large> {
        println!("one blob of {} MiB", LARGE >> 20);
        let file = self.path("large");
        random::write(&file, LARGE, 1)?;
        // What is still to be written must not weigh on whoever comes first.
        Tool::new("sync").arg(&file).success()?;
        let mut large = Large::default();
        // Round 0 warms the page cache and is not counted.
        for round in 0..=rounds {
            for turn in 0..5 {
                let which = (turn + round as usize) % 5;
                let sample = self.turn(which, &file)?;
                if round > 0 {
                    large.samples[which].push(sample);
                }
            }
        }
        fs::remove_file(&file).context(file.display())?;
        Ok(large)
    }

    /// One contender, in the order of [`Large`], on an empty place.
    fn turn(&self, which: usize, file: &Path) -> Result<Sample> {
        let (copy, root) = (self.path("copy"), self.path("root"));
        let command = match which {
            0 => {
                let mut command = Command::new("sha256sum");
                command.arg(file);
                command
            }
            1 => {
                let mut command = Command::new("cp");
                command.arg(file).arg(&copy);
                command
            }
            2 => {
                let mut command = Command::new("sh");
                command.args(["-c", "cp \"$1\" \"$2\" && sync \"$2\"", "sh"]).arg(file).arg(&copy);
                command
            }
            which => {
                let mut command = self.committer(&root, "large");
                command.arg(file).arg(if which == 3 { "full" } else { "none" });
                command
            }
        };
        let sample = self.measure(command)?;
        if copy.exists() {
            // Dirty pages of one turn are not to be written in the next.
            Tool::new("sync").arg(&copy).success()?;
            fs::remove_file(&copy).context(copy.display())?;
        }
        if root.exists() {
            fs::remove_dir_all(&root).context(root.display())?;
        }
        Ok(sample)
    }

    /// Many small blobs, with and without durability, in turn.
    fn small(&self, rounds: u32) -> Result<Vec<Small>> {
        let (count, size) = SMALL;
        println!("{count} blobs of {size} bytes");
        let mut found: Vec<Small> = Vec::new();
        for writers in WRITERS {
            for durability in ["full", "none"] {
                let durability = durability.to_owned();
                found.push(Small { writers: *writers, durability, count, seconds: Vec::new() });
            }
        }
        for _ in 0..rounds.min(SMALL_ROUNDS) {
            for small in &mut found {
                let root = self.path("root");
                let numbers = [count, size, small.writers].map(|number| number.to_string());
                let tool = Tool::new(&self.committer).arg("small").arg(&root).args(&numbers);
                let seconds = tool.arg(&small.durability).limit(LIMIT).text()?;
                small.seconds.push(seconds.parse().context(format_args!("bench_store prints {seconds:?}"))?);
                fs::remove_dir_all(&root).context(root.display())?;
            }
        }
        Ok(found)
    }

    /// A store with many blobs is listed, and collected without finding anything; with blobs of two lengths, whose
    /// memory must be the same.
    fn many(&self) -> Result<Vec<(String, Sample)>> {
        let mut found = Vec::new();
        for length in LENGTHS {
            println!("{MANY} blobs of {length} bytes");
            let root = self.path("root");
            let fill = Tool::new(&self.committer).arg("fill").arg(&root);
            fill.args([MANY.to_string(), length.to_string()]).limit(LIMIT).success()?;
            for arguments in [&["content", "ls", "-q"][..], &["gc"]] {
                let mut command = Command::new(&self.wharf);
                command.arg("--root").arg(&root).args(arguments);
                let sample = self.measure(command)?;
                found.push((format!("{} of {MANY} x {length} bytes", arguments.join(" ")), sample));
            }
            let left = fs::read_dir(root.join("blobs/sha256")).context(root.display())?.count();
            ensure(left == MANY as usize, || format!("gc left {left} blobs of {MANY}"))?;
            fs::remove_dir_all(&root).context(root.display())?;
        }
        Ok(found)
    }
}
