//! `pull --unpack`, killed at random moments and run again: what is there afterwards is all of the image and nothing else.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::super::super::store::Store;
use super::super::super::tree::Tree;
use super::super::super::{Step, World};
use super::trees::Mounted;
use super::{expected, pushed};
use crate::failure::{Context, Result, ensure, ensure_equal};
use crate::process::Daemon;
use crate::random::Noise;

pub(super) const STEPS: &[Step] = &[("debian-pull-unpack-kill-9", kill_9)];

/// How many pulls are killed in all.
const KILLS: u32 = 10;

/// How often pulls into one store are killed before one may come to its end.
const KILLS_OF_A_STORE: u32 = 5;

/// How many stores are tried at most.
const STORES: u32 = 20;

/// The exit code of a killed process, as a shell tells it.
const KILLED: i32 = 137;

fn kill_9(world: &World) -> Result<()> {
    let (directory, image) = (world.dir("debian-kills")?, pushed(world)?);
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_secs());
    let mut noise = Noise::new(seed);
    let started = Instant::now();
    world.store("debian-kills-untouched")?.pull(&image, &["--unpack"])?;
    let mut window = started.elapsed();
    let (mut killed, mut round) = (0, 0);
    while killed < KILLS {
        ensure(round < STORES, || {
            format!("only {killed} of {KILLS} were killed in {STORES} stores (seed {seed})")
        })?;
        let store = world.store(&format!("debian-kills-{round}"))?;
        // What a killed pull has done is not done again: the next one has less to do.
        let mut left = window;
        for attempt in 1..=KILLS_OF_A_STORE {
            let moment = left.mul_f64(noise.fraction());
            let place = || format!("killed after {moment:?} (seed {seed}, round {round}, attempt {attempt})");
            let running = kill_after(&store, &image, moment, &directory).context(place())?;
            visible(&store, &image).context(place())?;
            if !running {
                if attempt == 1 {
                    // The first pull of all was a slow one: another one of the same takes no longer than this.
                    window = moment;
                }
                break;
            }
            killed += 1;
            left = left.saturating_sub(moment);
        }
        store.pull(&image, &["--unpack"])?;
        whole(world, &store, &image, &format!("debian-kills-mounts-{round}"))
            .context(format_args!("seed {seed}, round {round}"))?;
        fs::remove_dir_all(store.root()).context(store.root().display())?;
        round += 1;
    }
    println!("  {killed} kills of pulls into {round} stores, within {:.1} s", window.as_secs_f64());
    Ok(())
}

/// Kills a pull after this long; says whether it was still running.
fn kill_after(store: &Store<'_>, image: &str, moment: Duration, logs: &Path) -> Result<bool> {
    let mut daemon = Daemon::start("wharf-pull", store.wharf(&["pull", "--unpack", image]), logs)?;
    thread::sleep(moment);
    daemon.kill()?;
    match daemon.wait(Duration::from_secs(10))? {
        KILLED => Ok(true),
        code => ensure_equal("the exit code of a pull", &code, &0).map(|()| false),
    }
}

/// What a killed pull leaves is sound, and the image is not there by half.
fn visible(store: &Store<'_>, image: &str) -> Result<()> {
    if !store.root().exists() {
        return Ok(());
    }
    store.verify()?;
    match store.names()?.as_slice() {
        [] => Ok(()),
        [name] if name == image => store.wharf(&["images", "check", image]).success().map(drop),
        names => ensure_equal("names", &names, &[image.to_owned()].as_slice()),
    }
}

/// All of the image is there, and nothing but that once a collection has been.
fn whole(world: &World, store: &Store<'_>, image: &str, name: &str) -> Result<()> {
    store.gc(&[])?;
    store.only_needed()?;
    store.verify()?;
    let layers = store.root().join("layers");
    let layers = fs::read_dir(&layers).context(layers.display())?.count();
    ensure_equal("the number of unpacked layers", &layers, &5)?;
    // Those of killed processes hold for a day what they fetched.
    for lease in store.wharf(&["lease", "ls", "-q"]).text()?.lines() {
        store.wharf(&["lease", "rm", lease]).success()?;
    }
    let mounted = Mounted::new(world, name)?;
    let found = Tree::read(&mounted.by_wharf(store, image)?)?;
    found.ensure_same("what is there after kills", &expected(world)?)?;
    mounted.end(store)?;
    ensure_equal("what a second gc prints", &store.gc(&[])?, &Vec::new())
}
