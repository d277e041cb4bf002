//! Exports: one archive that is an OCI archive and a Docker archive, the same to the byte each time, read by
//! skopeo, umoci and containerd.

use std::fs;
use std::path::{Path, PathBuf};

use super::super::containerd::Containerd;
use super::super::fixture::{Index, umoci_unpack};
use super::super::layout::{self, Layout};
use super::super::store::Store;
use super::super::{Step, World, busybox, digest};
use crate::failure::{Context, Result, ensure, ensure_equal};
use crate::process::Tool;

pub(super) const STEPS: &[Step] = &[
    ("export-oci-archive", oci_archive),
    ("export-docker-archive", docker_archive),
    ("export-all-platforms", all_platforms),
    ("export-one-platform-of-many", one_platform),
    ("export-several-images", several),
    ("export-to-standard-output", standard_output),
    ("export-is-deterministic", deterministic),
    ("export-umoci-unpack", umoci),
    ("export-ctr-import-oci", |world| ctr_host(world, &world.fixture.oci, "ctr-oci")),
    ("export-ctr-import-docker", |world| ctr_host(world, &world.fixture.docker, "ctr-docker")),
    ("export-ctr-import-all-oci", |world| ctr_all(world, &world.fixture.oci, "ctr-all-oci")),
    ("export-ctr-import-all-docker", |world| ctr_all(world, &world.fixture.docker, "ctr-all-docker")),
];

/// Pulls with `pull`, exports with `export`, and gives the archive.
fn export(world: &World, name: &str, image: &str, pull: &[&str], export: &[&str]) -> Result<PathBuf> {
    let store = world.store(name)?;
    store.pull(image, pull)?;
    let file = world.dir(name)?.join("export.tar");
    write(&store, &[image], &file, export)?;
    Ok(file)
}

fn write(store: &Store<'_>, images: &[&str], file: &Path, options: &[&str]) -> Result<()> {
    let arguments = [&["export"], images, options, &["--output"]].concat();
    let said = store.wharf(&arguments).arg(file).text()?;
    ensure_equal("what export prints", &said, &file.display().to_string())
}

/// Takes an archive apart with tar and checks the layout in it.
fn untar(file: &Path) -> Result<Layout> {
    let directory = file.with_extension("untarred");
    fs::create_dir(&directory).context(directory.display())?;
    Tool::new("tar").arg("-xf").arg(file).arg("-C").arg(&directory).success()?;
    let layout = Layout::new(directory);
    layout.verify()?;
    Ok(layout)
}

fn oci_archive(world: &World) -> Result<()> {
    let index = &world.fixture.oci;
    let file = export(world, "export-oci", &index.image, &[], &[])?;
    let image = format!("oci-archive:{}:1.35", file.display());
    ensure_equal("the index as skopeo sees it", &world.skopeo.manifest(&image)?, &index.bytes)?;
    let config = world.skopeo.config(&format!("docker://{}", world.fixture.single))?;
    ensure_equal("the config as skopeo sees it", &world.skopeo.config(&image)?, &config)?;
    untar(&file).map(drop)
}

/// Docker's side of the archive has this host's platform under the image's name.
fn docker_archive(world: &World) -> Result<()> {
    let index = &world.fixture.docker;
    let file = export(world, "export-docker", &index.image, &[], &[])?;
    let image = format!("docker-archive:{}", file.display());
    let config = world.skopeo.config(&format!("docker://{}", world.fixture.single))?;
    ensure_equal("the config as skopeo sees it", &world.skopeo.config(&image)?, &config)?;
    // Copying reads every layer and holds it against the config's diff ids.
    let copy = world.dir("export-docker")?.join("copy");
    world.skopeo.copy(&format!("{image}:{}", index.image), &format!("dir:{}", copy.display()), &[])
}

fn all_platforms(world: &World) -> Result<()> {
    let index = &world.fixture.oci;
    let file = export(world, "export-all", &index.image, &["--all-platforms"], &["--all-platforms"])?;
    let copy = world.dir("export-all")?.join("copy");
    let source = format!("oci-archive:{}:1.35", file.display());
    world.skopeo.copy(&source, &format!("dir:{}", copy.display()), &["--all", "--preserve-digests"])?;
    ensure_equal("the digest of the copy", &digest::of_file(&copy.join("manifest.json"))?, &index.digest)?;
    ensure_equal("the number of blobs", &untar(&file)?.blobs()?.len(), &19)
}

/// One platform of a store that has all six.
fn one_platform(world: &World) -> Result<()> {
    let index = &world.fixture.oci;
    let options = ["--platform", "linux/s390x"];
    let file = export(world, "export-one", &index.image, &["--all-platforms"], &options)?;
    let layout = untar(&file)?;
    let mut architectures = Vec::new();
    for blob in layout.blobs()? {
        // Only the configs are JSON with an architecture at the top.
        if let Ok(value) = layout::parse(&layout.blob(&format!("sha256:{blob}"))?) {
            architectures.extend(value["architecture"].as_str().map(str::to_owned));
        }
    }
    ensure_equal("the architectures in the archive", &architectures, &vec!["s390x".to_owned()])
}

/// Two images that share every layer come in one archive, with each blob once.
fn several(world: &World) -> Result<()> {
    let (index, single) = (&world.fixture.oci, &world.fixture.single);
    let store = world.store("export-several")?;
    store.pull(&index.image, &[])?;
    store.pull(single, &[])?;
    let file = world.dir("export-several")?.join("export.tar");
    write(&store, &[&index.image, single], &file, &[])?;
    let layout = untar(&file)?;
    ensure_equal("the number of images", &layout.names()?.len(), &2)?;
    ensure_equal("the number of blobs", &layout.blobs()?.len(), &4)?;
    let list = Tool::new("tar").arg("-tf").arg(&file).text()?;
    let mut entries: Vec<_> = list.lines().collect();
    let all = entries.len();
    entries.sort_unstable();
    entries.dedup();
    ensure_equal("the number of different entries", &entries.len(), &all)
}

/// `-o -`, and no option at all, write the archive to standard output.
fn standard_output(world: &World) -> Result<()> {
    let image = &world.fixture.single;
    let store = world.store("export-stdout")?;
    store.pull(image, &[])?;
    let file = world.dir("export-stdout")?.join("export.tar");
    write(&store, &[image], &file, &[])?;
    let expected = fs::read(&file).context(file.display())?;
    let written = store.wharf(&["export", image, "-o", "-"]).success()?.stdout;
    ensure(written == expected, || "`-o -` writes something else than `-o FILE`".to_owned())
}

/// Two exports of one store, and one of another store that was filled in another order, are the same to the byte.
fn deterministic(world: &World) -> Result<()> {
    let image = &world.fixture.oci.image;
    let directory = world.dir("deterministic")?;
    let files = ["one.tar", "again.tar", "other.tar"].map(|name| directory.join(name));
    let store = world.store("deterministic")?;
    store.pull(image, &["--all-platforms"])?;
    write(&store, &[image], &files[0], &["--all-platforms"])?;
    write(&store, &[image], &files[1], &["--all-platforms"])?;
    let other = world.store("deterministic-other")?;
    for platform in busybox::PLATFORMS.iter().rev() {
        other.pull(image, &["--platform", platform.name])?;
    }
    write(&other, &[image], &files[2], &["--all-platforms"])?;
    let [one, again, other] = files.map(|file| fs::read(&file).context(file.display()));
    let one = one?;
    ensure(one == again?, || "a second export is another one".to_owned())?;
    ensure(one == other?, || "an export of the same image from another store is another one".to_owned())
}

/// umoci reads images without an index only.
fn umoci(world: &World) -> Result<()> {
    let image = &world.fixture.single;
    let file = export(world, "export-umoci", image, &[], &[])?;
    let tag = image.rsplit(':').next().context("no tag")?;
    let root = umoci_unpack(&untar(&file)?.image(tag), &world.dir("export-umoci")?.join("bundle"))?;
    let link = root.join("bin/sh");
    ensure_equal("/bin/sh", &fs::read_link(&link).context(link.display())?, &PathBuf::from("busybox"))?;
    let output = Tool::new(root.join("bin/busybox")).arg("cat").arg(root.join("etc/platform")).text()?;
    ensure_equal("what the busybox in the image reads", &output.as_str(), &busybox::host()?.name)
}

/// One platform. containerd wants to be told which: by default it asks for all that this host can run, and misses
/// linux/386 in an archive that has linux/amd64 alone.
fn ctr_host(world: &World, index: &Index, name: &str) -> Result<()> {
    ctr(world, index, name, &[], &["--platform", busybox::host()?.name])
}

fn ctr_all(world: &World, index: &Index, name: &str) -> Result<()> {
    ctr(world, index, name, &["--all-platforms"], &["--all-platforms"])
}

/// containerd imports the archive, unpacks it, and has the same digest under the same name.
fn ctr(
    world: &World,
    index: &Index,
    name: &str,
    export_options: &[&str],
    import_options: &[&str],
) -> Result<()> {
    let file = export(world, name, &index.image, export_options, export_options)?;
    let containerd = Containerd::start(&world.dir(name)?)?;
    containerd.import(&file, import_options)?;
    let images = containerd.images()?;
    let found = images.iter().find(|[found, ..]| *found == index.image);
    let [_, _, found] = found.context(format_args!("containerd has no {}: {images:?}", index.image))?;
    ensure_equal("the digest in containerd", found, &index.digest)
}
