//! What strangers send, and what must hold whatever they send. Each module has the check of one fuzz target, and the seeds from which the
//! fuzzer begins; the targets themselves, in `fuzz_targets`, hand over bytes and nothing else.
//!
//! ```text
//! cargo xtask fuzz --target tar_apply                            with the stable compiler
//! TMPDIR=/dev/shm cargo fuzz run --fuzz-dir tests/fuzz tar_apply  with cargo-fuzz, the nightly compiler and its sanitizers
//! ```
//!
//! No check depends on how long something takes: time and memory are limited by the fuzzer.
#![forbid(unsafe_code)]

pub mod archive_import;
pub mod challenge;
pub mod hosts;
pub mod manifest;
pub mod reference;
mod seed;
pub mod tar_apply;
mod tarball;

pub use seed::{Outcome, Seed, plant};
