//! `cargo xtask bench pull`: images from docker-registry on loopback, by curl (the floor: it verifies nothing and
//! syncs nothing), skopeo and ctr; and many small layers over a long way, at once and one after the other.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::contest::{Arena, Contender, skopeo};
use super::figures::{self, Bound, Sample, Target, report};
use super::image::{HUNDRED, Shape, chosen};
use crate::failure::Result;
use crate::integration::containerd::Containerd;
use crate::registry::Registry;
use crate::registry::proxy::Proxy;

/// What is to be reached with large layers.
const LARGE: &[Target] = &[
    Target { than: "curl", bound: Bound::AtMost(1.15) },
    Target { than: "skopeo", bound: Bound::Below(1.0) },
];

/// What is to be reached with many small ones.
const SMALL: &[Target] =
    &[Target { than: "skopeo", bound: Bound::Below(1.0) }, Target { than: "ctr", bound: Bound::AtMost(0.5) }];

/// What asking for several at once is to be worth where each answer takes its time.
const FAR: &[Target] = &[Target { than: "one by one", bound: Bound::AtMost(0.25) }];

/// How long the way there and back is in that case.
const ROUND_TRIP: Duration = Duration::from_millis(20);

/// How often `wharf version` runs for each round.
const VERSIONS: u32 = 10;

/// Measures, and prints what came out.
pub(crate) fn pull(rounds: u32, only: Option<&str>, program: Option<&Path>) -> Result<()> {
    let shapes = chosen(only)?;
    let arena = Arena::open(rounds, program)?;
    let mut text = String::new();
    for shape in shapes {
        let registry = arena.image(&shape)?;
        let is_small = shape.name == HUNDRED.name;
        let runs = arena.contest(&near(&arena, &registry, &shape)?)?;
        text += &report(&format!("pull: {}", shape.title), &runs, if is_small { SMALL } else { LARGE });
        if is_small {
            let proxy = Proxy::start_far(registry.port(), ROUND_TRIP)?;
            let runs = arena.contest(&far(&arena, &proxy, &shape))?;
            let title = format!("pull: {}, {} ms away", shape.title, ROUND_TRIP.as_millis());
            text += &report(&title, &runs, FAR);
        }
        drop(registry);
        arena.clear()?;
    }
    let versions = (0..rounds * VERSIONS).map(|_| version(&arena)).collect::<Result<Vec<_>>>()?;
    print!("{text}{}", figures::version(&versions));
    Ok(())
}

fn near<'a>(arena: &'a Arena, registry: &'a Registry, shape: &'a Shape) -> Result<Vec<Contender<'a>>> {
    let blobs = shape.blobs(registry)?;
    let image = registry.image(&shape.reference());
    let (source, name) = (format!("docker://{image}"), image.clone());
    Ok(vec![
        (
            "wharf",
            Box::new(move |place| {
                let mut command = arena.wharf(&place.join("root"));
                command.args(["pull", &image]);
                arena.measure(command)
            }),
        ),
        // One curl for all blobs: it keeps its connection, and is the faster for it.
        (
            "curl",
            Box::new(move |place| {
                let mut command = Command::new("curl");
                command.args(["--silent", "--show-error", "--fail"]);
                for (number, blob) in blobs.iter().enumerate() {
                    command.arg("--output").arg(place.join(number.to_string())).arg(registry.url(blob));
                }
                arena.measure(command)
            }),
        ),
        (
            "skopeo",
            Box::new(move |place| {
                let target = format!("oci:{}:copy", place.join("layout").display());
                let tool = skopeo(place).args(["--src-tls-verify=false", &source, &target]);
                arena.measure(tool.into_command())
            }),
        ),
        (
            "ctr",
            Box::new(move |place| {
                // One of its own for each run: what it once had it does not fetch again.
                let containerd = Containerd::start(place)?;
                arena.measure(containerd.fetch(&name).into_command())
            }),
        ),
    ])
}

fn far<'a>(arena: &'a Arena, proxy: &Proxy, shape: &Shape) -> Vec<Contender<'a>> {
    let image = format!("127.0.0.1:{}/{}", proxy.port(), shape.reference());
    let pull = |name, options: &'static [&'static str]| -> Contender<'a> {
        let image = image.clone();
        let run = move |place: &Path| -> Result<Sample> {
            let mut command = arena.wharf(&place.join("root"));
            command.arg("pull").args(options).arg(&image);
            arena.measure(command)
        };
        (name, Box::new(run))
    };
    vec![pull("at once", &[]), pull("one by one", &["--max-concurrent-downloads", "1"])]
}

fn version(arena: &Arena) -> Result<Duration> {
    let mut command = Command::new(&arena.wharf);
    command.arg("version");
    Ok(arena.measure(command)?.time)
}
