//! containerd with everything of its own in a temporary directory, for its importer and exporter.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::failure::{Context, Failure, Result, ensure};
use crate::process::{Daemon, Tool};

/// How long containerd has for answering.
const READY: Duration = Duration::from_secs(30);

/// The namespace that images are imported into.
const NAMESPACE: &str = "wharf";

/// A running containerd.
#[derive(Debug)]
pub(crate) struct Containerd {
    socket: PathBuf,
    _daemon: Daemon,
}

impl Containerd {
    /// Starts one whose files are all in `directory`.
    pub(crate) fn start(directory: &Path) -> Result<Self> {
        let socket = directory.join("c.sock");
        // The kernel's limit for the path of a socket; containerd adds `.ttrpc`.
        ensure(socket.as_os_str().len() < 100, || format!("{} is too long", socket.display()))?;
        let file = directory.join("containerd.toml");
        fs::write(&file, configuration(directory)).context(file.display())?;
        let mut daemon =
            Daemon::start("containerd", Tool::new("containerd").arg("--config").arg(&file), directory)?;
        let answers = |_: &Daemon| {
            let answer = ctr(&socket).arg("version").limit(Duration::from_secs(5)).run();
            answer.is_ok_and(|answer| answer.code == 0).then_some(())
        };
        daemon.ready(READY, answers)?;
        Ok(Self { socket, _daemon: daemon })
    }

    /// Imports an archive, as ctr's `options` say, and unpacks this host's platform of it.
    pub(super) fn import(&self, archive: &Path, options: &[&str]) -> Result<()> {
        let tool = self.ctr().args(["images", "import", "--snapshotter", "native"]).args(options);
        tool.arg(archive).success().map(drop)
    }

    /// Pulls an image of this host's platform from a registry that speaks plain HTTP, and unpacks it.
    pub(super) fn pull(&self, image: &str) -> Result<()> {
        let tool = self.ctr().args(["images", "pull", "--plain-http", "--snapshotter", "native"]);
        tool.arg(image).success().map(drop)
    }

    /// Pulls an image as [`Self::pull`] does, and unpacks it into layers for overlayfs.
    pub(super) fn pull_layers(&self, image: &str) -> Result<()> {
        let tool = self.ctr().args(["images", "pull", "--plain-http", "--snapshotter", "overlayfs"]);
        tool.arg(image).success().map(drop)
    }

    /// Mounts the layers of an image, in the namespace that `wrapper` enters.
    pub(super) fn mount(&self, image: &str, directory: &Path, wrapper: &[OsString]) -> Result<()> {
        let [program, rest @ ..] = wrapper else { return Err(Failure::new("no namespace to mount in")) };
        let tool = Tool::new(program).args(rest).arg("ctr").arg("--address").arg(&self.socket);
        let tool = tool.args(["--namespace", NAMESPACE, "images", "mount", "--snapshotter", "overlayfs"]);
        tool.arg(image).arg(directory).success().map(drop)
    }

    /// Exports an image, as ctr's `options` say.
    pub(super) fn export(&self, image: &str, archive: &Path, options: &[&str]) -> Result<()> {
        let tool = self.ctr().args(["images", "export"]).args(options);
        tool.arg(archive).arg(image).success().map(drop)
    }

    /// A fetch of an image, without unpacking it.
    pub(crate) fn fetch(&self, image: &str) -> Tool {
        self.ctr().args(["content", "fetch", "--plain-http", image])
    }

    /// A pull of an image that is unpacked for overlayfs.
    pub(crate) fn pull_for_overlay(&self, image: &str) -> Tool {
        self.ctr().args(["images", "pull", "--plain-http", "--snapshotter", "overlayfs", image])
    }

    /// The images that are there: name, media type and digest.
    pub(super) fn images(&self) -> Result<Vec<[String; 3]>> {
        self.images_in(NAMESPACE)
    }

    /// The images of a namespace of the caller's.
    pub(super) fn images_in(&self, namespace: &str) -> Result<Vec<[String; 3]>> {
        Ok(images(&self.within(namespace).args(["images", "ls"]).text()?))
    }

    /// A call of ctr in a namespace of the caller's, which has nothing that other namespaces have.
    pub(super) fn within(&self, namespace: &str) -> Tool {
        ctr(&self.socket).args(["--namespace", namespace])
    }

    fn ctr(&self) -> Tool {
        self.within(NAMESPACE)
    }
}

fn ctr(socket: &Path) -> Tool {
    Tool::new("ctr").arg("--address").arg(socket)
}

/// Reads ctr's table; its first line is the head.
fn images(table: &str) -> Vec<[String; 3]> {
    let rows = table.lines().skip(1).map(|line| line.split_whitespace().map(str::to_owned));
    rows.filter_map(|mut fields| Some([fields.next()?, fields.next()?, fields.next()?])).collect()
}

/// Nothing but what an import takes: no CRI, no snapshotter that wants a file system of its own.
fn configuration(directory: &Path) -> String {
    let directory = directory.display();
    format!(
        "version = 2\n\
         root = \"{directory}/root\"\n\
         state = \"{directory}/state\"\n\
         disabled_plugins = [\n  \
           \"io.containerd.grpc.v1.cri\",\n  \
           \"io.containerd.internal.v1.opt\",\n  \
           \"io.containerd.snapshotter.v1.aufs\",\n  \
           \"io.containerd.snapshotter.v1.btrfs\",\n  \
           \"io.containerd.snapshotter.v1.devmapper\",\n  \
           \"io.containerd.snapshotter.v1.zfs\",\n\
         ]\n\
         [plugins.\"io.containerd.metadata.v1.bolt\"]\n  content_sharing_policy = \"isolated\"\n\
         [grpc]\n  address = \"{directory}/c.sock\"\n\
         [debug]\n  level = \"warn\"\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_read() {
        let table = "REF TYPE DIGEST SIZE PLATFORMS LABELS\na:1 t/x sha256:00 1 KiB linux/amd64 -\n";
        assert_eq!(images(table), [["a:1", "t/x", "sha256:00"].map(str::to_owned)]);
        assert!(images("REF TYPE DIGEST SIZE PLATFORMS LABELS\n").is_empty());
    }

    #[test]
    fn everything_is_in_the_directory() {
        let text = configuration(Path::new("/d"));
        for line in ["root = \"/d/root\"", "state = \"/d/state\"", "address = \"/d/c.sock\""] {
            assert!(text.contains(line), "{text}");
        }
    }
}
