//! Container registries as a client and as a server.
#![doc = include_str!("../README.md")]

mod convert;
pub mod copy;
pub mod credentials;
pub mod error;
pub mod fetch;
pub mod lazy;
pub mod pull;
pub mod push;
pub mod repair;
pub mod source;
pub mod stored;
pub mod streamed;
pub mod via;

#[cfg(feature = "http")]
pub mod registry;
#[cfg(feature = "server")]
pub mod server;

pub use copy::{CopyOptions, copy};
pub use error::RemoteError;
pub use fetch::{Fetch, fetch_into};
pub use lazy::LazyProvider;
pub use pull::{PullOptions, pull};
pub use push::{Portion, PushOptions, Pushed, push};
pub use repair::{RepairOptions, Repaired, repair};
pub use source::DistributionSource;
pub use stored::StoreResolver;
pub use streamed::StreamedProvider;
pub use via::Via;

/// For `register_credential_source!`, so that who uses it needs no dependency on wharf-content.
#[doc(hidden)]
pub use wharf_content as __content;
