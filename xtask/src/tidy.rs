//! `cargo xtask tidy`: the rules of the workspace that neither the compiler nor clippy knows.
//!
//! Each rule is a pure function from data to complaints, tested with a twin that must be refused; this file
//! gathers the data and tells the complaints.

mod fuzz;
mod layers;
mod licences;
mod members;
mod package;
mod sources;
mod tree;

use std::time::Instant;

use crate::cargo::Workspace;
use crate::failure::{Failure, Result};

/// A rule: its name, and what finds the complaints.
type Rule = (&'static str, fn(&Workspace) -> Result<Vec<String>>);

/// All rules, the quick ones first.
const RULES: &[Rule] = &[
    ("lockfile in step and layers kept", layers::rule),
    ("sources", sources::rule),
    ("members", members::rule),
    ("fuzz targets in step", fuzz::rule),
    ("licences", licences::rule),
    ("dependency trees", tree::rule),
    ("packages", package::rule),
];

/// Checks every rule, and fails after the last one if there was any complaint.
pub(crate) fn run() -> Result<()> {
    let workspace = Workspace::find()?;
    let mut complaints = 0;
    for (name, rule) in RULES {
        let started = Instant::now();
        let found = rule(&workspace).unwrap_or_else(|failure| vec![failure.to_string()]);
        let outcome = if found.is_empty() { "ok" } else { "FAILED" };
        println!("{outcome} {name} ({:.1} s)", started.elapsed().as_secs_f64());
        for complaint in &found {
            println!("  {complaint}");
        }
        complaints += found.len();
    }
    match complaints {
        0 => Ok(()),
        _ => Err(Failure::Told),
    }
}
