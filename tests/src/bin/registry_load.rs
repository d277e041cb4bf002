//! The load of [`wharf_tests::load`] as a program, for registries that are programs too.
//!
//! Prints how much was done on the first line, and `REPOSITORY:TAG DIGEST` for each image that is there now. What went wrong is on
//! standard error, with exit code 1.
#![expect(clippy::print_stdout, reason = "what it has done is what it is run for")]

use std::{error::Error, time::Duration};

use wharf_tests::load::{LoadOptions, run};

const USAGE: &str = "usage: registry_load ADDRESS:PORT REPOSITORY:TAG PULLS PUSHES SECONDS";

fn options() -> Result<LoadOptions, Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let [registry, image, pulls, pushes, seconds] = arguments.as_slice() else { return Err(USAGE.into()) };
    let mut options = LoadOptions::new(registry.parse()?, image);
    (options.pulls, options.pushes) = (pulls.parse()?, pushes.parse()?);
    options.time = Duration::from_secs(seconds.parse()?);
    Ok(options)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let report = run(options()?).await?;
    println!("{} pulls of {} MB, {} pushes", report.pulls, report.bytes / 1_000_000, report.pushes);
    for (name, digest) in report.kept {
        println!("{name} {digest}");
    }
    Ok(())
}
