//! What wharf's tests and demo stand on: images made in code, a registry in this process, a store that
//! pulls from it, a server that misbehaves, a proxy with faults, a token server with a guard, and a crowd of clients.
//!
//! Nothing here is published.

pub mod client;
pub mod fake;
pub mod fault_proxy;
pub mod guard;
pub mod image;
pub mod load;
pub mod registry;
pub mod scripted;
pub mod token_server;

pub use client::Client;
pub use fake::{FakeServer, Reply, Request};
pub use fault_proxy::{Fault, FaultProxy};
pub use guard::{Demand, Guard};
pub use image::{ImageFixture, Layer};
pub use registry::TestRegistry;
pub use scripted::ScriptedRegistry;
pub use token_server::{TokenOptions, TokenServer};
