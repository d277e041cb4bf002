//! An image of Docker's schema 1, as old registries have it: pulled, converted, listed, exported, and unpacked to the
//! same files as the image that it was made of.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::super::fixture::umoci_unpack;
use super::super::layout::{self, Layout, text};
use super::super::{Step, World, busybox, digest, small};
use crate::failure::{Context, Result, ensure, ensure_equal};
use crate::process::Tool;
use crate::registry::http;

pub(super) const STEPS: &[Step] = &[
    ("schema-1-is-converted", converted),
    ("schema-1-of-several-layers", several),
    ("schema-1-by-digest", by_digest),
];

/// What a conversion makes.
const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// The manifest of the registry, which must be of schema 1.
fn old_manifest(world: &World, image: &str) -> Result<Vec<u8>> {
    let bytes = world.skopeo.manifest(&format!("docker://{image}"))?;
    let parsed = layout::parse(&bytes)?;
    ensure_equal("the schema of what the registry has", &parsed["schemaVersion"].as_u64(), &Some(1))?;
    Ok(bytes)
}

/// Pulls and converts it; what is in the store is a manifest of schema 2, by its own digest.
fn pull(world: &World, name: &str, image: &str) -> Result<Value> {
    old_manifest(world, image)?;
    let store = world.store(name)?;
    let digest = store.pull(image, &[])?;
    let record = store.record()?;
    ensure_equal("the name", &record.name.as_str(), &image)?;
    ensure_equal("the digest in the list", &record.digest, &digest)?;
    ensure_equal("the media type", &record.media_type.as_str(), &MANIFEST)?;
    ensure_equal("the platforms", &record.platforms, &vec![busybox::host()?.name.to_owned()])?;
    ensure_equal("names", &store.names()?, &vec![image.to_owned()])?;
    let manifest = layout::parse(&store.layout().blob(&digest)?)?;
    ensure_equal("the schema", &manifest["schemaVersion"].as_u64(), &Some(2))?;
    // Whatever the conversion made and fetched is kept from a collection: all of the image is there.
    store.wharf(&["gc"]).success()?;
    store
        .wharf(&["images", "check", image])
        .success()?
        .text()
        .and_then(|said| ensure(!said.contains("incomplete"), || format!("after a collection: {said}")))?;
    let config = layout::parse(&store.layout().blob(&text(&manifest["config"], "digest")?)?)?;
    let archive = archive(world, name)?;
    store.wharf(&["export", image, "-o"]).arg(&archive).success()?;
    let directory = world.scratch.dir(&format!("steps/{name}/export"))?;
    Tool::new("tar").arg("-xf").arg(&archive).arg("-C").arg(&directory).success()?;
    Layout::new(directory).verify()?;
    Ok(config)
}

/// Every file with its kind, mode and content, as a list that can be compared.
fn files(root: &Path) -> Result<Vec<String>> {
    let script = "find . -mindepth 1 -printf '%P %y %m %l\\n' | LC_ALL=C sort; \
                  find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum";
    let list = Tool::new("sh").args(["-ec", script]).dir(root).text()?;
    ensure(list.lines().count() > 1, || format!("nothing is in {}", root.display()))?;
    Ok(list.lines().map(str::to_owned).collect())
}

/// The files of an image of the registry, by skopeo and umoci alone.
fn twin_files(world: &World, name: &str, image: &str) -> Result<Vec<String>> {
    let twin = Layout::new(world.dir(name)?.join("twin"));
    let target = format!("oci:{}", twin.image("twin"));
    world.skopeo.copy(&format!("docker://{image}"), &target, &[])?;
    files(&umoci_unpack(&twin.image("twin"), &world.dir(name)?.join("twin-bundle"))?)
}

/// What it was converted to, in Docker's side of the archive, by skopeo and umoci alone. umoci and skopeo's layouts know OCI's
/// media types only.
fn converted_files(world: &World, name: &str) -> Result<Vec<String>> {
    let layout = Layout::new(world.dir(name)?.join("converted"));
    let source = format!("docker-archive:{}", archive(world, name)?.display());
    world.skopeo.copy(&source, &format!("oci:{}", layout.image("converted")), &["--format", "oci"])?;
    files(&umoci_unpack(&layout.image("converted"), &world.dir(name)?.join("bundle"))?)
}

/// Where the export is.
fn archive(world: &World, name: &str) -> Result<PathBuf> {
    Ok(world.dir(name)?.join("export.tar"))
}

/// The same config as the twin's where it matters to who runs it, and the same files.
fn converted(world: &World) -> Result<()> {
    let name = "schema-1-converted";
    let config = pull(world, name, &world.fixture.schema1)?;
    let single = &world.fixture.single;
    let twin = layout::parse(&world.skopeo.config(&format!("docker://{single}"))?)?;
    for field in ["architecture", "os"] {
        ensure_equal(field, &config[field], &twin[field])?;
    }
    for field in ["Cmd", "Env"] {
        ensure_equal(field, &config["config"][field], &twin["config"][field])?;
    }
    ensure_equal("the diff ids", &config["rootfs"]["diff_ids"], &twin["rootfs"]["diff_ids"])?;
    let expected = twin_files(world, name, single)?;
    ensure_equal("the files", &converted_files(world, name)?, &expected)?;
    // skopeo takes Docker's side of the archive for the same image.
    let seen = format!("docker-archive:{}", archive(world, name)?.display());
    let seen = layout::parse(&world.skopeo.config(&seen)?)?;
    ensure_equal("the diff ids in the archive", &seen["rootfs"]["diff_ids"], &twin["rootfs"]["diff_ids"])
}

/// Layers of an old image come newest first; what is made of it has them in the right order.
fn several(world: &World) -> Result<()> {
    let name = "schema-1-several";
    let twin = world.registry.image(small::SECOND);
    let image = world.registry.image("library/old:several");
    let urls = [&twin, &image].map(|image| format!("docker://{image}"));
    world.skopeo.copy(&urls[0], &urls[1], &["--format", "v2s1"])?;
    let config = pull(world, name, &image)?;
    let expected = layout::parse(&world.skopeo.config(&urls[0])?)?;
    let layers = config["rootfs"]["diff_ids"].as_array().context("no diff ids")?;
    ensure_equal("the number of layers", &layers.len(), &4)?;
    ensure_equal("the diff ids", &config["rootfs"]["diff_ids"], &expected["rootfs"]["diff_ids"])?;
    ensure_equal("the files", &converted_files(world, name)?, &twin_files(world, name, &twin)?)
}

/// Its digest is that of the signed payload, not of the bytes, which only the registry can say.
fn by_digest(world: &World) -> Result<()> {
    let image = &world.fixture.schema1;
    let old = old_manifest(world, image)?;
    let (repository, _) = image.rsplit_once(':').context("no tag")?;
    let path = format!("/v2/library/old/manifests/{}", canonical(&old)?);
    let found = http::get(world.registry.port(), &path)?;
    ensure_equal("what docker-registry says to that digest", &found.status, &200)?;
    let store = world.store("schema-1-by-digest")?;
    let reference = format!("{repository}@{}", canonical(&old)?);
    let finished = store.wharf(&["pull", &reference]).success()?;
    ensure(finished.text()?.starts_with(repository), || "pull prints another name".to_owned())?;
    ensure_equal("the media type", &store.record()?.media_type.as_str(), &MANIFEST)
}

/// The digest of a signed manifest of schema 1: of its payload, as the first signature's `protected` says where that ends.
fn canonical(signed: &[u8]) -> Result<String> {
    let parsed = layout::parse(signed)?;
    let protected = text(&parsed["signatures"][0], "protected")?;
    let tool = Tool::new("python3").args([
        "-c",
        "import base64,json,sys\n\
         raw=sys.stdin.buffer.read()\n\
         decode=lambda text: base64.urlsafe_b64decode(text+'='*(-len(text)%4))\n\
         head=json.loads(decode(sys.argv[1]))\n\
         sys.stdout.buffer.write(raw[:head['formatLength']]+decode(head['formatTail']))",
        &protected,
    ]);
    digest::of(&tool.input(signed).success()?.stdout)
}
