//! Archives of OCI and Docker images.
#![doc = include_str!("../README.md")]

#[cfg(target_os = "linux")]
pub mod apply;
#[cfg(target_os = "linux")]
pub mod bundle;
#[cfg(target_os = "linux")]
pub mod diff;
pub mod export;
#[cfg(target_os = "linux")]
pub mod files;
pub mod format;
pub mod import;
#[cfg(target_os = "linux")]
pub mod layer_store;
#[cfg(target_os = "linux")]
pub mod mount;
pub mod options;
pub mod transport;
#[cfg(target_os = "linux")]
pub mod unpack;
#[cfg(target_os = "linux")]
pub mod unpacker;

mod bring;
mod compress;
mod compression;
mod contents;
mod copy;
mod decompress;
mod destination;
mod docker;
mod docker_archive;
mod index;
mod intake;
mod layers;
mod layout;
mod naming;
mod oci_archive;
mod parts;
mod plan;
mod referrers;
mod tar;
mod untar;
mod whole;

#[doc(hidden)]
pub use wharf_content as __content;

#[cfg(target_os = "linux")]
pub use apply::{Applied, ApplyOptions, apply};
#[cfg(target_os = "linux")]
pub use diff::{Diff, DiffLayer, Diffed};
pub use export::{export, export_to_file};
pub use format::{ArchiveFormat, ArchiveFormats, Exported, Input, Output, Sniff};
pub use import::{import, import_from_file};
#[cfg(target_os = "linux")]
pub use layer_store::{LayerStore, UnpackedLayer, UnpackedLayers, unpack_layers};
pub use options::{ExportOptions, ImportOptions};
pub use transport::{ArchiveKind, ArchiveResolver, LayoutResolver};
#[cfg(target_os = "linux")]
pub use unpack::{UnpackOptions, Unpacked, unpack};
#[cfg(target_os = "linux")]
pub use unpacker::Unpacker;
