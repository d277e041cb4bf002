//! Picks, from a list of platforms, the one that fits a specifier best.
//!
//! ```text
//! cargo run -p wharf-platforms --example pick_best -- linux/arm64 linux/amd64 linux/arm/v6 linux/arm/v7
//! ```
//!
//! The first argument is what is wanted, the others are what an image offers. It shows the order of preference; it
//! does not read an image.

use std::error::Error;
use std::io::{self, Write as _};

use wharf_platforms::{Matcher, Platform, only, parse, parse_all};

/// The platform that a matcher prefers, if any matches. Of several equal ones it is the first.
fn best<'a>(matcher: &dyn Matcher, offered: &'a [Platform]) -> Option<&'a Platform> {
    offered.iter().filter(|platform| matcher.matches(platform)).min_by(|a, b| matcher.compare(a, b))
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let wanted = parse(&arguments.next().unwrap_or_else(|| "linux/arm64".to_owned()))?;
    let mut offered = parse_all(arguments)?;
    if offered.is_empty() {
        offered = parse_all(["linux/amd64", "linux/arm/v6", "linux/arm/v7", "windows(10.0.20348)/amd64"])?;
    }

    let matcher = only(&wanted);
    let mut out = io::stdout().lock();
    match best(&matcher, &offered) {
        Some(platform) => writeln!(out, "{wanted} runs {platform}")?,
        None => writeln!(out, "{wanted} runs none of them")?,
    }
    offered.sort_by(|a, b| matcher.compare(a, b));
    for platform in &offered {
        writeln!(out, "{} {platform}", if matcher.matches(platform) { "+" } else { "-" })?;
    }
    Ok(())
}
