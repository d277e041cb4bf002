//! The fuzz targets, each for a while: what strangers send breaks no parser, no import and no layer. They have seeds of their own and need
//! nothing of the run but its time.

use super::super::{Step, World};
use crate::failure::Result;
use crate::fuzz::{self, JOBS, Options};

pub(super) const STEPS: &[Step] = &[("fuzz-targets", fuzz_targets)];

fn fuzz_targets(world: &World) -> Result<()> {
    let options = Options { targets: Vec::new(), each: world.fuzz, seed: None, jobs: JOBS };
    fuzz::run_in(&world.workspace, &options)
}
