//! Imports: archives that skopeo, umoci, containerd and GNU tar write, and wharf's own, with the digests and configs that others see in them.

use std::fs;
use std::path::{Path, PathBuf};

use super::super::containerd::Containerd;
use super::super::fixture::{new_image, umoci};
use super::super::layout::Layout;
use super::super::store::{Record, Store};
use super::super::{Step, World, busybox, digest};
use crate::failure::{Context, Result, ensure, ensure_equal};
use crate::process::Tool;

pub(super) const STEPS: &[Step] = &[
    ("import-skopeo-oci-archive", skopeo_oci),
    ("import-skopeo-oci-archive-all", skopeo_oci_all),
    ("import-skopeo-docker-archive", skopeo_docker),
    ("import-ctr-export", ctr_export),
    ("import-umoci-layout", umoci_layout),
    ("import-what-wharf-exported", own),
];

/// Imports a file; what is printed is what the records say, nothing is left to collect, and the store verifies.
fn import(store: &Store<'_>, archive: &Path, options: &[&str]) -> Result<Vec<Record>> {
    let printed = store.wharf(&[&["import"], options].concat()).arg(archive).text()?;
    let records = store.records()?;
    let mut expected: Vec<_> = records.iter().map(shown).collect();
    expected.sort();
    let mut lines: Vec<_> = printed.lines().map(str::to_owned).collect();
    lines.sort();
    ensure_equal("what import prints", &lines, &expected)?;
    store.layout().verify()?;
    store.wharf(&["verify"]).success()?;
    Ok(records)
}

fn shown(record: &Record) -> String {
    if record.name.contains('@') { record.name.clone() } else { format!("{}@{}", record.name, record.digest) }
}

fn one(mut records: Vec<Record>) -> Result<Record> {
    ensure(records.len() == 1, || format!("not one image: {records:?}"))?;
    records.pop().context("no image")
}

/// What skopeo writes as an OCI archive has the digest that it has in the registry.
fn skopeo_oci(world: &World) -> Result<()> {
    let single = &world.fixture.single;
    let file = world.dir("import-skopeo-oci")?.join("image.tar");
    let to = format!("oci-archive:{}:{single}", file.display());
    world.skopeo.copy(&format!("docker://{single}"), &to, &[])?;
    let store = world.store("import-skopeo-oci")?;
    let record = one(import(&store, &file, &[])?)?;
    let manifest = world.skopeo.manifest(&format!("docker://{single}"))?;
    ensure_equal("the name", &record.name, single)?;
    ensure_equal("the digest", &record.digest, &digest::of(&manifest)?)?;
    ensure_equal("the platform", &record.platforms, &vec![busybox::host()?.name.to_owned()])?;
    ensure_equal("what is left to collect", &store.wharf(&["gc", "-q"]).text()?.as_str(), &"")
}

/// Six platforms, through gzip and standard input.
fn skopeo_oci_all(world: &World) -> Result<()> {
    let index = &world.fixture.oci;
    let directory = world.dir("import-skopeo-oci-all")?;
    let file = directory.join("image.tar");
    let to = format!("oci-archive:{}:{}", file.display(), index.image);
    world.skopeo.copy(&format!("docker://{}", index.image), &to, &["--all", "--preserve-digests"])?;
    let bytes = Tool::new("gzip").arg("-c").arg(&file).success()?.stdout;
    let store = world.store("import-skopeo-oci-all")?;
    let printed = store.wharf(&["import", "--all-platforms"]).input(&bytes).text()?;
    ensure_equal("what import prints", &printed, &format!("{}@{}", index.image, index.digest))?;
    let mut expected: Vec<_> = busybox::PLATFORMS.iter().map(|platform| platform.name.to_owned()).collect();
    expected.sort();
    ensure_equal("the platforms", &store.record()?.platforms, &expected)?;
    store.layout().verify()
}

/// A Docker archive has no manifest. wharf writes the one that containerd writes for it, around the same config.
fn skopeo_docker(world: &World) -> Result<()> {
    let single = &world.fixture.single;
    let directory = world.dir("import-docker")?;
    let file = directory.join("image.tar");
    let (name, more) = ("docker.io/library/imported:1", "docker.io/library/imported:2");
    let to = format!("docker-archive:{}:{name}", file.display());
    world.skopeo.copy(&format!("docker://{single}"), &to, &["--additional-tag", more])?;
    let store = world.store("import-docker")?;
    let records = import(&store, &file, &[])?;
    let names: Vec<_> = records.iter().map(|record| record.name.as_str()).collect();
    ensure_equal("the names", &names, &vec![name, more])?;
    let config = store.wharf(&["config", "--local", name]).success()?.stdout;
    let seen = world.skopeo.config(&format!("docker-archive:{}:{name}", file.display()))?;
    ensure_equal("the config", &config, &seen)?;
    ensure_equal("the platform", &records[0].platforms, &vec![busybox::host()?.name.to_owned()])?;

    let containerd = Containerd::start(&directory)?;
    containerd.import(&file, &[])?;
    for record in &records {
        let images = containerd.images()?;
        let found = images.iter().find(|[found, ..]| *found == record.name);
        let [_, _, found] = found.context(format_args!("containerd has no {}: {images:?}", record.name))?;
        ensure_equal("the digest in containerd", found, &record.digest)?;
    }
    Ok(())
}

/// containerd's exports, of all platforms and of one, which is not this host's.
fn ctr_export(world: &World) -> Result<()> {
    let index = &world.fixture.oci;
    let directory = world.dir("import-ctr")?;
    let source = world.store("import-ctr-source")?;
    source.pull(&index.image, &["--all-platforms"])?;
    let file = directory.join("wharf.tar");
    source.wharf(&["export", "--all-platforms", &index.image, "-o"]).arg(&file).success()?;
    let containerd = Containerd::start(&directory)?;
    containerd.import(&file, &["--all-platforms"])?;
    for (name, options, platforms) in
        [("all", &["--all-platforms"][..], 6), ("one", &["--platform", "linux/s390x"], 1)]
    {
        let file = directory.join(format!("{name}.tar"));
        containerd.export(&index.image, &file, options)?;
        let store = world.store(&format!("import-ctr-{name}"))?;
        let record = one(import(&store, &file, &[])?)?;
        ensure_equal("the name", &record.name, &index.image)?;
        ensure_equal("the digest", &record.digest, &index.digest)?;
        ensure_equal("the number of platforms", &record.platforms.len(), &platforms)?;
    }
    Ok(())
}

/// A layout that umoci made and GNU tar packed, plain and compressed. Its images have tags and no names.
fn umoci_layout(world: &World) -> Result<()> {
    let directory = world.dir("import-umoci")?;
    let layout = Layout::new(directory.join("layout"));
    umoci(&["init", "--layout"]).arg(&layout.path).success()?;
    for tag in ["1.0", "2.0"] {
        let file = directory.join("file");
        fs::write(&file, tag).context(file.display())?;
        new_image(&layout.image(tag), busybox::host()?.architecture)?;
        umoci(&["insert", "--image", &layout.image(tag)]).arg(&file).arg("/file").success()?;
    }
    let mut expected: Vec<_> =
        layout.names()?.into_iter().map(|(tag, digest)| (format!("q.io/umoci:{tag}"), digest)).collect();
    expected.sort();
    for (name, option) in
        [("plain", "--format=gnu"), ("gzip", "--gzip"), ("zstd", "--zstd"), ("pax", "--format=posix")]
    {
        let file: PathBuf = directory.join(name);
        let tar = Tool::new("tar").arg("-C").arg(&layout.path).arg("-cf").arg(&file);
        tar.args([option, "."]).success()?;
        let store = world.store(&format!("import-umoci-{name}"))?;
        store.fails(&["import", &file.display().to_string()], 3)?.expect_said(&["--base-name"])?;
        let records = import(&store, &file, &["--base-name", "q.io/umoci"])?;
        let found: Vec<_> = records.into_iter().map(|record| (record.name, record.digest)).collect();
        ensure_equal("names and digests", &found, &expected)?;
    }
    Ok(())
}

/// What goes out of one store comes into another, and out of that as the same bytes.
fn own(world: &World) -> Result<()> {
    let images = [&world.fixture.oci.image, &world.fixture.docker.image, &world.fixture.single];
    let source = world.store("import-own-source")?;
    for image in images {
        source.pull(image, &["--all-platforms"])?;
    }
    let directory = world.dir("import-own")?;
    let [file, again] = ["one.tar", "again.tar"].map(|name| directory.join(name));
    let export = |store: &Store<'_>, file: &Path| {
        let tool = store.wharf(&["export", "--all-platforms"]).args(images);
        tool.arg("-o").arg(file).success().map(drop)
    };
    export(&source, &file)?;
    let store = world.store("import-own")?;
    let records = import(&store, &file, &["--all-platforms"])?;
    ensure_equal("the records", &records, &source.records()?)?;
    ensure_equal("what is left to collect", &store.wharf(&["gc", "-q"]).text()?.as_str(), &"")?;
    export(&store, &again)?;
    let [file, again] = [file, again].map(|file| fs::read(&file).context(file.display()));
    ensure(file? == again?, || "the archive of what was imported is another one".to_owned())
}
