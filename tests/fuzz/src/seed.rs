//! Seeds: what the fuzzer begins with. They are made by code, written where the fuzzer looks for them, and tried first: a seed that is no
//! longer taken as it should be would leave the fuzzer before a closed door.

use std::{env, fs, path::Path};

/// The variable that names the directory into which a target puts its seeds before it begins.
const DIRECTORY: &str = "WHARF_FUZZ_SEEDS";

/// What became of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was taken, and what came of it was checked.
    Accepted,
    /// It was refused with an error.
    Refused,
}

impl Outcome {
    /// That of a result.
    pub(crate) fn of<T, E>(result: &Result<T, E>) -> Self {
        if result.is_ok() { Self::Accepted } else { Self::Refused }
    }
}

/// An input that is known beforehand.
#[derive(Clone, Debug)]
pub struct Seed {
    name: String,
    bytes: Vec<u8>,
    outcome: Outcome,
}

impl Seed {
    /// One that must be taken.
    pub(crate) fn accepted(name: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        Self { name: name.into(), bytes: bytes.into(), outcome: Outcome::Accepted }
    }

    /// One that must be refused.
    pub(crate) fn refused(name: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        Self { outcome: Outcome::Refused, ..Self::accepted(name, bytes) }
    }
}

/// Tries every seed, and writes all of them to the directory that `WHARF_FUZZ_SEEDS` names, if it does.
///
/// # Panics
/// Where a seed is not taken as it should be, and where a file cannot be written.
pub fn plant(check: fn(&[u8]) -> Outcome, seeds: &[Seed]) {
    for seed in seeds {
        assert_eq!(check(&seed.bytes), seed.outcome, "the seed {:?}", seed.name);
    }
    if let Some(directory) = env::var_os(DIRECTORY) {
        let directory = Path::new(&directory);
        for seed in seeds {
            fs::write(directory.join(&seed.name), &seed.bytes).expect("the directory of the seeds is there");
        }
    }
}
