//! busybox-static of six architectures from Debian. The packages are fetched with a state of apt's own, so that
//! the machine's architectures, package lists and cache stay as they are; its sources and keys are used.

use std::fs;
use std::path::{Path, PathBuf};

use crate::failure::{Context, Failure, Result, ensure};
use crate::process::{Tool, tail};
use crate::programs::{self, apt};
use crate::scratch::Scratch;

/// One platform of the image.
#[derive(Clone, Copy, Debug)]
pub(super) struct Platform {
    /// Debian's name of the architecture.
    pub(super) debian: &'static str,
    /// The name in an image's config.
    pub(super) architecture: &'static str,
    /// The variant, where an index has one.
    pub(super) variant: Option<&'static str>,
    /// The variant in the config as well: only arm images carry it there.
    pub(super) config_variant: bool,
    /// As wharf writes it.
    pub(super) name: &'static str,
}

/// The six platforms, in the order of the index.
pub(super) const PLATFORMS: &[Platform] = &[
    platform("amd64", "amd64", None, "linux/amd64"),
    Platform {
        debian: "armhf",
        architecture: "arm",
        variant: Some("v7"),
        config_variant: true,
        name: "linux/arm/v7",
    },
    platform("arm64", "arm64", Some("v8"), "linux/arm64"),
    platform("i386", "386", None, "linux/386"),
    platform("ppc64el", "ppc64le", None, "linux/ppc64le"),
    platform("s390x", "s390x", None, "linux/s390x"),
];

const fn platform(
    debian: &'static str,
    architecture: &'static str,
    variant: Option<&'static str>,
    name: &'static str,
) -> Platform {
    Platform { debian, architecture, variant, config_variant: false, name }
}

/// The platform of this machine, which a pull takes by default.
pub(super) fn host() -> Result<Platform> {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    };
    let found = PLATFORMS.iter().find(|platform| platform.architecture == architecture);
    found
        .copied()
        .context(format_args!("the image is not for {architecture}, so there is no default to check"))
}

/// The busybox program of one platform, unpacked into `directory`.
pub(super) fn unpack(cache: &Path, platform: Platform, directory: &Path) -> Result<PathBuf> {
    let package = cached(cache, platform)?.context(format_args!("no package for {}", platform.debian))?;
    fs::create_dir_all(directory).context(directory.display())?;
    Tool::new("dpkg-deb").arg("-x").arg(&package).arg(directory).success()?;
    let places = ["bin/busybox", "usr/bin/busybox"].map(|place| directory.join(place));
    let found = places.into_iter().find(|place| place.is_file());
    found.context(format_args!("{} has no busybox", package.display()))
}

/// Makes sure that the packages of all platforms are in the cache.
pub(super) fn fetch(cache: &Path) -> Result<()> {
    let mut missing = Vec::new();
    for platform in PLATFORMS {
        if cached(cache, *platform)?.is_none() {
            missing.push(platform.debian);
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    for program in ["apt-get", "dpkg-deb"] {
        ensure(programs::find(program).is_some(), || {
            format!("busybox-static for {} comes from Debian, and there is no {program}", missing.join(" "))
        })?;
    }
    println!("fetching busybox-static for {}", missing.join(" "));
    let state = Scratch::within(cache, "apt")?;
    let download = state.dir("download")?;
    // A list that cannot be had (a mirror in the middle of an update) need not matter: the download decides.
    let update = private(&state, &missing)?.arg("update").run()?;
    let packages = missing.iter().map(|debian| format!("busybox-static:{debian}"));
    let fetched = private(&state, &missing)?.dir(&download).arg("download").args(packages).run()?;
    if fetched.code != 0 {
        let said = [tail(&update.stderr), tail(&fetched.stderr)].join("\n");
        return Err(Failure::new(format!(
            "`{}` ended with exit code {}\n{said}",
            fetched.shown, fetched.code
        )));
    }
    for entry in fs::read_dir(&download).context(download.display())? {
        let entry = entry.context(download.display())?;
        fs::rename(entry.path(), cache.join(entry.file_name())).context(entry.path().display())?;
    }
    Ok(())
}

/// A call of apt-get with lists, cache and installed packages of its own.
fn private(state: &Scratch, architectures: &[&str]) -> Result<Tool> {
    let status = state.path().join("status");
    fs::write(&status, "").context(status.display())?;
    state.dir("lists/partial")?;
    state.dir("cache/archives/partial")?;
    let options = [
        format!("Dir::State::status={}", status.display()),
        format!("Dir::State::lists={}", state.path().join("lists").display()),
        format!("Dir::Cache={}", state.path().join("cache").display()),
        // The user that apt downloads as cannot write here, and need not.
        "APT::Sandbox::User=root".to_owned(),
        "Acquire::Languages=none".to_owned(),
        "Acquire::Retries=3".to_owned(),
        format!("APT::Architectures={}", architectures.join(",")),
    ];
    Ok(options.iter().fold(apt(), |tool, option| tool.arg("-o").arg(option)))
}

/// The package of a platform, if the cache has it.
fn cached(cache: &Path, platform: Platform) -> Result<Option<PathBuf>> {
    let end = format!("_{}.deb", platform.debian);
    for entry in fs::read_dir(cache).context(cache.display())? {
        let entry = entry.context(cache.display())?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("busybox-static_") && name.ends_with(&end) {
            return Ok(Some(entry.path()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_told_apart_in_the_cache() {
        let cache = Scratch::new("busybox").unwrap();
        let [amd64, _, arm64, ..] = PLATFORMS else { panic!("there are six platforms") };
        assert_eq!(cached(cache.path(), *amd64).unwrap(), None);
        let file = cache.path().join("busybox-static_1%3a1.35.0-4_arm64.deb");
        fs::write(&file, "").unwrap();
        assert_eq!(cached(cache.path(), *arm64).unwrap(), Some(file));
        assert_eq!(cached(cache.path(), *amd64).unwrap(), None);
    }
}
