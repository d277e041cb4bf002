//! The guide for those who write plugins, as a crate: its Rust snippets are documentation tests, and `tests/` holds its JSON and its
//! shell to the schemas and to the program.
#![doc = include_str!("../../../../docs/plugins.md")]
