//! kill -9, hundreds of times: a pull, a removal and a collection are killed at every system call that gives,
//! takes, syncs or cuts a name, and pulls at random moments. After every kill the store opens, `wharf verify` is
//! clean, the pull completes, and after `wharf gc` nothing is left that no image needs.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::super::small::{FIRST, SECOND};
use super::super::store::Store;
use super::super::strace::{self, CHANGES, Inject, Point};
use super::super::{Step, World};
use crate::failure::{Context, Result, ensure, ensure_equal};
use crate::process::Daemon;
use crate::random::Noise;
use crate::registry::proxy::Proxy;

pub(super) const STEPS: &[Step] = &[("kill-9", kill_9)];

/// The exit code of a killed process, as a shell tells it.
const KILLED: i32 = 137;

/// Of all kills, this share at least is at random moments: one of that many.
const RANDOM_SHARE: u32 = 5;

/// Bytes per second on each connection while kills come at random, so that there is something to hit.
const SLOW: u64 = 4_000_000;

/// Every so many kills the slower checks are made too.
const THOROUGH: u32 = 10;

/// One store that is made, used, killed and thrown away, again and again.
struct Victim<'a> {
    world: &'a World,
    root: PathBuf,
    log: PathBuf,
    logs: PathBuf,
    image: String,
    other: String,
    kills: u32,
    /// Where a store did not recover, and why. The rest is tried all the same: it shows what they have in common.
    failures: Vec<(String, String)>,
}

fn kill_9(world: &World) -> Result<()> {
    let logs = world.dir("kill-9")?;
    let mut victim = Victim {
        world,
        root: logs.join("store"),
        log: logs.join("strace"),
        image: world.registry.image(FIRST),
        other: world.registry.image(SECOND),
        logs,
        kills: 0,
        failures: Vec::new(),
    };
    // A store that has to be made first; one in which another image must stay; and what takes things away.
    victim.at_every_call("pull", |_| Ok(()), &["pull", &victim.image.clone()])?;
    let (image, other) = (victim.image.clone(), victim.other.clone());
    victim.at_every_call("rm", |victim| victim.pull(&[&image, &other]), &["images", "rm", &image])?;
    let removed = |victim: &Victim<'_>| {
        victim.pull(&[&image, &other])?;
        victim.store().wharf(&["images", "rm", &image]).success().map(drop)
    };
    victim.at_every_call("gc", removed, &["gc"])?;
    let systematic = victim.kills;
    let random = (world.kills / RANDOM_SHARE).max(world.kills.saturating_sub(systematic));
    victim.at_random(random)?;
    println!("  {systematic} kills at system calls, {random} at random moments");
    let failures = &victim.failures;
    ensure(failures.is_empty(), || {
        format!(
            "{} of {} stores did not recover:\n  {}",
            failures.len(),
            victim.kills,
            kinds(failures).join("\n  ")
        )
    })
}

/// One failure of each kind, with how many there are of it. Of one kind are those that begin alike.
fn kinds(failures: &[(String, String)]) -> Vec<String> {
    let mut kinds: BTreeMap<&str, (usize, &str, &str)> = BTreeMap::new();
    for (place, reason) in failures {
        let kind = reason.split(|character: char| !(character.is_alphabetic() || character == ' ')).next();
        kinds.entry(kind.unwrap_or_default()).or_insert((0, place, reason)).0 += 1;
    }
    kinds.values().map(|(count, place, reason)| format!("{count} times, as with {place}: {reason}")).collect()
}

impl Victim<'_> {
    /// The store as it is used without strace.
    fn store(&self) -> Store<'_> {
        Store::new(&self.world.wharf, self.root.clone())
    }

    /// Throws the store away.
    fn clear(&self) -> Result<()> {
        if self.root.exists() {
            fs::remove_dir_all(&self.root).context(self.root.display())?;
        }
        Ok(())
    }

    fn pull(&self, images: &[&str]) -> Result<()> {
        images.iter().try_for_each(|image| self.store().wharf(&["pull", image]).success().map(drop))
    }

    /// Runs a command under strace, and gives its exit code.
    fn trace(
        &self,
        command: &[&str],
        calls: &str,
        path: Option<&Path>,
        inject: Inject,
    ) -> Result<(i32, String)> {
        let wrapper = strace::wrapper(&self.log, calls, path, inject);
        let store = Store::elsewhere(&self.world.wharf, self.root.clone(), wrapper, self.root.clone());
        let finished = store.wharf(command).run()?;
        let log = fs::read_to_string(&self.log).context(self.log.display())?;
        let code = finished.code;
        ensure(code == 0 || code == KILLED, || format!("`{}`: {code}\n{}", finished.shown, finished.stderr))?;
        Ok((code, log))
    }

    /// Kills a command at each of its calls: by their paths as an untouched run has them, and then by the number
    /// in their thread, which also meets those on temporary names.
    fn at_every_call(
        &mut self,
        name: &str,
        prepare: impl Fn(&Self) -> Result<()>,
        command: &[&str],
    ) -> Result<()> {
        self.clear()?;
        prepare(self)?;
        let (code, log) = self.trace(command, CHANGES, None, Inject::Nothing)?;
        ensure_equal(&format!("the exit code of {name} under strace"), &code, &0)?;
        let points = strace::points(&log, &self.root);
        ensure(points.len() > 3, || format!("strace sees {points:?} only in {name}"))?;
        let mut missed = Vec::new();
        for Point { call, path, times } in &points {
            for when in 1..=*times {
                if !self.kill_at(&prepare, command, call, Some(path), when)? {
                    // Another thread took part of the calls: they are met by number, below or at random.
                    missed.push((call, path, when));
                    break;
                }
            }
        }
        let met = points.len() - missed.iter().filter(|(_, _, when)| *when == 1).count();
        // A path can be taken another way in one run (a lock that was free, say), but that is the exception.
        ensure(met * 10 >= points.len() * 9, || {
            format!("{name} was killed at {met} of {} places only: {:?}", points.len(), points.first())
        })?;
        for when in 1.. {
            if !self.kill_at(&prepare, command, "rename,renameat2,fsync,fdatasync", None, when)? {
                break;
            }
        }
        Ok(())
    }

    /// Kills a command at one call on a fresh store; says whether the call came.
    fn kill_at(
        &mut self,
        prepare: impl Fn(&Self) -> Result<()>,
        command: &[&str],
        calls: &str,
        path: Option<&Path>,
        when: usize,
    ) -> Result<bool> {
        self.clear()?;
        prepare(self)?;
        let (code, _) = self.trace(command, calls, path, Inject::Kill(when))?;
        let place = || {
            let path = path.unwrap_or(&self.root).display();
            format!("{command:?} killed at number {when} of {calls} on {path}")
        };
        let recovered = self.recovers();
        self.note(place(), recovered);
        if code == KILLED {
            self.kills += 1;
        }
        Ok(code == KILLED)
    }

    /// Kills pulls at random moments, on a new store and beside another image in turn.
    fn at_random(&mut self, kills: u32) -> Result<()> {
        let seed = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_secs());
        let mut noise = Noise::new(seed);
        let proxy = Proxy::start(self.world.registry.port(), SLOW)?;
        let image = format!("127.0.0.1:{}/{FIRST}", proxy.port());
        let before = std::mem::replace(&mut self.image, image);
        self.clear()?;
        let started = Instant::now();
        self.pull(&[&self.image])?;
        let window = started.elapsed();
        let target = self.kills + kills;
        let mut attempts = 0;
        while self.kills < target {
            attempts += 1;
            ensure(attempts < 4 * kills + 20, || format!("{attempts} attempts for {kills} kills"))?;
            self.clear()?;
            if attempts % 2 == 0 {
                self.pull(&[&self.other])?;
            }
            let moment = window.mul_f64(noise.fraction());
            if self.kill_after(moment)? {
                self.kills += 1;
            }
            let place = || format!("a pull killed after {moment:?} (seed {seed}, attempt {attempts})");
            let recovered = self.recovers();
            self.note(place(), recovered);
        }
        self.image = before;
        Ok(())
    }

    /// Kills a pull after this long; says whether it was still running.
    fn kill_after(&self, moment: Duration) -> Result<bool> {
        let tool = self.store().wharf(&["pull", &self.image]);
        let mut daemon = Daemon::start("wharf-pull", tool, &self.logs)?;
        thread::sleep(moment);
        daemon.kill()?;
        match daemon.wait(Duration::from_secs(10))? {
            KILLED => Ok(true),
            code => ensure_equal("the exit code of a pull", &code, &0).map(|()| false),
        }
    }

    fn note(&mut self, place: String, recovered: Result<()>) {
        self.failures.extend(recovered.err().map(|failure| (place, failure.to_string())));
    }

    /// What must hold after every kill. The lease of the killed process may stay until it expires: it holds what the
    /// next pull needs anyway.
    fn recovers(&self) -> Result<()> {
        let store = self.store();
        let before = store.wharf(&["images", "ls", "-q"]).text()?;
        store.verify()?;
        store.wharf(&["pull", &self.image]).success()?;
        store.gc(&[])?;
        store.only_needed()?;
        let mut names: Vec<_> = before.lines().chain([self.image.as_str()]).collect();
        names.sort_unstable();
        names.dedup();
        let shown = store.layout().names()?;
        let mut shown: Vec<_> = shown.iter().map(|(name, _)| name.as_str()).collect();
        shown.sort_unstable();
        ensure_equal("the names in index.json", &shown, &names)?;
        if self.kills.is_multiple_of(THOROUGH) {
            store.layout().verify()?;
            store.verify()?;
            ensure_equal("what a second gc prints", &store.gc(&[])?, &Vec::new())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_told_once_of_each_kind() {
        let failure = |place: &str, reason: &str| (place.to_owned(), reason.to_owned());
        let found = kinds(&[
            failure("a", "left in the store: [1]"),
            failure("b", "left in the store: [2]"),
            failure("c", "no image needs [3]"),
        ]);
        assert_eq!(
            found,
            ["2 times, as with a: left in the store: [1]", "1 times, as with c: no image needs [3]"]
        );
        assert!(kinds(&[]).is_empty());
    }
}
