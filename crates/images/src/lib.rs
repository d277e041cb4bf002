//! OCI and Docker images as graphs of descriptors.
#![doc = include_str!("../README.md")]

pub mod artifact;
pub mod children;
pub mod collect;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod decode;
pub mod diff_id;
pub mod external;
pub mod filters;
pub mod handler;
pub mod image;
pub mod labels;
pub mod layer;
pub mod media_types;
pub mod platforms;
pub mod progress;
pub mod record;
pub mod reference;
pub mod referrers;
pub mod schema1;
pub mod sniff;
pub mod stage;
pub mod transport;
pub mod usage;
pub mod validate;
pub mod verifier;
pub mod verify;
pub mod walk;

mod decoders;
mod json;
mod memory;
pub mod sqlite;

pub use artifact::ArtifactDecoder;
pub use children::{Children, decode, describe};
pub use collect::{collect, collect_with};
pub use decode::{Child, Decoded, Kind, ManifestDecoder, Role};
pub use handler::{Chain, Flow, Handler};
pub use memory::MemoryImages;
pub use platforms::Selection;
pub use record::{Image, ImageStore, image_store};
pub use reference::Reference;
pub use sqlite::SqliteImages;
pub use walk::{Limits, dispatch, walk};

/// The layer below, whole: a plugin's crate that depends on this one alone finds stores, labels and leases here.
pub use wharf_content as content;
pub use wharf_content::{Catalogue, Descriptor, Digest, Error, ErrorKind, Labels, Result, ResultExt, Store};
pub use wharf_platforms::Platform;

/// Makes `async fn`s of traits such as [`Handler`] possible; re-exported for those who implement them.
pub use async_trait::async_trait;
