//! The program `wharf`, with the plugins that it was built with.

use std::process::ExitCode;

fn main() -> ExitCode {
    wharf::Runner::new().run()
}
