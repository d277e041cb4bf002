//! `wharf serve`: skopeo pulls from the store and pushes into it, and the server stops when it is told to.

mod everything;
mod load;
mod neighbours;
mod site;

use std::time::Duration;

use super::super::fixture::REPOSITORY;
use super::super::layout::{self, Layout};
use super::super::store::Store;
use super::super::{Step, World, digest};
use crate::failure::{Context, Result, ensure, ensure_equal};
use crate::process::{Daemon, Signal, Tool};
use crate::registry::http;

/// All steps of the group.
pub(super) fn all() -> Vec<Step> {
    [STEPS, everything::STEPS, neighbours::STEPS, load::STEPS].concat()
}

const STEPS: &[Step] = &[
    ("serve-skopeo-pulls", pulls),
    ("serve-skopeo-pushes", pushes),
    ("serve-wharf-pulls", wharf_pulls),
    ("serve-stops-on-sigterm", |world| stops(world, Signal::Terminate, "serve-term")),
    ("serve-stops-on-sigint", |world| stops(world, Signal::Interrupt, "serve-int")),
];

/// The arguments of a server on a port that is free.
pub(super) const SERVE: &[&str] = &["serve", "--addr", "127.0.0.1:0"];

/// A running `wharf serve`.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) daemon: Daemon,
    pub(super) port: u16,
}

impl Server {
    pub(super) fn start(world: &World, store: &Store<'_>, name: &str) -> Result<Self> {
        Self::run(world, store.wharf(SERVE), name)
    }

    /// Starts what serves when it is called with [`SERVE`].
    pub(super) fn run(world: &World, tool: Tool, name: &str) -> Result<Self> {
        let server = Self::listening(world, tool, name)?;
        let response = http::get(server.port, "/v2/")?;
        ensure_equal("the status of /v2/", &response.status, &200)?;
        Ok(server)
    }

    /// Starts a server with options of the caller's, which may lock everybody out that asks in plain HTTP.
    fn start_with(world: &World, store: &Store<'_>, name: &str, options: &[&str]) -> Result<Self> {
        Self::listening(world, store.wharf(&[SERVE, options].concat()), name)
    }

    fn listening(world: &World, tool: Tool, name: &str) -> Result<Self> {
        let mut daemon = Daemon::start("wharf-serve", tool, &world.dir(name)?)?;
        let line = daemon.ready(Duration::from_secs(20), |daemon| {
            let said = daemon.stdout();
            said.strip_suffix('\n').map(str::to_owned)
        })?;
        let port =
            ["http://127.0.0.1:", "https://127.0.0.1:"].iter().find_map(|before| line.strip_prefix(before));
        let port = port.and_then(|port| port.parse().ok());
        let port = port.context(format_args!("serve prints {line:?}, not its address"))?;
        Ok(Self { daemon, port })
    }

    fn image(&self, name: &str) -> String {
        format!("docker://127.0.0.1:{}/{name}", self.port)
    }

    /// The repository under which the busybox of the store is served, by the server's own catalogue.
    fn busybox(&self) -> Result<String> {
        let response = http::get(self.port, "/v2/_catalog")?;
        if response.status != 200 {
            return Ok(REPOSITORY.to_owned());
        }
        let catalogue = layout::parse(&response.body)?;
        let repositories =
            catalogue["repositories"].as_array().context("no repositories in the catalogue")?;
        let mut names = repositories.iter().filter_map(|name| name.as_str());
        let found = names.find(|name| name.ends_with(REPOSITORY));
        Ok(found.context(format_args!("no {REPOSITORY} in {catalogue}"))?.to_owned())
    }
}

/// skopeo takes all platforms out of the server, with every digest as it was.
fn pulls(world: &World) -> Result<()> {
    let index = &world.fixture.oci;
    let store = world.store("serve-pull")?;
    store.pull(&index.image, &["--all-platforms"])?;
    let server = Server::start(world, &store, "serve-pull")?;
    let image = server.image(&format!("{}:1.35", server.busybox()?));
    ensure_equal("the index as it is served", &world.skopeo.manifest(&image)?, &index.bytes)?;
    let copy = world.dir("serve-pull")?.join("copy");
    world.skopeo.copy(&image, &format!("dir:{}", copy.display()), &["--all", "--preserve-digests"])?;
    ensure_equal("the digest of the copy", &digest::of_file(&copy.join("manifest.json"))?, &index.digest)?;
    server.daemon.stop(Signal::Terminate)
}

/// skopeo pushes all platforms of both kinds into the server; the store then lists them.
fn pushes(world: &World) -> Result<()> {
    let store = world.store("serve-push")?;
    let server = Server::start(world, &store, "serve-push")?;
    for (index, tag) in [(&world.fixture.oci, "oci"), (&world.fixture.docker, "docker")] {
        let name = format!("team/box:{tag}");
        let (source, image) = (format!("docker://{}", index.image), server.image(&name));
        world.skopeo.copy(&source, &image, &["--all", "--preserve-digests"])?;
        ensure_equal("what was pushed", &world.skopeo.manifest(&image)?, &index.bytes)?;
        let records = store.records()?;
        let found = records.iter().find(|record| record.name.ends_with(&name));
        let record = found.context(format_args!("the store does not list {name}: {records:?}"))?;
        ensure_equal("the digest in the list", &record.digest, &index.digest)?;
        ensure_equal("the number of platforms", &record.platforms.len(), &6)?;
    }
    server.daemon.stop(Signal::Terminate)?;
    Layout::new(store.root()).verify()?;
    ensure_equal("the number of names", &store.names()?.len(), &2)
}

/// wharf pulls from wharf.
fn wharf_pulls(world: &World) -> Result<()> {
    let index = &world.fixture.docker;
    let store = world.store("serve-wharf")?;
    store.pull(&index.image, &["--all-platforms"])?;
    let server = Server::start(world, &store, "serve-wharf")?;
    let image = server.image(&format!("{}:docker", server.busybox()?));
    let image = image.trim_start_matches("docker://");
    let other = world.store("serve-wharf-other")?;
    ensure_equal("the digest", &other.pull(image, &["--all-platforms"])?, &index.digest)?;
    ensure_equal("the number of blobs", &other.layout().blobs()?.len(), &19)?;
    server.daemon.stop(Signal::Terminate)
}

/// The one line on standard output is the address, and a signal ends the server in time and in order.
fn stops(world: &World, signal: Signal, name: &str) -> Result<()> {
    let store = world.store(name)?;
    let server = Server::start(world, &store, name)?;
    let said = server.daemon.stdout();
    ensure_equal("standard output", &said, &format!("http://127.0.0.1:{}\n", server.port))?;
    let port = server.port;
    let mut daemon = server.daemon;
    daemon.signal(signal)?;
    let code = daemon.wait(Duration::from_secs(10))?;
    ensure(code == 0, || format!("serve ends with {code}"))?;
    ensure(http::get(port, "/v2/").is_err(), || "somebody still answers".to_owned())
}
