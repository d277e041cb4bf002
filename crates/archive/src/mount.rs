//! Mounting an image: its unpacked layers put together by overlayfs, to be read or, with a place for changes, to be written.
//!
//! ```text
//! mounts/<sha256(directory)>/upper, work    the changes of a writable mount
//! mounts/<sha256(directory)>/chain-id       the image that they are changes of
//! ```
//!
//! A mount outlives the process that made it, so that a lease named `mount-…` holds its layers until [`unmount`]. It tells the directory and
//! the boot of the machine in its labels: what was mounted before another boot is not any more. Only root can mount; nothing here makes user
//! namespaces.

mod overlay;

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::{ffi::OsStrExt, fs::DirBuilderExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::{
    fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx},
    mount::UnmountFlags,
};
use wharf_content::{
    Descriptor, Digest, Error, ErrorKind, Labels, LeaseManager, LeaseOptions, LeasedStore, Result, ResultExt,
    Store, blocking, filter::FilterSet,
};

use crate::{
    apply::{Ownership, remove_tree},
    layer_store::{LayerStore, UnpackedLayers, copy_directory, unpack_layers},
    unpack::UnpackOptions,
};
use overlay::{Changes, Overlay};

/// Label on a mount's lease: the directory.
const LABEL_DIRECTORY: &str = "wharf/mount.directory";
/// Label on a mount's lease: the boot of the machine.
const LABEL_BOOT: &str = "wharf/mount.boot";
/// Begins the names of mounts' leases.
const PREFIX: &str = "mount-";

/// Who may write to a mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Access {
    /// Nobody.
    #[default]
    ReadOnly,
    /// Everybody whom the files' modes allow. What changes is kept in the store, beside the layers, and is there again at the next mount of
    /// the same image on the same directory.
    Writable,
}

/// What becomes of what was written to a mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Written {
    /// It is there again at the next mount.
    #[default]
    Kept,
    /// It is thrown away.
    Removed,
}

/// An image that is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Mounted {
    /// Where.
    pub directory: PathBuf,
    /// The layers that it is made of.
    pub unpacked: UnpackedLayers,
    /// Where changes are kept, of a writable mount.
    pub changes: Option<PathBuf>,
}

/// Mounts an image on a directory, and unpacks those of its layers that are not unpacked yet.
///
/// # Errors
/// `PermissionDenied` for who is not root; `NotFound` and `InvalidArgument` for a directory that is not there or is none; `AlreadyExists` where
/// something is mounted on it; `FailedPrecondition` for an image without layers, changes of another image, and more layers than overlayfs
/// takes; `NotImplemented` on a system without overlayfs; those of [`unpack_layers`].
///
/// # Cancellation
/// It is mounted or not; a lease that holds the layers of what is not mounted goes at the next [`unmount`] of the directory.
pub async fn mount(
    store: &Arc<LeasedStore>,
    target: &Descriptor,
    directory: &Path,
    access: Access,
    options: &UnpackOptions,
) -> Result<Mounted> {
    if !rustix::process::geteuid().is_root() {
        return Err(Error::new(
            ErrorKind::PermissionDenied,
            "only root can mount: run it as root, or unpack the image into a directory",
        ));
    }
    let directory = absolute(directory, "make it first")?;
    if is_mount_point(&directory)? {
        return Err(Error::new(
            ErrorKind::AlreadyExists,
            format!(
                "something is mounted on {} already: unmount it, or take another directory",
                directory.display()
            ),
        ));
    }
    let layers = LayerStore::of(store.as_ref())?;
    let leases = leases(store.as_ref())?;
    let options = options.clone().with_ownership(Ownership::Image);
    let unpacked = unpack_layers(store, target, &options).await?;
    let Some(chain_id) = unpacked.chain_id().cloned() else {
        return Err(Error::failed_precondition("the image has no layers: there is nothing to mount"));
    };
    let id = lease_id(&directory);
    // What is not mounted any more, since nothing is mounted there.
    forget(leases, &id).await?;
    let labels = Labels::from([
        (LABEL_DIRECTORY.to_owned(), directory.display().to_string()),
        (LABEL_BOOT.to_owned(), boot()?),
    ]);
    leases.create_lease(LeaseOptions::new().with_id(&id).with_labels(labels)).await?;
    leases.add_resource(&id, &LayerStore::resource(&chain_id)).await?;
    let topmost_first: Vec<PathBuf> =
        unpacked.layers.iter().rev().map(|layer| layer.directory.clone()).collect();
    let at = directory.clone();
    let outcome = blocking::run(move || {
        let changes = match access {
            Access::ReadOnly => None,
            Access::Writable => Some(changes(&layers, &at, &chain_id, &topmost_first[0])?),
        };
        let empty = layers.empty()?;
        Overlay::new(topmost_first, &empty, changes.as_ref())?.mount(&at)?;
        Ok(changes.map(|changes| changes.upper))
    })
    .await;
    match outcome {
        Ok(changes) => Ok(Mounted { directory, unpacked, changes }),
        Err(error) => {
            forget(leases, &id).await?;
            Err(error)
        }
    }
}

/// Ends a mount that [`mount`] made, and lets go of its layers.
///
/// [`Written::Removed`] also removes what an earlier mount on the directory has left, where nothing is mounted on it any more or it has gone.
///
/// # Errors
/// `NotFound` where no image of this store is mounted, and none has left what is to be removed; `FailedPrecondition` while somebody uses it, and
/// where something else is mounted on the directory of what is to be removed; `PermissionDenied` for who is not root.
///
/// # Cancellation
/// What is unmounted stays so; the next unmount does the rest.
pub async fn unmount(store: &dyn Store, directory: &Path, written: Written) -> Result<()> {
    let layers = LayerStore::of(store)?;
    let directory = match written {
        Written::Kept => absolute(directory, "nothing is mounted there")?,
        Written::Removed => absolute(directory, "name the one that was there by its full path")
            .or_else(|error| gone(directory).ok_or(error))?,
    };
    let leases = leases(store)?;
    let id = lease_id(&directory);
    let known = leases.list_leases(&FilterSet::all()).await?;
    if !known.iter().any(|lease| lease.id == id) {
        let shown = directory.display();
        return match written {
            Written::Kept => Err(Error::not_found(format!("no image of this store is mounted on {shown}"))),
            Written::Removed => blocking::run(move || remove_left(&layers, &directory)).await,
        };
    }
    blocking::run(move || {
        // After a boot there is nothing left but the lease, and the directory may have gone.
        if directory.is_dir() && is_mount_point(&directory)? {
            let flags = UnmountFlags::NOFOLLOW;
            rustix::mount::unmount(&directory, flags).map_err(|error| refused(&directory, error))?;
        }
        if written == Written::Removed {
            let changes = changes_directory(&layers, &directory);
            if changes.exists() {
                remove_tree(&changes)?;
            }
        }
        Ok(())
    })
    .await?;
    forget(leases, &id).await
}

/// Removes what was written to a mount that has ended.
fn remove_left(layers: &LayerStore, directory: &Path) -> Result<()> {
    let (changes, shown) = (changes_directory(layers, directory), directory.display());
    if !changes.try_exists().context(|| format!("cannot look at {}", changes.display()))? {
        return Err(Error::not_found(format!(
            "no image of this store is mounted on {shown}, and no changes are kept of one that was"
        )));
    }
    // It may be what writes there, and its lease was removed by hand.
    if directory.is_dir() && is_mount_point(directory)? {
        return Err(Error::failed_precondition(format!(
            "something that this store does not know is mounted on {shown}: unmount it first"
        )));
    }
    remove_tree(&changes)
}

/// Lets go of the layers of what was mounted before the machine booted, so that they can be collected.
///
/// # Errors
/// Those of the store.
///
/// # Cancellation
/// Some may have been let go of.
pub async fn forget_ended(store: &dyn Store) -> Result<()> {
    let Some(leases) = store.leases() else { return Ok(()) };
    let now = boot()?;
    for lease in leases.list_leases(&FilterSet::all()).await? {
        let is_ended = lease.labels.get(LABEL_BOOT).is_some_and(|boot| *boot != now);
        if lease.id.starts_with(PREFIX) && is_ended {
            forget(leases, &lease.id).await?;
        }
    }
    Ok(())
}

fn leases(store: &dyn Store) -> Result<&dyn LeaseManager> {
    store
        .leases()
        .ok_or_else(|| Error::not_implemented("this store has no leases, which hold what is mounted"))
}

async fn forget(leases: &dyn LeaseManager, id: &str) -> Result<()> {
    match leases.delete_lease(id).await {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn refused(directory: &Path, error: rustix::io::Errno) -> Error {
    let kind = match error {
        rustix::io::Errno::BUSY => ErrorKind::FailedPrecondition,
        rustix::io::Errno::PERM => ErrorKind::PermissionDenied,
        _ => return Error::io(format!("cannot unmount {}", directory.display()), error.into()),
    };
    let why = if kind == ErrorKind::FailedPrecondition {
        "somebody uses what is in it"
    } else {
        "only root can unmount"
    };
    Error::new(kind, format!("cannot unmount {}: {why}", directory.display()))
}

/// The identity of the machine's boot.
fn boot() -> Result<String> {
    let path = "/proc/sys/kernel/random/boot_id";
    fs::read_to_string(path).map(|text| text.trim().to_owned()).context(|| format!("cannot read {path}"))
}

/// The canonical path of a directory; where there is none, the error says what that means for the caller.
fn absolute(directory: &Path, if_absent: &str) -> Result<PathBuf> {
    let shown = directory.display();
    let found = directory.canonicalize().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::not_found(format!("there is no directory {shown}: {if_absent}")),
        io::ErrorKind::NotADirectory => {
            Error::invalid_argument(format!("{shown} is no directory: a part of it is a file"))
        }
        _ => Error::io(format!("cannot find {shown}"), error),
    })?;
    if !found.is_dir() {
        return Err(Error::invalid_argument(format!("{shown} is no directory")));
    }
    Ok(found)
}

/// The canonical path of a directory that is not there any more; `None` where there cannot have been one.
fn gone(directory: &Path) -> Option<PathBuf> {
    let name = directory.file_name()?;
    let parent = directory.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match parent.canonicalize() {
        Ok(parent) => Some(parent.join(name)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Some(gone(parent)?.join(name)),
        Err(_) => None,
    }
}

fn is_mount_point(directory: &Path) -> Result<bool> {
    let found = statx(CWD, directory, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty())
        .map_err(|error| Error::io(format!("cannot look at {}", directory.display()), error.into()))?;
    Ok(found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

fn hash(directory: &Path) -> Digest {
    Digest::sha256(directory.as_os_str().as_bytes())
}

fn lease_id(directory: &Path) -> String {
    format!("{PREFIX}{}", hash(directory).hex())
}

fn changes_directory(layers: &LayerStore, directory: &Path) -> PathBuf {
    layers.beside("mounts").join(hash(directory).hex())
}

/// The place for the changes of a mount, made where it is not there yet.
fn changes(layers: &LayerStore, directory: &Path, chain_id: &Digest, top: &Path) -> Result<Changes> {
    let place = changes_directory(layers, directory);
    let failed = || format!("cannot make a place for changes in {}", place.display());
    DirBuilder::new().mode(0o700).recursive(true).create(&place).context(failed)?;
    let changes = Changes { upper: place.join("upper"), work: place.join("work") };
    let of = place.join("chain-id");
    match fs::read_to_string(&of) {
        Ok(text) if text == chain_id.as_str() => {}
        Ok(_) => {
            return Err(Error::failed_precondition(format!(
                "{} has changes of another image, which was mounted on {}: remove them, or take another directory",
                place.display(),
                directory.display()
            )));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            for path in [&changes.upper, &changes.work] {
                match fs::create_dir(path) {
                    Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                        return Err(error).context(failed);
                    }
                    _ => {}
                }
            }
            // The root of what is seen is this one.
            copy_directory(top, &changes.upper)?;
            fs::write(&of, chain_id.as_str()).context(failed)?;
        }
        Err(error) => return Err(error).context(failed),
    }
    Ok(changes)
}
