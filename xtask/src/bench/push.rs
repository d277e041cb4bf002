//! `cargo xtask bench push` and `bench copy`: images into docker-registry on loopback, out of a store or from
//! another docker-registry, by wharf and skopeo.
//!
//! Each run goes to a registry that is new, so that everything is sent: skopeo remembers which registry has which blob,
//! and would have it mounted from the run before.

use std::cell::{Cell, RefCell};
use std::fs;
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
    each("push", rounds, only, program, |arena, source, shape| {
        let root = arena.path("store");
        let name = source.image(&shape.reference());
        let mut pull = Tool::new(&arena.wharf).arg("--root").arg(&root).arg("pull").arg(&name);
        pull = pull.env("NO_PROXY", "127.0.0.1");
        pull.success()?;
        Tool::new("sync").success()?;
        let layout = format!("oci:{}:{TAG}", arena.path("layout").display());
        let to = Destination::new(arena);
        let runs = arena.contest(&[
            (
                "wharf",
                Box::new(|_| {
                    let mut command = arena.wharf(&root);
                    command.args(["push", &name, &to.next()?]);
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
    each("copy", rounds, only, program, |arena, source, shape| {
        let from = format!("docker://{}", source.image(&shape.reference()));
        let to = Destination::new(arena);
        let runs = arena.contest(&[
            (
                "wharf",
                Box::new(|place| {
                    let mut command = arena.wharf(&place.join("root"));
                    command.args(["copy", &from, &format!("docker://{}", to.next()?)]);
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

/// Makes each image and a registry that has it.
fn each(
    what: &str,
    rounds: u32,
    only: Option<&str>,
    program: Option<&Path>,
    measure: impl Fn(&Arena, &Registry, &Shape) -> Measured,
) -> Result<()> {
    let shapes = chosen(only)?;
    let arena = Arena::open(rounds, program)?;
    let mut text = String::new();
    for shape in shapes {
        let source = arena.image(&shape)?;
        let runs = measure(&arena, &source, &shape)?;
        text += &report(&format!("{what}: {}", shape.title), &runs, TARGETS);
        drop(source);
        arena.clear()?;
    }
    print!("{text}");
    Ok(())
}

fn by_skopeo<'a>(arena: &'a Arena, from: &'a str, to: &'a Destination<'_>) -> Contender<'a> {
    let run = move |place: &Path| {
        let target = format!("docker://{}", to.next()?);
        let tool = skopeo(place).args(["--src-tls-verify=false", "--dest-tls-verify=false", from, &target]);
        arena.measure(tool.into_command())
    };
    ("skopeo", Box::new(run))
}

/// A registry for each run, which is gone with the next one.
#[derive(Debug)]
struct Destination<'a> {
    arena: &'a Arena,
    registry: RefCell<Option<Registry>>,
    count: Cell<u32>,
}

impl<'a> Destination<'a> {
    fn new(arena: &'a Arena) -> Self {
        Self { arena, registry: RefCell::new(None), count: Cell::new(0) }
    }

    /// Where the next image goes, when the one before has arrived.
    fn next(&self) -> Result<String> {
        self.check()?;
        self.count.set(self.count.get() + 1);
        let registry = self.arena.registry(&self.name())?;
        let image = registry.image(&format!("bench/image:{TAG}"));
        self.registry.replace(Some(registry));
        Ok(image)
    }

    fn name(&self) -> String {
        format!("target-{}", self.count.get())
    }

    /// Fails where an image did not arrive, which would make the fastest of all pushes, and clears it away.
    fn check(&self) -> Result<()> {
        let Some(registry) = self.registry.take() else { return Ok(()) };
        let manifest = http::get_manifest(registry.port(), "bench/image", TAG)?;
        let manifest: Value = serde_json::from_slice(&manifest).context("the image that was sent")?;
        ensure(manifest["layers"].is_array(), || "what was sent has no layers".to_owned())?;
        drop(registry);
        let directory = self.arena.path(&self.name());
        fs::remove_dir_all(&directory).context(directory.display())
    }
}
