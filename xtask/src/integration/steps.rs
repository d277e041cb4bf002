//! The steps, in the order in which they run. Each one makes what it needs, so that any can run alone.

mod agreement;
mod copy;
mod credentials;
mod crowd;
mod damage;
mod debian;
mod delete;
mod disks;
mod errors;
mod export;
mod faults;
mod fuzz;
mod hostile_layers;
mod import;
mod interop;
mod kills;
mod layout;
mod listing;
mod mirrors;
mod passwords;
mod plugins;
mod proxies;
mod pull;
mod push;
mod reading;
mod repair;
mod schema1;
mod serve;
mod tls;
mod tokens;
mod transfers;
mod upkeep;
mod verifiers;

use super::{Step, World, mounts};
use crate::failure::{Result, ensure};
use std::fs;

/// All steps.
pub(super) fn all() -> Vec<Step> {
    let mut steps = Vec::new();
    steps.extend_from_slice(pull::STEPS);
    steps.extend_from_slice(push::STEPS);
    steps.extend_from_slice(interop::STEPS);
    steps.extend_from_slice(copy::STEPS);
    steps.extend_from_slice(delete::STEPS);
    steps.extend_from_slice(schema1::STEPS);
    steps.extend_from_slice(verifiers::STEPS);
    steps.extend_from_slice(tls::STEPS);
    steps.extend_from_slice(passwords::STEPS);
    steps.extend_from_slice(credentials::STEPS);
    steps.extend_from_slice(tokens::STEPS);
    steps.extend_from_slice(mirrors::STEPS);
    steps.extend_from_slice(proxies::STEPS);
    steps.extend_from_slice(transfers::STEPS);
    steps.extend_from_slice(reading::STEPS);
    steps.extend_from_slice(listing::STEPS);
    steps.extend_from_slice(layout::STEPS);
    steps.extend_from_slice(export::STEPS);
    steps.extend_from_slice(import::STEPS);
    steps.extend_from_slice(agreement::STEPS);
    steps.extend_from_slice(hostile_layers::STEPS);
    steps.extend(serve::all());
    steps.extend_from_slice(plugins::STEPS);
    steps.extend(debian::all());
    steps.extend_from_slice(errors::STEPS);
    steps.extend_from_slice(faults::STEPS);
    steps.extend_from_slice(disks::STEPS);
    steps.extend_from_slice(upkeep::STEPS);
    steps.extend_from_slice(damage::STEPS);
    steps.extend_from_slice(repair::STEPS);
    steps.extend_from_slice(crowd::STEPS);
    steps.extend_from_slice(kills::STEPS);
    steps.extend_from_slice(fuzz::STEPS);
    steps.push(("nothing-left-behind", nothing_left_behind));
    steps
}

/// The Debian image in docker-registry: its name and its digest.
pub(super) fn debian_image(world: &World) -> Result<(String, String)> {
    Ok((debian::pushed(world)?, debian::digest(world)?))
}

/// No mount below the run's directory, and no process that was started with a path in it but the registry.
fn nothing_left_behind(world: &World) -> Result<()> {
    let directory = world.scratch.path();
    let mounts = mounts::below(directory)?;
    ensure(mounts.is_empty(), || format!("still mounted: {}", mounts.join(" ")))?;
    let left = processes(&directory.to_string_lossy());
    let left: Vec<_> = left.iter().filter(|line| !line.starts_with("docker-registry ")).collect();
    ensure(left.is_empty(), || format!("still running: {left:?}"))
}

/// The command lines of processes that name `text`.
fn processes(text: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let own = std::process::id().to_string();
    let numbered = entries.flatten().filter(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        name != own && name.bytes().all(|byte| byte.is_ascii_digit())
    });
    // A process may end while it is looked at.
    let lines = numbered.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines.filter(|line| line.contains(text)).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::process::{Daemon, Tool};
    use crate::scratch::Scratch;

    #[test]
    fn a_process_that_is_left_is_seen() {
        let scratch = Scratch::new("left").unwrap();
        let text = scratch.path().to_string_lossy().into_owned();
        assert_eq!(processes(&text), [""; 0]);
        let tool = Tool::new("sh").args(["-c", "sleep 30; :", "sh", &text]);
        let mut daemon = Daemon::start("left", tool, scratch.path()).unwrap();
        // Between fork and exec a process has no command line.
        let seen = |_: &Daemon| (!processes(&text).is_empty()).then_some(());
        daemon.ready(Duration::from_secs(5), seen).unwrap();
        drop(daemon);
    }
}
