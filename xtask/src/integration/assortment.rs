//! One image of every kind that there is here, in docker-registry: what has to go through a registry unharmed, whoever brings it.

use std::fs;

use serde_json::json;

use super::fixture::{OCI_INDEX, OCI_MANIFEST, REPOSITORY};
use super::{World, digest, small, steps};
use crate::failure::{Context, Result, ensure, ensure_equal};
use crate::registry::http;

/// A program that pushes and pulls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Client {
    /// skopeo, from registry to registry and to a directory.
    Skopeo,
    /// containerd's ctr, with a containerd.
    Ctr,
    /// wharf, with a store.
    Wharf,
}

impl Client {
    /// As it is written in names.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Skopeo => "skopeo",
            Self::Ctr => "ctr",
            Self::Wharf => "wharf",
        }
    }
}

/// Those that know every kind.
const ALL: &[Client] = &[Client::Skopeo, Client::Ctr, Client::Wharf];

/// One image.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    /// What it is, as a part of a repository.
    pub(super) kind: &'static str,
    /// Its name in docker-registry.
    pub(super) image: String,
    /// The digest that it has everywhere.
    pub(super) digest: String,
    /// Who can move it.
    pub(super) clients: &'static [Client],
    /// Whether moving it takes its time.
    pub(super) is_heavy: bool,
}

/// Puts what is not there yet into docker-registry, and gives all of it.
pub(super) fn build(world: &World) -> Result<Vec<Piece>> {
    let fixture = &world.fixture;
    let first = world.registry.image(small::FIRST);
    let mut pieces = vec![
        known("index", &fixture.oci.image, &fixture.oci.digest),
        known("list", &fixture.docker.image, &fixture.docker.digest),
        looked_up(world, "first", &first)?,
        zstd(world, &first)?,
        nested(world)?,
        artifact(world)?,
    ];
    let big = looked_up(world, "big", &world.registry.image(fixture.big))?;
    let (image, digest) = steps::debian_image(world)?;
    for piece in [big, known("debian", &image, &digest)] {
        pieces.push(Piece { is_heavy: true, ..piece });
    }
    Ok(pieces)
}

fn known(kind: &'static str, image: &str, digest: &str) -> Piece {
    let (image, digest) = (image.to_owned(), digest.to_owned());
    Piece { kind, image, digest, clients: ALL, is_heavy: false }
}

fn looked_up(world: &World, kind: &'static str, image: &str) -> Result<Piece> {
    let manifest = world.skopeo.manifest(&format!("docker://{image}"))?;
    Ok(known(kind, image, &digest::of(&manifest)?))
}

/// An image with layers in zstd.
fn zstd(world: &World, source: &str) -> Result<Piece> {
    let image = world.registry.image("library/zstd:1");
    // By way of a layout: where a registry has the layers in gzip already, skopeo takes these.
    let layout = format!("oci:{}:1", world.dir("assortment")?.join("zstd").display());
    let to = format!("docker://{image}");
    world.skopeo.copy(&format!("docker://{source}"), &layout, &["--dest-compress-format", "zstd"])?;
    world.skopeo.copy(&layout, &to, &["--preserve-digests"])?;
    let manifest = world.skopeo.manifest(&to)?;
    let said = String::from_utf8_lossy(&manifest).into_owned();
    ensure(said.contains("+zstd"), || format!("skopeo has made {said}"))?;
    Ok(known("zstd", &image, &digest::of(&manifest)?))
}

/// An index in an index. skopeo copies no such thing.
fn nested(world: &World) -> Result<Piece> {
    let inner = &world.fixture.oci;
    let index = json!({
        "schemaVersion": 2, "mediaType": OCI_INDEX,
        "manifests": [{ "mediaType": OCI_INDEX, "digest": inner.digest, "size": inner.bytes.len() }],
    });
    let bytes = index.to_string().into_bytes();
    world.registry.put_manifest(REPOSITORY, "nested", OCI_INDEX, &bytes)?;
    let image = world.registry.image(&format!("{REPOSITORY}:nested"));
    let piece = known("nested", &image, &digest::of(&bytes)?);
    Ok(Piece { clients: &[Client::Ctr, Client::Wharf], ..piece })
}

/// No image but a file with an empty config.
fn artifact(world: &World) -> Result<Piece> {
    let repository = "library/artifact";
    let file = b"pkg:deb/debian/busybox-static\n";
    let mut described = Vec::new();
    for (bytes, media_type) in [(&b"{}"[..], "application/vnd.oci.empty.v1+json"), (file, "text/plain")] {
        let digest = digest::of(bytes)?;
        let path = world.dir("assortment")?.join("blob");
        fs::write(&path, bytes).context(path.display())?;
        world.registry.adopt(repository, &digest, &path)?;
        described.push(json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() }));
    }
    let manifest = json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": "application/x-sbom",
        "config": described[0], "layers": [described[1]], "annotations": { "org.example.of": "busybox" },
    });
    let bytes = manifest.to_string().into_bytes();
    world.registry.put_manifest(repository, "1", OCI_MANIFEST, &bytes)?;
    let found = http::get_manifest(world.registry.port(), repository, "1")?;
    ensure_equal("the artifact in docker-registry", &found, &bytes)?;
    Ok(known("artifact", &world.registry.image(&format!("{repository}:1")), &digest::of(&bytes)?))
}
