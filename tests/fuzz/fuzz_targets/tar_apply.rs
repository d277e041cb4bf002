//! Layers, applied to a directory.
#![no_main]

use wharf_fuzz::{plant, tar_apply};

libfuzzer_sys::fuzz_target!(init: plant(tar_apply::check, &tar_apply::seeds()), |data: &[u8]| {
    tar_apply::check(data);
});
