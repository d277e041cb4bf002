//! What wharf's tests and demo stand on: images made in code, a registry in this process, a store that
//! pulls from it, and a server that misbehaves.
//!
//! Nothing here is published.

pub mod client;
pub mod fake;
pub mod image;
pub mod registry;
pub mod scripted;

pub use client::Client;
pub use fake::{FakeServer, Reply, Request};
pub use image::{ImageFixture, Layer};
pub use registry::TestRegistry;
pub use scripted::ScriptedRegistry;
