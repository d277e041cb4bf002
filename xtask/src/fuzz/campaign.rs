//! One run of one target: where its files are, how libFuzzer is called, and what it says at the end.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::target::Target;
use super::{Place, shown};
use crate::failure::{Context, Failure, Result, ensure};
use crate::process::{Finished, Tool, tail};
use crate::scratch::Scratch;

/// The variable by which a target is told where to put its seeds.
const SEEDS: &str = "WHARF_FUZZ_SEEDS";

/// The most memory that a target may have, in MiB: what it has at its start, and some hundred times its largest input.
const MEMORY: u32 = 512;

/// The longest that one input may take, in seconds. Most take less than a millisecond.
const PATIENCE: u32 = 20;

/// How much longer than planned a run may take: it begins with all inputs that it knows.
const GRACE: Duration = Duration::from_secs(300);

/// The fewest inputs of a run that says anything.
const FEWEST: u64 = 1_000;

/// A run that is about to begin.
#[derive(Debug)]
pub(super) struct Campaign {
    target: &'static Target,
    program: PathBuf,
    dictionary: PathBuf,
    seeds: PathBuf,
    corpus: PathBuf,
    artifacts: PathBuf,
}

impl Campaign {
    /// Makes the directories of a target.
    pub(super) fn prepare(place: &Place, target: &'static Target) -> Result<Self> {
        let directory = |kind: &str| {
            let path = place.target.join(kind).join(target.name);
            fs::create_dir_all(&path).context(path.display()).map(|()| path)
        };
        let seeds = place.target.join("seeds").join(target.name);
        if seeds.exists() {
            fs::remove_dir_all(&seeds).context(seeds.display())?;
        }
        Ok(Self {
            target,
            program: place.program(target.name),
            dictionary: place.package.join("dictionaries").join(format!("{}.dict", target.name)),
            seeds: directory("seeds")?,
            corpus: directory("corpus")?,
            artifacts: directory("artifacts")?,
        })
    }

    /// Runs the target, and says how it went.
    ///
    /// # Errors
    /// What broke, the inputs that broke it, and how to see it again; too few inputs.
    pub(super) fn run(&self, each: Duration, seed: u32) -> Result<String> {
        // Files are made and removed thousands of times a second, so that memory is the better place.
        let scratch = Scratch::within(Path::new("/dev/shm"), "fuzz").or_else(|_| Scratch::new("fuzz"))?;
        let before = files(&self.artifacts)?;
        let finished = self.tool(each, seed, scratch.path()).run()?;
        let broken: Vec<_> = files(&self.artifacts)?.difference(&before).cloned().collect();
        if finished.code != 0 || !broken.is_empty() {
            return Err(self.told(&finished, &broken, seed));
        }
        let executed = executed(&finished.stderr)
            .context(format_args!("`{}` does not say how much it did", finished.shown))?;
        ensure(executed >= FEWEST, || {
            format!("{executed} inputs only in {} s, and {FEWEST} at least say something", each.as_secs())
        })?;
        let known = files(&self.corpus)?.len();
        Ok(format!("{}: {executed} inputs, {known} worth keeping (seed {seed})", self.target.name))
    }

    fn tool(&self, each: Duration, seed: u32, scratch: &Path) -> Tool {
        let prefix = format!("{}/", self.artifacts.display());
        let numbers = [
            ("max_total_time", each.as_secs()),
            ("seed", seed.into()),
            ("max_len", self.target.max_len.into()),
            ("timeout", PATIENCE.into()),
            ("report_slow_units", PATIENCE.into()),
            ("rss_limit_mb", MEMORY.into()),
            ("print_final_stats", 1),
        ];
        // By way of another program: the most memory that a process has had counts for what it starts by itself (Linux: `fs/exec.c`), and integration
        // has had more than the limit.
        Tool::new("timeout")
            .arg((each + GRACE).as_secs().to_string())
            .arg(&self.program)
            .args(numbers.map(|(name, number)| format!("-{name}={number}")))
            .arg(format!("-dict={}", self.dictionary.display()))
            .arg(format!("-artifact_prefix={prefix}"))
            .arg(&self.corpus)
            .arg(&self.seeds)
            .env(SEEDS, &self.seeds)
            .env("TMPDIR", scratch)
            .env("RUST_BACKTRACE", "1")
            .dir(scratch)
            .limit(each + GRACE)
    }

    fn told(&self, finished: &Finished, broken: &[PathBuf], seed: u32) -> Failure {
        let program = shown(&self.program);
        let mut text =
            format!("ended with exit code {} (seed {seed})\n{}", finished.code, tail(why(&finished.stderr)));
        for file in broken {
            let file = shown(file);
            text.push_str(&format!("\n  the input is {file}; to see it again: {program} {file}"));
        }
        Failure::new(text)
    }
}

/// What a target said when it panicked, without the calls that led there; else all that it said.
fn why(said: &str) -> &str {
    let Some(from) = said.find(" panicked at ") else { return said };
    let rest = &said[said[..from].rfind('\n').map_or(0, |at| at + 1)..];
    &rest[..rest.find("\nstack backtrace:").unwrap_or(rest.len())]
}

fn files(directory: &Path) -> Result<BTreeSet<PathBuf>> {
    let entries = fs::read_dir(directory).context(directory.display())?;
    entries.map(|entry| entry.map(|entry| entry.path()).context(directory.display())).collect()
}

/// How many inputs libFuzzer says it has tried.
fn executed(said: &str) -> Option<u64> {
    let count = said.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"))?;
    count.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::fuzz::target::TARGETS;

    /// A program in place of a target, which does what a shell does with `script`.
    fn campaign(scratch: &Scratch, script: &str) -> Campaign {
        let place =
            Place { package: scratch.path().to_owned(), target: scratch.path().to_owned(), host: "x".into() };
        let target = &TARGETS[0];
        let program = place.program(target.name);
        fs::create_dir_all(program.parent().unwrap()).unwrap();
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        Campaign::prepare(&place, target).unwrap()
    }

    fn run(script: &str) -> Result<String> {
        let scratch = Scratch::new("campaign").unwrap();
        campaign(&scratch, script).run(Duration::from_secs(1), 7)
    }

    #[test]
    fn a_run_that_did_something_is_told() {
        let told = run("echo 'stat::number_of_executed_units: 123456' >&2").unwrap();
        assert!(told.contains("123456 inputs") && told.contains("seed 7"), "{told}");
    }

    #[test]
    fn a_run_that_did_next_to_nothing_fails() {
        let error = run("echo 'stat::number_of_executed_units: 999' >&2").unwrap_err().to_string();
        assert!(error.contains("999 inputs only"), "{error}");
        let error = run(":").unwrap_err().to_string();
        assert!(error.contains("does not say how much it did"), "{error}");
    }

    #[test]
    fn what_breaks_is_told_with_its_input() {
        let script = "for argument; do case $argument in -artifact_prefix=*) prefix=${argument#*=};; esac; done\n\
            echo boom >&2; echo x >\"${prefix}crash-1\"; exit 77";
        let error = run(script).unwrap_err().to_string();
        assert!(error.contains("exit code 77") && error.contains("boom"), "{error}");
        assert!(error.contains("artifacts/tar_apply/crash-1; to see it again:"), "{error}");
    }

    #[test]
    fn an_input_is_told_even_of_a_run_that_seems_well() {
        let script = "for argument; do case $argument in -artifact_prefix=*) prefix=${argument#*=};; esac; done\n\
            echo 'stat::number_of_executed_units: 123456' >&2; echo x >\"${prefix}slow-unit-1\"";
        assert!(run(script).unwrap_err().to_string().contains("slow-unit-1"));
    }

    #[test]
    fn of_a_panic_the_reason_is_told() {
        let said =
            "INFO: x\nthread 'main' panicked at a.rs:1:2:\nbroken\nstack backtrace:\n  0: f\nstat::x: 1\n";
        assert_eq!(why(said), "thread 'main' panicked at a.rs:1:2:\nbroken");
        assert_eq!(why("==1== ERROR: libFuzzer: timeout\n"), "==1== ERROR: libFuzzer: timeout\n");
    }

    #[test]
    fn seeds_are_made_anew() {
        let scratch = Scratch::new("campaign").unwrap();
        let old = campaign(&scratch, ":").seeds.join("old");
        fs::write(&old, "").unwrap();
        campaign(&scratch, ":");
        assert!(!old.exists());
    }
}
