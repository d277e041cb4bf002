//! The registry as its clients see it: bytes on a socket.
//!
//! What a URL means is tested beside the router; here it is what happens then, over a store in memory and one on disk.

#![cfg(feature = "server")]
#![allow(missing_docs)]

#[path = "server/access.rs"]
mod access;
#[path = "server/collection.rs"]
mod collection;
#[path = "server/conditions.rs"]
mod conditions;
#[path = "server/conformance.rs"]
mod conformance;
#[path = "server/conformance_data.rs"]
mod conformance_data;
#[path = "server/connections.rs"]
mod connections;
#[path = "server/content.rs"]
mod content;
#[path = "server/deletion.rs"]
mod deletion;
#[path = "server/hostile.rs"]
mod hostile;
#[path = "server/naming.rs"]
mod naming;
#[path = "server/parking.rs"]
mod parking;
#[cfg(feature = "http")]
#[path = "server/proxy.rs"]
mod proxy;
#[cfg(feature = "http")]
#[path = "server/proxy_trouble.rs"]
mod proxy_trouble;
#[path = "server/referrers.rs"]
mod referrers;
#[cfg(feature = "http")]
#[path = "server/script.rs"]
mod script;
#[path = "server/sending.rs"]
mod sending;
#[path = "server/site.rs"]
mod site;
#[path = "server/slow.rs"]
mod slow;
#[path = "server/taking.rs"]
mod taking;
#[path = "server/tls.rs"]
mod tls;
#[path = "server/uploads.rs"]
mod uploads;

/// The digest of nothing that is here.
const ABSENT: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

/// Bytes that look random and are always the same.
fn bytes(len: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..len).map(|_| next()).collect()
}
