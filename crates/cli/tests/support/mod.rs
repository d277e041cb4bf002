//! The program in a directory of its own, for tests that run it as a user does.

#![allow(dead_code, reason = "each test binary uses what it needs")]

use std::{
    fs::File,
    process::{Command, Output},
};

use wharf_tests::{ImageFixture, Layer};

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
