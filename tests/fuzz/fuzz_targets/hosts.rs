//! `hosts.toml` and `registries.conf`.
#![no_main]

use wharf_fuzz::{hosts, plant};

libfuzzer_sys::fuzz_target!(init: plant(hosts::check, &hosts::seeds()), |data: &[u8]| {
    hosts::check(data);
});
