//! Bytes that no compressor makes smaller, the same ones in every run. Not for secrets.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use crate::failure::{Context, Result};

/// Writes `length` bytes of xorshift64* to a file; another `seed` gives other bytes.
pub(crate) fn write(path: &Path, length: u64, seed: u64) -> Result<()> {
    let file = File::create(path).context(path.display())?;
    let mut file = BufWriter::with_capacity(1 << 20, file);
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    for _ in 0..length.div_ceil(8) {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        let word = state.wrapping_mul(0x2545_F491_4F6C_DD1D);
        file.write_all(&word.to_le_bytes()).context(path.display())?;
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
}
