//! What happens to a pull from outside: no room, no right to write, an interrupt. Nothing is half done after it,
//! and the next pull goes on.

use std::time::Duration;

use super::super::fixture::BIG;
use super::super::mounts::SmallDisk;
use super::super::store::Store;
use super::super::{Step, World};
use crate::failure::{Result, ensure, ensure_equal};
use crate::process::{Daemon, Signal};
use crate::registry::proxy::Proxy;

pub(super) const STEPS: &[Step] = &[
    ("store-read-only", read_only),
    ("disk-full", disk_full),
    ("interrupt-and-resume", |world| interrupt(world, Signal::Interrupt, "interrupt")),
    ("killed-and-resumed", killed),
];

/// Bytes per second while a pull is to be caught in its middle.
const SLOW: u64 = 20_000_000;

/// Bytes that have flowed when it is caught: far from the start and from the end.
const MIDDLE: u64 = 40_000_000;

/// A store on a disk of its own.
fn on_disk<'a>(world: &'a World, disk: &SmallDisk) -> Store<'a> {
    let root = disk.directory().join("store");
    Store::elsewhere(&world.wharf, root, disk.wrapper(), disk.seen().join("store"))
}

/// A store on a read-only file system cannot be pulled into, and is as it was afterwards.
fn read_only(world: &World) -> Result<()> {
    let directory = world.dir("read-only")?;
    let disk = SmallDisk::mount(&directory.join("disk"), 64, &directory)?;
    let store = on_disk(world, &disk);
    let image = &world.fixture.single;
    store.pull(image, &[])?;
    disk.remount("ro")?;
    store.fails(&["pull", &world.fixture.docker.image], 8)?;
    store.layout().verify()?;
    disk.remount("rw")?;
    ensure_equal("names", &store.names()?, &vec![image.clone()])?;
    disk.remount("ro")?;
    // A store that was never made, in the same place.
    let root = disk.directory().join("other");
    let other = Store::elsewhere(&world.wharf, root, disk.wrapper(), disk.seen().join("other"));
    other.fails(&["pull", image], 8).map(drop)
}

/// The disk is full in the middle of a layer: the image that was there stays whole, and with more room the same
/// pull succeeds.
fn disk_full(world: &World) -> Result<()> {
    let directory = world.dir("disk-full")?;
    let disk = SmallDisk::mount(&directory.join("disk"), 48, &directory)?;
    let store = on_disk(world, &disk);
    let (image, big) = (&world.fixture.single, world.registry.image(world.fixture.big));
    store.pull(image, &[])?;
    store.fails(&["pull", &big], 8)?;
    ensure_equal("names", &store.names()?, &vec![image.clone()])?;
    store.layout().verify()?;
    disk.remount("size=400m")?;
    store.pull(&big, &[])?;
    let mut both = vec![image.clone(), big];
    both.sort();
    ensure_equal("names", &store.names()?, &both)
}

/// Catches a pull in its middle with a signal, and checks what is left and what the next pull still takes.
fn interrupt(world: &World, signal: Signal, name: &str) -> Result<()> {
    let (proxy, store, image) = start_slowly(world, name)?;
    let mut daemon = pull_to_the_middle(world, &store, &proxy, &image, name)?;
    daemon.signal(signal)?;
    ensure_equal("the exit code", &daemon.wait(Duration::from_secs(10))?, &130)?;
    ensure_equal("standard output", &daemon.stdout().as_str(), &"")?;
    resume(&store, &proxy, &image)
}

/// The same without a chance to say goodbye.
fn killed(world: &World) -> Result<()> {
    let (proxy, store, image) = start_slowly(world, "killed")?;
    let mut daemon = pull_to_the_middle(world, &store, &proxy, &image, "killed")?;
    daemon.kill()?;
    ensure_equal("the exit code", &daemon.wait(Duration::from_secs(10))?, &137)?;
    resume(&store, &proxy, &image)
}

fn start_slowly<'a>(world: &'a World, name: &str) -> Result<(Proxy, Store<'a>, String)> {
    let proxy = Proxy::start(world.registry.port(), SLOW)?;
    let image = format!("127.0.0.1:{}/{}", proxy.port(), world.fixture.big);
    Ok((proxy, world.store(name)?, image))
}

fn pull_to_the_middle(
    world: &World,
    store: &Store<'_>,
    proxy: &Proxy,
    image: &str,
    name: &str,
) -> Result<Daemon> {
    let mut daemon = Daemon::start("wharf-pull", store.wharf(&["pull", image]), &world.dir(name)?)?;
    daemon.ready(Duration::from_secs(60), |_| (proxy.sent() > MIDDLE).then_some(()))?;
    Ok(daemon)
}

/// The store is a valid layout without the image, and the next pull takes the rest only.
fn resume(store: &Store<'_>, proxy: &Proxy, image: &str) -> Result<()> {
    store.layout().verify()?;
    ensure_equal("names after the interrupt", &store.names()?, &Vec::new())?;
    proxy.set_rate(0);
    let before = proxy.sent();
    store.pull(image, &[])?;
    let taken = proxy.sent() - before;
    ensure(taken < BIG - MIDDLE / 2, || {
        format!("the second pull took {taken} bytes of {BIG}: it began anew")
    })?;
    ensure_equal("names", &store.names()?, &vec![image.to_owned()])
}
