//! A `wharf serve` behind one of its doors, and what each client is told so that it gets in.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use super::super::super::assortment::{Client, Piece};
use super::super::super::containerd::Containerd;
use super::super::super::store::Store;
use super::super::super::{World, digest, hosts};
use super::super::passwords::{PASSWORD, USER};
use super::super::tls::skopeo_certificates;
use super::Server;
use crate::failure::{Context, Result, ensure_equal};
use crate::process::Signal;
use crate::registry::certificates::Authority;
use crate::registry::passwords;

/// Who is let in, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Door {
    /// Everybody, in plain HTTP.
    Open,
    /// Everybody who trusts the authority of its certificate.
    Tls,
    /// Who trusts it and has a password.
    Passwords,
}

/// The server and its neighbours.
#[derive(Debug)]
pub(super) struct Site<'a> {
    world: &'a World,
    name: &'a str,
    server: Server,
    containerd: Containerd,
    /// What wharf pushes from.
    seeds: Store<'a>,
    certificates: Option<Certificates>,
    has_passwords: bool,
    /// How many times somebody came who had nothing yet.
    fresh: AtomicU32,
}

/// How each client is told of the authority.
#[derive(Debug)]
struct Certificates {
    wharf: PathBuf,
    skopeo: PathBuf,
    /// ctr takes what is on loopback for plain HTTP, unless a file says otherwise.
    ctr: PathBuf,
}

/// The namespace of what ctr pushes.
const SEEDS: &str = "seeds";

impl<'a> Site<'a> {
    pub(super) fn start(world: &'a World, store: &Store<'_>, name: &'a str, door: Door) -> Result<Self> {
        let directory = world.dir(name)?;
        let mut options: Vec<String> = Vec::new();
        let mut certificates = None;
        if door != Door::Open {
            let authority = Authority::new(&directory)?;
            let server = authority.server(&["127.0.0.1"])?;
            for (option, file) in [("--tls-cert", &server.certificate), ("--tls-key", &server.key)] {
                options.extend([option.to_owned(), file.display().to_string()]);
            }
            certificates = Some(Certificates {
                wharf: authority.file().to_owned(),
                skopeo: skopeo_certificates(world, name, &authority)?,
                ctr: directory.join("certs.d"),
            });
        }
        let has_passwords = door == Door::Passwords;
        if has_passwords {
            let file = directory.join("htpasswd");
            passwords::write(&file, USER, PASSWORD)?;
            options.extend(["--htpasswd".to_owned(), file.display().to_string()]);
        }
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let server = Server::start_with(world, store, name, &options)?;
        if let Some(Certificates { wharf, ctr, .. }) = &certificates {
            let url = format!("https://127.0.0.1:{}", server.port);
            let text = format!("server = \"{url}\"\n\n[host.\"{url}\"]\n  ca = \"{}\"\n", wharf.display());
            hosts::write_for(ctr, server.port, &text)?;
        }
        let containerd = Containerd::start(&directory)?;
        let seeds = world.store(&format!("{name}-seeds"))?;
        let fresh = AtomicU32::new(0);
        Ok(Self { world, name, server, containerd, seeds, certificates, has_passwords, fresh })
    }

    /// The full name of an image in it.
    pub(super) fn image(&self, name: &str) -> String {
        format!("127.0.0.1:{}/{name}", self.server.port)
    }

    /// Gives wharf and containerd what they are to push, out of docker-registry.
    pub(super) fn seed(&self, pieces: &[Piece]) -> Result<()> {
        for piece in pieces {
            self.seeds.wharf(&["pull", "--all-platforms", &piece.image]).success()?;
            let fetch = ["content", "fetch", "--plain-http", "--all-platforms", &piece.image];
            self.containerd.within(SEEDS).args(fetch).success()?;
        }
        Ok(())
    }

    /// Has a client push one of them.
    pub(super) fn push(&self, client: Client, piece: &Piece, image: &str) -> Result<()> {
        let tool = match client {
            Client::Skopeo => {
                let copy = ["copy", "--quiet", "--all", "--preserve-digests", "--src-tls-verify=false"];
                let tool = self.world.skopeo.call(&copy).args(self.of_skopeo("dest-"));
                tool.arg(format!("docker://{}", piece.image)).arg(format!("docker://{image}"))
            }
            Client::Ctr => {
                let tool = self.containerd.within(SEEDS).args(["images", "push"]);
                tool.args(self.of_ctr()).args([image, &piece.image])
            }
            Client::Wharf => self.seeds.wharf(&["push", &piece.image, image]).args(self.of_wharf()),
        };
        tool.success().map(drop)
    }

    /// Has a client that has nothing yet pull an image, all platforms of it, and gives the digest that it sees.
    pub(super) fn pull(&self, client: Client, image: &str) -> Result<String> {
        let number = self.fresh.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{number}", self.name);
        match client {
            Client::Skopeo => {
                let target = self.world.scratch.path().join("steps").join(&name);
                let copy = ["copy", "--quiet", "--all", "--preserve-digests"];
                let tool = self.world.skopeo.call(&copy).args(self.of_skopeo("src-"));
                tool.arg(format!("docker://{image}")).arg(format!("dir:{}", target.display())).success()?;
                let found = digest::of_file(&target.join("manifest.json"));
                std::fs::remove_dir_all(&target).context(target.display())?;
                found
            }
            Client::Ctr => {
                let tool = self.containerd.within(&name).args(["content", "fetch", "--all-platforms"]);
                tool.args(self.of_ctr()).arg(image).success()?;
                let images = self.containerd.images_in(&name)?;
                let found = images.into_iter().find(|[found, ..]| found == image);
                found.map(|[_, _, digest]| digest).context(format_args!("containerd has no {image}"))
            }
            Client::Wharf => {
                let store = self.world.store(&name)?;
                let options = self.of_wharf();
                let options: Vec<&str> = options.iter().map(String::as_str).collect();
                let digest = store.pull(image, &[&["--all-platforms"], &options[..]].concat());
                std::fs::remove_dir_all(store.root()).context(store.root().display())?;
                digest
            }
        }
    }

    /// Has a client pull an image that must have this digest.
    pub(super) fn pulls(&self, client: Client, image: &str, digest: &str) -> Result<()> {
        let found = self.pull(client, image)?;
        ensure_equal(&format!("{image} as {} sees it", client.name()), &found.as_str(), &digest)
    }

    /// Has skopeo delete a tag.
    pub(super) fn delete(&self, image: &str) -> Result<()> {
        let tool = self.world.skopeo.call(&["delete"]).args(self.of_skopeo(""));
        tool.arg(format!("docker://{image}")).success().map(drop)
    }

    /// Ends the server, in time.
    pub(super) fn stop(self) -> Result<()> {
        self.server.daemon.stop(Signal::Terminate)
    }

    fn credentials(&self, option: &str) -> Vec<String> {
        let both = || vec![option.to_owned(), format!("{USER}:{PASSWORD}")];
        if self.has_passwords { both() } else { Vec::new() }
    }

    fn of_skopeo(&self, which: &str) -> Vec<String> {
        let mut options = self.credentials(&format!("--{which}creds"));
        match &self.certificates {
            None => options.push(format!("--{which}tls-verify=false")),
            Some(Certificates { skopeo, .. }) => {
                options.push(format!("--{which}cert-dir={}", skopeo.display()));
            }
        }
        options
    }

    fn of_wharf(&self) -> Vec<String> {
        let mut options = self.credentials("--user");
        if let Some(Certificates { wharf, .. }) = &self.certificates {
            options.push(format!("--ca-file={}", wharf.display()));
        }
        options
    }

    fn of_ctr(&self) -> Vec<String> {
        let mut options = self.credentials("--user");
        match &self.certificates {
            None => options.push("--plain-http".to_owned()),
            Some(Certificates { ctr, .. }) => {
                options.extend(["--hosts-dir".to_owned(), ctr.display().to_string()]);
            }
        }
        options
    }
}
