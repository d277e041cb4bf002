//! Programs that do the same in turn, so that whatever the machine is doing besides weighs on all of them alike.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::disk::Disk;
use super::figures::{self, Runs, Sample};
use super::image::{Shape, TAG};
use crate::cargo::Workspace;
use crate::failure::{Context, Result, ensure};
use crate::process::Tool;
use crate::programs;
use crate::registry::Registry;
use crate::scratch::Scratch;

/// One program: its name, and one run of it in an empty directory of its own.
pub(super) type Contender<'a> = (&'static str, Box<dyn Fn(&Path) -> Result<Sample> + 'a>);

/// Where a benchmark takes place: the program, and a directory that is gone with it.
#[derive(Debug)]
pub(super) struct Arena {
    pub(super) wharf: PathBuf,
    pub(super) rounds: u32,
    scratch: Scratch,
}

impl Arena {
    /// Installs what is missing, and builds wharf unless it is given.
    pub(super) fn open(rounds: u32, program: Option<&Path>) -> Result<Self> {
        programs::require(programs::BENCH, true)?;
        let workspace = Workspace::find()?;
        let wharf = workspace.wharf(program)?;
        // Beside what cargo builds, for there the disk is a real one.
        let directory = workspace.target.join("bench");
        fs::create_dir_all(&directory).context(directory.display())?;
        Ok(Self { wharf, rounds, scratch: Scratch::within(&directory, "run")? })
    }

    /// A path in its directory.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// A directory in it.
    pub(super) fn dir(&self, name: &str) -> Result<PathBuf> {
        self.scratch.dir(name)
    }

    /// An image as a layout, at `layout`, and in a registry of its own.
    pub(super) fn image(&self, shape: &Shape) -> Result<Registry> {
        println!("making the image: {}", shape.title);
        let layout = self.path("layout");
        shape.write(&layout)?;
        self.publish(&layout, TAG, &shape.reference())
    }

    /// A registry that has the image of a layout.
    pub(super) fn publish(&self, layout: &Path, tag: &str, reference: &str) -> Result<Registry> {
        let registry = self.registry("source")?;
        self.send(layout, tag, &registry.image(reference))?;
        Ok(registry)
    }

    /// Sends the image of a layout to a registry.
    pub(super) fn send(&self, layout: &Path, tag: &str, image: &str) -> Result<()> {
        let (from, to) = (format!("oci:{}:{tag}", layout.display()), format!("docker://{image}"));
        skopeo(&self.dir("home")?).args(["--dest-tls-verify=false", &from, &to]).success()?;
        // What is still to be written must not weigh on whoever comes first.
        Tool::new("sync").success().map(drop)
    }

    /// A registry with nothing in it.
    pub(super) fn registry(&self, name: &str) -> Result<Registry> {
        Registry::start(&self.dir(&format!("{name}/storage"))?, &self.dir(&format!("{name}/state"))?)
    }

    /// Clears away what an image left, so that there is room for the next.
    pub(super) fn clear(&self) -> Result<()> {
        for entry in fs::read_dir(self.scratch.path()).context("the scratch directory")? {
            let path = entry.context("the scratch directory")?.path();
            if path.is_dir() {
                fs::remove_dir_all(&path).context(path.display())?;
            }
        }
        Ok(())
    }

    /// Lets all of them run in each round, another one first each time. What a run leaves is removed after it.
    pub(super) fn contest(&self, contenders: &[Contender<'_>]) -> Result<Vec<Runs>> {
        self.contest_in(contenders, |_| Ok(()), |place| fs::remove_dir_all(place).context(place.display()))
    }

    /// As [`contest`](Self::contest), but each run has a file system of its own.
    pub(super) fn contest_of_many_files(&self, contenders: &[Contender<'_>]) -> Result<Vec<Runs>> {
        let disk = Disk::make(self.path("disk"))?;
        self.contest_in(contenders, |place| disk.mount(place), Disk::unmount)
    }

    fn contest_in(
        &self,
        contenders: &[Contender<'_>],
        prepare: impl Fn(&Path) -> Result<()>,
        clear: impl Fn(&Path) -> Result<()>,
    ) -> Result<Vec<Runs>> {
        let mut runs: Vec<Runs> =
            contenders.iter().map(|(name, _)| Runs { name, samples: Vec::new() }).collect();
        // Round 0 warms the page cache and is not counted.
        for round in 0..=self.rounds {
            for turn in 0..contenders.len() {
                let which = (turn + round as usize) % contenders.len();
                let (name, run) = &contenders[which];
                let place = self.dir(name)?;
                prepare(&place)?;
                let sample = run(&place);
                clear(&place)?;
                let sample = sample?;
                if round > 0 {
                    runs[which].samples.push(sample);
                }
            }
        }
        Ok(runs)
    }

    /// wharf with a store.
    pub(super) fn wharf(&self, root: &Path) -> Command {
        let mut command = Command::new(&self.wharf);
        command.arg("--root").arg(root).args(["--progress", "none"]);
        command
    }

    /// Runs a command, with its errors in a file of ours.
    pub(super) fn measure(&self, command: Command) -> Result<Sample> {
        measure(&self.path("errors"), command)
    }
}

/// skopeo that copies.
pub(super) fn skopeo(home: &Path) -> Tool {
    let tool = Tool::new("skopeo").env("HOME", home).env("XDG_RUNTIME_DIR", home);
    tool.arg("--insecure-policy").arg("--tmpdir").arg(home).args(["copy", "--quiet"])
}

/// Runs a program to its end. The high-water mark of its memory is the kernel's own (`VmHWM`), read while it runs:
/// it only ever grows, so that all that can be missed is what happens in the last millisecond. What it says on
/// standard error goes to the file `log`.
pub(super) fn measure(log: &Path, mut command: Command) -> Result<Sample> {
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
