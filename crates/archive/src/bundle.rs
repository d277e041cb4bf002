//! Runtime bundles: the root file system of an image and the `config.json` that an OCI runtime starts it by (OCI image specification,
//! conversion.md; containerd: `pkg/oci` `WithImageConfig` and its defaults).
//!
//! ```text
//! DIR/rootfs        all layers, one over the other
//! DIR/config.json   what the image's config says, namespaces, mounts, capabilities
//! ```
//!
//! Nothing is run here, and a bundle belongs to one container.

mod config;
mod user;

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::{
    fd::OwnedFd,
    fs::{Mode, OFlags, mkdirat, openat},
};
use serde_json::Value;
use wharf_content::{Descriptor, Error, Provider, Result, ResultExt, read_blob};
use wharf_images::image;

use crate::{
    apply::{Ownership, cannot},
    unpack::{Opened, UnpackOptions, Unpacked, into_place, staging::Staging},
};
use config::ImageConfig;
use user::Accounts;

/// A directory of the host that a container sees.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Bind {
    /// Where it is on the host, as an absolute path.
    pub source: PathBuf,
    /// Where the container sees it, as an absolute path.
    pub destination: String,
    /// Whether the container may write to it.
    pub access: Access,
}

impl Bind {
    /// Shows `source` at `destination`.
    pub fn new(source: impl Into<PathBuf>, destination: impl Into<String>, access: Access) -> Self {
        Self { source: source.into(), destination: destination.into(), access }
    }
}

/// What may be done with what is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Access {
    /// It is read.
    Read,
    /// It is read and written.
    Write,
}

/// Where a container's standard streams go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Streams {
    /// To those of the runtime.
    #[default]
    Plain,
    /// To a terminal of its own.
    Terminal,
}

/// How a bundle is made.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct BundleOptions {
    unpack: UnpackOptions,
    arguments: Option<Vec<String>>,
    environment: Vec<String>,
    directory: Option<String>,
    user: Option<String>,
    binds: Vec<Bind>,
    streams: Streams,
}

impl BundleOptions {
    /// As the image says, for the host's platform.
    pub fn new() -> Self {
        Self::default()
    }

    /// How the image is unpacked. Where files belong to the user, the bundle is one for a user who is not root.
    #[must_use]
    pub fn with_unpack(mut self, unpack: UnpackOptions) -> Self {
        self.unpack = unpack;
        self
    }

    /// What follows the image's entrypoint, in place of its command.
    #[must_use]
    pub fn with_arguments(mut self, arguments: Vec<String>) -> Self {
        self.arguments = Some(arguments);
        self
    }

    /// Adds a variable, as `NAME=VALUE`, in place of the image's of that name.
    #[must_use]
    pub fn with_variable(mut self, variable: impl Into<String>) -> Self {
        self.environment.push(variable.into());
        self
    }

    /// The working directory, in place of the image's.
    #[must_use]
    pub fn with_directory(mut self, directory: impl Into<String>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// The user, as `USER[:GROUP]` by name or number, in place of the image's.
    #[must_use]
    pub fn with_user(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
    }

    /// Adds a directory of the host.
    #[must_use]
    pub fn with_bind(mut self, bind: Bind) -> Self {
        self.binds.push(bind);
        self
    }

    /// Where the standard streams go.
    #[must_use]
    pub fn with_streams(mut self, streams: Streams) -> Self {
        self.streams = streams;
        self
    }
}

/// A bundle that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Bundled {
    /// What was unpacked.
    pub unpacked: Unpacked,
    /// The runtime's configuration, as it was written.
    pub config: Value,
    /// The user whom the image asks for and the container does not get, since there are no other users without root.
    pub left_out_user: Option<String>,
}

/// The most bytes that are written of a configuration's parts that come from outside: more is no command line for any kernel.
const MAX_ARGUMENTS_LEN: usize = 2 * 1024 * 1024;

/// Makes a bundle in `directory`, which is not there yet or is empty.
///
/// Volumes of the image become file systems in memory where the image has nothing at that place; what it has there stays.
///
/// # Errors
/// Those of [`unpack`](crate::unpack()); `InvalidArgument` for an image that has nothing to run, for a user or group that the image does not know, for a
/// working directory, a volume or a bind that is no absolute path, and for a variable without a name.
///
/// # Security
/// The image's accounts are read inside its root, whatever links it has.
///
/// # Cancellation
/// As [`unpack`](crate::unpack()): the directory is not there, and the next one to the same place removes what was made of it.
pub async fn bundle(
    provider: Arc<dyn Provider>,
    target: &Descriptor,
    directory: &Path,
    options: &BundleOptions,
) -> Result<Bundled> {
    let (selection, catalogue) = options.unpack.chosen();
    let manifest = image::manifest(provider.as_ref(), target, selection, catalogue).await?;
    let descriptor = manifest.config()?;
    let bytes = read_blob(provider.as_ref(), descriptor, image::MAX_CONFIG_LEN).await?;
    let config =
        ImageConfig::parse(&bytes).context(|| format!("cannot read config {}", descriptor.digest))?;
    config.check(options)?;
    let image = Opened::of(provider.as_ref(), target, &options.unpack).await?;
    let options = options.clone();
    into_place(directory, move |staging, waiting| {
        let root = make_root(staging)?;
        let unpacked = image.apply(&root, waiting)?;
        let accounts = Accounts::open(root)?;
        let is_rootless = options.unpack.owner() == Ownership::User;
        let (config, left_out_user) = config.convert(&options, &accounts, is_rootless)?;
        write(staging, &config)?;
        Ok(Bundled { unpacked, config, left_out_user })
    })
    .await
}

/// Makes the directory that the image is unpacked into, by descriptor: others may give the bundle's name to something else.
fn make_root(bundle: &Staging) -> Result<OwnedFd> {
    let name = "rootfs";
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    mkdirat(bundle, name, Mode::RWXU)
        .and_then(|()| openat(bundle, name, flags, Mode::empty()))
        .map_err(|error| cannot("make the directory", name.as_bytes(), error))
}

fn write(bundle: &Staging, config: &Value) -> Result<()> {
    let name = "config.json";
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = openat(bundle, name, flags, Mode::RUSR | Mode::WUSR)
        .map_err(|error| cannot("make the file", name.as_bytes(), error))?;
    File::from(file)
        .write_all(format!("{config:#}\n").as_bytes())
        .map_err(|error| Error::io(format!("cannot write {name}"), error))
}
