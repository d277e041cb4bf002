//! The program `wharf` as a library.
#![doc = include_str!("../README.md")]

mod args;
mod command;
mod context;
mod credentials;
mod exit;
mod labels;
mod log;
mod memory;
mod node;
mod output;
mod plugin_dirs;
mod progress;
mod prompt;
mod runner;
mod selection;
mod sides;
mod target;
mod verifiers;
mod view;

pub use runner::Runner;
