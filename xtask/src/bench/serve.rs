//! `cargo xtask bench serve`: `wharf serve` beside docker-registry, with the same image: large blobs, one and eight at a time,
//! and manifests by tag and by digest, over connections that are kept.
//!
//! Both run all the time, and one of them is asked. Blobs come from the page cache: what is measured is what sending costs.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::contest::{Arena, Contender};
use super::drain::Connection;
use super::figures::{self, Bound, Sample, Target, Work};
use super::image::{Shape, TAG};
use crate::failure::{Context, Failure, Result, ensure};
use crate::process::{Daemon, Tool};
use crate::registry::{Options, Registry, free_port, http};

/// What is to be reached.
const TARGETS: &[Target] = &[Target { than: "docker-registry", bound: Bound::AtLeast(1.5) }];

/// The image: a layer that is sent alone, and those that are sent at the same time.
const IMAGE: Shape = Shape {
    name: "bench/serve",
    title: "9 layers, one of 1 GiB and 8 of 128 MiB",
    layers: &[(1, 1 << 30), (AT_ONCE, 128 << 20)],
};

/// How many blobs are sent at the same time.
const AT_ONCE: u32 = 8;

/// How often each blob is asked for, so that a run lasts a while.
const TIMES: u32 = 4;

/// How many connections ask for manifests, and how often each does.
const ASKING: (u32, u32) = (8, 1000);

/// How long `wharf serve` has for printing its address, which it does when it listens.
const READY: Duration = Duration::from_secs(20);

/// Measures, and prints what came out.
pub(crate) fn serve(rounds: u32, only: Option<&str>, program: Option<&Path>) -> Result<()> {
    let titles: Vec<&str> = LOADS.iter().map(|load| load.title).collect();
    let loads: Vec<&Load> =
        LOADS.iter().filter(|load| only.is_none_or(|only| load.title.contains(only))).collect();
    ensure(!loads.is_empty(), || format!("there is no such load; there are: {}", titles.join("; ")))?;
    let arena = Arena::open(rounds, program)?;
    let site = Site::open(&arena)?;
    let mut text = String::new();
    for load in loads {
        println!("measuring: {}", load.title);
        let (paths, times) = (site.paths(load.what), load.times());
        let contenders = [&site.ours, &site.theirs].map(|server| -> Contender<'_> {
            (server.name, Box::new(|_| server.bear(load.method, &paths, times)))
        });
        let runs = arena.contest(&contenders)?;
        text += &figures::rates(&format!("serve: {}", load.title), load.work, &runs, TARGETS);
    }
    print!("{text}");
    Ok(())
}

/// What a server is asked for.
#[derive(Clone, Copy, Debug)]
struct Load {
    title: &'static str,
    method: &'static str,
    what: What,
    work: Work,
}

/// What connections ask for.
#[derive(Clone, Copy, Debug)]
enum What {
    /// The large layer, by one connection.
    Large,
    /// The other layers, by a connection each.
    AtOnce,
    /// The manifest by tag, by all of them.
    Tag,
    /// The manifest by digest.
    Digest,
}

impl Load {
    /// How often each connection asks.
    fn times(&self) -> u32 {
        match self.what {
            What::Large | What::AtOnce => TIMES,
            What::Tag | What::Digest => ASKING.1,
        }
    }
}

const LOADS: &[Load] = &[
    Load { title: "one blob of 1 GiB", method: "GET", what: What::Large, work: Work::Mebibytes(TIMES << 10) },
    Load {
        title: "8 blobs of 128 MiB at once",
        method: "GET",
        what: What::AtOnce,
        work: Work::Mebibytes((TIMES * AT_ONCE) << 7),
    },
    Load { title: "GET of manifests by tag", method: "GET", what: What::Tag, work: MANIFESTS },
    Load { title: "HEAD of manifests by tag", method: "HEAD", what: What::Tag, work: MANIFESTS },
    Load { title: "GET of manifests by digest", method: "GET", what: What::Digest, work: MANIFESTS },
    Load { title: "HEAD of manifests by digest", method: "HEAD", what: What::Digest, work: MANIFESTS },
];

const MANIFESTS: Work = Work::Requests(ASKING.0 * ASKING.1);

/// Two servers that have the same image.
#[derive(Debug)]
struct Site {
    ours: Server,
    theirs: Server,
    registry: Registry,
    _daemon: Daemon,
    /// The paths of the layers.
    blobs: Vec<String>,
    digest: String,
}

impl Site {
    fn open(arena: &Arena) -> Result<Self> {
        println!("making the image: {}", IMAGE.title);
        let layout = arena.path("layout");
        IMAGE.write(&layout)?;
        // As Debian configures it, and without a line for each request, which wharf does not write either.
        let options = Options::default().with_cache().without_access_log();
        let registry =
            Registry::start_with(&options, &arena.dir("theirs/storage")?, &arena.dir("theirs/state")?)?;
        let theirs = registry.image(&IMAGE.reference());
        arena.send(&layout, TAG, &theirs)?;
        fs::remove_dir_all(&layout).context(layout.display())?;
        let (root, port) = (arena.path("ours"), free_port()?);
        let address = format!("127.0.0.1:{port}");
        let ours = format!("{address}/{}", IMAGE.reference());
        for arguments in [&["pull", &theirs][..], &["images", "tag", &theirs, &ours]] {
            let mut command = arena.wharf(&root);
            command.args(arguments);
            arena.measure(command)?;
        }
        Tool::new("sync").success()?;
        let tool = Tool::new(&arena.wharf).arg("--root").arg(&root).args(["serve", "--addr", &address]);
        let mut daemon = Daemon::start("wharf-serve", tool, &arena.dir("logs")?)?;
        daemon.ready(READY, |daemon| daemon.stdout().ends_with('\n').then_some(()))?;
        let manifest = http::get_manifest(registry.port(), IMAGE.name, TAG)?;
        let sum = Tool::new("sha256sum").input(&manifest).text()?;
        let hex = sum.split_whitespace().next().context("sha256sum says nothing")?;
        // The config comes first.
        let blobs = IMAGE.blobs(&registry)?.split_off(1);
        let site = Self {
            ours: Server { name: "wharf", port, process: daemon.id() },
            theirs: Server { name: "docker-registry", port: registry.port(), process: registry.id() },
            digest: format!("sha256:{hex}"),
            registry,
            blobs,
            _daemon: daemon,
        };
        site.check()?;
        Ok(site)
    }

    /// Fails where the two do not send the same bytes, and so do not do the same.
    fn check(&self) -> Result<()> {
        for what in [What::Tag, What::Digest] {
            let [path] = &self.paths(what)[..1] else { continue };
            let [ours, theirs] = [&self.ours, &self.theirs].map(|server| server.read(path));
            ensure(ours? == theirs?, || format!("{path} is not the same at both"))?;
        }
        for path in &self.blobs {
            let digest = path.rsplit('/').next().unwrap_or_default();
            let file = self.registry.blob_path(digest)?;
            self.ours.compare(path, &file)?;
            self.theirs.compare(path, &file)?;
        }
        Ok(())
    }

    /// What each connection asks for.
    fn paths(&self, what: What) -> Vec<String> {
        let manifest =
            |reference: &str| vec![format!("/v2/{}/manifests/{reference}", IMAGE.name); ASKING.0 as usize];
        match what {
            What::Large => self.blobs[..1].to_vec(),
            What::AtOnce => self.blobs[1..].to_vec(),
            What::Tag => manifest(TAG),
            What::Digest => manifest(&self.digest),
        }
    }
}

/// A server that runs.
#[derive(Debug)]
struct Server {
    name: &'static str,
    port: u16,
    process: u32,
}

impl Server {
    /// Lets each connection ask for its path, `times` times.
    fn bear(&self, method: &str, paths: &[String], times: u32) -> Result<Sample> {
        let mut connections = Vec::new();
        for path in paths {
            let mut connection = Connection::open(self.port)?;
            let request = connection.request(method, path);
            // Whoever has not been accepted yet is not measured.
            connection.discard(&connection.request("HEAD", path))?;
            connections.push((connection, request));
        }
        let started = Instant::now();
        thread::scope(|scope| {
            let all: Vec<_> = connections
                .iter_mut()
                .map(|(connection, request)| {
                    scope.spawn(|| (0..times).try_for_each(|_| connection.discard(request).map(drop)))
                })
                .collect();
            all.into_iter()
                .try_for_each(|one| one.join().unwrap_or_else(|_| Err(Failure::new("a client ended early"))))
        })?;
        let time = started.elapsed();
        let status = format!("/proc/{}/status", self.process);
        let status = fs::read_to_string(&status).context(&status)?;
        Ok(Sample { time, peak: figures::high_water(&status).context("no high-water mark of memory")? })
    }

    fn read(&self, path: &str) -> Result<Vec<u8>> {
        let mut connection = Connection::open(self.port)?;
        let request = connection.request("GET", path);
        let mut bytes = Vec::new();
        connection.read(&request, |part| {
            bytes.extend_from_slice(part);
            Ok(())
        })?;
        Ok(bytes)
    }

    /// Fails where what is sent is not what is in the file.
    fn compare(&self, path: &str, file: &Path) -> Result<()> {
        let mut file = File::open(file).context(file.display())?;
        let mut expected = Vec::new();
        let mut connection = Connection::open(self.port)?;
        let request = connection.request("GET", path);
        connection.read(&request, |part| {
            expected.resize(part.len(), 0);
            file.read_exact(&mut expected).context(path)?;
            ensure(expected == part, || format!("{} sends something else as {path}", self.name))
        })?;
        ensure(file.read(&mut [0]).context(path)? == 0, || {
            format!("{} does not send all of {path}", self.name)
        })
    }
}
