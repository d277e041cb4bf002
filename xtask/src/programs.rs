//! The system's programs that wharf is compared with, installed with apt where they are missing.
//!
//! Nothing is skipped: what is needed and cannot be had is a failure that names it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::failure::{Context, Failure, Result};
use crate::process::{Tool, tail};

/// How long one call of apt may take.
const APT_LIMIT: Duration = Duration::from_secs(600);

/// Marks the policy file as ours, so that one left by a killed run is recognised.
const POLICY: &str =
    "#!/bin/sh\n# Put here by wharf's cargo xtask while it installs packages: start no service.\nexit 101\n";

/// A program and the Debian package that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Program {
    /// The name of the executable.
    pub(crate) name: &'static str,
    /// The package to install.
    pub(crate) package: &'static str,
}

/// What the integration steps need.
pub(crate) const INTEGRATION: &[Program] = &[
    Program { name: "docker-registry", package: "docker-registry" },
    Program { name: "skopeo", package: "skopeo" },
    Program { name: "umoci", package: "umoci" },
    Program { name: "containerd", package: "containerd" },
    Program { name: "ctr", package: "containerd" },
    Program { name: "runc", package: "runc" },
    Program { name: "strace", package: "strace" },
    Program { name: "python3", package: "python3" },
    Program { name: "perl", package: "perl-base" },
    Program { name: "tar", package: "tar" },
    Program { name: "setpriv", package: "util-linux" },
    Program { name: "c++", package: "g++" },
];

/// What the fuzz targets need: libFuzzer is compiled from source.
pub(crate) const FUZZ: &[Program] = &[Program { name: "c++", package: "g++" }];

/// What the benchmarks of images need.
pub(crate) const BENCH: &[Program] = &[
    Program { name: "docker-registry", package: "docker-registry" },
    Program { name: "skopeo", package: "skopeo" },
    Program { name: "containerd", package: "containerd" },
    Program { name: "ctr", package: "containerd" },
    Program { name: "curl", package: "curl" },
    Program { name: "umoci", package: "umoci" },
    Program { name: "tar", package: "tar" },
    Program { name: "mkfs.ext4", package: "e2fsprogs" },
];

/// Makes sure that all of them are there. `may_install` is whether apt may be asked.
pub(crate) fn require(programs: &[Program], may_install: bool) -> Result<()> {
    let packages = packages(&missing(programs));
    if packages.is_empty() {
        return Ok(());
    }
    let named = packages.join(" ");
    if !may_install {
        return Err(Failure::new(format!("not installed: {named}")));
    }
    if find("apt-get").is_none() {
        return Err(Failure::new(format!("not installed, and there is no apt-get to install them: {named}")));
    }
    if !is_root()? {
        return Err(Failure::new(format!(
            "not installed, and only root may install them: apt-get install --no-install-recommends {named}"
        )));
    }
    install(&packages)?;
    match missing(programs).first() {
        None => Ok(()),
        Some(program) => Err(Failure::new(format!(
            "{} was installed, but there is still no program {}",
            program.package, program.name
        ))),
    }
}

/// Whether this process may do everything.
pub(crate) fn is_root() -> Result<bool> {
    Ok(Tool::new("id").arg("-u").text()? == "0")
}

/// Finds a program on the path, or where system programs are, which an ordinary user's path leaves out.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(system).map(|dir| dir.join(name)).find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

fn missing(programs: &[Program]) -> Vec<Program> {
    programs.iter().copied().filter(|program| find(program.name).is_none()).collect()
}

/// The packages of these programs, each once, in order.
fn packages(programs: &[Program]) -> Vec<&'static str> {
    let mut packages: Vec<_> = programs.iter().map(|program| program.package).collect();
    packages.sort_unstable();
    packages.dedup();
    packages
}

fn install(packages: &[&str]) -> Result<()> {
    println!("installing {}", packages.join(" "));
    let _policy = Policy::set()?;
    // One index that cannot be had (a mirror in the middle of an update) need not matter: installing decides.
    let update = apt().arg("update").run()?;
    let install = apt()
        .args(["install", "--yes", "--no-install-recommends", "-o", "Dpkg::Use-Pty=0"])
        .args(packages)
        .run()?;
    match install.code {
        0 => Ok(()),
        code => Err(Failure::new(format!(
            "`{}` ended with exit code {code}\n{}\n{}",
            install.shown,
            tail(&update.stderr),
            tail(&install.stderr)
        ))),
    }
}

/// A call of apt-get that asks nothing.
pub(crate) fn apt() -> Tool {
    Tool::new("apt-get").arg("--quiet").env("DEBIAN_FRONTEND", "noninteractive").limit(APT_LIMIT)
}

/// Keeps packages from starting their services while they are installed; see invoke-rc.d(8).
#[derive(Debug)]
struct Policy {
    ours: bool,
}

impl Policy {
    const PATH: &'static str = "/usr/sbin/policy-rc.d";

    fn set() -> Result<Self> {
        let path = Path::new(Self::PATH);
        let ours = !path.exists() || fs::read(path).is_ok_and(|found| found == POLICY.as_bytes());
        if ours {
            fs::write(path, POLICY).context(Self::PATH)?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).context(Self::PATH)?;
        }
        Ok(Self { ours })
    }
}

impl Drop for Policy {
    fn drop(&mut self) {
        if self.ours
            && let Err(error) = fs::remove_file(Self::PATH)
        {
            eprintln!("warning: cannot remove {}: {error}", Self::PATH);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOWHERE: Program = Program { name: "no-such-program-at-all", package: "nothing" };

    #[test]
    fn programs_are_found_or_missing() {
        assert!(find("sh").is_some());
        assert_eq!(missing(&[Program { name: "sh", package: "dash" }, NOWHERE]), [NOWHERE]);
    }

    #[test]
    fn what_is_missing_and_may_not_be_installed_fails() {
        let error = require(&[NOWHERE], false).unwrap_err().to_string();
        assert_eq!(error, "not installed: nothing");
    }

    #[test]
    fn packages_are_named_once() {
        assert_eq!(
            packages(INTEGRATION),
            [
                "containerd",
                "docker-registry",
                "g++",
                "perl-base",
                "python3",
                "runc",
                "skopeo",
                "strace",
                "tar",
                "umoci",
                "util-linux"
            ]
        );
    }
}
