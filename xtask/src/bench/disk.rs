//! A file system for each run that makes many files. On one where many were removed lately ext4 goes round their inodes one by one
//! (fs/ext4/ialloc.c, `recently_deleted`), so that whoever comes next is measured by what another one left.
//!
//! It is ext4 on a loop device, in a mount namespace of this program's own: the mounts end with it, on every path.

use std::fs::File;
use std::io::{Write as _, copy, repeat};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::failure::{Context, Failure, Result, ensure};
use crate::process::Tool;

/// Set where this program runs in a namespace of its own.
const MARK: &str = "WHARF_BENCH_NAMESPACE";
/// As much as any of the contenders needs.
const LEN: u64 = 4 << 30;

/// Whether mounts are this program's own. Where they are not, the same command is run once more so that they are, and `false` says that all is done.
pub(super) fn is_apart() -> Result<bool> {
    if std::env::var_os(MARK).is_some() {
        return Ok(true);
    }
    let program = std::env::current_exe().context("this program")?;
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "--"]).arg(program);
    let status = command.args(std::env::args_os().skip(1)).env(MARK, "1").status().context("unshare")?;
    ensure(status.success(), || format!("the benchmark in a mount namespace of its own: {status}"))?;
    Ok(false)
}

/// Where file systems are made, one after the other.
#[derive(Debug)]
pub(super) struct Disk {
    image: PathBuf,
}

impl Disk {
    /// Takes all of its room now, so that no run pays for it.
    pub(super) fn make(image: PathBuf) -> Result<Self> {
        let mut file = File::create(&image).context(image.display())?;
        let zeros = &mut std::io::Read::take(repeat(0), LEN);
        copy(zeros, &mut file)
            .and_then(|_| file.flush())
            .and_then(|()| file.sync_all())
            .context(image.display())?;
        Ok(Self { image })
    }

    /// Mounts an empty file system on a directory.
    pub(super) fn mount(&self, directory: &Path) -> Result<()> {
        // Nothing is left to be done in the background.
        let options = "nodiscard,lazy_itable_init=0,lazy_journal_init=0";
        Tool::new("mkfs.ext4").args(["-q", "-F", "-E", options]).arg(&self.image).success()?;
        // Past the cache of the file system below, which would have everything twice.
        let attach = Tool::new("losetup").args(["--find", "--show", "--direct-io=on"]).arg(&self.image);
        let device = attach.text()?.trim().to_owned();
        let mounted = Tool::new("mount").args(["-t", "ext4", &device]).arg(directory).success();
        // It goes away with the mount, or now.
        Tool::new("losetup").args(["--detach", &device]).success()?;
        mounted.map(drop)
    }

    /// Takes away the file system that is mounted on a directory, with what is in it.
    pub(super) fn unmount(directory: &Path) -> Result<()> {
        // Who was measured has ended, and what it started may have a moment to go.
        for _ in 0..50 {
            if Tool::new("umount").arg(directory).run()?.code == 0 {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(100));
        }
        Err(Failure::new(format!("{} stays mounted: somebody uses it", directory.display())))
    }
}
