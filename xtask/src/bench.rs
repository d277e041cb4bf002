//! `cargo xtask bench`: wharf beside other programs, and beside itself.
//!
//! The figures are printed beside their targets and judged by whoever reads them: a busy machine is no reason for
//! a task to fail.

mod archive;
mod contest;
mod disk;
mod drain;
mod figures;
mod graph;
mod graph_figures;
mod image;
mod layer;
mod pull;
mod push;
mod serve;
mod store;
mod store_figures;
mod unpack;

pub(crate) use archive::{export, import};
pub(crate) use graph::graph;
pub(crate) use pull::pull;
pub(crate) use push::{copy, push};
pub(crate) use serve::serve;
pub(crate) use store::store;
pub(crate) use unpack::unpack;
