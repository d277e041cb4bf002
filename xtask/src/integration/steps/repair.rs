//! `wharf verify --repair` against docker-registry: what is damaged comes back from where it came, byte for byte, so that
//! skopeo reads it again; and where the registry is gone, it is said, and nothing that is whole goes with it.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::super::layout;
use super::super::small::{FIRST, SECOND};
use super::super::store::Store;
use super::super::{Step, World};
use crate::failure::{Context, Result, ensure, ensure_equal};
use crate::process::{Finished, Tool};
use crate::registry::Registry;

pub(super) const STEPS: &[Step] =
    &[("verify-repair", repair), ("verify-repair-unreachable", unreachable), ("verify-repair-lease", leased)];

/// The exit code for content that is not what it should be, and stays so.
const MISMATCH: i32 = 5;

/// How long one call may take, a FIFO in a blob's place or not.
const LIMIT: Duration = Duration::from_secs(60);

/// The parts of an image that no other one of the store has.
#[derive(Debug)]
struct Parts {
    manifest: String,
    config: String,
    layer: String,
}

impl Parts {
    /// Those of a manifest in the store.
    fn of(store: &Store<'_>, manifest: String) -> Result<Self> {
        let parsed = layout::parse(&store.layout().blob(&manifest)?)?;
        let last = parsed["layers"].as_array().and_then(|layers| layers.last());
        let layer = layout::text(last.context("the image has no layers")?, "digest")?;
        Ok(Self { config: layout::text(&parsed["config"], "digest")?, manifest, layer })
    }

    fn all(&self) -> [&str; 3] {
        [&self.manifest, &self.config, &self.layer]
    }

    /// A bit of the layer flips, the config loses its end, and a FIFO takes the manifest's place.
    fn harm(&self, store: &Store<'_>) -> Result<()> {
        flip(&path(store, &self.layer))?;
        let config = path(store, &self.config);
        let file = OpenOptions::new().write(true).open(&config).context(config.display())?;
        let length = file.metadata().context(config.display())?.len();
        file.set_len(length / 2).context(config.display())?;
        let manifest = path(store, &self.manifest);
        fs::remove_file(&manifest).context(manifest.display())?;
        Tool::new("mkfifo").arg(&manifest).success().map(drop)
    }
}

/// The file of a blob.
fn path(store: &Store<'_>, digest: &str) -> PathBuf {
    store.layout().path.join("blobs").join(digest.replacen(':', "/", 1))
}

fn flip(path: &Path) -> Result<()> {
    let mut bytes = fs::read(path).context(path.display())?;
    let middle = bytes.len() / 2;
    *bytes.get_mut(middle).context("an empty blob")? ^= 1;
    fs::write(path, bytes).context(path.display())
}

/// Runs wharf, and fails unless it ends with `code` and says all of `words` on standard output.
fn says<'a>(
    store: &Store<'_>,
    arguments: &[&str],
    code: i32,
    words: impl IntoIterator<Item = &'a str>,
) -> Result<Finished> {
    let finished = store.wharf(arguments).limit(LIMIT).run()?;
    let text = finished.text()?;
    let finished = finished.expect_code(code).context(&text)?;
    for word in words {
        ensure(text.contains(word), || format!("`{}` does not say {word:?}:\n{text}", finished.shown))?;
    }
    Ok(finished)
}

fn repair(world: &World) -> Result<()> {
    let store = world.store("verify-repair")?;
    let (image, other) = (world.registry.image(FIRST), world.registry.image(SECOND));
    let parts = Parts::of(&store, store.pull(&image, &[])?)?;
    store.pull(&other, &[])?;
    let before = store.layout().blobs()?;
    parts.harm(&store)?;

    says(&store, &["verify"], MISMATCH, parts.all().into_iter().chain([image.as_str()]))?;
    let fetched: Vec<String> = parts.all().iter().map(|digest| format!("fetched {digest} from ")).collect();
    says(&store, &["verify", "--repair"], 0, fetched.iter().map(String::as_str))?;

    let quarantined = store.root().join("quarantine");
    let count = fs::read_dir(&quarantined).context(quarantined.display())?.count();
    ensure_equal("what is in quarantine", &count, &3)?;
    ensure_equal("the blobs", &store.layout().blobs()?, &before)?;
    // The bytes by sha256sum, then by wharf, then by skopeo.
    store.layout().verify()?;
    store.verify()?;
    for image in [&image, &other] {
        let copy = world.dir("verify-repair")?.join("copy");
        let source = format!("oci:{}", store.layout().image(image));
        world.skopeo.copy(&source, &format!("dir:{}", copy.display()), &["--preserve-digests"])?;
        let expected = world.skopeo.manifest(&format!("docker://{image}"))?;
        let file = copy.join("manifest.json");
        ensure_equal(
            "the manifest that skopeo copied",
            &fs::read(&file).context(file.display())?,
            &expected,
        )?;
        fs::remove_dir_all(&copy).context(copy.display())?;
    }
    ensure_equal("what a collection removes", &store.gc(&[])?, &Vec::new())
}

/// A registry of the step's own, which is stopped before the damage.
fn unreachable(world: &World) -> Result<()> {
    let store = world.store("verify-repair-unreachable")?;
    let directory = world.dir("verify-repair-unreachable")?;
    let registry = Registry::start(&directory.join("data"), &directory)?;
    let (image, other) = (registry.image(FIRST), registry.image(SECOND));
    for (name, image) in [(FIRST, &image), (SECOND, &other)] {
        let source = format!("docker://{}", world.registry.image(name));
        world.skopeo.copy(&source, &format!("docker://{image}"), &["--preserve-digests"])?;
    }
    let parts = Parts::of(&store, store.pull(&image, &[])?)?;
    store.pull(&other, &[])?;
    let host = format!("127.0.0.1:{}", registry.port());
    drop(registry);

    flip(&path(&store, &parts.layer))?;
    let manifest = path(&store, &parts.manifest);
    flip(&manifest)?;
    let again = ["verify", "--repair", "--retry-times", "0"];
    let failed = format!("failed: cannot fetch {} again", parts.manifest);
    let said = [parts.manifest.as_str(), &parts.layer, &image, &failed, &host];
    says(&store, &again, MISMATCH, said)?.expect_said(&["could not be repaired wholly"])?;
    ensure(!manifest.exists(), || "the damaged manifest is where it was".to_owned())?;

    // The config is whole, and nothing but the manifest's labels keeps it now.
    ensure_equal("what a collection removes", &store.gc(&[])?, &Vec::new())?;
    ensure(path(&store, &parts.config).exists(), || "the config went with the manifest".to_owned())?;
    let archive = directory.join("other.tar");
    store.wharf(&["export", &other, "-o", &archive.to_string_lossy()]).success()?;
    says(&store, &["verify", &other], 0, [])?;
    says(&store, &["verify"], MISMATCH, [image.as_str(), &parts.manifest])?;

    // Once the image is gone, so is what it alone had.
    store.wharf(&["images", "rm", &image]).success()?;
    let removed: Vec<String> = store.gc(&[])?.into_iter().map(|one| one.name).collect();
    ensure_equal("what a collection removes without the image", &removed, &vec![parts.config])?;
    store.verify()?;
    store.only_needed()
}

/// What only a lease keeps is fetched by its digest, though it is larger than a document may be.
fn leased(world: &World) -> Result<()> {
    let store = world.store("verify-repair-lease")?;
    let (image, other) = (world.registry.image(world.fixture.big), world.registry.image(SECOND));
    store.wharf(&["lease", "create", "--id", "kept"]).success()?;
    let parts = Parts::of(&store, store.pull(&image, &["--lease", "kept"])?)?;
    // Its name tells the port, which the label of the source does not.
    store.pull(&other, &[])?;
    store.wharf(&["images", "rm", &image]).success()?;
    for digest in parts.all() {
        flip(&path(&store, digest))?;
    }
    says(&store, &["verify"], MISMATCH, parts.all())?;
    let fetched: Vec<String> = parts.all().iter().map(|digest| format!("fetched {digest} from ")).collect();
    says(&store, &["verify", "--repair"], 0, fetched.iter().map(String::as_str))?;
    store.layout().verify()?;
    store.verify()?;
    ensure_equal("what a collection removes", &store.gc(&[])?, &Vec::new())
}
