//! Manifests, indexes, configs and the other documents of images.
#![no_main]

use wharf_fuzz::{manifest, plant};

libfuzzer_sys::fuzz_target!(init: plant(manifest::check, &manifest::seeds()), |data: &[u8]| {
    manifest::check(data);
});
