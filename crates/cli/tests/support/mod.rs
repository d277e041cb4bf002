//! The program in a directory of its own, for tests that run it as a user does.

#![allow(dead_code, reason = "each test binary uses what it needs")]

use std::{
    fs::File,
    path::Path,
    process::{Command, Output},
};

use wharf_content::{Catalogue, read_blob};
use wharf_images::{Image, Selection, image};
use wharf_tests::{FakeServer, ImageFixture, Layer, Reply, TestRegistry};

/// A directory of its own, and the program that works in it.
pub(crate) struct Wharf {
    pub(crate) dir: tempfile::TempDir,
}

impl Wharf {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("temporary directory") }
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wharf"));
        command.env("WHARF_ROOT", self.dir.path().join("store")).env("WHARF_PLUGIN_DIR", "");
        // What this machine has configured is no matter of the tests.
        command.env("WHARF_HOSTS_DIR", "").env("CONTAINERS_REGISTRIES_CONF", "");
        // Whoever runs the tests may be logged in somewhere.
        command.env("HOME", self.dir.path()).env_remove("XDG_CONFIG_HOME").env_remove("XDG_RUNTIME_DIR");
        command.env_remove("DOCKER_CONFIG").env_remove("REGISTRY_AUTH_FILE");
        command.env_remove("WHARF_LOG").args(arguments);
        command
    }

    /// Runs on another thread, so that a registry in this process can answer.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Done {
        let mut command = self.command(arguments);
        let output = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic");
        Done(output.expect("the program runs"))
    }

    /// Runs with a standard output that has no room.
    pub(crate) async fn run_into_full(&self, arguments: &[&str]) -> Done {
        let mut command = self.command(arguments);
        command.stdout(File::options().write(true).open("/dev/full").expect("a device of Linux"));
        let output = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic");
        Done(output.expect("the program runs"))
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }
}

pub(crate) struct Done(pub(crate) Output);

impl Done {
    pub(crate) fn code(&self) -> i32 {
        self.0.status.code().expect("it exits by itself")
    }

    pub(crate) fn out(&self) -> String {
        String::from_utf8_lossy(&self.0.stdout).into_owned()
    }

    pub(crate) fn err(&self) -> String {
        String::from_utf8_lossy(&self.0.stderr).into_owned()
    }

    #[track_caller]
    pub(crate) fn succeeded(self) -> String {
        assert_eq!(self.code(), 0, "{}", self.err());
        self.out()
    }

    #[track_caller]
    pub(crate) fn failed(self, code: i32) -> String {
        assert_eq!(self.code(), code, "{}", self.err());
        assert_eq!(self.out(), "", "standard output is for data");
        self.err()
    }
}

pub(crate) fn three_platforms() -> ImageFixture {
    ["linux/amd64", "linux/arm64", "linux/s390x"].into_iter().fold(ImageFixture::new(), |image, platform| {
        image.with(platform, vec![Layer::noise("data", 5_000, 1), Layer::of("platform", platform)])
    })
}

/// A registry that has what `registry` has, but sends no more than the first bytes of large content, and then nothing.
pub(crate) async fn stalling(registry: &TestRegistry, image: &Image, sent: usize) -> FakeServer {
    let check = check_all(registry, image).await;
    let mut contents = Vec::new();
    for descriptor in check.present {
        let bytes = read_blob(registry.store(), &descriptor, 1 << 30).await.expect("reads");
        contents.push((descriptor, bytes));
    }
    FakeServer::start(move |request| {
        let found = contents.iter().find(|(part, _)| request.path.ends_with(part.digest.as_str()));
        let (part, bytes) = found.unwrap_or(&contents[0]);
        let (digest, len) = (part.digest.to_string(), bytes.len().to_string());
        let headers = [
            ("Content-Type", &*part.media_type),
            ("Docker-Content-Digest", &digest),
            ("Content-Length", &len),
        ];
        match request.method.as_str() {
            "HEAD" => Reply::new(200, &headers, ""),
            _ if bytes.len() > sent => Reply::new(200, &headers, &bytes[..sent]).stalling(),
            _ => Reply::new(200, &headers, bytes),
        }
    })
    .await
}

async fn check_all(registry: &TestRegistry, image: &Image) -> image::Check {
    let store = registry.shared_store();
    image::check(store, &image.target, &Selection::all(), Catalogue::linked()).await.expect("checks")
}

/// The bytes of the largest ingest that is not finished; the small ones beside it may be done or not.
pub(crate) fn partial(ingest: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(ingest) else { return 0 };
    let sizes = entries.flatten().filter_map(|entry| entry.path().join("data").metadata().ok());
    sizes.map(|metadata| metadata.len()).max().unwrap_or(0)
}
