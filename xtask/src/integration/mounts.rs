//! A small file system of a step's own, in a mount namespace of its own: the mount ends with the process that
//! holds the namespace, on every path, even when this program is killed.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::failure::{Context, Result};
use crate::process::{Daemon, Tool};

/// How long a holder stays at most.
const LIFE: &str = "900";

/// A tmpfs that only its own namespace sees.
#[derive(Debug)]
pub(super) struct SmallDisk {
    holder: Daemon,
    directory: PathBuf,
}

impl SmallDisk {
    /// Mounts one with these options (`size=48m,nr_inodes=100`) on `directory`, which is made.
    pub(super) fn mount(directory: &Path, options: &str, logs: &Path) -> Result<Self> {
        fs::create_dir_all(directory).context(directory.display())?;
        let script =
            format!("mount -t tmpfs -o {options},mode=0700 wharf \"$1\" && echo up && exec sleep {LIFE}");
        let tool = Tool::new("unshare").args(["--mount", "sh", "-c", &script, "sh"]).arg(directory);
        let mut holder = Daemon::start("small-disk", tool, logs)?;
        holder.ready(Duration::from_secs(20), |holder| (holder.stdout() == "up\n").then_some(()))?;
        Ok(Self { holder, directory: directory.to_owned() })
    }

    /// The mount point, as whoever is in the namespace sees it.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The mount point as this process can read it.
    pub(super) fn seen(&self) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.holder.id()));
        root.join(self.directory.strip_prefix("/").unwrap_or(&self.directory))
    }

    /// What runs a program in the namespace.
    pub(super) fn wrapper(&self) -> Vec<OsString> {
        let holder = self.holder.id().to_string();
        ["nsenter", "--mount", "--target", &holder, "--"].map(OsString::from).to_vec()
    }

    /// Mounts it again with other options.
    pub(super) fn remount(&self, options: &str) -> Result<()> {
        let wrapper = self.wrapper();
        let [program, rest @ ..] = wrapper.as_slice() else { return Ok(()) };
        let tool = Tool::new(program).args(rest).args(["mount", "-o", &format!("remount,{options}")]);
        tool.arg(&self.directory).success().map(drop)
    }
}

/// The mounts of this process at or below a directory.
pub(super) fn below(directory: &Path) -> Result<Vec<String>> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("/proc/self/mounts")?;
    Ok(points(&mounts, directory))
}

fn points(mounts: &str, directory: &Path) -> Vec<String> {
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    points.filter(|point| Path::new(point).starts_with(directory)).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_below_are_found() {
        let mounts = "tmpfs /a/b tmpfs rw 0 0\nproc /proc proc rw 0 0\ntmpfs /a/bc tmpfs rw 0 0\n";
        assert_eq!(points(mounts, Path::new("/a/b")), ["/a/b"]);
        assert_eq!(points(mounts, Path::new("/x")), [""; 0]);
    }
}
