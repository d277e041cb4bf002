//! What cargo knows and does: where things are, and the tasks that are little more than a call of it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cargo_metadata::{CargoOpt, Metadata, MetadataCommand};
use serde_json::Value;

use crate::failure::{Context, Result};
use crate::process::Tool;

/// How long a build of tests may take.
const BUILD_LIMIT: Duration = Duration::from_secs(1200);

/// The workspace and the directory its builds go to.
#[derive(Debug)]
pub(crate) struct Workspace {
    /// Where the workspace's Cargo.toml is.
    pub(crate) root: PathBuf,
    /// Where cargo puts what it builds; `CARGO_TARGET_DIR` and configuration are honoured.
    pub(crate) target: PathBuf,
}

impl Workspace {
    /// Asks cargo.
    pub(crate) fn find() -> Result<Self> {
        let metadata = metadata_command().no_deps().exec().context("cargo metadata")?;
        Ok(Self {
            root: metadata.workspace_root.into_std_path_buf(),
            target: metadata.target_directory.into_std_path_buf(),
        })
    }

    /// A call of the cargo that runs us, in the workspace.
    pub(crate) fn cargo(&self) -> Tool {
        cargo(&self.root)
    }

    /// Builds the program and says where it is. `profile` is `debug` or `release`.
    pub(crate) fn build_wharf(&self, profile: Profile) -> Result<PathBuf> {
        self.build("wharf", profile)
    }

    /// Builds the program that a third party makes of wharf and a plugin, as it would be shipped, and says where it is.
    pub(crate) fn build_cookbook_wharf(&self) -> Result<PathBuf> {
        self.build("cookbook-wharf", Profile::Release)
    }

    /// Builds a package and says where its program is, which has its name.
    fn build(&self, package: &str, profile: Profile) -> Result<PathBuf> {
        let build = self.cargo().args(["build", "--locked", "--package", package]);
        match profile {
            Profile::Debug => build.pass_through()?,
            Profile::Release => build.arg("--release").pass_through()?,
        }
        Ok(self.target.join(profile.directory()).join(package))
    }

    /// Builds the program that the benchmark of the store commits with, as it would be shipped, and says where it is.
    pub(crate) fn build_bench_store(&self) -> Result<PathBuf> {
        self.build_bench("bench_store")
    }

    /// Builds the program that the benchmark of graphs consists of, and says where it is.
    pub(crate) fn build_bench_graph(&self) -> Result<PathBuf> {
        self.build_bench("bench_graph")
    }

    /// Builds the token server of the tests and says where it is.
    pub(crate) fn build_token_server(&self) -> Result<PathBuf> {
        self.build_helper("token_server")
    }

    /// Builds the program of the tests that applies layers, and says where it is.
    pub(crate) fn build_apply_layers(&self) -> Result<PathBuf> {
        self.build_helper("apply_layers")
    }

    /// Builds the crowd of clients of the tests and says where it is.
    pub(crate) fn build_registry_load(&self) -> Result<PathBuf> {
        self.build_helper("registry_load")
    }

    /// Builds the unit tests of a package and says where their program is.
    pub(crate) fn build_unit_tests(&self, package: &str) -> Result<PathBuf> {
        let what = ["test", "--quiet", "--locked", "--package", package, "--lib", "--no-run"];
        let told = self.cargo().args(what).arg("--message-format=json").limit(BUILD_LIMIT).text()?;
        let library = package.replace('-', "_");
        let mut built = told.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let program = built.find_map(|message| {
            let is_it = message["target"]["name"] == library.as_str();
            message["executable"].as_str().filter(|_| is_it).map(PathBuf::from)
        });
        program.context(format_args!("cargo tells of no unit tests of {package}"))
    }

    fn build_helper(&self, name: &str) -> Result<PathBuf> {
        // With the features of the tests, which have it built already.
        let what = ["build", "--quiet", "--locked", "--workspace", "--all-features", "--bin", name];
        self.cargo().args(what).pass_through()?;
        Ok(self.target.join(Profile::Debug.directory()).join(name))
    }

    fn build_bench(&self, name: &str) -> Result<PathBuf> {
        let what = ["build", "--release", "--locked", "--package", "wharf-tests", "--bin", name];
        self.cargo().args(what).pass_through()?;
        Ok(self.target.join(Profile::Release.directory()).join(name))
    }

    /// The program to look at: the one given, else a release build.
    pub(crate) fn wharf(&self, given: Option<&Path>) -> Result<PathBuf> {
        match given {
            Some(path) => path.canonicalize().context(path.display()),
            None => self.build_wharf(Profile::Release),
        }
    }
}

/// How the program is built.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Profile {
    /// Quickly.
    Debug,
    /// As it is shipped.
    Release,
}

impl Profile {
    fn directory(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Release => "release",
        }
    }
}

/// The resolved dependency graph with all features; fails when Cargo.lock is not in step.
pub(crate) fn metadata() -> Result<Metadata> {
    metadata_command()
        .features(CargoOpt::AllFeatures)
        .other_options(vec!["--locked".to_owned()])
        .exec()
        .context("cargo metadata --locked")
}

/// The resolved dependency graph of the fuzz targets, which are a workspace of their own; fails when their Cargo.lock is not in step.
pub(crate) fn fuzz_metadata(workspace: &Workspace) -> Result<Metadata> {
    MetadataCommand::new()
        .manifest_path(workspace.root.join("tests/fuzz/Cargo.toml"))
        .other_options(vec!["--locked".to_owned()])
        .exec()
        .context("cargo metadata --locked in tests/fuzz")
}

/// `cargo xtask test`: every test that needs no system package.
pub(crate) fn test() -> Result<()> {
    let workspace = Workspace::find()?;
    workspace.cargo().args(["test", "--workspace", "--all-features", "--locked"]).pass_through()
}

/// `cargo xtask demo`: the program at work.
pub(crate) fn demo() -> Result<()> {
    let workspace = Workspace::find()?;
    let wharf = workspace.build_wharf(Profile::Debug)?;
    let run = ["run", "--quiet", "--locked", "--package", "wharf-tests", "--bin", "demo", "--"];
    workspace.cargo().args(run).arg(wharf).pass_through()
}

fn metadata_command() -> MetadataCommand {
    let mut command = MetadataCommand::new();
    command.manifest_path(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"));
    command
}

fn cargo(root: &Path) -> Tool {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    Tool::new(program).dir(root)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workspace_is_found_from_here() {
        let workspace = Workspace::find().unwrap();
        assert!(workspace.root.join("xtask/Cargo.toml").exists());
        assert!(workspace.target.is_absolute());
    }
}
