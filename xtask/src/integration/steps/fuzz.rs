//! The fuzz targets, each for a while: what strangers send breaks no parser, no import and no layer. They have seeds of their own and need
//! nothing of the run but its time. The seed is always the same, so that a change is judged by the change: `cargo xtask fuzz` takes another one each time.

use super::super::{Step, World};
use crate::failure::Result;
use crate::fuzz::{self, JOBS, Options};

pub(super) const STEPS: &[Step] = &[("fuzz-targets", fuzz_targets)];

/// Any number will do.
const SEED: u32 = 1_795_287_434;

fn fuzz_targets(world: &World) -> Result<()> {
    let options = Options { targets: Vec::new(), each: world.fuzz, seed: Some(SEED), jobs: JOBS };
    fuzz::run_in(&world.workspace, &options)
}
