//! What a registry answers to who has not logged in.
#![no_main]

use wharf_fuzz::{challenge, plant};

libfuzzer_sys::fuzz_target!(init: plant(challenge::check, &challenge::seeds()), |data: &[u8]| {
    challenge::check(data);
});
