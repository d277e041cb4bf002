//! Archives of images, imported into an empty store.
#![no_main]

use wharf_fuzz::{archive_import, plant};

libfuzzer_sys::fuzz_target!(init: plant(archive_import::check, &archive_import::seeds()), |data: &[u8]| {
    archive_import::check(data);
});
