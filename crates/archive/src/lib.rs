//! Archives of OCI and Docker images.
#![doc = include_str!("../README.md")]

pub mod export;
pub mod format;
pub mod import;
pub mod options;

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
mod tar;
mod untar;
mod whole;

#[doc(hidden)]
pub use wharf_content as __content;

pub use export::{export, export_to_file};
pub use format::{ArchiveFormat, ArchiveFormats, Exported, Input, Output, Sniff};
pub use import::{import, import_from_file};
pub use options::{ExportOptions, ImportOptions};
