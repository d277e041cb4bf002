//! What happens to a pull from outside: an interrupt in its middle. Nothing is half done after it, and the next pull
//! goes on.

use std::time::Duration;

use super::super::fixture::BIG;
use super::super::store::Store;
use super::super::{Step, World};
use crate::failure::{Result, ensure, ensure_equal};
use crate::process::{Daemon, Signal};
use crate::registry::proxy::Proxy;

pub(super) const STEPS: &[Step] = &[
    ("interrupt-and-resume", |world| interrupt(world, Signal::Interrupt, "interrupt")),
    ("killed-and-resumed", killed),
];

/// Bytes per second while a pull is to be caught in its middle.
const SLOW: u64 = 20_000_000;

/// Bytes that have flowed when it is caught: far from the start and from the end.
const MIDDLE: u64 = 40_000_000;

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
    let all = proxy.sent();
    ensure(all <= BIG / 100 * 105, || format!("both pulls took {all} bytes for {BIG}"))?;
    ensure_equal("names", &store.names()?, &vec![image.to_owned()])
}
