//! `wharf copy` between docker-registries: plain to TLS and back, within one by mounts, one platform of several, what
//! refers to the image, and nothing twice. No store is touched.

use serde_json::json;

use super::super::fixture::{OCI_INDEX, OCI_MANIFEST};
use super::super::small::{FIRST, SECOND};
use super::super::store::Store;
use super::super::{Step, World, busybox, digest, layout};
use crate::failure::{Context, Result, ensure, ensure_equal};
use crate::registry::certificates::Authority;
use crate::registry::{Options, Registry, Request, http};

pub(super) const STEPS: &[Step] = &[
    ("copy-to-tls-and-back", tls),
    ("copy-mounts", mounts),
    ("copy-again-costs-nothing", again),
    ("copy-only-what-is-missing", missing),
    ("copy-one-platform", platform),
    ("copy-referrers", referrers),
    ("copy-referrers-by-way-of-the-store", referrers_by_store),
    ("copy-to-and-from-the-store", store),
    ("push-mounts-in-the-log", push_mounts),
];

/// Copies, and gives what is printed: the destination with its digest, nothing else.
fn copy(store: &Store<'_>, source: &str, destination: &str, options: &[&str]) -> Result<String> {
    let said = store.wharf(&[&["copy", source, destination], options].concat()).text()?;
    let digest = said.strip_prefix(destination).and_then(|rest| rest.strip_prefix('@'));
    Ok(digest.context(format_args!("copy to {destination} prints {said:?}"))?.to_owned())
}

/// skopeo reads all of it, and it has this digest.
fn whole(world: &World, name: &str, image: &str, expected: &str) -> Result<()> {
    let copy = world.dir(name)?.join("whole");
    let options = ["--all", "--preserve-digests"];
    world.skopeo.copy(&format!("docker://{image}"), &format!("dir:{}", copy.display()), &options)?;
    ensure_equal(
        "the digest of the copy",
        &digest::of_file(&copy.join("manifest.json"))?,
        &expected.to_owned(),
    )
}

fn count(requests: &[Request], which: impl Fn(&Request) -> bool) -> usize {
    requests.iter().filter(|request| which(request)).count()
}

/// A copy by way of another registry has the same digest. The store that there could be is not made.
fn tls(world: &World) -> Result<()> {
    let index = &world.fixture.oci;
    let authority = Authority::new(&world.dir("copy-tls")?)?;
    let options = Options::default().with_tls(&authority.server(&["127.0.0.1"])?);
    let secured = world.empty_registry("copy-tls", &options)?;
    let back = world.empty_registry("copy-tls/back", &Options::default())?;
    let store = world.store("copy-tls")?;
    // One is spoken to in plain HTTP and the other in TLS, which only a file can say of each.
    let root = world.scratch.dir("steps/copy-tls/certs.d")?;
    let ca = authority.file().display();
    let text = format!("server = \"{}\"\nca = \"{ca}\"\n", secured.url(""));
    super::super::hosts::write(&root, &secured, &text)?;
    let hosts_dir = root.to_str().context("a path that is no text")?;
    let options = ["--hosts-dir", hosts_dir];
    let there = secured.image("team/there:1");
    ensure_equal("the digest there", &copy(&store, &index.image, &there, &options)?, &index.digest)?;
    let here = back.image("team/back:1");
    ensure_equal("the digest back", &copy(&store, &there, &here, &options)?, &index.digest)?;
    ensure(!store.root().join("blobs").exists(), || "a copy between registries fills the store".to_owned())?;
    whole(world, "copy-tls", &here, &index.digest)
}

/// Within one registry blobs are mounted: none is read, none is sent.
fn mounts(world: &World) -> Result<()> {
    let registry = world.twin_registry("copy-mounts", &Options::default())?;
    let image = registry.image("copied/box:1");
    let store = world.store("copy-mounts")?;
    let source = registry.image("library/busybox:docker");
    let (digest, asked) = registry.asked(|| copy(&store, &source, &image, &[]))?;
    ensure_equal("the digest", &digest, &world.fixture.docker.digest)?;
    only_mounts(&asked, 12)?;
    whole(world, "copy-mounts", &image, &digest)
}

/// Fails unless so many blobs were mounted and no byte of any was moved.
fn only_mounts(asked: &[Request], expected: usize) -> Result<()> {
    let shown = || format!("the registry was asked {asked:#?}");
    let mounted = count(asked, |request| request.asks_to_mount() && request.status == 201);
    ensure_equal("blobs that were mounted", &mounted, &expected).context(shown())?;
    let plain = count(asked, |request| request.begins_upload() && request.status != 201);
    ensure_equal("uploads that were begun", &plain, &0).context(shown())?;
    let read = count(asked, Request::takes_blob);
    ensure_equal("blobs that were read", &read, &0).context(shown())
}

/// The same for a push, of what was pulled from another repository of that registry.
fn push_mounts(world: &World) -> Result<()> {
    let registry = world.twin_registry("push-mounts-log", &Options::default())?;
    let store = world.store("push-mounts-log")?;
    let source = registry.image("library/busybox:1.35");
    store.pull(&source, &["--all-platforms"])?;
    let image = registry.image("pushed/box:1");
    let (said, asked) = registry.asked(|| store.wharf(&["push", &source, &image]).text())?;
    ensure_equal("what push prints", &said, &format!("{image}@{}", world.fixture.oci.digest))?;
    only_mounts(&asked, 12)?;
    whole(world, "push-mounts-log", &image, &world.fixture.oci.digest)
}

/// The second copy of the same thing moves no blob and writes nothing.
fn again(world: &World) -> Result<()> {
    let source = world.twin_registry("copy-again", &Options::default())?;
    let target = world.empty_registry("copy-again/target", &Options::default())?;
    let store = world.store("copy-again")?;
    let (from, to) = (source.image("library/busybox:1.35"), target.image("team/box:1"));
    let first = copy(&store, &from, &to, &[])?;
    let work = || copy(&store, &from, &to, &[]);
    let ((second, at_target), at_source) = source.asked(|| target.asked(work))?;
    ensure_equal("the digest", &second, &first)?;
    let written = count(&at_target, Request::writes);
    ensure_equal("what is written", &written, &0)
        .context(format_args!("the target was asked {at_target:#?}"))?;
    let read = count(&at_source, Request::takes_blob);
    ensure_equal("blobs read", &read, &0).context(format_args!("the source was asked {at_source:#?}"))
}

/// Of an image that has most of its layers there already, the rest is moved.
fn missing(world: &World) -> Result<()> {
    let source = world.twin_registry("copy-missing", &Options::default())?;
    let target = world.empty_registry("copy-missing/target", &Options::default())?;
    let store = world.store("copy-missing")?;
    copy(&store, &source.image(FIRST), &target.image("team/small:1"), &[])?;
    let work = || copy(&store, &source.image(SECOND), &target.image("team/small:2"), &[]);
    let ((digest, at_target), at_source) = source.asked(|| target.asked(work))?;
    let moved = count(&at_source, Request::takes_blob);
    ensure_equal("blobs read: config and one layer", &moved, &2)
        .context(format_args!("the source was asked {at_source:#?}"))?;
    let begun = count(&at_target, Request::begins_upload);
    ensure_equal("uploads", &begun, &2).context(format_args!("the target was asked {at_target:#?}"))?;
    whole(world, "copy-missing", &target.image("team/small:2"), &digest)
}

/// One platform goes as its manifest, all of them as the index.
fn platform(world: &World) -> Result<()> {
    let target = world.empty_registry("copy-platform", &Options::default())?;
    let index = &world.fixture.oci;
    let store = world.store("copy-platform")?;
    let one = target.image("team/one:1");
    let copied = copy(&store, &index.image, &one, &["--platform", "linux/s390x"])?;
    let entries = layout::parse(&index.bytes)?;
    let entries = entries["manifests"].as_array().context("no manifests")?;
    let entry = entries.iter().find(|entry| entry["platform"]["architecture"] == "s390x");
    let expected = layout::text(entry.context("no s390x")?, "digest")?;
    ensure_equal("the digest of one platform", &copied, &expected)?;
    let stored = http::get_manifest(target.port(), "team/one", "1")?;
    ensure_equal("what is stored", &digest::of(&stored)?, &expected)?;
    let all = target.image("team/all:1");
    ensure_equal("all", &copy(&store, &index.image, &all, &["--all-platforms"])?, &index.digest)?;
    whole(world, "copy-platform", &all, &index.digest)?;
    let host =
        copy(&store, &index.image, &target.image("team/host:1"), &["--platform", busybox::host()?.name])?;
    ensure(host != index.digest, || "one platform is copied as the whole index".to_owned())?;
    let refused = ["copy", &index.image, &target.image("team/none:1"), "--platform", "linux/riscv64"];
    store.fails(&refused, 2)?.expect_said(&["linux/riscv64", "linux/s390x"]).map(drop)
}

/// A bill of materials travels along where it is asked for, and the copy's list of referrers is kept under the tag that
/// stands in for the request that docker-registry does not know.
fn referrers(world: &World) -> Result<()> {
    let source = world.empty_registry("copy-referrers", &Options::default())?;
    let target = world.empty_registry("copy-referrers/target", &Options::default())?;
    let store = world.store("copy-referrers")?;
    let (from, to) = (source.image("team/box:1"), target.image("team/box:1"));
    world.skopeo.copy(
        &format!("docker://{}", world.fixture.single),
        &format!("docker://{from}"),
        &["--preserve-digests"],
    )?;
    let artifact = attach(&source, "team/box", "1", SBOM)?;
    ensure_equal("at the source", &list(&store, &from)?, &artifact)?;
    copy(&store, &from, &to, &[])?;
    ensure_equal("without being asked for", &list(&store, &to)?.as_str(), &"")?;
    copy(&store, &from, &to, &["--referrers"])?;
    ensure_equal("at the target", &list(&store, &to)?, &artifact)?;
    let bytes = http::get_manifest(target.port(), "team/box", &artifact)?;
    ensure_equal("the artifact", &digest::of(&bytes)?, &artifact)?;
    // Another referrer at the target stays beside what comes.
    let own = attach(&target, "team/box", "1", "application/x-own")?;
    copy(&store, &from, &to, &["--referrers"])?;
    let mut expected = vec![artifact, own];
    expected.sort();
    let found = list(&store, &to)?;
    let mut found: Vec<_> = found.lines().map(str::to_owned).collect();
    found.sort();
    ensure_equal("after another copy", &found, &expected)
}

/// What refers to an image is copied into the store with it, and pushed from there with it.
fn referrers_by_store(world: &World) -> Result<()> {
    let source = world.empty_registry("copy-refer-store", &Options::default())?;
    let target = world.empty_registry("copy-refer-store/target", &Options::default())?;
    let store = world.store("copy-refer-store")?;
    let from = source.image("team/box:1");
    world.skopeo.copy(
        &format!("docker://{}", world.fixture.single),
        &format!("docker://{from}"),
        &["--preserve-digests"],
    )?;
    let artifact = attach(&source, "team/box", "1", SBOM)?;
    let name = "example.com/team/box:1";
    store.wharf(&["copy", "--referrers", &from, &format!("store:{name}")]).success()?;
    store.layout().verify()?;
    let (plain, whole) = (target.image("team/plain:1"), target.image("team/whole:1"));
    store.wharf(&["push", name, &plain]).success()?;
    ensure_equal("without being asked for", &list(&store, &plain)?.as_str(), &"")?;
    store.wharf(&["push", "--referrers", name, &whole]).success()?;
    ensure_equal("at the target", &list(&store, &whole)?, &artifact)?;
    let bytes = http::get_manifest(target.port(), "team/whole", &artifact)?;
    ensure_equal("the artifact", &digest::of(&bytes)?, &artifact)
}

fn list(store: &Store<'_>, image: &str) -> Result<String> {
    store.wharf(&["referrers", "-q", image]).text()
}

/// The type of the artifact that travels.
const SBOM: &str = "application/x-sbom";

/// Puts an artifact into the registry that refers to an image, and adds it to the list under the fallback tag.
fn attach(registry: &Registry, repository: &str, tag: &str, artifact_type: &str) -> Result<String> {
    let subject = http::get_manifest(registry.port(), repository, tag)?;
    let subject_digest = digest::of(&subject)?;
    let config = &layout::parse(&subject)?["config"];
    let artifact = json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": artifact_type,
        "config": config, "layers": [],
        "subject": { "mediaType": OCI_MANIFEST, "digest": subject_digest, "size": subject.len() },
    });
    let artifact = artifact.to_string().into_bytes();
    let artifact_digest = digest::of(&artifact)?;
    registry.put_manifest(repository, &artifact_digest, OCI_MANIFEST, &artifact)?;
    let entry = json!({
        "mediaType": OCI_MANIFEST, "digest": artifact_digest, "size": artifact.len(),
        "artifactType": artifact_type,
    });
    let fallback = subject_digest.replace(':', "-");
    let mut entries = match http::get_index(registry.port(), repository, &fallback)? {
        Some(list) => layout::parse(&list)?["manifests"].as_array().cloned().context("no list")?,
        None => Vec::new(),
    };
    entries.push(entry);
    let list = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries }).to_string();
    registry.put_manifest(repository, &fallback, OCI_INDEX, list.as_bytes())?;
    Ok(artifact_digest)
}

/// From a registry into the store, and from the store to a registry, under the names that are given.
fn store(world: &World) -> Result<()> {
    let index = &world.fixture.docker;
    let target = world.empty_registry("copy-store", &Options::default())?;
    let store = world.store("copy-store")?;
    let name = "store:example.com/team/box:1";
    store.wharf(&["copy", &index.image, name, "--all-platforms"]).success()?;
    store.layout().verify()?;
    ensure_equal("names", &store.names()?, &vec!["example.com/team/box:1".to_owned()])?;
    let image = target.image("team/box:1");
    ensure_equal("the digest", &copy(&store, name, &image, &[])?, &index.digest)?;
    whole(world, "copy-store", &image, &index.digest)
}
