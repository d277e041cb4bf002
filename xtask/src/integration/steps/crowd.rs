//! Many processes on one store at once: eight that pull the same image, a collector in a loop beside pulls,
//! pushes, imports, exports and removals, and a collector beside a pull and an export that take their time.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::super::fixture::BIG;
use super::super::small::{self, FIRST, FIRST_TWIN, SECOND, SECOND_TWIN};
use super::super::store::Store;
use super::super::{Step, World, digest};
use super::serve::Server;
use crate::failure::{Context, Failure, Result, ensure, ensure_equal};
use crate::process::{Daemon, Signal, Tool};
use crate::registry::proxy::Proxy;

pub(super) const STEPS: &[Step] = &[
    ("eight-processes", |world| {
        let bytes = small::bytes(world, FIRST)?;
        // Slowly enough that all of them meet.
        eight(world, FIRST, bytes, 1_000_000, "eight")
    }),
    ("eight-processes-big", |world| eight(world, world.fixture.big, BIG, 0, "eight-big")),
    ("gc-in-a-loop", loops),
    ("gc-beside-a-slow-pull", slow_pull),
    ("gc-beside-a-slow-export", slow_export),
];

/// How many processes pull at once.
const PROCESSES: usize = 8;

/// Eight processes pull one image into a store that is not there yet: all succeed, and the registry sends it once.
fn eight(world: &World, path: &str, bytes: u64, rate: u64, name: &str) -> Result<()> {
    let proxy = Proxy::start(world.registry.port(), rate)?;
    let image = format!("127.0.0.1:{}/{path}", proxy.port());
    let store = world.store(name)?;
    let pulls: Vec<Result<String>> = thread::scope(|scope| {
        let pull = || store.wharf(&["pull", &image]).text();
        let handles: Vec<_> = (0..PROCESSES).map(|_| scope.spawn(pull)).collect();
        handles.into_iter().map(joined).collect()
    });
    let pulls: Vec<String> = pulls.into_iter().collect::<Result<_>>()?;
    ensure(pulls.iter().all(|pull| *pull == pulls[0]), || format!("they differ: {pulls:?}"))?;
    let sent = proxy.sent();
    println!("  {sent} bytes for an image of {bytes}");
    ensure(sent <= bytes + bytes / 10, || format!("the registry sent {sent} bytes for an image of {bytes}"))?;
    store.verify()?;
    store.layout().verify()?;
    ensure_equal("what gc finds", &store.gc(&[])?, &Vec::new())?;
    store.no_lease()?;
    store.only_needed()
}

fn joined<T>(handle: thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    handle.join().unwrap_or_else(|_| Err(Failure::new("a thread panicked")))
}

/// One turn of a loop.
pub(super) type Turn<'a> = Box<dyn Fn() -> Result<()> + Send + Sync + 'a>;

/// Each loop has names of its own, so that nothing may ever be missing; the blobs are the same ones.
fn loops(world: &World) -> Result<()> {
    let store = &world.store("loops")?;
    let directory = &world.dir("loops")?;
    let [first, twin, second, second_twin] =
        [FIRST, FIRST_TWIN, SECOND, SECOND_TWIN].map(|name| world.registry.image(name));
    let run = |arguments: &[&str]| store.wharf(arguments).success().map(drop);
    run(&["pull", &second])?;
    let export = |image: &str, file: &str| {
        let file = directory.join(file);
        run(&["export", image, "-o", &file.to_string_lossy()])?;
        fs::remove_file(&file).context(file.display())
    };
    // An image that only its archive knows.
    let (imported, archive) = (format!("{second}-imported"), directory.join("imported.tar"));
    let archive = archive.to_string_lossy();
    run(&["images", "tag", &second, &imported])?;
    run(&["export", &imported, "-o", &archive])?;
    run(&["images", "rm", &imported])?;
    let elsewhere = world.store("loops-elsewhere")?;
    let server = Server::start(world, &elsewhere, "loops-elsewhere")?;
    let pushed = AtomicU32::new(0);
    let turns: Vec<(&str, Turn<'_>)> = vec![
        ("import-rm", {
            Box::new(|| {
                run(&["import", &archive])?;
                run(&["images", "rm", &imported])
            })
        }),
        ("push", {
            Box::new(|| {
                let tag = pushed.fetch_add(1, Ordering::Relaxed);
                run(&["push", &second, &format!("127.0.0.1:{}/loops:{tag}", server.port)])
            })
        }),
        ("pull-export-rm", {
            Box::new(|| {
                run(&["pull", &first])?;
                export(&first, "first.tar")?;
                run(&["images", "rm", &first])
            })
        }),
        ("pull-rm", {
            Box::new(|| {
                run(&["pull", &twin])?;
                run(&["images", "rm", &twin])
            })
        }),
        ("export", Box::new(|| export(&second, "second.tar"))),
        ("pull", Box::new(|| run(&["pull", &second_twin]))),
        ("gc", Box::new(|| store.gc(&[]).map(drop))),
    ];
    let counts = until(world.loops, &turns)?;
    println!("  {counts}");
    server.daemon.stop(Signal::Terminate)?;
    elsewhere.verify()?;
    store.verify()?;
    store.gc(&[])?;
    store.only_needed()?;
    let mut names = vec![second.clone(), second_twin.clone()];
    names.sort();
    ensure_equal("names", &store.names()?, &names)?;
    run(&["images", "rm", &second, &second_twin])?;
    store.gc(&[])?;
    ensure_equal("blobs without images", &store.layout().blobs()?, &Vec::new())?;
    store.only_needed()
}

/// Runs every loop for this long, or until one of them fails; tells how often each one went round.
pub(super) fn until(limit: Duration, turns: &[(impl AsRef<str> + Sync, Turn<'_>)]) -> Result<String> {
    let (deadline, failed) = (Instant::now() + limit, AtomicBool::new(false));
    let (deadline, failed) = (&deadline, &failed);
    let counts: Vec<Result<String>> = thread::scope(|scope| {
        let run = |name: &str, turn: &Turn<'_>| {
            let mut count = 0_u32;
            while Instant::now() < *deadline && !failed.load(Ordering::Relaxed) {
                if let Err(failure) = turn() {
                    failed.store(true, Ordering::Relaxed);
                    return Err(failure).context(format_args!("turn {count} of the loop {name}"));
                }
                count += 1;
            }
            Ok(format!("{name} {count}"))
        };
        let handles: Vec<_> =
            turns.iter().map(|(name, turn)| scope.spawn(move || run(name.as_ref(), turn))).collect();
        handles.into_iter().map(joined).collect()
    });
    Ok(counts.into_iter().collect::<Result<Vec<_>>>()?.join(", "))
}

/// A collection beside a pull that lasts for seconds takes nothing from it.
fn slow_pull(world: &World) -> Result<()> {
    let bytes = small::bytes(world, FIRST)?;
    let proxy = Proxy::start(world.registry.port(), bytes / 8)?;
    let image = format!("127.0.0.1:{}/{FIRST}", proxy.port());
    let store = world.store("slow-pull")?;
    let logs = world.dir("slow-pull")?;
    // One layer after the other: the first ones wait for seconds until something refers to them.
    let tool = store.wharf(&["pull", "-j", "1", &image]);
    let mut daemon = Daemon::start("wharf-pull", tool, &logs)?;
    daemon.ready(Duration::from_secs(30), |_| (proxy.sent() > bytes / 8).then_some(()))?;
    let mut collections = 0;
    while proxy.sent() < bytes * 3 / 4 {
        store.gc(&[])?;
        collections += 1;
    }
    ensure_equal("the exit code of the pull", &daemon.wait(Duration::from_secs(60))?, &0)?;
    ensure(collections > 1, || format!("{collections} collections while the pull ran"))?;
    let sent = proxy.sent();
    ensure(sent <= bytes + bytes / 10, || format!("it took {sent} bytes for {bytes}: something was lost"))?;
    store.verify()?;
    store.no_lease()?;
    ensure_equal("what gc finds", &store.gc(&[])?, &Vec::new())?;
    store.only_needed()
}

/// Holds the reader of the archive until there is a file `go`; a minute is the most it waits.
const SLOW_READER: &str = "\"$@\" | { head -c 1000; i=0; while [ ! -e \"$GO\" ] && [ $i -lt 600 ]; do sleep 0.1; \
     i=$((i+1)); done; cat; }";

/// An image that is removed and collected while it is being exported is exported whole.
fn slow_export(world: &World) -> Result<()> {
    let image = world.registry.image(world.fixture.big);
    let store = world.store("slow-export")?;
    let logs = world.dir("slow-export")?;
    store.pull(&image, &[])?;
    let expected = logs.join("expected.tar");
    store.wharf(&["export", &image, "-o", &expected.to_string_lossy()]).success()?;
    let (go, reader) = (logs.join("go"), logs.join("slow-export.out"));
    let mut daemon = Daemon::start("slow-export", slowly(&store, &image, &go), &logs)?;
    let begun = |_: &Daemon| fs::metadata(&reader).is_ok_and(|found| found.len() >= 1000).then_some(());
    daemon.ready(Duration::from_secs(30), begun)?;
    store.wharf(&["images", "rm", &image]).success()?;
    store.gc(&[])?;
    fs::write(&go, "").context(go.display())?;
    ensure_equal("the exit code of the export", &daemon.wait(Duration::from_secs(60))?, &0)?;
    ensure_equal("the archive", &digest::of_file(&reader)?, &digest::of_file(&expected)?)?;
    store.verify()?;
    store.gc(&[])?;
    ensure_equal("blobs afterwards", &store.layout().blobs()?, &Vec::new())?;
    for file in [reader, expected] {
        fs::remove_file(&file).context(file.display())?;
    }
    Ok(())
}

/// An export whose reader waits for `go`. The shell fails when the export does.
fn slowly(store: &Store<'_>, image: &str, go: &Path) -> Tool {
    let inner = store.wharf(&["export", image]).into_command();
    let shell = Tool::new("bash").args(["-o", "pipefail", "-c", SLOW_READER, "bash"]);
    let shell = shell.arg(inner.get_program()).args(inner.get_args()).env("GO", go);
    inner.get_envs().fold(shell, |shell, (name, value)| match value {
        Some(value) => shell.env(&name.to_string_lossy(), value),
        None => shell,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loops_run_until_the_end_or_the_first_failure() {
        let fine: Turn<'_> = Box::new(|| {
            thread::sleep(Duration::from_millis(1));
            Ok(())
        });
        let counts = until(Duration::from_millis(30), &[("fine", fine)]).unwrap();
        assert!(counts.starts_with("fine ") && counts != "fine 0", "{counts}");

        let fine: Turn<'_> = Box::new(|| Ok(()));
        let broken: Turn<'_> = Box::new(|| Err(Failure::new("gone")));
        let started = Instant::now();
        let error = until(Duration::from_secs(60), &[("fine", fine), ("broken", broken)]).unwrap_err();
        assert_eq!(error.to_string(), "turn 0 of the loop broken: gone");
        assert!(started.elapsed() < Duration::from_secs(10));
    }
}
