//! Archives of the image: wharf's, read by skopeo, umoci and containerd, and theirs, read by wharf. Where the format
//! keeps the manifest its digest stays; Docker archives keep the config, and so the diff ids.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::super::super::containerd::Containerd;
use super::super::super::fixture::umoci;
use super::super::super::layout::{self, Layout, text};
use super::super::super::store::Store;
use super::super::super::tree::Tree;
use super::super::super::{Step, World, busybox};
use super::{digest, expected, filled, layout as made, pushed};
use crate::debian;
use crate::failure::{Context, Result, ensure_equal};
use crate::process::Tool;

pub(super) const STEPS: &[Step] = &[
    ("debian-export", export),
    ("debian-export-oci-compressed", export_oci),
    ("debian-export-docker-compressed", export_docker),
    ("debian-import-skopeo-oci-archive", skopeo_oci),
    ("debian-import-skopeo-docker-archive", skopeo_docker),
    ("debian-import-ctr-export", ctr_export),
    ("debian-umoci-layout", umoci_layout),
    ("debian-schema-1", schema1),
];

/// Writes an archive, of the kind that `options` say, and gives where it is.
fn written(world: &World, name: &str, options: &[&str]) -> Result<PathBuf> {
    let file = world.dir(name)?.join("archive.tar");
    let tool = filled(world)?.wharf(&[&["export"], options, &[&pushed(world)?, "--output"]].concat());
    ensure_equal("what export prints", &tool.arg(&file).text()?, &file.display().to_string())?;
    Ok(file)
}

/// The config of the image.
fn config(world: &World) -> Result<Vec<u8>> {
    let layout = made(world)?;
    let manifest = layout::parse(&layout.blob(&digest(world)?)?)?;
    layout.blob(&text(&manifest["config"], "digest")?)
}

fn diff_ids(config: &[u8]) -> Result<Value> {
    Ok(layout::parse(config)?["rootfs"]["diff_ids"].clone())
}

/// containerd imports an archive, unpacks it, and has the image under its digest.
fn ctr_takes(world: &World, name: &str, archive: &Path) -> Result<()> {
    let containerd = Containerd::start(&world.dir(name)?)?;
    containerd.import(archive, &["--platform", busybox::host()?.name])?;
    let (image, images) = (pushed(world)?, containerd.images()?);
    let found = images.iter().find(|[found, ..]| *found == image);
    let [_, _, found] = found.context(format_args!("containerd has no {image}: {images:?}"))?;
    ensure_equal("the digest in containerd", found, &digest(world)?)
}

/// One archive for all of them.
fn export(world: &World) -> Result<()> {
    let (name, digest) = ("debian-export", digest(world)?);
    let file = written(world, name, &[])?;
    let shown = file.display();
    let (as_oci, as_docker) = (format!("oci-archive:{shown}"), format!("docker-archive:{shown}"));
    ensure_equal("the config in it as an OCI archive", &world.skopeo.config(&as_oci)?, &config(world)?)?;
    ensure_equal("the config in it as a Docker archive", &world.skopeo.config(&as_docker)?, &config(world)?)?;
    ctr_takes(world, "debian-export-ctr", &file)?;

    let layout = Layout::new(world.dir(name)?.join("layout"));
    fs::create_dir(&layout.path).context(layout.path.display())?;
    Tool::new("tar").arg("-xf").arg(&file).arg("-C").arg(&layout.path).success()?;
    layout.verify()?;
    let names = layout.names()?;
    let (tag, found) = names.first().context("no image in the archive")?;
    ensure_equal("the digest in the archive", found, &digest)?;
    let said = umoci(&["stat", "--json", "--image", &layout.image(tag)]).text()?;
    let history = layout::parse(said.as_bytes())?;
    let layers = history["history"].as_array().context("umoci tells no history")?;
    let layers = layers.iter().filter(|entry| entry["layer"].is_object()).count();
    ensure_equal("the layers that umoci sees", &layers, &5)
}

/// Without Docker's side, through gzip, which skopeo takes and containerd 1.6 does not.
fn export_oci(world: &World) -> Result<()> {
    let (name, digest) = ("debian-export-oci", digest(world)?);
    let file = written(world, name, &["--type", "oci", "--compress", "gzip"])?;
    Tool::new("gzip").arg("--test").arg(&file).success()?;
    let manifest = world.skopeo.manifest(&format!("oci-archive:{}", file.display()))?;
    ensure_equal("the manifest as skopeo sees it", &manifest, &made(world)?.blob(&digest)?)
}

/// Docker's side alone, through zstd. Copying reads every layer and holds it against the config's diff ids.
fn export_docker(world: &World) -> Result<()> {
    let name = "debian-export-docker";
    let file = written(world, name, &["--type", "docker", "--compress", "zstd"])?;
    let mut magic = [0; 4];
    std::io::Read::read_exact(&mut File::open(&file).context(name)?, &mut magic).context(name)?;
    ensure_equal("how the archive begins", &magic, &[0x28, 0xb5, 0x2f, 0xfd])?;
    let copy = world.dir(name)?.join("copy");
    let source = format!("docker-archive:{}:{}", file.display(), pushed(world)?);
    world.skopeo.copy(&source, &format!("dir:{}", copy.display()), &["--dest-decompress"])?;
    ensure_equal("the config as skopeo sees it", &world.skopeo.config(&source)?, &config(world)?)
}

/// Imports an archive that has one image, by the name that this gives.
fn imported<'a>(world: &'a World, name: &str, file: &Path) -> Result<(Store<'a>, String)> {
    let store = world.store(name)?;
    store.wharf(&["import"]).arg(file).success()?;
    store.layout().verify()?;
    let image = store.record()?.name;
    Ok((store, image))
}

/// What skopeo writes is read in place, copied and imported, and stays the same.
fn skopeo_oci(world: &World) -> Result<()> {
    let (name, digest, image) = ("debian-skopeo-oci", digest(world)?, pushed(world)?);
    let file = world.dir(name)?.join("archive.tar");
    let source = format!("oci-archive:{}:{image}", file.display());
    world.skopeo.copy(&format!("oci:{}", made(world)?.image(debian::TAG)), &source, &[])?;
    let (store, found) = imported(world, name, &file)?;
    ensure_equal("the name", &found, &image)?;
    ensure_equal("the digest", &store.record()?.digest, &digest)?;
    let said = store.wharf(&["inspect", "--format", "json", &source]).success()?.stdout;
    ensure_equal("the digest in place", &text(&layout::parse(&said)?, "digest")?, &digest)?;
    let copy = world.dir(name)?.join("copy.tar");
    store.wharf(&["copy", &source, &format!("oci-archive:{}:copied", copy.display())]).success()?;
    let manifest = world.skopeo.manifest(&format!("oci-archive:{}:copied", copy.display()))?;
    ensure_equal("the manifest in the copy", &manifest, &made(world)?.blob(&digest)?)
}

/// What `docker save` writes too: layers without compression, and no manifest. It unpacks to the same files.
fn skopeo_docker(world: &World) -> Result<()> {
    let (name, image) = ("debian-skopeo-docker", "docker.io/library/debian:saved");
    let file = world.dir(name)?.join("archive.tar");
    let target = format!("docker-archive:{}:{image}", file.display());
    world.skopeo.copy(&format!("oci:{}", made(world)?.image(debian::TAG)), &target, &[])?;
    let (store, found) = imported(world, name, &file)?;
    ensure_equal("the name", &found.as_str(), &image)?;
    let config = store.wharf(&["config", "--local", image]).success()?.stdout;
    ensure_equal("the config", &config, &world.skopeo.config(&target)?)?;
    ensure_equal("the diff ids", &diff_ids(&config)?, &diff_ids(&self::config(world)?)?)?;
    let root = world.dir(name)?.join("rootfs");
    store.wharf(&["unpack", image]).arg(&root).success()?;
    Tree::read(&root)?.ensure_same("what is unpacked of a Docker archive", &expected(world)?)
}

/// containerd pulls from the registry and exports; it is the same image.
fn ctr_export(world: &World) -> Result<()> {
    let (name, image) = ("debian-ctr-export", pushed(world)?);
    let containerd = Containerd::start(&world.dir(name)?)?;
    containerd.fetch(&image).success()?;
    let file = world.dir(name)?.join("archive.tar");
    containerd.export(&image, &file, &["--platform", busybox::host()?.name])?;
    let (store, found) = imported(world, name, &file)?;
    ensure_equal("the name", &found, &image)?;
    ensure_equal("the digest", &store.record()?.digest, &digest(world)?)
}

/// A layout that umoci made, as it stands: inspected, copied into the store, and unpacked from where it is.
fn umoci_layout(world: &World) -> Result<()> {
    let (name, digest) = ("debian-layout", digest(world)?);
    let source = format!("oci:{}", made(world)?.image(debian::TAG));
    let store = world.store(name)?;
    let said = store.wharf(&["inspect", "--format", "json", &source]).success()?.stdout;
    ensure_equal("the digest in place", &text(&layout::parse(&said)?, "digest")?, &digest)?;
    let target = "docker.io/library/debian:copied";
    store.wharf(&["copy", &source, &format!("store:{target}")]).success()?;
    ensure_equal("the digest in the store", &store.record()?.digest, &digest)?;
    let root = world.dir(name)?.join("rootfs");
    store.wharf(&["unpack", &source]).arg(&root).success()?;
    Tree::read(&root)?.ensure_same("what is unpacked in place", &expected(world)?)
}

/// An image of schema 1 made of it by skopeo unpacks to the same files.
fn schema1(world: &World) -> Result<()> {
    let (name, image) = ("debian-schema-1", world.registry.image("library/old:debian"));
    let source = format!("docker://{}", pushed(world)?);
    world.skopeo.copy(&source, &format!("docker://{image}"), &["--format", "v2s1"])?;
    let seen = layout::parse(&world.skopeo.manifest(&format!("docker://{image}"))?)?;
    ensure_equal("the schema of what the registry has", &seen["schemaVersion"].as_u64(), &Some(1))?;
    let store = world.store(name)?;
    store.pull(&image, &[])?;
    let root = world.dir(name)?.join("rootfs");
    store.wharf(&["unpack", &image]).arg(&root).success()?;
    Tree::read(&root)?.ensure_same("what is unpacked of schema 1", &expected(world)?)
}
