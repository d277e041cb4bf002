//! Archives of OCI and Docker images.
#![doc = include_str!("../README.md")]

pub mod export;
pub mod format;
pub mod options;

mod compression;
mod copy;
mod destination;
mod docker;
mod index;
mod oci_archive;
mod parts;
mod plan;
mod tar;

#[doc(hidden)]
pub use wharf_content as __content;

pub use export::{export, export_to_file};
pub use format::{ArchiveFormat, ArchiveFormats, Exported, Output};
pub use options::ExportOptions;
