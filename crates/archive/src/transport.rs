//! The transports of this crate: `oci:DIR[:TAG]`, `oci-archive:FILE[:TAG]` and `docker-archive:FILE[:REF]`, registered like any other.
//!
//! An image keeps all its digests on the way through any of them: the manifests are kept as the bytes that they are.

mod archive;
mod directory;
mod entries;
mod fetcher;
mod location;
mod oci;
mod opened;
mod packing;
mod pusher;
mod removal;
mod section;

pub use archive::{ArchiveKind, ArchiveResolver};
pub use oci::LayoutResolver;

pub(crate) use directory::Layout;
pub(crate) use entries::plain;
pub(crate) use fetcher::ListedReferrers;
pub(crate) use location::Title;
