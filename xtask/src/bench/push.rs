//! `cargo xtask bench push` and `bench copy`: images into docker-registry on loopback, out of a store or from
//! another docker-registry, by wharf and skopeo.
//!
//! Each run goes to a repository that did not exist before, so that everything is sent.

use std::cell::Cell;
use std::path::Path;

use serde_json::Value;

use super::contest::{Arena, Contender, skopeo};
use super::figures::{Bound, Runs, Target, report};
use super::image::{Shape, TAG, chosen};
use crate::failure::{Context, Result, ensure};
use crate::process::Tool;
use crate::registry::{Registry, http};

/// What is to be reached.
const TARGETS: &[Target] = &[Target { than: "skopeo", bound: Bound::Below(1.0) }];

/// Measures pushes, and prints what came out.
pub(crate) fn push(rounds: u32, only: Option<&str>, program: Option<&Path>) -> Result<()> {
    each("push", rounds, only, program, |arena, source, target, shape| {
        let root = arena.path("store");
        let name = source.image(&shape.reference());
        let mut pull = Tool::new(&arena.wharf).arg("--root").arg(&root).arg("pull").arg(&name);
        pull = pull.env("NO_PROXY", "127.0.0.1");
        pull.success()?;
        Tool::new("sync").success()?;
        let layout = format!("oci:{}:{TAG}", arena.path("layout").display());
        let to = Destination::new(target);
        let runs = arena.contest(&[
            (
                "wharf",
                Box::new(|_| {
                    let mut command = arena.wharf(&root);
                    command.args(["push", &name, &to.next()]);
                    arena.measure(command)
                }),
            ),
            by_skopeo(arena, &layout, &to),
        ])?;
        to.check()?;
        Ok(runs)
    })
}

/// Measures copies from registry to registry, and prints what came out.
pub(crate) fn copy(rounds: u32, only: Option<&str>, program: Option<&Path>) -> Result<()> {
    each("copy", rounds, only, program, |arena, source, target, shape| {
        let from = format!("docker://{}", source.image(&shape.reference()));
        let to = Destination::new(target);
        let runs = arena.contest(&[
            (
                "wharf",
                Box::new(|place| {
                    let mut command = arena.wharf(&place.join("root"));
                    command.args(["copy", &from, &format!("docker://{}", to.next())]);
                    arena.measure(command)
                }),
            ),
            by_skopeo(arena, &from, &to),
        ])?;
        to.check()?;
        Ok(runs)
    })
}

type Measured = Result<Vec<Runs>>;

/// Makes each image and two registries for it.
fn each(
    what: &str,
    rounds: u32,
    only: Option<&str>,
    program: Option<&Path>,
    measure: impl Fn(&Arena, &Registry, &Registry, &Shape) -> Measured,
) -> Result<()> {
    let shapes = chosen(only)?;
    let arena = Arena::open(rounds, program)?;
    let mut text = String::new();
    for shape in shapes {
        let source = arena.image(&shape)?;
        let target = arena.registry("target")?;
        let runs = measure(&arena, &source, &target, &shape)?;
        text += &report(&format!("{what}: {}", shape.title), &runs, TARGETS);
        drop((source, target));
        arena.clear()?;
    }
    print!("{text}");
    Ok(())
}

fn by_skopeo<'a>(arena: &'a Arena, from: &'a str, to: &'a Destination<'_>) -> Contender<'a> {
    let run = move |place: &Path| {
        let target = format!("docker://{}", to.next());
        let tool = skopeo(place).args(["--src-tls-verify=false", "--dest-tls-verify=false", from, &target]);
        arena.measure(tool.into_command())
    };
    ("skopeo", Box::new(run))
}

/// A registry in which every image goes to a repository of its own.
#[derive(Debug)]
struct Destination<'a> {
    registry: &'a Registry,
    count: Cell<u32>,
}

impl<'a> Destination<'a> {
    fn new(registry: &'a Registry) -> Self {
        Self { registry, count: Cell::new(0) }
    }

    fn next(&self) -> String {
        self.count.set(self.count.get() + 1);
        self.registry.image(&format!("bench/run-{}:{TAG}", self.count.get()))
    }

    /// Fails where an image did not arrive, which would make the fastest of all pushes.
    fn check(&self) -> Result<()> {
        for number in 1..=self.count.get() {
            let repository = format!("bench/run-{number}");
            let manifest = http::get_manifest(self.registry.port(), &repository, TAG)?;
            let manifest: Value = serde_json::from_slice(&manifest).context(&repository)?;
            ensure(manifest["layers"].is_array(), || format!("{repository} has no layers"))?;
        }
        Ok(())
    }
}
