//! What an OCI platform is, and which one fits best.
#![doc = include_str!("../README.md")]

mod any;
// Only Linux tells the variant of an ARM processor.
#[cfg(any(target_os = "linux", target_os = "android", test))]
mod arm;
mod error;
mod fit;
mod format;
mod host;
mod known;
mod matcher;
mod normalize;
#[cfg(feature = "oci-spec")]
mod oci;
mod only;
mod ordered;
mod parse;
mod percent;
mod platform;
mod preference;
mod strict;
mod windows;

pub use any::{All, Any, all, any};
pub use error::{Error, ErrorKind};
pub use format::{format, format_all};
pub use host::default_spec;
pub use matcher::Matcher;
pub use normalize::normalize;
pub use only::{Only, default_matcher, only};
pub use ordered::{Ordered, ordered};
pub use parse::{parse, parse_all};
pub use platform::Platform;
pub use strict::{Strict, default_strict, only_strict};
