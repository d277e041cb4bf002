//! `wharf` with cookbooks.

use wharf_plugin_cookbook as _; // linking it is enough: it registers itself

fn main() -> std::process::ExitCode {
    wharf::Runner::new().run()
}
