//! The names of images.
#![no_main]

use wharf_fuzz::{plant, reference};

libfuzzer_sys::fuzz_target!(init: plant(reference::check, &reference::seeds()), |data: &[u8]| {
    reference::check(data);
});
