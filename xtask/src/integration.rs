//! `cargo xtask integration`: wharf against the programs of others. docker-registry is what it pulls from;
//! skopeo, umoci and containerd's ctr say whether they see in the store and in the archives what wharf says is
//! there. Digests are computed by sha256sum, never by wharf itself.
//!
//! Everything happens on loopback and in one temporary directory, is bounded in time, and is undone on every path.

mod assortment;
mod busybox;
pub(crate) mod containerd;
mod digest;
mod fixture;
mod hosts;
mod layout;
mod mounts;
mod skopeo;
mod small;
mod steps;
mod store;
mod strace;
mod tokens;
mod tree;
mod upkeep;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::cargo::Workspace;
use crate::debian;
use crate::failure::{Context, Failure, Result, ensure};
use crate::programs;
use crate::registry::{self, Registry};
use crate::scratch::Scratch;

use fixture::Fixture;
use skopeo::Skopeo;
use store::{Store, Wharf};

/// How the run is to be.
#[derive(Debug)]
pub(crate) struct Options {
    /// Leave the temporary directory.
    pub(crate) keep: bool,
    /// How many processes are killed at least, by the step that kills them.
    pub(crate) kills: u32,
    /// How long the loops run that get into each other's way.
    pub(crate) loops: Duration,
    /// How long each fuzz target runs.
    pub(crate) fuzz: Duration,
    /// Only the steps whose name contains this.
    pub(crate) only: Option<String>,
    /// Install nothing.
    pub(crate) skip_install: bool,
    /// The program to check, instead of one built now.
    pub(crate) wharf: Option<PathBuf>,
}

/// What every step has at hand.
#[derive(Debug)]
struct World {
    workspace: Workspace,
    wharf: Wharf,
    skopeo: Skopeo,
    fixture: Fixture,
    registry: Registry,
    kills: u32,
    loops: Duration,
    fuzz: Duration,
    scratch: Scratch,
}

impl World {
    /// A store of the step's own, empty, not even made yet.
    fn store(&self, name: &str) -> Result<Store<'_>> {
        let root = self.scratch.path().join("stores").join(name);
        ensure(!root.exists(), || format!("two steps use the store {name}"))?;
        Ok(Store::new(&self.wharf, root))
    }

    /// A store of the step's own, and wharf at work on it as another user, to whom `wharf` belongs.
    fn store_of<'a>(&self, wharf: &'a Wharf, name: &str) -> Result<Store<'a>> {
        Ok(Store::new(wharf, self.store(name)?.root().to_owned()))
    }

    /// wharf with a home of the step's own, in which nothing is configured yet.
    fn user(&self, name: &str) -> Result<Wharf> {
        Ok(self.wharf.at_home(self.scratch.dir(&format!("homes/{name}"))?))
    }

    /// A docker-registry of the step's own, with nothing in it.
    fn empty_registry(&self, name: &str, options: &registry::Options) -> Result<Registry> {
        let state = self.dir(name)?;
        Registry::start_with(options, &state.join("data"), &state)
    }

    /// Another docker-registry with the images of the first one. What is pushed to it is in both.
    fn twin_registry(&self, name: &str, options: &registry::Options) -> Result<Registry> {
        Registry::start_with(options, self.registry.storage(), &self.dir(name)?)
    }

    /// A directory of the step's own.
    fn dir(&self, name: &str) -> Result<PathBuf> {
        self.scratch.dir(&format!("steps/{name}"))
    }
}

/// One check: its name, and what fails if it does not hold.
type Step = (&'static str, fn(&World) -> Result<()>);

/// Installs, builds, starts, checks, and clears away.
pub(crate) fn run(options: &Options) -> Result<()> {
    let steps = select(&steps::all(), options.only.as_deref())?;
    programs::require(&[programs::INTEGRATION, debian::PROGRAMS].concat(), !options.skip_install)?;
    ensure(programs::is_root()?, || {
        "containerd and the steps with a file system of their own need root".to_owned()
    })?;
    let workspace = Workspace::find()?;
    let program = workspace.wharf(options.wharf.as_deref())?;
    let mut scratch = Scratch::new("it")?;
    if options.keep {
        scratch.keep();
    }
    let world = prepare(workspace, program, scratch, options)?;
    let failed = steps.iter().filter(|step| !check(&world, step)).count();
    println!("{} passed, {failed} failed", steps.len() - failed);
    if failed == 0 { Ok(()) } else { Err(Failure::Told) }
}

fn prepare(workspace: Workspace, program: PathBuf, scratch: Scratch, options: &Options) -> Result<World> {
    let started = Instant::now();
    let cache = workspace.target.join("integration/cache");
    fs::create_dir_all(&cache).context(cache.display())?;
    let registry = Registry::start(&scratch.dir("registry")?, &scratch.dir("registry-state")?)?;
    let skopeo = Skopeo::new(&scratch.dir("skopeo")?);
    let fixture = fixture::build(&cache, &registry, &skopeo, &scratch.dir("fixture")?)?;
    let wharf = Wharf::new(program, scratch.dir("home")?);
    println!("prepared ({:.1} s)", started.elapsed().as_secs_f64());
    let (kills, loops, fuzz) = (options.kills, options.loops, options.fuzz);
    Ok(World { workspace, wharf, skopeo, fixture, registry, kills, loops, fuzz, scratch })
}

fn check(world: &World, (name, step): &Step) -> bool {
    let started = Instant::now();
    let outcome = step(world);
    let seconds = started.elapsed().as_secs_f64();
    match &outcome {
        Ok(()) => println!("ok {name} ({seconds:.1} s)"),
        Err(failure) => println!("FAILED {name} ({seconds:.1} s)\n  {failure}"),
    }
    outcome.is_ok()
}

/// The steps whose name contains `only`; none is a mistake in the name.
fn select(steps: &[Step], only: Option<&str>) -> Result<Vec<Step>> {
    let chosen: Vec<Step> =
        steps.iter().copied().filter(|(name, _)| only.is_none_or(|only| name.contains(only))).collect();
    ensure(!chosen.is_empty(), || {
        let names: Vec<_> = steps.iter().map(|(name, _)| *name).collect();
        format!("no step is called {:?}; there are: {}", only.unwrap_or_default(), names.join(" "))
    })?;
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_have_names_of_their_own() {
        let mut names: Vec<_> = steps::all().iter().map(|(name, _)| *name).collect();
        names.sort_unstable();
        let all = names.len();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    #[test]
    fn steps_are_selected_by_name() {
        let steps = steps::all();
        assert_eq!(select(&steps, None).unwrap().len(), steps.len());
        assert!(
            select(&steps, Some("disk-full")).unwrap().iter().all(|(name, _)| name.contains("disk-full"))
        );
        assert!(select(&steps, Some("no such step")).is_err());
    }
}
