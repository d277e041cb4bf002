//! `cargo xtask bench unpack`: the Debian image pulled and unpacked beside ctr, and unpacked into one directory beside umoci
//! and tar; a layer of zeros, for the memory that it takes; and a layer that hides its directory again and again, which is
//! to cost twice as much where there is twice as much of it.
//!
//! wharf has everything on the disk when it ends, the others do not. Each run has a file system of its own.

use std::path::Path;
use std::process::Command;

use super::contest::{Arena, Contender};
use super::disk;
use super::figures::{Bound, Runs, Target, report};
use super::image::{self, write_layout};
use super::layer;
use crate::cargo::Workspace;
use crate::debian;
use crate::failure::{Result, ensure};
use crate::integration::containerd::Containerd;
use crate::process::Tool;
use crate::programs;

/// What is measured, by its title.
const PULLED: &str = "pull --unpack: the Debian image";
const FLAT: &str = "unpack DIR: the Debian image";
const ZEROS: &str = "unpack DIR: 1 layer of 10 GiB of zeros";
const OPAQUE: &str = "unpack DIR: 40,000 files with 40,000 opaque markers, and half of that";
const TITLES: [&str; 4] = [OPAQUE, FLAT, PULLED, ZEROS];

/// Measures, and prints what came out.
pub(crate) fn unpack(rounds: u32, only: Option<&str>, program: Option<&Path>) -> Result<()> {
    let titles: Vec<_> =
        TITLES.into_iter().filter(|title| only.is_none_or(|only| title.contains(only))).collect();
    ensure(!titles.is_empty(), || {
        format!("there is no such thing to unpack; there are: {}", TITLES.join("; "))
    })?;
    if !disk::is_apart()? {
        return Ok(());
    }
    let arena = Arena::open(rounds, program)?;
    let mut text = String::new();
    for title in titles {
        let (runs, targets) = match title {
            PULLED => (pulled(&arena)?, &[at_most("ctr", 0.4)][..]),
            FLAT => (flat(&arena)?, &[at_most("umoci", 0.25), at_most("tar", 0.5)][..]),
            ZEROS => (zeros(&arena)?, &[][..]),
            _ => (opaque(&arena)?, &[at_most("half", 2.2)][..]),
        };
        text += &report(title, &runs, targets);
    }
    print!("{text}");
    Ok(())
}

const fn at_most(than: &'static str, limit: f64) -> Target {
    Target { than, bound: Bound::AtMost(limit) }
}

fn debian_image() -> Result<std::path::PathBuf> {
    programs::require(debian::PROGRAMS, true)?;
    debian::image(&Workspace::find()?.target)
}

fn pulled(arena: &Arena) -> Result<Vec<Runs>> {
    let reference = format!("bench/{0}:{0}", debian::TAG);
    let registry = arena.publish(&debian_image()?, debian::TAG, &reference)?;
    let (image, name) = (registry.image(&reference), registry.image(&reference));
    arena.contest_of_many_files(&[
        (
            "wharf",
            Box::new(move |place| {
                let mut command = arena.wharf(&place.join("root"));
                command.args(["pull", "--unpack", &image]);
                settle()?;
                arena.measure(command)
            }),
        ),
        (
            "ctr",
            Box::new(move |place| {
                // One of its own for each run: what it once had it does not fetch again.
                let containerd = Containerd::start(place)?;
                settle()?;
                arena.measure(containerd.pull_for_overlay(&name).into_command())
            }),
        ),
    ])
}

fn flat(arena: &Arena) -> Result<Vec<Runs>> {
    let layout = debian_image()?;
    let layers = image::layers(&layout, debian::TAG)?;
    let umoci = format!("{}:{}", layout.display(), debian::TAG);
    arena.contest_of_many_files(&[
        by_wharf("wharf", arena, &layout, debian::TAG),
        (
            "umoci",
            Box::new(move |place| {
                let mut command = Command::new("umoci");
                command.args(["unpack", "--image", &umoci]).arg(place.join("bundle"));
                settle()?;
                arena.measure(command)
            }),
        ),
        (
            "tar",
            Box::new(move |place| {
                // It says 2 where a layer has a file in the place of a directory that is not empty, and goes on.
                let line = "for layer; do tar -xzf \"$layer\" -C \"$0\" || test $? -eq 2; done";
                let mut command = Command::new("sh");
                command.args(["-ec", line]).arg(place).args(&layers);
                settle()?;
                arena.measure(command)
            }),
        ),
    ])
}

/// One run is enough for what it takes of memory.
fn zeros(arena: &Arena) -> Result<Vec<Runs>> {
    let layout = arena.path("zeros");
    image::write_zeros(&layout)?;
    let (name, run) = by_wharf("wharf", arena, &layout, image::TAG);
    let samples = vec![run(&arena.dir("unpacked")?)?];
    Ok(vec![Runs { name, samples }])
}

fn opaque(arena: &Arena) -> Result<Vec<Runs>> {
    let (whole, half) = (arena.path("image-whole"), arena.path("image-half"));
    for (layout, count) in [(&whole, 40_000), (&half, 20_000)] {
        write_layout(layout, 2, |at, file| match at {
            0 => layer::write_empty(file, (0..count).map(|number| format!("d/old-{number}"))),
            _ => layer::write_empty(
                file,
                (0..count).flat_map(|number| [format!("d/new-{number}"), "d/.wh..wh..opq".to_owned()]),
            ),
        })?;
    }
    arena.contest_of_many_files(&[
        by_wharf("all", arena, &whole, image::TAG),
        by_wharf("half", arena, &half, image::TAG),
    ])
}

/// wharf that unpacks an image of a layout into one directory.
fn by_wharf<'a>(name: &'static str, arena: &'a Arena, layout: &Path, tag: &str) -> Contender<'a> {
    let image = format!("oci:{}:{tag}", layout.display());
    let run = move |place: &Path| {
        let mut command = arena.wharf(&place.join("root"));
        command.args(["unpack", &image]).arg(place.join("rootfs"));
        settle()?;
        arena.measure(command)
    };
    (name, Box::new(run))
}

/// What others have still to write must not weigh on whoever comes next.
fn settle() -> Result<()> {
    Tool::new("sync").success().map(drop)
}
