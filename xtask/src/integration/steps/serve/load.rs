//! `wharf serve` under load: 64 clients that pull and 16 that push, with a collector in a loop beside it and programs that put into
//! the store what the next collection takes, without one error. What was pushed is there at the end, and the server has stayed small.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::json;

use super::super::super::digest;
use super::super::super::fixture::OCI_MANIFEST;
use super::super::super::small::{FIRST, SECOND};
use super::super::super::store::Store;
use super::super::super::{Step, World};
use super::super::crowd::{Turn, until};
use super::Server;
use super::everything::release;
use crate::failure::{Context, Failure, Result, ensure, ensure_equal};
use crate::process::{Signal, Tool};
use crate::random;
use crate::registry::http;

pub(super) const STEPS: &[Step] = &[("serve-under-load", load)];

/// How many clients pull at once, and how many of them are skopeo; as many are wharf, and the rest is light.
const PULLS: usize = 64;
const PROGRAMS_THAT_PULL: usize = 3;

/// How many clients push at once, and how many of them are skopeo; as many are wharf, and the rest is light.
const PUSHES: usize = 16;
const PROGRAMS_THAT_PUSH: usize = 2;

/// The most memory that the server may ever have had, in KiB: pulls are sent within the kernel, two batches of 1 MiB and what is
/// read ahead for each push make 40 MiB, and as much again and more is for all the rest.
const MEMORY: u64 = 96 * 1024;

/// What is added to the time of the load for what was begun in it.
const GRACE: Duration = Duration::from_secs(60);

/// The name under which an image comes and goes.
const PASSING: &str = "site.example/passing:1";

fn load(world: &World) -> Result<()> {
    let store = &world.store("load")?;
    let digest = &store.pull(&world.registry.image(FIRST), &[])?;
    let seeds = &world.store("load-seeds")?;
    seeds.pull(&world.registry.image(SECOND), &[])?;
    let server = Server::start(world, store, "load")?;
    let light = |count: usize, each: usize| (count - 2 * each).to_string();
    let crowd = Tool::new(world.workspace.build_registry_load()?)
        .args([&format!("127.0.0.1:{}", server.port), FIRST])
        .args([light(PULLS, PROGRAMS_THAT_PULL), light(PUSHES, PROGRAMS_THAT_PUSH)])
        .arg(world.loops.as_secs().to_string())
        .limit(world.loops + GRACE);
    let programs = Programs { world, store, seeds, port: server.port, digest, number: AtomicU64::new(0) };
    let turns = programs.turns();
    let (said, counts) = thread::scope(|scope| {
        let crowd = scope.spawn(|| crowd.text());
        let counts = until(world.loops, &turns);
        (crowd.join().unwrap_or_else(|_| Err(Failure::new("a thread panicked"))), counts)
    });
    let (said, counts) = match (said, counts) {
        (Err(crowd), Err(programs)) => return Err(Failure::new(format!("{crowd}\n  {programs}"))),
        (said, counts) => (said?, counts?),
    };
    let (done, kept) = said.split_once('\n').context(format_args!("the load says {said:?}"))?;
    let most = peak(server.daemon.id())?;
    println!("  {done}; {counts}; at most {} MiB", most / 1024);
    ensure(most <= MEMORY, || format!("the server has had {most} KiB, and {MEMORY} are enough"))?;
    let host = format!("127.0.0.1:{}", server.port);
    server.daemon.stop(Signal::Terminate)?;
    afterwards(store, kept, &host)
}

/// The programs among the clients, and what is done to the store beside the server.
struct Programs<'a> {
    world: &'a World,
    store: &'a Store<'a>,
    seeds: &'a Store<'a>,
    port: u16,
    /// The digest of the image that is there from the beginning.
    digest: &'a str,
    number: AtomicU64,
}

impl Programs<'_> {
    fn turns(&self) -> Vec<(String, Turn<'_>)> {
        let mut turns: Vec<(String, Turn<'_>)> = vec![
            ("gc".to_owned(), Box::new(|| self.store.gc(&[]).map(drop))),
            ("pull-rm".to_owned(), Box::new(|| self.passes())),
            ("found".to_owned(), Box::new(|| self.finds())),
        ];
        for number in 0..PROGRAMS_THAT_PULL {
            turns.push((format!("skopeo-pull-{number}"), Box::new(|| self.skopeo_pulls())));
            turns.push((format!("wharf-pull-{number}"), Box::new(|| self.wharf_pulls())));
        }
        for number in 0..PROGRAMS_THAT_PUSH {
            turns.push((format!("skopeo-push-{number}"), Box::new(|| self.skopeo_pushes())));
            turns.push((format!("wharf-push-{number}"), Box::new(|| self.wharf_pushes())));
        }
        turns
    }

    fn next(&self) -> u64 {
        self.number.fetch_add(1, Ordering::Relaxed)
    }

    fn image(&self, name: &str) -> String {
        format!("127.0.0.1:{}/{name}", self.port)
    }

    /// An image that nobody else has comes into the store and goes: the next collection has something to do.
    fn passes(&self) -> Result<()> {
        let source = &self.world.fixture.single;
        self.store.wharf(&["copy", source, &format!("store:{PASSING}")]).success()?;
        self.store.wharf(&["images", "rm", PASSING]).success().map(drop)
    }

    /// A blob that nothing holds, so that a collection may take it at any moment. But what a client was told is there, it may make an
    /// image of.
    fn finds(&self) -> Result<()> {
        let number = self.next();
        let file = self.world.dir("load")?.join("orphan");
        random::write(&file, 10_000, number + 1)?;
        let bytes = fs::read(&file).context(file.display())?;
        let digest = digest::of(&bytes)?;
        self.store.wharf(&["content", "ingest"]).arg(format!("orphan-{number}")).input(&bytes).success()?;
        let found = http::head(self.port, &format!("/v2/load/found/blobs/{digest}"))?.status;
        if found == 404 {
            return Ok(());
        }
        ensure_equal("the status of an orphan", &found, &200)?;
        let blob =
            |media_type: &str| json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() });
        let manifest = json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": blob("application/x-config"),
            "layers": [blob("application/x-layer")],
        });
        let path = format!("/v2/load/found/manifests/t{number}");
        let response = http::put(self.port, &path, OCI_MANIFEST, manifest.to_string().as_bytes())?;
        ensure(response.status == 201, || {
            let said = String::from_utf8_lossy(&response.body).into_owned();
            format!("{digest} was there, and an image of it is refused with {}: {said}", response.status)
        })
    }

    fn skopeo_pulls(&self) -> Result<()> {
        let target = self.world.dir("load")?.join(format!("pulled-{}", self.next()));
        let (source, to) = (format!("docker://{}", self.image(FIRST)), format!("dir:{}", target.display()));
        self.world.skopeo.copy(&source, &to, &["--preserve-digests"])?;
        let found = digest::of_file(&target.join("manifest.json"))?;
        fs::remove_dir_all(&target).context(target.display())?;
        ensure_equal("what skopeo has pulled", &found.as_str(), &self.digest)
    }

    fn wharf_pulls(&self) -> Result<()> {
        let store = self.world.store(&format!("load-{}", self.next()))?;
        let found = store.pull(&self.image(FIRST), &[])?;
        fs::remove_dir_all(store.root()).context(store.root().display())?;
        ensure_equal("what wharf has pulled", &found.as_str(), &self.digest)
    }

    fn skopeo_pushes(&self) -> Result<()> {
        let source = format!("docker://{}", self.world.registry.image(SECOND));
        let target = self.image(&format!("load/skopeo:t{}", self.next()));
        self.world.skopeo.copy(&source, &format!("docker://{target}"), &["--preserve-digests"])
    }

    fn wharf_pushes(&self) -> Result<()> {
        let source = self.world.registry.image(SECOND);
        let target = self.image(&format!("load/wharf:t{}", self.next()));
        self.seeds.wharf(&["push", &source, &target]).success().map(drop)
    }
}

/// The most memory that a process has had, in KiB.
fn peak(process: u32) -> Result<u64> {
    let path = format!("/proc/{process}/status");
    let status = fs::read_to_string(&path).context(&path)?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok());
    kib.context(format_args!("no VmHWM in {path}"))
}

/// Everything that was pushed with a tag is there and whole, no upload is left, and after the server's lease nothing holds what no
/// image needs.
fn afterwards(store: &Store<'_>, kept: &str, host: &str) -> Result<()> {
    let ingests = store.root().join("ingest");
    let left = fs::read_dir(&ingests).context(ingests.display())?.count();
    ensure_equal("the number of uploads that are left", &left, &0)?;
    store.verify()?;
    store.layout().verify()?;
    let there = || -> Result<BTreeMap<String, String>> {
        Ok(store.records()?.into_iter().map(|record| (record.name, record.digest)).collect())
    };
    let records = there()?;
    for line in kept.lines() {
        let (name, digest) = line.split_once(' ').context(format_args!("the load says {line:?}"))?;
        let name = format!("{host}/{name}");
        ensure_equal(&name, &records.get(&name).map(String::as_str), &Some(digest))?;
    }
    release(store)?;
    ensure(!store.gc(&[])?.is_empty(), || {
        "a collection finds nothing of the tags that were deleted".to_owned()
    })?;
    store.only_needed()?;
    ensure_equal("what is there after a collection", &there()?, &records)?;
    store.verify()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_of_a_process_is_told() {
        let most = peak(std::process::id()).unwrap();
        assert!(most > 100, "{most}");
        assert!(peak(u32::MAX).is_err());
    }
}
