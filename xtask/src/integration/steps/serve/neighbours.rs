//! What a site does that has no other registry than `wharf serve`: what wharf has pulled or imported, the neighbours pull at once, and
//! what they push is an image of the store; and the server is killed and stopped while they are at it.

use std::fs;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::super::super::assortment::{Client, Piece};
use super::super::super::layout;
use super::super::super::small::{FIRST, SECOND};
use super::super::super::store::Store;
use super::super::super::{Step, World, digest};
use super::Server;
use super::everything::release;
use super::site::{Door, Site};
use crate::failure::{Context, Failure, Result, ensure, ensure_equal};
use crate::process::{Daemon, Signal};
use crate::random::Noise;
use crate::registry::http;
use crate::registry::proxy::Proxy;

pub(super) const STEPS: &[Step] = &[
    ("serve-neighbours", neighbours),
    ("serve-killed-under-a-push", killed),
    ("serve-stopped-under-pulls", stopped),
];

/// How often the server is killed.
const KILLS: u32 = 8;

/// How many clients read while the server is stopped.
const READERS: usize = 8;

const CLIENTS: [Client; 3] = [Client::Skopeo, Client::Ctr, Client::Wharf];

fn neighbours(world: &World) -> Result<()> {
    let name = "neighbours";
    let store = world.store(name)?;
    let site = Site::start(world, &store, name, Door::Open)?;
    // Pulled, and imported from an archive of skopeo's, while the server runs.
    let index = &world.fixture.oci;
    store.pull(&index.image, &["--all-platforms"])?;
    let archive = world.dir(name)?.join("first.tar");
    let first = world.registry.image(FIRST);
    let to = format!("oci-archive:{}:site.example/tools/first:1", archive.display());
    world.skopeo.copy(&format!("docker://{first}"), &to, &[])?;
    store.wharf(&["import"]).arg(&archive).success()?;
    let imported = store.records()?.into_iter().find(|record| record.name.ends_with("tools/first:1"));
    let imported = imported.context("the archive's image is not in the store")?.digest;
    for client in CLIENTS {
        site.pulls(client, &site.image("library/busybox:1.35"), &index.digest)?;
        for name in ["tools/first:1", "site.example/tools/first:1"] {
            site.pulls(client, &site.image(name), &imported)?;
        }
    }
    // What they push is in the list, and goes on from there.
    let second = world.registry.image(SECOND);
    let piece = Piece {
        kind: "second",
        digest: digest::of(&world.skopeo.manifest(&format!("docker://{second}"))?)?,
        image: second,
        clients: &CLIENTS,
        is_heavy: false,
    };
    site.seed(std::slice::from_ref(&piece))?;
    for client in CLIENTS {
        let image = site.image(&format!("{}/second:1", client.name()));
        site.push(client, &piece, &image)?;
        site.push(client, &piece, &site.image(&format!("{}/second:2", client.name())))?;
        exported(world, &store, client, &image, &piece.digest)?;
    }
    deleted(&site, &store, &index.digest, &piece.digest)?;
    refused(world, &site, &store)?;
    site.stop()
}

/// What was replaced in 2016 is not taken, and skopeo's user is told why.
fn refused(world: &World, site: &Site<'_>, store: &Store<'_>) -> Result<()> {
    let (before, target) = (store.names()?, site.image("skopeo/old:1"));
    let copy = ["copy", "--quiet", "--format=v2s1", "--src-tls-verify=false", "--dest-tls-verify=false"];
    let tool = world.skopeo.call(&copy).arg(format!("docker://{}", world.registry.image(FIRST)));
    tool.arg(format!("docker://{target}"))
        .run()?
        .expect_code(1)?
        .expect_said(&["unsupported", "schema 1"])?;
    ensure_equal("the names after a push that was refused", &store.names()?, &before)
}

/// An image of the list is exported, and skopeo reads the archive.
fn exported(world: &World, store: &Store<'_>, client: Client, image: &str, digest: &str) -> Result<()> {
    let record = store.records()?.into_iter().find(|record| record.name == image);
    let record = record.context(format_args!("the store does not list {image}"))?;
    ensure_equal(image, &record.digest.as_str(), &digest)?;
    let file = world.dir("neighbours")?.join(format!("{}.tar", client.name()));
    store.wharf(&["export", image, "-o"]).arg(&file).success()?;
    let manifest = world.skopeo.manifest(&format!("oci-archive:{}:1", file.display()))?;
    ensure_equal("the digest in the archive", &digest::of(&manifest)?.as_str(), &digest)
}

/// skopeo deletes by the digest that a tag leads to: all tags of the repository that lead there are gone, and no other's.
fn deleted(site: &Site<'_>, store: &Store<'_>, index: &str, second: &str) -> Result<()> {
    site.delete(&site.image("skopeo/second:1"))?;
    let names = store.names()?;
    let listed = |name: &str| names.contains(&site.image(name));
    ensure(!listed("skopeo/second:1") && !listed("skopeo/second:2"), || format!("still in {names:?}"))?;
    ensure(site.pull(Client::Wharf, &site.image("skopeo/second:1")).is_err(), || {
        "what was deleted is still pulled".to_owned()
    })?;
    release(store)?;
    store.gc(&[])?;
    store.only_needed()?;
    for (client, image, digest) in [
        (Client::Skopeo, "ctr/second:1", second),
        (Client::Ctr, "wharf/second:2", second),
        (Client::Wharf, "library/busybox:1.35", index),
    ] {
        site.pulls(client, &site.image(image), digest)?;
    }
    Ok(())
}

/// The same server again, on the port that it had.
fn again(world: &World, store: &Store<'_>, name: &str, port: u16) -> Result<Server> {
    let address = format!("127.0.0.1:{port}");
    Server::run(world, store.wharf(&["serve", "--addr", &address]), name)
}

/// The server is killed at random moments of a push and started again at once: the push goes on and succeeds, or, if it has given
/// up, the next one does. Nothing that was there before is hurt.
fn killed(world: &World) -> Result<()> {
    let name = "serve-killed";
    let store = world.store(name)?;
    let seeds = world.store("killed-seeds")?;
    let (big, first) = (world.registry.image(world.fixture.big), world.registry.image(FIRST));
    let expected = seeds.pull(&big, &[])?;
    seeds.pull(&first, &[])?;
    let mut server = Server::start(world, &store, name)?;
    let port = server.port;
    let before = format!("127.0.0.1:{port}/before/first:1");
    seeds.wharf(&["push", &first, &before]).success()?;
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_secs());
    let mut noise = Noise::new(seed);
    let mut window = Duration::from_millis(500);
    let (mut went_on, mut was_done) = (0, 0);
    for kill in 0..KILLS {
        let image = format!("127.0.0.1:{port}/killed/big:{kill}");
        let started = Instant::now();
        let mut push = Daemon::start("wharf-push", seeds.wharf(&["push", &big, &image]), &world.dir(name)?)?;
        thread::sleep(window.mul_f64(noise.fraction()));
        server.daemon.kill()?;
        server.daemon.wait(Duration::from_secs(10))?;
        server = again(world, &store, name, port)?;
        let code = push.wait(Duration::from_secs(60))?;
        let told = || format!("kill {kill} of seed {seed}: the push ends with {code}: {}", push.stderr());
        if code == 0 {
            went_on += 1;
        } else {
            // A server that cannot be reached for a moment is what a client may give up on.
            ensure(code == 6, told)?;
            seeds.wharf(&["push", &big, &image]).success()?;
            was_done += 1;
        }
        let record = store.records()?.into_iter().find(|record| record.name == image);
        ensure_equal("what was pushed", &record.map(|record| record.digest), &Some(expected.clone()))
            .context(told())?;
        store.verify()?;
        if kill == 0 {
            window = window.max(started.elapsed().min(Duration::from_secs(3)));
        }
        // From nothing again.
        store.wharf(&["images", "rm", &image]).success()?;
        release_all(&store)?;
        store.gc(&[])?;
        store.only_needed()?;
    }
    println!("  {KILLS} kills: {went_on} pushes went on, {was_done} were made again");
    world.store("killed-back")?.pull(&before, &[])?;
    server.daemon.stop(Signal::Terminate)
}

/// A killed server leaves the leases of its pushes, and each new one makes its own.
fn release_all(store: &Store<'_>) -> Result<()> {
    let leases = store.wharf(&["lease", "ls", "-q"]).text()?;
    leases.lines().try_for_each(|lease| store.wharf(&["lease", "rm", lease]).success().map(drop))
}

/// A server that is told to stop sends what it has begun to send to the end, and a client that tries again finds the next one.
fn stopped(world: &World) -> Result<()> {
    let name = "stopped";
    let store = world.store(name)?;
    let source = world.registry.image(world.fixture.big);
    let expected = store.pull(&source, &[])?;
    let server = Server::start(world, &store, name)?;
    let port = server.port;
    let manifest = layout::parse(&store.layout().blob(&expected)?)?;
    let layer = layout::text(&manifest["layers"][0], "digest")?;
    // Slowly enough that all of them are at it when the signal comes.
    let proxy = &Proxy::start(port, 25_000_000)?;
    let path = &format!("/v2/library/big/blobs/{layer}");
    let pulled = world.store("stopped-pulled")?;
    let image = format!("127.0.0.1:{}/{}", proxy.port(), world.fixture.big);
    let mut pull = Daemon::start("wharf-pull", pulled.wharf(&["pull", &image]), &world.dir(name)?)?;
    let (mut daemon, read) = thread::scope(|scope| {
        let readers: Vec<_> = (0..READERS).map(|_| scope.spawn(|| http::get(proxy.port(), path))).collect();
        let deadline = Instant::now() + Duration::from_secs(20);
        // All have their answer begun, and none has it whole.
        while proxy.sent() < READERS as u64 * 4_000_000 && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
        let signalled = server.daemon.signal(Signal::Terminate);
        let read: Vec<_> = readers.into_iter().map(thread::ScopedJoinHandle::join).collect();
        signalled.map(|()| (server.daemon, read))
    })?;
    for response in read {
        let response = response.unwrap_or_else(|_| Err(Failure::new("a thread panicked")))?;
        ensure_equal("the status", &response.status, &200)?;
        ensure_equal("what was read", &digest::of(&response.body)?, &layer)?;
    }
    ensure_equal("the exit code of the server", &daemon.wait(Duration::from_secs(15))?, &0)?;
    let next = again(world, &store, name, port)?;
    let code = pull.wait(Duration::from_secs(60))?;
    ensure(code == 0, || format!("the pull ends with {code}: {}", pull.stderr()))?;
    pulled.layout().verify()?;
    fs::remove_dir_all(pulled.root()).context(pulled.root().display())?;
    next.daemon.stop(Signal::Terminate)
}
