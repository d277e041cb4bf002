//! Bytes that no compressor makes smaller and numbers that look random, the same ones for the same seed. Not for
//! secrets.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use crate::failure::{Context, Result};

/// xorshift64*.
#[derive(Debug)]
pub(crate) struct Noise {
    state: u64,
}

impl Noise {
    /// The numbers that belong to `seed`.
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1 }
    }

    /// The next one.
    pub(crate) fn word(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// One of a list that has some.
    pub(crate) fn one_of<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[usize::try_from(self.word() % list.len() as u64).unwrap_or_default()]
    }

    /// Whether something comes that comes once in so many times.
    pub(crate) fn once_in(&mut self, times: u64) -> bool {
        self.word().is_multiple_of(times)
    }

    /// The next one as a number from 0 to 1.
    pub(crate) fn fraction(&mut self) -> f64 {
        let [.., a, b, c, d] = self.word().to_le_bytes();
        f64::from(u32::from_le_bytes([a, b, c, d])) / f64::from(u32::MAX)
    }
}

/// Writes `length` bytes to a file; another `seed` gives other bytes.
pub(crate) fn write(path: &Path, length: u64, seed: u64) -> Result<()> {
    let file = File::create(path).context(path.display())?;
    let mut file = BufWriter::with_capacity(1 << 20, file);
    let mut noise = Noise::new(seed);
    for _ in 0..length.div_ceil(8) {
        file.write_all(&noise.word().to_le_bytes()).context(path.display())?;
    }
    let file = file.into_inner().map_err(std::io::IntoInnerError::into_error).context(path.display())?;
    file.set_len(length).context(path.display())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn length_and_seed_decide() {
        let scratch = Scratch::new("random").unwrap();
        let file = |name: &str, length, seed| {
            let path = scratch.path().join(name);
            write(&path, length, seed).unwrap();
            fs::read(path).unwrap()
        };
        let first = file("a", 1001, 1);
        assert_eq!(first.len(), 1001);
        assert_eq!(first, file("b", 1001, 1));
        assert_ne!(first, file("c", 1001, 2));
    }

    #[test]
    fn fractions_lie_between_0_and_1_and_on_both_sides_of_the_middle() {
        let mut noise = Noise::new(7);
        let all: Vec<f64> = (0..100).map(|_| noise.fraction()).collect();
        assert!(all.iter().all(|fraction| (0.0..=1.0).contains(fraction)));
        assert!(all.iter().any(|fraction| *fraction < 0.3) && all.iter().any(|fraction| *fraction > 0.7));
    }
}
