//! Content-addressed storage of OCI images: the lowest layer of wharf that touches a disk.
#![doc = include_str!("../README.md")]

pub mod backoff;
pub mod blocking;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod copying;
pub mod descriptor;
pub mod digest;
pub mod error;
pub mod filter;
pub mod follow;
pub mod gc;
pub mod labels;
pub mod lease;
pub mod local;
pub mod memory;
pub mod metadata;
pub mod plugin;
pub mod reading;
pub mod store;
pub mod url;
pub mod verify;

mod builtin;
mod durability;

pub use copying::{copy, open_writer, write_blob};
pub use descriptor::Descriptor;
pub use digest::{Algorithm, Digest, DigestError, Hasher};
pub use error::{Error, ErrorKind, Result, ResultExt};
pub use labels::Labels;
pub use lease::{Lease, LeaseManager, LeaseOptions, LeasedStore, Resource};
pub use local::LocalStore;
pub use memory::MemoryStore;
pub use plugin::Catalogue;
pub use reading::{ByteStream, read_blob, stream_blob};
pub use store::{
    BlobReader, CommitOptions, Exclusive, Info, IngestManager, IngestOptions, Ingester, Manager, Provider,
    Status, Store, Writer,
};
